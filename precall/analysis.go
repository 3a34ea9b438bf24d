package precall

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Result is what came of a run.
type Result struct {
	Verdict Verdict
	Checks  []Judged
	// Causes are what the measurements support, the likeliest reason why a call would fail first.
	Causes []Finding
	// MediaProven says that media went through the cloud's relay and back. Without it even a pass promises only that the
	// ways are open.
	MediaProven bool
}

// Thresholds are the limits of configs.DefaultThresholds, by the same names.
type Thresholds map[string]float64

// atMost judges a value of which less is better.
func (t Thresholds) atMost(name string, v float64) Verdict {
	switch {
	case v <= t[name+"_pass"]:
		return Pass
	case v <= t[name+"_warn"]:
		return Warn
	}
	return Fail
}

// below is atMost where the limit of a pass itself no longer passes.
func (t Thresholds) below(name string, v float64) Verdict {
	if v == t[name+"_pass"] {
		return Warn
	}
	return t.atMost(name, v)
}

// atLeast judges a value of which more is better.
func (t Thresholds) atLeast(name string, v float64) Verdict {
	switch {
	case v >= t[name+"_pass"]:
		return Pass
	case v >= t[name+"_warn"]:
		return Warn
	}
	return Fail
}

// maxClockSkew is how far two clocks may be apart before credentials and certificates suffer.
const maxClockSkew = 90 * time.Second

// Analyse judges a run: what the page measured and what the gateway saw at the same moment. It is a pure function.
func Analyse(m Measurements, g Gateway, t Thresholds) Result {
	e := newEvidence(m, g, t)
	var found []Finding
	for _, c := range causes() {
		for _, f := range c.find(e) {
			f.ID = c.id
			found = append(found, f)
		}
	}
	// The order of the table decides between equals: what explains more stands further up.
	slices.SortStableFunc(found, func(a, b Finding) int {
		if a.Severity != b.Severity {
			if a.Severity == Fail {
				return -1
			}
			return 1
		}
		return cmp.Compare(b.Confidence, a.Confidence)
	})
	r := Result{Checks: e.checks, Causes: found, MediaProven: e.mediaProven()}
	r.Verdict = e.verdict(found)
	return r
}

// evidence is a run laid out for the table of causes.
type evidence struct {
	m      Measurements
	g      Gateway
	t      Thresholds
	checks []Judged
}

func newEvidence(m Measurements, g Gateway, t Thresholds) *evidence {
	e := &evidence{m: m, g: g, t: t}
	for _, c := range m.Checks {
		e.checks = append(e.checks, e.judge(c))
	}
	e.judgeGateway()
	return e
}

// judge gives one measured check its verdict.
func (e *evidence) judge(c Measured) Judged {
	known, _ := measures(c.ID)
	j := Judged{ID: c.ID, Target: c.Target, Level: known.level, Value: c.Value, Error: c.Error, Detail: c.Detail, MS: int64(c.MS)}
	if c.Value != nil {
		j.Unit = known.unit
	}
	switch c.Result {
	case Failed:
		j.Verdict = Fail
	case Unknown:
		j.Verdict = VerdictUnknown
	case Skipped:
		j.Verdict = VerdictSkipped
	case OK:
		j.Verdict = Pass
		if c.Value != nil {
			j.Verdict = e.judgeValue(c)
		}
	}
	switch {
	case c.ID == "relay:media" && c.Error == "bandwidth" && j.Verdict == Pass:
		j.Error = "" // encoders start small; that a wide line held them down for a moment is nothing to tell
	case c.ID == "camera" && c.Error == "missing":
		j.Verdict = Warn // a call with sound alone is a call
	case c.ID == "call-server:longpoll" && c.Value != nil:
		j.Params = map[string]float64{"seconds": *c.Value, "asked": float64(e.m.Hold)}
	case c.ID == "rtt" && c.Value != nil:
		e.addRegion(&j)
	}
	return j
}

// judgeValue holds a value against its threshold. What has none passes.
func (e *evidence) judgeValue(c Measured) Verdict {
	switch c.ID {
	case "camera", "microphone":
		return e.t.atLeast(c.ID, *c.Value)
	case "loss", "jitter":
		return e.t.below(c.ID, *c.Value)
	case "relay:media":
		// A test picture is small: a low rate says something only when the path held it down.
		if c.Error == "bandwidth" {
			return e.t.atLeast("bandwidth", *c.Value)
		}
	}
	return Pass
}

// addRegion makes a round trip to the gateway one to the nearest cloud relay: that is what a call feels.
func (e *evidence) addRegion(j *Judged) {
	if onward, ok := e.nearest(); ok {
		sum := *j.Value + ms(onward)
		j.Error, j.Params = "onward", map[string]float64{"near": *j.Value, "far": ms(onward)}
		j.Value, j.Level = &sum, LevelPath
	}
	j.Verdict = e.t.atMost("rtt", *j.Value)
}

// nearest is the round trip from the gateway to the nearest region.
func (e *evidence) nearest() (time.Duration, bool) {
	best := time.Duration(math.MaxInt64)
	for _, r := range e.g.Regions {
		if r.Up && r.RTT > 0 {
			best = min(best, r.RTT)
		}
	}
	return best, best != math.MaxInt64
}

// judgeGateway adds the gateway's own half as checks.
func (e *evidence) judgeGateway() {
	for _, r := range e.g.Regions {
		e.add("gateway:regions", r.Service+"/"+r.Name, cmp.Or(r.Level, LevelPath), r.Up, r.RTT, r.Why)
	}
	for _, c := range e.g.CallServers {
		e.add("gateway:call-servers", c.Host, cmp.Or(c.Level, LevelPath), c.Up, c.RTT, c.Why)
	}
	ahead := math.Round(e.g.ClockAhead.Seconds()*10)/10 + 0 // + 0: a clock a little behind is not at -0 s
	clock := Judged{ID: "clock", Level: LevelGateway, Verdict: Pass, Value: &ahead, Unit: "s"}
	if e.clockOff() {
		clock.Verdict = Warn
	}
	e.checks = append(e.checks, clock)
}

func (e *evidence) add(id, target string, level Level, up bool, rtt time.Duration, why string) {
	j := Judged{ID: id, Target: target, Level: level, Verdict: Pass, Detail: why, MS: rtt.Milliseconds()}
	if rtt > 0 {
		v := math.Round(ms(rtt)*10) / 10
		j.Value, j.Unit = &v, "ms"
	}
	if !up {
		j.Verdict = Fail
	}
	e.checks = append(e.checks, j)
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func (e *evidence) clockOff() bool { return e.g.ClockAhead.Abs() > maxClockSkew }

// check is the first check of an id; the zero Judged, whose verdict is unknown to all, if there is none.
func (e *evidence) check(id string) Judged {
	for _, c := range e.checks {
		if c.ID == id {
			return c
		}
	}
	return Judged{ID: id, Verdict: VerdictSkipped}
}

// failed reports whether a check failed, with one of the words if any are given.
func (e *evidence) failed(id string, words ...string) bool {
	c := e.check(id)
	return c.Verdict == Fail && (len(words) == 0 || slices.Contains(words, c.Error))
}

func works(j Judged) bool { return j.Verdict == Pass || j.Verdict == Warn }

// relays are the relay checks of a transport ("udp", "tcp", "tls", "" for all) that came to a result.
func (e *evidence) relays(transport string) (open, shut []Judged) {
	for _, c := range e.checks {
		kind, ok := strings.CutPrefix(c.ID, "relay:")
		if !ok || kind == "media" || transport != "" && kind != transport {
			continue
		}
		switch {
		case works(c):
			open = append(open, c)
		case c.Verdict == Fail:
			shut = append(shut, c)
		}
	}
	return open, shut
}

// signalingDown reports whether neither way to a call server works, of those that were tried.
func (e *evidence) signalingDown() bool {
	return !works(e.check("call-server:websocket")) && !works(e.check("call-server:longpoll")) &&
		(e.failed("call-server:websocket") || e.failed("call-server:longpoll"))
}

// relaysDown reports whether relays were tried and none worked.
func (e *evidence) relaysDown() bool {
	open, shut := e.relays("")
	return len(open) == 0 && len(shut) > 0
}

func (e *evidence) mediaProven() bool {
	media := e.check("relay:media")
	return works(media) && media.Level == LevelMedia
}

// verdict sums the run up: as bad as the worst cause, or as the worst of the checks without which there is no call;
// where several ways lead to the same end one that works is enough, and one that fails is worth a warning.
func (e *evidence) verdict(found []Finding) Verdict {
	worst := Pass
	for _, f := range found {
		worst = worse(worst, f.Severity)
	}
	if e.signalingDown() || e.relaysDown() {
		return Fail
	}
	if open, _ := e.relays(""); len(open) == 0 {
		worst = worse(worst, Warn) // nothing failed, but nothing was proven either
	}
	for _, c := range e.checks {
		switch {
		case c.Verdict == Warn:
			worst = worse(worst, Warn)
		case c.Verdict != Fail:
		case c.ID == "relay:tcp" && e.tlsOpen(): // does the same and works
		case strings.Contains(c.ID, ":"), e.faint(c):
			worst = worse(worst, Warn)
		default:
			worst = Fail
		}
	}
	return worst
}

func (e *evidence) tlsOpen() bool {
	open, _ := e.relays("tls")
	return len(open) > 0
}

// faint reports whether a device works, only worse than its threshold: a quiet room, a slow camera.
func (e *evidence) faint(c Judged) bool {
	return (c.ID == "camera" || c.ID == "microphone") && c.Value != nil && c.Error == ""
}

func worse(a, b Verdict) Verdict {
	if a == Fail || b == Fail {
		return Fail
	}
	if a == Warn || b == Warn {
		return Warn
	}
	return Pass
}

// port is the port of a TURN URL, by its scheme where it names none.
func port(url string) string {
	hostPort, _, _ := strings.Cut(url, "?")
	if i := strings.LastIndexByte(hostPort, ':'); i >= 0 {
		if _, err := strconv.ParseUint(hostPort[i+1:], 10, 16); err == nil {
			return hostPort[i+1:]
		}
	}
	if strings.HasPrefix(url, "turns:") {
		return "5349"
	}
	return "3478"
}

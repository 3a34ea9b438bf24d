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
	e.judgeCallServers()
	e.judgeDirectWays()
	e.judgeBusy()
	e.derive()
	return e
}

// judge gives one measured check its verdict.
func (e *evidence) judge(c Measured) Judged {
	known, _ := measures(c.ID)
	j := Judged{ID: c.ID, Target: c.Target, Level: cmp.Or(c.Level, known.level), Value: c.Value, Error: c.Error, Said: c.Error, Detail: c.Detail, MS: int64(c.MS)}
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
	e.refine(&j, c)
	return j
}

// refine puts right what the value alone does not say.
func (e *evidence) refine(j *Judged, c Measured) {
	switch {
	case c.ID == "relay:media" && c.Error == "bandwidth" && j.Verdict == Pass:
		j.Error = "" // encoders start small; that a wide line held them down for a moment is nothing to tell
	case c.ID == "camera" && c.Error == "missing", c.ID == "microphone" && c.Error == "clipping", c.ID == "echo" && c.Error == "heard":
		j.Verdict = Warn // a call with sound alone is a call
	case strings.HasPrefix(c.ID, "bandwidth-") && c.Value != nil && *c.Value >= enoughKbits:
		j.Error = "enough"
	case c.ID == "call-server:longpoll" && c.Value != nil:
		j.Params = map[string]float64{"seconds": *c.Value, "asked": float64(e.m.Hold)}
	case c.ID == "rtt" && c.Value != nil:
		e.addRegion(j)
	case isWay(c.ID) && e.ofRegion(c.Target):
		j.Level = LevelPath
	case isWay(c.ID):
		j.Level = LevelGateway
	}
}

// isWay reports whether a check is of one transport to one relay.
func isWay(id string) bool { return id == "relay:udp" || id == "relay:tcp" || id == "relay:tls" }

// ofRegion reports whether a TURN URL is of a region of the cloud's, not the gateway's.
func (e *evidence) ofRegion(url string) bool {
	host := hostOf(url)
	for _, r := range e.g.Regions {
		if slices.Contains(r.Hosts, host) {
			return true
		}
	}
	return false
}

// judgeValue holds a value against its threshold. What has none passes.
func (e *evidence) judgeValue(c Measured) Verdict {
	switch c.ID {
	case "camera", "microphone":
		return e.t.atLeast(c.ID, *c.Value)
	case "bandwidth-up", "bandwidth-down":
		return e.t.atLeast("bandwidth", *c.Value)
	case "loss", "jitter":
		return e.t.below(c.ID, *c.Value)
	case "latency-under-load":
		return e.t.below("latency_under_load", *c.Value)
	case "cpu":
		return cpuLimits.atMost("lag", *c.Value)
	case "relay:media":
		// A test picture is small: a low rate says something only when the path held it down.
		if c.Error == "bandwidth" {
			return e.t.atLeast("bandwidth", *c.Value)
		}
	}
	return Pass
}

// enoughKbits is where the page stops loading a line: it carries many calls.
const enoughKbits = 10_000

// cpuLimits: by how many milliseconds a browser may run late, most of the time, before sound and picture suffer. They are about
// computers, not about a house's network, and so are no settings.
var cpuLimits = Thresholds{"lag_pass": 150, "lag_warn": 1000}

// addRegion makes a round trip to the gateway one to the nearest cloud relay: that is what a call feels. Media that went through the
// cloud has been there.
func (e *evidence) addRegion(j *Judged) {
	if onward, ok := e.nearest(); ok {
		near := *j.Value
		if j.Level == LevelMedia {
			near = max(0, near-ms(onward))
		} else {
			j.Level = LevelPath
		}
		sum := near + ms(onward)
		j.Error, j.Params = "onward", map[string]float64{"near": near, "far": ms(onward)}
		j.Value = &sum
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

// relays are the checks of a transport ("udp", "tcp", "tls", "" for all) to the gateway's own relay that came to a result.
func (e *evidence) relays(transport string) (open, shut []Judged) {
	return e.ways(transport, LevelGateway)
}

// directs are the same towards the cloud's relays, past the gateway or through it unread.
func (e *evidence) directs(transport string) (open, shut []Judged) {
	return e.ways(transport, LevelPath)
}

func (e *evidence) ways(transport string, level Level) (open, shut []Judged) {
	for _, c := range e.checks {
		if !isWay(c.ID) || c.Level != level || transport != "" && c.ID != "relay:"+transport {
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

// signalingDown reports whether no way for messages works, to any call server, of those that were tried.
func (e *evidence) signalingDown() bool {
	tried := false
	for _, c := range e.checks {
		if c.ID != "call-server:websocket" && c.ID != "call-server:longpoll" {
			continue
		}
		if works(c) {
			return false
		}
		tried = tried || c.Verdict == Fail
	}
	return tried
}

// relaysDown reports whether relays were tried and none worked.
func (e *evidence) relaysDown() bool {
	open, shut := e.relays("")
	direct, _ := e.directs("")
	return len(open) == 0 && len(shut) > 0 && len(direct) == 0
}

func (e *evidence) mediaProven() bool {
	for _, c := range e.checks {
		if c.ID == "relay:media" && works(c) && c.Level == LevelMedia {
			return true
		}
	}
	return false
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
	open, _ := e.relays("")
	if direct, _ := e.directs(""); len(open)+len(direct) == 0 {
		worst = worse(worst, Warn) // nothing failed, but nothing was proven either
	}
	for _, c := range e.checks {
		worst = worse(worst, e.weight(c))
	}
	return worst
}

// weight is how much one check counts for the whole.
func (e *evidence) weight(c Judged) Verdict {
	switch {
	case c.Verdict == Warn:
		return Warn
	case c.Verdict != Fail:
		return Pass
	case c.ID == "relay:tcp" && e.tlsOpen(): // does the same and works
		return Pass
	case strings.Contains(c.ID, ":"), e.faint(c), slices.Contains(lesser, c.ID):
		return Warn
	}
	return Fail
}

// lesser are checks whose failure spoils a call and does not prevent it.
var lesser = []string{"speaker", "echo", "ipv6", "udp-vs-tcp", "latency-under-load", "cpu", "nat", "proxy", "interception"}

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

// hostOf is the host of a TURN URL.
func hostOf(url string) string {
	_, rest, _ := strings.Cut(url, ":")
	rest, _, _ = strings.Cut(rest, "?")
	if i := strings.LastIndexByte(rest, ':'); i >= 0 && !strings.HasSuffix(rest, "]") {
		rest = rest[:i]
	}
	return strings.ToLower(strings.Trim(rest, "[]"))
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

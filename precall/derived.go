package precall

import (
	"cmp"
	"math"
	"slices"
	"strings"
	"time"
)

// judgeGateway adds the gateway's own half as checks.
func (e *evidence) judgeGateway() {
	for _, r := range e.g.Regions {
		j := e.ofGateway("gateway:regions", r.Service+"/"+r.Name, cmp.Or(r.Level, LevelPath), r.Up, r.RTT, r.Why)
		if len(r.Rungs) > 0 {
			j.Detail = strings.TrimSpace(strings.Join(rungWords(r.Rungs), ", "))
			if r.Why != "" {
				j.Detail += "; " + r.Why
			}
		}
		e.checks = append(e.checks, j)
	}
	for _, c := range e.g.CallServers {
		e.checks = append(e.checks, e.ofGateway("gateway:call-servers", c.Host, cmp.Or(c.Level, LevelPath), c.Up, c.RTT, c.Why))
	}
}

// rungWords are a region's rungs, each with its sign and round trip.
func rungWords(rungs []Rung) (words []string) {
	for _, r := range rungs {
		words = append(words, strings.TrimSpace(r.Name+" "+up(r.Up)+" "+millis(r.RTT)))
	}
	return words
}

func (e *evidence) ofGateway(id, target string, level Level, up bool, rtt time.Duration, why string) Judged {
	j := Judged{ID: id, Target: target, Level: level, Verdict: Pass, Detail: why, MS: rtt.Milliseconds()}
	if rtt > 0 {
		v := math.Round(ms(rtt)*10) / 10
		j.Value, j.Unit = &v, "ms"
	}
	if !up {
		j.Verdict = Fail
	}
	return j
}

// judgeCallServers reads what the browser could not see for itself in the light of what the gateway saw: a service without CORS
// hides its answers, and a refused WebSocket looks like a blocked one.
func (e *evidence) judgeCallServers() {
	for i := range e.checks {
		c := &e.checks[i]
		server, known := e.server(c.Target)
		if !known {
			continue
		}
		passed := e.came(c.Target)
		switch {
		case c.ID == "call-server:https" && works(*c) && !server.Up && passed:
			c.Verdict, c.Error = Fail, "network" // what answered was the gateway, in its stead
		case c.ID == "call-server:https" && c.Verdict == Fail && server.Up && passed:
			c.Verdict, c.Error = VerdictUnknown, "through-gateway"
		case c.ID == "call-server:websocket" && c.Error == "not-opened" && !server.Opens:
			c.Verdict, c.Error = VerdictUnknown, "only-the-gateway-knows"
		}
	}
}

func (e *evidence) server(host string) (CallServer, bool) {
	i := slices.IndexFunc(e.g.CallServers, func(c CallServer) bool { return c.Host == host })
	if i < 0 {
		return CallServer{}, false
	}
	return e.g.CallServers[i], true
}

// came reports whether the browser's requests for a host passed through the gateway.
func (e *evidence) came(host string) bool {
	switch e.g.Seen.Ways[host] {
	case WayRouted, WayPassthrough, WayConnect:
		return true
	}
	return false
}

// judgeDirectWays: where the gateway is the way, a closed one past it is how the house wants it, and no fault.
func (e *evidence) judgeDirectWays() {
	open, _ := e.relays("")
	if len(open) == 0 {
		return
	}
	for i := range e.checks {
		if c := &e.checks[i]; isWay(c.ID) && c.Level == LevelPath && c.Verdict == Fail {
			c.Verdict, c.Error = VerdictUnknown, "not-needed"
		}
	}
}

// ofLine are the checks that say how good a line is.
var ofLine = []string{"rtt", "jitter", "loss", "bandwidth-up", "bandwidth-down", "latency-under-load", "relay:media"}

// judgeBusy takes back what was said against the line where the computer was too busy to measure it: what its own lateness explains is no
// fault of the network. What is good all the same stays good.
func (e *evidence) judgeBusy() {
	if !e.starved() {
		return
	}
	late := *e.check("cpu").Value
	for i := range e.checks {
		c := &e.checks[i]
		if !slices.Contains(ofLine, c.ID) || !bad(*c) || c.ID == "relay:media" && c.Error != "bandwidth" || e.badAnyway(*c, late) {
			continue
		}
		c.Verdict, c.Error, c.Params = VerdictUnknown, "busy", nil
	}
}

// badAnyway reports whether a time would be too long, or a loss too high, even if the page was late by so many milliseconds.
func (e *evidence) badAnyway(c Judged, late float64) bool {
	switch c.ID {
	case "rtt":
		return e.t.atMost("rtt", max(*c.Value-late, c.Params["far"])) != Pass
	case "jitter":
		return e.t.below("jitter", *c.Value-late) != Pass
	case "latency-under-load":
		return e.t.below("latency_under_load", *c.Value-late) != Pass
	case "loss":
		return c.Verdict == Fail
	}
	return false
}

// derive adds the checks that follow from both halves together.
func (e *evidence) derive() {
	ahead := math.Round(e.g.ClockAhead.Seconds()*10)/10 + 0 // + 0: a clock a little behind is not at -0 s
	clock := Judged{ID: "clock", Level: LevelGateway, Verdict: Pass, Value: &ahead, Unit: "s"}
	if e.clockOff() {
		clock.Verdict = Warn
	}
	e.checks = append(e.checks, clock)
	e.deriveMOS()
	e.deriveWays()
	e.deriveInterception()
	e.deriveMapping()
}

// deriveMOS rates the sound of a call on this line.
func (e *evidence) deriveMOS() {
	rtt, jitter, loss := e.check("rtt"), e.check("jitter"), e.check("loss")
	if rtt.Value == nil || loss.Value == nil {
		return
	}
	if slices.ContainsFunc([]Judged{rtt, jitter, loss}, func(c Judged) bool { return c.Error == "busy" }) {
		e.checks = append(e.checks, Judged{ID: "mos", Level: rtt.Level, Verdict: VerdictUnknown, Error: "busy"})
		return
	}
	held := 0.0
	if jitter.Value != nil {
		held = *jitter.Value
	}
	mos := math.Round(meanOpinion(*rtt.Value, held, *loss.Value)*100) / 100
	e.checks = append(e.checks, Judged{ID: "mos", Level: rtt.Level, Verdict: e.t.atLeast("mos", mos), Value: &mos})
}

// deriveWays tells by which way the browser came for each call server, and for this page where it tried a proxy first.
func (e *evidence) deriveWays() {
	if way, seen := e.g.Seen.Ways[e.g.Name]; seen && way == WayRefused {
		e.checks = append(e.checks, Judged{ID: "proxy", Target: e.g.Name, Level: LevelGateway, Verdict: Warn, Error: "way-refused"})
	}
	for _, c := range e.g.CallServers {
		reached := e.checkOf("call-server:https", c.Host)
		way, seen := e.g.Seen.Ways[c.Host]
		j := Judged{ID: "proxy", Target: c.Host, Level: LevelGateway, Verdict: Pass, Error: "way-direct"}
		switch {
		case seen:
			j.Error = "way-" + string(way)
			if way == WayAsked || way == WayRefused {
				j.Verdict = Fail
			}
		case works(reached):
		case reached.Verdict == Fail:
			j.Verdict = VerdictUnknown
		default:
			continue // nobody asked
		}
		e.checks = append(e.checks, j)
	}
}

func (e *evidence) deriveInterception() {
	j := Judged{ID: "interception", Level: LevelGateway, Verdict: Pass}
	switch {
	case e.intercepted() != "":
		j.Verdict, j.Error, j.Detail = Warn, "intercepted", e.intercepted()
	case !e.g.Seen.TLS.Judged:
		j.Verdict, j.Error = VerdictUnknown, "unjudged"
	}
	e.checks = append(e.checks, j)
}

// intercepted is by what something that opens TLS gave itself away; "" when nothing did.
func (e *evidence) intercepted() string {
	var signs []string
	if e.g.Seen.TLS.Intercepted {
		signs = append(signs, "ClientHello: "+e.g.Seen.TLS.Missing)
	}
	if len(e.g.Seen.Headers) > 0 {
		signs = append(signs, strings.Join(e.g.Seen.Headers, ", "))
	}
	return strings.Join(signs, "; ")
}

func (e *evidence) deriveMapping() {
	j := Judged{ID: "nat", Level: LevelGateway, Verdict: Pass, Error: "same-address"}
	switch e.g.Seen.Mapped {
	case MappedSame:
	case MappedDifferent:
		j.Verdict, j.Error = Warn, "different-addresses"
	default:
		j.Verdict, j.Error = VerdictUnknown, "unmeasured"
	}
	e.checks = append(e.checks, j)
}

// checkOf is the check of an id and a target; a skipped one if there is none.
func (e *evidence) checkOf(id, target string) Judged {
	for _, c := range e.checks {
		if c.ID == id && c.Target == target {
			return c
		}
	}
	return Judged{ID: id, Target: target, Verdict: VerdictSkipped}
}

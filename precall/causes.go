package precall

import (
	"slices"
	"strings"
)

// cause is one row of the table: what can be wrong, and when the measurements say that it is. find gives no finding when
// they don't, and several when the same is wrong at several places.
type cause struct {
	id   string
	find func(*evidence) []Finding
}

// causes is the table. Further up stands what explains more: the gateway's own state, then the browser, then the network.
func causes() []cause {
	return []cause{
		{"gateway-draining", gatewayDraining},
		{"gateway-full", gatewayFull},
		{"gateway-to-cloud-down", cloudDown},
		{"relay-region-down", regionDown},
		{"call-server-unreachable", callServerUnreachable},
		{"insecure-context", func(e *evidence) []Finding {
			return when(e.failed("secure-context"), Fail, 1)
		}},
		{"browser-unsupported", func(e *evidence) []Finding {
			return when(e.failed("browser") && !e.failed("secure-context"), Fail, 1)
		}},
		{"microphone-denied", device("microphone", Fail, "denied", "dismissed")},
		{"microphone-missing", device("microphone", Fail, "missing")},
		{"microphone-in-use", device("microphone", Fail, "in-use")},
		{"microphone-silent", microphoneSilent},
		{"camera-denied", device("camera", Fail, "denied", "dismissed")},
		{"camera-missing", device("camera", Warn, "missing")},
		{"camera-in-use", device("camera", Fail, "in-use")},
		{"turn-tls-blocked", turnTLSBlocked},
		{"only-443", only443},
		{"udp-blocked", udpBlocked},
		{"relay-credentials-rejected", credentialsRejected},
		{"websocket-blocked", webSocketBlocked},
		{"longpoll-cut", longPollCut},
		{"loss-high", high("loss")},
		{"bandwidth-low", bandwidthLow},
		{"latency-high", high("rtt")},
		{"jitter-high", high("jitter")},
		{"clock-skew", clockSkew},
	}
}

// when is one finding, or none.
func when(so bool, severity Verdict, confidence float64, params ...any) []Finding {
	if !so {
		return nil
	}
	f := Finding{Severity: severity, Confidence: confidence, Params: map[string]any{}}
	for i := 0; i+1 < len(params); i += 2 {
		f.Params[params[i].(string)] = params[i+1]
	}
	return []Finding{f}
}

// device is for what getUserMedia says in a word of its own. In an insecure context, or a browser that can't, it says
// nothing about the device.
func device(id string, severity Verdict, words ...string) func(*evidence) []Finding {
	return func(e *evidence) []Finding {
		c := e.check(id)
		bad := c.Verdict == Fail || c.Verdict == Warn
		return when(bad && slices.Contains(words, c.Error) && !e.failed("secure-context") && !e.failed("browser"), severity, 0.95)
	}
}

// microphoneSilent: digital silence is a muted or dead microphone, but a faint one may be a quiet room.
func microphoneSilent(e *evidence) []Finding {
	c := e.check("microphone")
	if c.Value == nil || c.Verdict != Fail {
		return nil
	}
	if *c.Value <= -90 {
		return when(true, Fail, 0.9, "level", *c.Value)
	}
	return when(true, Warn, 0.5, "level", *c.Value)
}

// gatewayDraining and gatewayFull explain why relaying fails, and are worth a warning when it does not yet.
func gatewayDraining(e *evidence) []Finding {
	return when(e.g.Load.Draining, severityOf(e.relaysDown()), 0.95)
}

func gatewayFull(e *evidence) []Finding {
	quota := false
	_, shut := e.relays("")
	for _, c := range shut {
		quota = quota || c.Error == "quota"
	}
	return when(e.g.Load.Full || quota, severityOf(e.relaysDown()), 0.9)
}

func severityOf(fails bool) Verdict {
	if fails {
		return Fail
	}
	return Warn
}

// refusing reports whether the gateway itself says why it relays nothing: then the network is not to blame.
func (e *evidence) refusing() bool {
	return e.g.Load.Draining || len(gatewayFull(e)) > 0
}

// regionsOf counts the regions of a service, up and in all.
func (e *evidence) regionsOf(service string) (up, all int) {
	for _, r := range e.g.Regions {
		if r.Service == service {
			all++
			if r.Up {
				up++
			}
		}
	}
	return up, all
}

// callServersOf counts the call servers of a service, up and in all.
func (e *evidence) callServersOf(service string) (up, all int) {
	for _, c := range e.g.CallServers {
		if c.Service == service {
			all++
			if c.Up {
				up++
			}
		}
	}
	return up, all
}

// services are the names of all services, in order of appearance.
func (e *evidence) services() (names []string) {
	for _, r := range e.g.Regions {
		names = append(names, r.Service)
	}
	for _, c := range e.g.CallServers {
		names = append(names, c.Service)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// cut reports whether no region of a service is reached.
func (e *evidence) cut(service string) bool {
	up, all := e.regionsOf(service)
	return all > 0 && up == 0
}

// cloudDown: the gateway reaches no relay of a service. When it reaches none of its call servers either, its own way out
// is surely the reason.
func cloudDown(e *evidence) (found []Finding) {
	for _, s := range e.services() {
		up, all := e.callServersOf(s)
		confidence := 0.85
		if all > 0 && up == 0 {
			confidence = 0.95
		}
		found = append(found, when(e.cut(s), Fail, confidence, "service", s, "why", e.whyDown(s))...)
	}
	return found
}

// whyDown collects what the gateway's own measurements said of a service's regions.
func (e *evidence) whyDown(service string) string {
	var why []string
	for _, r := range e.g.Regions {
		if r.Service == service && !r.Up {
			w := r.Name
			if r.Why != "" {
				w += ": " + r.Why
			}
			why = append(why, w)
		}
	}
	return strings.Join(why, "; ")
}

// regionDown: some regions of a service are not reached, others are.
func regionDown(e *evidence) (found []Finding) {
	for _, r := range e.g.Regions {
		found = append(found, when(!r.Up && !e.cut(r.Service), Warn, 0.9, "region", r.Name, "why", orDash(r.Why))...)
	}
	return found
}

// callServerUnreachable: unless the gateway's whole way out is down, which says it already.
func callServerUnreachable(e *evidence) (found []Finding) {
	for _, c := range e.g.CallServers {
		up, _ := e.callServersOf(c.Service)
		explained := up == 0 && e.cut(c.Service)
		found = append(found, when(!c.Up && !explained, severityOf(up == 0), 0.9, "host", c.Host, "why", orDash(c.Why))...)
	}
	return found
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

// unreached are the words of a relay check that speak of the way to the gateway, not of what it answered.
var unreached = []string{"unreached", "no-packets", "timeout"}

// blocked gives the first relay check of a transport that did not get through, when none of that transport did.
func (e *evidence) blocked(transport string) (Judged, bool) {
	open, shut := e.relays(transport)
	if len(open) > 0 || e.refusing() {
		return Judged{}, false
	}
	i := slices.IndexFunc(shut, func(c Judged) bool { return slices.Contains(unreached, c.Error) })
	if i < 0 {
		return Judged{}, false
	}
	return shut[i], true
}

// turnTLSBlocked: this report came over HTTPS, so TLS to the gateway passes; TURN inside TLS does not. A certificate
// that a person has clicked through looks the same: browsers never do so for TURN.
func turnTLSBlocked(e *evidence) []Finding {
	c, blocked := e.blocked("tls")
	if !blocked {
		return nil
	}
	confidence := 0.85
	if open, _ := e.relays("tcp"); len(open) > 0 || e.g.SelfSigned {
		confidence = 0.75
	}
	f := when(true, severityOf(e.relaysDown()), confidence, "port", port(c.Target))
	if e.g.SelfSigned {
		f[0].Note = "self-signed"
	}
	return f
}

// otherPorts reports whether plain TURN over TCP was tried at ports besides 443 and stopped at all of them.
func (e *evidence) otherPorts() (tried, open bool) {
	up, shut := e.relays("tcp")
	for _, c := range up {
		if port(c.Target) != "443" {
			tried, open = true, true
		}
	}
	for _, c := range shut {
		tried = tried || port(c.Target) != "443" && slices.Contains(unreached, c.Error)
	}
	return tried, open
}

// streamOpen reports whether TURN over TCP or TLS works.
func (e *evidence) streamOpen() bool {
	tcp, _ := e.relays("tcp")
	return len(tcp) > 0 || e.tlsOpen()
}

// only443: UDP and every other TCP port are stopped, 443 is not.
func only443(e *evidence) []Finding {
	_, blocked := e.blocked("udp")
	tried, open := e.otherPorts()
	return when(blocked && tried && !open && e.streamOpen(), Warn, 0.9, "ports", e.udpPorts())
}

// udpBlocked: TURN over UDP does not get through.
func udpBlocked(e *evidence) []Finding {
	c, blocked := e.blocked("udp")
	if !blocked || len(only443(e)) > 0 {
		return nil
	}
	confidence := 0.9
	switch {
	case c.Error == "no-packets":
		confidence = 0.6 // the gateway answered: something lets requests pass and drops what follows
	case !e.streamOpen():
		confidence = 0.7 // nothing gets through: that it is UDP alone is not known
	}
	return when(true, severityOf(e.relaysDown()), confidence, "ports", e.udpPorts())
}

// udpPorts are the ports at which UDP was tried.
func (e *evidence) udpPorts() string {
	var ports []string
	_, shut := e.relays("udp")
	for _, c := range shut {
		ports = append(ports, port(c.Target))
	}
	slices.Sort(ports)
	return strings.Join(slices.Compact(ports), ", ")
}

func credentialsRejected(e *evidence) []Finding {
	_, shut := e.relays("")
	bad := slices.ContainsFunc(shut, func(c Judged) bool { return c.Error == "credentials" })
	return when(bad && !e.refusing(), severityOf(e.relaysDown()), 0.8)
}

// webSocketBlocked: plain requests pass, for the report itself came; an Upgrade does not.
func webSocketBlocked(e *evidence) []Finding {
	if !e.failed("call-server:websocket") {
		return nil
	}
	confidence := 0.8
	if works(e.check("call-server:longpoll")) {
		confidence = 0.95
	}
	return when(true, severityOf(e.signalingDown()), confidence)
}

// longPollCut: a request on which nothing happens ended before its time.
func longPollCut(e *evidence) []Finding {
	if !e.failed("call-server:longpoll", "cut") {
		return nil
	}
	seconds := 0.0
	if v := e.check("call-server:longpoll").Value; v != nil {
		seconds = *v
	}
	return when(true, severityOf(e.signalingDown()), 0.9, "seconds", seconds, "asked", float64(e.m.Hold))
}

// high is for what is measured on the looped media and too large.
func high(id string) func(*evidence) []Finding {
	return func(e *evidence) []Finding {
		c := e.check(id)
		if c.Value == nil || c.Verdict != Warn && c.Verdict != Fail {
			return nil
		}
		params := []any{"value", *c.Value, "limit", e.t[id+"_pass"]}
		if id == "rtt" {
			near, far := *c.Value, 0.0
			if c.Params != nil {
				near, far = c.Params["near"], c.Params["far"]
			}
			params = append(params, "near", near, "far", far)
		}
		return when(true, c.Verdict, 0.9, params...)
	}
}

// bandwidthLow: the browser itself lowered the picture because the path carried no more.
func bandwidthLow(e *evidence) []Finding {
	c := e.check("relay:media")
	low := c.Error == "bandwidth" && c.Value != nil && (c.Verdict == Warn || c.Verdict == Fail)
	if !low {
		return nil
	}
	return when(true, c.Verdict, 0.85, "value", *c.Value, "limit", e.t["bandwidth_pass"])
}

func clockSkew(e *evidence) []Finding {
	return when(e.clockOff(), Warn, 0.95, "minutes", e.g.ClockAhead.Abs().Minutes())
}

package precall

import (
	"slices"
	"strings"
)

// wayCauses are those of the network between browser and gateway that close a way.
func wayCauses() []cause {
	return []cause{
		{"turn-tls-blocked", turnTLSBlocked},
		{"only-443", only443},
		{"udp-blocked", udpBlocked},
		{"relay-credentials-rejected", credentialsRejected},
		{"websocket-blocked", webSocketBlocked},
		{"longpoll-cut", longPollCut},
		{"tls-intercepted", tlsIntercepted},
		{"vpn-suspected", vpnSuspected},
		{"ipv6-broken", ipv6Broken},
	}
}

// unreached are the words of a relay check that speak of the way to the gateway, not of what it answered.
var unreached = []string{"unreached", "no-packets", "timeout"}

// blocked gives the first relay check of a transport that did not get through, when none of that transport did.
func (e *evidence) blocked(transport string) (Judged, bool) {
	open, shut := e.relays(transport)
	if len(open) > 0 || e.refusing() || e.g.Seen.Outside {
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

// otherPorts reports whether TURN over TCP was tried at ports besides 443, of the gateway's or the cloud's, and whether any is open.
func (e *evidence) otherPorts() (tried, open bool) {
	for _, c := range e.checks {
		if c.ID != "relay:tcp" && c.ID != "relay:tls" || port(c.Target) == "443" || c.Target == "" {
			continue
		}
		open = open || works(c)
		tried = tried || works(c) || slices.Contains(stopped, c.Said)
	}
	return tried, open
}

// stopped are the words of a way that is closed or has no name here.
var stopped = append([]string{"dns"}, unreached...)

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

// credentialsRejected: the test relay refused the page, or a region the gateway's own account.
func credentialsRejected(e *evidence) []Finding {
	for _, r := range e.g.Regions {
		if r.Fault == FaultCredentials {
			return told("gateway", when(true, severityOf(e.cut(r.Service)), 0.9, "host", r.Service+"/"+r.Name, "why", orDash(r.Why)))
		}
	}
	bad := slices.ContainsFunc(e.checks, func(c Judged) bool {
		return c.Verdict == Fail && c.Error == "credentials" && (c.ID == "relay:media" || isWay(c.ID) && c.Level == LevelGateway)
	})
	return when(bad && !e.refusing(), severityOf(e.relaysDown()), 0.8)
}

// webSocketBlocked: plain requests pass, for the report itself came; an Upgrade does not.
func webSocketBlocked(e *evidence) []Finding {
	var hosts []string
	for _, c := range e.checks {
		if c.Error == "timeout" && e.starved() {
			continue // the computer had no time for the answer
		}
		if c.ID == "call-server:websocket" && c.Verdict == Fail && e.worthAsking(c.Target) {
			hosts = append(hosts, e.named(c.Target))
		}
	}
	confidence := 0.8
	if works(e.check("call-server:longpoll")) {
		confidence = 0.95
	}
	return when(len(hosts) > 0, severityOf(e.signalingDown()), confidence, "host", first(hosts))
}

// worthAsking reports whether a host answers plain requests, so that what else fails there is a thing of its own.
func (e *evidence) worthAsking(host string) bool {
	if server, known := e.server(host); known && !server.Up {
		return false
	}
	return e.checkOf("call-server:https", host).Verdict != Fail
}

// named is a check's target, the gateway where there is none.
func (e *evidence) named(target string) string {
	if target == "" {
		return e.g.Name
	}
	return target
}

func first(list []string) string {
	if len(list) == 0 {
		return ""
	}
	return list[0]
}

// longPollCut: a request on which nothing happens ended before its time. The shortest is told.
func longPollCut(e *evidence) []Finding {
	var worst *Judged
	for i, c := range e.checks {
		ended := c.Error == "cut" || c.Error == "timeout" // cut, or silently forgotten
		cut := c.ID == "call-server:longpoll" && c.Verdict == Fail && ended && c.Value != nil && e.worthAsking(c.Target)
		if cut && (worst == nil || *c.Value < *worst.Value) {
			worst = &e.checks[i]
		}
	}
	if worst == nil {
		return nil
	}
	confidence := 0.95
	if worst.Error != "cut" {
		confidence = 0.75
	}
	asked := float64(e.m.Hold)
	return when(true, severityOf(e.signalingDown()), confidence, "seconds", min(*worst.Value, asked), "asked", asked, "host", e.named(worst.Target))
}

// tlsIntercepted: what came was not the browser's own TLS, or carries what only a proxy that reads it adds.
func tlsIntercepted(e *evidence) []Finding {
	why := e.intercepted()
	return when(why != "", Warn, 0.94, "why", why) // it explains what else such a box does
}

// vpnSuspected: UDP and HTTPS of one browser come from different addresses. Behind a proxy that opens TLS they do so by themselves.
func vpnSuspected(e *evidence) []Finding {
	return when(e.g.Seen.Mapped == MappedDifferent && e.intercepted() == "", Warn, 0.7)
}

func ipv6Broken(e *evidence) []Finding {
	open, _ := e.relays("")
	return when(e.check("ipv6").Verdict == Fail && len(open) > 0, Warn, 0.85)
}

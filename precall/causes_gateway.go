package precall

import (
	"slices"
	"strings"
)

// gatewayCauses are those of the gateway and of its own way to the cloud.
func gatewayCauses() []cause {
	return []cause{
		{"gateway-draining", gatewayDraining},
		{"gateway-full", gatewayFull},
		{"client-network-refused", clientRefused},
		{"captive-portal", captivePortal},
		{"gateway-to-cloud-down", cloudDown},
		{"relay-region-down", regionDown},
		{"region-far", regionFar},
	}
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
		if fault, _ := e.faultOf(s); fault != "" {
			continue // it has a name of its own
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

// faultOf is what all the regions of a service that is cut off have in common, with one of their hosts. Wrong credentials are none of
// these: whoever refuses them is there.
func (e *evidence) faultOf(service string) (fault Fault, host string) {
	if !e.cut(service) {
		return "", ""
	}
	for i, r := range e.ofService(service) {
		if i > 0 && r.Fault != fault {
			return "", ""
		}
		fault, host = r.Fault, service
		if len(r.Hosts) > 0 {
			host = r.Hosts[0]
		}
	}
	return fault, host
}

func (e *evidence) ofService(service string) []Region {
	return slices.DeleteFunc(slices.Clone(e.g.Regions), func(r Region) bool { return r.Service != service })
}

// gatewaySide finds the services whose regions the gateway misses for one reason that is a cause of its own.
func gatewaySide(e *evidence, fault Fault) (found []Finding) {
	for _, s := range e.services() {
		f, host := e.faultOf(s)
		found = append(found, told("gateway", when(f == fault, Fail, 0.95, "host", host, "why", e.whyDown(s)))...)
	}
	return found
}

// clientRefused: the client may see this page and nothing else. Where it has ways of its own, as a patient at home has, that is no fault.
func clientRefused(e *evidence) []Finding {
	direct, _ := e.directs("")
	reached := slices.ContainsFunc(e.g.CallServers, func(c CallServer) bool { return works(e.checkOf("call-server:https", c.Host)) })
	return when(e.g.Seen.Outside && (len(direct) == 0 || !reached), Fail, 0.95)
}

// captivePortal: what is asked for answers, but is something else. Seen by the gateway on its own way out, or by the browser, whose
// connections to several relays open and say nothing of TURN.
func captivePortal(e *evidence) []Finding {
	if found := gatewaySide(e, FaultPortal); len(found) > 0 {
		return found
	}
	lost := e.lost()
	return when(len(lost) > 0 && e.mute() > 0, Fail, 0.8, "host", first(lost))
}

// mute counts the ways to the cloud's relays over TCP and TLS that connected and then said nothing, if none answered.
func (e *evidence) mute() (n int) {
	for _, c := range e.checks {
		switch {
		case !isWay(c.ID) || c.Level != LevelPath:
		case works(c):
			return 0
		case c.Said == "unanswered-turn":
			n++
		}
	}
	return n
}

// regionFar: the longer part of a long round trip is the gateway's way to the cloud.
func regionFar(e *evidence) []Finding {
	c := e.check("rtt")
	if c.Verdict != Warn && c.Verdict != Fail || c.Params["far"] <= c.Params["near"] {
		return nil
	}
	region := ""
	for _, r := range e.g.Regions {
		if r.Up && ms(r.RTT) == c.Params["far"] {
			region = r.Name
		}
	}
	return when(true, c.Verdict, 0.9, "far", c.Params["far"], "near", c.Params["near"], "region", region)
}

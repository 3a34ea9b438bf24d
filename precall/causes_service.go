package precall

import "slices"

// serviceCauses are those of the way between browser and call server.
func serviceCauses() []cause {
	return []cause{
		{"dns-failed", dnsFailed},
		{"proxy-auth-required", proxyAuth},
		{"proxy-wrong-pac", wrongPAC},
		{"proxy-not-used", proxyNotUsed},
		{"not-through-gateway", notThroughGateway},
		{"call-server-unreachable", callServerUnreachable},
	}
}

// lost are the call servers that the gateway reaches and the browser does not, and for which nothing passed through the gateway.
func (e *evidence) lost() (hosts []string) {
	if e.g.Seen.Outside {
		return nil
	}
	for _, c := range e.g.CallServers {
		if c.Up && !e.came(c.Host) && e.checkOf("call-server:https", c.Host).Verdict == Fail {
			hosts = append(hosts, c.Host)
		}
	}
	return hosts
}

// lostWith are those of them whose check ended with one of the words.
func (e *evidence) lostWith(words ...string) []string {
	return slices.DeleteFunc(e.lost(), func(host string) bool {
		return !slices.Contains(words, e.checkOf("call-server:https", host).Error)
	})
}

// severityOfLost is fail when a service has no call server left for the browser.
func (e *evidence) severityOfLost(host string) Verdict {
	server, _ := e.server(host)
	for _, c := range e.g.CallServers {
		if c.Service == server.Service && (e.came(c.Host) || works(e.checkOf("call-server:https", c.Host))) {
			return Warn
		}
	}
	return Fail
}

// dnsFailed: a call server has a name and no address, for the browser or for the gateway itself.
func dnsFailed(e *evidence) []Finding {
	if found := gatewaySide(e, FaultDNS); len(found) > 0 {
		return found
	}
	for _, c := range e.g.CallServers {
		if !c.Up && c.Fault == FaultDNS {
			up, _ := e.callServersOf(c.Service)
			return told("gateway", when(true, severityOf(up == 0), 0.95, "host", c.Host, "why", orDash(c.Why)))
		}
	}
	confidence, host := 0.85, first(e.lostWith("dns"))
	if proxied := first(e.lostWith("proxied")); host == "" && proxied != "" {
		confidence, host = 0.6, proxied // a proxy would know the name, and a firewall that says no looks like one
	}
	found := when(host != "" && len(e.throughProxy()) == 0, e.severityOfLost(host), confidence, "host", host)
	if len(found) > 0 && e.g.PAC {
		found[0].Note = "or-proxy"
	}
	return found
}

// throughProxy are the hosts that this browser asks the gateway for by CONNECT.
func (e *evidence) throughProxy() (hosts []string) {
	for host, way := range e.g.Seen.Ways {
		if way == WayConnect || way == WayAsked || way == WayRefused {
			hosts = append(hosts, host)
		}
	}
	slices.Sort(hosts)
	return hosts
}

// atOnce is the time in which a proxy that refuses, or a firewall that says so, has answered; what is dropped takes longer.
const atOnce = 2500

// proxyAuth: a proxy wants credentials. Its 407 is seen where the proxy is this gateway, or where it is in this gateway's own way; of
// a proxy elsewhere the browser only knows that it was refused at once.
func proxyAuth(e *evidence) []Finding {
	if found := gatewaySide(e, FaultProxyAuth); len(found) > 0 {
		return found
	}
	for host, way := range e.g.Seen.Ways {
		if way == WayAsked {
			return when(true, Fail, 0.95, "host", host)
		}
	}
	if host := first(e.lostWith("proxied")); host != "" {
		return when(true, e.severityOfLost(host), 0.8, "host", host)
	}
	host := e.refusedAtOnce()
	return when(host != "", e.severityOfLost(host), 0.6, "host", host)
}

// refusedAtOnce is the first lost call server, if every one of them failed at once and no relay of the cloud connected either.
func (e *evidence) refusedAtOnce() string {
	lost := e.lostWith("network")
	if len(lost) == 0 || e.mute() > 0 || len(lost) != len(e.lost()) {
		return ""
	}
	for _, host := range lost {
		if e.checkOf("call-server:https", host).MS > atOnce {
			return ""
		}
	}
	return lost[0]
}

// wrongPAC: the gateway is this browser's proxy for one host and not for another, or for what is none of its business.
func wrongPAC(e *evidence) []Finding {
	if host := first(e.lost()); host != "" && len(e.throughProxy()) > 0 {
		return when(true, e.severityOfLost(host), 0.85, "host", host)
	}
	if e.g.Seen.Ways[e.g.Name] == WayRefused { // every PAC file of ours sends the gateway's own pages past it
		return when(true, Warn, 0.85, "host", e.g.Name)
	}
	for _, host := range e.throughProxy() {
		if e.g.Seen.Ways[host] == WayRefused {
			return when(true, Warn, 0.6, "host", host)
		}
	}
	return nil
}

// proxyNotUsed: there is a PAC file, and the browser goes its own way into a wall.
func proxyNotUsed(e *evidence) []Finding {
	host := first(e.lost())
	if host == "" || !e.g.PAC || len(e.throughProxy()) > 0 || e.mute() > 0 {
		return nil
	}
	confidence := 0.85
	switch {
	case e.refusedAtOnce() != "":
		confidence = 0.5
	case len(e.lostWith("dns", "proxied")) > 0:
		confidence = 0.55
	}
	return when(true, e.severityOfLost(host), confidence, "host", host)
}

// notThroughGateway: the same where there is no PAC file: then DNS should lead here.
func notThroughGateway(e *evidence) []Finding {
	host := first(e.lost())
	if host == "" || e.g.PAC || len(e.throughProxy()) > 0 || e.mute() > 0 || len(e.lostWith("dns", "proxied")) > 0 {
		return nil
	}
	confidence := 0.8
	if e.refusedAtOnce() != "" {
		confidence = 0.55
	}
	return when(true, e.severityOfLost(host), confidence, "host", host)
}

// callServerUnreachable: unless the gateway's whole way out is down, which says it already.
func callServerUnreachable(e *evidence) (found []Finding) {
	for _, c := range e.g.CallServers {
		up, _ := e.callServersOf(c.Service)
		explained := up == 0 && e.cut(c.Service) || c.Fault == FaultDNS
		found = append(found, when(!c.Up && !explained, severityOf(up == 0), 0.9, "host", c.Host, "why", orDash(c.Why))...)
	}
	return found
}

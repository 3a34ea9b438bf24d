package gateway

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"hafen/relay"
	"hafen/signaling"
)

// proxy asks the company proxy for a way to the first call server.
func (c *checkup) proxy(ctx context.Context) []Finding {
	p := c.g.dialer().Proxy
	if p == nil {
		return []Finding{{Area: "proxy", About: "company proxy", Verdict: Skip, Detail: "egress.proxy is not set"}}
	}
	f := Finding{Area: "proxy", About: "company proxy " + p.Addr, Verdict: Skip, Detail: "no call server to ask for", Target: "TCP " + p.Addr}
	for i := range c.Config.Services {
		s := &c.Config.Services[i]
		for _, host := range s.CallServers() {
			if p.Exempt(host, 443) {
				continue
			}
			ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
			conn, err := c.g.dialer().DialVia(ctx, "tcp", net.JoinHostPort(host, "443"), scopeOf(s))
			cancel()
			if err != nil {
				f.Verdict, f.Detail = Fail, err.Error()
				f.Todo = "have the proxy let this machine CONNECT to the services' hosts on 443 without a login page, or correct user and password (Basic) in egress.proxy"
				return []Finding{f}
			}
			_ = conn.Close()
			f.Verdict, f.Detail = Pass, "connects to "+host
			return []Finding{f}
		}
	}
	return []Finding{f}
}

// callServers has the prober of signaling ask each call server what its probes allow.
func (c *checkup) callServers(ctx context.Context) []Finding {
	if err := c.g.signaling.Start(ctx); err != nil {
		return []Finding{{Area: "call server", About: "all", Verdict: Fail, Detail: err.Error()}}
	}
	began := time.Now()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for asking(c.g.signaling.Status().CallServers) && ctx.Err() == nil {
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	var all []Finding
	servers := c.g.signaling.Status().CallServers
	for _, s := range servers {
		for _, check := range []*signaling.Check{&s.HTTPS, &s.WebSocket} {
			if waited := time.Since(began); check.State == signaling.CheckUnknown && waited >= silent {
				check.State, check.Why = signaling.CheckFailed, fmt.Sprintf("It did not answer within %s.", waited.Round(time.Second))
			}
		}
		all = append(all,
			callServerFinding(s, "HTTPS", "https", s.HTTPS), callServerFinding(s, "WebSocket", "websocket", s.WebSocket),
			callServerFinding(s, "long-poll", "longpoll", s.LongPoll))
	}
	for i := range c.Config.Services {
		if s := &c.Config.Services[i]; len(s.CallServers()) == 0 {
			all = append(all, Finding{
				Area: "call server", About: s.Name, Verdict: Skip, Detail: "its hosts are wildcards, so nothing can be asked",
				Todo: "name some in the service's probes.call_servers",
			})
		}
	}
	return all
}

// silent is how long a call server may take to answer before its silence is a finding, where the doctor's own time ends earlier than the
// probe's.
const silent = 3 * time.Second

func asking(servers []signaling.CallServer) bool {
	for _, s := range servers {
		for _, check := range []signaling.Check{s.HTTPS, s.WebSocket, s.LongPoll} {
			if check.State == signaling.CheckUnknown {
				return true
			}
		}
	}
	return false
}

func callServerFinding(s signaling.CallServer, name, key string, check signaling.Check) Finding {
	f := Finding{Area: "call server", About: s.Host + " " + name, Verdict: Pass, Detail: check.Why, Target: "TCP " + net.JoinHostPort(s.Host, "443")}
	if check.RTT > 0 {
		f.Detail = fmt.Sprintf("%s %d ms", check.Why, check.RTT.Milliseconds())
	}
	switch check.State {
	case signaling.CheckOff:
		f.Verdict, f.Detail = Skip, "not asked: the service's probes."+key+" is empty"
	case signaling.CheckUnknown:
		f.Verdict, f.Detail = Skip, "no answer yet"
	case signaling.CheckFailed:
		f.Verdict = Fail
		switch {
		case name == "long-poll" && check.Status != "err_dial" && check.Status != "err_policy":
			f.Todo = "raise the idle time-out between this machine and " + s.Host + " to 3600 s; see also whether probes.longpoll is right"
		case name == "WebSocket" && check.Status == "err_upstream":
			f.Todo = "exempt " + s.Host + " from inspection and application filters: Upgrade must pass; see also whether probes.websocket is right"
		default:
			f.Todo = "let this machine reach " + s.Host + " on TCP 443, without TLS inspection"
		}
	}
	return f
}

// regions probes every rung of every region with the relay's own prober.
func (c *checkup) regions(ctx context.Context) []Finding {
	if err := c.g.relay.Start(ctx); err != nil {
		return []Finding{{Area: "region", About: "all", Verdict: Fail, Detail: err.Error()}}
	}
	deadline := time.NewTimer(regionPatience)
	defer deadline.Stop()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for waiting := true; waiting && probing(c.g.relay.RegionStatus()); {
		select {
		case <-tick.C:
		case <-deadline.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
	regions := c.g.relay.RegionStatus()
	up := make(map[string]bool)
	for _, r := range regions {
		up[r.Service] = up[r.Service] || r.Use && r.State == "up"
	}
	var all []Finding
	for _, r := range regions {
		all = append(all, regionFindings(r, up[r.Service])...)
	}
	return all
}

// regionPatience is how long rungs may take to be known: resolving, dialling and a probe, each with its own time-out.
const regionPatience = 20 * time.Second

func probing(regions []relay.RegionStatus) bool {
	for _, r := range regions {
		for _, rung := range r.Rungs {
			if r.Use && rung.State == "unknown" {
				return true
			}
		}
	}
	return false
}

// regionFindings has a line for the region and one for each rung that does not work. A region down while another works is a
// warning: calls go on.
func regionFindings(r relay.RegionStatus, anotherUp bool) []Finding {
	f := Finding{Area: "region", About: r.Service + "/" + r.Name, Verdict: Pass, Detail: fmt.Sprintf("over %s, %.0f ms", r.Rung, r.RTT)}
	switch {
	case !r.Use:
		f.Verdict, f.Detail = Skip, "use: false, never chosen by the gateway"
		return []Finding{f}
	case r.State == "up":
	case anotherUp:
		f.Verdict, f.Detail, f.Todo = Warn, "can't be reached; calls go through another region", "see its rungs below, or ask the call service"
	default:
		f.Verdict, f.Detail, f.Todo = Fail, "can't be reached, nor can another region of "+r.Service+": calls have no sound and no picture", "see its rungs below"
	}
	all := []Finding{f}
	for _, rung := range r.Rungs {
		g := Finding{Area: "region", About: r.Service + "/" + r.Name + " " + rung.Name, Verdict: Pass, Detail: fmt.Sprintf("%.0f ms", rung.RTT), Target: rungTarget(rung)}
		switch {
		case rung.State == "up" && rung.Note != "":
			g.Detail += "; " + rung.Note
		case rung.State == "up":
		case rung.State == "down":
			g.Verdict, g.Detail, g.Todo = Warn, rung.Reason, rungTodo(rung)
			if f.Verdict == Fail {
				g.Verdict = Fail
			}
		default:
			g.Verdict, g.Detail = Skip, "not known yet"
		}
		all = append(all, g)
	}
	return all
}

// rungTarget is what the firewall sheet has a line for.
func rungTarget(rung relay.RungStatus) string {
	switch rung.Kind {
	case "udp":
		return "UDP " + rung.Target
	case "proxy":
		return "" // the line is about the company proxy's way
	}
	return "TCP " + rung.Target
}

func rungTodo(rung relay.RungStatus) string {
	to := rung.Target
	if host, port, err := net.SplitHostPort(rung.Target); err == nil {
		to = host
		if rung.Address != "" {
			to += " (" + strings.TrimSuffix(strings.TrimSuffix(rung.Address, ":"+port), "]") + ")"
		}
		switch rung.Kind {
		case "udp":
			return "open UDP " + port + " from this machine to " + to + ", answers back in"
		case "proxy":
			return "have the company proxy let this machine CONNECT to " + to + ":" + port + ", uninspected"
		default:
			return "open TCP " + port + " from this machine to " + to + ", without TLS inspection"
		}
	}
	return "let this machine reach " + to
}

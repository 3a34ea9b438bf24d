package gateway

import (
	"cmp"
	"slices"
	"strings"
	"time"

	"hafen/gateway/status"
	"hafen/relay"
	"hafen/signaling"
)

// health is what /livez and /readyz answer from.
func (g *Gateway) healthNow() status.Health {
	h := status.Health{Draining: g.isDraining(), Complete: true}
	up := make(map[string]bool)
	for _, r := range g.relay.RegionStatus() {
		up[r.Service] = up[r.Service] || (r.Use && r.State == "up")
	}
	for i := range g.config().Services {
		s := &g.config().Services[i]
		h.Reachable = h.Reachable || up[s.Name]
		h.Complete = h.Complete && (up[s.Name] || len(s.Regions) == 0)
	}
	for _, c := range g.signaling.Status().CallServers {
		h.Reachable = h.Reachable || c.Up
	}
	return h
}

// snapshot gathers how things stand now from all parts.
func (g *Gateway) snapshot() status.Snapshot {
	now, read := g.opts.Now(), g.readings()
	sig, rel := g.signaling.Status(), g.relay.Status()
	s := status.Snapshot{
		Name: g.config().Name, Version: g.opts.Version, Time: now, Uptime: now.Sub(g.started), Draining: g.isDraining(),
		Services: services(g, rel.Regions), CallServers: callServers(sig.CallServers), Sessions: g.sessions(rel, now),
		Events: append(g.database.newest(), g.happened()...), Runs: g.runs(), Limits: g.limits(read), SelfTests: g.selfTests(),
		Counts: status.Counts{
			Connections: g.mux.Counts().Open, Allocations: rel.Allocations, WebSockets: sig.WebSockets, LongPolls: sig.LongPolls,
			Tunnels: g.forward.Live(), BytesUp: uint64(read.value("hafen_relay_bytes_total", "up")), BytesDown: uint64(read.value("hafen_relay_bytes_total", "down")),
		},
	}
	for _, c := range g.certs().Status() {
		s.Certificates = append(s.Certificates, status.Certificate{
			Names: c.Names, Issuer: c.Issuer, Begins: c.Begins, Expires: c.Expires, Source: g.config().TLS.Source, Trusted: g.config().TLS.Source != "self-signed", Problem: c.Problem,
		})
	}
	for _, r := range g.mux.Refusals() {
		s.Refused = append(s.Refused, status.Refused{
			Network: r.Network.String(), Count: r.Count, Last: r.Last, Write: g.line(r.Network),
		})
	}
	s.Peers, s.Sites, s.Week, s.Addresses = g.peers.list(), g.sites(), g.ledger.week.Load(), g.addresses.list()
	s.Judge()
	return s
}

func services(g *Gateway, regions []relay.RegionStatus) []status.Service {
	var out []status.Service
	for i := range g.config().Services {
		svc := status.Service{Name: g.config().Services[i].Name}
		for _, r := range regions {
			if r.Service != svc.Name {
				continue
			}
			if r.Chosen {
				svc.Chosen = r.Name
			}
			region := status.Region{Name: r.Name, Up: r.State == "up", Use: r.Use, Drill: r.Drill, RTTms: r.RTT, Rung: r.Rung}
			for _, rung := range r.Rungs {
				region.Rungs = append(region.Rungs, status.Rung{Name: rung.Name, State: rung.State, RTTms: rung.RTT, Why: rung.Reason})
			}
			svc.Regions = append(svc.Regions, region)
		}
		out = append(out, svc)
	}
	return out
}

// callServers makes one row of each check that is on.
func callServers(servers []signaling.CallServer) []status.CallServer {
	var out []status.CallServer
	for _, c := range servers {
		for _, p := range []struct {
			name  string
			check signaling.Check
		}{{"HTTPS", c.HTTPS}, {"WebSocket", c.WebSocket}, {"long-poll", c.LongPoll}} {
			if p.check.State == signaling.CheckOff {
				continue
			}
			state := map[string]string{signaling.CheckOK: "up", signaling.CheckFailed: "down"}[p.check.State]
			row := status.CallServer{Service: c.Service, Host: c.Host, Probe: p.name, State: state, RTTms: float64(p.check.RTT) / float64(time.Millisecond)}
			if state != "up" {
				row.Why = p.check.Why
			}
			out = append(out, row)
		}
	}
	return out
}

// maxSessions bounds the table of live sessions on the page.
const maxSessions = 200

// sessions are all that is live: the relay's first, for they are the calls.
func (g *Gateway) sessions(rel relay.Status, now time.Time) []status.Session {
	rtt := make(map[string]float64)
	for _, r := range rel.Regions {
		for _, rung := range r.Rungs {
			rtt[r.Service+"/"+r.Name+"/"+rung.Name] = rung.RTT
		}
	}
	out := make([]status.Session, 0, len(rel.Sessions)) // an empty list, not none
	for _, s := range rel.Sessions {
		s.Service = cmp.Or(s.Service, g.config().Services[0].Name) // who asked for none in particular
		out = append(out, status.Session{
			Kind: sessionKind(s), Client: s.Client, Service: s.Service, Region: s.Region, Rung: s.Rung, RTTms: rtt[s.Service+"/"+s.Region+"/"+s.Rung],
			QueueMS: s.QueueDelay, Dropped: dropped(s), Age: now.Sub(s.Started),
		})
	}
	for _, s := range g.signaling.Sessions() {
		out = append(out, status.Session{Kind: s.Kind, Client: s.Client, Service: s.Service, Target: s.Host, Age: now.Sub(s.Started)})
	}
	for _, s := range g.forward.Tunnels() {
		out = append(out, status.Session{Kind: "CONNECT", Client: s.Client, Service: s.Service, Target: s.Target, Age: now.Sub(s.Started)})
	}
	return out[:min(len(out), maxSessions)]
}

func sessionKind(s relay.SessionStatus) string {
	if s.Test {
		return "precall " + s.Via
	}
	return "TURN " + s.Via
}

func dropped(s relay.SessionStatus) (n uint64) {
	for _, d := range s.Dropped {
		n += uint64(d)
	}
	return n
}

// happened is what happened to the regions, and the incidents with what to do, newest first.
func (g *Gateway) happened() []status.Event {
	var out []status.Event
	for _, ev := range g.relay.RegionEvents() {
		out = append(out, status.Event{Time: ev.Time, Kind: ev.Kind, About: strings.Trim(ev.Service+"/"+ev.Region, "/"), Sentence: ev.Text})
	}
	for _, in := range g.watch.events.Incidents() {
		for _, c := range in.Conditions {
			out = append(out, status.Event{Time: c.Since, Kind: "incident", Sentence: c.Cause, Advice: c.Todo})
		}
		if !in.Ended.IsZero() {
			out = append(out, status.Event{Time: in.Ended, Kind: "incident_over", Sentence: "It is over: " + in.Conditions[0].Cause})
		}
	}
	slices.SortStableFunc(out, func(a, b status.Event) int { return b.Time.Compare(a.Time) })
	return out[:min(len(out), maxEvents)]
}

// maxEvents bounds the list on the page.
const maxEvents = 100

package relay

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// RegionStatus is one region as the status page shows it.
type RegionStatus struct {
	Service string `json:"service"`
	Name    string `json:"name"`
	// Use is false for a region that is never chosen by the gateway.
	Use bool `json:"use"`
	// Chosen: new sessions of the service go there.
	Chosen bool `json:"chosen"`
	// Drill: a drill cuts it for new sessions.
	Drill bool `json:"drill,omitempty"`
	// State is up when any rung works, unknown before the first answers, else down.
	State string `json:"state"`
	// Reason says which rung failed how, when none works.
	Reason string `json:"reason,omitempty"`
	// Rung is the one that new sessions take; empty when none works.
	Rung string `json:"rung,omitempty"`
	// RTT is the smoothed round trip of that rung, in milliseconds; 0 when none works.
	RTT      float64      `json:"rtt_ms"`
	Sessions int          `json:"sessions"`
	Rungs    []RungStatus `json:"rungs"`
}

// RungStatus is one rung of a region's uplink ladder.
type RungStatus struct {
	Name string `json:"name"`
	// Kind is udp, tcp, tls or proxy.
	Kind   string `json:"kind"`
	Target string `json:"target"`
	// Address is what the target's name means now; empty when unknown, or left to the company's proxy.
	Address string `json:"address,omitempty"`
	State   string `json:"state"`
	// Reason is a sentence for the administrator: why the rung does not work, or takes no new sessions.
	Reason string `json:"reason,omitempty"`
	// Note is what the administrator should know of a rung that works.
	Note  string    `json:"note,omitempty"`
	InUse bool      `json:"in_use"`
	Since time.Time `json:"since"`
	RTT   float64   `json:"rtt_ms"`
	// Loss is the share of the last 32 probes without an answer, 0 to 1.
	Loss       float64   `json:"loss"`
	LastProbe  time.Time `json:"last_probe,omitzero"`
	LastAnswer time.Time `json:"last_answer,omitzero"`
	Sessions   int       `json:"sessions"`
}

// RegionStatus tells the state of all regions, in the order of the configuration.
func (s *Server) RegionStatus() []RegionStatus {
	list := s.regions().status()
	for _, r := range s.listRetired() {
		r.addSessions(list)
	}
	return list
}

// ProbeNow probes every rung of a service's regions and tells what came of it; an empty service is the first. It
// returns within some seconds. Calls at the same time share one run, and its result holds for a moment, so that whoever
// asks often does not make the gateway ask often. A rung that has never worked while another does is asked only as
// often as without this.
func (s *Server) ProbeNow(ctx context.Context, service string) ([]RegionStatus, error) {
	return s.regions().probeNow(ctx, service)
}

func (r *regions) status() []RegionStatus {
	r.mu.Lock()
	defer r.mu.Unlock()
	var list []RegionStatus
	for _, s := range r.services {
		list = append(list, s.status()...)
	}
	return list
}

func (s *callService) status() []RegionStatus {
	list := make([]RegionStatus, 0, len(s.regions))
	for _, g := range s.regions {
		list = append(list, g.status())
	}
	return list
}

func (g *region) status() RegionStatus {
	best := g.best()
	st := RegionStatus{Service: g.service, Name: g.name, Use: g.use, Chosen: g.of.choice.region == g.name, Drill: g.cut()}
	st.State, st.Reason = g.state()
	for _, rg := range g.rungs {
		one := rg.status()
		one.InUse = rg == best
		st.Sessions += one.Sessions
		st.Rungs = append(st.Rungs, one)
		if rg == best {
			st.Rung, st.RTT = one.Name, one.RTT
		}
	}
	return st
}

// state is the region's: up when any rung is, down when all that are known are.
func (g *region) state() (state, reason string) {
	if g.cut() {
		return string(stateDown), "cut by a drill until " + g.cutUntil.Format(time.TimeOnly)
	}
	if g.best() != nil {
		return string(stateUp), ""
	}
	if len(g.rungs) == 0 {
		return string(stateDown), "its urls and relay.rungs leave no rung"
	}
	if !g.use && !g.awake {
		return string(stateUnknown), "not for use, and not asked for"
	}
	for _, rg := range g.rungs {
		st, why := rg.state()
		if st == stateUnknown {
			return string(stateUnknown), ""
		}
		if reason != "" {
			reason += "; "
		}
		reason += rg.name + ": " + why
	}
	return string(stateDown), reason
}

// state is the rung's own. A rung whose name has no address is down; one that is up but takes nothing new counts as
// down here too, with the reason.
func (r *rung) state() (pathState, string) {
	p := r.current
	switch {
	case p == nil && r.unnamed != "":
		return stateDown, r.unnamed
	case p == nil:
		return stateUnknown, ""
	case p.refuses != "":
		return stateDown, p.refuses
	case p.state == stateUp && !p.usable():
		return stateDown, "new connections fail: " + p.lastErr
	}
	return p.state, p.reason
}

func (r *rung) status() RungStatus {
	state, reason := r.state()
	st := RungStatus{Name: r.name, Kind: string(r.kind), Target: r.target(), State: string(state), Reason: reason}
	for _, p := range r.paths {
		st.Sessions += len(p.uplinks)
	}
	p := r.current
	if p == nil {
		return st
	}
	if p.addr.IsValid() {
		st.Address = p.addr.String()
	}
	st.Note, st.Since, st.Loss, st.LastProbe, st.LastAnswer = p.note, p.since, p.loss(), p.lastSent, p.lastAnswer
	if p.samples > 0 && p.state == stateUp {
		st.RTT = float64(p.rtt) / float64(time.Millisecond)
	}
	return st
}

// probeRun is one run of ProbeNow.
type probeRun struct {
	done  chan struct{}
	ended time.Time // zero while it runs
	found []RegionStatus
}

// runHolds is how long the result of a run is given to whoever asks.
const runHolds = 750 * time.Millisecond

func (r *regions) probeNow(ctx context.Context, service string) ([]RegionStatus, error) {
	s := r.serviceNamed(service)
	if s == nil {
		return nil, &noRegionError{fmt.Sprintf("there is no service %q", service)}
	}
	r.mu.Lock()
	run := s.run
	if now := r.now(); run == nil || !run.ended.IsZero() && now.Sub(run.ended) >= runHolds {
		run = &probeRun{done: make(chan struct{})}
		s.run = run
		r.startRun(now, s, run)
	}
	r.mu.Unlock()
	select {
	case <-run.done:
		return run.found, nil
	case <-r.ctx.Done():
		return nil, &noRegionError{"the gateway is stopping"}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// startRun probes all paths that new sessions might take. The caller holds mu.
func (r *regions) startRun(now time.Time, s *callService, run *probeRun) {
	var probes sync.WaitGroup
	for _, g := range s.regions {
		if !g.active(now) {
			continue
		}
		for _, rg := range g.rungs {
			p := rg.current
			if p == nil {
				continue
			}
			d := p.duty(now)
			if !p.worked && d.another && now.Before(p.next(now, d)) {
				continue
			}
			p.sent(now, r.jitter())
			probes.Add(1)
			r.spawn(func(ctx context.Context) {
				defer probes.Done()
				p.probeOnce(ctx, d.inUse)
			})
		}
	}
	r.spawn(func(context.Context) {
		probes.Wait()
		r.mu.Lock()
		run.found, run.ended = s.status(), r.now()
		r.mu.Unlock()
		close(run.done)
	})
}

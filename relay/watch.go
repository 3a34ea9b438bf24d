package relay

import (
	"context"
	"fmt"
	"time"
)

const (
	// headStart is what a better rung has before the next one is tried, for probes after the start and for uplinks.
	headStart = 250 * time.Millisecond
	// tickSessions is how often the packets of sessions are looked at while there are any.
	tickSessions = 100 * time.Millisecond
	// tickMost bounds how long nothing is looked at.
	tickMost = 5 * time.Second
	// stallGap is a gap between two looks that is not explained by a busy machine's scheduling.
	stallGap = 500 * time.Millisecond
	// deepEvery is how often a real allocation is made on the rung in use.
	deepEvery   = time.Minute
	deepTimeout = 5 * time.Second
	// proxyTimeout ends a probe through the company's proxy, which resolves and dials in that time.
	proxyTimeout = 8 * time.Second
	// wantedFor is how long a region that is not for use is probed after a client has asked for it.
	wantedFor = 10 * time.Minute
)

// run looks at everything when something is due.
func (r *regions) run() {
	defer r.wg.Done()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-r.ctx.Done():
			return
		case <-r.kick:
		case <-timer.C:
		}
		if r.idle() {
			return
		}
		wake, dead := r.look()
		for _, u := range dead {
			u.die()
		}
		r.say()
		timer.Reset(max(wake, time.Millisecond))
	}
}

func (r *regions) nudge() {
	select {
	case r.kick <- struct{}{}:
	default:
	}
}

// look does what is due now, and returns when to look again and the uplinks that died.
func (r *regions) look() (time.Duration, []*uplink) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	stall := now.Sub(r.planned)
	next := now.Add(tickMost)
	var dead []*uplink
	for _, s := range r.services {
		for _, g := range s.regions {
			for _, rg := range g.rungs {
				for _, p := range rg.paths {
					if stall > stallGap {
						p.stalled(stall)
					}
					dead = append(dead, p.look(now)...)
				}
			}
			if at := g.look(now); at.Before(next) {
				next = at
			}
		}
		if !r.retired {
			r.choose(now, s)
		}
	}
	r.planned = next
	return next.Sub(now), dead
}

// look gathers what sessions received, and returns the uplinks of a path that has died.
func (p *path) look(now time.Time) []*uplink {
	if p.seen.Swap(false) {
		p.packet(now)
	}
	if !p.dead(now, p.duty(now)) {
		return nil
	}
	p.die(now)
	p.rung.elect()
	cause := &deadError{text: fmt.Sprintf("region %s: %s is dead: %s", p.rung.region.name, p.rung.name, p.reason)}
	dead := make([]*uplink, 0, len(p.uplinks))
	for u := range p.uplinks {
		u.cause = cause
		dead = append(dead, u)
	}
	clear(p.uplinks)
	p.rung.region.tell(now)
	return dead
}

// duty is what the path is there for.
func (p *path) duty(now time.Time) duty {
	g := p.rung.region
	d := duty{sessions: len(p.uplinks) > 0, inUse: p == p.rung.current && g.best() == p.rung}
	for _, rg := range g.rungs {
		d.another = d.another || rg.usable() && rg.current != p
		for _, q := range rg.paths {
			if q == p || q.state != stateUp || len(q.uplinks) == 0 || !q.doubtful(now) {
				continue
			}
			if since := q.unansweredSince.Add(q.patience()); since.After(d.alarm) {
				d.alarm = since
			}
		}
	}
	return d
}

// active reports whether the region is probed: it is for use, somebody asked for it, or sessions are on it.
func (g *region) active(now time.Time) bool {
	if !g.out.retired && (g.use || now.Before(g.wantedUntil)) {
		return true
	}
	for _, rg := range g.rungs {
		for _, p := range rg.paths {
			if len(p.uplinks) > 0 {
				return true
			}
		}
	}
	return false
}

// look starts what is due in the region and returns when something will be.
func (g *region) look(now time.Time) time.Time {
	next := now.Add(tickMost)
	if !g.active(now) {
		g.awake = false
		return next
	}
	if !g.awake {
		g.awake = true
		for i, rg := range g.rungs {
			// The better rungs have a head start, a short one: their first answers should not wait in one queue.
			rg.resolveAt = now.Add(time.Duration(i) * headStart / 2)
		}
	}
	for _, rg := range g.rungs {
		if at := rg.look(now); at.Before(next) {
			next = at
		}
	}
	return next
}

func (r *rung) look(now time.Time) time.Time {
	next := now.Add(tickMost)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	if !r.resolving && !r.region.out.retired {
		if !now.Before(r.resolveAt) {
			r.startResolving()
		} else {
			sooner(r.resolveAt)
		}
	}
	for _, p := range r.paths {
		d := p.duty(now)
		if r.region.out.retired && !d.sessions {
			continue
		}
		if d.sessions {
			sooner(now.Add(tickSessions))
		}
		if p != r.current && r.usable() && !r.current.gone && !d.sessions {
			continue // its twin does
		}
		due := p.next(now, d)
		if !now.Before(due) {
			p.startProbe(now, d)
			due = p.next(now, d)
		}
		sooner(due)
		if p.state == stateUp && p.unanswered > 0 {
			sooner(now.Add(probeFast))
		}
		p.startDeep(now, d)
	}
	return next
}

func (r *rung) startResolving() {
	out := r.region.out
	r.resolving = true
	out.spawn(func(ctx context.Context) {
		addrs, err := r.resolve(ctx)
		out.found(func(now time.Time) {
			if ctx.Err() == nil {
				r.resolved(now, addrs, err)
				r.region.tell(now)
			}
		})
	})
}

// found applies a finding under the lock, and has everything looked at again.
func (r *regions) found(apply func(now time.Time)) {
	r.mu.Lock()
	apply(r.now())
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	r.say()
	r.nudge()
}

// startProbe sends one probe along the path.
func (p *path) startProbe(now time.Time, d duty) {
	out := p.rung.region.out
	p.sent(now, out.jitter())
	keep := d.sessions || d.inUse || p.recovering()
	out.spawn(func(ctx context.Context) { p.probeOnce(ctx, keep) })
}

// probeOnce is one probe and what follows from it.
func (p *path) probeOnce(parent context.Context, keep bool) {
	limit := answerTimeout
	if p.rung.kind == rungProxy {
		limit = proxyTimeout
	}
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	rtt, err := p.ping(ctx, keep)
	if parent.Err() != nil {
		return
	}
	p.rung.region.out.found(func(now time.Time) {
		if err == nil {
			p.answered(now, rtt)
		} else {
			p.missed(now, p.rung.explain(err))
		}
		p.rung.elect()
		p.rung.region.tell(now)
	})
}

// startDeep makes a real allocation where the service gave credentials for it: on the rung in use, now and then.
func (p *path) startDeep(now time.Time, d duty) {
	g := p.rung.region
	wanted := d.inUse || p.refuses != "" && p == p.rung.current
	if g.of.account == nil || !wanted || p.state != stateUp || p.deepBusy || now.Before(p.deepAt) {
		return
	}
	p.deepBusy = true
	p.deepAt = now.Add(time.Duration(float64(deepEvery) * g.out.jitter()))
	g.out.spawn(p.deepOnce)
}

func (p *path) deepOnce(parent context.Context) {
	ctx, cancel := context.WithTimeout(parent, deepTimeout)
	defer cancel()
	var finding deepFinding
	username, password, none := p.rung.region.of.account.get(ctx)
	err := none
	if none == nil {
		finding, err = p.deep(ctx, username, password)
	}
	if parent.Err() != nil {
		return
	}
	p.rung.region.out.found(func(now time.Time) {
		p.deepBusy = false
		if none != nil { // that says nothing about the region
			p.note = none.Error()
		} else {
			p.learn(now, finding, err)
		}
		p.rung.elect()
		p.rung.region.tell(now)
	})
}

// learn takes what a real allocation taught. One that got no answer at all says something only if Binding does get
// one; the path's own probes say that.
func (p *path) learn(now time.Time, f deepFinding, err error) {
	switch {
	case err != nil && (p.state != stateUp || p.doubtful(now) || p.failures > 0):
		return
	case err != nil:
		f.refuses = "it answers Binding, but not Allocate: " + p.rung.explain(err)
	case f.tried && !f.looped && p.looped:
		f.refuses = "packets through its relay no longer come back"
	case f.looped:
		p.looped = true
	}
	p.refuses, p.note = f.refuses, f.note
}

// choose looks at a service's regions again.
func (r *regions) choose(now time.Time, s *callService) {
	s.accept(now)
	cands := make([]candidate, 0, len(s.regions))
	for _, g := range s.regions {
		if !g.use {
			continue
		}
		c := candidate{name: g.name}
		if rg := g.best(); rg != nil {
			c.rtt, c.usable = rg.current.rtt, true
		}
		cands = append(cands, c)
	}
	made := s.choice.update(now, now.Before(s.settleUntil), cands)
	if made == nil {
		return
	}
	if made.from == "" {
		s.settleUntil = now.Add(settleTime)
	}
	r.tellChoice(now, s, made)
}

// accept ends the quiet period of a path that answers again when the service has nothing else: there is nothing to flap
// from.
func (s *callService) accept(now time.Time) {
	var best *path
	for _, g := range s.regions {
		if !g.use {
			continue
		}
		if g.best() != nil {
			return
		}
		for _, rg := range g.rungs {
			if p := rg.current; p != nil && p.recovering() && now.Sub(p.quietFrom) >= probeQuiet && (best == nil || p.rtt < best.rtt) {
				best = p
			}
		}
	}
	if best != nil {
		best.set(stateUp, "", now)
		best.rung.region.tell(now)
	}
}

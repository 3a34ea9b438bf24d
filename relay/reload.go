package relay

import (
	"fmt"
	"reflect"
	"slices"
	"time"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// setup is what one configuration makes of a Server. It never changes: another configuration is another setup.
type setup struct {
	config  *configs.Config
	dialer  *netpolicy.Dialer
	regions *regions
}

func (s *Server) newSetup(c *configs.Config, d *netpolicy.Dialer, events *eventRing) (*setup, error) {
	r, err := buildRegions(regionsOptions{Config: c, Dialer: d, Events: events, Log: s.log, Now: s.now})
	if err != nil {
		return nil, fmt.Errorf("relay: regions: %w", err)
	}
	return &setup{config: c, dialer: d, regions: r}, nil
}

func (s *Server) config() *configs.Config { return s.setup.Load().config }

func (s *Server) regions() *regions { return s.setup.Load().regions }

// Prepare makes what another configuration needs, beside what runs. Calling use puts it in place; never calling it changes
// nothing. Sessions stay on the uplinks they have, whose rungs are watched to the end; what was found out about regions that the new
// configuration reaches in the same way is kept. relay.mode and relay.secret_file stay as they were.
func (s *Server) Prepare(c *configs.Config, d *netpolicy.Dialer) (use func(), err error) {
	now := s.setup.Load()
	next, err := s.newSetup(c, d, now.regions.events)
	if err != nil {
		return nil, err
	}
	useEngine, err := s.prepareEngine(c, d)
	if err != nil {
		next.regions.close()
		return nil, err
	}
	return func() {
		useEngine()
		s.table.limit(c.Limits)
		s.strangers.limit(c.Limits.PendingPerClient)
		s.replace(next)
	}, nil
}

// replace puts a setup in the place of the one that there is.
func (s *Server) replace(next *setup) {
	last := s.setup.Load()
	if last.sameWay(next) { // nothing that was found out is put at risk
		next.regions.close()
		s.setup.Store(&setup{config: next.config, dialer: last.dialer, regions: last.regions})
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		next.regions.close()
		return
	}
	next.regions.inherit(last.regions)
	if s.started {
		_ = next.regions.start(s.ctx) // it was never started before
	}
	s.setup.Store(next)
	last.regions.retire()
	s.retired = append(slices.DeleteFunc(s.retired, (*regions).isClosed), last.regions)
}

// sameWay reports whether nothing differs in how the regions are reached.
func (a *setup) sameWay(b *setup) bool {
	return a.dialer == b.dialer && reflect.DeepEqual(a.config.Services, b.config.Services) &&
		slices.Equal(a.config.Relay.Rungs, b.config.Relay.Rungs) && a.regions.dscp == b.regions.dscp &&
		slices.EqualFunc(a.regions.services, b.regions.services, func(a, b *callService) bool {
			return a.sameTrust(b) && a.account.same(b.account)
		})
}

// sameTrust reports whether two services accept the same certificates.
func (s *callService) sameTrust(other *callService) bool {
	if s.roots == nil || other.roots == nil {
		return s.roots == other.roots
	}
	return s.roots.Equal(other.roots)
}

func (s *Server) listRetired() []*regions {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.retired)
}

func (s *Server) takeRetired() []*regions {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.retired
	s.retired = nil
	return all
}

// enter counts one who looks for a way; false: another has taken this one's place. Each success owes one leave.
func (r *regions) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.retired {
		return false
	}
	r.entered++
	return true
}

func (r *regions) leave() {
	r.mu.Lock()
	r.entered--
	r.mu.Unlock()
	r.nudge()
}

// retire lets nothing new in. What lives is watched until its end, and then run ends.
func (r *regions) retire() {
	r.mu.Lock()
	r.retired = true
	r.mu.Unlock()
	r.nudge()
}

// idle reports whether the way out is retired and nobody is on it any more; then it is closed.
func (r *regions) idle() bool {
	r.mu.Lock()
	idle := r.retired && r.entered == 0
	for p := range r.everyPath() {
		idle = idle && len(p.uplinks) == 0
	}
	r.mu.Unlock()
	if idle {
		go r.close() // waits for the goroutine that asks
	}
	return idle
}

func (r *regions) isClosed() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.closed
}

// addSessions adds the sessions that are still on a retired way out to where they are shown.
func (r *regions) addSessions(list []RegionStatus) {
	for _, old := range r.status() {
		i := slices.IndexFunc(list, func(st RegionStatus) bool { return st.Service == old.Service && st.Name == old.Name })
		if i < 0 {
			continue // no longer configured: its sessions are in their own list
		}
		list[i].Sessions += old.Sessions
		for _, rung := range old.Rungs {
			if j := slices.IndexFunc(list[i].Rungs, func(st RungStatus) bool { return st.Name == rung.Name }); j >= 0 {
				list[i].Rungs[j].Sessions += rung.Sessions
			}
		}
	}
}

// inherit takes over what the last way out has found out about regions that this one reaches in the same way. It has not started.
func (r *regions) inherit(last *regions) {
	last.mu.Lock()
	defer last.mu.Unlock()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.dialer != last.dialer || r.dscp != last.dscp {
		return // another way altogether
	}
	now := r.now()
	for _, s := range r.services {
		i := slices.IndexFunc(last.services, func(o *callService) bool { return o.name == s.name })
		if i >= 0 && reflect.DeepEqual(last.services[i].scope, s.scope) && s.sameTrust(last.services[i]) {
			s.inherit(last.services[i], now)
		}
	}
}

func (s *callService) inherit(last *callService, now time.Time) {
	for _, g := range s.regions {
		i := slices.IndexFunc(last.regions, func(o *region) bool { return o.name == g.name })
		if i < 0 {
			continue
		}
		old := last.regions[i]
		g.inherit(old)
		if last.choice.region == g.name && g.use {
			s.choice = last.choice
		}
		for key, until := range last.sticky {
			if key.region == old && now.Before(until) {
				s.sticky[stickyClient{key.client, g}] = until
			}
		}
	}
	s.settleUntil = last.settleUntil
}

func (g *region) inherit(last *region) {
	g.wantedUntil, g.cutUntil, g.awake = last.wantedUntil, last.cutUntil, last.awake
	g.told = tale{state: last.told.state, unnamed: last.told.unnamed, rungs: make(map[*rung]toldRung)}
	for _, rg := range g.rungs {
		i := slices.IndexFunc(last.rungs, func(o *rung) bool { return o.kind == rg.kind && o.host == rg.host && o.port == rg.port })
		if i < 0 {
			continue
		}
		rg.inherit(last.rungs[i])
		if told, ok := last.told.rungs[last.rungs[i]]; ok {
			g.told.rungs[rg] = told
		}
	}
}

func (r *rung) inherit(last *rung) {
	r.failures, r.unnamed, r.resolveAt = last.failures, last.unnamed, last.resolveAt
	for _, old := range last.paths {
		if old.gone {
			continue
		}
		p := &path{rung: r, addr: old.addr, health: old.health, uplinks: make(map[*uplink]struct{}), deepAt: old.deepAt, looped: old.looped}
		p.deaths = slices.Clone(old.deaths)
		r.paths = append(r.paths, p)
		if old == last.current {
			r.current = p
		}
	}
	r.elect()
}

// limit changes the bounds from now on; what there is stays.
func (t *table) limit(l configs.Limits) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.limits = l
}

// prepareEngine is Prepare for the engine and what makes relayed addresses in the server's mode.
func (s *Server) prepareEngine(c *configs.Config, d *netpolicy.Dialer) (use func(), err error) {
	bounds, err := newEngineBounds(c)
	if err != nil {
		return nil, err
	}
	known, err := newGuests(c)
	if err != nil {
		return nil, err
	}
	useMain := func() {}
	if s.engine.main != nil && c.Relay.Mode == s.config().Relay.Mode {
		if useMain, err = s.engine.main.prepare(c, d); err != nil {
			return nil, err
		}
	}
	return func() {
		useMain()
		s.engine.bound(bounds)
		s.engine.guests.Store(&known)
	}, nil
}

package relay

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

const (
	// headStart is what a better rung has before the next one is tried, for probes after the start and for uplinks.
	headStart = 250 * time.Millisecond
	// tickSessions is how often the packets of sessions are looked at while there are any.
	tickSessions = 200 * time.Millisecond
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

// regions is the way out: the regions of all services, their rungs, what probes found out about them, and which of them
// new sessions take.
//
// One goroutine, run, looks at everything when something is due and starts what takes time (resolving, probing) in
// goroutines of their own; their findings come back under mu. The rules themselves are in health, choice and the ladder and know no clock.
type regions struct {
	dialer   *netpolicy.Dialer
	log      *slog.Logger
	now      func() time.Time
	jitter   func() float64
	dscp     int
	services []*callService
	events   *eventRing
	unlist   func() // takes the metrics back

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup
	kick   chan struct{} // something is due earlier than run thinks

	mu      sync.Mutex
	started bool
	closed  bool
	planned time.Time     // when run meant to look again
	changed chan struct{} // closed and made anew when anything was found out
	unsaid  []RegionEvent // to be logged when mu is free
}

// callService is one call service as the way out sees it.
type callService struct {
	name    string
	scope   netpolicy.Scope
	roots   *x509.CertPool // nil: the system's
	asAsked bool
	account *probeAccount
	regions []*region

	// Guarded by regions.mu.
	choice      choice
	settleUntil time.Time
	sticky      map[stickyClient]time.Time // until when a client goes to the region it asked for
	run         *probeRun                  // the newest that ProbeNow started
}

// region is one cloud relay location of a service.
type region struct {
	service string
	name    string

	out   *regions
	of    *callService
	use   bool
	hosts []string // that its URLs name, also of rungs that are not allowed
	rungs []*rung  // the ladder, the best first

	// Guarded by regions.mu.
	wantedUntil time.Time
	awake       bool // probed since it last became active
	told        tale
}

// newRegions builds the way out of a server's configuration. It touches no network.
func newRegions(s *Server) (*regions, error) {
	return buildRegions(regionsOptions{Config: s.config, Dialer: s.dialer, Registry: s.registry, Log: s.log, Now: s.now})
}

// regionsOptions are the world of the way out.
type regionsOptions struct {
	Config   *configs.Config
	Dialer   *netpolicy.Dialer
	Registry prometheus.Registerer // nil: no metrics
	Log      *slog.Logger
	Now      func() time.Time
	// Jitter draws the factor that a wait is stretched by. nil: 0.8 to 1.2.
	Jitter func() float64
}

func buildRegions(o regionsOptions) (*regions, error) {
	out := &regions{
		dialer: o.Dialer, log: o.Log, now: o.Now, jitter: o.Jitter, events: &eventRing{},
		kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	if out.jitter == nil {
		out.jitter = func() float64 { return 0.8 + 0.4*rand.Float64() }
	}
	var err error
	if out.dscp, err = configs.ParseDSCP(o.Config.Relay.DSCP); err != nil {
		return nil, fmt.Errorf("relay.dscp %q: %w", o.Config.Relay.DSCP, err)
	}
	for i := range o.Config.Services {
		s, err := out.newService(&o.Config.Services[i], o.Config.Relay.Rungs)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", o.Config.Services[i].Name, err)
		}
		out.services = append(out.services, s)
	}
	if out.unlist, err = registerRegions(o.Registry, out); err != nil {
		return nil, fmt.Errorf("metrics: %w", err)
	}
	out.ctx, out.cancel = context.WithCancel(context.Background())
	return out, nil
}

func (r *regions) newService(c *configs.Service, allowed []string) (*callService, error) {
	s := &callService{
		name: c.Name, scope: netpolicy.Scope{Private: c.PrivateNetworks}, asAsked: c.Choose == "as-asked",
		sticky: make(map[stickyClient]time.Time),
	}
	var err error
	if s.roots, err = rootsWith(c.CAFile); err != nil {
		return nil, fmt.Errorf("ca_file: %w", err)
	}
	if s.account, err = newProbeAccount(c.TURNCredentials); err != nil {
		return nil, err
	}
	var proxy *netpolicy.Proxy
	if r.dialer != nil {
		proxy = r.dialer.Proxy
	}
	for i := range c.Regions {
		g := &region{service: c.Name, name: c.Regions[i].Name, out: r, of: s, use: c.Regions[i].Use}
		for _, u := range c.Regions[i].Relays() {
			g.hosts = append(g.hosts, u.Host)
		}
		g.rungs = newRungs(g, c.Regions[i].Relays(), allowed, proxy)
		s.regions = append(s.regions, g)
	}
	return s, nil
}

// rootsWith is the system's roots and those in file; nil, which means the system's, when there is no file.
func rootsWith(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate in PEM", file)
	}
	return pool, nil
}

// start begins probing; close ends it.
func (r *regions) start(context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || r.started {
		return errors.New("started twice, or after close")
	}
	r.started = true
	r.planned = r.now()
	r.wg.Add(1)
	go r.run()
	return nil
}

// close ends all probing and waits for it. Uplinks belong to their sessions and stay open.
func (r *regions) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	for p := range r.everyPath() {
		p.probe.close()
	}
	r.unlist()
}

func (r *regions) everyPath() func(yield func(*path) bool) {
	return func(yield func(*path) bool) {
		for _, s := range r.services {
			for _, g := range s.regions {
				for _, rg := range g.rungs {
					for _, p := range rg.paths {
						if !yield(p) {
							return
						}
					}
				}
			}
		}
	}
}

// spawn runs f in a goroutine that close waits for. The caller holds mu.
func (r *regions) spawn(f func(ctx context.Context)) {
	if r.closed {
		return
	}
	r.wg.Add(1)
	go func() {
		defer r.wg.Done()
		f(r.ctx)
	}()
}

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
		r.choose(now, s)
	}
	r.planned = next
	return next.Sub(now), dead
}

// look gathers what sessions received, and returns the uplinks of a path that has died.
func (p *path) look(now time.Time) []*uplink {
	if p.seen.Swap(false) {
		p.packet(now)
	}
	if !p.dead(now, p.duty()) {
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
func (p *path) duty() duty {
	g := p.rung.region
	d := duty{sessions: len(p.uplinks) > 0, inUse: p == p.rung.current && g.best() == p.rung}
	for _, rg := range g.rungs {
		d.another = d.another || rg.usable() && rg.current != p
	}
	return d
}

// best is the rung that new sessions of the region take; nil when none is usable.
func (g *region) best() *rung {
	for _, rg := range g.rungs {
		if rg.usable() {
			return rg
		}
	}
	return nil
}

// active reports whether the region is probed: it is for use, somebody asked for it, or sessions are on it.
func (g *region) active(now time.Time) bool {
	if g.use || now.Before(g.wantedUntil) {
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

func (rg *rung) look(now time.Time) time.Time {
	next := now.Add(tickMost)
	sooner := func(at time.Time) {
		if at.Before(next) {
			next = at
		}
	}
	if !rg.resolving {
		if !now.Before(rg.resolveAt) {
			rg.startResolving()
		} else {
			sooner(rg.resolveAt)
		}
	}
	for _, p := range rg.paths {
		d := p.duty()
		if d.sessions {
			sooner(now.Add(tickSessions))
		}
		if p != rg.current && rg.usable() && !rg.current.gone && !d.sessions {
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

func (rg *rung) startResolving() {
	out := rg.region.out
	rg.resolving = true
	out.spawn(func(ctx context.Context) {
		addrs, err := rg.resolve(ctx)
		out.found(func(now time.Time) {
			if ctx.Err() == nil {
				rg.resolved(now, addrs, err)
				rg.region.tell(now)
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
	username, password := g.of.account.at(now)
	g.out.spawn(func(ctx context.Context) { p.deepOnce(ctx, username, password) })
}

func (p *path) deepOnce(parent context.Context, username, password string) {
	ctx, cancel := context.WithTimeout(parent, deepTimeout)
	defer cancel()
	finding, err := p.deep(ctx, username, password)
	if parent.Err() != nil {
		return
	}
	p.rung.region.out.found(func(now time.Time) {
		p.deepBusy = false
		p.learn(now, finding, err)
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

// serviceNamed finds a service; the first when name is empty, nil when there is none.
func (r *regions) serviceNamed(name string) *callService {
	for _, s := range r.services {
		if s.name == name || name == "" {
			return s
		}
	}
	return nil
}

// regionOfHost finds the region that one of a service's relays belongs to; nil when there is none.
func (s *callService) regionOfHost(host string) *region {
	if host = configs.CanonicalHost(host); host == "" {
		return nil
	}
	for _, g := range s.regions {
		if slices.Contains(g.hosts, host) {
			return g
		}
	}
	return nil
}

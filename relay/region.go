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

// regions is the way out: the regions of all services, their rungs, what probes found out about them, and which of them
// new sessions take.
//
// One goroutine, run, looks at everything when something is due and starts what takes time (resolving, probing) in
// goroutines of their own; their findings come back under mu. The rules themselves are in health, choice and the ladder
// and know no clock.
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
	retired bool          // nothing new comes: only what lives is watched, to its end
	entered int           // sessions that are looking for a way
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
	account *cloudAccount // nil: none was given
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
	cutUntil    time.Time // a drill's end; zero: there was none
	awake       bool      // probed since it last became active
	told        tale
}

// regionsOptions are the world of the way out.
type regionsOptions struct {
	Config   *configs.Config
	Dialer   *netpolicy.Dialer
	Registry prometheus.Registerer // nil: no metrics
	Events   *eventRing            // nil: one of its own
	Log      *slog.Logger
	Now      func() time.Time
	// Jitter draws the factor that a wait is stretched by. nil: 0.8 to 1.2.
	Jitter func() float64
}

func buildRegions(o regionsOptions) (*regions, error) {
	out := &regions{
		dialer: o.Dialer, log: o.Log, now: o.Now, jitter: o.Jitter, events: o.Events,
		kick: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	if out.jitter == nil {
		out.jitter = func() float64 { return 0.8 + 0.4*rand.Float64() }
	}
	if out.events == nil {
		out.events = &eventRing{}
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
	if out.unlist, err = registerRegions(o.Registry, out.status); err != nil {
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
	if s.account, err = newCloudAccount(c, r.dialer, r.now); err != nil {
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

// best is the rung that new sessions of the region take; nil when none is usable, or a drill cuts it.
func (g *region) best() *rung {
	if g.cut() {
		return nil
	}
	for _, rg := range g.rungs {
		if rg.usable() {
			return rg
		}
	}
	return nil
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

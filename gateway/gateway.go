// Package gateway is the composition root: it makes the parts, tells each what it needs of another as a value or a
// function, and starts and drains the whole.
//
// A connection's walk reads like this. portmux accepts it and finds out what it is; doorway.go says which certificate a
// name gets, or to which host it is passed unread; TURN goes to relay, HTTP to ServeHTTP in routes.go, which knows
// CONNECT (forward), the gateway's own pages (status, precall) and the call servers (signaling). Whatever is dialled
// on the way out is judged by the one policy of egress.go.
//
// A configuration may change under all this (reload.go). The parts live as long as the gateway, and with them every session and
// every counter; each part prepares what another configuration needs beside what runs, and when all have, all take it. What a
// configuration makes for the root itself is a generation, exchanged as a whole.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"hafen/configs"
	"hafen/gateway/defect"
	"hafen/gateway/forward"
	"hafen/gateway/portmux"
	"hafen/gateway/status"
	"hafen/precall"
	"hafen/relay"
	"hafen/signaling"
)

// Options are what a gateway is made of.
type Options struct {
	// Config must be valid: see configs.Load.
	Config *configs.Config
	// Load reads the configuration again, for a reload. nil: it can't be.
	Load func() (*configs.Config, error)
	// Reloaded is told each configuration that has been put in place. nil: nobody wants to know.
	Reloaded func(*configs.Config)
	// Log takes the program's lines. nil: silent.
	Log *slog.Logger
	// Version is shown on the status page and in metrics.
	Version string
	// Inherited is what the process found open at its start: see Inherit. nil: nothing.
	Inherited *Inheritance
	// Program, Args and Environ are what this process was started with, for a hand-over to a successor. Program "": there can't be one.
	Program       string
	Args, Environ []string
	// PlainPages serves pages and call servers over plain HTTP as well, instead of a redirect to https: for the demo on
	// loopback, which browsers take for a secure context.
	PlainPages bool
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// Gateway is a running gateway. Start binds and returns; Drain ends it gently, Stop at once.
type Gateway struct {
	opts     Options
	now      atomic.Pointer[generation]
	log      *slog.Logger
	registry *prometheus.Registry
	started  time.Time

	mux       *portmux.Mux
	relay     *relay.Server
	splicer   *relay.Splicer
	signaling *signaling.Proxy
	ledger    *ledger // of what calls there were
	addresses *addressBook
	forward   *forward.Proxy
	precall   *precall.Server
	runStore  *precall.Store
	runNews   runNews
	sightings *sightings
	resets    *resets
	aaaa      ownAAAA
	status    *status.Server
	database  *database // nil: nothing is shared
	peers     *peers    // nil: there are none
	watch     *watch

	front http.Handler // /
	pages http.Handler // own names

	tlsOwn, tlsRouted, tlsACME *tls.Config

	servers []*http.Server                      // everything that speaks HTTP
	serve   map[string]func(net.Listener) error // by the key that a listener is of
	reloads *reloads
	panics  prometheus.Counter
	defects *defect.Catcher

	handover *handover

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	// Guarded by reloads.mu once it runs.
	sockets   []*socket
	lingering []*socket // of UDP, no longer wanted, whose last clients still live

	bound   atomic.Pointer[addresses]
	passing atomic.Int64 // SNI passthrough connections
	wg      sync.WaitGroup

	deaf                atomic.Bool // a drain found nobody and closed the sockets: whoever was accepted before is served
	drainOnce, stopOnce sync.Once
	draining, drained   chan struct{}
	stopErr             error
}

// New makes the parts. It touches no network; what it can't make, it says in one sentence.
func New(o Options) (*Gateway, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	g := &Gateway{
		opts: o, log: o.Log, registry: prometheus.NewRegistry(), started: o.Now(),
		draining: make(chan struct{}), drained: make(chan struct{}),
	}
	g.sightings, g.resets, g.ledger = newSightings(o.Now), newResets(o.Now), newLedger(o.Config.DataDir, o.Now)
	g.addresses = newAddressBook(o.Config.DataDir, o.Now)
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.reloads = newReloads(g.registry)
	g.handover = newHandover(o.Inherited, g.registry)
	g.panics = prometheus.NewCounter(prometheus.CounterOpts{Name: "hafen_mux_handler_panics_total", Help: "Panics in HTTP handlers: each ended its own request."})
	panics := prometheus.NewCounter(prometheus.CounterOpts{Name: "hafen_mux_panics_total", Help: "Connections and sessions ended by a defect of this program."})
	g.defects = &defect.Catcher{Log: g.log.With("area", "defect"), Count: panics.Inc}
	g.splicer = relay.NewSplicer(g.defects)
	g.registry.MustRegister(panics, g.panics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(o.Version))
	for _, make := range []func() error{g.makeDirs, g.makeDatabase, g.makeGeneration, g.makeWatch, g.makeRelay, g.makeSignaling, g.makeForward, g.makeRunStore, g.makePrecall, g.makeStatus} {
		if err := make(); err != nil {
			g.cancel()
			if g.runStore != nil {
				err = errors.Join(err, g.runStore.Close())
			}
			return nil, err
		}
	}
	g.pages = g.newPages()
	g.makeMux()
	g.makeServers()
	return g, nil
}

// Start binds every listener of the configuration and begins to serve. When one can't be bound nothing stays bound.
func (g *Gateway) Start(ctx context.Context) error {
	if err := g.start(ctx); err != nil {
		_ = g.Stop(ctx)
		return err
	}
	g.log.Info("ready", "version", g.opts.Version, "name", g.config().Name, "listening", fmt.Sprint(g.Addrs()))
	return nil
}

func (g *Gateway) start(ctx context.Context) error {
	g.reloads.mu.Lock()
	defer g.reloads.mu.Unlock()
	bound, err := g.bind(ctx, g.config(), nil)
	if err != nil {
		return err
	}
	g.remember(bound)
	if err := g.startParts(ctx); err != nil {
		return err
	}
	if err := g.takeOver(ctx); err != nil {
		return err
	}
	g.handover.inherited.closeRest()
	for _, s := range bound {
		g.goServe(s)
		s.keepInStore()
	}
	g.keepWatch()
	notify(fmt.Sprintf("READY=1\nMAINPID=%d\nSTATUS=Serving %s", os.Getpid(), g.config().Name))
	return nil
}

func (g *Gateway) startParts(ctx context.Context) error {
	if err := g.startDatabase(ctx); err != nil {
		return err
	}
	if err := g.certs().Start(ctx); err != nil {
		return err
	}
	if err := g.relay.Start(ctx); err != nil {
		return err
	}
	g.forward.Start()
	if err := g.signaling.Start(ctx); err != nil {
		return err
	}
	g.startWatch()
	return nil
}

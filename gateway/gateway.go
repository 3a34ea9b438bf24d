// Package gateway is the composition root: it makes the parts, tells each what it needs of another as a value or a
// function, and starts and drains the whole.
//
// A connection's walk reads like this. portmux accepts it and finds out what it is; doorway.go says which certificate a
// name gets, or to which host it is passed unread; TURN goes to relay, HTTP to ServeHTTP in routes.go, which knows
// CONNECT (forward), the gateway's own pages (status, precall) and the call servers (signaling). Whatever is dialled
// on the way out is judged by the one policy of egress.go.
package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"hafen/configs"
	"hafen/gateway/certs"
	"hafen/gateway/forward"
	"hafen/gateway/netpolicy"
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
	// Log takes the program's lines. nil: silent.
	Log *slog.Logger
	// Version is shown on the status page and in metrics.
	Version string
	// PlainPages serves pages and call servers over plain HTTP as well, instead of a redirect to https: for the demo on
	// loopback, which browsers take for a secure context.
	PlainPages bool
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// Gateway is a running gateway. Start binds and returns; Drain ends it gently, Stop at once.
type Gateway struct {
	opts     Options
	cfg      *configs.Config
	log      *slog.Logger
	registry *prometheus.Registry
	started  time.Time

	dialer    *netpolicy.Dialer
	certs     *certs.Store
	mux       *portmux.Mux
	relay     *relay.Server
	signaling *signaling.Proxy
	forward   *forward.Proxy
	precall   *precall.Server
	runStore  *precall.Store
	status    *status.Server

	front http.Handler // /
	pages http.Handler // own names

	tlsOwn, tlsRouted, tlsACME *tls.Config

	servers []*http.Server // everything that speaks HTTP
	reloads *prometheus.CounterVec
	panics  prometheus.Counter

	ctx     context.Context // ends with Stop
	cancel  context.CancelFunc
	bound   atomic.Pointer[[]netip.AddrPort]
	addrs   []net.Addr   // of listen.https first
	passing atomic.Int64 // SNI passthrough connections
	udp     []netip.AddrPort
	wg      sync.WaitGroup

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
		opts: o, cfg: o.Config, log: o.Log, registry: prometheus.NewRegistry(), started: o.Now(),
		draining: make(chan struct{}), drained: make(chan struct{}),
	}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.reloads = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hafen_config_reloads_total", Help: "Reloads asked for, by result."}, []string{"result"})
	g.panics = prometheus.NewCounter(prometheus.CounterOpts{Name: "hafen_mux_handler_panics_total", Help: "Panics in HTTP handlers: each ended its own request."})
	g.registry.MustRegister(g.reloads, g.panics, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(o.Version))
	for _, make := range []func() error{g.makeDirs, g.makeEgress, g.makeCerts, g.makeRelay, g.makeSignaling, g.makeForward, g.makeRunStore, g.makePrecall, g.makeStatus} {
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
	return g, nil
}

// Start binds every listener of the configuration and begins to serve. When one can't be bound nothing stays bound.
func (g *Gateway) Start(ctx context.Context) error {
	if err := g.start(ctx); err != nil {
		_ = g.Stop(ctx)
		return err
	}
	g.log.Info("ready", "version", g.opts.Version, "name", g.cfg.Name, "listening", fmt.Sprint(g.addrs))
	return nil
}

func (g *Gateway) start(ctx context.Context) error {
	tcp, udp, err := g.bind(ctx)
	if err != nil {
		return err
	}
	if err := g.startParts(ctx); err != nil {
		closeAll(tcp, udp)
		return err
	}
	for _, b := range tcp {
		g.goServe(func() error { return b.serve(b.Listener) })
	}
	for _, pc := range udp {
		g.goServe(func() error { return g.relay.ServePacket(pc) })
	}
	return nil
}

func (g *Gateway) startParts(ctx context.Context) error {
	if err := g.certs.Start(ctx); err != nil {
		return err
	}
	if err := g.relay.Start(ctx); err != nil {
		return err
	}
	g.forward.Start()
	return g.signaling.Start(ctx)
}

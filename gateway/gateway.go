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
	"os"
	"path/filepath"
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
	status    *status.Server

	front http.Handler // /
	pages http.Handler // own names

	tlsOwn, tlsRouted, tlsACME *tls.Config

	servers []*http.Server // everything that speaks HTTP

	ctx    context.Context // ends with Stop
	cancel context.CancelFunc
	bound  atomic.Pointer[[]netip.AddrPort]
	addrs  []net.Addr // of listen.https first
	udp    []netip.AddrPort
	wg     sync.WaitGroup

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
	g.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), buildInfo(o.Version))
	for _, make := range []func() error{g.makeDirs, g.makeEgress, g.makeCerts, g.makeRelay, g.makeSignaling, g.makeForward, g.makePrecall, g.makeStatus} {
		if err := make(); err != nil {
			g.cancel()
			return nil, err
		}
	}
	g.pages = g.newPages()
	g.makeMux()
	return g, nil
}

// buildInfo is hafen_build_info{version}.
func buildInfo(version string) prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "hafen_build_info", Help: "1, with the version of the program.",
		ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	return info
}

func (g *Gateway) makeDirs() error {
	for key, dir := range map[string]string{"data_dir": g.cfg.DataDir, "run_dir": g.cfg.RunDir} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("%s: %w; make it and give it to the user that hafen runs as", key, err)
		}
	}
	return nil
}

func (g *Gateway) makeEgress() (err error) {
	g.dialer, err = newEgress(g.cfg, g.listening)
	return err
}

func (g *Gateway) makeCerts() (err error) {
	g.certs, err = certs.New(certs.Options{Config: g.cfg, HTTP01: len(g.cfg.Listen.HTTP) > 0, Registry: g.registry, Log: g.log.With("area", "tls"), Now: g.opts.Now})
	if err != nil {
		return err
	}
	// stun.turn is RFC 7443. Own names offer no h2: every tunnel keeps a TCP connection of its own.
	g.tlsOwn = portmux.ServerConfig(g.certs.Certificate, "http/1.1", "stun.turn")
	g.tlsRouted = portmux.ServerConfig(g.certs.Certificate, "h2", "http/1.1", "stun.turn")
	g.tlsACME = portmux.ServerConfig(g.certs.Certificate, acmeTLS)
	return nil
}

func (g *Gateway) makeRelay() (err error) {
	g.relay, err = relay.New(relay.Options{Config: g.cfg, Dialer: g.dialer, Registry: g.registry, Log: g.log.With("area", "relay"), Now: g.opts.Now})
	return err
}

func (g *Gateway) makeSignaling() (err error) {
	g.signaling, err = signaling.New(signaling.Options{Config: g.cfg, Dial: g.dialService, Registry: g.registry, Log: g.log.With("area", "signaling"), Now: g.opts.Now})
	return err
}

func (g *Gateway) makeForward() (err error) {
	g.forward, err = forward.New(forward.Options{
		Config: g.cfg, Dial: g.dialTunnel, STUN: g.tunnelSTUN, OmitHTTPS: g.untrusted, Verify: status.VerifyPassword, DialParent: g.dialHouse, Registry: g.registry, Log: g.log.With("area", "forward"),
	})
	return err
}

// untrusted reports whether browsers turn away from our certificate unless somebody installed its root.
func (g *Gateway) untrusted() bool { return g.cfg.TLS.Source == "self-signed" }

// dialTunnel dials the target of a CONNECT: through the company proxy only when it is a name of the configuration.
func (g *Gateway) dialTunnel(ctx context.Context, host string, port uint16, service string) (net.Conn, error) {
	addr := net.JoinHostPort(host, fmt.Sprint(port))
	if s := g.cfg.ServiceNamed(service); s != nil {
		return g.dialer.DialVia(ctx, "tcp", addr, scopeOf(s))
	}
	return g.dialer.DialContext(ctx, "tcp", addr, netpolicy.Scope{})
}

// dialHouse dials a server of the house that the configuration names, which is where private addresses are.
func (g *Gateway) dialHouse(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dialer.DialContext(ctx, network, addr, netpolicy.Scope{Private: []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"),
	}})
}

// makeMux puts the owners of each protocol behind the port.
func (g *Gateway) makeMux() {
	// The listeners' addresses are for logs only: connections come from the mux.
	front, plain, refused := portmux.NewListener(nil), portmux.NewListener(nil), portmux.NewListener(nil)
	g.serveHTTP(front, g)
	g.serveHTTP(plain, http.HandlerFunc(g.plainHTTP))
	g.serveHTTP(refused, http.HandlerFunc(g.refuse))
	limits := g.cfg.Limits
	g.mux = portmux.New(portmux.Options{
		Admit:        g.admit,
		TrustedProxy: func(a netip.Addr) bool { return contains(g.cfg.Listen.ProxyProtocolFrom, a) },
		Hello:        g.hello,
		STUN:         g.stun,
		HTTP: func(c *portmux.Conn) {
			if c.Hello() == nil {
				plain.Hand(c)
				return
			}
			front.Hand(c)
		},
		Splice:   g.splice,
		Refused:  refused.Hand,
		Limits:   portmux.Limits{ConnectionsPerClient: limits.ConnectionsPerClient, PendingPerClient: limits.PendingPerClient},
		Observe:  g.observe,
		Registry: g.registry,
		Log:      g.log.With("area", "mux"),
		Now:      g.opts.Now,
	})
}

// plainHTTP is HTTP without TLS on the main port: CONNECT for browsers that can't speak TLS to a proxy, and a redirect.
func (g *Gateway) plainHTTP(w http.ResponseWriter, r *http.Request) {
	if g.opts.PlainPages || r.Method == http.MethodConnect {
		g.ServeHTTP(w, r)
		return
	}
	g.redirect(w, r)
}

// serveHTTP runs an http.Server for the connections that a listener hands out. Heads have a deadline; bodies and
// answers have none here, for a long-poll and a tunnel take as long as they take: their owners bound them.
func (g *Gateway) serveHTTP(ln net.Listener, h http.Handler) {
	srv := &http.Server{
		Handler: h, ConnContext: portmux.Context, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, DisableGeneralOptionsHandler: true, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	g.servers = append(g.servers, srv)
	g.goServe(func() error { return srv.Serve(ln) })
}

// goServe runs a serving loop until Stop; what ends it early is logged.
func (g *Gateway) goServe(serve func() error) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			g.log.Error("a listener ended", "err", err)
		}
	}()
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
		for _, b := range tcp {
			_ = b.Close()
		}
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

// boundTCP is a bound listener and what serves it.
type boundTCP struct {
	net.Listener
	serve func(net.Listener) error
}

// bind opens every listener of the configuration, or none.
func (g *Gateway) bind(ctx context.Context) (tcp []boundTCP, udp []*net.UDPConn, err error) {
	defer func() {
		if err == nil {
			return
		}
		for _, b := range tcp {
			_ = b.Close()
		}
		for _, pc := range udp {
			_ = pc.Close()
		}
	}()
	add := func(key string, addrs []string, serve func(net.Listener) error) error {
		for _, a := range addrs {
			ln, err := listenTCP(ctx, key, a)
			if err != nil {
				return err
			}
			tcp = append(tcp, boundTCP{ln, serve})
		}
		return nil
	}
	metrics := &http.Server{Handler: g.status.Machines(), ReadHeaderTimeout: 10 * time.Second, WriteTimeout: time.Minute}
	control := &http.Server{Handler: g.control(), ReadHeaderTimeout: 10 * time.Second}
	g.servers = append(g.servers, metrics, control)
	proxy, http80 := portmux.NewListener(nil), portmux.NewListener(nil)
	steps := []func() error{
		func() error { return add("listen.https", g.cfg.Listen.HTTPS, g.mux.Serve) },
		func() error { return add("listen.proxy", g.cfg.Listen.Proxy, g.http1(proxy)) },
		func() error { return add("listen.http", g.cfg.Listen.HTTP, g.http1(http80)) },
		func() error { return add("listen.metrics", oneOrNone(g.cfg.Listen.Metrics), metrics.Serve) },
		func() error {
			ln, err := listenControl(ctx, filepath.Join(g.cfg.RunDir, "hafen.sock"))
			if err == nil {
				tcp = append(tcp, boundTCP{ln, control.Serve})
			}
			return err
		},
		func() error {
			for _, a := range g.cfg.Listen.TURNUDP {
				pc, err := listenUDP(ctx, "listen.turn_udp", a)
				if err != nil {
					return err
				}
				udp = append(udp, pc)
			}
			return nil
		},
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return tcp, udp, err
		}
	}
	g.serveHTTP(proxy, g.forward)
	g.serveHTTP(http80, http.HandlerFunc(g.redirect))
	g.remember(tcp, udp)
	return tcp, udp, nil
}

// http1 serves a listener on which plain HTTP alone is spoken.
func (g *Gateway) http1(to *portmux.Listener) func(net.Listener) error {
	return func(ln net.Listener) error { return g.mux.ServeHTTP1(ln, to.Hand) }
}

func oneOrNone(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// remember keeps the addresses that are bound: for those who ask, and to recognise a name that leads back to us.
func (g *Gateway) remember(tcp []boundTCP, udp []*net.UDPConn) {
	var ports []netip.AddrPort
	for _, b := range tcp {
		if ap, ok := addrPort(b.Addr()); ok {
			ports, g.addrs = append(ports, ap), append(g.addrs, b.Addr())
		}
	}
	for _, pc := range udp {
		if ap, ok := addrPort(pc.LocalAddr()); ok {
			ports, g.addrs, g.udp = append(ports, ap), append(g.addrs, pc.LocalAddr()), append(g.udp, ap)
		}
	}
	g.bound.Store(&ports)
}

// Addrs are the addresses that are bound, those of listen.https first.
func (g *Gateway) Addrs() []net.Addr { return g.addrs }

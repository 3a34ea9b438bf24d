package gateway

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/certs"
	"hafen/gateway/forward"
	"hafen/gateway/netpolicy"
	"hafen/gateway/portmux"
	"hafen/gateway/status"
	"hafen/relay"
	"hafen/signaling"
)

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
	for key, dir := range map[string]string{"data_dir": g.opts.Config.DataDir, "run_dir": g.opts.Config.RunDir} {
		if err := os.MkdirAll(dir, 0o750); err != nil {
			return fmt.Errorf("%s: %w; make it and give it to the user that hafen runs as", key, err)
		}
	}
	return nil
}

// makeGeneration makes the first one, and what asks the one in use.
func (g *Gateway) makeGeneration() error {
	first, err := g.newGeneration(g.opts.Config, nil)
	if err != nil {
		return err
	}
	g.now.Store(first)
	g.registry.MustRegister(certs.Collector(g.certs))
	certificate := func(h *tls.ClientHelloInfo) (*tls.Certificate, error) { return g.certs().Certificate(h) }
	// stun.turn is RFC 7443. Own names offer no h2: every tunnel keeps a TCP connection of its own.
	g.tlsOwn = portmux.ServerConfig(certificate, "http/1.1", "stun.turn")
	g.tlsRouted = portmux.ServerConfig(certificate, "h2", "http/1.1", "stun.turn")
	g.tlsACME = portmux.ServerConfig(certificate, acmeTLS)
	return nil
}

func (g *Gateway) makeRelay() (err error) {
	g.relay, err = relay.New(relay.Options{Config: g.config(), Dialer: g.dialer(), Admit: g.admit, Ended: g.sessionEnded, TestSecret: g.testSecret(), Defects: g.defects, Registry: g.registry, Log: g.log.With("area", "relay"), Now: g.opts.Now})
	return err
}

// testSecret is that of the process before this one: a precall test that has begun there goes on here.
func (g *Gateway) testSecret() []byte {
	if in := g.opts.Inherited; in != nil {
		return in.secret
	}
	return nil
}

func (g *Gateway) makeSignaling() (err error) {
	g.signaling, err = signaling.New(signaling.Options{
		Config: g.config(), Dial: g.dialSignaling, Splice: g.spliceSocket, MintTURN: g.mintTURN, Defects: g.defects, Registry: g.registry, Log: g.log.With("area", "signaling"), Now: g.opts.Now,
	})
	return err
}

// mintTURN makes the credentials that a routed page's ICE servers carry where clients authenticate here. Each list has a user of its
// own, so that the bound of one user is the bound of one page.
func (g *Gateway) mintTURN(string, netip.Addr) (username, credential string, err error) {
	return g.relay.Credentials(strings.ToLower(rand.Text()[:callUserLength]), g.opts.Now())
}

// callUserLength makes two users that share a name, and with it a bound, unlikely.
const callUserLength = 12

func (g *Gateway) makeForward() (err error) {
	g.forward, err = forward.New(forward.Options{
		Config: g.config(), Dial: g.dialTunnel, STUN: g.tunnelSTUN, Splice: g.spliceTunnel, OmitHTTPS: g.untrusted, Verify: status.VerifyPassword, DialParent: g.dialHouse, Ended: g.tunnelEnded, Defects: g.defects, Registry: g.registry, Log: g.log.With("area", "forward"),
	})
	return err
}

func (g *Gateway) spliceTunnel(client, target net.Conn, t forward.Spliced) (stop func(), ok bool) {
	return g.splicer.Splice(client, target, 0, t)
}

func (g *Gateway) spliceSocket(client, server net.Conn, slow time.Duration, t signaling.Spliced) (stop func(), ok bool) {
	return g.splicer.Splice(client, server, slow, t)
}

// untrusted reports whether browsers turn away from our certificate unless somebody installed its root.
func (g *Gateway) untrusted() bool { return g.config().TLS.Source == "self-signed" }

// dialTunnel dials the target of a CONNECT: through the company proxy only when it is a name of the configuration.
func (g *Gateway) dialTunnel(ctx context.Context, host string, port uint16, service string) (net.Conn, error) {
	addr := net.JoinHostPort(host, fmt.Sprint(port))
	if s := g.config().ServiceNamed(service); s != nil {
		return g.dialer().DialVia(ctx, "tcp", addr, scopeOf(s))
	}
	return g.dialer().DialContext(ctx, "tcp", addr, netpolicy.Scope{})
}

// dialHouse dials a server of the house that the configuration names, which is where private addresses are.
func (g *Gateway) dialHouse(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dialer().DialContext(ctx, network, addr, netpolicy.Scope{Private: houseNetworks()})
}

// dialNeighbour connects to a server of the house, or of this machine, that the configuration names.
func (g *Gateway) dialNeighbour(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dialer().DialContext(ctx, network, addr, neighbours())
}

// dialAuthority connects to the certificates' authority, which may be the house's own or anywhere: through the company proxy, where there is one.
func (g *Gateway) dialAuthority(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dialer().DialVia(ctx, network, addr, neighbours())
}

// neighbours are the house and this machine.
func neighbours() netpolicy.Scope {
	return netpolicy.Scope{Private: append(houseNetworks(), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))}
}

// houseNetworks are where the house's own servers are.
func houseNetworks() []netip.Prefix {
	return []netip.Prefix{
		netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("192.168.0.0/16"), netip.MustParsePrefix("fc00::/7"),
	}
}

// makeMux puts the owners of each protocol behind the port.
func (g *Gateway) makeMux() {
	// The listeners' addresses are for logs only: connections come from the mux.
	front, plain, refused, guests := portmux.NewListener(nil), portmux.NewListener(nil), portmux.NewListener(nil), portmux.NewListener(nil)
	g.serveHTTP(front, g)
	g.serveHTTP(plain, http.HandlerFunc(g.plainHTTP))
	g.serveHTTP(refused, http.HandlerFunc(g.refuse))
	g.serveHTTP(guests, http.HandlerFunc(g.guest))
	g.mux = portmux.New(portmux.Options{
		Admit:        g.admit,
		TrustedProxy: func(a netip.Addr) bool { return contains(g.config().Listen.ProxyProtocolFrom, a) },
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
		Guest:    guests.Hand,
		Limits:   muxLimits(g.config().Limits),
		Observe:  g.observe,
		Defects:  g.defects,
		Registry: g.registry,
		Log:      g.log.With("area", "mux"),
		Now:      g.opts.Now,
	})
}

func muxLimits(l configs.Limits) portmux.Limits {
	return portmux.Limits{ConnectionsPerClient: l.ConnectionsPerClient, PendingPerClient: l.PendingPerClient, Connections: maxConnections(l)}
}

// maxConnections is what the port carries in all: each call has a page and its signaling too.
func maxConnections(l configs.Limits) int {
	return max(10_000, 2*l.Allocations, 2*l.ConnectionsPerClient)
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
		Handler: g.caught(g.resets.watched(g.lastAnswer(hurried(bodyTimeout, h)))), ConnContext: g.resets.connContext, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, DisableGeneralOptionsHandler: true, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
	g.servers = append(g.servers, srv)
	g.goUntilStop(func() error { return srv.Serve(ln) })
}

// goUntilStop runs a serving loop until Stop; what ends it early is logged.
func (g *Gateway) goUntilStop(serve func() error) {
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		if err := serve(); err != nil && !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
			g.log.Error("a listener ended", "err", err)
		}
	}()
}

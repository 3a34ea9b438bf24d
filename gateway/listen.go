package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hafen/configs"
	"hafen/gateway/portmux"
)

// bindError says in one sentence why the gateway can't listen where the configuration says.
func bindError(key, addr string, err error) error {
	why := err.Error()
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		why = "another program listens there already (see `ss -ltnp`); stop it or choose another port"
	case errors.Is(err, os.ErrPermission):
		why = "ports below 1024 need CAP_NET_BIND_SERVICE; run it from its systemd unit, as root, or choose a higher port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		why = "this machine has no such address; write one that it has, or only the port"
	}
	return &listenError{fmt.Sprintf("%s: can't listen at %s: %s", key, addr, why), err}
}

type listenError struct {
	text  string
	cause error
}

func (e *listenError) Error() string { return e.text }
func (e *listenError) Unwrap() error { return e.cause }

// listenTCP binds one address of the configuration.
func listenTCP(ctx context.Context, key, addr string) (net.Listener, error) {
	ln, err := (&net.ListenConfig{}).Listen(ctx, "tcp", addr)
	if err != nil {
		return nil, bindError(key, addr, err)
	}
	return ln, nil
}

// listenUDP binds one address of the configuration for packets.
func listenUDP(ctx context.Context, key, addr string) (*net.UDPConn, error) {
	pc, err := (&net.ListenConfig{}).ListenPacket(ctx, "udp", addr)
	if err != nil {
		return nil, bindError(key, addr, err)
	}
	return pc.(*net.UDPConn), nil
}

// listenControl makes the control socket, 0660, replacing one that a gateway which is gone has left.
func listenControl(ctx context.Context, path string) (net.Listener, error) {
	if conn, err := net.Dial("unix", path); err == nil {
		_ = conn.Close()
		return nil, fmt.Errorf("run_dir: another gateway answers at %s; give this one a run_dir of its own", path)
	}
	_ = os.Remove(path)
	ln, err := (&net.ListenConfig{}).Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("run_dir: can't make the control socket: %w", err)
	}
	if err := os.Chmod(path, 0o660); err != nil {
		_ = ln.Close()
		return nil, fmt.Errorf("run_dir: %w", err)
	}
	return ln, nil
}

// socket is one thing that is listened on: a listener, or a socket for packets.
type socket struct {
	place
	tcp net.Listener
	udp *net.UDPConn
	// stop ends the serving of udp, whose socket the relay has taken over; nil: it is not served.
	stop context.CancelFunc
	// copy is of udp, for a successor; 0: it is not served. It is no os.File, which would join Go's poller: that would be woken by
	// every datagram, for nobody.
	copy int
	// unserved: udp has been served to its last client's end.
	unserved atomic.Bool
}

// place is where the configuration has something listened on.
type place struct{ key, network, addr string }

func (s *socket) close() {
	if s.stop != nil {
		s.stop()
	}
	s.dropCopy()
	if s.udp != nil {
		_ = s.udp.Close()
		return
	}
	_ = s.tcp.Close()
}

func (s *socket) dropCopy() {
	if s.copy > 0 {
		_ = unix.Close(s.copy)
		s.copy = 0
	}
}

func (s *socket) localAddr() net.Addr {
	if s.udp != nil {
		return s.udp.LocalAddr()
	}
	return s.tcp.Addr()
}

func (s *socket) port() uint16 {
	ap, _ := addrPort(s.localAddr())
	return ap.Port()
}

// places lists where a configuration has something listened on, listen.https first.
func places(c *configs.Config) (all []place) {
	add := func(key, network string, addrs ...string) {
		for _, a := range addrs {
			all = append(all, place{key, network, a})
		}
	}
	add("listen.https", "tcp", c.Listen.HTTPS...)
	add("listen.proxy", "tcp", c.Listen.Proxy...)
	add("listen.http", "tcp", c.Listen.HTTP...)
	add("listen.metrics", "tcp", oneOrNone(c.Listen.Metrics)...)
	add("admin.listen", "tcp", oneOrNone(c.Admin.Listen)...)
	add("run_dir", "unix", filepath.Join(c.RunDir, "hafen.sock"))
	add("listen.turn_udp", "udp", c.Listen.TURNUDP...)
	return all
}

// open binds one place.
func (p place) open(ctx context.Context) (s *socket, err error) {
	s = &socket{place: p}
	switch p.network {
	case "udp":
		s.udp, err = listenUDP(ctx, p.key, p.addr)
	case "unix":
		s.tcp, err = listenControl(ctx, p.addr)
	default:
		s.tcp, err = listenTCP(ctx, p.key, p.addr)
	}
	return s, err
}

// bind opens every listener of a configuration, or none. What there is already is taken as it is.
func (g *Gateway) bind(ctx context.Context, c *configs.Config, have []*socket) (bound []*socket, err error) {
	var fresh []*socket
	for _, p := range places(c) {
		if i := slices.IndexFunc(have, func(s *socket) bool { return s.place == p }); i >= 0 {
			bound = append(bound, have[i])
			continue
		}
		s := g.handover.inherited.take(p)
		if s == nil {
			s = g.reclaim(p)
		}
		if s != nil {
			fresh, bound = append(fresh, s), append(bound, s)
			continue
		}
		s, err := p.open(ctx)
		if err != nil {
			for _, s := range fresh {
				s.close()
			}
			return nil, err
		}
		fresh, bound = append(fresh, s), append(bound, s)
	}
	return bound, nil
}

// reclaim takes a UDP socket back into service which clients have kept since its address was taken away; nil: there is none.
func (g *Gateway) reclaim(p place) *socket {
	i := slices.IndexFunc(g.lingering, func(s *socket) bool { return s.place == p })
	if i < 0 {
		return nil
	}
	fd, err := g.lingering[i].duplicate()
	if err != nil {
		return nil
	}
	s, err := takeSocket(fd)
	if err != nil {
		return nil
	}
	s.place = p
	return s
}

// forgetLingering lets go of UDP sockets that nobody is left on.
func (g *Gateway) forgetLingering() {
	g.lingering = slices.DeleteFunc(g.lingering, func(s *socket) bool {
		if !s.unserved.Load() {
			return false
		}
		s.dropCopy()
		return true
	})
}

// makeServers makes what serves the listeners, by their keys.
func (g *Gateway) makeServers() {
	metrics := &http.Server{Handler: g.status.Machines(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: bodyTimeout, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
	control := &http.Server{Handler: g.control(), ReadHeaderTimeout: 10 * time.Second}
	admin := g.newAdmin()
	g.servers = append(g.servers, metrics, control, admin)
	proxy, http80 := portmux.NewListener(nil), portmux.NewListener(nil)
	g.serveHTTP(proxy, http.HandlerFunc(g.proxyOnly))
	g.serveHTTP(http80, http.HandlerFunc(g.redirect))
	g.serve = map[string]func(net.Listener) error{
		"listen.https": g.mux.Serve, "listen.proxy": g.http1(proxy), "listen.http": g.http1(http80),
		"listen.metrics": metrics.Serve, "run_dir": control.Serve, "admin.listen": g.serveAdmin(admin),
	}
}

// goServe serves a socket until it is closed.
func (g *Gateway) goServe(s *socket) {
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if s.udp != nil {
		s.copy, _ = copyDescriptor(s.udp) // fails without descriptors only: then there is no hand-over
	}
	g.goUntilStop(func() error {
		if s.udp != nil {
			defer s.unserved.Store(true)
			return g.relay.ServePacket(ctx, s.udp)
		}
		return g.serve[s.key](s.tcp)
	})
}

// closeSockets lets go of everything that is listened on. The caller has the lock of reloads.
func (g *Gateway) closeSockets() {
	for _, s := range g.sockets {
		s.close()
	}
	for _, s := range g.lingering {
		s.close()
	}
	g.sockets = nil
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

// addresses are what is bound.
type addresses struct {
	ports []netip.AddrPort // all
	addrs []net.Addr       // those of listen.https first
	udp   []netip.AddrPort
}

// remember keeps what is bound: to serve it, for those who ask, and to recognise a name that leads back to us.
func (g *Gateway) remember(bound []*socket) {
	a := &addresses{}
	for _, s := range bound {
		at := s.localAddr()
		ap, ok := addrPort(at)
		if !ok {
			continue // the control socket
		}
		a.ports, a.addrs = append(a.ports, ap), append(a.addrs, at)
		if s.udp != nil {
			a.udp = append(a.udp, ap)
		}
	}
	g.sockets = bound
	g.bound.Store(a)
}

// Addrs are the addresses that are bound, those of listen.https first.
func (g *Gateway) Addrs() []net.Addr {
	if b := g.bound.Load(); b != nil {
		return b.addrs
	}
	return nil
}

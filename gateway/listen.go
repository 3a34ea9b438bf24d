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
	"syscall"
	"time"

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
	return fmt.Errorf("%s: can't listen at %s: %s", key, addr, why)
}

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

// boundTCP is a bound listener and what serves it.
type boundTCP struct {
	net.Listener
	serve func(net.Listener) error
}

// bind opens every listener of the configuration, or none.
func (g *Gateway) bind(ctx context.Context) (tcp []boundTCP, udp []*net.UDPConn, err error) {
	defer func() {
		if err != nil {
			closeAll(tcp, udp)
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
	metrics := &http.Server{Handler: g.status.Machines(), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: bodyTimeout, WriteTimeout: time.Minute, IdleTimeout: 2 * time.Minute}
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
	g.serveHTTP(proxy, http.HandlerFunc(g.proxyOnly))
	g.serveHTTP(http80, http.HandlerFunc(g.redirect))
	g.remember(tcp, udp)
	return tcp, udp, nil
}

// closeAll lets go of what was bound and is not served yet.
func closeAll(tcp []boundTCP, udp []*net.UDPConn) {
	for _, b := range tcp {
		_ = b.Close()
	}
	for _, pc := range udp {
		_ = pc.Close()
	}
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

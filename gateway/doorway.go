package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"hafen/configs"
	"hafen/gateway/portmux"
	"hafen/relay"
)

// Why a connection is turned away.
var (
	errNotClient = errors.New("not in clients")
	errDraining  = drainingError{}
)

// drainingError refuses new work while the gateway ends: a limit, not a policy.
type drainingError struct{}

func (drainingError) Error() string { return "draining" }

// Status is its status word.
func (drainingError) Status() string { return "err_limit" }

// admit says whether an address is a client's, and whether new work is taken at all.
func (g *Gateway) admit(a netip.Addr) error {
	if g.isDraining() && !g.deaf.Load() {
		return errDraining
	}
	switch {
	case contains(g.config().Clients, a):
		return nil
	case g.isGuest(a):
		return portmux.ErrGuest
	}
	return errNotClient
}

// contains reports whether an address is in one of the networks.
func contains(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap()
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// hello decides what becomes of a TLS connection by the name it asks for.
func (g *Gateway) hello(h *tls.ClientHelloInfo) portmux.Route {
	if g.config().TLS.Source == "acme" && len(h.SupportedProtos) == 1 && h.SupportedProtos[0] == acmeTLS {
		return portmux.Route{Config: g.tlsACME}
	}
	name := configs.CanonicalHost(h.ServerName)
	_, err := netip.ParseAddr(name)
	switch {
	case name == "" || err == nil || g.config().OwnName(name):
		return portmux.Route{Config: g.tlsOwn}
	case g.signaling.Routed(name) && g.certs().HasName(name):
		if g.resets.resetting(h) {
			return portmux.Route{Config: g.tlsOwn} // which offers no HTTP/2
		}
		return portmux.Route{Config: g.tlsRouted}
	}
	if target, ok := g.passthrough(name); ok {
		g.noteHello(h, name)
		return portmux.Route{Passthrough: target}
	}
	return portmux.Route{Refuse: fmt.Errorf("the name %q is neither the gateway's nor a service's", name)}
}

// passthrough finds where a TLS connection for a service's name goes, unread: a call server on 443, or a relay on the
// port of its turns: URL.
func (g *Gateway) passthrough(name string) (string, bool) {
	if g.config().ServiceOfHost(name) != nil {
		return net.JoinHostPort(name, "443"), true
	}
	_, region := g.config().ServiceOfRelay(name)
	if region == nil {
		return "", false
	}
	for _, u := range region.Relays() {
		if u.Secure && u.Host == name {
			return net.JoinHostPort(name, strconv.Itoa(int(u.Port))), true
		}
	}
	return net.JoinHostPort(name, "443"), true
}

// splice carries a passed-through connection to its host, encrypted from end to end.
func (g *Gateway) splice(c *portmux.Conn, target string) {
	defer func() { _ = c.Close() }()
	host, _, _ := net.SplitHostPort(target)
	service := g.config().ServiceOfHost(host)
	if service == nil {
		service, _ = g.config().ServiceOfRelay(host)
	}
	ctx, cancel := context.WithTimeout(g.ctx, 10*time.Second)
	upstream, err := g.dialer().DialVia(ctx, "tcp", target, scopeOf(service))
	cancel()
	if err != nil {
		c.Fail(statusOf(err), err)
		return
	}
	defer func() { _ = upstream.Close() }()
	c.Established()
	g.passing.Add(1)
	defer g.passing.Add(-1)
	if err := portmux.Splice(c, upstream, spliceIdle); err != nil {
		c.Fail(statusOf(err), err)
	}
}

// spliceIdle ends a passed-through connection on which nothing moved: a waiting room's WebSocket may be silent for long, and TCP
// keep-alive finds the dead.
const spliceIdle = time.Hour

// stun hands a TURN client over to the relay.
func (g *Gateway) stun(c *portmux.Conn) {
	client := relay.Client{Addr: c.Client(), Local: c.LocalAddr(), Via: "tcp", Established: c.Established}
	sni := ""
	if h := c.Hello(); h != nil {
		client.Via, sni = "tls", h.SNI
	}
	if s := g.config().ServiceOfGatewayName(sni); s != nil {
		client.Service = s.Name
	}
	client.Ended = func(err error) {
		if err != nil {
			c.Fail(statusOf(err), err)
		}
	}
	g.relay.StartStream(c, nil, client)
}

// tunnelSTUN hands over a TURN client that came through CONNECT, naming a relay of a service.
func (g *Gateway) tunnelSTUN(conn net.Conn, head []byte, host string, client netip.AddrPort) error {
	service, _ := g.config().ServiceOfRelay(host)
	if service == nil {
		return fmt.Errorf("%s is no relay of a service", host)
	}
	return g.relay.ServeStream(conn, head, relay.Client{
		Addr: client, Local: conn.LocalAddr(), Via: "connect", Service: service.Name, AskedHost: host,
	})
}

// statusOf finds the status word that an error carries.
func statusOf(err error) string {
	var s interface{ Status() string }
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &s):
		return s.Status()
	case errors.Is(err, context.DeadlineExceeded):
		return "err_timeout"
	}
	return "err_client"
}

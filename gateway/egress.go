package gateway

import (
	"context"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strconv"

	"hafen/configs"
	"hafen/gateway/netpolicy"
	"hafen/relay"
)

// newEgress makes the gateway's way out: one policy and one dialer for everything that dials or relays.
func newEgress(cfg *configs.Config, listening func() []netip.AddrPort) (*netpolicy.Dialer, error) {
	proxy, err := netpolicy.NewProxy(cfg.Egress.Proxy, cfg.Egress.ProxyFile, cfg.Egress.NoProxy)
	if err != nil {
		return nil, err
	}
	d := &netpolicy.Dialer{
		Policy:        &netpolicy.Policy{Public: cfg.Addresses.Public, Listening: listening},
		Hosts:         make(map[string][]netip.Addr),
		Servers:       cfg.DNS.Servers,
		Source:        cfg.Egress.Source,
		ProxyResolves: cfg.DNS.ProxyResolves,
	}
	if proxy != nil {
		proxy.Via = cfg.Name // two gateways that are each other's proxy find out by it
		d.Proxy = proxy
	}
	for _, h := range cfg.Hosts {
		name := configs.CanonicalHost(h.Host)
		d.Hosts[name] = append(d.Hosts[name], h.IP)
	}
	return d, nil
}

// sameEgress reports whether two dialers go the same ways out.
func sameEgress(a, b *netpolicy.Dialer) bool {
	return reflect.DeepEqual(a.Hosts, b.Hosts) && slices.Equal(a.Servers, b.Servers) && slices.Equal(a.Source, b.Source) &&
		a.ProxyResolves == b.ProxyResolves && reflect.DeepEqual(a.Proxy, b.Proxy) && slices.Equal(a.Policy.Public, b.Policy.Public)
}

// scopeOf is what a service has opened for its own names.
func scopeOf(s *configs.Service) netpolicy.Scope {
	if s == nil {
		return netpolicy.Scope{}
	}
	return netpolicy.Scope{Private: s.PrivateNetworks}
}

// dialService dials an address of the configuration for a service, through the company proxy where there is one.
func (g *Gateway) dialService(ctx context.Context, network, addr, service string) (net.Conn, error) {
	return g.dialer().DialVia(ctx, network, addr, scopeOf(g.config().ServiceNamed(service)))
}

// dialSignaling is dialService for what may become a WebSocket.
func (g *Gateway) dialSignaling(ctx context.Context, network, addr, service string) (net.Conn, error) {
	conn, err := g.dialService(ctx, network, addr, service)
	if err != nil {
		return nil, err
	}
	return relay.Redirectable(conn), nil
}

// listening tells where this gateway listens, so that a name that leads back here is recognised as a loop.
func (g *Gateway) listening() []netip.AddrPort {
	if b := g.bound.Load(); b != nil {
		return b.ports
	}
	return nil
}

// addrPort reads a listener's address; a host that is no address means all of them.
func addrPort(a net.Addr) (netip.AddrPort, bool) {
	host, port, err := net.SplitHostPort(a.String())
	if err != nil {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return netip.AddrPort{}, false
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		ip = netip.IPv6Unspecified()
	}
	return netip.AddrPortFrom(ip, uint16(n)), true
}

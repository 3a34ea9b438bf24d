package gateway

import (
	"context"
	"net/netip"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// Names resolves the names of a configuration the way the running gateway does: fixed hosts first, then its DNS servers,
// every address judged. It is for the firewall sheet and the checkup.
type Names struct{ dialer *netpolicy.Dialer }

// NewNames makes a resolver for a valid configuration.
func NewNames(cfg *configs.Config) (*Names, error) {
	d, err := newEgress(cfg, func() []netip.AddrPort { return wouldListen(cfg) })
	if err != nil {
		return nil, err
	}
	return &Names{d}, nil
}

// Resolve returns the addresses that host:port has now, for the service, which may be nil.
func (n *Names) Resolve(ctx context.Context, host string, port uint16, service *configs.Service) ([]netip.AddrPort, error) {
	return n.dialer.Resolve(ctx, host, port, scopeOf(service))
}

// ThroughProxy reports whether connections to host:port go through the company proxy, and which that is.
func (n *Names) ThroughProxy(host string, port uint16) (proxy *netpolicy.Proxy, through bool) {
	p := n.dialer.Proxy
	return p, p != nil && !p.Exempt(host, port)
}

// wouldListen are the ports that a gateway with this configuration listens on: what leads there is a loop.
func wouldListen(cfg *configs.Config) []netip.AddrPort {
	var ports []netip.AddrPort
	for _, list := range [][]string{cfg.Listen.HTTPS, cfg.Listen.TURNUDP, cfg.Listen.Proxy, cfg.Listen.HTTP, oneOrNone(cfg.Admin.Listen)} {
		for _, a := range list {
			if ap, ok := addrPort(text(a)); ok {
				ports = append(ports, ap)
			}
		}
	}
	return ports
}

// text is an address of the configuration as a net.Addr.
type text string

func (t text) Network() string { return "tcp" }
func (t text) String() string  { return string(t) }

package relay

import (
	"context"
	"net"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// dependencies are the addresses of what the gateway itself depends on: its resolvers, its proxy, the call servers.
type dependencies struct {
	fixed   map[netip.Addr]bool
	names   []dependency
	resolve func(ctx context.Context, host string, s netpolicy.Scope) []netip.Addr
	found   atomic.Pointer[map[netip.Addr]bool]
}

type dependency struct {
	host  string
	scope netpolicy.Scope
	relay bool // a region's relay: what it shares an address with is no dependency
}

// dependenciesEvery is how often their names are resolved.
const dependenciesEvery = 5 * time.Minute

func newDependencies(c *configs.Config, d *netpolicy.Dialer) *dependencies {
	deps := &dependencies{fixed: make(map[netip.Addr]bool), resolve: func(context.Context, string, netpolicy.Scope) []netip.Addr { return nil }}
	for _, server := range append(slices.Clone(c.DNS.Servers), systemResolvers()...) {
		if a, err := netip.ParseAddr(hostOf(server)); err == nil {
			deps.fixed[a.Unmap()] = true
		}
	}
	own := []string{
		c.Egress.Proxy, c.Store, c.TLS.ACME.Directory, c.TLS.ACME.DNS.Server, c.PAC.Parent, c.Events.Webhook, c.Events.Mail.Server, c.Audit.Syslog,
	}
	for _, route := range c.Signaling.Routes {
		own = append(own, route.Upstream)
	}
	deps.need(everything, false, own...)
	for i := range c.Services {
		s := &c.Services[i]
		scope := netpolicy.Scope{Private: s.PrivateNetworks}
		deps.need(scope, false, append(slices.Clone(s.Hosts), s.TURNCredentials.URL)...)
		for _, r := range s.Regions {
			for _, u := range r.Relays() {
				deps.need(scope, true, u.Host)
			}
		}
	}
	if d != nil {
		deps.resolve = func(ctx context.Context, host string, s netpolicy.Scope) (out []netip.Addr) {
			found, err := d.Resolve(ctx, host, 443, s)
			if err != nil {
				return nil // it is asked again; what has no address is nobody's peer
			}
			for _, ap := range found {
				out = append(out, ap.Addr().Unmap())
			}
			return out
		}
	}
	return deps
}

// need adds what the configuration names: URLs, hosts with a port or without; empty ones and wildcards name nothing.
func (d *dependencies) need(scope netpolicy.Scope, relay bool, named ...string) {
	for _, raw := range named {
		if host := hostOf(raw); host != "" && !strings.Contains(host, "*") {
			d.names = append(d.names, dependency{host: host, scope: scope, relay: relay})
		}
	}
}

// hostOf is the host of a URL, or of host:port, or the host itself.
func hostOf(raw string) string {
	if u, err := url.Parse(raw); err == nil && u.Hostname() != "" {
		return u.Hostname()
	}
	if host, _, err := net.SplitHostPort(raw); err == nil {
		return host
	}
	return raw
}

// everything opens all networks that can be opened: the company's proxy stands in one of them.
var everything = netpolicy.Scope{Private: []netip.Prefix{netip.PrefixFrom(netip.IPv4Unspecified(), 0), netip.PrefixFrom(netip.IPv6Unspecified(), 0)}}

// systemResolvers are the machine's name servers.
func systemResolvers() (servers []string) {
	content, err := os.ReadFile("/etc/resolv.conf")
	if err != nil {
		return nil // a machine without resolvers
	}
	for line := range strings.Lines(string(content)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" {
			servers = append(servers, f[1])
		}
	}
	return servers
}

func (d *dependencies) has(a netip.Addr) bool {
	found := d.found.Load()
	return d.fixed[a] || found != nil && (*found)[a]
}

// watch resolves the names, now and again, until ctx ends.
func (d *dependencies) watch(ctx context.Context) {
	tick := time.NewTicker(dependenciesEvery)
	defer tick.Stop()
	for {
		d.look(ctx)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *dependencies) look(ctx context.Context) {
	found := make(map[netip.Addr]bool)
	for _, n := range d.names {
		if !n.relay {
			for _, a := range d.resolve(ctx, n.host, n.scope) {
				found[a] = true
			}
		}
	}
	for _, n := range d.names {
		if n.relay {
			for _, a := range d.resolve(ctx, n.host, n.scope) {
				delete(found, a)
			}
		}
	}
	d.found.Store(&found)
}

package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	connectTimeout = 10 * time.Second
	// stagger is how long an address has before the next one is tried beside it (RFC 8305 section 8).
	stagger = 250 * time.Millisecond
	// keepAlive finds peers that are gone before firewalls forget the connection.
	keepAlive = 30 * time.Second
	// maxTries bounds how many addresses of one name are dialled.
	maxTries = 8
)

// Dialer resolves, judges and dials. It may be used from many goroutines; its fields are not changed after the first
// use. It must not be copied.
type Dialer struct {
	// Policy judges each address. Without one nothing is dialled.
	Policy *Policy
	// Hosts are fixed addresses by name, in lower case and without a trailing dot. They come before DNS.
	Hosts map[string][]netip.Addr
	// Servers are the DNS servers, "address" or "address:port". Empty means the system's.
	Servers []string
	// Source is the local address to dial from, at most one of each family. A family without one leaves it to the system.
	Source []netip.Addr
	// Proxy is the company proxy that DialVia goes through. nil means none.
	Proxy *Proxy
	// ProxyResolves says who resolves what goes through the proxy: auto, always or never; see DialVia. "" means auto.
	ProxyResolves string
	// ResolveTimeout bounds a resolution. 0 means 5 seconds, which is also the most.
	ResolveTimeout time.Duration
	// ConnectTimeout bounds the time from the resolved name to the connection. 0 means 10 seconds.
	ConnectTimeout time.Duration
	// Lookup replaces DNS, for tests. nil means Servers.
	Lookup func(ctx context.Context, name string) ([]netip.Addr, error)
	// Now is the clock of the memory of failures. nil means time.Now.
	Now func() time.Time

	failures failures
	sources  portTurn // of UDP
}

func (d *Dialer) now() time.Time {
	if d.Now != nil {
		return d.Now()
	}
	return time.Now()
}

// DialContext connects to addr, host:port, over tcp, tcp4, tcp6, udp, udp4 or udp6. The name is resolved once; every
// address is judged within s, and only judged addresses are dialled. TCP connections are *net.TCPConn, UDP connections
// *net.UDPConn. The error, if any, has a method Status.
func (d *Dialer) DialContext(ctx context.Context, network, addr string, s Scope) (net.Conn, error) {
	host, port, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	addrs, err := d.Resolve(ctx, host, port, s)
	if err != nil {
		return nil, err
	}
	if addrs = ofFamily(network, addrs); len(addrs) == 0 {
		return nil, fail("dial", addr, fmt.Errorf("it has no address for %s", network))
	}
	conn, err := d.dialJudged(ctx, network, addrs, s)
	if err != nil {
		return nil, fail("dial", addr, err)
	}
	return conn, nil
}

// splitAddr takes host:port apart. The port is decimal: no service names, no sign.
func splitAddr(addr string) (string, uint16, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, &Error{"dial", addr, StatusPolicy, errors.New("a target is written host:port")}
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 {
		return "", 0, &Error{"dial", addr, StatusPolicy, errors.New("a port is a number from 1 to 65535")}
	}
	return host, uint16(port), nil
}

// ofFamily keeps the addresses that network allows.
func ofFamily(network string, addrs []netip.AddrPort) []netip.AddrPort {
	if !strings.HasSuffix(network, "4") && !strings.HasSuffix(network, "6") {
		return addrs
	}
	kept := make([]netip.AddrPort, 0, len(addrs))
	for _, ap := range addrs {
		if ap.Addr().Is4() == strings.HasSuffix(network, "4") {
			kept = append(kept, ap)
		}
	}
	return kept
}

// dialJudged dials addresses that Resolve has returned.
func (d *Dialer) dialJudged(ctx context.Context, network string, addrs []netip.AddrPort, s Scope) (net.Conn, error) {
	limit := d.ConnectTimeout
	if limit <= 0 {
		limit = connectTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	addrs = interleave(addrs)
	addrs = addrs[:min(len(addrs), maxTries)]
	c := contest[net.Conn]{
		n: len(addrs), stagger: stagger,
		try:     func(ctx context.Context, i int) (net.Conn, error) { return d.dialOne(ctx, network, addrs[i], s) },
		discard: func(c net.Conn) { _ = c.Close() },
	}
	conn, err := c.run(ctx)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("no connection in time: %w", ctx.Err())
	}
	return conn, err
}

// interleave alternates between the families, beginning with the one that the resolver prefers (RFC 8305 section 4).
func interleave(addrs []netip.AddrPort) []netip.AddrPort {
	var first, second []netip.AddrPort
	for _, ap := range addrs {
		if ap.Addr().Is4() == addrs[0].Addr().Is4() {
			first = append(first, ap)
		} else {
			second = append(second, ap)
		}
	}
	out := make([]netip.AddrPort, 0, len(addrs))
	for i := range max(len(first), len(second)) {
		if i < len(first) {
			out = append(out, first[i])
		}
		if i < len(second) {
			out = append(out, second[i])
		}
	}
	return out
}

// dialOne dials one judged address. Control sees the address that the socket will really connect to, after whatever
// the net package did: it is judged there once more, so that no change of this file can dial around the policy.
func (d *Dialer) dialOne(ctx context.Context, network string, ap netip.AddrPort, s Scope) (net.Conn, error) {
	nd := net.Dialer{
		LocalAddr: d.localAddr(network, ap.Addr()),
		KeepAlive: keepAlive,
		Control: func(_, address string, _ syscall.RawConn) error {
			real, err := netip.ParseAddrPort(address)
			if err != nil || real != ap {
				return &Refusal{Addr: ap, Class: Invalid, Reason: "the socket was about to connect elsewhere"}
			}
			if r := d.Policy.Judge(real, s); r != nil {
				return r
			}
			return nil
		},
	}
	if strings.HasPrefix(network, "udp") {
		return d.dialUDP(ctx, nd, network, ap)
	}
	return nd.DialContext(ctx, network, ap.String())
}

// localAddr is the source address for a family; nil where none is set.
func (d *Dialer) localAddr(network string, to netip.Addr) net.Addr {
	for _, a := range d.Source {
		if a = a.Unmap(); a.Is4() != to.Is4() {
			continue
		}
		if strings.HasPrefix(network, "udp") {
			return net.UDPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
		}
		return net.TCPAddrFromAddrPort(netip.AddrPortFrom(a, 0))
	}
	return nil
}

package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

const (
	// resolveTimeout bounds the whole of a resolution, all servers together.
	resolveTimeout = 5 * time.Second
	// maxAddresses bounds what is taken from one answer; a sane name has under ten.
	maxAddresses = 64
	// failureAge is how long a failed resolution is remembered, so that a flood of requests for a dead name does not become
	// a flood of queries, and a name that comes back is back soon.
	failureAge = 5 * time.Second
	// maxFailures bounds the memory of failures: below a wildcard, clients choose the names.
	maxFailures = 1024
	// serverStagger is the head start of one DNS server before the next.
	serverStagger = time.Second
)

// Resolve returns the addresses of host that may be reached at port, in the order in which they should be tried. Host
// may be an address as well, with or without brackets. Addresses that policy refuses are skipped; when that leaves
// none, the error wraps the worst Refusal and has the status word err_policy.
func (d *Dialer) Resolve(ctx context.Context, host string, port uint16, s Scope) ([]netip.AddrPort, error) {
	return d.resolveWithin(ctx, host, port, s, resolveTimeout)
}

func (d *Dialer) resolveWithin(ctx context.Context, host string, port uint16, s Scope, limit time.Duration) ([]netip.AddrPort, error) {
	if d.Policy == nil {
		return nil, &Error{"resolve", host, StatusPolicy, errors.New("there is no policy to judge addresses")}
	}
	addrs, err := d.addresses(ctx, host, limit)
	if err != nil {
		return nil, err
	}
	good := make([]netip.AddrPort, 0, len(addrs))
	var worst *Refusal
	for _, a := range addrs {
		ap := netip.AddrPortFrom(a, port)
		r := d.Policy.Judge(ap, s)
		if r == nil {
			good = append(good, ap)
		} else if worst == nil || r.Class.rank() > worst.Class.rank() {
			worst = r
		}
	}
	if len(good) == 0 {
		return nil, fail("resolve", host, worst)
	}
	return good, nil
}

// addresses finds what host stands for: itself, a fixed address, or what DNS answers. The result is not empty.
func (d *Dialer) addresses(ctx context.Context, host string, limit time.Duration) ([]netip.Addr, error) {
	name := strings.TrimSuffix(host, ".")
	literal := strings.TrimSuffix(strings.TrimPrefix(name, "["), "]")
	if a, err := netip.ParseAddr(literal); err == nil {
		return []netip.Addr{a.Unmap()}, nil
	}
	if err := checkName(name); err != nil {
		return nil, &Error{"resolve", host, StatusPolicy, err}
	}
	name = strings.ToLower(name) // after the check: Unicode has letters whose lower case is ASCII
	if fixed := d.Hosts[name]; len(fixed) > 0 {
		return unmapped(fixed), nil
	}
	if err := d.failures.get(name, d.now()); err != nil {
		return nil, err
	}
	addrs, err := d.lookup(ctx, name, limit)
	if err != nil {
		failed := fail("resolve", host, err)
		if ctx.Err() == nil { // not when it was the caller who gave up
			d.failures.put(name, failed, d.now())
		}
		return nil, failed
	}
	return addrs, nil
}

// checkName refuses what can't be a name in DNS, and what is an address to some resolvers but not to netip: 127.1,
// 0x7f.1 and 2130706433 all are 127.0.0.1 to inet_aton, and a name that ends in a number is always such a thing
// (WHATWG URL, "ends in a number checker").
func checkName(name string) error {
	if name == "" || len(name) > 253 {
		return errors.New("a name has 1 to 253 characters")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if label == "" || len(label) > 63 {
			return errors.New("each part of a name has 1 to 63 characters")
		}
		for i := range len(label) {
			if c := label[i]; (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return errors.New("a name consists of letters, digits and hyphens (others in their xn-- form)")
			}
		}
	}
	last := strings.ToLower(labels[len(labels)-1])
	if hex, ok := strings.CutPrefix(last, "0x"); ok && strings.Trim(hex, "0123456789abcdef") == "" || strings.Trim(last, "0123456789") == "" {
		return errors.New("it ends in a number like an address, but is written as none")
	}
	return nil
}

// lookup asks DNS, within the time limit, and takes no more addresses than are sane.
func (d *Dialer) lookup(ctx context.Context, name string, limit time.Duration) ([]netip.Addr, error) {
	if d.ResolveTimeout > 0 {
		limit = min(limit, d.ResolveTimeout)
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	ask := d.Lookup
	if ask == nil {
		ask = d.askServers
	}
	addrs, err := ask(ctx, name)
	switch {
	case ctx.Err() != nil && err != nil:
		return nil, fmt.Errorf("no answer from DNS: %w", ctx.Err())
	case err != nil:
		return nil, plain(err)
	case len(addrs) == 0:
		return nil, errors.New("the name has no address")
	}
	return unmapped(addrs[:min(len(addrs), maxAddresses)]), nil
}

// unmapped writes IPv4-mapped addresses as IPv4: that is what the kernel connects to.
func unmapped(addrs []netip.Addr) []netip.Addr {
	out := make([]netip.Addr, len(addrs))
	for i, a := range addrs {
		out[i] = a.Unmap()
	}
	return out
}

// askServers asks the configured servers, the next when one fails or is slow; without any, the system's.
func (d *Dialer) askServers(ctx context.Context, name string) ([]netip.Addr, error) {
	if strings.Contains(name, ".") {
		name += "." // no search list: call.example.net must not become call.example.net.corp.example
	}
	if len(d.Servers) == 0 {
		return resolver("").LookupNetIP(ctx, "ip", name)
	}
	c := contest[[]netip.Addr]{
		n: len(d.Servers), stagger: serverStagger,
		try: func(ctx context.Context, i int) ([]netip.Addr, error) {
			return resolver(d.Servers[i]).LookupNetIP(ctx, "ip", name)
		},
		final:   notFound, // a server that says "no such name" has answered
		discard: func([]netip.Addr) {},
	}
	return c.run(ctx)
}

// resolver is Go's own, as the one in libc does not heed the context. It asks server, "address" or "address:port",
// whatever the system is configured to; "" means what the system is configured to.
func resolver(server string) *net.Resolver {
	if _, _, err := net.SplitHostPort(server); err != nil && server != "" {
		server = net.JoinHostPort(strings.Trim(server, "[]"), "53")
	}
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, configured string) (net.Conn, error) {
		if server != "" {
			configured = server
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, network, configured)
		if err == nil {
			// The resolver returns when the context is done, but goes on to wait for the answer behind our back.
			context.AfterFunc(ctx, func() { _ = conn.Close() })
		}
		return conn, err
	}}
}

func notFound(err error) bool {
	var dns *net.DNSError
	return errors.As(err, &dns) && dns.IsNotFound
}

// plain makes a sentence of a resolver's error.
func plain(err error) error {
	if notFound(err) {
		return fmt.Errorf("DNS knows no address of this name (`hosts:` can give it one): %w", err)
	}
	return fmt.Errorf("DNS failed: %w", err)
}

// failures remembers names that did not resolve.
type failures struct {
	mu    sync.Mutex
	names map[string]failure
}

type failure struct {
	err   *Error
	until time.Time
}

func (f *failures) get(name string, now time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x, ok := f.names[name]; ok && now.Before(x.until) {
		return x.err
	}
	return nil
}

func (f *failures) put(name string, err *Error, now time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.names == nil || len(f.names) >= maxFailures {
		f.names = make(map[string]failure) // forgetting costs a query, keeping costs memory
	}
	f.names[name] = failure{err, now.Add(failureAge)}
}

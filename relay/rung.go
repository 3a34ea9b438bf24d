package relay

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strconv"
	"sync/atomic"
	"time"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// rungKind is a transport of the uplink ladder, in the words of relay.rungs.
type rungKind string

const (
	rungUDP   rungKind = "udp"
	rungTCP   rungKind = "tcp"
	rungTLS   rungKind = "tls"
	rungProxy rungKind = "proxy" // TLS through the company's own proxy
)

// rungOrder is the ladder from the best rung to the last: datagrams before streams, since a stream holds up all media
// behind one lost packet; in the clear before TLS, since the media is encrypted anyway; the company's proxy when
// nothing else gets out.
var rungOrder = [...]rungKind{rungUDP, rungTCP, rungTLS, rungProxy}

const (
	// maxPaths bounds how many addresses of a rung's name are probed.
	maxPaths = 4
	// resolveEvery is how old an answer of DNS may get. A region that moves is found this fast; one that does not costs
	// one query a minute.
	resolveEvery = time.Minute
	resolveMost  = time.Minute
	// uplinkUserTimeout ends a stream whose bytes nobody acknowledges (RFC 5482). It is for a stream that died alone; a
	// rung that died is found by its probes, sooner.
	uplinkUserTimeout = 10 * time.Second
)

// rung is one transport to one host and port of a region. Where the name has several addresses each of them is a path;
// probes find out which one answers, since a datagram socket connects to a dead address just as well.
type rung struct {
	region *region
	kind   rungKind
	host   string
	port   uint16
	name   string // "udp:3478"; with the host where the region has several

	// Guarded by regions.mu.
	paths     []*path
	current   *path // the one for new sessions; nil before the first resolution
	resolving bool
	resolveAt time.Time
	failures  int    // resolutions in a row that failed
	unnamed   string // why the name has no address; empty when it has
}

// path is a rung at one address. Its health is the rung's when it is the current one.
type path struct {
	rung *rung
	addr netip.AddrPort // zero through the proxy, which gets the name

	// Guarded by regions.mu.
	health
	uplinks  map[*uplink]struct{}
	gone     bool // DNS no longer names it; it lives until its last session ends
	deepAt   time.Time
	deepBusy bool
	looped   bool // relayed packets have come back once

	seen  atomic.Bool // a session received since the last look
	probe prober
}

// newRungs makes the ladder of a region: what its URLs allow and relay.rungs permits, the best first. A region has
// few; twins are one.
func newRungs(r *region, urls []configs.TURNURL, allowed []string, proxy *netpolicy.Proxy) []*rung {
	var rungs []*rung
	add := func(kind rungKind, u configs.TURNURL) {
		if !slices.Contains(allowed, string(kind)) {
			return
		}
		for _, have := range rungs {
			if have.kind == kind && have.host == u.Host && have.port == u.Port {
				return
			}
		}
		rungs = append(rungs, &rung{region: r, kind: kind, host: u.Host, port: u.Port})
	}
	for _, u := range urls {
		switch {
		case u.Secure:
			add(rungTLS, u)
			if proxy != nil && !proxy.Exempt(u.Host, u.Port) {
				add(rungProxy, u)
			}
		case u.Transport == "tcp":
			add(rungTCP, u)
		default:
			add(rungUDP, u)
		}
	}
	sort.SliceStable(rungs, func(i, j int) bool { return rungs[i].before(rungs[j]) })
	nameRungs(rungs)
	return rungs
}

// before orders the ladder: by kind, then the port that the kind is usually open on, then as configured.
func (r *rung) before(other *rung) bool {
	if a, b := slices.Index(rungOrder[:], r.kind), slices.Index(rungOrder[:], other.kind); a != b {
		return a < b
	}
	return r.usualPort() && !other.usualPort()
}

func (r *rung) usualPort() bool {
	if r.kind == rungUDP || r.kind == rungTCP {
		return r.port == 3478
	}
	return r.port == 443
}

func nameRungs(rungs []*rung) {
	several := false
	for _, r := range rungs {
		several = several || r.host != rungs[0].host
	}
	for _, r := range rungs {
		r.name = string(r.kind) + ":" + strconv.Itoa(int(r.port))
		if several {
			r.name = string(r.kind) + ":" + r.target()
		}
	}
}

func (r *rung) target() string { return net.JoinHostPort(r.host, strconv.Itoa(int(r.port))) }

func (r *rung) datagram() bool { return r.kind == rungUDP }

// usable reports whether a new session may take the rung.
func (r *rung) usable() bool { return r.current != nil && r.current.usable() }

// resolve finds the addresses of the rung. The proxy gets the name, so that rung has one path without an address.
func (r *rung) resolve(ctx context.Context) ([]netip.AddrPort, error) {
	if r.kind == rungProxy {
		return []netip.AddrPort{{}}, nil
	}
	out := r.region.out
	addrs, err := out.dialer.Resolve(ctx, r.host, r.port, r.region.of.scope)
	return spreadFamilies(addrs, maxPaths), err
}

// spreadFamilies keeps n addresses, of both families if there are both: the machine may have a way out in one only.
func spreadFamilies(addrs []netip.AddrPort, n int) []netip.AddrPort {
	if len(addrs) <= n {
		return addrs
	}
	kept := make([]netip.AddrPort, 0, n)
	for _, four := range []bool{addrs[0].Addr().Is4(), !addrs[0].Addr().Is4()} {
		room := n - len(kept)
		if len(kept) == 0 {
			room = n / 2
		}
		for _, a := range addrs {
			if a.Addr().Is4() == four && room > 0 {
				kept = append(kept, a)
				room--
			}
		}
	}
	return kept
}

// resolved takes the answer of DNS.
func (r *rung) resolved(now time.Time, addrs []netip.AddrPort, err error) {
	r.resolving = false
	if err != nil {
		r.failures++
		wait := min(time.Second<<min(r.failures-1, 10), resolveMost)
		r.resolveAt = now.Add(time.Duration(float64(wait) * r.region.out.jitter()))
		r.unnamed = err.Error()
		return
	}
	r.failures, r.unnamed = 0, ""
	r.resolveAt = now.Add(time.Duration(float64(resolveEvery) * r.region.out.jitter()))
	for _, p := range r.paths {
		p.gone = !slices.Contains(addrs, p.addr)
	}
	for _, a := range addrs {
		if !slices.ContainsFunc(r.paths, func(p *path) bool { return p.addr == a }) {
			r.paths = append(r.paths, &path{
				rung: r, addr: a, health: health{state: stateUnknown, since: now}, uplinks: make(map[*uplink]struct{}),
			})
		}
	}
	r.elect()
}

// elect chooses the path for new sessions: the one it has, as long as that is usable and DNS names it; else the
// nearest that is; else whichever may yet become so. Paths that nobody needs any more are forgotten.
func (r *rung) elect() {
	kept := make([]*path, 0, len(r.paths)) // a new one: whoever walks over the old one may be who calls
	var best *path
	for _, p := range r.paths {
		if p.gone && len(p.uplinks) == 0 && p != r.current {
			p.probe.close()
			continue
		}
		kept = append(kept, p)
		if best == nil || p.better(best) {
			best = p
		}
	}
	r.paths = kept
	if r.current == nil || !r.current.usable() || r.current.gone && best.usable() && !best.gone {
		r.current = best
	}
}

// better orders the paths of one rung.
func (p *path) better(other *path) bool {
	if a, b := p.rank(), other.rank(); a != b {
		return a > b
	}
	return p.usable() && p.rtt < other.rtt
}

func (p *path) rank() int {
	rank := 0
	switch {
	case p.usable():
		rank = 6
	case p.recovering():
		rank = 4
	case p.state == stateUnknown:
		rank = 2
	}
	if !p.gone {
		rank++
	}
	return rank
}

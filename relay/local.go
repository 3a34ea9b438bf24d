package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

const (
	// portDraws is how many ports are tried at random before they are tried one after the other.
	portDraws = 32
	// reservationLife is how long the port behind an even one is kept for whoever brings its token (RFC 8656 section 7.2).
	reservationLife = 30 * time.Second
	// maxReservations bounds the sockets kept so.
	maxReservations = 256
)

// localRelay is the backend of mode local: every relayed address is a UDP socket of the gateway's own.
//
// Two allocations of this gateway never meet on a socket. What one sends to the other's relayed address is handed over in the
// process, with the permissions of both sides checked; and to an address that is announced here nothing is ever sent, so that no
// peer address leads to the gateway's own services.
type localRelay struct {
	setup atomic.Pointer[localSetup]
	now   func() time.Time
	own   func() []netip.Addr

	buffers packetBuffers
	ctx     context.Context // ends with close
	cancel  context.CancelFunc
	wg      sync.WaitGroup

	mu sync.RWMutex
	// live are the relayed addresses by what clients are told; announced is every address that was ever told.
	live      map[netip.AddrPort]*localAddress
	announced map[netip.Addr]bool
	kept      map[[8]byte]*reservation
	watching  bool // the policy's dependencies are being resolved
	unwatch   context.CancelFunc
	closed    bool
}

// localSetup is what the configuration says about mode local.
type localSetup struct {
	policy    *peerPolicy
	address   netip.Addr // invalid: the one that the client asked
	low, high uint16
	public    []netip.Addr
	tos       int
}

// reservation is the socket behind an even port.
type reservation struct {
	conn  *net.UDPConn
	until time.Time
}

// newLocalRelay makes the backend of a configuration. policy judges by address class, own says which addresses the machine has.
func newLocalRelay(c *configs.Config, policy *peerPolicy, now func() time.Time, own func() []netip.Addr) (*localRelay, error) {
	first, err := newLocalSetup(c, policy)
	if err != nil {
		return nil, err
	}
	l := &localRelay{
		now: now, own: own,
		live: make(map[netip.AddrPort]*localAddress), announced: make(map[netip.Addr]bool), kept: make(map[[8]byte]*reservation),
	}
	l.setup.Store(first)
	l.ctx, l.cancel = context.WithCancel(context.Background())
	return l, nil
}

func newLocalSetup(c *configs.Config, policy *peerPolicy) (*localSetup, error) {
	low, high, err := configs.ParsePorts(c.Relay.Local.Ports)
	if err != nil {
		return nil, fmt.Errorf("relay.local.ports %q: %w", c.Relay.Local.Ports, err)
	}
	dscp, err := configs.ParseDSCP(c.Relay.DSCP)
	if err != nil {
		return nil, fmt.Errorf("relay.dscp %q: %w", c.Relay.DSCP, err)
	}
	return &localSetup{policy: policy, address: c.Relay.Local.Address, low: low, high: high, public: c.Addresses.Public, tos: dscp << 2}, nil
}

// prepare implements modeBackend. Relayed addresses stay; whom they may talk to is judged by the new policy when a permission is
// next asked for.
func (l *localRelay) prepare(c *configs.Config, d *netpolicy.Dialer) (use func(), err error) {
	next, err := newLocalSetup(c, newPeerPolicy(c, d))
	if err != nil {
		return nil, err
	}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.setup.Store(next)
		if l.watching && !l.closed {
			l.watch()
		}
	}, nil
}

func (l *localRelay) allocate(a *allocation, want wanted, then func(relayed, error)) {
	got, err := l.open(a, want)
	if err != nil {
		then(nil, err)
		return
	}
	then(got, nil)
}

func (l *localRelay) open(a *allocation, want wanted) (*localAddress, error) {
	if want.reservation != nil {
		conn := l.claim([8]byte(want.reservation))
		if conn == nil {
			return nil, &turnError{code: codeInsufficientCapacity, why: "no such reservation"}
		}
		return l.start(a, conn, nil)
	}
	bind, ok := l.bindAddress(a.tuple.client.Local, want.family)
	if !ok {
		return nil, &turnError{code: codeAddressFamily, why: "the gateway relays from no address of that family"}
	}
	conn, next, err := l.listen(bind, want)
	if err != nil {
		return nil, err
	}
	return l.start(a, conn, next)
}

// bindAddress is the address that a relayed address is made on: the configured one, or the one that the client asked, or another
// of the machine's. Who names no family means IPv4 (RFC 8656 section 7.2), and gets IPv6 where there is nothing else: browsers name
// none.
func (l *localRelay) bindAddress(local net.Addr, family byte) (netip.Addr, bool) {
	if a := l.setup.Load().address; a.IsValid() {
		return a.Unmap(), family == 0 || familyOf(a) == family
	}
	candidates := append([]netip.Addr{addrOf(local)}, l.own()...)
	if family != 0 {
		return firstUsable(candidates, family)
	}
	if a, ok := firstUsable(candidates, familyIPv4); ok {
		return a, true
	}
	return firstUsable(candidates, familyIPv6)
}

// announce is what a client is told: the address outside, where the gateway stands behind NAT.
func (l *localRelay) announce(bound netip.AddrPort) netip.AddrPort {
	if netpolicy.Classify(bound.Addr()) == netpolicy.Public {
		return bound
	}
	for _, a := range l.setup.Load().public {
		if familyOf(a) == familyOf(bound.Addr()) {
			return netip.AddrPortFrom(a.Unmap(), bound.Port())
		}
	}
	return bound
}

// listen opens a socket, and the one behind it if that is to be kept.
func (l *localRelay) listen(bind netip.Addr, want wanted) (conn, next *net.UDPConn, err error) {
	full := &turnError{code: codeInsufficientCapacity, why: "no relay port is free"}
	setup := l.setup.Load()
	for _, port := range setup.ports() {
		if want.evenPort && port%2 != 0 {
			continue
		}
		conn, err = openRelaySocket(netip.AddrPortFrom(bind, port), setup.tos)
		if errors.Is(err, syscall.EADDRINUSE) {
			continue
		}
		if err != nil || !want.andNext {
			return conn, nil, err
		}
		if port < setup.high {
			if next, err = openRelaySocket(netip.AddrPortFrom(bind, port+1), setup.tos); err == nil {
				return conn, next, nil
			}
		}
		_ = conn.Close()
	}
	return nil, nil, full
}

// ports is the order in which ports are tried: some drawn from the whole range, each as likely as any other and not to be guessed,
// so that nobody can aim at an allocation before it is there; then all, from a random one on.
func (l *localSetup) ports() func(func(int, uint16) bool) {
	low, size := int(l.low), int(l.high)-int(l.low)+1
	return func(yield func(int, uint16) bool) {
		for i := range portDraws {
			if !yield(i, uint16(low+draw(size))) {
				return
			}
		}
		start := draw(size)
		for i := range size {
			if !yield(portDraws+i, uint16(low+(start+i)%size)) {
				return
			}
		}
	}
}

// draw is a number below n, each as likely as any other.
func draw(n int) int {
	v, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil {
		return 0 // can't be: crypto/rand ends the process instead
	}
	return int(v.Int64())
}

func openRelaySocket(at netip.AddrPort, tos int) (*net.UDPConn, error) {
	network := "udp4"
	if at.Addr().Is6() {
		network = "udp6"
	}
	conn, err := net.ListenUDP(network, net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	if raw, err := conn.SyscallConn(); err == nil {
		_ = raw.Control(func(fd uintptr) { markTOS(int(fd), tos) }) // a wish: media flows without it
	}
	return conn, nil
}

func markTOS(fd, tos int) {
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_TOS, tos)
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos)
}

// start puts a socket to work for an allocation.
func (l *localRelay) start(a *allocation, conn, next *net.UDPConn) (*localAddress, error) {
	bound := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	bound = netip.AddrPortFrom(bound.Addr().Unmap(), bound.Port())
	r := &localAddress{relay: l, allocation: a, announced: l.announce(bound)}
	d, err := a.tuple.client.loop.adopt(conn, r)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	r.socket = &datagrams{descriptor: d}
	l.mu.Lock()
	defer l.mu.Unlock()
	if next != nil {
		r.token = l.keep(next)
	}
	if l.closed || d.loop.watch(d) != nil {
		d.close()
		return nil, &turnError{code: codeInsufficientCapacity, why: "the gateway is closing"}
	}
	l.live[r.announced] = r
	l.announced[r.announced.Addr()], l.announced[bound.Addr()] = true, true
	if !l.watching {
		l.watching = true
		l.watch()
	}
	return r, nil
}

// watch keeps the addresses of what the gateway depends on up to date, for the policy that is in force. The caller has the lock.
func (l *localRelay) watch() {
	if l.unwatch != nil {
		l.unwatch()
	}
	var ctx context.Context
	ctx, l.unwatch = context.WithCancel(l.ctx)
	policy := l.setup.Load().policy
	l.wg.Go(func() { policy.deps.watch(ctx) })
}

// keep reserves a socket and returns its token; nil: it can't be kept. The caller has the lock.
func (l *localRelay) keep(conn *net.UDPConn) []byte {
	if len(l.kept) >= maxReservations || l.closed {
		_ = conn.Close()
		return nil
	}
	var token [8]byte
	rand.Read(token[:])
	l.kept[token] = &reservation{conn: conn, until: l.now().Add(reservationLife)}
	return token[:]
}

func (l *localRelay) claim(token [8]byte) *net.UDPConn {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.kept[token]
	if r == nil || !l.now().Before(r.until) {
		return nil
	}
	delete(l.kept, token)
	return r.conn
}

// sweep gives back the ports that nobody came for.
func (l *localRelay) sweep(now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for token, r := range l.kept {
		if !now.Before(r.until) {
			_ = r.conn.Close()
			delete(l.kept, token)
		}
	}
}

// close ends what no allocation ends, and waits for the sockets' readers.
func (l *localRelay) close() {
	l.cancel()
	l.mu.Lock()
	l.closed = true
	l.mu.Unlock()
	l.sweep(l.now().Add(2 * reservationLife))
	l.wg.Wait()
}

// at is the allocation whose relayed address this is. known: the address is one of ours, whatever the port.
func (l *localRelay) at(peer netip.AddrPort) (r *localAddress, known bool) {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.live[peer], l.announced[peer.Addr()]
}

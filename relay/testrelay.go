package relay

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"
)

// Bounds of the test relay. A run is one person's precall test: two ends, seldom more while ICE restarts.
const (
	testCredentialLife = 10 * time.Minute
	maxRunNameBytes    = 64
	maxTestRuns        = 2048
	maxTestEnds        = 1024
	maxTestEndsPerRun  = 8
	testBitsPerSecond  = 8_000_000
	testBytesPerRun    = 256 << 20
	// maxTestAllocates bounds the Allocates that one run remembers to tell a copy of one from a new one.
	maxTestAllocates = 64
)

// testName begins the name part of the test credentials. No service mints such names, so a bridge can tell them from the cloud's.
const testName = "hafen-test:"

// testRelay is the relay of the precall test: it lets the two ends of one run exchange packets, in this process, and nothing else.
// No socket is opened for it, so its credentials, which any page may ask for, open no way to anywhere.
//
// In bridge mode a browser's first Allocate, which carries no user name, has gone to a region; the browser comes here with the
// second, signed for the region's realm and nonce. So both are taken from the request: what proves the client is the password.
type testRelay struct {
	authority authority
	now       func() time.Time
	// public are the addresses that the outside sees, own the machine's.
	public []netip.Addr
	own    func() []netip.Addr

	buffers packetBuffers

	mu   sync.Mutex
	runs map[string]*testRun
	ends map[uint16]*testEnd // by invented port, which is unique over all runs and addresses
}

// testRun is one precall test.
type testRun struct {
	until     time.Time // its credentials' expiry, and the end of every allocation made with them
	meter     *meter
	ends      map[*testEnd]struct{}
	allocates map[[integritySize]byte]*fiveTuple
}

// testEnd is one relayed address of a run.
type testEnd struct {
	relay      *testRelay
	run        *testRun
	allocation *allocation
	addr       netip.AddrPort
}

func newTestRelay(a authority, now func() time.Time, public []netip.Addr, own func() []netip.Addr) *testRelay {
	return &testRelay{
		authority: a.derive("hafen test relay"), now: now, public: public, own: own,
		runs: make(map[string]*testRun), ends: make(map[uint16]*testEnd),
	}
}

var errRunName = errors.New("a run's name is 1 to 64 letters, digits, '-' and '_'")

// credentials mints a user name and a password for one run, good for testCredentialLife.
func (r *testRelay) credentials(run string, now time.Time) (username, password string, err error) {
	if !runName(run) {
		return "", "", errRunName
	}
	username, password = r.authority.mint(testName+run, now.Add(testCredentialLife))
	return username, password, nil
}

func runName(s string) bool {
	other := func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_')
	}
	return s != "" && len(s) <= maxRunNameBytes && !strings.ContainsFunc(s, other)
}

// minted tells whether a user name has the form of the test relay's.
func (r *testRelay) minted(username string) bool {
	_, name, _ := strings.Cut(username, ":")
	return strings.HasPrefix(name, testName)
}

// account is who stands behind a test user name.
func (r *testRelay) account(username string, now time.Time) (account, error) {
	who := account{password: r.authority.password(username), quota: maxTestEndsPerRun, foreign: true}
	name, expires, err := readUsername(username, now)
	if err != nil {
		return who, err
	}
	run, ok := strings.CutPrefix(name, testName)
	switch {
	case !ok || !runName(run):
		return who, errUsername
	case !now.Before(expires):
		return who, errExpired // this process minted it: there is no second clock to be tolerant of
	case expires.Sub(now) > testCredentialLife:
		return who, errTooLong
	}
	who.name, who.expires, who.end = name, expires, expires
	who.backend = testRunBackend{relay: r, run: run}
	return who, nil
}

// testRunBackend makes relayed addresses for one run.
type testRunBackend struct {
	relay *testRelay
	run   string
}

func (b testRunBackend) allocate(a *allocation, want wanted, then func(relayed, error)) {
	end, err := b.relay.newEnd(b.run, a, want)
	if err != nil {
		then(nil, err)
		return
	}
	then(end, nil)
}

func (r *testRelay) newEnd(name string, a *allocation, want wanted) (*testEnd, error) {
	if want.andNext || want.reservation != nil {
		return nil, &turnError{code: codeInsufficientCapacity, why: "the test relay keeps no ports"}
	}
	addr, ok := r.address(a.tuple.client.Local, want.family)
	if !ok {
		return nil, &turnError{code: codeAddressFamily, why: "the gateway has no address of that family"}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	run, err := r.runOf(name, a, want)
	if err != nil {
		return nil, err
	}
	if len(r.ends) >= maxTestEnds {
		return nil, &turnError{code: codeInsufficientCapacity, why: "too many tests at once"}
	}
	end := &testEnd{relay: r, run: run, allocation: a, addr: netip.AddrPortFrom(addr, r.freePort(want.evenPort))}
	r.ends[end.addr.Port()] = end
	run.ends[end] = struct{}{}
	return end, nil
}

// runOf finds or makes a run and notes the Allocate. A copy of one that came from elsewhere is refused with 438: the nonce is the
// cloud's and says nothing about who may use it here.
func (r *testRelay) runOf(name string, a *allocation, want wanted) (*testRun, error) {
	run := r.runs[name]
	if run == nil {
		if len(r.runs) >= maxTestRuns {
			return nil, &turnError{code: codeInsufficientCapacity, why: "too many tests at once"}
		}
		run = &testRun{
			meter: newMeter(testBitsPerSecond, testBytesPerRun),
			ends:  make(map[*testEnd]struct{}), allocates: make(map[[integritySize]byte]*fiveTuple),
		}
		r.runs[name] = run
	}
	if run.until.Before(a.end) {
		run.until = a.end
	}
	switch by, seen := run.allocates[want.integrity]; {
	case seen && by != a.tuple:
		return nil, &turnError{code: codeStaleNonce, why: "an Allocate used twice"}
	case !seen && len(run.allocates) >= maxTestAllocates:
		return nil, &turnError{code: codeAllocationQuota, why: "too many allocations in one test"}
	}
	run.allocates[want.integrity] = a.tuple
	return run, nil
}

// freePort invents a port. maxTestEnds is far below the number of ports, so a few draws find one.
func (r *testRelay) freePort(even bool) uint16 {
	for {
		var b [2]byte
		rand.Read(b[:])
		port := 49152 | binary.BigEndian.Uint16(b[:])
		if even {
			port &^= 1
		}
		if r.ends[port] == nil {
			return port
		}
	}
}

// address is the relayed address that a client hears: the one it asked, as long as others could use it too. Both ends of a run
// must get the same family, which is why a client that asks for none gets IPv4 wherever the gateway has any.
func (r *testRelay) address(local net.Addr, family byte) (netip.Addr, bool) {
	asked := addrOf(local)
	want := family
	if family == 0 {
		want = familyIPv4
	}
	if a, ok := firstUsable(append([]netip.Addr{asked}, r.public...), want); ok {
		return a, true
	}
	if a, ok := firstUsable(r.own(), want); ok {
		return a, true
	}
	// Nothing better than what the client asked: a machine with nothing but loopback, or without IPv4.
	fits := asked.IsValid() && !asked.IsUnspecified() && (family == 0 || familyOf(asked) == family)
	return asked, fits
}

// firstUsable is the first address of a family that means something on another machine. (Firefox drops loopback relays.)
func firstUsable(addrs []netip.Addr, family byte) (netip.Addr, bool) {
	for _, a := range addrs {
		if a.IsValid() && familyOf(a) == family && !a.IsUnspecified() && !a.IsLoopback() && !a.IsLinkLocalUnicast() {
			return a.Unmap(), true
		}
	}
	return netip.Addr{}, false
}

// addrOf is the IP address of a socket's address.
func addrOf(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// machineAddresses are the addresses of this machine's interfaces.
func machineAddresses() []netip.Addr {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // as good as a machine without addresses
	}
	out := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap())
		}
	}
	return out
}

// sweep forgets runs whose time is up. Until then a run stays, with nobody in it too, so that what it has used stays used.
func (r *testRelay) sweep(now time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for name, run := range r.runs {
		if !now.Before(run.until) && len(run.ends) == 0 {
			delete(r.runs, name)
		}
	}
}

// close has nothing to do: a run holds memory only.
func (r *testRelay) close() {}

func (r *testRelay) count() (runs, ends int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, run := range r.runs {
		if len(run.ends) > 0 {
			runs++
		}
	}
	return runs, len(r.ends)
}

func (e *testEnd) address() netip.AddrPort { return e.addr }

// permit lets an end talk to the addresses of its run's ends. A channel must name one of them with its port.
func (e *testEnd) permit(peers []netip.AddrPort, number uint16, then func(error)) {
	for _, peer := range peers {
		if !e.inRun(peer, number != 0) {
			then(&turnError{code: codeForbidden, why: fmt.Sprintf("%s is no end of this test", peer)})
			return
		}
	}
	then(nil)
}

func (e *testEnd) inRun(peer netip.AddrPort, exact bool) bool {
	e.relay.mu.Lock()
	defer e.relay.mu.Unlock()
	for end := range e.run.ends {
		if end.addr == peer || !exact && end.addr.Addr() == peer.Addr() {
			return true
		}
	}
	return false
}

// send hands a packet to another end of the same run, if that one has a permission for this.
func (e *testEnd) send(peer netip.AddrPort, _ uint16, data []byte) {
	engine := e.allocation.tuple.engine
	e.relay.mu.Lock()
	other := e.relay.ends[peer.Port()]
	e.relay.mu.Unlock()
	switch {
	case other == nil || other.addr != peer || other.run != e.run:
		engine.metrics.refused("no_such_end")
	case !e.run.meter.take(len(data), engine.now()):
		engine.metrics.refused("bandwidth")
	default:
		buf := e.relay.buffers.get()
		*buf = append((*buf)[:headroom], data...)
		other.allocation.deliver(e.addr, *buf)
		e.relay.buffers.put(buf)
	}
}

func (e *testEnd) close() {
	e.relay.mu.Lock()
	defer e.relay.mu.Unlock()
	delete(e.relay.ends, e.addr.Port())
	delete(e.run.ends, e)
}

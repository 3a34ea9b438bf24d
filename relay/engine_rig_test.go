package relay

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// rig is an engine with a clock of the test's, an authority, and a backend whose relayed addresses swallow what is sent to them.
type rig struct {
	loop *loop
	testing.TB
	engine *engine
	auth   authority
	clock  *fakeClock
	// relayed are the relayed addresses made so far; refuse, when set, is what the next is refused with.
	mu      sync.Mutex
	relayed []*fakeRelayed
	refuse  error
	relayIP netip.Addr
	quota   int
	// slow, when set, keeps allocate's and permit's continuations instead of calling them.
	slow *[]func()
}

type fakeClock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *fakeClock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *fakeClock) advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// newRig makes a rig for IPv4 or IPv6.
func newRig(t *testing.T, v6 bool, change ...func(*engineOptions)) *rig {
	t.Helper()
	return newRigFor(t, v6, change...)
}

func newRigFor(t testing.TB, v6 bool, change ...func(*engineOptions)) *rig {
	r := &rig{TB: t, auth: authority{secret: []byte("a secret of the test")}, clock: &fakeClock{now: time.Unix(1_800_000_000, 0)}, quota: 4}
	r.relayIP = netip.MustParseAddr("203.0.113.5")
	if v6 {
		r.relayIP = netip.MustParseAddr("2001:db8::5")
	}
	o := engineOptions{realm: "gw.example", now: r.clock.Now, find: func(_, username string, now time.Time) (account, error) {
		who := account{password: r.auth.password(username), backend: r, quota: r.quota}
		var err error
		who.name, who.expires, err = readUsername(username, now)
		return who, err
	}}
	for _, f := range change {
		f(&o)
	}
	var err error
	if r.loop, err = newLoop(true, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.loop.close)
	r.engine = startEngine(o)
	t.Cleanup(r.engine.close)
	return r
}

type fakeRelayed struct {
	rig        *rig
	allocation *allocation
	addr       netip.AddrPort
	want       wanted
	sent       []sentPacket
	deny       map[netip.Addr]bool
	closed     bool
}

type sentPacket struct {
	peer netip.AddrPort
	data string
}

func (r *rig) allocate(a *allocation, want wanted, then func(relayed, error)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.refuse != nil {
		then(nil, r.refuse)
		return
	}
	f := &fakeRelayed{rig: r, allocation: a, addr: netip.AddrPortFrom(r.relayIP, uint16(50000+len(r.relayed))), want: want, deny: map[netip.Addr]bool{}}
	r.relayed = append(r.relayed, f)
	r.later(func() { then(f, nil) })
}

func (r *rig) later(f func()) {
	if r.slow != nil {
		*r.slow = append(*r.slow, f)
		return
	}
	f()
}

func (f *fakeRelayed) address() netip.AddrPort { return f.addr }

func (f *fakeRelayed) permit(peers []netip.AddrPort, _ uint16, then func(error)) {
	for _, p := range peers {
		if f.deny[p.Addr()] {
			f.rig.later(func() { then(&turnError{code: codeForbidden, why: "the test says so"}) })
			return
		}
	}
	f.rig.later(func() { then(nil) })
}

func (f *fakeRelayed) send(peer netip.AddrPort, _ uint16, data []byte) {
	f.sent = append(f.sent, sentPacket{peer, string(data)})
}

func (f *fakeRelayed) close() { f.closed = true }

// take returns what was sent so far and forgets it.
func (f *fakeRelayed) take() []sentPacket {
	sent := f.sent
	f.sent = nil
	return sent
}

// rawClient speaks TURN by hand.
type rawClient struct {
	*rig
	tuple    *fiveTuple
	username string
	password string
	realm    string
	nonce    string

	mu  sync.Mutex
	got [][]byte
}

func (r *rig) client(addr, via string) *rawClient {
	c := &rawClient{rig: r}
	c.username, c.password = r.auth.mint("alice", r.clock.Now().Add(5*time.Minute))
	local := net.TCPAddrFromAddrPort(netip.AddrPortFrom(r.relayIP, 443))
	c.tuple = r.engine.open(Client{Addr: netip.MustParseAddrPort(addr), Local: local, Via: via, loop: r.loop}, func(msg []byte) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.got = append(c.got, append([]byte(nil), msg...))
	})
	r.Cleanup(c.tuple.close)
	return c
}

// answers returns what the engine sent since it was asked last.
func (c *rawClient) answers() [][]byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	got := c.got
	c.got = nil
	return got
}

// exchange sends raw and expects exactly one answer to it.
func (c *rawClient) exchange(raw []byte) *stun.Message {
	c.Helper()
	c.tuple.handle(raw)
	got := c.answers()
	if len(got) != 1 {
		c.Fatalf("%d answers, want 1", len(got))
	}
	m := &stun.Message{Raw: got[0]}
	if err := m.Decode(); err != nil {
		c.Fatalf("the answer does not parse: %v", err)
	}
	if want := [12]byte(raw[8:20]); m.TransactionID != want {
		c.Fatalf("the answer is to %x, want %x", m.TransactionID, want)
	}
	if _, err := m.Get(stun.AttrSoftware); err == nil {
		c.Error("the answer has a SOFTWARE attribute")
	}
	return m
}

// unsigned builds a request without a credential.
func (c *rawClient) unsigned(method stun.Method, attrs ...stun.Setter) []byte {
	c.Helper()
	all := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
	m, err := stun.Build(all...)
	if err != nil {
		c.Fatal(err)
	}
	return m.Raw
}

func (c *rawClient) key() stun.MessageIntegrity {
	return stun.NewLongTermIntegrity(c.username, c.realm, c.password)
}

// signed builds a request with the client's credential; it fetches realm and nonce first if it has none.
func (c *rawClient) signed(method stun.Method, attrs ...stun.Setter) []byte {
	c.Helper()
	if c.nonce == "" {
		c.challenge()
	}
	all := append([]stun.Setter{}, attrs...)
	all = append(all, stun.NewUsername(c.username), stun.NewRealm(c.realm), stun.NewNonce(c.nonce), c.key())
	return c.unsigned(method, all...)
}

// challenge gets a realm and a nonce the way every client does.
func (c *rawClient) challenge() {
	c.Helper()
	m := c.exchange(c.unsigned(stun.MethodAllocate, udpTransport))
	if code := codeOf(m); code != 401 {
		c.Fatalf("unsigned Allocate: %d, want 401", code)
	}
	c.realm, c.nonce = text(m, stun.AttrRealm), text(m, stun.AttrNonce)
	if c.realm == "" || c.nonce == "" {
		c.Fatal("a 401 without realm or nonce")
	}
}

// do sends a signed request and returns its answer; one that is not an authentication failure must be signed.
func (c *rawClient) do(method stun.Method, attrs ...stun.Setter) *stun.Message {
	c.Helper()
	m := c.exchange(c.signed(method, attrs...))
	if code := codeOf(m); code != 401 && code != 438 && code != 400 {
		if err := c.key().Check(m); err != nil {
			c.Errorf("the answer %d is not signed: %v", code, err)
		}
	}
	return m
}

// want sends a signed request and expects a code; 0 is success.
func (c *rawClient) want(code int, method stun.Method, attrs ...stun.Setter) *stun.Message {
	c.Helper()
	m := c.do(method, attrs...)
	if got := codeOf(m); got != code {
		c.Fatalf("%v: answered %d, want %d", method, got, code)
	}
	return m
}

// allocated makes an allocation.
func (c *rawClient) allocated() *fakeRelayed {
	c.Helper()
	c.want(0, stun.MethodAllocate, udpTransport)
	return c.rig.relayed[len(c.rig.relayed)-1]
}

// codeOf is an answer's error code, 0 for success.
func codeOf(m *stun.Message) int {
	if m.Type.Class == stun.ClassSuccessResponse {
		return 0
	}
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil {
		return -1
	}
	return int(code.Code)
}

func text(m *stun.Message, typ stun.AttrType) string {
	v, err := m.Get(typ)
	if err != nil {
		return ""
	}
	return string(v)
}

func rawAttr(typ stun.AttrType, value ...byte) stun.Setter {
	return setterFunc(func(m *stun.Message) error {
		m.Add(typ, value)
		return nil
	})
}

func peerAttr(addr string) stun.Setter {
	return xorAddressSetter(stun.AttrXORPeerAddress, netip.MustParseAddrPort(addr))
}

// mappedPeerAttr writes an IPv4 address as the IPv6 address ::ffff:a.b.c.d.
func mappedPeerAttr(addr string) stun.Setter {
	ap := netip.MustParseAddrPort(addr)
	return setterFunc(func(m *stun.Message) error {
		v := []byte{0, familyIPv6}
		v = binary.BigEndian.AppendUint16(v, ap.Port()^0x2112)
		mask := append([]byte{0x21, 0x12, 0xa4, 0x42}, m.TransactionID[:]...)
		a := ap.Addr().As16()
		for i := range a {
			v = append(v, a[i]^mask[i])
		}
		m.Add(stun.AttrXORPeerAddress, v)
		return nil
	})
}

func channelAttr(n uint16) stun.Setter {
	return rawAttr(stun.AttrChannelNumber, byte(n>>8), byte(n), 0, 0)
}

func lifetimeAttr(seconds uint32) stun.Setter {
	return rawAttr(stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, seconds)...)
}

var udpTransport = rawAttr(stun.AttrRequestedTransport, protocolUDP, 0, 0, 0)

// indication builds a Send indication.
func (c *rawClient) indication(peer, data string) []byte {
	c.Helper()
	m, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), peerAttr(peer), rawAttr(stun.AttrData, []byte(data)...))
	if err != nil {
		c.Fatal(err)
	}
	return m.Raw
}

func channelFrame(number uint16, data string) []byte {
	b := binary.BigEndian.AppendUint16(nil, number)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...)
}

// arrive delivers a packet of a peer to a relayed address.
func (f *fakeRelayed) arrive(peer, data string) {
	buf := make([]byte, headroom, 2048)
	f.allocation.deliver(netip.MustParseAddrPort(peer), append(buf, data...))
}

var errTestDown = errors.New("the test's backend is down")

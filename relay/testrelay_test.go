package relay

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v4"
)

// newTestRig is an engine that serves nothing but the test relay, as in mode bridge.
func newTestRig(t *testing.T) (*rig, *testRelay) {
	r := newRig(t, false)
	r.engine.close()
	test := newTestRelay(r.auth, r.clock.Now, nil, func() []netip.Addr { return nil })
	r.engine = startEngine(engineOptions{realm: "gw.example", find: func(_, username string, now time.Time) (account, error) { return test.account(username, now) }, test: test, backends: []swept{test}, now: r.clock.Now})
	t.Cleanup(r.engine.close)
	return r, test
}

// end is a client that comes from a cloud relay's challenge with a test credential.
func (r *rig) end(test *testRelay, run, addr, via string) *rawClient {
	r.Helper()
	c := r.client(addr, via)
	var err error
	if c.username, c.password, err = test.credentials(run, r.clock.Now()); err != nil {
		r.Fatal(err)
	}
	c.realm, c.nonce = "cloud.example", "nonce of the cloud for "+addr
	return c
}

// relayedAddr makes an allocation and tells its relayed address.
func (c *rawClient) relayedAddr(attrs ...stun.Setter) netip.AddrPort {
	c.Helper()
	m := c.want(0, stun.MethodAllocate, append([]stun.Setter{udpTransport}, attrs...)...)
	var a stun.XORMappedAddress
	if err := a.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil {
		c.Fatal(err)
	}
	return netip.MustParseAddrPort(a.String())
}

func TestTestCredentials(t *testing.T) {
	r, test := newTestRig(t)
	now := r.clock.Now()
	for _, run := range []string{"", "a b", "a:b", "ü", strings.Repeat("x", maxRunNameBytes+1), "a\x00"} {
		if _, _, err := test.credentials(run, now); err == nil {
			t.Errorf("run %q was accepted", run)
		}
	}
	username, _, err := test.credentials("K7QF-2M_x", now)
	if err != nil || !test.minted(username) || len(username) > 128 {
		t.Errorf("%q %v", username, err)
	}
	for _, foreign := range []string{"1800000100:alice", "alice", "", "1800000100:test:x", "hafen-test:x"} {
		if test.minted(foreign) {
			t.Errorf("%q is taken for a test's", foreign)
		}
	}
	s := &Server{engine: r.engine}
	c := r.client("10.1.2.3:40000", "tls")
	c.username, c.realm, c.nonce = username, "cloud.example", "x"
	if !s.wantsTest(c.signed(stun.MethodAllocate, udpTransport)) {
		t.Error("a test's Allocate is not recognised")
	}
	c.username = "1800000100:alice"
	if s.wantsTest(c.signed(stun.MethodAllocate, udpTransport)) || s.wantsTest(c.unsigned(stun.MethodAllocate, udpTransport)) || s.wantsTest(nil) {
		t.Error("a stranger's Allocate is taken for a test's")
	}
}

// TestTestRelay: the two ends of one run exchange data, over every mixture of stream and UDP, and nobody else gets in.
func TestTestRelay(t *testing.T) {
	for _, via := range [][2]string{{"tls", "tls"}, {"udp", "tcp"}, {"udp", "udp"}, {"connect", "tls"}} {
		t.Run(via[0]+" "+via[1], func(t *testing.T) {
			r, test := newTestRig(t)
			a := r.end(test, "run1", "10.1.2.3:40000", via[0])
			b := r.end(test, "run1", "10.1.2.3:40001", via[1])
			x := r.end(test, "run2", "10.1.2.3:40002", "tls")
			addrA, addrB, addrX := a.relayedAddr(), b.relayedAddr(), x.relayedAddr()
			if addrA == addrB || addrA.Port() == addrB.Port() || addrA.Port() == addrX.Port() || addrA.Addr() != r.relayIP {
				t.Fatalf("relayed addresses %v %v %v", addrA, addrB, addrX)
			}
			a.want(0, stun.MethodCreatePermission, peerAttr(addrB.String()))
			a.tuple.handle(a.indication(addrB.String(), "too early"))
			if got := b.answers(); len(got) != 0 {
				t.Error("data came before the other end's permission")
			}
			b.want(0, stun.MethodChannelBind, channelAttr(0x4321), peerAttr(addrA.String()))
			a.tuple.handle(a.indication(addrB.String(), "hello"))
			if got := b.answers(); len(got) != 1 || string(got[0]) != string(channelFrame(0x4321, "hello")) {
				t.Errorf("b got %q", got)
			}
			b.tuple.handle(channelFrame(0x4321, "hello yourself"))
			var m stun.Message
			if got := a.answers(); len(got) != 1 || stun.Decode(got[0], &m) != nil || text(&m, stun.AttrData) != "hello yourself" {
				t.Errorf("a got %q", got)
			}

			// The other run shares the address, so its permission is granted; its packets go nowhere all the same.
			x.want(0, stun.MethodCreatePermission, peerAttr(addrA.String()))
			x.tuple.handle(x.indication(addrA.String(), "let me in"))
			x.want(403, stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrA.String()))
			a.tuple.handle(a.indication(addrX.String(), "come out"))
			if got, gotX := a.answers(), x.answers(); len(got)+len(gotX) != 0 {
				t.Error("two runs exchanged data")
			}
			for _, peer := range []string{"198.51.100.7:5000", "127.0.0.1:80", "10.1.2.3:40001"} {
				a.want(403, stun.MethodCreatePermission, peerAttr(peer))
				a.want(403, stun.MethodCreatePermission, peerAttr(addrB.String()), peerAttr(peer))
			}
			b.want(0, stun.MethodRefresh, lifetimeAttr(0))
			a.tuple.handle(a.indication(addrB.String(), "anybody there?"))
			if got := b.answers(); len(got) != 0 {
				t.Error("data came to an end that is gone")
			}
			if st := r.engine.stats(); st.TestRuns != 2 || st.TestAllocations != 2 {
				t.Errorf("%+v", st)
			}
		})
	}
}

// TestTestRelayCredentials: what is forged or old is refused, under the realm that the client came with.
func TestTestRelayCredentials(t *testing.T) {
	r, test := newTestRig(t)
	expect := func(name string, c *rawClient, code int) {
		t.Helper()
		m := c.do(stun.MethodAllocate, udpTransport)
		if got := codeOf(m); got != code {
			t.Errorf("%s: %d, want %d", name, got, code)
		}
		if code != 0 && text(m, stun.AttrRealm) != "cloud.example" {
			t.Errorf("%s: challenged for another realm, %q", name, text(m, stun.AttrRealm))
		}
	}
	forged := r.end(test, "run", "10.1.2.3:1", "tls")
	forged.password = "wrong"
	expect("forged", forged, 401)
	_, forged.password = r.auth.mint(forged.username, r.clock.Now())
	expect("signed with the clients' own secret", forged, 401)

	long := r.end(test, "run", "10.1.2.3:2", "tls")
	long.username, long.password = test.authority.mint(testName+"run", r.clock.Now().Add(testCredentialLife+time.Second))
	expect("good for too long", long, 401)

	late := r.end(test, "run", "10.1.2.3:3", "tls")
	r.clock.advance(testCredentialLife)
	expect("expired", late, 401)

	good := r.end(test, "run", "10.1.2.3:4", "tls")
	good.do(stun.MethodRefresh) // a cloud's nonce opens nothing but an Allocate
	expect("good", good, 0)
	copied := r.end(test, "run", "10.1.2.4:5", "tls")
	first := r.end(test, "run", "10.1.2.3:6", "udp")
	raw := first.signed(stun.MethodAllocate, udpTransport)
	if code := codeOf(first.exchange(raw)); code != 0 {
		t.Errorf("first: %d", code)
	}
	copied.tuple.handle(raw)
	if got := copied.answers(); len(got) != 1 || !strings.Contains(string(got[0]), "Stale Nonce") {
		t.Errorf("a copy from elsewhere: %q, want 438", got)
	}
}

// TestTestRelayNonces: the cloud's nonce serves its five-tuple for ten minutes, another one never; and a nonce of ours, under the
// client's realm, takes over.
func TestTestRelayNonces(t *testing.T) {
	r, test := newTestRig(t)
	c := r.end(test, "run", "10.1.2.3:1", "tls")
	c.relayedAddr()
	c.want(0, stun.MethodRefresh)
	c.nonce = "another of the cloud's"
	m := c.want(438, stun.MethodRefresh)
	if text(m, stun.AttrRealm) != "cloud.example" {
		t.Errorf("realm %q", text(m, stun.AttrRealm))
	}
	c.nonce = text(m, stun.AttrNonce)
	c.want(0, stun.MethodRefresh)
}

// TestTestRelayEnds: nothing of a run outlives its credential, and its bounds hold.
func TestTestRelayEnds(t *testing.T) {
	r, test := newTestRig(t)
	var last *rawClient
	for i := range maxTestEndsPerRun {
		last = r.end(test, "run", fmt.Sprintf("10.1.2.3:%d", 1000+i), "tls")
		m := last.want(0, stun.MethodAllocate, udpTransport, lifetimeAttr(3600))
		if left := binary.BigEndian.Uint32([]byte(text(m, stun.AttrLifetime))); left != uint32(testCredentialLife/time.Second) {
			t.Errorf("LIFETIME %d beyond the credential's", left)
		}
	}
	r.end(test, "run", "10.1.2.3:2000", "tls").want(486, stun.MethodAllocate, udpTransport)
	r.clock.advance(testCredentialLife / 2)
	m := last.want(0, stun.MethodRefresh, lifetimeAttr(3600))
	if left := binary.BigEndian.Uint32([]byte(text(m, stun.AttrLifetime))); left != uint32(testCredentialLife/time.Second/2) {
		t.Errorf("LIFETIME %d after a Refresh", left)
	}
	r.clock.advance(testCredentialLife / 2)
	r.engine.sweep(r.clock.Now())
	if st := r.engine.stats(); st != (engineStats{}) || len(test.runs) != 0 || r.engine.held != 0 {
		t.Errorf("left: %+v, %d runs", st, len(test.runs))
	}
}

func TestTestRelayIsBounded(t *testing.T) {
	r, test := newTestRig(t)
	a, b := r.end(test, "run", "10.1.2.3:1", "tls"), r.end(test, "run", "10.1.2.3:2", "tls")
	addrA, addrB := a.relayedAddr(), b.relayedAddr()
	a.want(0, stun.MethodCreatePermission, peerAttr(addrB.String()))
	b.want(0, stun.MethodCreatePermission, peerAttr(addrA.String()))
	packet := a.indication(addrB.String(), strings.Repeat("x", 1200))
	passed := 0
	flood := func(seconds int) {
		for range seconds * 100 {
			r.clock.advance(10 * time.Millisecond)
			for range 40 { // 38 Mbit/s
				a.tuple.handle(packet)
			}
			passed += len(b.answers())
		}
	}
	flood(10)
	if rate := passed * 1200 * 8 / 10; rate < testBitsPerSecond*9/10 || rate > testBitsPerSecond*11/10+testBitsPerSecond/meterBurst {
		t.Errorf("%d bit/s passed, want %d", rate, testBitsPerSecond)
	}
	// And in all, whoever sends: a run that is used up stays used up when its ends are made anew.
	test.runs["run"].meter.left = 100
	r.clock.advance(time.Second)
	passed = 0
	flood(1)
	if passed != 0 {
		t.Errorf("%d packets beyond the run's bytes", passed)
	}
	a.want(0, stun.MethodRefresh, lifetimeAttr(0))
	b.want(0, stun.MethodRefresh, lifetimeAttr(0))
	r.engine.sweep(r.clock.Now())
	if test.runs["run"] == nil {
		t.Error("a run was forgotten before its time, and its bounds with it")
	}
}

// TestTestRelayAddress: the relayed address is one that both ends can be told.
func TestTestRelayAddress(t *testing.T) {
	addrs := func(ss ...string) (out []netip.Addr) {
		for _, s := range ss {
			out = append(out, netip.MustParseAddr(s))
		}
		return out
	}
	for _, tc := range []struct {
		name        string
		local       string
		public, own []netip.Addr
		family      byte
		want        string // "" is a refusal
	}{
		{"the address asked", "10.0.0.1:443", addrs("203.0.113.1"), addrs("192.168.0.1"), 0, "10.0.0.1"},
		{"IPv4 in IPv6 clothes", "[::ffff:10.0.0.1]:443", nil, nil, 0, "10.0.0.1"},
		{"wildcard", "[::]:443", addrs("203.0.113.1"), nil, 0, "203.0.113.1"},
		{"loopback: an interface's", "127.0.0.1:443", nil, addrs("127.0.0.1", "192.168.0.1"), 0, "192.168.0.1"},
		{"loopback and nothing else", "127.0.0.1:443", nil, addrs("127.0.0.1"), 0, "127.0.0.1"},
		{"IPv6 client, IPv4 is the default", "[fd00::1]:443", nil, addrs("fd00::1", "192.168.0.1"), 0, "192.168.0.1"},
		{"IPv6 client, no IPv4 at all", "[fd00::1]:443", nil, addrs("fd00::1"), 0, "fd00::1"},
		{"IPv6 asked for", "10.0.0.1:443", nil, addrs("10.0.0.1", "fe80::1", "fd00::1"), familyIPv6, "fd00::1"},
		{"IPv6 asked for and not there", "10.0.0.1:443", nil, addrs("10.0.0.1", "fe80::1", "::1"), familyIPv6, ""},
		{"IPv4 asked for and not there", "[fd00::1]:443", nil, addrs("fd00::1"), familyIPv4, ""},
	} {
		test := newTestRelay(authority{}, time.Now, tc.public, func() []netip.Addr { return tc.own })
		got, ok := test.address(net.TCPAddrFromAddrPort(netip.MustParseAddrPort(tc.local)), tc.family)
		if ok != (tc.want != "") || ok && got.String() != tc.want {
			t.Errorf("%s: %v %v, want %q", tc.name, got, ok, tc.want)
		}
	}
	if len(machineAddresses()) == 0 {
		t.Error("this machine has no address at all, not even loopback")
	}
}

// cloudThenTest serves stream clients as the bridge does: an unsigned Allocate is answered by "the cloud", and the signed one is
// asked for a test's name. It is a stand-in for the data path, to have pion's own client speak to the engine.
func cloudThenTest(t *testing.T, e *engine) net.Listener {
	t.Helper()
	s := &Server{engine: e}
	return serveStreams(t, func(c Client, send func([]byte)) func([]byte) engineSession {
		var session engineSession
		return func(frame []byte) engineSession {
			var m message
			switch {
			case session != nil:
			case s.wantsTest(frame):
				session = s.serveTest(c, send)
			case m.parse(frame) == nil:
				r := reply{tuple: e.open(c, send), method: m.method, id: m.id, realm: "cloud.example"}
				r.challenge(codeUnauthorized)
			}
			return session
		}
	})
}

// serveStreams serves TCP clients; for each of them open is asked once, and what it returns for each message: whose it is.
func serveStreams(t *testing.T, open func(c Client, send func([]byte)) func(frame []byte) engineSession) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveStream(conn, open) })
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	return l
}

func serveStream(conn net.Conn, open func(c Client, send func([]byte)) func(frame []byte) engineSession) {
	defer conn.Close()
	var mu sync.Mutex
	send := func(msg []byte) {
		mu.Lock()
		defer mu.Unlock()
		conn.Write(append(append([]byte(nil), msg...), make([]byte, (4-len(msg)%4)%4)...))
	}
	owner := open(Client{Addr: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), Local: conn.LocalAddr(), Via: "tcp"}, send)
	var session engineSession
	buf := make([]byte, 70000)
	for {
		if _, err := io.ReadFull(conn, buf[:4]); err != nil {
			break
		}
		size := int(binary.BigEndian.Uint16(buf[2:])) + channelHeaderSize
		if buf[0]>>6 == 0 {
			size += stunHeaderSize - channelHeaderSize
		}
		if _, err := io.ReadFull(conn, buf[4:(size+3)&^3]); err != nil {
			break
		}
		if session = owner(buf[:size]); session != nil {
			session.handle(buf[:size])
		}
	}
	if session != nil {
		session.close()
	}
}

// TestPionClients: two clients of pion's exchange data through the test relay over TCP.
func TestPionClients(t *testing.T) {
	test := newTestRelay(authority{secret: []byte("x")}, time.Now, nil, machineAddresses)
	e := startEngine(engineOptions{realm: "gw.example", find: func(_, username string, now time.Time) (account, error) { return test.account(username, now) }, test: test, backends: []swept{test}, now: time.Now})
	t.Cleanup(e.close)
	l := cloudThenTest(t, e)
	username, password, err := test.credentials("run", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	exchangeInOrder(t, pionClient(t, l, username, password), pionClient(t, l, username, password))
}

// exchangeInOrder sends packets from a to b, which arrive all, and in order.
func exchangeInOrder(t *testing.T, a, b net.PacketConn) {
	t.Helper()
	toA, toB := a.LocalAddr(), b.LocalAddr()
	// Both ends say hello first: that makes the permissions.
	for range 2 {
		a.WriteTo([]byte("hello"), toB)
		b.WriteTo([]byte("hello"), toA)
	}
	const packets = 200
	for i := range packets {
		a.WriteTo(fmt.Appendf(nil, "packet %d", i), toB)
	}
	buf := make([]byte, 1500)
	b.SetReadDeadline(time.Now().Add(10 * time.Second))
	for i := 0; i < packets; {
		n, from, err := b.ReadFrom(buf)
		if err != nil {
			t.Fatalf("after %d packets: %v", i, err)
		}
		if string(buf[:n]) == "hello" {
			continue
		}
		if want := fmt.Sprintf("packet %d", i); string(buf[:n]) != want || from.String() != toA.String() {
			t.Fatalf("%q from %v, want %q from %v", buf[:n], from, want, toA)
		}
		i++
	}
}

func pionClient(t *testing.T, l net.Listener, username, password string) net.PacketConn {
	t.Helper()
	conn, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	c, err := turn.NewClient(&turn.ClientConfig{TURNServerAddr: l.Addr().String(), Conn: turn.NewSTUNConn(conn), Username: username, Password: password})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	if err := c.Listen(); err != nil {
		t.Fatal(err)
	}
	relayed, err := c.Allocate()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { relayed.Close() })
	return relayed
}

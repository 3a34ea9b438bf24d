package relay

import (
	"context"
	"fmt"
	"math"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// newLocalRig is an engine of mode local on loopback, whose policy takes loopback for a network like any other.
func newLocalRig(t *testing.T, v6 bool, change func(*configs.Config)) (*rig, *localRelay) {
	t.Helper()
	c := &configs.Config{Relay: configs.Relay{DSCP: "AF41", Local: configs.RelayLocal{
		Address: netip.MustParseAddr("127.0.0.1"), Ports: "49152-65535", AllowPeers: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
	}}}
	if v6 {
		c.Relay.Local.Address = netip.IPv6Loopback()
	}
	if change != nil {
		change(c)
	}
	policy := newPeerPolicy(c, nil)
	policy.own = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.99") }
	policy.judgeClass = (&netpolicy.Policy{Interfaces: func() ([]netip.Prefix, error) { return nil, nil }}).Judge
	r := newRig(t, v6)
	r.relayIP = c.Relay.Local.Address
	l, err := newLocalRelay(c, policy, r.clock.Now, machineAddresses)
	if err != nil {
		t.Fatal(err)
	}
	r.engine.close()
	each, err := configs.ParseBandwidth(c.Relay.MaxBandwidth.PerAllocation)
	if err != nil {
		t.Fatal(err)
	}
	r.engine = startEngine(engineOptions{
		realm: "gw.example", now: r.clock.Now, backends: []swept{l}, bounds: engineBounds{bitsEach: each},
		find: func(_, username string, now time.Time) (account, error) { return r.auth.account(username, now, l, 100) },
	})
	t.Cleanup(r.engine.close)
	return r, l
}

// localPeer is a peer with a socket.
func localPeer(t *testing.T, ip netip.Addr) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// next waits for what the engine sends to the client.
func (c *rawClient) next() []byte {
	c.Helper()
	for range 500 {
		c.mu.Lock()
		if len(c.got) > 0 {
			first := c.got[0]
			c.got = c.got[1:]
			c.mu.Unlock()
			return first
		}
		c.mu.Unlock()
		time.Sleep(10 * time.Millisecond)
	}
	c.Fatal("nothing came")
	return nil
}

// TestLocalSockets: packets to a peer and back, over a permission and over a channel, and none without.
func TestLocalSockets(t *testing.T) {
	for _, v6 := range []bool{false, true} {
		t.Run(fmt.Sprint("IPv6 ", v6), func(t *testing.T) {
			r, l := newLocalRig(t, v6, nil)
			c := r.client(map[bool]string{false: "10.1.2.3:40000", true: "[fd00::3]:40000"}[v6], "tls")
			family := map[bool]byte{false: familyIPv4, true: familyIPv6}[v6]
			relayed := c.relayedAddr(rawAttr(stun.AttrRequestedAddressFamily, family, 0, 0, 0))
			peerIP := netip.MustParseAddr("127.0.0.2")
			if v6 {
				// IPv6 has one loopback address: the peer stands on the relay's own, which nothing is sent to otherwise.
				peerIP = r.relayIP
				delete(l.announced, r.relayIP)
			}
			peer := localPeer(t, peerIP)
			peerAddr := peer.LocalAddr().(*net.UDPAddr).AddrPort()
			read := func() string {
				buf := make([]byte, 2000)
				peer.SetReadDeadline(time.Now().Add(5 * time.Second))
				n, from, err := peer.ReadFromUDPAddrPort(buf)
				if err != nil || from != relayed {
					t.Fatalf("%v from %v, want %v", err, from, relayed)
				}
				return string(buf[:n])
			}
			write := func(s string) { peer.WriteToUDPAddrPort([]byte(s), relayed) }

			c.tuple.handle(c.indication(peerAddr.String(), "no permission yet"))
			write("no permission yet")
			c.want(0, stun.MethodCreatePermission, peerAttr(peerAddr.String()))
			c.tuple.handle(c.indication(peerAddr.String(), "one"))
			if got := read(); got != "one" {
				t.Errorf("the peer got %q", got)
			}
			write("two")
			var m stun.Message
			for text(&m, stun.AttrData) != "two" {
				// The first packet may have been read late enough to meet the permission.
				if err := stun.Decode(c.next(), &m); err != nil {
					t.Fatal(err)
				}
			}
			c.want(0, stun.MethodChannelBind, channelAttr(0x4000), peerAttr(peerAddr.String()))
			c.tuple.handle(channelFrame(0x4000, "three"))
			if got := read(); got != "three" {
				t.Errorf("the peer got %q", got)
			}
			write("four")
			if got := c.next(); string(got) != string(channelFrame(0x4000, "four")) {
				t.Errorf("the client got %q", got)
			}
			// Too long for a message, and then one that is not.
			write(strings.Repeat("x", maxPeerPacket+1))
			write("five")
			if got := c.next(); string(got) != string(channelFrame(0x4000, "five")) {
				t.Errorf("the client got %.40q", got)
			}
			c.want(0, stun.MethodRefresh, lifetimeAttr(0))
			if conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(relayed)); err != nil {
				t.Errorf("the port is not free after the end: %v", err)
			} else {
				conn.Close()
			}
		})
	}
}

// TestLocalDefect: a defect that a peer's packet meets ends the allocation that it was for, and no other (J-12).
func TestLocalDefect(t *testing.T) {
	r, _ := newLocalRig(t, false, nil)
	peer := localPeer(t, netip.MustParseAddr("127.0.0.2"))
	peerAddr := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	lost := make(chan error, 1)
	var slips atomic.Bool
	permitted := func(addr string) (*rawClient, netip.AddrPort) {
		c := r.client(addr, "tls")
		send := c.tuple.send
		c.tuple.lost = func(cause error) { lost <- cause }
		c.tuple.send = func(msg []byte) {
			if slips.Load() {
				panic("a slip")
			}
			send(msg)
		}
		relayed := c.relayedAddr()
		c.want(0, stun.MethodCreatePermission, peerAttr(peerAddr.String()))
		return c, relayed
	}
	broken, itsAddr := permitted("10.1.2.3:40000")
	sound, otherAddr := permitted("10.1.2.4:40000")
	slips.Store(true)
	peer.WriteToUDPAddrPort([]byte("one"), itsAddr)
	if cause := soonFrom(t, lost); !strings.Contains(cause.Error(), "a slip") {
		t.Errorf("lost by %v", cause)
	}
	if broken.tuple.allocation.Load() != nil {
		t.Error("the allocation is still there")
	}
	slips.Store(false)
	peer.WriteToUDPAddrPort([]byte("two"), otherAddr)
	var m stun.Message
	if err := stun.Decode(sound.next(), &m); err != nil || text(&m, stun.AttrData) != "two" {
		t.Errorf("the other client got %v, %v", &m, err)
	}
}

// TestLocalHandOver: two allocations of one gateway talk inside the process, with both permissions; the gateway's addresses lead
// nowhere else. Behind NAT they know each other by the public address.
func TestLocalHandOver(t *testing.T) {
	public := netip.MustParseAddr("203.0.113.80")
	for _, nat := range []bool{false, true} {
		t.Run(fmt.Sprint("NAT ", nat), func(t *testing.T) {
			r, l := newLocalRig(t, false, func(c *configs.Config) {
				if nat {
					c.Addresses.Public = []netip.Addr{public}
				}
			})
			a, b := r.client("10.1.2.3:40000", "tls"), r.client("10.1.2.4:40000", "udp")
			addrA, addrB := a.relayedAddr(), b.relayedAddr()
			if nat != (addrA.Addr() == public) {
				t.Fatalf("announced %v", addrA)
			}
			a.want(0, stun.MethodCreatePermission, peerAttr(addrB.String()))
			a.tuple.handle(a.indication(addrB.String(), "too early"))
			if got := b.answers(); len(got) != 0 {
				t.Error("a packet passed without the receiver's permission")
			}
			b.want(0, stun.MethodChannelBind, channelAttr(0x4000), peerAttr(addrA.String()))
			a.tuple.handle(a.indication(addrB.String(), "hello"))
			if got := b.answers(); len(got) != 1 || string(got[0]) != string(channelFrame(0x4000, "hello")) {
				t.Errorf("b got %q", got)
			}
			// The address is permitted now; its other ports still lead nowhere, whoever listens there.
			canary := localPeer(t, netip.MustParseAddr("127.0.0.1"))
			own := netip.AddrPortFrom(addrA.Addr(), canary.LocalAddr().(*net.UDPAddr).AddrPort().Port()).String()
			a.tuple.handle(a.indication(own, "canary"))
			a.want(403, stun.MethodCreatePermission, peerAttr(own))
			a.want(403, stun.MethodChannelBind, channelAttr(0x4001), peerAttr(own))
			a.want(403, stun.MethodCreatePermission, peerAttr("127.0.0.99:50000"))
			if nat {
				bound := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), addrB.Port()).String()
				a.want(403, stun.MethodCreatePermission, peerAttr(bound))
			}
			canary.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
			if n, _, err := canary.ReadFromUDPAddrPort(make([]byte, 100)); err == nil {
				t.Errorf("the canary got %d bytes", n)
			}
			b.tuple.close()
			a.want(403, stun.MethodCreatePermission, peerAttr(addrB.String()))
			if len(l.live) != 1 {
				t.Errorf("%d live addresses, want 1", len(l.live))
			}
		})
	}
}

// TestLocalEvenPort: EVEN-PORT, and the port behind it for whoever brings the token, within its time.
func TestLocalEvenPort(t *testing.T) {
	r, l := newLocalRig(t, false, nil)
	c := r.client("10.1.2.3:40000", "udp")
	m := c.want(0, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrEvenPort, 0x80))
	var first stun.XORMappedAddress
	if err := first.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil || first.Port%2 != 0 {
		t.Fatalf("%v %v", first, err)
	}
	token := []byte(text(m, stun.AttrReservationToken))
	second := r.client("10.1.2.3:40001", "udp")
	if got := second.relayedAddr(rawAttr(stun.AttrReservationToken, token...)); int(got.Port()) != first.Port+1 {
		t.Errorf("port %d behind %d", got.Port(), first.Port)
	}
	third := r.client("10.1.2.3:40002", "udp")
	third.want(508, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrReservationToken, token...))
	if got := third.relayedAddr(rawAttr(stun.AttrEvenPort, 0)); got.Port()%2 != 0 {
		t.Errorf("port %d is not even", got.Port())
	}
	fourth := r.client("10.1.2.3:40003", "udp")
	m = fourth.want(0, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrEvenPort, 0x80))
	r.clock.advance(reservationLife)
	late := r.client("10.1.2.3:40004", "udp")
	late.want(508, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrReservationToken, []byte(text(m, stun.AttrReservationToken))...))
	r.engine.sweep(r.clock.Now())
	if len(l.kept) != 0 {
		t.Error("an unclaimed port is still kept")
	}
}

// TestLocalPortsRunOut: 508 when no port is free, and a port is used again once it is.
func TestLocalPortsRunOut(t *testing.T) {
	probe := localPeer(t, netip.MustParseAddr("127.0.0.1"))
	port := probe.LocalAddr().(*net.UDPAddr).Port
	probe.Close()
	r, _ := newLocalRig(t, false, func(c *configs.Config) { c.Relay.Local.Ports = fmt.Sprint(port) })
	a, b := r.client("10.1.2.3:1", "tls"), r.client("10.1.2.3:2", "tls")
	a.relayedAddr()
	b.want(508, stun.MethodAllocate, udpTransport)
	a.tuple.close()
	b.relayedAddr()
	if family6 := r.client("10.1.2.3:3", "tls"); codeOf(family6.do(stun.MethodAllocate, udpTransport, rawAttr(stun.AttrRequestedAddressFamily, familyIPv6, 0, 0, 0))) != 440 {
		t.Error("IPv6 from an IPv4 relay address is not refused with 440")
	}
}

func localRelayWith(setup *localSetup, own ...netip.Addr) *localRelay {
	l := &localRelay{own: func() []netip.Addr { return own }}
	l.setup.Store(setup)
	return l
}

// TestLocalFamily: who names no family gets IPv4, and IPv6 where the gateway has nothing else.
func TestLocalFamily(t *testing.T) {
	v4, v6 := netip.MustParseAddr("10.9.9.9"), netip.MustParseAddr("fd00::9")
	asked := &net.TCPAddr{IP: v6.AsSlice(), Port: 443}
	for _, tt := range []struct {
		own    []netip.Addr
		family byte
		want   netip.Addr
	}{
		{[]netip.Addr{v6, v4}, 0, v4},
		{[]netip.Addr{v6}, 0, v6},
		{[]netip.Addr{v6, v4}, familyIPv6, v6},
		{[]netip.Addr{v6}, familyIPv4, netip.Addr{}},
	} {
		l := localRelayWith(&localSetup{}, tt.own...)
		if got, ok := l.bindAddress(asked, tt.family); got != tt.want || ok != tt.want.IsValid() {
			t.Errorf("family %d among %v: %v, want %v", tt.family, tt.own, got, tt.want)
		}
	}
	l := localRelayWith(&localSetup{address: v6})
	if got, _ := l.bindAddress(asked, 0); got != v6 {
		t.Errorf("configured %v, got %v", v6, got)
	}
}

// TestLocalPortsAreUniform: the first port tried is as likely any as any other.
func TestLocalPortsAreUniform(t *testing.T) {
	l := &localSetup{low: 49152, high: 65535}
	const draws, bins = 10_000, 64
	var count [bins]float64
	for range draws {
		for _, port := range l.ports() {
			if port < 49152 {
				t.Fatalf("port %d", port)
			}
			count[int(port-49152)*bins/16384]++
			break
		}
	}
	chi := 0.0
	for _, n := range count {
		chi += math.Pow(n-draws/bins, 2) / (draws / bins)
	}
	// 63 degrees of freedom: above 120 once in 50,000 runs.
	if chi > 120 {
		t.Errorf("chi² %.1f", chi)
	}
	all := map[uint16]bool{}
	l = &localSetup{low: 1000, high: 1099}
	for _, port := range l.ports() {
		all[port] = true
	}
	if len(all) != 100 {
		t.Errorf("%d of 100 ports are tried", len(all))
	}
}

// TestBandwidth: what one allocation sends beyond relay.max_bandwidth is dropped, another's is not.
func TestBandwidth(t *testing.T) {
	r, _ := newLocalRig(t, false, func(c *configs.Config) { c.Relay.MaxBandwidth.PerAllocation = "2mbit" })
	a, b, quiet := r.client("10.1.2.3:1", "tls"), r.client("10.1.2.3:2", "tls"), r.client("10.1.2.3:3", "tls")
	addrA, addrB, addrQ := a.relayedAddr(), b.relayedAddr(), quiet.relayedAddr()
	a.want(0, stun.MethodCreatePermission, peerAttr(addrB.String()))
	b.want(0, stun.MethodCreatePermission, peerAttr(addrA.String()))
	quiet.want(0, stun.MethodCreatePermission, peerAttr(addrB.String()))
	b.want(0, stun.MethodCreatePermission, peerAttr(addrQ.String()))
	flood, small := a.indication(addrB.String(), strings.Repeat("x", 1200)), quiet.indication(addrB.String(), "y")
	passed, passedQuiet := 0, 0
	for range 500 {
		r.clock.advance(10 * time.Millisecond)
		for range 20 {
			a.tuple.handle(flood)
		}
		quiet.tuple.handle(small)
		for _, msg := range b.answers() {
			if len(msg) > 1000 {
				passed++
			} else {
				passedQuiet++
			}
		}
	}
	if passedQuiet == 0 {
		t.Errorf("the quiet one's packets did not pass beside the loud one's")
	}
	if rate := passed * 1200 * 8 / 5; rate < 1_700_000 || rate > 2_400_000 {
		t.Errorf("%d bit/s passed, want 2 Mbit/s", rate)
	}
}

// TestPionClientsLocal: two clients of pion's talk to each other through mode local, over TCP.
func TestPionClientsLocal(t *testing.T) {
	r, _ := newLocalRig(t, false, nil)
	r.engine.close()
	l, err := newLocalRelay(&configs.Config{Relay: configs.Relay{Local: configs.RelayLocal{Address: netip.MustParseAddr("127.0.0.1"), Ports: "49152-65535"}}}, newPeerPolicy(&configs.Config{}, nil), time.Now, machineAddresses)
	if err != nil {
		t.Fatal(err)
	}
	auth := authority{secret: []byte("x")}
	e := startEngine(engineOptions{realm: "gw.example", now: time.Now, backends: []swept{l}, clients: &auth, find: func(_, username string, now time.Time) (account, error) {
		return auth.account(username, now, l, 10)
	}})
	t.Cleanup(e.close)
	listener := serveOwnStreams(t, e)
	username, password := auth.mint("alice", time.Now().Add(time.Minute))
	a, b := pionClient(t, listener, username, password), pionClient(t, listener, username, password)
	exchangeInOrder(t, a, b)
}

func TestPeerPolicy(t *testing.T) {
	c := &configs.Config{}
	c.Relay.Local.AllowPeers = []netip.Prefix{netip.MustParsePrefix("10.5.0.0/16"), netip.MustParsePrefix("198.51.100.0/24")}
	c.Relay.Local.DenyPeers = []netip.Prefix{netip.MustParsePrefix("10.5.6.0/24"), netip.MustParsePrefix("8.8.4.0/24")}
	c.DNS.Servers = []string{"9.9.9.9", "10.5.0.53:53"}
	c.Addresses.Public = []netip.Addr{netip.MustParseAddr("93.184.216.1")}
	c.Services = []configs.Service{{Hosts: []string{"call.example.net", "*.call.example.net"}, Regions: []configs.Region{{URLs: []string{"turn:relay.example.net:3478"}}}}}
	c.Services[0].TURNCredentials.URL = "https://ice.example.net/servers?key=x"
	c.TLS.ACME.Directory, c.TLS.ACME.DNS.Server, c.Store = "https://ca.example.net/dir", "dns.example.net:53", "postgres://hafen@db.example.net/hafen"
	c.Events.Mail.Server, c.Audit.Syslog = "mail.example.net:25", "tcp://log.example.net:601"
	p := newPeerPolicy(c, nil)
	p.judgeClass = (&netpolicy.Policy{Public: c.Addresses.Public, Interfaces: func() ([]netip.Prefix, error) {
		return []netip.Prefix{netip.MustParsePrefix("93.184.10.5/24")}, nil
	}}).Judge
	p.deps.resolve = func(_ context.Context, host string, _ netpolicy.Scope) []netip.Addr {
		return map[string][]netip.Addr{
			"call.example.net":  {netip.MustParseAddr("93.184.20.1"), netip.MustParseAddr("93.184.20.2")},
			"relay.example.net": {netip.MustParseAddr("93.184.20.2")},
			"ice.example.net":   {netip.MustParseAddr("93.184.30.1")},
			"ca.example.net":    {netip.MustParseAddr("93.184.30.2")},
			"dns.example.net":   {netip.MustParseAddr("93.184.30.3")},
			"db.example.net":    {netip.MustParseAddr("93.184.30.4")},
			"mail.example.net":  {netip.MustParseAddr("93.184.30.5")},
			"log.example.net":   {netip.MustParseAddr("93.184.30.6")},
		}[host]
	}
	p.deps.look(t.Context())
	for peer, good := range map[string]bool{
		"93.184.216.34:50000":        true,
		"93.184.216.34:0":            true, // CreatePermission may leave the port out
		"93.184.216.34:443":          true,
		"93.184.216.34:3478":         true,
		"93.184.30.1:50000":          false,
		"93.184.30.2:50000":          false,
		"93.184.30.3:50000":          false,
		"93.184.30.4:50000":          false,
		"93.184.30.5:50000":          false,
		"93.184.30.6:50000":          false,
		"93.184.30.7:50000":          true,
		"93.184.216.34:22":           false,
		"93.184.216.34:25":           false,
		"93.184.216.34:53":           false,
		"93.184.216.34:445":          false,
		"93.184.216.34:3306":         false,
		"93.184.216.34:11211":        false,
		"[2606:2800:220:1::1]:50000": true,
		"127.0.0.1:50000":            false,
		"[::1]:50000":                false,
		"[::ffff:127.0.0.1]:50000":   false,
		"0.0.0.0:50000":              false,
		"10.4.255.255:50000":         false,
		"10.5.0.0:50000":             true,
		"10.5.255.255:50000":         true,
		"10.6.0.0:50000":             false,
		"10.5.6.7:50000":             false, // deny wins
		"8.8.4.4:50000":              false,
		"8.8.8.8:50000":              true,
		"172.16.0.1:50000":           false,
		"192.168.1.1:50000":          false,
		"169.254.169.254:50000":      false,
		"100.64.0.1:50000":           false,
		"224.0.0.1:50000":            false,
		"255.255.255.255:50000":      false,
		"[fe80::1]:50000":            false,
		"[fc00::1]:50000":            false,
		"[ff02::1]:50000":            false,
		"[2002:7f00:1::1]:50000":     false,
		"[2002:a05:607::1]:50000":    false, // 10.5.6.7, denied
		"[64:ff9b::7f00:1]:50000":    false,
		"198.51.100.9:50000":         true, // opened
		"203.0.113.9:50000":          false,
		"9.9.9.9:50000":              false, // our resolver
		"10.5.0.53:50000":            true,  // our resolver too, but opened by name
		"93.184.20.1:50000":          false, // a call server
		"93.184.20.2:50000":          true,  // a call server, but a relay as well
		"93.184.216.1:50000":         false, // our public address
		"93.184.10.5:50000":          false, // our own
		"93.184.10.255:50000":        false, // broadcast of our subnet
	} {
		err := p.judge(netip.MustParseAddrPort(peer))
		if (err == nil) != good {
			t.Errorf("%s: %v, want good %v", peer, err, good)
		}
	}
}

// serveOwnStreams serves stream clients by the engine alone.
func serveOwnStreams(t *testing.T, e *engine) net.Listener {
	t.Helper()
	l, err := newLoop(true, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return serveStreams(t, func(c Client, send func([]byte)) func([]byte) engineSession {
		c.loop = l
		session := e.open(c, send)
		return func([]byte) engineSession { return session }
	})
}

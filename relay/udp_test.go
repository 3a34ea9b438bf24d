package relay

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// Answers leave from the address that was asked: a client that asked 127.0.0.2 hears 127.0.0.2, and a connected socket would
// hear nothing else.
func TestUDPAnswersFromTheAddressAsked(t *testing.T) {
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	for _, ip := range []string{"127.0.0.1", "127.0.0.2", "127.8.9.1"} {
		conn, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.ParseIP(ip), Port: h.udpAddr().Port})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		c := &rawTURN{t: t, conn: conn}
		c.send(request(stun.MethodBinding))
		c.answer()
		c.allocate()
		region.say(channelOf(0x4000, 8))
		if got := c.want(); !bytes.Equal(got, channelOf(0x4000, 8)) {
			t.Errorf("%s: %x", ip, got)
		}
	}
}

// On a socket of both families too, and to an IPv6 client.
func TestUDPBothFamilies(t *testing.T) {
	h := newHouse(t, newTape(t, willing(600)).urls(), nil)
	both := listenUDP(t, "[::]:0")
	h.wg.Add(1)
	go func() { defer h.wg.Done(); _ = h.ServePacket(context.Background(), both) }()
	for _, ip := range []string{"127.0.0.3", "::1"} {
		conn, err := net.Dial("udp", netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(both.LocalAddr().(*net.UDPAddr).Port)).String())
		if err != nil {
			t.Skipf("no %s here: %v", ip, err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		c := &rawTURN{t: t, conn: conn}
		c.send(request(stun.MethodBinding))
		var mapped stun.XORMappedAddress
		if err := mapped.GetFrom(c.answer()); err != nil || mapped.String() != conn.LocalAddr().String() {
			t.Errorf("mapped address %v (%v), want %v", mapped, err, conn.LocalAddr())
		}
		c.allocate()
	}
}

// E-08, A-33, A-44: what is not TURN gets silence.
func TestAbuse_E08_A33_A44(t *testing.T) {
	h := newHouse(t, newTape(t, willing(600)).urls(), nil)
	c := h.raw("udp")
	noCookie := request(stun.MethodBinding)
	noCookie[5] ^= 1
	quic := append([]byte{0xc3, 0, 0, 0, 1, 8}, make([]byte, 1194)...)
	dtls := append([]byte{22, 254, 253}, make([]byte, 200)...)
	dns := append([]byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 3}, "www\x07example\x03net\x00\x00\x01\x00\x01"...)
	ntp := append([]byte{0x23}, make([]byte, 47)...)
	garbage := [][]byte{
		quic, dtls, dns, ntp, noCookie, make([]byte, 65507),
		{},
		make([]byte, maxFrame+1), channelOf(0x4000, 100), request(stun.MethodBinding)[:19],
		stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodBinding, stun.ClassIndication)).Raw,
		stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw,
		signedRequest(stun.MethodBinding),
	}
	for n := 1; n < 1500; n += 131 {
		garbage = append(garbage, bytes.Repeat([]byte{0xa5}, n))
	}
	c.send(garbage...)
	c.silent()
	if n := h.table.len(); n != 0 {
		t.Errorf("%d sessions", n)
	}
	c.send(request(stun.MethodBinding))
	c.answer() // the listener lives
	if h.metric("hafen_relay_ignored_datagrams_total", "not_turn") < 10 {
		t.Errorf("counted %v", h.metric("hafen_relay_ignored_datagrams_total", "not_turn"))
	}
}

// a source that has not proved that it receives gets 10 answers and 2 KiB at most, whatever its port; one that has won an
// allocation is not limited so.
func TestAbuse_A43(t *testing.T) {
	t.Parallel()
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	verified := h.rawFrom("127.0.0.2")
	verified.allocate() // elsewhere: where there is one, there is more room

	kinds := [][]byte{
		request(stun.MethodAllocate, udpTransport), request(stun.MethodBinding), signedRequest(stun.MethodRefresh), signedRequest(stun.MethodAllocate),
	}
	var sockets []*rawTURN
	for range 20 {
		sockets = append(sockets, h.raw("udp"))
	}
	region.mu.Lock()
	region.script = func(raw []byte) [][]byte { // nobody wins
		var m message
		if m.parse(raw) != nil {
			return nil
		}
		return [][]byte{response(&m, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.Realm("r"), stun.Nonce("n"))}
	}
	region.mu.Unlock()
	for i := range 1000 {
		sockets[i%len(sockets)].send(kinds[i/len(sockets)%len(kinds)])
	}
	answers, size := 0, 0
	for _, c := range sockets {
		_ = c.conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		for {
			m, err := c.next()
			if err != nil {
				break
			}
			answers++
			size += len(m)
		}
	}
	if answers == 0 || answers > budgetAnswers || size > budgetBytes {
		t.Errorf("%d answers, %d bytes", answers, size)
	}
	if n := len(region.seen()); n > 1+budgetRequests {
		t.Errorf("%d requests went to the region", n)
	}
	for range 30 {
		verified.send(request(stun.MethodBinding))
		verified.answer()
	}
}

func TestUDPNotAdmitted(t *testing.T) {
	h := newHouse(t, newTape(t, willing(600)).urls(), func(o *Options) {
		o.Config.Clients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	})
	c := h.raw("udp")
	c.send(request(stun.MethodBinding))
	c.silent()
	if h.metric("hafen_relay_ignored_datagrams_total", "not_admitted") != 1 {
		t.Error("not counted")
	}
}

// A-42 in small: strangers are few at any time, and forgotten soon.
func TestAbuse_A42(t *testing.T) {
	t.Parallel()
	var clock slowClock
	h := newHouse(t, newTape(t, nil).urls(), func(o *Options) {
		o.Now = clock.now
		o.Config.Limits.PendingPerClient = 3
	})
	for range 8 {
		h.raw("udp").send(request(stun.MethodAllocate, udpTransport))
	}
	h.until("what is ignored", func() bool { return h.metric("hafen_relay_ignored_datagrams_total", "full") == 5 })
	if n := h.table.len(); n != 3 {
		t.Errorf("%d sessions", n)
	}
	clock.skip(VerifyTimeout)
	h.until("their end", func() bool { return h.table.len() == 0 })
	if h.log.String() != "" && bytes.Contains([]byte(h.log.String()), []byte("session ended")) {
		t.Errorf("strangers are logged: %s", h.log.String())
	}
	if n := h.metric("hafen_relay_sessions_ended_total", "udp", "err_timeout"); n != 3 {
		t.Errorf("%v counted", n)
	}
}

func TestBudget(t *testing.T) {
	b := newBudget()
	now := time.Unix(1000, 0)
	one, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	for i := range budgetAnswers {
		if !b.spend(one, 60, now.Add(time.Duration(i)*900*time.Millisecond)) {
			t.Fatalf("answer %d refused", i)
		}
	}
	if b.spend(one, 60, now.Add(9500*time.Millisecond)) || b.allows(one, now.Add(9500*time.Millisecond)) {
		t.Error("one too many within ten seconds")
	}
	if !b.spend(other, 60, now) {
		t.Error("another client pays for it")
	}
	if !b.spend(one, 60, now.Add(16*time.Second)) {
		t.Error("no new budget")
	}
	if b.spend(netip.MustParseAddr("2001:db8::1"), budgetBytes+1, now) {
		t.Error("too many bytes")
	}
	// Whatever the moments, no ten seconds see more than ten answers.
	var at []time.Time
	for i := range 600 {
		if when := now.Add(time.Duration(i) * 170 * time.Millisecond); b.spend(netip.MustParseAddr("192.0.2.3"), 10, when) {
			at = append(at, when)
		}
	}
	for i := budgetAnswers; i < len(at); i++ {
		if at[i].Sub(at[i-budgetAnswers]) < budgetTime {
			t.Fatalf("11 answers between %v and %v", at[i-budgetAnswers], at[i])
		}
	}
	if len(at) < 50 {
		t.Errorf("%d answers in 100 s", len(at))
	}
}

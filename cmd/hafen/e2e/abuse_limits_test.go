package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// TestAbuse_Limits floods the gateway beside a call that is under way, which must not notice.
func TestAbuse_Limits(t *testing.T) {
	t.Parallel()
	a := newAbuse(t, func(cfg string) string {
		return cfg + "limits: {connections_per_client: 300, pending_per_client: 100, allocations_per_client: 20}\n"
	})
	base := a.load()
	call := a.startCall(t)
	t.Run("A-47", a.silentCrowd)
	t.Run("A-47 in TLS", a.silentCrowdInTLS)
	t.Run("A-23", a.manyAllocations)
	t.Run("B-20", a.manyTunnels)
	t.Run("A-42 over TCP", a.manyChallenges)
	t.Run("A-43", a.amplification)
	waitFor(t, "what was refused to be gone", 20*time.Second, func() bool { return a.load().descriptors <= base.descriptors+20 }) // the call has some
	t.Run("C-16", a.floodsOfH2)
	call.check(t)
	a.alive(t)
	const pool = 128 // connections to a call server that wait for the next request: of these the floods leave as many as there may be
	base.goroutines, base.descriptors = base.goroutines+2*pool, base.descriptors+pool
	a.backTo(t, base, 20*time.Second)
	now := a.load()
	t.Logf("memory before and after: %.1f and %.1f MiB", base.memory/(1<<20), now.memory/(1<<20))
	a.idle(t)
}

// echoCall is a call that goes on during the attacks: two clients of the gateway that talk over the region, from an address of
// their own.
type echoCall struct {
	stop func()
	done chan struct{}

	mu         sync.Mutex
	sent, back int
	delays     []time.Duration // from the one to the other: what is heard
	trips      []time.Duration // and back
}

func (a *abuse) startCall(t *testing.T) *echoCall {
	t.Helper()
	one := newTURN(a.callConn(t), false)
	two := newTURN(a.callConn(t), false)
	for _, c := range []*turnClient{one, two} {
		if code, err := c.allocate(); code != 0 || err != nil {
			t.Fatalf("allocate: %d %v", code, err)
		}
	}
	for c, other := range map[*turnClient]*turnClient{one: two, two: one} {
		if code := c.bind(t, 0x4001, other.relayed); code != 0 {
			t.Fatalf("bind: %d", code)
		}
		_ = c.conn.SetDeadline(time.Time{})
	}
	ctx, cancel := context.WithCancel(context.Background())
	call := &echoCall{stop: cancel, done: make(chan struct{})}
	t.Cleanup(cancel)
	go func() { // two answers
		for {
			b, err := two.read(time.Hour)
			if err != nil {
				return
			}
			call.heard(b, &call.delays)
			_, _ = two.conn.Write(b)
		}
	}()
	heard := make(chan struct{})
	go func() { defer close(heard); call.hear(one) }()
	go func() {
		defer close(call.done)
		call.speak(ctx, one)
		for end := time.Now().Add(2 * time.Second); time.Now().Before(end) && call.missing() > 0; { // what is still under way
			time.Sleep(20 * time.Millisecond)
		}
		_, _ = one.conn.Close(), two.conn.Close()
		<-heard
	}()
	return call
}

// speak sends a packet each 20 ms, whatever became of those before it.
func (c *echoCall) speak(ctx context.Context, one *turnClient) {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		c.mu.Lock()
		c.sent++
		c.mu.Unlock()
		_, _ = one.conn.Write(channelData(0x4001, fmt.Appendf(nil, "packet %020d", time.Now().UnixNano())))
	}
}

// hear takes what comes back.
func (c *echoCall) hear(one *turnClient) {
	for {
		b, err := one.read(time.Hour)
		if err != nil {
			return
		}
		c.heard(b, &c.trips)
	}
}

// heard notes how old a packet is.
func (c *echoCall) heard(b []byte, list *[]time.Duration) {
	var at int64
	if _, err := fmt.Sscanf(string(b[4:]), "packet %d", &at); err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	*list = append(*list, time.Since(time.Unix(0, at)))
	c.back = len(c.trips)
}

// percentile is the delay that so many percent of a list are below.
func percentile(list []time.Duration, percent int) time.Duration {
	if len(list) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(list))
	return sorted[(len(sorted)-1)*percent/100].Round(100 * time.Microsecond)
}

func (c *echoCall) missing() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent - c.back
}

// callConn is a connection from an address that no attack comes from.
func (a *abuse) callConn(t *testing.T) net.Conn {
	t.Helper()
	var conn net.Conn
	must(t, a.inside.do(func() (err error) {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP("10.30.0.16")}}
		conn, err = d.Dial("tcp", gatewayAddr+":443")
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (c *echoCall) check(t *testing.T) {
	t.Helper()
	c.stop()
	<-c.done
	if c.back == 0 {
		t.Fatalf("none of the call's %d packets came back", c.sent)
	}
	t.Logf("the call: %d packets, %d came back; there p50 %v, p95 %v; there and back p50 %v, p95 %v, the slowest %v", c.sent, c.back,
		percentile(c.delays, 50), percentile(c.delays, 95), percentile(c.trips, 50), percentile(c.trips, 95), percentile(c.trips, 100))
	if c.sent < 50 || c.back*1000 < c.sent*999 {
		t.Errorf("the call lost packets: %d of %d came back", c.back, c.sent)
	}
}

// crowd opens n connections from each of several addresses, and closes them when the case is over.
func (a *abuse) crowd(t *testing.T, addrs, n int) []net.Conn {
	t.Helper()
	var conns []net.Conn
	must(t, a.inside.do(func() error {
		for i := range addrs {
			d := net.Dialer{Timeout: 3 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 30, 0, byte(3+i))}}
			for range n {
				conn, err := d.Dial("tcp", gatewayAddr+":443")
				if err != nil {
					return err
				}
				conns = append(conns, conn)
			}
		}
		return nil
	}))
	t.Cleanup(func() {
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return conns
}

// silentCrowd: two thousand connections say nothing. Of each client a hundred stay, and those not for long.
func (a *abuse) silentCrowd(t *testing.T) {
	before := a.load()
	conns := a.crowd(t, 10, 200)
	time.Sleep(500 * time.Millisecond)
	held := a.load()
	if n := held.descriptors - before.descriptors; n > 10*100+20 {
		t.Errorf("%v of %d silent connections are held, want 1,000 at most", n, len(conns))
	} else {
		t.Logf("%v held, %.1f KiB each", n, (held.memory-before.memory)/n/1024)
	}
	began := time.Now()
	if _, status := get(a.inside, "https://"+gatewayAddr+"/livez", gatewayName); status != http.StatusOK {
		t.Errorf("/livez beside them: %d", status)
	}
	t.Logf("/livez beside them took %v", time.Since(began).Round(time.Millisecond))
	for _, c := range conns {
		if b := closes(t, c, 13*time.Second); len(b) > 0 {
			t.Fatalf("a silent connection was told %q", b)
		}
	}
	if took := time.Since(began); took > 14*time.Second {
		t.Errorf("the last one went after %v", took)
	}
}

// silentCrowdInTLS begins a handshake and does not go on.
func (a *abuse) silentCrowdInTLS(t *testing.T) {
	hello := clientHello(t, gatewayName)
	for i, c := range a.crowd(t, 5, 150) {
		_, _ = c.Write(hello[:len(hello)-i%2])
	}
	began := time.Now()
	if _, status := get(a.inside, "https://"+gatewayAddr+"/livez", gatewayName); status != http.StatusOK || time.Since(began) > 3*time.Second {
		t.Errorf("/livez beside half handshakes: %d after %v", status, time.Since(began))
	}
}

// manyAllocations wins as many as a client may have; one more is refused, and has room when one is given back.
func (a *abuse) manyAllocations(t *testing.T) {
	var clients []*turnClient
	for i := range 21 {
		c := newTURN(a.tcp(t, a.inside, gatewayAddr+":443"), false)
		code, err := c.allocate()
		must(t, err)
		if i < 20 && code != 0 || i == 20 && code != 486 {
			t.Fatalf("allocation %d: %d", i+1, code)
		}
		clients = append(clients, c)
	}
	_ = clients[0].conn.Close()
	waitFor(t, "room for one more", 5*time.Second, func() bool {
		code, err := newTURN(a.tcp(t, a.inside, gatewayAddr+":443"), false).allocate()
		return code == 0 && err == nil
	})
	for _, c := range clients {
		_ = c.conn.Close()
	}
}

// manyTunnels: one client has as many connections as it may have, tunnels among them; the rest is turned away.
func (a *abuse) manyTunnels(t *testing.T) {
	request := "CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: good." + passSuffix + ":443\r\n\r\n"
	open, refused := 0, 0
	buf := make([]byte, 512)
	for range 360 {
		for _, c := range a.crowd(t, 1, 1) {
			_, _ = io.WriteString(c, request)
			_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, _ := c.Read(buf); strings.Contains(statusLine(string(buf[:n])), " 200 ") {
				open++
			} else {
				refused++
			}
		}
	}
	t.Logf("%d tunnels, %d turned away", open, refused)
	if open > 300 || open < 250 || refused == 0 {
		t.Errorf("%d tunnels, %d turned away; want 300 and 60", open, refused)
	}
}

// floodsOfH2 are the ways in which HTTP/2 was broken elsewhere. Each ends with the connection closed, or with work that is bounded.
func (a *abuse) floodsOfH2(t *testing.T) {
	name := "good." + sigSuffix
	head := h2Head(":method", "GET", ":scheme", "https", ":authority", name, ":path", "/")
	for _, c := range []struct {
		name  string
		flood func(f *http2.Framer, i uint32) error
		ends  bool
		from  int // the client, where it is not to be the one that the other rows are
	}{
		{"rapid reset", func(f *http2.Framer, i uint32) error {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, EndStream: true, BlockFragment: head})
			return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
		}, true, 4},
		{"CONTINUATION", func(f *http2.Framer, i uint32) error {
			if i == 0 {
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: head})
			}
			return f.WriteContinuation(1, false, h2Head("x-a", strings.Repeat("b", 1000)))
		}, true, 3},
		{"SETTINGS", func(f *http2.Framer, _ uint32) error { return f.WriteSettings() }, false, 3},
		{"PING", func(f *http2.Framer, _ uint32) error { return f.WritePing(false, [8]byte{}) }, false, 3},
		{"made you reset", func(f *http2.Framer, i uint32) error {
			_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, BlockFragment: head})
			return f.WriteRawFrame(http2.FrameWindowUpdate, 0, 2*i+1, []byte{0, 0, 0, 0})
		}, false, 5}, // what is answered before it can be taken back is an ordinary request
		{"HPACK bomb", func(f *http2.Framer, i uint32) error {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, EndStream: true, BlockFragment: append(append([]byte(nil), head...),
				h2Head("x-a", strings.Repeat("b", 3000), "x-b", strings.Repeat("c", 9000))...)})
		}, false, 3},
	} {
		t.Run(c.name, func(t *testing.T) {
			before := a.load()
			conn := a.tlsFrom(t, c.from, "h2")
			ended := make(chan struct{})
			go func() { defer close(ended); _, _ = io.Copy(io.Discard, conn) }()
			f := h2Start(conn)
			_ = conn.SetWriteDeadline(time.Now().Add(3 * time.Second))
			sent := uint32(0)
			for ; sent < 5000; sent++ {
				if c.flood(f, sent) != nil {
					break
				}
			}
			began := time.Now()
			other := a.tls(t, a.inside, name, "http/1.1")
			got := exchange(t, other, "GET /beside HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n")
			now := a.load()
			t.Logf("%d sent; a request beside it took %v; memory +%.1f MiB, processor %.2f s", sent, time.Since(began).Round(time.Millisecond),
				(now.memory-before.memory)/(1<<20), now.processor-before.processor)
			if code(got) != "200" || time.Since(began) > 3*time.Second {
				t.Errorf("a request beside it: %q after %v", statusLine(got), time.Since(began))
			}
			if c.ends {
				select {
				case <-ended:
				case <-time.After(10 * time.Second):
					t.Error("the connection is not closed")
				}
			}
			_ = conn.Close()
		})
	}
	for from, want := range map[int]string{3: "h2", 4: "http/1.1", 6: "h2"} { // who takes requests back does without HTTP/2 for a while
		var conn *tls.Conn
		waitFor(t, fmt.Sprintf("10.30.0.%d to be offered %s", from, want), 20*time.Second, func() bool {
			conn = a.tlsFrom(t, from, "h2", "http/1.1")
			return conn.ConnectionState().NegotiatedProtocol == want
		})
		if want == "h2" {
			continue
		}
		if got := code(exchange(t, conn, "GET /after HTTP/1.1\r\nHost: "+name+"\r\nConnection: close\r\n\r\n")); got != "200" {
			t.Errorf("10.30.0.%d is answered %s over it", from, got)
		}
	}
}

// tlsFrom connects from 10.30.0.host, another client than all others, to the name of a route.
func (a *abuse) tlsFrom(t testing.TB, host int, protos ...string) *tls.Conn {
	t.Helper()
	var conn *tls.Conn
	must(t, a.inside.do(func() error {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 30, 0, byte(host))}}
		raw, err := d.Dial("tcp", gatewayAddr+":443")
		if err == nil {
			conn = tlsOver(raw, protos...)
		}
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	must(t, conn.Handshake())
	return conn
}

// manyChallenges asks for allocations without end and never signs one.
func (a *abuse) manyChallenges(t *testing.T) {
	before := a.load()
	for range 20 {
		conn := a.tcp(t, a.inside, gatewayAddr+":443")
		for range 500 {
			if _, err := conn.Write(stunMessage(typeAllocate, udpTransport)); err != nil {
				break
			}
		}
	}
	time.Sleep(time.Second)
	now := a.load()
	t.Logf("memory +%.1f MiB, %.0f goroutines, %.0f descriptors", (now.memory-before.memory)/(1<<20), now.goroutines-before.goroutines, now.descriptors-before.descriptors)
	if now.memory-before.memory > 32<<20 || a.metric("hafen_relay_allocations ") > 2 {
		t.Errorf("memory +%.1f MiB, %v allocations", (now.memory-before.memory)/(1<<20), a.metric("hafen_relay_allocations "))
	}
}

// amplification: a UDP source that has proved nothing is answered ten times and with 2 KiB in ten seconds, whatever it asks, from
// however many ports.
func (a *abuse) amplification(t *testing.T) {
	before := a.load()
	answered, size, asked := 0, 0, 0
	var mu sync.Mutex
	var wg sync.WaitGroup
	began := time.Now()
	for range 100 {
		conn := a.udp(t, a.inside)
		wg.Go(func() {
			buf := make([]byte, 4096)
			for {
				_ = conn.SetReadDeadline(time.Now().Add(3 * time.Second))
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				mu.Lock()
				answered, size = answered+1, size+n
				mu.Unlock()
			}
		})
		c := &turnClient{conn: conn, datagram: true, username: "1:x", password: "y", realm: "r", nonce: "n"}
		for range 10 {
			for _, msg := range [][]byte{
				stunMessage(typeAllocate, udpTransport), stunMessage(typeBinding), stunMessage(typeRefresh), c.signed(typeAllocate, udpTransport),
				stunMessage(typeBinding, attr(0x7ffe, nil)), stunMessage(0x000a), stunMessage(typeAllocate, attr(attrTransport, []byte{6, 0, 0, 0})),
			} {
				_, _ = conn.Write(msg)
				asked++
			}
		}
	}
	wg.Wait()
	took := time.Since(began)
	windows := 1 + int(took/(10*time.Second))
	t.Logf("%d requests from 100 ports in %v: %d answers, %d bytes", asked, took.Round(time.Millisecond), answered, size)
	if answered > 10*windows || size > windows*2048 {
		t.Errorf("%d answers, %d bytes", answered, size)
	}
	if answered == 0 {
		t.Error("no answer at all: the control")
	}
	if grown := a.load().memory - before.memory; grown > 8<<20 {
		t.Errorf("memory +%.1f MiB", grown/(1<<20))
	}
}

// TestAbuse_TestRelay tries what the credentials of the precall test open: the two ends of one run, and nothing else.
func TestAbuse_TestRelay(t *testing.T) {
	t.Parallel()
	a := newAbuse(t)
	username, password := a.testCredentials(t)
	ends := func(n int, username, password string) []*turnClient {
		var list []*turnClient
		for range n {
			c := &turnClient{conn: a.tls(t, a.inside, gatewayName), username: username, password: password}
			code, err := c.allocate()
			must(t, err)
			if code != 0 {
				break
			}
			list = append(list, c)
		}
		return list
	}
	own := ends(2, username, password)
	if len(own) < 2 {
		t.Fatal("the control: no two allocations with fresh credentials")
	}
	t.Run("the run itself", func(t *testing.T) {
		for i, c := range own {
			if code := c.bind(t, 0x4000, own[1-i].relayed); code != 0 {
				t.Fatalf("bind: %d", code)
			}
		}
		_, _ = own[0].conn.Write(channelData(0x4000, []byte("hello")))
		if b, err := own[1].read(3 * time.Second); err != nil || !strings.Contains(string(b), "hello") {
			t.Errorf("%q %v", b, err)
		}
	})
	t.Run("A-01 to A-12", func(t *testing.T) {
		for _, text := range append(append([]string{}, forbiddenAddresses...), append(allowedAddresses, cloudAddr, fraAddr, insideAddr, "10.30.0.3")...) {
			addr := netip.MustParseAddr(text)
			if addr == own[0].relayed.Addr() {
				continue // another port of it is tried below
			}
			peer := netip.AddrPortFrom(addr, 443)
			if code := own[0].permit(t, peer); code != 403 && code != 443 && code != 400 {
				t.Errorf("a permission for %s: %d", text, code)
			}
			if code := own[0].bind(t, 0x4002, peer); code != 403 && code != 443 && code != 400 {
				t.Errorf("a channel to %s: %d", text, code)
			}
			msg := stunMessage(typeSend, attr(attrData, []byte("x")))
			_, _ = own[0].conn.Write(withPeer(msg, peer))
		}
		for _, port := range []uint16{443, 9443, 3128, 53} {
			peer := netip.AddrPortFrom(own[0].relayed.Addr(), port)
			_ = own[0].permit(t, peer)
			if code := own[0].bind(t, 0x4003, peer); code != 403 {
				t.Errorf("a channel to %s: %d", peer, code)
			}
			_, _ = own[0].conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("x"))), peer))
		}
		a.noCanary(t)
	})
	t.Run("A-17", func(t *testing.T) {
		bad := netip.MustParseAddrPort("127.0.0.1:443")
		for _, peers := range [][]netip.AddrPort{{own[1].relayed, bad}, {bad, own[1].relayed}} {
			if code := own[0].permit(t, peers...); code != 403 {
				t.Errorf("%v: %d", peers, code)
			}
		}
	})
	t.Run("A-21", func(t *testing.T) {
		for _, number := range []uint16{0x0000, 0x3fff, 0x5000, 0x7fff, 0xffff} {
			if code := own[0].bind(t, number, own[1].relayed); code != 400 {
				t.Errorf("channel %#x: %d", number, code)
			}
		}
	})
	t.Run("another run", func(t *testing.T) {
		u, p := a.testCredentials(t)
		other := ends(1, u, p)
		if len(other) == 0 {
			t.Fatal("no allocation")
		}
		if code := own[0].bind(t, 0x4004, other[0].relayed); code != 403 {
			t.Errorf("a channel into another run: %d", code)
		}
		_, _ = own[0].conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("intruder"))), other[0].relayed))
		if b, err := other[0].read(time.Second); err == nil {
			t.Errorf("a packet from another run: %x", b)
		}
	})
	t.Run("A-37", func(t *testing.T) {
		_, rest, _ := strings.Cut(username, ":")
		for _, u := range []string{
			fmt.Sprintf("%d:%s", time.Now().Add(-time.Hour).Unix(), rest), fmt.Sprintf("%d:%s", time.Now().Add(48*time.Hour).Unix(), rest),
			"99999999999999999999:" + rest, "-1:" + rest, " " + username, username + ":b", rest, "1:" + strings.Repeat("x", 480), username + "\x00", username + "\n",
		} {
			c := &turnClient{conn: a.tls(t, a.inside, gatewayName), username: u, password: password}
			code, err := c.allocate()
			if err == nil && code == 0 {
				t.Errorf("%q won an allocation", u)
			}
			_ = c.conn.Close()
		}
	})
	t.Run("wrong password", func(t *testing.T) {
		c := &turnClient{conn: a.tls(t, a.inside, gatewayName), username: username, password: password + "x"}
		if code, err := c.allocate(); err == nil && code == 0 {
			t.Error("won an allocation")
		}
	})
	t.Run("A-36", func(t *testing.T) {
		c := &turnClient{conn: a.tls(t, a.inside, gatewayName), username: username, password: password}
		must(t, c.challenge())
		msg := c.signed(typeAllocate, udpTransport)
		answer, err := c.ask(msg)
		must(t, err)
		if code := stunCode(answer); code != 0 {
			t.Fatalf("the control: %d", code)
		}
		copycat := &turnClient{conn: a.tls(t, a.inside, gatewayName)}
		if answer, err := copycat.ask(msg); err == nil && stunCode(answer) == 0 {
			t.Error("a copy of another's Allocate won an allocation")
		}
	})
	t.Run("A-23", func(t *testing.T) {
		u, p := a.testCredentials(t)
		if n := len(ends(20, u, p)); n > 8 {
			t.Errorf("%d allocations with one run's credentials", n)
		}
	})
	t.Run("A-50", func(t *testing.T) {
		got := make(chan int)
		go func() {
			sum := 0
			for {
				b, err := own[1].read(time.Second)
				if err != nil {
					got <- sum
					return
				}
				sum += len(b)
			}
		}()
		packet := channelData(0x4000, make([]byte, 1200))
		began := time.Now()
		for time.Since(began) < 2*time.Second {
			_ = own[0].conn.SetWriteDeadline(time.Now().Add(time.Second))
			if _, err := own[0].conn.Write(packet); err != nil {
				break
			}
		}
		took := time.Since(began)
		rate := float64(<-got) * 8 / took.Seconds() / 1e6
		t.Logf("%.1f Mbit/s came through", rate)
		if rate > 11 { // 8 and the burst
			t.Errorf("%.1f Mbit/s came through", rate)
		}
	})
	a.noCanary(t)
	a.alive(t)
}

// withPeer puts a peer into a message without integrity.
func withPeer(msg []byte, peer netip.AddrPort) []byte {
	msg = append(msg, xorPeer(peer, msg[8:20])...)
	msg[2], msg[3] = byte((len(msg)-20)>>8), byte(len(msg)-20)
	return msg
}

// testCredentials are what any page gets for a precall test.
func (a *abuse) testCredentials(t *testing.T) (username, password string) {
	t.Helper()
	body, status := get(a.inside, "https://"+gatewayAddr+"/api/v1/ice", gatewayName)
	var servers struct {
		ICEServers []struct{ Username, Credential string }
	}
	if err := json.Unmarshal([]byte(body), &servers); err != nil || status != http.StatusOK || len(servers.ICEServers) == 0 {
		t.Fatalf("%d %s", status, body)
	}
	return servers.ICEServers[0].Username, servers.ICEServers[0].Credential
}

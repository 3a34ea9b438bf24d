package relay

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"hafen/configs"
)

// tape is a region over UDP that keeps what it gets and answers as it is told. Binding requests, which are probes, it answers.
type tape struct {
	t    *testing.T
	conn *net.UDPConn
	done chan struct{}

	mu     sync.Mutex
	got    [][]byte
	from   *net.UDPAddr // who sent last
	silent bool
	script func(raw []byte) [][]byte
}

func newTape(t *testing.T, script func(raw []byte) [][]byte) *tape {
	t.Helper()
	p := &tape{t: t, conn: listenUDP(t, "127.0.0.1:0"), done: make(chan struct{}), script: script}
	go p.run()
	t.Cleanup(func() { _ = p.conn.Close(); <-p.done })
	return p
}

func (p *tape) urls() []string {
	_, port, _ := net.SplitHostPort(p.conn.LocalAddr().String())
	return []string{"turn:region.test:" + port + "?transport=udp"}
}

func (p *tape) run() {
	defer close(p.done)
	buf := make([]byte, 1<<16)
	for {
		n, from, err := p.conn.ReadFromUDP(buf)
		if err != nil {
			return
		}
		raw := bytes.Clone(buf[:n])
		m := &stun.Message{Raw: raw}
		if p.isSilent() {
			continue
		}
		if stun.IsMessage(raw) && m.Decode() == nil && m.Type == stun.BindingRequest {
			answer := stun.MustBuild(m, stun.BindingSuccess, &stun.XORMappedAddress{IP: from.IP, Port: from.Port})
			_, _ = p.conn.WriteToUDP(answer.Raw, from)
			continue
		}
		p.mu.Lock()
		p.got, p.from = append(p.got, raw), from
		script := p.script
		p.mu.Unlock()
		if script == nil {
			continue
		}
		for _, answer := range script(raw) {
			_, _ = p.conn.WriteToUDP(answer, from)
		}
	}
}

func (p *tape) isSilent() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.silent
}

func (p *tape) seen() [][]byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.got)
}

// say sends to whoever sent last.
func (p *tape) say(msgs ...[]byte) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range msgs {
		if _, err := p.conn.WriteToUDP(m, p.from); err != nil {
			p.t.Fatal(err)
		}
	}
}

// willing answers each Allocate and Refresh with success and the lifetime in seconds, everything else with nothing.
func willing(lifetime uint32) func(raw []byte) [][]byte {
	return func(raw []byte) [][]byte {
		var m message
		if m.parse(raw) != nil || m.class != stun.ClassRequest {
			return nil
		}
		switch m.method {
		case stun.MethodAllocate:
			if m.integrity == nil {
				return [][]byte{response(&m, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.Realm("r"), stun.Nonce("n"))}
			}
			return [][]byte{response(&m, stun.ClassSuccessResponse, lifetimeAttr(lifetime))}
		case stun.MethodRefresh:
			asked := lifetimeOf(raw)
			return [][]byte{response(&m, stun.ClassSuccessResponse, lifetimeAttr(uint32(asked/time.Second)))}
		}
		return nil
	}
}

func response(m *message, class stun.MessageClass, attrs ...stun.Setter) []byte {
	return stun.MustBuild(append([]stun.Setter{stun.NewTransactionIDSetter(m.id), stun.NewType(m.method, class)}, attrs...)...).Raw
}

var testKey = stun.NewLongTermIntegrity("u", "r", "p")

func request(method stun.Method, attrs ...stun.Setter) []byte {
	return stun.MustBuild(append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)...).Raw
}

func signedRequest(method stun.Method, attrs ...stun.Setter) []byte {
	attrs = append(attrs, stun.Username("u"), stun.Realm("r"), stun.Nonce("n"), testKey)
	return request(method, attrs...)
}

// allocate wins an allocation from a willing region.
func (c *rawTURN) allocate() {
	c.t.Helper()
	c.send(signedRequest(stun.MethodAllocate, udpTransport))
	if m := c.answer(); m.Type != stun.NewType(stun.MethodAllocate, stun.ClassSuccessResponse) {
		c.t.Fatalf("no allocation: %v", m)
	}
}

// Not a byte of a message changes, in either direction, however the stream is cut.
func TestSessionPassesMessagesUnchanged(t *testing.T) {
	for _, via := range []string{"tcp", "tls", "udp"} {
		t.Run(via, func(t *testing.T) {
			region := newTape(t, willing(600))
			h := newHouse(t, region.urls(), nil)
			c := h.raw(via)
			allocate := signedRequest(stun.MethodAllocate, udpTransport)
			c.send(allocate)
			c.want()
			sent := [][]byte{
				signedRequest(stun.MethodChannelBind, channelAttr(0x4000), peerAttr("192.0.2.1:5")), channelOf(0x4000, 1), channelOf(0x4000, 1200),
				stunFrame(typeSendIndication, stunAttr(0x0012, unhex("000112345678abcd")), stunAttr(0x0013, []byte("hello"))), channelOf(0x4000, 0),
			}
			if via == "udp" {
				c.send(sent...)
			} else {
				var all []byte
				for _, m := range sent {
					all = appendPadded(all, m)
				}
				for _, piece := range [][]byte{all[:1], all[1:50], all[50:51], all[51:]} {
					if _, err := c.conn.Write(piece); err != nil {
						t.Fatal(err)
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			h.until("all messages", func() bool { return len(region.seen()) >= 1+len(sent) })
			for i, got := range region.seen() {
				if want := append([][]byte{allocate}, sent...)[i]; !bytes.Equal(got, want) {
					t.Errorf("message %d is %x, was %x", i, got, want)
				}
			}
			back := [][]byte{
				channelOf(0x4000, 3), channelOf(0x4000, 1300), stunFrame(typeDataIndication, stunAttr(0x0012, unhex("000112345678abcd")), stunAttr(0x0013, []byte("x"))),
			}
			region.say(back...)
			for i, want := range back {
				if got := c.want(); !bytes.Equal(got, want) {
					t.Errorf("answer %d is %x, was %x", i, got, want)
				}
			}
		})
	}
}

// Before an allocation is won nothing but requests reaches the region, and after it was given back the same holds again.
func TestSessionBeforeAllocation(t *testing.T) {
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	c := h.raw("tcp")
	indication := stunFrame(typeSendIndication, stunAttr(0x0013, []byte("x")))
	c.send(channelOf(0x4000, 20), indication, request(stun.MethodAllocate, udpTransport))
	if m := c.answer(); codeOf(m) != codeUnauthorized || text(m, stun.AttrRealm) != "r" {
		t.Fatalf("not the region's challenge: %v", m)
	}
	c.send(channelOf(0x4000, 20), indication)
	c.allocate()
	c.send(channelOf(0x4000, 21), signedRequest(stun.MethodRefresh, lifetimeAttr(0)))
	c.want()
	c.send(channelOf(0x4000, 22), indication)
	c.allocate()
	var types []uint16
	for _, raw := range region.seen() {
		types = append(types, messageType(raw))
	}
	if want := []uint16{3, 3, 0x4000, 4, 3}; !slices.Equal(types, want) {
		t.Errorf("the region got %x, want %x", types, want)
	}
}

func TestSessionAnswersBinding(t *testing.T) {
	region := newTape(t, nil)
	h := newHouse(t, region.urls(), nil)
	for _, via := range []string{"tcp", "tls", "udp"} {
		c := h.raw(via)
		for _, fingerprint := range []bool{false, true} {
			attrs := []stun.Setter{stun.TransactionID, stun.BindingRequest}
			if fingerprint {
				attrs = append(attrs, stun.Fingerprint)
			}
			asked := stun.MustBuild(attrs...)
			c.send(asked.Raw)
			m := c.answer()
			var mapped stun.XORMappedAddress
			if err := mapped.GetFrom(m); err != nil || mapped.String() != c.conn.LocalAddr().String() {
				t.Errorf("%s: mapped address %v (%v), want %v", via, mapped, err, c.conn.LocalAddr())
			}
			if m.TransactionID != asked.TransactionID || m.Contains(stun.AttrFingerprint) != fingerprint {
				t.Errorf("%s: answer %v to %v", via, m, asked)
			}
			if m.Contains(stun.AttrSoftware) {
				t.Errorf("%s: the answer names our software", via)
			}
		}
		// where an answer goes is not the asker's choice.
		c.send(request(stun.MethodBinding, rawAttr(stun.AttrChangeRequest, 0, 0, 0, 6)))
		if m := c.answer(); codeOf(m) != codeUnknownAttribute {
			t.Errorf("%s: CHANGE-REQUEST: %v", via, m)
		}
	}
	if got := region.seen(); len(got) > 0 {
		t.Errorf("the region was asked: %x", got)
	}
}

// What the data path refuses itself.
func TestSessionRefusals(t *testing.T) {
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	for name, tt := range map[string]struct {
		msg  []byte
		code int
	}{
		"A-24 TCP relaying":            {signedRequest(stun.MethodAllocate, rawAttr(stun.AttrRequestedTransport, 6, 0, 0, 0)), codeUnsupportedTransport},
		"A-24 Connect":                 {signedRequest(stun.MethodConnect, peerAttr("192.0.2.1:5")), codeBadRequest},
		"refresh without allocation":   {signedRequest(stun.MethodRefresh), codeAllocationMismatch},
		"permission before allocation": {signedRequest(stun.MethodCreatePermission, peerAttr("192.0.2.1:5")), codeAllocationMismatch},
	} {
		c := h.raw("tcp")
		c.send(tt.msg)
		if m := c.answer(); codeOf(m) != tt.code || m.Contains(stun.AttrSoftware) {
			t.Errorf("%s: %v", name, m)
		}
	}
	if got := region.seen(); len(got) > 0 {
		t.Errorf("the region was asked: %x", got)
	}
}

func TestAbuse_A28_A29(t *testing.T) {
	// Closed, and nothing spins; what stands behind is never read.
	h := newHouse(t, newTape(t, nil).urls(), nil)
	for i, bad := range [][]byte{
		unhex("0001ffec2112a442000000000000000000000000"), unhex("4000ffff00000000"), unhex("4000fffc"), unhex("0001fffc2112a442000000000000000000000000"),
	} {
		c := h.raw([]string{"tcp", "tls"}[i%2])
		if _, err := c.conn.Write(append(bad, request(stun.MethodBinding)...)); err != nil {
			t.Fatal(err)
		}
		c.closed()
		if err := h.end(i); statusOf(err) != "err_protocol" {
			t.Errorf("%x ends as %v", bad, err)
		}
	}
	if h.metric("hafen_relay_invalid_frames_total", "client") != 4 {
		t.Errorf("counted %v", h.metric("hafen_relay_invalid_frames_total", "client"))
	}
}

// On the datagram leg a request is sent again until it is answered (RFC 8489 section 6.2.1); the client gets one answer.
func TestSessionRetransmits(t *testing.T) {
	t.Parallel()
	times := 0
	region := newTape(t, func(raw []byte) [][]byte {
		if times++; times < 3 {
			return nil
		}
		return willing(600)(raw)
	})
	h := newHouse(t, region.urls(), nil)
	c := h.raw("tls")
	c.allocate()
	got := region.seen()
	if len(got) != 3 || !bytes.Equal(got[0], got[1]) || !bytes.Equal(got[0], got[2]) {
		t.Errorf("the region got %x", got)
	}
	if n := h.metric("hafen_relay_retransmits_total"); n != 2 {
		t.Errorf("%v retransmissions counted", n)
	}
	time.Sleep(700 * time.Millisecond)
	if n := len(region.seen()); n != 3 {
		t.Errorf("an answered request was sent again: %d", n)
	}
}

// A UDP client sends again itself.
func TestSessionLeavesRetransmissionToUDPClients(t *testing.T) {
	t.Parallel()
	region := newTape(t, nil)
	h := newHouse(t, region.urls(), nil)
	h.raw("udp").send(signedRequest(stun.MethodAllocate, udpTransport))
	h.until("the request", func() bool { return len(region.seen()) > 0 })
	time.Sleep(800 * time.Millisecond)
	if n := len(region.seen()); n != 1 {
		t.Errorf("sent %d times", n)
	}
}

// A region's port that closes ends its streams at once.
func TestSessionEndsWithItsRegion(t *testing.T) {
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	c := h.raw("tls")
	c.allocate()
	_ = region.conn.Close()
	<-region.done
	began := time.Now()
	c.send(channelOf(0x4000, 10))
	c.closed()
	if d := time.Since(began); d > 2*time.Second {
		t.Errorf("closed after %v", d)
	}
	if err := h.end(0); statusOf(err) != "err_upstream" {
		t.Errorf("ended as %v", err)
	}
	h.until("the log's line", func() bool { return strings.Contains(h.log.String(), "status=err_upstream") })
}

// One that says nothing any more is found out by its probes, and its streams are closed.
func TestSessionEndsWithASilentRegion(t *testing.T) {
	t.Parallel()
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	c := h.raw("tls")
	c.allocate()
	region.mu.Lock()
	region.silent = true
	region.mu.Unlock()
	began := time.Now()
	c.closed()
	if d := time.Since(began); d > 6*time.Second { // 3 s are promised; machines of tests are slow
		t.Errorf("closed after %v", d)
	}
	if err := h.end(0); statusOf(err) != "err_upstream" {
		t.Errorf("ended as %v", err)
	}
}

// Without a region an Allocate without credentials gets our own challenge, a signed one a quick refusal, and the end.
func TestSessionWithoutRegion(t *testing.T) {
	t.Parallel()
	h := newHouse(t, nil, func(o *Options) {
		o.Config.Services[0].Regions[0].URLs = []string{"turn:region.test:9?transport=udp"}
	})
	c := h.raw("tls")
	c.send(request(stun.MethodAllocate, udpTransport))
	if m := c.answer(); codeOf(m) != codeUnauthorized || text(m, stun.AttrRealm) == "" || text(m, stun.AttrNonce) == "" {
		t.Fatalf("no challenge: %v", m)
	}
	c.send(signedRequest(stun.MethodAllocate, udpTransport))
	if m := c.answer(); codeOf(m) != codeInsufficientCapacity {
		t.Errorf("no refusal: %v", m)
	}
	c.closed()
	if err := h.end(0); statusOf(err) != "err_upstream" || !errors.Is(err, errNoRegion) {
		t.Errorf("ended as %v", err)
	}
}

// The test relay takes over at the signed Allocate, which carries the region's realm and nonce.
func TestSessionTestRelay(t *testing.T) {
	h := newHouse(t, []string{newPionRegion(t, nil)["udp"]}, nil)
	user, password, err := h.TestCredentials("run1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, one := h.pionClient("tls", user, password)
	_, two := h.pionClient("tcp", user, password)
	if err := twoWays(one, two); err != nil {
		t.Error(err)
	}
	for _, st := range h.Status().Sessions {
		if !st.Test || st.Region != "" || st.State != "allocated" {
			t.Errorf("status %+v", st)
		}
	}
}

// twoWays has two clients send to each other until both have received.
func twoWays(one, two net.PacketConn) error {
	buf := make([]byte, 100)
	for range 3 { // the first packets may meet a peer that has not permitted the other yet
		for _, pair := range [][2]net.PacketConn{{one, two}, {two, one}} {
			if _, err := pair[0].WriteTo([]byte("hello"), pair[1].LocalAddr()); err != nil {
				return err
			}
		}
	}
	for _, c := range []net.PacketConn{one, two} {
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, _, err := c.ReadFrom(buf); err != nil || string(buf[:n]) != "hello" {
			return errors.Join(err, errors.New("no packet"))
		}
	}
	return nil
}

func TestSessionLimits(t *testing.T) {
	t.Parallel()
	// per client, in total, and free again.
	for name, tt := range map[string]struct {
		limits configs.Limits
		code   int
	}{
		"per client": {configs.Limits{AllocationsPerClient: 1, Allocations: 10}, codeAllocationQuota},
		"in total":   {configs.Limits{AllocationsPerClient: 10, Allocations: 1}, codeInsufficientCapacity},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, newTape(t, willing(600)).urls(), func(o *Options) { o.Config.Limits = tt.limits })
			first := h.raw("tcp")
			first.allocate()
			second := h.raw("tls")
			second.send(signedRequest(stun.MethodAllocate, udpTransport))
			if m := second.answer(); codeOf(m) != tt.code {
				t.Errorf("beyond the limit: %v", m)
			}
			second.closed()
			if err := h.end(0); statusOf(err) != "err_limit" {
				t.Errorf("ended as %v", err)
			}
			first.send(signedRequest(stun.MethodRefresh, lifetimeAttr(0)))
			first.want()
			h.raw("udp").allocate()
		})
	}
}

func TestSessionDrain(t *testing.T) {
	h := newHouse(t, newTape(t, willing(600)).urls(), nil)
	old := h.raw("tcp")
	old.allocate()
	h.Drain()
	c := h.raw("tls")
	c.send(signedRequest(stun.MethodAllocate, udpTransport))
	if m := c.answer(); codeOf(m) != codeInsufficientCapacity {
		t.Errorf("while draining: %v", m)
	}
	c.closed()
	old.send(signedRequest(stun.MethodRefresh, lifetimeAttr(600)))
	if m := old.answer(); m.Type.Class != stun.ClassSuccessResponse {
		t.Errorf("a live allocation: %v", m)
	}
	if !h.Status().Draining || h.Live() != 1 {
		t.Errorf("draining %v, %d live", h.Status().Draining, h.Live())
	}
}

// slowClock is a clock that a test moves on; it goes as time does besides.
type slowClock struct {
	mu    sync.Mutex
	ahead time.Duration
}

func (c *slowClock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Now().Add(c.ahead)
}

func (c *slowClock) skip(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ahead += d
}

func TestSessionDeadlines(t *testing.T) {
	t.Parallel()
	var clock slowClock
	h := newHouse(t, newTape(t, willing(60)).urls(), func(o *Options) { o.Now = clock.now })
	idle := h.raw("tcp")
	idle.send(request(stun.MethodBinding))
	idle.want()
	clock.skip(AllocateTimeout)
	idle.closed()
	if err := h.end(0); !errors.Is(err, errLate) || statusOf(err) != "err_timeout" {
		t.Errorf("without an allocation: %v", err)
	}

	half := h.raw("tcp")
	if _, err := half.conn.Write(channelOf(0x4000, 1500)[:1]); err != nil {
		t.Fatal(err)
	}
	h.until("the half message", func() bool { return len(h.table.all(nil)) == 1 && h.table.all(nil)[0].unfinished.Load() != 0 })
	clock.skip(PartialFrameTimeout)
	half.closed()
	if err := h.end(1); !errors.Is(err, errHalf) {
		t.Errorf("half a message: %v", err)
	}

	c := h.raw("tls")
	c.allocate()
	clock.skip(50 * time.Second)
	c.send(signedRequest(stun.MethodRefresh, lifetimeAttr(60)))
	c.want()
	clock.skip(50 * time.Second)
	c.silent()
	clock.skip(50 * time.Second)
	c.closed()
	if err := h.end(2); !errors.Is(err, errOutlived) {
		t.Errorf("an allocation that was not refreshed: %v", err)
	}
}

// A client that is refused by the region, and leaves, was refused.
func TestSessionWrongCredentials(t *testing.T) {
	region := newTape(t, func(raw []byte) [][]byte {
		var m message
		if m.parse(raw) != nil {
			return nil
		}
		return [][]byte{response(&m, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.Realm("r"), stun.Nonce("n"))}
	})
	h := newHouse(t, region.urls(), nil)
	c := h.raw("tcp")
	c.send(signedRequest(stun.MethodAllocate, udpTransport))
	if m := c.answer(); codeOf(m) != codeUnauthorized {
		t.Fatalf("%v", m)
	}
	_ = c.conn.Close()
	if err := h.end(0); statusOf(err) != "err_auth" {
		t.Errorf("ended as %v", err)
	}
}

// What a region must not send does not reach a client, and does not end its session.
func TestSessionUnsoundRegion(t *testing.T) {
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	c := h.raw("tls")
	c.allocate()
	region.say(
		make([]byte, 30000), []byte("x"), unhex("0001ffec2112a442000000000000000000000000"), channelOf(0x4000, 20)[:10],
		stunFrame(typeDataIndication, stunAttr(0x0012, nil)), // A-30, from the other side
		request(stun.MethodBinding), channelOf(0x4000, 7),
	)
	if got := c.want(); !bytes.Equal(got, channelOf(0x4000, 7)) {
		t.Errorf("the client got %x", got)
	}
	if n := h.metric("hafen_relay_invalid_frames_total", "region"); n != 5 {
		t.Errorf("%v counted", n)
	}
}

func TestServerClosed(t *testing.T) {
	h := newHouse(t, newTape(t, willing(600)).urls(), nil)
	c := h.raw("tls")
	c.allocate()
	_ = h.Server.Close()
	c.closed()
	one, two := net.Pipe()
	defer one.Close()
	if err := h.ServeStream(two, nil, Client{Via: "tcp"}); statusOf(err) != "err_limit" {
		t.Errorf("after Close: %v", err)
	}
	if err := h.ServePacket(context.Background(), listenUDP(t, "127.0.0.1:0")); statusOf(err) != "err_limit" {
		t.Errorf("after Close: %v", err)
	}
}

// A connection without a socket beneath, a pipe here, is served with blocking writes; what was read already counts.
func TestServeStreamOverAnything(t *testing.T) {
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	inside, outside := net.Pipe()
	ended := make(chan error, 1)
	go func() {
		ended <- h.ServeStream(outside, request(stun.MethodBinding), Client{Addr: netip.MustParseAddrPort("127.0.0.1:9"), Via: "connect"})
	}()
	c := &rawTURN{t: t, conn: inside, stream: true}
	if m := c.answer(); m.Type != stun.BindingSuccess {
		t.Fatalf("to what was read before: %v", m)
	}
	c.allocate()
	region.say(channelOf(0x4000, 9), channelOf(0x4000, 10))
	for _, n := range []int{9, 10} {
		if got := c.want(); !bytes.Equal(got, channelOf(0x4000, n)) {
			t.Errorf("got %x", got)
		}
	}
	_ = inside.Close()
	if err := <-ended; err != nil {
		t.Errorf("ended as %v", err)
	}
}

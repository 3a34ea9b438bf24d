package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

// TestAbuse_Frames sends what is no STUN, almost STUN, and STUN in pieces, over every way to the relay, and what is
// nothing at all to the port itself (E-01 to E-08). Afterwards the program runs, does not spin, and holds what it held before.
func TestAbuse_Frames(t *testing.T) {
	t.Parallel()
	a := newAbuse(t)
	base := a.load()
	together(t, func(run func(string, func(*testing.T))) {
		for _, w := range a.ways() {
			t.Run("A-26 "+w.name, func(t *testing.T) { t.Parallel(); a.pieces(t, w) })
			t.Run("A-27 "+w.name, func(t *testing.T) { t.Parallel(); a.malformed(t, w) })
			t.Run("A-28 "+w.name, func(t *testing.T) { t.Parallel(); a.killers(t, w) })
			t.Run("A-30 "+w.name, func(t *testing.T) { t.Parallel(); a.oddAddresses(t, w, false) })
			t.Run("A-30 allocated "+w.name, func(t *testing.T) { t.Parallel(); a.oddAddresses(t, w, true) })
			t.Run("A-31 "+w.name, func(t *testing.T) { t.Parallel(); a.halfFrame(t, w) })
		}
		run("A-33", func(t *testing.T) { a.oddDatagrams(t) })
		run("E-01", func(t *testing.T) { a.silence(t) })
		run("E-02", func(t *testing.T) { a.firstBytes(t) })
		run("E-03", func(t *testing.T) { a.oneByteAtATime(t) })
		run("E-05", func(t *testing.T) { a.proxyHeaders(t) })
		run("C-18", func(t *testing.T) { a.slowHeads(t) })
		run("garbage", func(t *testing.T) { a.garbage(t) })
	})
	a.alive(t)
	a.backTo(t, base, 15*time.Second)
	a.idle(t)
}

// together runs cases beside one another, all at once: most of them wait for a time-out.
func together(t *testing.T, cases func(run func(name string, f func(*testing.T)))) {
	t.Helper()
	var wg sync.WaitGroup
	cases(func(name string, f func(*testing.T)) {
		wg.Go(func() { t.Run(name, f) })
	})
	wg.Wait()
}

// binds checks that a Binding request is answered on conn.
func binds(t testing.TB, conn net.Conn, datagram bool) {
	t.Helper()
	c := &turnClient{conn: conn, datagram: datagram}
	if answer, err := c.ask(stunMessage(typeBinding)); err != nil || stunCode(answer) != 0 {
		t.Errorf("a Binding request: %v, %x", err, answer)
	}
}

func (a *abuse) pieces(t *testing.T, w way) {
	conn := w.open(t)
	for _, b := range stunMessage(typeBinding) {
		_, err := conn.Write([]byte{b})
		must(t, err)
	}
	c := &turnClient{conn: conn}
	if _, err := c.read(3 * time.Second); err != nil {
		t.Fatalf("one byte at a time: %v", err)
	}
	one, two := stunMessage(typeBinding), stunMessage(typeBinding)
	_, _ = conn.Write(append(append([]byte(nil), one...), two...))
	for i, want := range [][]byte{one, two} {
		if b, err := c.read(3 * time.Second); err != nil || !bytes.Equal(b[8:20], want[8:20]) {
			t.Errorf("two in one segment: answer %d: %v", i, err)
		}
	}
	third := stunMessage(typeBinding, attr(0x8022, []byte("a name of software")))
	for _, part := range [][]byte{third[:3], third[3:19], third[19:]} {
		_, _ = conn.Write(part)
		time.Sleep(20 * time.Millisecond)
	}
	if b, err := c.read(3 * time.Second); err != nil || !bytes.Equal(b[8:20], third[8:20]) {
		t.Errorf("across three segments: %v", err)
	}
}

func (a *abuse) malformed(t *testing.T, w way) {
	many := make([][]byte, 100)
	for i := range many {
		many[i] = attr(0x8000+uint16(i), nil)
	}
	long := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, attrUsername), 0xffff)
	for name, msg := range map[string][]byte{
		"length not a multiple of 4": rawHead(typeBinding, 3),
		"attribute past the end":     stunMessage(typeBinding, long),
		"empty attributes":           stunMessage(typeAllocate, attr(attrTransport, nil), attr(attrUsername, nil), attr(attrRealm, nil), attr(attrNonce, nil), attr(attrIntegrity, nil)),
		"many attributes":            stunMessage(typeBinding, many...),
		"unknown attribute":          stunMessage(typeBinding, attr(0x7fff, []byte("x"))),
		"unknown method":             stunMessage(0x0ffe &^ 0x0110),
		"short integrity":            stunMessage(typeAllocate, udpTransport, attr(attrIntegrity, []byte("short"))),
		"half a header":              append(stunMessage(typeBinding), 0, 1, 0),
		"a success answer":           stunMessage(0x0103),
		"TCP transport":              stunMessage(typeAllocate, attr(attrTransport, []byte{6, 0, 0, 0})),
		"Connect":                    stunMessage(0x000a),
		"ConnectionBind":             stunMessage(0x000b),
		"1 MB of nonce, announced":   stunMessage(typeAllocate, attr(attrNonce, make([]byte, 1500))),
	} {
		conn := w.open(t)
		_, _ = conn.Write(msg)
		b, _ := answers(conn, 700*time.Millisecond)
		count := 0
		for rest := b; len(rest) >= 20; count++ {
			rest = rest[min(len(rest), 20+int(binary.BigEndian.Uint16(rest[2:]))):]
		}
		if count > 1 {
			t.Errorf("%s: %d answers", name, count)
		}
		_ = conn.Close()
	}
	binds(t, w.open(t), false)
}

// killers are lengths that overflow or outgrow: the connection is closed at once, and what follows is never taken for a frame.
func (a *abuse) killers(t *testing.T, w way) {
	for length := 0xffec; length <= 0xfffc; length += 4 {
		conn := w.open(t)
		msg := rawHead(typeBinding, uint16(length))
		_, _ = conn.Write(append(msg, stunMessage(typeBinding)...))
		if b := closes(t, conn, 3*time.Second); len(b) > 0 {
			t.Errorf("STUN length %#x was answered: %x", length, b)
		}
	}
	for _, length := range []uint16{0xfffc, 0xfffd, 0xfffe, 0xffff, 0xfff0} {
		for _, allocated := range []bool{false, true} {
			conn := w.open(t)
			if allocated {
				if code, err := newTURN(conn, false).allocate(); code != 0 || err != nil {
					t.Fatalf("allocate: %d %v", code, err)
				}
			} else {
				binds(t, conn, false)
			}
			head := []byte{0x40, 0, byte(length >> 8), byte(length)}
			_, _ = conn.Write(append(head, stunMessage(typeBinding)...))
			if b := closes(t, conn, 3*time.Second); len(b) > 0 {
				t.Errorf("ChannelData length %#x was answered: %x", length, b)
			}
		}
	}
}

// oddAddresses sends every attribute that holds an address, with every small length and family.
func (a *abuse) oddAddresses(t *testing.T, w way, allocated bool) {
	conn := w.open(t)
	c := newTURN(conn, false)
	if allocated {
		if code, err := c.allocate(); code != 0 || err != nil {
			t.Fatalf("allocate: %d %v", code, err)
		}
	} else {
		binds(t, conn, false)
	}
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	for _, typ := range []uint16{typeSend, typeCreatePermission, typeChannelBind, typeAllocate, typeBinding, typeRefresh} {
		for _, at := range []uint16{0x0001, 0x0012, 0x0016, 0x0020, 0x8023, 0x802b, 0x802c} {
			for n := range 9 {
				for family := range byte(4) {
					value := make([]byte, n)
					if n > 1 {
						value[1] = family
					}
					_, _ = conn.Write(stunMessage(typ, attr(at, value)))
				}
			}
		}
		for _, size := range []int{24, 32, 48, 64, 80} {
			_, err := conn.Write(stunMessage(typ, attr(attrData, make([]byte, max(size-24-4, 0))), attr(attrPeer, nil)))
			if err != nil {
				t.Logf("closed at type %#x: %v", typ, err)
				return
			}
		}
	}
	binds(t, w.open(t), false)
}

// halfFrame announces a frame and sends it slower than anybody waits.
func (a *abuse) halfFrame(t *testing.T, w way) {
	conn := w.open(t)
	binds(t, conn, false)
	began := time.Now()
	_, _ = conn.Write(rawHead(typeBinding, 1480))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(2 * time.Second):
				_, _ = conn.Write([]byte{0})
			}
		}
	}()
	closes(t, conn, 18*time.Second)
	t.Logf("closed after %v", time.Since(began).Round(100*time.Millisecond))
}

func (a *abuse) oddDatagrams(t *testing.T) {
	quic := append([]byte{0xc3, 0, 0, 0, 1, 8}, bytes.Repeat([]byte{7}, 1194)...)
	dtls := append([]byte{0x16, 0xfe, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 40, 1}, make([]byte, 39)...)
	random := make([]byte, 1500)
	_, _ = rand.Read(random)
	msgs := map[string][]byte{
		"A-33 65,507 bytes": append(rawHead(typeBinding, 65484), make([]byte, 65484)...)[:65504],
		"A-33 empty":        {}, "E-08 QUIC": quic, "E-08 DTLS": dtls,
		"E-08 DNS":           []byte("\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x07example\x03com\x00\x00\x01\x00\x01"),
		"E-08 NTP":           append([]byte{0x23}, make([]byte, 47)...),
		"A-44 RFC 3489":      append([]byte{0, 1, 0, 0}, random[:16]...),
		"A-45 an answer":     stunMessage(0x0101),
		"Send":               stunMessage(typeSend, attr(attrData, []byte("x")), attr(attrPeer, nil)),
		"ChannelData":        channelData(0x4000, []byte("hello")),
		"two in one":         append(stunMessage(typeBinding), stunMessage(typeBinding)...),
		"length beyond":      rawHead(typeBinding, 4),
		"empty peer, signed": stunMessage(typeCreatePermission, attr(attrPeer, nil)),
	}
	for n := 1; n < 20; n++ {
		msgs[fmt.Sprintf("A-33 %d bytes", n)] = stunMessage(typeBinding)[:n]
	}
	for n := 1; n <= 1500; n += 97 {
		b := bytes.Clone(random[:n])
		b[0] |= 0x80
		msgs[fmt.Sprintf("E-08 garbage %d", n)] = b
	}
	conn := a.udp(t, a.inside)
	names := strings.Builder{}
	for name, msg := range msgs {
		names.WriteString(name + " ")
		_, _ = conn.Write(msg)
	}
	if b, _ := answers(conn, time.Second); len(b) > 0 {
		t.Errorf("answered: %x", b)
	}
	binds(t, a.udp(t, a.inside), true) // the control
}

func (a *abuse) silence(t *testing.T) {
	conns := map[string]net.Conn{
		"tcp": a.tcp(t, a.inside, gatewayAddr+":443"), "tls": a.tls(t, a.inside, gatewayName), "proxy": a.tcp(t, a.inside, gatewayAddr+":3128"),
		"first byte of TLS": func() net.Conn {
			c := a.tcp(t, a.inside, gatewayAddr+":443")
			_, _ = c.Write([]byte{0x16})
			return c
		}(),
	}
	for name, conn := range conns { // the one that is looked at last was silent as long as the first
		t.Run(name, func(t *testing.T) {
			if b := closes(t, conn, 13*time.Second); len(b) > 0 && name != "tls" {
				t.Errorf("it said %q", b)
			}
		})
	}
}

// firstBytes is the table of first bytes: what belongs to nobody is closed without a word, and ambiguity ends at eight bytes.
func (a *abuse) firstBytes(t *testing.T) {
	for name, first := range map[string]string{
		"STUN without cookie": "\x00\x01\x00\x00ABCDEFGHIJKLMNOP", "RFC 3489, other type": "\x01\x01\x00\x00ABCDEFGH",
		"ChannelData": "\x40\x00\x00\x04abcd", "ChannelData like CONNECT": "\x43\x4f\x00\x04abcd", "channel 7f": "\x7f\xff\x00\x04abcd",
		"SSLv2": "\x80\x2e\x01\x00\x02\x00\x15", "PROXY v2": "\x0d\x0a\x0d\x0a\x00\x0d\x0a\x51\x55\x49\x54\x0a\x21\x11\x00\x0c", "SSH": "SSH-2.0-OpenSSH_9.2\r\n",
		"RDP": "\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", "SMB": "\x00\x00\x00\x85\xffSMBr", "PostgreSQL": "\x00\x00\x00\x08\x04\xd2\x16\x2f",
		"SOCKS5": "\x05\x01\x00", "SOCKS4": "\x04\x01\x01\xbb\x7f\x00\x00\x01\x00", "small letters": "get / http/1.1\r\n\r\n", "newline": "\r\n\r\n", "FF": "\xff\xff\xff\xff\xff\xff\xff\xff",
	} {
		conn := a.tcp(t, a.inside, gatewayAddr+":443")
		_, _ = io.WriteString(conn, first)
		if b := closes(t, conn, 3*time.Second); len(b) > 0 {
			t.Errorf("%s: it said %q", name, b)
		}
		inner := a.tls(t, a.inside, gatewayName)
		_, _ = io.WriteString(inner, first)
		if b := closes(t, inner, 3*time.Second); len(b) > 0 {
			t.Errorf("%s in TLS: it said %q", name, b)
		}
	}
}

// oneByteAtATime greets in every protocol, each byte a segment.
func (a *abuse) oneByteAtATime(t *testing.T) {
	for name, greeting := range map[string]string{
		"HTTP": "GET /livez HTTP/1.1\r\nHost: " + gatewayName + "\r\nConnection: close\r\n\r\n", "CONNECT": "CONNECT evil.com:443 HTTP/1.1\r\nHost: evil.com:443\r\n\r\n",
		"STUN": string(stunMessage(typeBinding)), "TLS": string(clientHello(t, gatewayName)),
	} {
		conn := a.tcp(t, a.inside, gatewayAddr+":443")
		_ = conn.(*net.TCPConn).SetNoDelay(true)
		for i := range len(greeting) {
			_, err := conn.Write([]byte{greeting[i]})
			must(t, err)
		}
		if b, _ := answers(conn, 2*time.Second); len(b) == 0 {
			t.Errorf("%s: no answer", name)
		}
		_ = conn.Close()
	}
}

// proxyHeaders tries PROXY protocol headers: believed from the balancer, and only in their one right form.
func (a *abuse) proxyHeaders(t *testing.T) {
	get := "GET /proxy.pac HTTP/1.1\r\nHost: " + gatewayName + "\r\nConnection: close\r\n\r\n"
	v1 := func(ip string) string { return "PROXY TCP4 " + ip + " " + gatewayAddr + " 50000 443\r\n" }
	v2 := func(body string) string {
		return "\r\n\r\n\x00\r\nQUIT\n\x21\x11" + string(binary.BigEndian.AppendUint16(nil, uint16(len(body)))) + body
	}
	inside4 := "\x0a\x1e\x00\x63" + "\x0a\x0a\x00\x02" + "\xc3\x50\x01\xbb"
	for _, c := range []struct {
		name, send string
		from       *namespace
		want       string // the code of the answer; "" for none
	}{
		{"v1 from a client", v1("10.30.0.99") + get, a.inside, ""},
		{"v1 from outside", v1("10.30.0.99") + get, a.outside, ""},
		{"v2 from outside", v2(inside4) + get, a.outside, ""},
		{"v1 from the balancer, client outside", v1("10.40.0.99") + get, a.balancer, "403"},
		{"v2 with a TLV beyond its end", v2(inside4+"\x04\xff\xff") + get, a.balancer, ""},
		{"v2 shorter than its addresses", v2("\x0a\x1e") + get, a.balancer, ""},
		{"v2 of 64 KB", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff" + strings.Repeat("x", 65535), a.balancer, ""},
		{"v1 without an end", "PROXY TCP4 " + strings.Repeat("1", 200), a.balancer, ""},
		{"v1 with names", "PROXY TCP4 localhost " + gatewayAddr + " 1 443\r\n" + get, a.balancer, ""},
		{"twice", v1("10.30.0.99") + v1("10.30.0.98") + get, a.balancer, ""},
		{"UDP", "PROXY UDP4 10.30.0.99 10.10.0.2 1 443\r\n" + get, a.balancer, ""},
		{"none", get, a.balancer, ""},
		{"v2 LOCAL", "\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00" + get, a.balancer, "403"},
		{"v1 UNKNOWN", "PROXY UNKNOWN\r\n" + get, a.balancer, "403"},
	} {
		conn := a.tcp(t, c.from, gatewayAddr+":443")
		_, _ = io.WriteString(conn, c.send)
		b, _ := answers(conn, 3*time.Second)
		if got := code(string(b)); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, statusLine(string(b)), c.want)
		}
		_ = conn.Close()
	}
	for name, head := range map[string]string{"v1": v1("10.30.0.99"), "v2": v2(inside4)} {
		conn := a.tcp(t, a.balancer, gatewayAddr+":443")
		for _, b := range []byte(head + get) {
			_, _ = conn.Write([]byte{b})
		}
		if b, _ := answers(conn, 3*time.Second); code(string(b)) == "" || code(string(b)) == "403" {
			t.Errorf("%s, one byte at a time: %q", name, statusLine(string(b)))
		}
		_ = conn.Close()
		// TURN behind it: the client's address is what the balancer says.
		c := &turnClient{conn: a.tcp(t, a.balancer, gatewayAddr+":443")}
		_, _ = io.WriteString(c.conn, head)
		answer, err := c.ask(stunMessage(typeBinding))
		must(t, err)
		if got := find(answer, attrMapped); string(got) != string([]byte{0, 1, 0xc3 ^ 0x21, 0x50 ^ 0x12, 10 ^ 0x21, 30 ^ 0x12, 0 ^ 0xa4, 99 ^ 0x42}) {
			t.Errorf("%s before a Binding request: mapped address %x", name, got)
		}
	}
}

// slowHeads sends heads and bodies slower than anybody types.
func (a *abuse) slowHeads(t *testing.T) {
	login := "POST /status/login HTTP/1.1\r\nHost: " + gatewayName + "\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: 3000\r\n\r\nname=x"
	cases := map[string]struct {
		head, drop string
		within     time.Duration
	}{
		"head in TLS":    {"GET / HTTP/1.1\r\nHost: " + gatewayName + "\r\n", "X-A: b\r\n", 14 * time.Second},
		"body of login":  {login, "y", 18 * time.Second},
		"body of report": {"POST /precall/report HTTP/1.1\r\nHost: " + gatewayName + "\r\nContent-Type: application/json\r\nContent-Length: 3000\r\n\r\n{", " ", 18 * time.Second},
		"body of a page": {strings.Replace(login, "/status/login", "/", 1), "y", 18 * time.Second},
	}
	together(t, func(run func(string, func(*testing.T))) {
		for name, c := range cases {
			run(name, func(t *testing.T) { a.slowSender(t, c.head, c.drop, c.within) })
		}
	})
}

// slowSender sends a head and then a drop each second, until it is cut off.
func (a *abuse) slowSender(t *testing.T, head, drop string, within time.Duration) {
	conn := a.tls(t, a.inside, gatewayName)
	_, _ = io.WriteString(conn, head)
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for {
			select {
			case <-stop:
				return
			case <-time.After(time.Second):
				_, _ = io.WriteString(conn, drop)
			}
		}
	}()
	began := time.Now()
	b := closes(t, conn, within)
	t.Logf("closed after %v: %q", time.Since(began).Round(100*time.Millisecond), statusLine(string(b)))
}

// garbage is random bytes, bare, in TLS, and behind each protocol's first byte.
func (a *abuse) garbage(t *testing.T) {
	for i := range 60 {
		b := make([]byte, 1+i*37)
		_, _ = rand.Read(b)
		prefixes := [][]byte{nil, {0x16, 3, 1}, magicCookie, {0, 1, 0, 8, 0x21, 0x12, 0xa4, 0x42}, []byte("GET "), []byte("CONNECT ")}
		first := prefixes[i%len(prefixes)]
		var conn net.Conn = a.tcp(t, a.inside, gatewayAddr+":443")
		if i%2 == 0 {
			conn = a.tls(t, a.inside, gatewayName)
		}
		_, _ = conn.Write(append(bytes.Clone(first), b...))
		_ = conn.Close()
	}
	hello := clientHello(t, gatewayName)
	for i := 1; i < len(hello); i += 7 { // cut off, and with one byte turned over
		conn := a.tcp(t, a.inside, gatewayAddr+":443")
		_, _ = conn.Write(hello[:i])
		_ = conn.Close()
		turned := bytes.Clone(hello)
		turned[i] ^= 0xff
		conn = a.tcp(t, a.inside, gatewayAddr+":443")
		_, _ = conn.Write(turned)
		_ = conn.Close()
	}
}

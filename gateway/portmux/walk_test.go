package portmux

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hafen/gateway/defect"
	"hafen/gateway/frugal"
)

// TestWalk is each way a connection may go, with its bytes sent at once, and one at a time (E-03).
func TestWalk(t *testing.T) {
	tm := start(t, nil)
	stun := string(bindingRequest)
	for _, c := range []struct {
		name     string
		tls      func(*tls.Config) // nil: plain
		say      string
		want     string
		protocol Protocol
	}{
		{"plain HTTP", nil, "GET / HTTP/1.1\r\n\r\n", "HTTP:GET / HTTP/1.1\r\n\r\n", HTTP},
		{"plain STUN", nil, stun, "STUN:" + stun, STUN},
		{"HTTP in TLS", func(*tls.Config) {}, "GET / HTTP/1.1\r\n\r\n", "HTTP:GET / HTTP/1.1\r\n\r\n", TLSHTTP},
		{"STUN in TLS", func(*tls.Config) {}, stun, "STUN:" + stun, TLSSTUN},
		{"STUN in TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, stun, "STUN:" + stun, TLSSTUN},
		{"STUN with its ALPN", func(c *tls.Config) { c.NextProtos = []string{"stun.turn"} }, stun, "STUN:" + stun, TLSSTUN},
		{"STUN under another ALPN", func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, stun, "STUN:" + stun, TLSSTUN},
		{"h2", func(c *tls.Config) { c.ServerName, c.NextProtos = "call.test", []string{"h2"} }, "PRI * HTTP/2.0\r\n\r\n", "H2:PRI * HTTP/2.0\r\n\r\n", TLSHTTP2},
	} {
		for _, size := range []int{0, 1} {
			t.Run(fmt.Sprintf("%s/%d", c.name, size), func(t *testing.T) {
				raw := dial(t, tm.addr)
				_ = raw.SetNoDelay(true)
				conn := halfCloser(&slowConn{TCPConn: raw, size: size})
				if c.tls != nil {
					conn = tls.Client(conn, tm.client(c.tls))
				}
				if got := say(t, conn, c.say); got != c.want {
					t.Errorf("got %q, want %q", got, c.want)
				}
				e := tm.end(t)
				if e.Protocol != c.protocol || e.Status != "ok" || e.In == 0 || e.Out == 0 {
					t.Errorf("ended as %+v", e)
				}
				if e.Client.String() != raw.LocalAddr().String() || e.Local.String() != tm.addr {
					t.Errorf("between %v and %v", e.Client, e.Local)
				}
			})
		}
	}
	if n := tm.counted(t, "hafen_mux_connections_total", "tls-stun"); n != 8 {
		t.Errorf("hafen_mux_connections_total{tls-stun} = %v", n)
	}
	if n := tm.counted(t, "hafen_tls_handshakes_total", "ok"); n != 12 {
		t.Errorf("hafen_tls_handshakes_total{ok} = %v", n)
	}
}

type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// slowConn sends size bytes a segment; 0: all at once.
type slowConn struct {
	*net.TCPConn
	size int
}

func (c *slowConn) Write(b []byte) (n int, err error) {
	if c.size == 0 {
		return c.TCPConn.Write(b)
	}
	for part := range slices.Chunk(b, c.size) {
		if _, err := c.TCPConn.Write(part); err != nil {
			return n, err
		}
		n += len(part)
	}
	return n, nil
}

// TestAbuse_E03 sends first bytes with pauses in between: they may take as long as the deadline allows.
func TestAbuse_E03(t *testing.T) {
	tm := start(t, nil)
	for _, text := range []string{"GET / HTTP/1.1\r\n", string(bindingRequest)} {
		c := dial(t, tm.addr)
		for _, b := range []byte(text) {
			if _, err := c.Write([]byte{b}); err != nil {
				t.Fatal(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if got := say(t, c, "."); !strings.HasSuffix(got, ":"+text+".") {
			t.Errorf("got %q", got)
		}
	}
}

// TestClosedWithoutBanner: what has no owner is closed, and told apart in the count.
func TestClosedWithoutBanner(t *testing.T) {
	tm := start(t, nil)
	for _, c := range []struct {
		say  string
		want Protocol
	}{
		{"\x03\x00\x00\x13\x0e\xe0\x00\x00\x00\x00\x00\x01\x00\x08\x00\x03\x00\x00\x00", RDP},
		{"SSH-2.0-OpenSSH_9.2\r\n", SSH},
		{"\x40\x00\x00\x04data", ChannelData},
		{"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\nGET / HTTP/1.1\r\n\r\n", ProxyHeader},
		{"\x0d\x0a\x0d\x0a\x00\x0d\x0aQUIT\x0a\x21\x11\x00\x0c" + strings.Repeat("x", 12), ProxyHeader},
		{"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", SSL2},
		{"\x00\x01\x00\x00\x00\x00\x00\x00", Unknown},
		{"hello", Unknown},
		{"\x16garbage, not a record at all", TLS},
		{"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", TLS},
	} {
		t.Run(string(c.want), func(t *testing.T) {
			conn := dial(t, tm.addr)
			if _, err := io.WriteString(conn, c.say); err != nil {
				t.Fatal(err)
			}
			got := readEnd(t, conn)
			if len(got) > 0 && (c.want != TLS || got[0] != 21) {
				t.Errorf("answered %q", got)
			}
			if e := tm.end(t); e.Protocol != c.want || e.Status != "err_protocol" || e.Err == nil {
				t.Errorf("ended as %+v", e)
			}
		})
	}
	if n := tm.Counts(); n != (Counts{}) {
		t.Errorf("still counted: %+v", n)
	}
}

// TestUnknownInsideTLS: the same inside TLS.
func TestUnknownInsideTLS(t *testing.T) {
	tm := start(t, nil)
	c := tls.Client(dial(t, tm.addr), tm.client(nil))
	if _, err := io.WriteString(c, "SSH-2.0-x\r\n"); err != nil {
		t.Fatal(err)
	}
	if got := readEnd(t, c); len(got) > 0 {
		t.Errorf("answered %q", got)
	}
	if e := tm.end(t); e.Protocol != TLSUnknown || e.Status != "err_protocol" || e.SNI != "gw.test" {
		t.Errorf("ended as %+v", e)
	}
}

// TestAbuse_D05 is the names of a ClientHello.
func TestAbuse_D05(t *testing.T) {
	tm := start(t, nil)
	for _, c := range []struct {
		name, sni string
		alert     uint8 // 0: served
	}{
		{"missing", "", 0},
		{"upper case", "GW.Test", 0},
		{"unknown", "other.test", 112},
		{"below a known one", "x.gw.test", 112},
		{"255 characters and more", strings.Repeat("a.", 200) + "test", 112},
	} {
		t.Run(c.name, func(t *testing.T) {
			conn := tls.Client(dial(t, tm.addr), tm.client(func(conf *tls.Config) {
				conf.ServerName, conf.InsecureSkipVerify = c.sni, true
			}))
			err := conn.Handshake()
			if c.alert == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if got := say(t, conn, "GET /"); got != "HTTP:GET /" {
					t.Errorf("got %q", got)
				}
				tm.end(t)
				return
			}
			if got := alertOf(err); got != c.alert {
				t.Errorf("%v, want alert %d", err, c.alert)
			}
			if e := tm.end(t); e.Status != "err_policy" || e.Protocol != TLS || len(e.SNI) > 255 {
				t.Errorf("ended as %+v", e)
			}
		})
	}
	if n := tm.counted(t, "hafen_tls_handshakes_total", "unknown_name"); n != 3 {
		t.Errorf("unknown names counted: %v", n)
	}
}

// TestSNIAddress: an address is no name (RFC 6066 section 3), but it is sent. crypto/tls's client won't, so its hello is patched.
func TestSNIAddress(t *testing.T) {
	seen := make(chan string, 1)
	tm := start(t, func(o *Options) {
		hello := o.Hello
		o.Hello = func(h *tls.ClientHelloInfo) Route {
			seen <- h.ServerName
			return hello(h)
		}
	})
	raw := captureHello(t, "abcdefghi")
	c := dial(t, tm.addr)
	_, _ = c.Write([]byte(strings.Replace(string(raw), "abcdefghi", "127.0.0.1", 1)))
	first := make([]byte, 1)
	if _, err := io.ReadFull(c, first); err != nil || first[0] != 22 {
		t.Errorf("no handshake record in answer: %x, %v", first, err)
	}
	if got := <-seen; got != "127.0.0.1" {
		t.Errorf("Hello was asked for %q", got)
	}
}

// captureHello is the first flight of Go's own TLS client.
func captureHello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer server.Close()
	failed := make(chan struct{})
	go func() {
		defer close(failed)
		_ = tls.Client(client, &tls.Config{ServerName: name}).Handshake()
	}()
	buf := make([]byte, 16<<10)
	n, err := server.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	_ = client.Close()
	<-failed
	return buf[:n]
}

func alertOf(err error) uint8 {
	for code, text := range map[uint8]string{112: "unrecognized name", 120: "no application protocol", 70: "protocol version", 40: "handshake failure"} {
		var op *net.OpError
		if errors.As(err, &op) && op.Op == "remote error" && strings.Contains(err.Error(), text) {
			return code
		}
	}
	return 0
}

// TestAbuse_D01_D02_D03 tries what must be refused by protocol, suite and ALPN, and what must be offered.
func TestAbuse_D01_D02_D03(t *testing.T) {
	tm := start(t, nil)
	handshake := func(change func(*tls.Config)) (tls.ConnectionState, error) {
		c := tls.Client(dial(t, tm.addr), tm.client(change))
		err := c.Handshake()
		return c.ConnectionState(), err
	}
	for _, c := range []struct {
		name   string
		change func(*tls.Config)
		alert  uint8
	}{
		{"TLS 1.0", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS10 }, 70},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, 70},
		{"CBC", func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.CipherSuites = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA}
		}, 40},
		{"RSA key exchange, 3DES, RC4", func(c *tls.Config) {
			c.MaxVersion = tls.VersionTLS12
			c.CipherSuites = []uint16{
				tls.TLS_RSA_WITH_AES_128_GCM_SHA256, tls.TLS_RSA_WITH_3DES_EDE_CBC_SHA, tls.TLS_ECDHE_ECDSA_WITH_RC4_128_SHA,
			}
		}, 40},
		{"unknown ALPN only", func(c *tls.Config) { c.NextProtos = []string{"spdy/3", "h2\x00"} }, 120},
		{"h2 where every tunnel has its own connection", func(c *tls.Config) { c.NextProtos = []string{"h2"} }, 120},
	} {
		if _, err := handshake(c.change); alertOf(err) != c.alert {
			t.Errorf("%s: %v, want alert %d", c.name, err, c.alert)
		}
	}
	s, err := handshake(func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} })
	if err != nil || s.NegotiatedProtocol != "http/1.1" || s.Version != tls.VersionTLS13 {
		t.Errorf("browser-like: %+v, %v", s, err)
	}
	if _, err := handshake(func(c *tls.Config) { c.CurvePreferences = []tls.CurveID{tls.X25519MLKEM768} }); err != nil {
		t.Errorf("X25519MLKEM768 alone: %v", err)
	}
	eventually(t, "failed handshakes to be counted", func() bool { return tm.counted(t, "hafen_tls_handshakes_total", "failed") == 6 })
}

// TestAbuse_D12: sessions are resumed, and never with early data.
func TestAbuse_D12(t *testing.T) {
	tm := start(t, nil)
	sessions := ticketCache{tls.NewLRUClientSessionCache(1), t}
	for i := range 2 {
		c := tls.Client(dial(t, tm.addr), tm.client(func(c *tls.Config) { c.ClientSessionCache = sessions }))
		say(t, c, "GET /")
		if resumed := c.ConnectionState().DidResume; resumed != (i == 1) {
			t.Errorf("connection %d: resumed %v", i, resumed)
		}
		tm.end(t)
	}
}

// ticketCache keeps a client's sessions and looks at each.
type ticketCache struct {
	tls.ClientSessionCache
	t *testing.T
}

func (c ticketCache) Put(key string, s *tls.ClientSessionState) {
	if s != nil {
		if _, state, err := s.ResumptionState(); err != nil || state.EarlyData {
			c.t.Errorf("a ticket allows early data: %v, %v", state, err)
		}
	}
	c.ClientSessionCache.Put(key, s)
}

// TestClientRefusesCertificate: a client that does not trust us is counted as such, in TLS 1.2 and in 1.3.
func TestClientRefusesCertificate(t *testing.T) {
	tm := start(t, nil)
	for _, version := range []uint16{tls.VersionTLS12, tls.VersionTLS13} {
		c := tls.Client(dial(t, tm.addr), &tls.Config{ServerName: "gw.test", MaxVersion: version})
		if c.Handshake() == nil {
			t.Fatal("it does trust us")
		}
		if e := tm.end(t); e.Status != "err_client" || e.Protocol != TLS {
			t.Errorf("ended as %+v", e)
		}
	}
	if n := tm.counted(t, "hafen_tls_handshakes_total", "rejected"); n != 2 {
		t.Errorf("rejected: %v", n)
	}
}

// TestACME: a challenge is answered by the handshake alone, even to somebody who is no client.
func TestACME(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.Admit = func(netip.Addr) error { return errors.New("no client") }
		o.Refused = answer("REFUSED")
	})
	c := tls.Client(dial(t, tm.addr), tm.client(func(c *tls.Config) { c.NextProtos = []string{"acme-tls/1"} }))
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	readEnd(t, c)
	if e := tm.end(t); e.Protocol != ACME {
		t.Errorf("ended as %+v", e)
	}
}

// TestHelloKept: the precall page needs the fingerprint.
func TestHelloKept(t *testing.T) {
	hellos := make(chan *Hello, 1)
	tm := start(t, func(o *Options) {
		o.HTTP = func(c *Conn) {
			hellos <- c.Hello()
			_ = c.Close()
		}
	})
	c := tls.Client(dial(t, tm.addr), tm.client(func(c *tls.Config) {
		c.ServerName = "GW.test"
		c.NextProtos = []string{"h2", "http/1.1"}
		c.InsecureSkipVerify = true
	}))
	_, _ = io.WriteString(c, "GET /")
	h := <-hellos
	if h.SNI != "gw.test" || !slices.Equal(h.ALPN, []string{"h2", "http/1.1"}) || h.GREASE ||
		len(h.CipherSuites) == 0 || len(h.Extensions) == 0 || !slices.Contains(h.Versions, tls.VersionTLS13) {
		t.Errorf("%+v", h)
	}
	if !newHello(&tls.ClientHelloInfo{CipherSuites: []uint16{0x1301, 0x3a3a}}).GREASE {
		t.Error("GREASE suite not seen")
	}
	if newHello(&tls.ClientHelloInfo{CipherSuites: []uint16{0x3a4a}, Extensions: []uint16{0x0a0b}}).GREASE {
		t.Error("GREASE seen where none is")
	}
}

// TestPassthrough splices to a TLS server whose certificate the gateway does not hold.
func TestPassthrough(t *testing.T) {
	cert, roots := makeCertificate(t, "www.pass.test")
	backend, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{*cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Close()
	go func() {
		for {
			c, err := backend.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				_, _ = io.Copy(c, c)
			}()
		}
	}()
	tm := start(t, func(o *Options) {
		hello := o.Hello
		o.Hello = func(h *tls.ClientHelloInfo) Route {
			if strings.HasSuffix(h.ServerName, ".pass.test") {
				return Route{Passthrough: backend.Addr().String()}
			}
			return hello(h)
		}
		o.Splice = func(c *Conn, target string) {
			up, err := net.Dial("tcp", target)
			if err != nil {
				_ = c.Close()
				return
			}
			c.Established()
			_ = Splice(c, up, time.Minute)
		}
	})
	text := strings.Repeat("through and through, ", 100_000)
	c := tls.Client(dial(t, tm.addr), &tls.Config{ServerName: "www.pass.test", RootCAs: roots})
	if err := c.Handshake(); err != nil {
		t.Fatal(err)
	}
	if got := sayWhileReading(t, c, text); got != text {
		t.Errorf("%d bytes came back of %d", len(got), len(text))
	}
	_ = c.Close() // a TLS echo ends with its client
	e := tm.end(t)
	if e.Protocol != Passthrough || e.SNI != "www.pass.test" || e.In < int64(len(text)) || e.Out < int64(len(text)) || e.In > 2*int64(len(text)) {
		t.Errorf("ended as %+v", e)
	}
}

// sayWhileReading is say for more than the buffers on the way hold.
func sayWhileReading(t *testing.T, c halfCloser, text string) string {
	t.Helper()
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(c, text)
		sent <- errors.Join(err, c.CloseWrite())
	}()
	got, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("read: %v", err)
	}
	if err := <-sent; err != nil {
		t.Errorf("write: %v", err)
	}
	return string(got)
}

// TestPanicIsOneConnection (J-12).
func TestPanicIsOneConnection(t *testing.T) {
	var panics atomic.Int32
	tm := start(t, func(o *Options) {
		o.STUN = func(*Conn) { panic("a defect") }
		o.Defects = &defect.Catcher{Count: func() { panics.Add(1) }}
	})
	c := dial(t, tm.addr)
	_, _ = c.Write(bindingRequest)
	readEnd(t, c)
	if got := say(t, dial(t, tm.addr), "GET /"); got != "HTTP:GET /" {
		t.Errorf("after a panic: %q", got)
	}
	if n := panics.Load(); n != 1 {
		t.Errorf("panics counted: %v", n)
	}
}

// FuzzHello feeds the handshake up to its ClientHello: it ends, remembers all that it read and no more than its limit, and says nothing.
func FuzzHello(f *testing.F) {
	hello := captureHello(f, "gw.test")
	f.Add(hello)
	f.Add(hello[:len(hello)/2])
	f.Add(append([]byte{0x16, 3, 1, 0, 0}, hello...))
	f.Add([]byte{0x16, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff})
	const limit = 4 << 10
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Input(t)()
		conn := &bytesConn{in: b}
		c := &Conn{}
		c.wire = wire{conn: conn, owner: c}
		asked := 0
		hello := &helloTap{limit: limit}
		c.wire.hello = hello
		err := tls.Server(&c.wire, helloConfig(func(*tls.ClientHelloInfo) Route { asked++; return Route{} })).Handshake()
		if asked > 1 || errors.Is(err, errNotOurs) != (asked == 1) || err == nil {
			t.Fatalf("asked %d times, %v", asked, err)
		}
		if len(hello.seen) > limit || string(hello.seen) != string(b[:len(b)-len(conn.in)]) {
			t.Fatalf("%d bytes remembered, %d read", len(hello.seen), len(b)-len(conn.in))
		}
		if conn.out > 0 {
			t.Fatalf("%d bytes sent before the route is decided", conn.out)
		}
	})
}

// bytesConn is a client that sends in and goes.
type bytesConn struct {
	net.Conn
	in  []byte
	out int
}

func (c *bytesConn) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *bytesConn) Write(p []byte) (int, error)      { c.out += len(p); return len(p), nil }
func (c *bytesConn) SetDeadline(time.Time) error      { return nil }
func (c *bytesConn) SetReadDeadline(time.Time) error  { return nil }
func (c *bytesConn) SetWriteDeadline(time.Time) error { return nil }
func (c *bytesConn) CloseWrite() error                { return nil }

package forward

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// refused checks one refusal: its status, a body that tells what, why and whom to ask, and then the end.
func (r *rig) refused(request string, code int, word string) {
	r.t.Helper()
	for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
		answer := exchange(r.t, c, request)
		head, body, _ := strings.Cut(answer, "\r\n\r\n")
		if !strings.HasPrefix(head, fmt.Sprintf("HTTP/1.1 %d ", code)) || strings.Count(answer, "HTTP/1.1") != 1 {
			r.t.Errorf("%s, %.80q: want one %d, got %q", name, request, code, answer)
		}
		if code == http.StatusBadRequest && !strings.Contains(body, "refused") {
			continue // net/http's own
		}
		for _, part := range []string{"(" + word + ")", "127.0.0.1", "Why:", "the help desk, 4711"} {
			if !strings.Contains(body, part) {
				r.t.Errorf("%s, %.80q: %q lacks %q", name, request, body, part)
			}
		}
		if !strings.Contains(head, "text/plain") || !strings.Contains(head, "nosniff") || !strings.Contains(head, "Connection: close") {
			r.t.Errorf("%s, %.80q: head %q", name, request, head)
		}
	}
}

func connectTo(target string) string {
	return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n"
}

// TestAbuse_B01: addresses, names that are not ours, wrong ports and our own names are refused without a dial.
func TestAbuse_B01(t *testing.T) {
	r := newRig(t, nil)
	for target, code := range map[string]int{
		"127.0.0.1:22": 403, "[::1]:443": 403, "[::ffff:127.0.0.1]:443": 403, "169.254.169.254:80": 403, // B-01
		"203.0.113.9:3478": 403,                                                                          // B-03, a relay's address
		"call.example:80":  403, "call.example:8443": 403, "call.example:0443": 400, "call.example": 400, // B-04
		"evil.com:443": 403, "call.example.evil.com:443": 403, "*.x:443": 400, // B-05
		"gw.hospital.example:443": 403, "GW.hospital.example.:443": 403, // B-13
	} {
		word := statusPolicy
		if code == 400 {
			word = statusProtocol
		}
		r.refused(connectTo(target), code, word)
	}
	if got := r.dialled(); len(got) != 0 {
		t.Errorf("dialled %v", got)
	}
	if r.connects(statusPolicy) == 0 || r.connects(statusProtocol) == 0 || r.connects(statusOK) != 0 {
		t.Error("refusals are not counted")
	}
}

// TestAbuse_B06: what an allowed name resolves to is judged, by the dialer that the gateway has.
func TestAbuse_B06(t *testing.T) {
	canary := make(chan net.Conn, 100)
	r := newRig(t, func(o *Options) {
		d := &netpolicy.Dialer{
			ResolveTimeout: 100 * time.Millisecond,
			Policy: &netpolicy.Policy{
				Interfaces: func() ([]netip.Prefix, error) { return []netip.Prefix{netip.MustParsePrefix("10.9.9.9/24")}, nil },
				Listening:  func() []netip.AddrPort { return []netip.AddrPort{netip.MustParseAddrPort("[::]:443")} },
			},
			Lookup: func(ctx context.Context, name string) ([]netip.Addr, error) {
				answers := map[string]string{
					"a.rooms.example": "10.1.2.3", "b.rooms.example": "169.254.169.254", "c.rooms.example": "::ffff:10.1.2.3",
					"d.rooms.example": "64:ff9b::10.1.2.3", "own.rooms.example": "10.9.9.9", "self.rooms.example": "127.0.0.1",
				}
				if name == "silent.rooms.example" {
					<-ctx.Done()
					return nil, ctx.Err()
				}
				if text, ok := answers[name]; ok {
					return []netip.Addr{netip.MustParseAddr(text)}, nil
				}
				return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
			},
		}
		o.Dial = func(ctx context.Context, host string, port uint16, _ string) (net.Conn, error) {
			c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("%s:%d", host, port), netpolicy.Scope{})
			if err == nil {
				canary <- c
			}
			return c, err
		}
	})
	for name, want := range map[string]struct {
		code int
		word string
	}{
		"a": {502, statusPolicy}, "b": {502, statusPolicy}, "c": {502, statusPolicy}, "d": {502, statusPolicy},
		"own": {508, statusPolicy}, "self": {508, statusPolicy}, // B-13: a name that leads to ourselves
		"missing": {502, statusDial}, "silent": {504, statusTimeout}, // B-08
	} {
		r.refused(connectTo(name+".rooms.example:443"), want.code, want.word)
	}
	if len(canary) != 0 {
		t.Errorf("%d dials went through", len(canary))
	}
	if body := exchange(t, r.dialPlain(), connectTo("own.rooms.example:443")); !strings.Contains(body, "`hosts:`") || !strings.Contains(body, "`dns.servers`") {
		t.Errorf("the loop is not named with its cure: %s", body)
	}
	for name, inside := range map[string]string{"a": "10.1.2.3", "own": "10.9.9.9", "missing": "no such host"} {
		if body := exchange(t, r.dialPlain(), connectTo(name+".rooms.example:443")); strings.Contains(body, inside) {
			t.Errorf("%s: the client is told of the inside: %s", name, body)
		}
		eventually(t, "the log has it", func() bool { return strings.Contains(r.log.String(), inside) })
	}
}

// TestIdleLimit: a waiting room may be silent for longer than others.
func TestIdleLimit(t *testing.T) {
	for _, tt := range []struct {
		set  time.Duration
		kind kind
		want time.Duration
	}{
		{0, serviceHost, time.Hour},
		{0, serviceRelay, 10 * time.Minute},
		{0, extra, 10 * time.Minute},
		{time.Second, serviceHost, time.Second},
		{time.Second, extra, time.Second},
	} {
		tunnel := &tunnel{p: &Proxy{opts: Options{IdleTimeout: tt.set}}, verdict: verdict{kind: tt.kind}}
		if got := tunnel.idleLimit(); got != tt.want {
			t.Errorf("kind %v, set to %v: %v, want %v", tt.kind, tt.set, got, tt.want)
		}
	}
}

// TestLogWithoutAddresses: an error of a connection names both its ends, and the log has them only where it may.
func TestLogWithoutAddresses(t *testing.T) {
	for _, full := range []bool{false, true} {
		r := newRig(t, func(o *Options) { o.Config.Log.FullAddresses = full })
		r.target("mail.example:25", echo)
		c := r.dialPlain()
		connect(t, c, "mail.example:25")
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
		eventually(t, "it is told", func() bool { return strings.Contains(r.log.String(), "status=err_client") })
		if got := strings.Contains(r.log.String(), c.LocalAddr().String()); got != full {
			t.Errorf("full addresses: %v; the log: %s", full, r.log.String())
		}
	}
}

// TestAbuse_B10: two Host fields are refused. One that differs from the target can't be seen in a handler: net/http
// takes the target and drops the field, and so the target decides.
func TestAbuse_B10(t *testing.T) {
	r := newRig(t, nil)
	r.target("call.example:443", echo)
	r.refused("CONNECT evil.com:443 HTTP/1.1\r\nHost: call.example:443\r\n\r\n", 403, statusPolicy)
	for _, request := range []string{
		"CONNECT call.example:443 HTTP/1.1\r\nHost: a b\r\n\r\n",
		"CONNECT call.example:443 HTTP/1.1\r\nHost: call.example:443\r\nContent-Length: 5\r\n\r\nhello",
		"CONNECT call.example:443 HTTP/1.1\r\nHost: call.example:443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"CONNECT /call.example:443 HTTP/1.1\r\nHost: call.example:443\r\n\r\n",
	} {
		r.refused(request, 400, statusProtocol)
	}
	c := r.dialPlain()
	_, _ = io.WriteString(c, "CONNECT evil.com:443 HTTP/1.1\r\nHost: call.example:443\r\nHost: evil.com:443\r\n\r\n")
	if resp := readHead(t, bufio.NewReader(c)); resp.StatusCode != 400 && resp.StatusCode != 403 {
		t.Errorf("two Host fields: %d", resp.StatusCode)
	}
	if got := r.dialled(); len(got) != 0 {
		t.Errorf("dialled %v", got)
	}
}

// TestAbuse_B12: nothing but CONNECT, and goproxy never sends a request of its own.
func TestAbuse_B12(t *testing.T) {
	r := newRig(t, nil)
	r.target("call.example:443", echo)
	r.target("call.example:80", echo)
	for _, line := range []string{
		"GET http://call.example/", "GET https://call.example/", "GET ftp://call.example/", "POST http://call.example/", "OPTIONS *", "OPTIONS http://call.example/",
		"TRACE http://call.example/", "HEAD http://call.example/", "GET /", "GET /proxy.pac", "PUT http://call.example:443/", "connect call.example:443", "GET http://127.0.0.1/",
		"BREW http://call.example/",
	} {
		r.t.Run(line, func(t *testing.T) {
			c := r.dialPlain()
			_, _ = io.WriteString(c, line+" HTTP/1.1\r\nHost: call.example\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n")
			answer, _ := io.ReadAll(c)
			if !bytes.HasPrefix(answer, []byte("HTTP/1.1 405 ")) && !bytes.HasPrefix(answer, []byte("HTTP/1.1 400 ")) || bytes.Count(answer, []byte("HTTP/1.1")) != 1 {
				t.Errorf("%q", answer)
			}
		})
	}
	// What goproxy would do with them if they got past the first check.
	for _, u := range []string{"http://call.example/", "/", "https://call.example/"} {
		w := httptest.NewRecorder()
		r.proxy.front.ServeHTTP(w, httptest.NewRequest(http.MethodGet, u, nil))
		if w.Code < 400 {
			t.Errorf("goproxy answered %s with %d", u, w.Code)
		}
	}
	if got := r.dialled(); len(got) != 0 {
		t.Errorf("dialled %v", got)
	}
}

// TestAbuse_B13: a request that has been here before.
func TestAbuse_B13(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Via = "hafen-1f2e" })
	r.target("call.example:443", echo)
	for _, field := range []string{
		"Via: 1.1 hafen-1f2e", "Via: 1.0 squid, 1.1 HAFEN-1F2E (x)", "CDN-Loop: hafen-1f2e", "CDN-Loop: a, hafen-1f2e; b=c", "Via: a\r\nVia: 1.1 hafen-1f2e",
		"Via: " + strings.Repeat("1.1 a, ", 30) + "1.1 b", "Via: " + strings.Repeat("x", 3000),
	} {
		r.refused("CONNECT call.example:443 HTTP/1.1\r\nHost: call.example:443\r\n"+field+"\r\n\r\n", 508, statusPolicy)
	}
	c := r.dialPlain()
	_, _ = io.WriteString(c, "CONNECT call.example:443 HTTP/1.1\r\nVia: 1.1 hafen-1f2f, 1.1 squid\r\n\r\n")
	if resp := readHead(t, bufio.NewReader(c)); resp.StatusCode != 200 {
		t.Errorf("another's Via: %d", resp.StatusCode)
	}
}

// TestAbuse_B13_TwoGateways: two gateways that are each other's company proxy end in 508, not in a storm.
func TestAbuse_B13_TwoGateways(t *testing.T) {
	var a, b *rig
	via := func(name string, next func() string) func(o *Options) {
		return func(o *Options) {
			o.Config.Name = name
			o.Dial = func(ctx context.Context, host string, port uint16, _ string) (net.Conn, error) {
				proxy, err := netpolicy.NewProxy("http://"+next(), "", nil)
				if err != nil {
					return nil, err
				}
				proxy.Via = name
				d := &netpolicy.Dialer{Policy: &netpolicy.Policy{}, Proxy: proxy, ProxyResolves: "always"}
				return d.DialVia(ctx, "tcp", fmt.Sprintf("%s:%d", host, port), netpolicy.Scope{})
			}
		}
	}
	a = newRig(t, via("a.hospital.example", func() string { return b.plain }))
	b = newRig(t, via("b.hospital.example", func() string { return a.plain }))
	resp, _ := connect(t, a.dialPlain(), "call.example:443")
	if resp.StatusCode != http.StatusBadGateway {
		t.Errorf("got %d", resp.StatusCode)
	}
	eventually(t, "both are done", func() bool { return a.proxy.Live()+b.proxy.Live() == 0 })
	if n := a.connects(statusPolicy); n != 1 {
		t.Errorf("a refused %v as a loop", n)
	}
}

// TestAbuse_B15: bytes behind a refused CONNECT are never a request (RFC 9931).
func TestAbuse_B15(t *testing.T) {
	r := newRig(t, nil)
	for _, first := range []string{connectTo("evil.com:443"), connectTo("127.0.0.1:443"), connectTo("call.example:443")} { // the last can't be dialled
		for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
			answer := exchange(t, c, first+"GET /admin HTTP/1.1\r\nHost: gw.hospital.example\r\n\r\n"+strings.Repeat("x", 8000))
			if n := strings.Count(answer, "HTTP/1.1 "); n != 1 {
				t.Errorf("%s: %d answers: %q", name, n, answer)
			}
		}
	}
}

// TestAbuse_B16: bytes in one segment with the CONNECT arrive at the target.
func TestAbuse_B16(t *testing.T) {
	r := newRig(t, nil)
	r.target("mail.example:25", echo)
	r.target("fra.relay.example:3478", echo)
	for _, target := range []string{"mail.example:25", "fra.relay.example:3478"} {
		for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
			_, _ = io.WriteString(c, connectTo(target)+"EHLO and more")
			br := bufio.NewReader(c)
			if resp := readHead(t, br); resp.StatusCode != 200 {
				t.Fatalf("%s: %d", name, resp.StatusCode)
			}
			buf := make([]byte, len("EHLO and more"))
			if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "EHLO and more" {
				t.Errorf("%s, %s: %q, %v", target, name, buf, err)
			}
		}
	}
}

// TestAbuse_B16_ClientHello: the same with TLS, whose ClientHello is looked at on the way.
func TestAbuse_B16_ClientHello(t *testing.T) {
	r := newRig(t, nil)
	cert, roots := certificate(t, "call.example")
	r.target("call.example:443", func(c net.Conn) {
		echo(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}}))
	})
	c := r.dialPlain()
	client := tls.Client(&connectFirst{Conn: c, br: bufio.NewReader(c), head: connectTo("call.example:443")}, &tls.Config{ServerName: "call.example", RootCAs: roots})
	checkEcho(t, client, "early")
}

// connectFirst is a client that sends its CONNECT in one segment with what it says first.
type connectFirst struct {
	net.Conn
	br   *bufio.Reader
	head string
	read bool
}

func (c *connectFirst) Write(p []byte) (int, error) {
	if c.head == "" {
		return c.Conn.Write(p)
	}
	n, err := c.Conn.Write(append([]byte(c.head), p...))
	n -= len(c.head)
	c.head = ""
	return n, err
}

func (c *connectFirst) Read(p []byte) (int, error) {
	if !c.read {
		c.read = true
		resp, err := http.ReadResponse(c.br, &http.Request{Method: http.MethodConnect})
		if err != nil || resp.StatusCode != 200 {
			return 0, fmt.Errorf("CONNECT: %v, %w", resp, err)
		}
	}
	return c.br.Read(p)
}

func checkEcho(t *testing.T, c net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, len(text))
	if _, err := io.ReadFull(c, buf); err != nil || string(buf) != text {
		t.Errorf("got %q, %v", buf, err)
	}
}

// TestAbuse_B11: the TLS inside has to name the host of the CONNECT.
func TestAbuse_B11(t *testing.T) {
	cert, _ := certificate(t, "call.example")
	serveTLS := func(c net.Conn) { echo(tls.Server(c, &tls.Config{Certificates: []tls.Certificate{cert}})) }
	for _, c := range []struct {
		name, target, first string // first: "sni:NAME" is a TLS client, else these bytes
		match, passes       bool
	}{
		{"the same name", "call.example:443", "sni:call.example", true, true},
		{"the same in upper case", "call.example:443", "sni:CALL.example", true, true},
		{"another name", "call.example:443", "sni:evil.example", true, false},
		{"a name below", "call.example:443", "sni:a.call.example", true, false},
		{"a look-alike", "call.example:443", "sni:\u212Aall.example", true, false},
		{"no name", "call.example:443", "sni:", true, false},
		{"no name to a relay", "fra.relay.example:443", "sni:", true, true},
		{"another name to a relay", "fra.relay.example:443", "sni:evil.example", true, false},
		{"the same name to a relay", "fra.relay.example:443", "sni:fra.relay.example", true, true},
		{"the same name to an extra", "updates.vendor.example:443", "sni:updates.vendor.example", true, true},
		{"no name to an extra", "updates.vendor.example:443", "sni:", true, false},
		{"another name to an extra elsewhere", "a.cdn.example:8443", "sni:evil.example", true, false},
		{"another name, allowed", "call.example:443", "sni:evil.example", false, true},
		{"SSH", "call.example:443", "SSH-2.0-OpenSSH_9.2\r\n", true, false},
		{"HTTP", "call.example:443", "GET / HTTP/1.1\r\n\r\n", true, false},
		{"HTTP to an extra on 443", "updates.vendor.example:443", "GET / HTTP/1.1\r\n\r\n", true, false},
		{"HTTP to an extra elsewhere", "a.cdn.example:8443", "GET / HTTP/1.1\r\n\r\n", true, true},
		{"SSLv2", "call.example:443", "\x80\x2e\x01\x00\x02", true, false},
		{"garbage that begins as TLS", "call.example:443", "\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff", true, false},
		{"garbage that begins as TLS to a relay", "fra.relay.example:443", "\x16\x03\x01\x00\x05\xff\xff\xff\xff\xff", true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRig(t, func(o *Options) { o.Config.Forward.RequireSNIMatch = c.match })
			reached := make(chan struct{}, 10)
			serve := echo
			if strings.HasPrefix(c.first, "sni:") {
				serve = serveTLS
			}
			r.target(c.target, func(conn net.Conn) {
				br := bufio.NewReader(conn)
				if _, err := br.Peek(1); err == nil {
					reached <- struct{}{}
				}
				serve(throughBuffer{conn, br})
			})
			conn := r.dialSecure()
			resp, br := connect(t, conn, c.target)
			if resp.StatusCode != 200 {
				t.Fatalf("CONNECT: %d", resp.StatusCode)
			}
			var inside net.Conn = throughBuffer{conn, br}
			if sni, ok := strings.CutPrefix(c.first, "sni:"); ok {
				inside = tls.Client(inside, &tls.Config{ServerName: sni, InsecureSkipVerify: true})
			}
			_, err := io.WriteString(inside, c.first)
			buf := make([]byte, len(c.first))
			if err == nil {
				_, err = io.ReadFull(inside, buf)
			}
			if passed := err == nil && string(buf) == c.first; passed != c.passes {
				t.Errorf("passed %v, want %v (%v)", passed, c.passes, err)
			}
			if !c.passes && len(reached) != 0 {
				t.Error("the target saw the client's bytes")
			}
			_ = conn.Close()
			eventually(t, "the tunnel has ended", func() bool { return r.proxy.Live() == 0 })
			if ok := r.connects(statusOK) == 1; ok != c.passes {
				t.Errorf("counted as ok: %v", ok)
			}
		})
	}
}

// TestAbuse_B18: CONNECT over HTTP/2, plain and extended (RFC 8441).
func TestAbuse_B18(t *testing.T) {
	r := newRig(t, nil)
	r.target("call.example:443", echo)
	srv := httptest.NewUnstartedServer(r.proxy)
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	h2 := srv.Client().Transport
	body, w := io.Pipe()
	defer w.Close()
	req, _ := http.NewRequest(http.MethodConnect, srv.URL, body)
	req.Host = "call.example:443"
	resp, err := h2.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if resp.ProtoMajor != 2 || resp.StatusCode != 405 || !strings.Contains(string(text), "HTTP/1.1") {
		t.Errorf("%s: %d %s", resp.Proto, resp.StatusCode, text)
	}
	extended, _ := http.NewRequest(http.MethodConnect, srv.URL+"/path", nil)
	extended.Header[":protocol"] = []string{"websocket"}
	if resp, err := h2.RoundTrip(extended); err == nil {
		_ = resp.Body.Close()
		if resp.StatusCode < 400 {
			t.Errorf("extended CONNECT: %d", resp.StatusCode)
		}
	}
	if n := r.connects(statusProtocol); n == 0 {
		t.Error("not counted")
	}
	if got := r.dialled(); len(got) != 0 {
		t.Errorf("dialled %v", got)
	}
}

// TestAbuse_B19: half-close is passed on, both ways, and idle tunnels end.
func TestAbuse_B19(t *testing.T) {
	t.Run("the client ends first", func(t *testing.T) {
		r := newRig(t, nil)
		r.target("mail.example:25", func(c net.Conn) {
			all, _ := io.ReadAll(c) // returns only when the client's end was passed on
			_, _ = c.Write(append([]byte("got "), all...))
		})
		for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
			_, br := connect(t, c, "mail.example:25")
			_, _ = io.WriteString(c, "hello")
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
			if all, err := io.ReadAll(br); string(all) != "got hello" || err != nil {
				t.Errorf("%s: %q, %v", name, all, err)
			}
		}
		eventually(t, "the tunnels have ended", func() bool { return r.proxy.Live() == 0 })
	})
	t.Run("the target ends first", func(t *testing.T) {
		r := newRig(t, nil)
		got := make(chan string, 2)
		r.target("mail.example:25", func(c net.Conn) {
			_, _ = io.WriteString(c, "220 hello") // it speaks first, too
			_ = c.(*net.TCPConn).CloseWrite()
			all, _ := io.ReadAll(c)
			got <- string(all)
		})
		for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
			_, br := connect(t, c, "mail.example:25")
			if all, err := io.ReadAll(br); string(all) != "220 hello" || err != nil {
				t.Errorf("%s: %q, %v", name, all, err)
			}
			_, _ = io.WriteString(c, "late")
			_ = c.Close()
			if text := <-got; text != "late" {
				t.Errorf("%s: the target got %q", name, text)
			}
		}
	})
	t.Run("idle", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.IdleTimeout = 300 * time.Millisecond })
		r.target("mail.example:25", echo)
		busy := r.dialPlain()
		_, busyReader := connect(t, busy, "mail.example:25")
		silent := r.dialPlain()
		_, silentReader := connect(t, silent, "mail.example:25")
		stop := make(chan struct{})
		go func() {
			defer close(stop)
			if _, err := io.ReadAll(silentReader); err != nil {
				t.Errorf("the silent one did not end in order: %v", err)
			}
		}()
		for ended := false; !ended; {
			checkEcho(t, throughBuffer{busy, busyReader}, "x")
			select {
			case <-stop:
				ended = true
			case <-time.After(20 * time.Millisecond):
			}
		}
		checkEcho(t, throughBuffer{busy, busyReader}, "still there")
		eventually(t, "it is told as a time-out", func() bool { return strings.Contains(r.log.String(), "status=err_timeout") })
	})
	t.Run("stuck in a write", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.IdleTimeout = 300 * time.Millisecond })
		release := make(chan struct{})
		defer close(release)
		r.target("mail.example:25", func(net.Conn) { <-release }) // reads nothing
		c := r.dialPlain()
		connect(t, c, "mail.example:25")
		chunk := make([]byte, 1<<20)
		for range 200 {
			if _, err := c.Write(chunk); err != nil {
				break
			}
		}
		eventually(t, "it has ended", func() bool { return r.proxy.Live() == 0 })
	})
	t.Run("nothing said", func(t *testing.T) {
		r := newRig(t, func(o *Options) { o.FirstBytesTimeout = 100 * time.Millisecond })
		r.target("call.example:443", echo)
		for _, target := range []string{"call.example:443", "fra.relay.example:3478"} {
			_, br := connect(t, r.dialPlain(), target)
			if all, err := io.ReadAll(br); len(all) != 0 || err != nil {
				t.Errorf("%s: %q, %v", target, all, err)
			}
		}
		eventually(t, "they are counted", func() bool { return r.connects(statusTimeout) == 2 })
	})
}

// TestAbuse_B20: the limits, which end no tunnel that stands.
func TestAbuse_B20(t *testing.T) {
	r := newRig(t, func(o *Options) { o.Config.Limits.ConnectionsPerClient = 3 })
	r.target("mail.example:25", echo)
	var standing []net.Conn
	for range 3 {
		c := r.dialPlain()
		_, br := connect(t, c, "mail.example:25")
		standing = append(standing, throughBuffer{c, br})
	}
	resp, _ := connect(t, r.dialPlain(), "mail.example:25")
	if resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("one too many: %d", resp.StatusCode)
	}
	for _, c := range standing {
		checkEcho(t, c, "standing")
	}
	_ = standing[0].Close()
	eventually(t, "one has ended", func() bool { return r.proxy.Live() == 2 })
	if resp, _ := connect(t, r.dialPlain(), "mail.example:25"); resp.StatusCode != 200 {
		t.Errorf("after one has ended: %d", resp.StatusCode)
	}

	r = newRig(t, func(o *Options) { o.MaxTunnels = 1 })
	r.target("mail.example:25", echo)
	c := r.dialPlain()
	connect(t, c, "mail.example:25")
	if resp, _ := connect(t, r.dialPlain(), "mail.example:25"); resp.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("one too many in all: %d", resp.StatusCode)
	}
}

// TestAbuse_B23: a target that breaks off inside the TLS handshake, at each of some bytes.
func TestAbuse_B23(t *testing.T) {
	r := newRig(t, nil)
	for _, k := range []int{0, 1, 5, 50, 200} {
		r.target("call.example:443", func(c net.Conn) {
			_, _ = io.CopyN(io.Discard, c, int64(k))
			_ = c.(*net.TCPConn).SetLinger(0) // a reset
		})
		conn := r.dialPlain()
		resp, br := connect(t, conn, "call.example:443")
		if k == 0 && resp.StatusCode == http.StatusBadGateway {
			continue // its reset overtook the dial's own questions to the socket
		}
		if resp.StatusCode != 200 {
			t.Fatalf("CONNECT: %d", resp.StatusCode)
		}
		err := tls.Client(throughBuffer{conn, br}, &tls.Config{ServerName: "call.example"}).Handshake()
		if err == nil || strings.Contains(err.Error(), "timeout") {
			t.Errorf("after %d bytes: %v", k, err)
		}
	}
	eventually(t, "the tunnels have ended", func() bool { return r.proxy.Live() == 0 })
	if n := testutil.ToFloat64(r.proxy.metrics.tunnels); n != 0 {
		t.Errorf("%v tunnels are left", n)
	}
}

const stunBinding = "\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"

func TestSTUNInATunnelIsHandedOver(t *testing.T) {
	type handed struct {
		host, head string
		client     netip.AddrPort
	}
	got := make(chan handed, 10)
	r := newRig(t, func(o *Options) {
		o.STUN = func(conn net.Conn, head []byte, host string, client netip.AddrPort) error {
			got <- handed{host, string(head), client}
			_, _ = io.WriteString(conn, "relay speaks")
			_, err := io.Copy(conn, conn)
			return err
		}
	})
	for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
		resp, br := connect(t, c, "fra.relay.example:3478")
		if resp.StatusCode != 200 {
			t.Fatalf("%s: %d", name, resp.StatusCode)
		}
		for i := range len(stunBinding) { // one byte at a time
			_, _ = io.WriteString(c, stunBinding[i:i+1])
			if i < 10 {
				time.Sleep(time.Millisecond)
			}
		}
		h := <-got
		if h.host != "fra.relay.example" || h.client.String() != c.LocalAddr().String() || !strings.HasPrefix(stunBinding, h.head) || len(h.head) < stunCookieEnd {
			t.Errorf("%s: handed %+v", name, h)
		}
		buf := make([]byte, len("relay speaks"))
		if _, err := io.ReadFull(br, buf); err != nil || string(buf) != "relay speaks" {
			t.Errorf("%s: %q, %v", name, buf, err)
		}
		if n := testutil.ToFloat64(r.proxy.metrics.tunnels); n != 1 {
			t.Errorf("%s: %v tunnels", name, n)
		}
		_ = c.Close()
		eventually(t, "it has ended", func() bool { return r.proxy.Live() == 0 })
	}
	if n := r.connects(statusOK); n != 2 {
		t.Errorf("%v were counted as ok", n)
	}
	if got := r.dialled(); len(got) != 0 {
		t.Errorf("dialled %v", got)
	}
}

func TestOtherThingsToARelayAreSpliced(t *testing.T) {
	r := newRig(t, func(o *Options) {
		o.STUN = func(net.Conn, []byte, string, netip.AddrPort) error {
			t.Error("handed over")
			return nil
		}
	})
	r.target("fra.relay.example:3478", echo)
	r.target("call.example:443", echo)
	for _, first := range []string{"GET / HTTP/1.1\r\n", "\x00\x01\x00\x00\x21\x12\xa4\x43 no cookie", "\x40\x00\x00\x04 ChannelData", "\x00\x01\x00\x08 short"} {
		c := r.dialPlain()
		_, br := connect(t, c, "fra.relay.example:3478")
		checkEcho(t, throughBuffer{c, br}, first)
	}
	// STUN to a host that is no relay is nothing we bridge, and no TLS.
	c := r.dialPlain()
	_, br := connect(t, c, "call.example:443")
	_, _ = io.WriteString(c, stunBinding)
	if all, err := io.ReadAll(br); len(all) != 0 || err != nil {
		t.Errorf("%q, %v", all, err)
	}
}

func TestARelayThatIsDead(t *testing.T) {
	r := newRig(t, nil)
	c := r.dialPlain()
	resp, br := connect(t, c, "fra.relay.example:3478")
	if resp.StatusCode != 200 {
		t.Fatalf("got %d", resp.StatusCode)
	}
	_, _ = io.WriteString(c, "hello, relay")
	if all, err := io.ReadAll(br); len(all) != 0 || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	eventually(t, "it is counted", func() bool { return r.connects(statusDial) == 1 })
}

func TestManyBytesBothWays(t *testing.T) {
	const size = 20 << 20
	r := newRig(t, nil)
	r.target("mail.example:25", echo)
	data := make([]byte, size)
	for i := range data {
		data[i] = byte(i * 7 >> 3)
	}
	want := sha256.Sum256(data)
	for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		_, br := connect(t, c, "mail.example:25")
		go func() {
			_, _ = c.Write(data)
			_ = c.(interface{ CloseWrite() error }).CloseWrite()
		}()
		hash := sha256.New()
		n, err := io.Copy(hash, br)
		if err != nil || n != size || !bytes.Equal(hash.Sum(nil), want[:]) {
			t.Errorf("%s: %d bytes, %v", name, n, err)
		}
	}
	eventually(t, "all bytes are counted", func() bool {
		return testutil.ToFloat64(r.proxy.metrics.up) == 2*size && testutil.ToFloat64(r.proxy.metrics.down) == 2*size
	})
}

func TestABurstThatPauses(t *testing.T) {
	r := newRig(t, nil)
	r.target("mail.example:25", echo)
	for name, c := range map[string]net.Conn{"plain": r.dialPlain(), "TLS": r.dialSecure()} {
		_, br := connect(t, c, "mail.example:25")
		inside := throughBuffer{c, br}
		for _, size := range []int{1, 10_000, 3, 100_000, 2048, 1} {
			go func() { _, _ = c.Write(bytes.Repeat([]byte{'x'}, size)) }()
			if _, err := io.CopyN(io.Discard, inside, int64(size)); err != nil {
				t.Fatalf("%s, %d bytes: %v", name, size, err)
			}
		}
		time.Sleep(pause + 100*time.Millisecond) // the deadline of the burst passes, and ends nothing
		checkEcho(t, inside, "after the pause")
	}
}

func TestBytesAreCountedWhileTheTunnelStands(t *testing.T) {
	r := newRig(t, nil)
	r.target("mail.example:25", echo)
	c := r.dialPlain()
	_, br := connect(t, c, "mail.example:25")
	checkEcho(t, throughBuffer{c, br}, "12345")
	eventually(t, "bytes are counted", func() bool {
		return testutil.ToFloat64(r.proxy.metrics.up) == 5 && testutil.ToFloat64(r.proxy.metrics.down) == 5
	})
	if r.proxy.Live() != 1 || testutil.ToFloat64(r.proxy.metrics.tunnels) != 1 || r.connects(statusOK) != 1 {
		t.Error("the tunnel is not counted while it stands")
	}
	if s := r.proxy.Tunnels(); len(s) != 1 || s[0].Target != "mail.example:25" || s[0].Service != "" || s[0].Client != "127.0.0.0/24" || s[0].Up != 5 || s[0].Down != 5 {
		t.Errorf("the tunnels: %+v", s)
	}
}

func TestOneLogLine(t *testing.T) {
	r := newRig(t, nil)
	r.target("mail.example:25", echo)
	c := r.dialPlain()
	_, br := connect(t, c, "mail.example:25")
	checkEcho(t, throughBuffer{c, br}, "12345")
	_ = c.Close()
	exchange(t, r.dialPlain(), connectTo("evil.com:443"))
	exchange(t, r.dialPlain(), connectTo("[::1]:443"))
	eventually(t, "three lines", func() bool { return strings.Count(r.log.String(), "\n") == 3 })
	text := r.log.String()
	for _, want := range []string{
		"status=ok target=mail.example:25 service=\"\" client=127.0.0.0/24 up=5 down=5",
		"status=err_policy target=evil.com:443", "[::1]:443",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%s lacks %s", text, want)
		}
	}
	if strings.Contains(text, "127.0.0.1") {
		t.Errorf("a full address is in the log: %s", text)
	}
}

// reconfigure puts another configuration in place, or nothing.
func reconfigure(p *Proxy, c *configs.Config) error {
	use, err := p.Prepare(c)
	if err == nil {
		use()
	}
	return err
}

func TestPrepare(t *testing.T) {
	r := newRig(t, nil)
	r.target("mail.example:25", echo)
	c := r.dialPlain()
	_, br := connect(t, c, "mail.example:25")
	less := testConfig()
	less.Forward.Allow = nil
	if err := reconfigure(r.proxy, less); err != nil {
		t.Fatal(err)
	}
	if resp, _ := connect(t, r.dialPlain(), "mail.example:25"); resp.StatusCode != 403 {
		t.Errorf("no longer allowed: %d", resp.StatusCode)
	}
	checkEcho(t, throughBuffer{c, br}, "a tunnel that stands goes on")
}

func TestCloseEndsTunnels(t *testing.T) {
	blocked := make(chan struct{}, 1)
	r := newRig(t, func(o *Options) {
		dial := o.Dial
		o.Dial = func(ctx context.Context, host string, port uint16, service string) (net.Conn, error) {
			if host == "call.example" {
				blocked <- struct{}{}
				<-ctx.Done()
				return nil, ctx.Err()
			}
			return dial(ctx, host, port, service)
		}
	})
	r.target("mail.example:25", echo)
	standing := r.dialPlain()
	_, br := connect(t, standing, "mail.example:25")
	_, _ = io.WriteString(r.dialPlain(), connectTo("call.example:443"))
	connect(t, r.dialSecure(), "fra.relay.example:3478")
	<-blocked
	if err := r.proxy.Close(); err != nil || r.proxy.Live() != 0 {
		t.Errorf("%v, %d are left", err, r.proxy.Live())
	}
	if _, err := io.ReadAll(br); err != nil {
		t.Errorf("the tunnel did not end in order: %v", err)
	}
	late := r.dialPlain()
	_, _ = io.WriteString(late, connectTo("mail.example:25"))
	if all, _ := io.ReadAll(late); len(all) != 0 {
		t.Errorf("after Close: %q", all)
	}
	if err := r.proxy.Close(); err != nil {
		t.Errorf("twice: %v", err)
	}
}

func TestNewNeedsItsParts(t *testing.T) {
	if _, err := New(Options{Config: configs.Default()}); err == nil {
		t.Error("without Dial")
	}
	if _, err := New(Options{Dial: func(context.Context, string, uint16, string) (net.Conn, error) { return nil, nil }}); err == nil {
		t.Error("without Config")
	}
}

// TestAConnThatDetaches: what the port multiplexer hands out is opened up, and closed as a whole.
func TestAConnThatDetaches(t *testing.T) {
	inner, far := net.Pipe()
	defer far.Close()
	closed := make(chan string, 4)
	outer := &detaching{Conn: inner, inner: inner, rest: []byte(" rest"), closed: closed}
	c := newClient(outer, []byte("head,"))
	if c.conn != inner || string(c.head) != "head, rest" {
		t.Errorf("conn %v, head %q", c.conn, c.head)
	}
	c.fail(statusDial, io.EOF)
	_ = c.Close()
	if got := <-closed; got != statusDial {
		t.Errorf("told %q", got)
	}
}

type detaching struct {
	net.Conn
	inner  net.Conn
	rest   []byte
	closed chan string
	word   string
}

func (d *detaching) Detach() (net.Conn, []byte) { return d.inner, d.rest }
func (d *detaching) Fail(word string, _ error)  { d.word = word }
func (d *detaching) Close() error               { d.closed <- d.word; return d.Conn.Close() }

package netpolicy

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// fakeProxy accepts connections and lets the test answer the CONNECT heads that arrive.
func fakeProxy(t *testing.T, config *tls.Config, serve func(c net.Conn, br *bufio.Reader, req *http.Request)) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if config != nil {
					c = tls.Server(c, config)
				}
				br := bufio.NewReader(c)
				if req, err := http.ReadRequest(br); err == nil {
					serve(c, br, req)
				}
			}()
		}
	}()
	return ln.Addr().String()
}

// answerWith answers each CONNECT with these bytes and then echoes.
func answerWith(text string) func(net.Conn, *bufio.Reader, *http.Request) {
	return func(c net.Conn, br *bufio.Reader, _ *http.Request) {
		_, _ = io.WriteString(c, text)
		_, _ = io.Copy(c, br)
	}
}

func proxyDialer(t *testing.T, rawURL string, noProxy ...string) *Dialer {
	t.Helper()
	p, err := NewProxy(rawURL, "", noProxy)
	if err != nil {
		t.Fatal(err)
	}
	p.Timeout = 2 * time.Second
	return &Dialer{Policy: testPolicy(), Proxy: p, Lookup: lookupTable(map[string][]netip.Addr{
		"call.test": addrs("9.9.9.9"), "private.test": addrs("10.1.2.3"), "loop.test": addrs("185.1.2.3"),
	})}
}

func TestDialViaCarriesBytesBothWays(t *testing.T) {
	got := make(chan *http.Request, 1)
	addr := fakeProxy(t, nil, func(c net.Conn, br *bufio.Reader, req *http.Request) {
		got <- req
		// The first bytes of the target arrive in one segment with the proxy's answer.
		answerWith("HTTP/1.0 200 Connection established\r\nContent-Length: 7\r\n\r\nbanner ")(c, br, req)
	})
	d := proxyDialer(t, "http://us%20er:p%40ss%3Aword@"+addr+"/")
	d.Proxy.Via = "token-of-ours"
	c, err := d.DialVia(WithVia(t.Context(), "1.1 before"), "tcp", "call.test:443", Scope{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "hello")
	if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if all, err := io.ReadAll(c); string(all) != "banner hello" || err != nil {
		t.Errorf("%q, %v", all, err)
	}
	req := <-got
	user, password, _ := (&http.Request{Header: http.Header{"Authorization": req.Header["Proxy-Authorization"]}}).BasicAuth()
	if req.Method != "CONNECT" || req.RequestURI != "call.test:443" || req.Host != "call.test:443" || user != "us er" || password != "p@ss:word" ||
		req.Header.Get("Via") != "1.1 before, 1.1 token-of-ours" {
		t.Errorf("the proxy got %s %s, user %q, password %q, header %v", req.Method, req.RequestURI, user, password, req.Header)
	}
}

func TestDialViaGivesThePlainConnection(t *testing.T) {
	d := proxyDialer(t, "http://"+fakeProxy(t, nil, answerWith("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 Fine\r\n\r\n")))
	c, err := d.DialVia(t.Context(), "tcp", "call.test:443", Scope{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("got a %T, which can't be spliced", c)
	}
}

func TestDialViaTLS(t *testing.T) {
	cert, roots := selfSigned(t)
	addr := fakeProxy(t, &tls.Config{Certificates: []tls.Certificate{cert}}, answerWith("HTTP/1.1 200 OK\r\n\r\n"))
	d := proxyDialer(t, "https://"+addr)
	d.Proxy.TLS = &tls.Config{RootCAs: roots}
	c, err := d.DialVia(t.Context(), "tcp", "call.test:443", Scope{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "hello")
	buf := make([]byte, 5)
	if _, err := io.ReadFull(c, buf); string(buf) != "hello" {
		t.Errorf("%q, %v", buf, err)
	}
	d.Proxy.TLS = nil
	if _, err := d.DialVia(t.Context(), "tcp", "call.test:443", Scope{}); err == nil || statusOf(t, err) != StatusDial {
		t.Errorf("an unknown root: %v", err)
	}
}

func TestProxyAnswers(t *testing.T) {
	for _, c := range []struct {
		name, url, answer, status, says string
	}{
		{"407, only NTLM", "http://", "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: NTLM\r\nProxy-Authenticate: Negotiate\r\n\r\n", StatusDial, "offers NTLM, Negotiate, the gateway knows Basic only; ask its administrators to exempt 127.0.0.1 by source address for call.test:443"},
		{"407, several in one field", "http://", "HTTP/1.1 407 No\r\nProxy-Authenticate: Digest realm=\"a, b\", qop=auth, NTLM\r\n\r\n", StatusDial, "Digest, NTLM"},
		{"407, nothing offered", "http://", "HTTP/1.1 407 No\r\n\r\n", StatusDial, "no scheme at all"},
		{"407, Basic but we have none", "http://", "HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate, Basic realm=\"x\"\r\n\r\n", StatusDial, "wants a user name and a password; write them into `egress.proxy`"},
		{"407, Basic and ours is wrong", "http://u:geheim@", "HTTP/1.1 407 No\r\nProxy-Authenticate: basic realm=x\r\n\r\n", StatusDial, "does not accept our user name and password"},
		{"403", "http://u:geheim@", "HTTP/1.1 403 Forbidden by policy\r\nContent-Length: 999999999\r\n\r\n", StatusDial, `"403 Forbidden by policy"; ask its administrators to allow this target from 127.0.0.1`},
		{"302 to a portal", "http://", "HTTP/1.1 302 Found\r\nLocation: http://portal/\r\n\r\n", StatusDial, `"302 Found"`},
		{"101 is no tunnel", "http://", "HTTP/1.1 101 Switching\r\n\r\n", StatusDial, "101"},
		{"escape sequences", "http://", "HTTP/1.1 500 \x1b[31m" + strings.Repeat("A", 1000) + "\r\n\r\n", StatusDial, "?[31mAAA"},
		{"no HTTP", "http://", "SSH-2.0-OpenSSH\r\n\r\n", StatusDial, "no HTTP response"},
		{"no HTTP and long", "http://", strings.Repeat("A", 5000) + "\r\n\r\n", StatusDial, "no HTTP response"},
		{"an endless head", "http://", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("A", 100_000), StatusDial, "no HTTP response"},
		{"endless interim answers", "http://", strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 10_000), StatusDial, "no HTTP response"},
		{"silence", "http://", "", StatusTimeout, "no answer in time"},
		{"half a head", "http://", "HTTP/1.1 200 OK\r\nX: y\r\n", StatusTimeout, "no answer in time"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := proxyDialer(t, c.url+fakeProxy(t, nil, answerWith(c.answer)))
			if c.status == StatusTimeout {
				d.Proxy.Timeout = 50 * time.Millisecond
			}
			conn, err := d.DialVia(t.Context(), "tcp", "call.test:443", Scope{})
			if err == nil {
				_ = conn.Close()
				t.Fatal("connected")
			}
			text := err.Error()
			if statusOf(t, err) != c.status || !strings.Contains(text, c.says) {
				t.Errorf("%s: %v\nwant %s: …%s…", statusOf(t, err), err, c.status, c.says)
			}
			if strings.Contains(text, "geheim") || strings.ContainsAny(text, "\x1b\r\n") || len(text) > 600 {
				t.Errorf("not fit for a log: %q", text)
			}
		})
	}
}

func TestProxyResolves(t *testing.T) {
	asked := make(chan string, 10)
	addr := fakeProxy(t, nil, func(c net.Conn, br *bufio.Reader, req *http.Request) {
		asked <- req.RequestURI
		answerWith("HTTP/1.1 200 OK\r\n\r\n")(c, br, req)
	})
	for _, c := range []struct {
		mode, target, want, status string
	}{
		{"auto", "call.test:443", "call.test:443", ""},
		{"", "call.test:443", "call.test:443", ""},
		{"auto", "unknown.test:443", "unknown.test:443", ""},
		{"auto", "private.test:443", "", StatusPolicy},
		{"auto", "loop.test:443", "", StatusPolicy},
		{"auto", "10.1.2.3:443", "", StatusPolicy},
		{"always", "call.test:443", "call.test:443", ""},
		{"always", "private.test:443", "private.test:443", ""},
		{"never", "call.test:443", "9.9.9.9:443", ""},
		{"never", "unknown.test:443", "", StatusDial},
		{"never", "private.test:443", "", StatusPolicy},
	} {
		t.Run(c.mode+" "+c.target, func(t *testing.T) {
			d := proxyDialer(t, "http://"+addr)
			d.ProxyResolves = c.mode
			conn, err := d.DialVia(t.Context(), "tcp", c.target, Scope{})
			if c.status != "" {
				if err == nil || statusOf(t, err) != c.status || len(asked) != 0 {
					t.Errorf("%v, and the proxy was asked %d times", err, len(asked))
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.Close()
			if got := <-asked; got != c.want {
				t.Errorf("the proxy was asked for %s", got)
			}
		})
	}
}

func TestNoProxy(t *testing.T) {
	port, hits := listen(t, "127.0.0.2:0")
	proxied := fakeProxy(t, nil, answerWith("HTTP/1.1 200 OK\r\n\r\n"))
	for _, c := range []struct {
		entries, target string
		direct          bool
	}{
		{"", "direct.test", false},
		{"*", "direct.test", true},
		{"direct.test", "direct.test", true},
		{"DIRECT.test.", "Direct.TEST.", true},
		{"test", "direct.test", true},
		{".test", "direct.test", true},
		{"*.test", "direct.test", true},
		{".direct.test", "direct.test", false},
		{"irect.test", "direct.test", false},
		{"direct.test:PORT", "direct.test", true},
		{"direct.test:1", "direct.test", false},
		{"127.0.0.2", "direct.test", true},
		{"127.0.0.0/8", "direct.test", true},
		{"127.0.0.0/8", "127.0.0.2", true},
		{"127.0.0.2:PORT", "127.0.0.2", true},
		{"10.0.0.0/8,other.test", "direct.test", false},
		{"::ffff:127.0.0.2", "127.0.0.2", true},
	} {
		t.Run(c.entries+" "+c.target, func(t *testing.T) {
			entries := strings.ReplaceAll(c.entries, "PORT", strings.TrimPrefix(hostPort("", port), ":"))
			d := proxyDialer(t, "http://"+proxied, strings.FieldsFunc(entries, func(r rune) bool { return r == ',' })...)
			d.Hosts = map[string][]netip.Addr{"direct.test": addrs("127.0.0.2")}
			before := hits.Load()
			conn, err := d.DialVia(t.Context(), "tcp", hostPort(c.target, port), scope("127.0.0.0/8"))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if !c.direct {
				return
			}
			if all, err := io.ReadAll(conn); len(all) == 0 || hits.Load() != before+1 {
				t.Errorf("not direct: %q, %v", all, err)
			}
		})
	}
	for _, bad := range []string{"", "a b", "10.0.0.0/33", "x:0", "x:https", "http://x", "*x*"} {
		if _, err := NewProxy("http://p:1", "", []string{bad}); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestDialViaRefuses(t *testing.T) {
	d := proxyDialer(t, "http://127.0.0.1:1")
	if _, err := d.DialVia(t.Context(), "udp", "call.test:443", Scope{}); err == nil || statusOf(t, err) != StatusDial {
		t.Errorf("udp: %v", err)
	}
	if _, err := d.DialVia(t.Context(), "tcp", "call.test:443", Scope{}); err == nil || statusOf(t, err) != StatusDial || !strings.Contains(err.Error(), "company proxy") {
		t.Errorf("nobody there: %v", err)
	}
	d.Proxy.Addr = "127.0.0.1:443" // a port of ours, by testPolicy
	if _, err := d.DialVia(t.Context(), "tcp", "call.test:443", Scope{}); err == nil || statusOf(t, err) != StatusPolicy {
		t.Errorf("the proxy is ourselves: %v", err)
	}
	d.Proxy = nil
	if _, err := d.DialVia(t.Context(), "tcp", "private.test:443", Scope{}); err == nil || statusOf(t, err) != StatusPolicy {
		t.Errorf("without a proxy: %v", err)
	}
	silent := proxyDialer(t, "http://"+fakeProxy(t, nil, answerWith("")))
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	if _, err := silent.DialVia(ctx, "tcp", "call.test:443", Scope{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestNewProxy(t *testing.T) {
	for in, want := range map[string]string{
		"http://proxy.corp:3128":             "http://proxy.corp:3128",
		" http://proxy.corp ":                "http://proxy.corp:80",
		"https://u:geheim@proxy.corp":        "https://u@proxy.corp:443",
		"http://u:ge%3Aheim@[fd00::1]:8080/": "http://u@[fd00::1]:8080",
		"proxy.corp:3128":                    "",
		"socks5://u:geheim@proxy":            "",
		"http://":                            "",
		" ":                                  "",
		"http://u:geheim@proxy:port":         "",
		"http://u:gehe im@proxy:1":           "",
		"http://u:geheim@proxy/path":         "",
		"http://u:geheim%zz@proxy:1":         "",
		"http://u:geheim@proxy?x=geheim":     "",
		"http://u:" + strings.Repeat("x", 10) + "\x7f@proxy": "",
	} {
		p, err := NewProxy(in, "", nil)
		switch {
		case want == "" && err == nil:
			t.Errorf("%q was taken as %s", in, p)
		case err != nil && (want != "" || strings.Contains(err.Error(), "geheim")):
			t.Errorf("%q: %v", in, err)
		case err == nil && p.String() != want:
			t.Errorf("%q is %s", in, p)
		}
	}
	if p, err := NewProxy("", "", nil); p != nil || err != nil {
		t.Errorf("nothing: %v, %v", p, err)
	}
	file := filepath.Join(t.TempDir(), "proxy")
	if err := os.WriteFile(file, []byte("\nhttp://u:p@proxy.corp:3128\nsecond line\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if p, err := NewProxy("", file, nil); err != nil || p.Addr != "proxy.corp:3128" || p.Password != "p" {
		t.Errorf("%v, %v", p, err)
	}
	if _, err := NewProxy("", file+"-missing", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%v", err)
	}
}

// selfSigned makes a certificate for 127.0.0.1.
func selfSigned(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

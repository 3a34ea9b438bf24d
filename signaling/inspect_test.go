package signaling

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"hafen/configs"
	"hafen/gateway/frugal"
)

// C-06, C-07, C-14 and their like: what is odd is answered here, in plain words, and no call server hears of it. What net/http
// normalises arrives as exactly one request.
func TestOddRequests(t *testing.T) {
	handshake := func(replace, with string) string {
		return strings.Replace(webSocketHead("example.com"), replace, with, 1)
	}
	plain := func(line string, headers ...string) string {
		return line + "\r\nHost: example.com\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n"
	}
	for _, tt := range []struct {
		name, request string
		code          int
		arrives       int64
	}{
		{"plain", plain("GET / HTTP/1.1"), 200, 1},
		{"HTTP/1.0", plain("GET / HTTP/1.0"), 200, 1},
		{"C-06 PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 405, 0},
		{"C-06 HTTP/1.2", plain("GET / HTTP/1.2"), 400, 0},
		{"C-06 HTTP/0.9", plain("GET / HTTP/0.9"), 505, 0},
		{"C-06 no version", "GET /\r\n\r\n", 400, 0},
		{"C-06 CONNECT path", plain("CONNECT /x HTTP/1.1"), 405, 0},
		{"C-06 CONNECT", plain("CONNECT example.com:443 HTTP/1.1"), 405, 0},
		{"C-06 TRACE", plain("TRACE / HTTP/1.1"), 405, 0},
		{"C-06 method", plain("ge~t / HTTP/1.1"), 405, 0},
		{"C-06 lower-case method", plain("get / HTTP/1.1"), 405, 0},
		{"C-06 //host/x", plain("GET //evil.example/x HTTP/1.1"), 400, 0},
		{"C-06 absolute URI, other host", plain("GET https://evil.example/x HTTP/1.1"), 400, 0},
		{"C-06 absolute URI, same host", plain("GET https://example.com/x HTTP/1.1"), 400, 0},
		{"C-06 no slash", plain("GET x HTTP/1.1"), 400, 0},
		{"C-06 asterisk", plain("OPTIONS * HTTP/1.1"), 200, 0}, // net/http answers for the server itself
		{"fragment", plain("GET /x#y HTTP/1.1"), 400, 0},
		{"C-15 long URL", plain("GET /" + strings.Repeat("x", 40<<10) + " HTTP/1.1"), 414, 0},
		{"C-01 length and chunks", plain("POST / HTTP/1.1", "Content-Length: 3", "Transfer-Encoding: chunked") + "1\r\nx\r\n0\r\n\r\n", 200, 1},
		{"C-03 two lengths", plain("POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 2") + "xx", 400, 0},
		{"C-03 list of lengths", plain("POST / HTTP/1.1", "Content-Length: 1, 1") + "x", 400, 0},
		{"C-03 length +1", plain("POST / HTTP/1.1", "Content-Length: +1") + "x", 400, 0},
		{"C-03 length 0x1", plain("POST / HTTP/1.1", "Content-Length: 0x1") + "x", 400, 0},
		{"C-04 space before colon", plain("GET / HTTP/1.1", "X-A : b"), 400, 0},
		{"C-04 empty name", plain("GET / HTTP/1.1", ": b"), 400, 0},
		{"C-04 NUL", plain("GET / HTTP/1.1", "X-A: b\x00c"), 400, 0},
		{"C-04 odd encoding", plain("POST / HTTP/1.1", "Transfer-Encoding: xchunked") + "x", 501, 0},
		{"underscore encoding", plain("POST / HTTP/1.1", "Transfer_Encoding: chunked", "Content-Length: 1") + "x", 400, 0},
		{"underscore length", plain("GET / HTTP/1.1", "Content_Length: 1"), 400, 0},
		{"C-07 h2c", plain("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), 400, 0},
		{"C-07 foo", plain("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: foo"), 400, 0},
		{"C-07 two upgrades", handshake("Upgrade: websocket", "Upgrade: websocket\r\nUpgrade: h2c"), 400, 0},
		{"C-07 list of upgrades", handshake("Upgrade: websocket", "Upgrade: websocket, h2c"), 400, 0},
		{"C-07 without Connection", handshake("keep-alive, Upgrade", "keep-alive"), 400, 0},
		{"C-07 POST", handshake("GET", "POST"), 400, 0},
		{"C-07 HTTP/1.0", handshake("HTTP/1.1", "HTTP/1.0"), 400, 0},
		{"C-07 version 12", handshake("Version: 13", "Version: 12"), 400, 0},
		{"C-07 two versions", handshake("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 8"), 400, 0},
		{"C-07 no key", handshake("Sec-WebSocket-Key", "X-Key"), 400, 0},
		{"C-07 short key", handshake("dGhlIHNhbXBsZSBub25jZQ==", "dGhl"), 400, 0},
		{"C-07 body", handshake("Origin: https://example.com", "Content-Length: 1") + "x", 400, 0},
		{"Connection alone", plain("GET / HTTP/1.1", "Connection: Upgrade"), 200, 1}, // a middlebox took the Upgrade out
		{"C-14 unknown host", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, 0},
		{"C-14 below the host", "GET / HTTP/1.1\r\nHost: x.example.com\r\n\r\n", 421, 0},
		{"C-14 address", "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 421, 0},
		{"C-14 no host", "GET / HTTP/1.1\r\n\r\n", 400, 0},
		{"C-14 empty host", "GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, 0},
		{"C-14 two hosts", "GET / HTTP/1.1\r\nHost: example.com\r\nHost: evil.example\r\n\r\n", 400, 0},
		{"C-14 list of hosts", "GET / HTTP/1.1\r\nHost: example.com, evil.example\r\n\r\n", 400, 0},
		{"C-14 user in host", "GET / HTTP/1.1\r\nHost: example.com@evil.example\r\n\r\n", 400, 0},
		{"C-14 routed, but another SNI", "GET / HTTP/1.1\r\nHost: a.wild.example\r\n\r\n", 421, 0},
		{"C-14 port, upper case and dot", "GET / HTTP/1.1\r\nHost: EXAMPLE.com.:443\r\n\r\n", 200, 1},
		{"C-21 expectation", plain("POST / HTTP/1.1", "Expect: 200-maybe", "Content-Length: 1") + "x", 417, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(_ http.ResponseWriter, req *http.Request) { _, _ = io.ReadAll(req.Body) }, settings{})
			conn := r.dial()
			res, br, err := send(t, conn, tt.request)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			if res.StatusCode != tt.code || r.arrived.Load() != tt.arrives {
				t.Errorf("answered %d %q, arrived %d times", res.StatusCode, body, r.arrived.Load())
			}
			// 417 is net/http's own, without a body.
			if text := string(body); strings.Contains(text, "evil") || res.StatusCode >= 400 && res.StatusCode != 417 && !strings.HasPrefix(res.Header.Get("Content-Type"), "text/plain") {
				t.Errorf("no plain answer of our own: %q %v", text, res.Header)
			}
			// What follows an odd request is not read as one.
			_, _ = io.WriteString(conn, "GET /smuggled HTTP/1.1\r\nHost: example.com\r\n\r\n")
			if tt.code == 400 {
				if next, err := http.ReadResponse(br, nil); err == nil {
					t.Errorf("the connection went on with %d", next.StatusCode)
				}
			}
		})
	}
}

func TestHostIsTheTLSName(t *testing.T) {
	r := newRig(t, hello, settings{})
	// net/http's client asks for another host over the same connection, as browsers that coalesce do.
	req, _ := http.NewRequest(http.MethodGet, "https://a.wild.example/", nil)
	res, err := r.client(true).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	if res.StatusCode != http.StatusMisdirectedRequest || r.arrived.Load() != 0 {
		t.Errorf("%d, arrived %d times", res.StatusCode, r.arrived.Load())
	}
}

func FuzzInspect(f *testing.F) {
	f.Add("GET", "/x?y", "example.com", "websocket", "Upgrade", "dGhlIHNhbXBsZSBub25jZQ==")
	f.Add("OPTIONS", "*", "[::1]:443", "h2c", "upgrade, x", "")
	table, err := newTable(&Options{Config: &configs.Config{Services: []configs.Service{{Name: "calls", Hosts: []string{"example.com", "*.wild.example"}}}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, uri, host, upgrade, connection, key string) {
		defer frugal.Input(t)()
		req, err := http.NewRequest(method, "https://x/", nil)
		if err != nil {
			return
		}
		req.RequestURI, req.Host = uri, host
		req.Header = http.Header{"Upgrade": {upgrade}, "Connection": {connection}, "Sec-Websocket-Key": {key}, "Sec-Websocket-Version": {"13"}}
		name := requestHost(req)
		if inspect(req, name) != nil {
			return
		}
		to, refused := table.find(name, req.URL.Path)
		if refused != nil {
			return
		}
		if out := to.outURL(req).RequestURI(); out != uri || !isUpgrade(req) || !strings.EqualFold(upgrade, "websocket") || !strings.HasPrefix(out, "/") {
			t.Fatalf("%s %q passes as %q, upgrade %q", method, uri, out, upgrade)
		}
	})
}

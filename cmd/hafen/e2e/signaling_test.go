package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// withRoute starts the gateway anew with a certificate for host as well and one route of its own: rewriting belongs to
// administrators who can have such a certificate.
func (l *laboratory) withRoute(t testing.TB, host, route string) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(l.dir, "hafen.yaml"))
	must(t, err)
	l.ca.issue(t, gatewayName, callName, host, gatewayAddr) // the same files
	l.gateway.stop()
	l.startGateway(string(file) + "signaling: {routes: [" + route + ", {host: " + callName + "}]}\n")
}

// TestCallRewritten: the call service knows nothing of the gateway and lists only its own relays, which cannot be reached: nothing is open but
// TCP 443 to the gateway, which puts itself into the service's answer.
func TestCallRewritten(t *testing.T) { callScenario(t, callRewritten) }

func callRewritten(t *testing.T) {
	l := newLaboratory(t)
	l.withRoute(t, plainName, "{host: "+plainName+", rewrite_ice_servers: [/ice]}")
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, plainName: gatewayAddr}, onlyGateway)
	body, status := get(ward, "https://"+gatewayAddr+"/ice", plainName)
	gateway, own := strings.Index(body, "turns:"+gatewayName+":443?transport=tcp"), strings.Index(body, fraName)
	if status != 200 || gateway < 0 || own < 0 || gateway > own || !strings.Contains(body, "turn:"+gatewayName+":443?transport=udp") {
		t.Fatalf("the ICE servers: %d %s", status, body)
	}
	a, b := l.call(t, ward, "https://"+plainName+"/r/rewritten?join=1&relay=1&video=small")
	for _, p := range []*tab{a, b} {
		if s := p.stats(); s.Signaling != "websocket" || s.Pair.Local.RelayProtocol != "tls" || !strings.Contains(s.Pair.Local.URL, gatewayName) {
			t.Errorf("signaling %q, media over %s to %s: want a WebSocket, and TLS to the gateway", s.Signaling, s.Pair.Local.RelayProtocol, s.Pair.Local.URL)
		}
	}
	l.noSecret(t)
}

// upstreamTap is a call server that keeps what it gets, byte for byte.
type upstreamTap struct {
	mu       sync.Mutex
	requests []string
}

func startTap(t testing.TB, ns *namespace, addr string) *upstreamTap {
	t.Helper()
	ln, err := ns.listen("tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	tap := new(upstreamTap)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go tap.serve(conn)
		}
	}()
	return tap
}

func (u *upstreamTap) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	var raw bytes.Buffer
	req, err := http.ReadRequest(bufio.NewReader(io.TeeReader(conn, &raw)))
	if err != nil {
		return
	}
	_, _ = io.Copy(io.Discard, req.Body)
	u.mu.Lock()
	u.requests = append(u.requests, raw.String())
	u.mu.Unlock()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
}

// take gives what came since the last time.
func (u *upstreamTap) take() []string {
	u.mu.Lock()
	defer u.mu.Unlock()
	taken := u.requests
	u.requests = nil
	return taken
}

// unambiguous says what two servers could understand differently in a request; "" when nothing.
func unambiguous(raw string) string {
	head, _, whole := strings.Cut(raw, "\r\n\r\n")
	framings := 0
	for i, line := range strings.Split(head, "\r\n") {
		name, _, hasColon := strings.Cut(line, ":")
		switch {
		case strings.ContainsAny(line, "\r\n\x00"):
			return "a bare CR, LF or NUL"
		case i > 0 && (!hasColon || strings.ContainsAny(name, " \t_") || name == ""):
			return "a header named " + name
		case strings.EqualFold(name, "Content-Length"), strings.EqualFold(name, "Transfer-Encoding"):
			framings++
		}
	}
	if !whole || framings > 1 {
		return "no head, or two framings"
	}
	return ""
}

// TestAbuse_Signaling sends what no browser sends to the running program. It is refused, or arrives at the call server as exactly one request that
// has one meaning; and what is behind a refused request is never read as another.
func TestAbuse_Signaling(t *testing.T) { scenario(t, abuseSignaling) }

func abuseSignaling(t *testing.T) {
	l := newLaboratory(t, func(cfg string) string {
		return cfg + "signaling: {routes: [{host: " + callName + ", upstream: \"http://" + callName + ":8081\"}]}\n"
	})
	tap := startTap(t, l.cloud, cloudAddr+":8081")
	ward := l.office("ward", nil, onlyGateway)
	request := func(line string, headers ...string) string {
		return line + "\r\nHost: " + callName + "\r\n" + strings.Join(append(headers, ""), "\r\n") + "\r\n"
	}
	webSocket := []string{"Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="}
	for _, tt := range []struct {
		name, request string
		code, arrive  int
	}{
		{"plain", request("GET / HTTP/1.1"), 200, 1},
		{"C-01 length and chunks", request("POST / HTTP/1.1", "Content-Length: 3", "Transfer-Encoding: chunked") + "1\r\nx\r\n0\r\n\r\n", 200, 1},
		{"C-03 other lengths", request("POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 2") + "xx", 400, 0},
		{"C-03 same length twice", request("POST / HTTP/1.1", "Content-Length: 1", "Content-Length: 1") + "x", 200, 1},
		{"C-03 list", request("POST / HTTP/1.1", "Content-Length: 1, 1") + "x", 400, 0},
		{"C-03 +2", request("POST / HTTP/1.1", "Content-Length: +2") + "xx", 400, 0},
		{"C-03 0x2", request("POST / HTTP/1.1", "Content-Length: 0x2") + "xx", 400, 0},
		{"C-03 empty", request("POST / HTTP/1.1", "Content-Length:") + "x", 400, 0},
		{"C-03 huge", request("POST / HTTP/1.1", "Content-Length: 99999999999999999999") + "x", 400, 0},
		{"C-04 space before colon", request("GET / HTTP/1.1", "X-A : b"), 400, 0},
		{"C-04 empty name", request("GET / HTTP/1.1", ": b"), 400, 0},
		{"C-04 folded", request("GET / HTTP/1.1", "X-A: b\r\n c"), 200, 1},
		{"C-04 bare CR", request("GET / HTTP/1.1", "X-A: b\rc"), 400, 0},
		{"C-04 NUL", request("GET / HTTP/1.1", "X-A: b\x00"), 400, 0},
		{"C-04 bare LF", strings.ReplaceAll(request("GET / HTTP/1.1"), "\r\n", "\n"), 200, 1},
		{"C-06 PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 421, 0},
		{"C-06 HTTP/1.2", request("GET / HTTP/1.2"), 400, 0},
		{"C-06 HTTP/0.9", request("GET / HTTP/0.9"), 505, 0},
		{"C-06 TRACE", request("TRACE / HTTP/1.1"), 405, 0},
		{"C-06 ge~t", request("ge~t / HTTP/1.1"), 0, 0}, // no letter that HTTP begins with: closed
		{"C-06 GE~T", request("GE~T / HTTP/1.1"), 405, 0},
		{"C-06 //host/x", request("GET //evil.example/x HTTP/1.1"), 400, 0},
		{"C-06 absolute", request("GET https://evil.example/x HTTP/1.1"), 405, 0},
		{"C-07 h2c", request("GET / HTTP/1.1", "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), 400, 0},
		{"C-07 foo", request("GET / HTTP/1.1", "Connection: Upgrade", "Upgrade: foo"), 400, 0},
		{"C-07 two upgrades", request("GET / HTTP/1.1", append(webSocket, "Upgrade: h2c")...), 400, 0},
		{"C-07 without Connection", request("GET / HTTP/1.1", webSocket[1:]...), 400, 0},
		{"C-07 POST", request("POST / HTTP/1.1", webSocket...), 400, 0},
		{"C-11 claims", request("GET / HTTP/1.1", "X-Forwarded-For: 6.6.6.6", "X_Forwarded_For: 6.6.6.6", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6",
			"True-Client-IP: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6", "X-Forwarded-Host: 6.6.6.6", "X-Forwarded-Port: 6666", "X-Forwarded-Prefix: /6.6.6.6"), 200, 1},
		{"C-14 unknown host", "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", 421, 0},
		{"C-14 no host", "GET / HTTP/1.1\r\n\r\n", 400, 0},
		{"C-14 two hosts", request("GET / HTTP/1.1", "Host: evil.example"), 400, 0},
		{"C-14 upper case, dot, port", "GET / HTTP/1.1\r\nHost: " + strings.ToUpper(callName) + ".:443\r\n\r\n", 200, 1},
		{"C-21 bogus", request("POST / HTTP/1.1", "Expect: 200-maybe", "Content-Length: 1") + "x", 417, 0},
		{"C-21 held", request("POST / HTTP/1.1", "Expect: 100-continue", "Content-Length: 1") + "x", 200, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code := rawRequest(t, ward, tt.request, tt.code)
			arrived := tap.take()
			if code != tt.code || len(arrived) != tt.arrive {
				t.Errorf("answered %d, arrived %d times, want %d and %d", code, len(arrived), tt.code, tt.arrive)
			}
			for _, raw := range arrived {
				if why := unambiguous(raw); why != "" {
					t.Errorf("what arrived has %s:\n%s", why, raw)
				}
				if strings.Contains(raw, "6.6.6.6") || strings.Contains(raw, "6666") || strings.Count(strings.ToLower(raw), "\r\nx-forwarded-for: "+ward.addr) != 1 {
					t.Errorf("what arrived has claims of the client's, or not one of ours:\n%s", raw)
				}
			}
		})
	}
}

// rawRequest sends a text inside TLS and tells the final answer's code, 0 for none. When the request is refused with 400, what comes behind it must not be answered.
func rawRequest(t *testing.T, office *namespace, text string, want int) int {
	t.Helper()
	raw, err := office.dial(t.Context(), "tcp", gatewayAddr+":443")
	must(t, err)
	conn := tls.Client(raw, &tls.Config{ServerName: callName, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if want == http.StatusBadRequest {
		text += "GET /smuggled HTTP/1.1\r\nHost: " + callName + "\r\n\r\n"
	}
	_, err = io.WriteString(conn, text)
	must(t, err)
	br := bufio.NewReader(conn)
	for {
		res, err := http.ReadResponse(br, nil)
		if err != nil && want == 0 {
			return 0
		}
		must(t, err)
		if res.StatusCode == http.StatusContinue {
			continue
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if want == http.StatusBadRequest {
			if next, err := http.ReadResponse(br, nil); err == nil {
				t.Errorf("what was behind is answered with %d", next.StatusCode)
			}
		}
		return res.StatusCode
	}
}

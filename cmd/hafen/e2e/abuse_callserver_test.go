package e2e

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// origins of WebSockets reach the call server as they are, for it knows its own; at the gateway's own echo only its own may come in.
func (a *abuse) origins(t *testing.T, up *oddUpstream) {
	var seen atomic.Value
	up.does(answering(func(conn net.Conn, r *http.Request) bool {
		seen.Store(fmt.Sprintf("%q", r.Header["Origin"]))
		if r.Header.Get("Origin") == "https://evil.example" {
			_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
			return true
		}
		_, _ = io.WriteString(conn, switched)
		return false
	}))
	for _, origin := range []string{"", "https://evil.example", "null", "https://" + oddName, "https://" + oddName + ".evil.example", "HTTPS://" + strings.ToUpper(oddName)} {
		headers, want := []string{"Origin: " + origin}, fmt.Sprintf("%q", []string{origin})
		if origin == "" {
			headers, want = nil, "[]"
		}
		_, head := a.webSocket(t, oddName, headers...)
		if got := seen.Swap(""); got != want {
			t.Errorf("Origin %q arrived as %s", origin, got)
		}
		if refused := code(head) == "403"; refused != (origin == "https://evil.example") {
			t.Errorf("Origin %q is answered %q", origin, statusLine(head))
		}
	}
	for origin, want := range map[string]string{
		"": "101", "https://" + gatewayName: "101", "https://evil.example": "403", "null": "403", "https://" + gatewayName + ".evil.example": "403", "https://x" + gatewayName: "403",
	} {
		headers := ""
		if origin != "" {
			headers = "Origin: " + origin + "\r\n"
		}
		conn := a.tls(t, a.inside, gatewayName, "http/1.1")
		got := ask(conn, "GET /.well-known/hafen/ws HTTP/1.1\r\nHost: "+gatewayName+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
			"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+headers+"\r\n")
		if !strings.Contains(got, " "+want+" ") {
			t.Errorf("the gateway's own echo, asked from %q: %q, want %s", origin, got, want)
		}
	}
}

// webSocketFrames are some that a careless reader of frames stumbles over.
func webSocketFrames() map[string][]byte {
	frame := func(first, length byte, extended []byte, payload string) []byte {
		return append(append([]byte{first, length}, extended...), payload...)
	}
	size := func(n uint64) []byte { return binary.BigEndian.AppendUint64(nil, n) }
	return map[string][]byte{
		"2^63 bytes": frame(0x82, 127, size(1<<63), "some"), "2^64-1 bytes": frame(0x81, 127, size(1<<64-1), "some"), "2^62 bytes of text": frame(0x81, 127, size(1<<62), "{"),
		"a fragmented ping": frame(0x09, 3, nil, "abc"), "a long ping": frame(0x89, 126, []byte{0x10, 0}, strings.Repeat("p", 0x1000)),
		"masked": frame(0x81, 0x84, []byte{1, 2, 3, 4}, "abcd"), "reserved bits": frame(0xf1, 1, nil, "x"), "a reserved opcode": frame(0x83, 1, nil, "x"),
		"a lone continuation": frame(0x80, 1, nil, "x"), "text within text": append(frame(0x01, 1, nil, "x"), frame(0x81, 1, nil, "y")...),
		"something behind a close": append(frame(0x88, 0, nil, ""), frame(0x81, 1, nil, "z")...), "no frames": []byte("GET / HTTP/1.1\r\n\r\n"),
		"a million empty frames": bytes.Repeat([]byte{0x82, 0}, 1_000_000), "a flood of pings": bytes.Repeat([]byte{0x89, 4, 'p', 'i', 'n', 'g'}, 300_000),
		"empty text fragments": append([]byte{0x01, 0}, bytes.Repeat([]byte{0x00, 0}, 1_000_000)...),
	}
}

// oddFrames pass as they are, both ways, and memory does not grow with them; where messages are rewritten compression is not agreed on.
func (a *abuse) oddFrames(t *testing.T, up *oddUpstream) {
	before := a.load()
	for name, frames := range webSocketFrames() {
		up.does(func(conn net.Conn, br *bufio.Reader) {
			if _, err := http.ReadRequest(br); err == nil {
				_, _ = io.WriteString(conn, switched)
				_, _ = io.Copy(conn, br)
			}
		})
		conn, _ := a.webSocket(t, oddName)
		if got := bounced(conn, frames); !bytes.Equal(got, frames) {
			t.Errorf("%s: %d bytes went there and %d came back", name, len(frames), len(got))
		}
	}
	for name, frames := range webSocketFrames() {
		var head atomic.Pointer[http.Request]
		up.does(func(conn net.Conn, br *bufio.Reader) {
			if r, err := http.ReadRequest(br); err == nil {
				head.Store(r)
				_, _ = io.WriteString(conn, switched)
				_, _ = conn.Write(frames)
			}
		})
		conn, _ := a.webSocket(t, iceName, "Sec-WebSocket-Extensions: permessage-deflate")
		if got, closed := answers(conn, 10*time.Second); !bytes.Equal(got, frames) && !(strings.Contains(name, "text") && bytes.HasPrefix(frames, got)) {
			t.Errorf("%s, on a route that rewrites: %d of %d bytes arrived, closed %v", name, len(got), len(frames), closed)
		}
		if r := head.Load(); r == nil || r.Header.Get("Sec-WebSocket-Extensions") != "" {
			t.Errorf("%s: compression was offered where messages are rewritten", name)
		}
	}
	if grown := a.load().memory - before.memory; grown > 48<<20 {
		t.Errorf("memory grew by %.1f MiB", grown/(1<<20))
	} else {
		t.Logf("memory grew by %.1f MiB", grown/(1<<20))
	}
}

// bounced sends bytes to a server that sends them back, and returns as many as come.
func bounced(conn net.Conn, b []byte) []byte {
	go func() { _, _ = conn.Write(b) }()
	got := make([]byte, len(b))
	n, _ := io.ReadFull(conn, got)
	return got[:n]
}

// heldPolls end at the call server soon after their clients have gone, and a client that hardly reads makes the gateway hold little. Five thousand
// at once are held by make bench-proxy.
func (a *abuse) heldPolls(t *testing.T, up *oddUpstream) {
	var held atomic.Int64
	up.does(answering(func(conn net.Conn, _ *http.Request) bool {
		held.Add(1)
		defer held.Add(-1)
		_, _ = conn.Read(make([]byte, 1)) // until the request is cancelled
		return false
	}))
	const polls = 100
	conns := make([]net.Conn, polls)
	for i := range conns {
		conns[i] = a.tls(t, a.inside, oddName, "http/1.1")
		_, _ = io.WriteString(conns[i], "GET /poll HTTP/1.1\r\nHost: "+oddName+"\r\n\r\n")
	}
	waitFor(t, "the polls to be held", 20*time.Second, func() bool { return held.Load() == polls })
	waitFor(t, "the polls to count as long ones", 20*time.Second, func() bool { return a.metric("hafen_signaling_longpolls") == polls }) // after five seconds
	began := time.Now()
	for _, c := range conns {
		_ = c.(*tls.Conn).NetConn().Close()
	}
	waitFor(t, "the polls to be cancelled", 10*time.Second, func() bool { return held.Load() == 0 })
	within(t, "the cancelling of polls", time.Since(began), 2*time.Second)

	up.does(answering(func(conn net.Conn, _ *http.Request) bool {
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n")
		for piece := make([]byte, 64<<10); err == nil; {
			_, err = conn.Write(piece)
		}
		return false
	}))
	before := a.load().memory
	for range 20 {
		conn := a.tls(t, a.inside, oddName, "http/1.1")
		_, _ = io.WriteString(conn, "GET /large HTTP/1.1\r\nHost: "+oddName+"\r\n\r\n")
		_, _ = io.ReadFull(conn, make([]byte, 10))
		defer func() { _ = conn.Close() }()
	}
	time.Sleep(2 * time.Second)
	if grown := a.load().memory - before; grown > 20*(1<<20) {
		t.Errorf("20 slow readers make memory grow by %.1f MiB", grown/(1<<20))
	}
}

// leaks: what is meant for the gateway or comes from it does not reach the call server, and no error page repeats what was asked.
func (a *abuse) leaks(t *testing.T, up *oddUpstream) {
	var got atomic.Value
	up.does(answering(func(conn net.Conn, r *http.Request) bool {
		var b bytes.Buffer
		_ = r.Header.Write(&b)
		got.Store(b.String())
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
		return true
	}))
	conn := a.tls(t, a.inside, oddName, "http/1.1")
	answer := exchange(t, conn, "GET / HTTP/1.1\r\nHost: "+oddName+"\r\nProxy-Authorization: Basic c2VjcmV0\r\nProxy-Connection: keep-alive\r\nAuthorization: Bearer of-the-service\r\n"+
		"Cookie: service=1\r\nConnection: close\r\n\r\n")
	arrived, _ := got.Load().(string)
	if strings.Contains(arrived, "c2VjcmV0") || strings.Contains(arrived, "Proxy-") || !strings.Contains(arrived, "of-the-service") || !strings.Contains(arrived, "service=1") {
		t.Errorf("arrived: %q", arrived)
	}
	if strings.Contains(answer, "Set-Cookie") {
		t.Errorf("the gateway sets a cookie under a routed name: %q", answer)
	}
	const mark = "<script>mark</script>"
	up.doesRaw(func(conn net.Conn) { _ = conn.(*net.TCPConn).SetLinger(0) })
	for _, request := range []string{
		"GET /" + mark + " HTTP/1.1\r\nHost: " + oddName, "GET /?" + mark + " HTTP/1.1\r\nHost: " + oddName, "GET / HTTP/1.1\r\nHost: " + mark,
		"GET / HTTP/1.1\r\nHost: " + oddName + "\r\nX-A: " + mark, "TRACE /" + mark + " HTTP/1.1\r\nHost: " + oddName, "POST / HTTP/1.1\r\nHost: " + oddName + "\r\nExpect: " + mark,
		"GET / HTTP/1.1\r\nHost: " + oddName + "\r\nConnection: Upgrade\r\nUpgrade: " + mark,
	} {
		conn := a.tls(t, a.inside, oddName, "http/1.1")
		if answer := exchange(t, conn, request+"\r\nConnection: close\r\n\r\n"); strings.Contains(answer, "mark") || code(answer) == "200" || code(answer) == "" {
			t.Errorf("%q is answered %q", request, answer)
		}
	}
	for _, path := range []string{"/" + mark, "/precall/" + mark, "/status/?next=" + mark, "/api/v1/precall/" + mark} {
		conn := a.tls(t, a.inside, gatewayName, "http/1.1")
		if answer := exchange(t, conn, "GET "+path+" HTTP/1.1\r\nHost: "+gatewayName+"\r\nConnection: close\r\n\r\n"); strings.Contains(answer, mark) {
			t.Errorf("%s repeats what was asked:\n%s", path, answer)
		}
	}
}

// caches between browser and gateway can't be made to keep what one client asked for another: the gateway's own pages are not kept, what a client
// claims of its host changes nothing, and what the call server says about caching passes untouched.
func (a *abuse) caches(t *testing.T, up *oddUpstream) {
	for _, path := range []string{"/", "/precall/", "/status/", "/nowhere", "/api/v1/ice", "/livez"} {
		conn := a.tls(t, a.inside, gatewayName, "http/1.1")
		answer := exchange(t, conn, "GET "+path+" HTTP/1.1\r\nHost: "+gatewayName+"\r\nX-Forwarded-Host: evil.example\r\nX-Host: evil.example\r\nX-Forwarded-Proto: http\r\n"+
			"X-Original-URL: /evil.example\r\nForwarded: host=evil.example\r\nConnection: close\r\n\r\n")
		if strings.Contains(answer, "evil.example") || !strings.Contains(answer, "Cache-Control: no-store") {
			t.Errorf("%s is answered %q", path, answer[:min(len(answer), 1000)])
		}
	}
	const says = "Cache-Control: public, max-age=60\r\nVary: Origin, Accept-Encoding\r\nEtag: \"a\"\r\nAge: 3\r\n"
	up.does(answering(func(conn net.Conn, _ *http.Request) bool {
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n"+says+"Content-Length: 0\r\n\r\n")
		return true
	}))
	answer := exchange(t, a.tls(t, a.inside, oddName, "http/1.1"), "GET / HTTP/1.1\r\nHost: "+oddName+"\r\nX-Forwarded-Host: evil.example\r\nConnection: close\r\n\r\n")
	for line := range strings.Lines(says) {
		if !strings.Contains(answer, line) {
			t.Errorf("%q is missing in %q", line, answer)
		}
	}
}

// retries: a request that may have had an effect is sent once, also when it went over a connection that had worked before.
func (a *abuse) retries(t *testing.T, up *oddUpstream) {
	var mu sync.Mutex
	seen := make(map[string]int)
	up.does(answering(func(conn net.Conn, r *http.Request) bool {
		_, _ = io.Copy(io.Discard, r.Body)
		mu.Lock()
		seen[r.Method+" "+r.URL.Path]++
		mu.Unlock()
		if r.URL.Path == "/fine" {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
			return true
		}
		_ = conn.(*tls.Conn).NetConn().Close()
		return false
	}))
	for i, method := range []string{"POST", "PUT", "PATCH", "DELETE"} {
		for _, warm := range []bool{false, true} {
			path := fmt.Sprintf("/dies%d%v", i, warm)
			if warm {
				if got := exchange(t, a.tls(t, a.inside, oddName, "http/1.1"), "GET /fine HTTP/1.1\r\nHost: "+oddName+"\r\nConnection: close\r\n\r\n"); code(got) != "200" {
					t.Fatalf("the request before: %q", got)
				}
			}
			got := exchange(t, a.tls(t, a.inside, oddName, "http/1.1"), method+" "+path+" HTTP/1.1\r\nHost: "+oddName+"\r\nContent-Length: 4\r\nConnection: close\r\n\r\npaid")
			mu.Lock()
			n := seen[method+" "+path]
			mu.Unlock()
			if code(got) != "502" || strings.Count(got, "HTTP/1.1 ") != 1 || n != 1 {
				t.Errorf("%s over a connection that is new: %v: arrived %d times, answered %q", method, !warm, n, got)
			}
		}
	}
}

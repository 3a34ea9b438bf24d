package e2e

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// rawUpstream is a call server that keeps every byte it is sent and answers each head once.
type rawUpstream struct {
	mu    sync.Mutex
	got   strings.Builder
	paths []string // of the requests, as they are understood there
}

// take returns what has come since the last call.
func (u *rawUpstream) take() (bytes string, paths []string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	bytes, paths = u.got.String(), u.paths
	u.got.Reset()
	u.paths = nil
	return bytes, paths
}

func (a *abuse) startRawUpstream(t *testing.T, name string) *rawUpstream {
	t.Helper()
	cert, key := a.ca.issue(t, name)
	pair, err := tls.LoadX509KeyPair(cert, key)
	must(t, err)
	ln, err := a.cloud.listen("tcp", "10.20.0.3:443")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	u := &rawUpstream{}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go u.serve(tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}))
		}
	}()
	return u
}

func (u *rawUpstream) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	r := bufio.NewReader(io.TeeReader(conn, u))
	for {
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		u.mu.Lock()
		u.paths = append(u.paths, req.RequestURI)
		u.mu.Unlock()
		_, _ = io.Copy(io.Discard, req.Body)
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

func (u *rawUpstream) Write(p []byte) (int, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.got.Write(p)
}

// TestAbuse_Smuggling sends heads that two servers understand differently (C-01 to C-07, C-11, C-15). A call server sees one request
// at the most for each, and never one that was smuggled in a body.
func TestAbuse_Smuggling(t *testing.T) {
	t.Parallel()
	a := newAbuse(t)
	const name = "raw." + sigSuffix
	a.dns.set(name, "10.20.0.3")
	up := a.startRawUpstream(t, name)
	host := "Host: " + name + "\r\n"
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: " + name + "\r\n\r\n"
	for i, c := range []struct {
		id, send string
		passes   bool // it may pass, as one request
	}{
		{"control", "GET /a HTTP/1.1\r\n" + host + "\r\n", true},
		{"C-01 CL and TE", "POST /a HTTP/1.1\r\n" + host + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + smuggled, true},
		{"C-01 TE and CL", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n" + fmt.Sprintf("%x", len(smuggled)) + "\r\n" + smuggled + "\r\n0\r\n\r\n", true},
		{"C-01 odd TE", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n\r\nabc", false},
		{"C-01 two TE", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", false},
		{"C-01 TE with a tab", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding:\tchunked\x0b\r\n\r\n0\r\n\r\n", false},
		{"C-03 two lengths", "POST /a HTTP/1.1\r\n" + host + "Content-Length: 3\r\nContent-Length: 0\r\n\r\nabc", false},
		{"C-03 list", "POST /a HTTP/1.1\r\n" + host + "Content-Length: 3, 3\r\n\r\nabc", false},
		{"C-03 +3", "POST /a HTTP/1.1\r\n" + host + "Content-Length: +3\r\n\r\nabc", false},
		{"C-03 hex", "POST /a HTTP/1.1\r\n" + host + "Content-Length: 0x3\r\n\r\nabc", false},
		{"C-03 negative", "POST /a HTTP/1.1\r\n" + host + "Content-Length: -3\r\n\r\nabc", false},
		{"C-03 huge", "POST /a HTTP/1.1\r\n" + host + "Content-Length: 99999999999999999999\r\n\r\nabc", false},
		{"C-04 space before colon", "GET /a HTTP/1.1\r\n" + host + "X-A : b\r\n\r\n", false},
		{"C-04 length, space before colon", "POST /a HTTP/1.1\r\n" + host + "Content-Length : 3\r\n\r\nabc", false},
		{"C-04 empty name", "GET /a HTTP/1.1\r\n" + host + ": b\r\n\r\n", false},
		{"C-04 bare CR", "GET /a HTTP/1.1\r\n" + host + "X-A: b\rTransfer-Encoding: chunked\r\n\r\n", false},
		{"C-04 NUL", "GET /a HTTP/1.1\r\n" + host + "X-A: b\x00c\r\n\r\n", false},
		{"C-04 folded", "GET /a HTTP/1.1\r\n" + host + "X-A: b\r\n Transfer-Encoding: chunked\r\n\r\n", true},
		{"C-04 bare LF", "GET /a HTTP/1.1\n" + strings.ReplaceAll(host, "\r", "") + "\n", true},
		{"C-04 chunk extension", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n3;a\nb\r\nabc\r\n0\r\n\r\n", true},
		{"C-04 chunk size", "POST /a HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n0x3\r\nabc\r\n0\r\n\r\n", true},
		{"C-06 PRI", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", false},
		{"C-06 HTTP/1.2", "GET /a HTTP/1.2\r\n" + host + "\r\n", false},
		{"C-06 HTTP/0.9", "GET /a\r\n\r\n", false},
		{"C-06 TRACE", "TRACE /a HTTP/1.1\r\n" + host + "\r\n", false},
		{"C-06 odd method", "GE~T /a HTTP/1.1\r\n" + host + "\r\n", false},
		{"C-06 //host", "GET //evil.com/a HTTP/1.1\r\n" + host + "\r\n", false},
		{"C-06 absolute", "GET http://evil.com/a HTTP/1.1\r\n" + host + "\r\n", false},
		{"C-06 CONNECT path", "CONNECT /a HTTP/1.1\r\n" + host + "\r\n", false},
		{"C-07 h2c", "GET /a HTTP/1.1\r\n" + host + "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n", true},
		{"C-07 foo", "GET /a HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: foo\r\n\r\n", true},
		{"C-07 POST", "POST /a HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nContent-Length: 0\r\n\r\n", true},
		{"C-15 large header", "GET /a HTTP/1.1\r\n" + host + "X-A: " + strings.Repeat("b", 1<<20) + "\r\n\r\n", false},
		{"C-15 many headers", "GET /a HTTP/1.1\r\n" + host + strings.Repeat("X-A: "+strings.Repeat("b", 1000)+"\r\n", 200) + "\r\n", false},
		{"C-15 long address", "GET /" + strings.Repeat("a", 64<<10) + " HTTP/1.1\r\n" + host + "\r\n", false},
		{"C-21 Expect", "POST /a HTTP/1.1\r\n" + host + "Expect: 200-ok\r\nContent-Length: 3\r\n\r\nabc", false},
	} {
		t.Run(c.id, func(t *testing.T) {
			conn := a.tls(t, a.inside, name, "http/1.1")
			path := fmt.Sprintf("/a%d", i) // what arrives late is told from the next case's
			_, _ = io.WriteString(conn, strings.Replace(c.send, "/a", path, 1))
			answer, _ := answers(conn, 300*time.Millisecond)
			_ = conn.Close()
			got, paths := up.take()
			if _, rest, found := strings.Cut(got, path+" "); found {
				got = rest
			} else {
				got = ""
			}
			paths = slices.DeleteFunc(paths, func(p string) bool { return p != path && strings.HasPrefix(p, "/a") })
			switch {
			case c.id == "control" && len(paths) != 1:
				t.Errorf("arrived: %q, answer %q", paths, answer)
			case !c.passes && len(got) > 0:
				t.Errorf("passed on: %q", got)
			case len(paths) > 1 || len(paths) == 1 && paths[0] != path:
				t.Errorf("arrived: %q as %q", paths, got)
			}
			head, _, _ := strings.Cut(strings.ToLower(got), "\r\n\r\n")
			if strings.Contains(head, "upgrade:") || strings.Contains(head, "http2-settings") || strings.Contains(head, "content-length:") && strings.Contains(head, "transfer-encoding:") {
				t.Errorf("the head that arrived: %q", head)
			}
		})
	}
	t.Run("C-11", func(t *testing.T) {
		conn := a.tls(t, a.inside, name, "http/1.1")
		lies := ""
		for _, h := range []string{"X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port", "X-Forwarded-Prefix", "Forwarded", "X-Real-IP", "True-Client-IP", "CF-Connecting-IP", "X_Forwarded_For", "x-forwarded_for"} {
			lies += h + ": for=6.6.6.6\r\n"
		}
		_, _ = io.WriteString(conn, "GET /a HTTP/1.1\r\n"+host+lies+"Connection: close\r\n\r\n")
		_, _ = answers(conn, time.Second)
		if got, _ := up.take(); strings.Contains(got, "6.6.6.6") || !strings.Contains(got, "GET /a ") {
			t.Errorf("arrived: %q", got)
		}
	})
	a.alive(t)
}

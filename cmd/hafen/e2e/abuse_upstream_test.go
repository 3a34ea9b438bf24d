package e2e

import (
	"bufio"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// oddAddr is where a call server stands that does what call servers should not.
const oddAddr = "10.20.0.4"

// The names under which it is reached: with a certificate of the gateway's, one of these with rewriting, and without.
const (
	oddName  = "odd." + sigSuffix
	iceName  = "ice." + sigSuffix
	passName = "odd." + passSuffix
)

// oddUpstream is that call server. What a connection that has shaken hands does is up to serve; what one does that has not, to raw.
type oddUpstream struct {
	config *tls.Config

	mu    sync.Mutex
	raw   func(net.Conn)
	serve func(conn net.Conn, r *bufio.Reader)
	conns map[net.Conn]bool
}

func (a *abuse) startOddUpstream(t testing.TB) *oddUpstream {
	t.Helper()
	a.cloud.run(t, "ip", "addr", "add", oddAddr+"/24", "dev", "eth0")
	cert, key := a.ca.issue(t, "odd.up", oddName, iceName, passName)
	pair, err := tls.LoadX509KeyPair(cert, key)
	must(t, err)
	ln, err := a.cloud.listen("tcp", oddAddr+":443")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	for _, name := range []string{oddName, iceName, passName} {
		a.dns.set(name, oddAddr)
	}
	u := &oddUpstream{conns: make(map[net.Conn]bool), config: &tls.Config{Certificates: []tls.Certificate{pair}, NextProtos: []string{"http/1.1"}}}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go u.take(conn)
		}
	}()
	return u
}

func (u *oddUpstream) take(conn net.Conn) {
	_ = conn.SetDeadline(time.Now().Add(60 * time.Second))
	u.mu.Lock()
	raw, serve := u.raw, u.serve
	u.conns[conn] = true
	u.mu.Unlock()
	defer func() {
		_ = conn.Close()
		u.mu.Lock()
		delete(u.conns, conn)
		u.mu.Unlock()
	}()
	if raw != nil {
		raw(conn)
		return
	}
	secure := tls.Server(conn, u.config)
	if secure.Handshake() == nil && serve != nil {
		serve(secure, bufio.NewReader(secure))
	}
	_ = secure.Close()
}

// does sets what it does from now on. Connections that wait for the next request are closed, and the gateway gets a moment to notice.
func (u *oddUpstream) does(serve func(net.Conn, *bufio.Reader)) { u.change(nil, serve) }

// doesRaw is does for connections that never become TLS.
func (u *oddUpstream) doesRaw(raw func(net.Conn)) { u.change(raw, nil) }

func (u *oddUpstream) change(raw func(net.Conn), serve func(net.Conn, *bufio.Reader)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.raw, u.serve = raw, serve
	if len(u.conns) == 0 {
		return
	}
	for conn := range u.conns {
		_ = conn.Close()
	}
	time.Sleep(100 * time.Millisecond)
}

// answering is a call server that gives every request on a connection to answer; false ends the connection.
func answering(answer func(conn net.Conn, r *http.Request) bool) func(net.Conn, *bufio.Reader) {
	return func(conn net.Conn, br *bufio.Reader) {
		for {
			r, err := http.ReadRequest(br)
			if err != nil || !answer(conn, r) {
				return
			}
		}
	}
}

// switched is the answer that makes a WebSocket of a connection.
const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n"

// webSocket asks for one through the gateway and returns the connection behind the answer's head, and the head.
func (a *abuse) webSocket(t testing.TB, name string, headers ...string) (net.Conn, string) {
	t.Helper()
	conn := a.tls(t, a.inside, name, "http/1.1")
	_, err := io.WriteString(conn, "GET /ws HTTP/1.1\r\nHost: "+name+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"+strings.Join(append(headers, ""), "\r\n")+"\r\n")
	must(t, err)
	head, err := readHead(conn)
	if err != nil {
		t.Errorf("the answer to a WebSocket: %v %q", err, head)
	}
	return conn, head
}

// readHead reads the head of an answer and not a byte more.
func readHead(conn net.Conn) (string, error) {
	var head strings.Builder
	b := make([]byte, 1)
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		if _, err := io.ReadFull(conn, b); err != nil {
			return head.String(), err
		}
		if head.WriteByte(b[0]); head.Len() > 16<<10 {
			return head.String(), errors.New("no end of the head")
		}
	}
	return head.String(), nil
}

package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"testing"
	"time"
)

// middlebox is a company's inspecting firewall: it ends TLS with a certificate of the company's own and looks inside.
type middlebox struct {
	gateway string // where the traffic goes on, host:port
	// stripUpgrade removes Upgrade from requests, as old proxies do: WebSockets never open.
	stripUpgrade bool
	// resetTURN resets what is not HTTP inside TLS.
	resetTURN bool
	// idle cuts connections on which nothing has come or gone for so long; 0: never.
	idle time.Duration
}

// start listens at addr inside the namespace; the certificate is for the names that the office asks for.
func (m *middlebox) start(t testing.TB, ns *namespace, addr string, ca *authority, names ...string) {
	t.Helper()
	certFile, keyFile := ca.issue(t, names...)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	ln, err := ns.listen("tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	inspected := &queueListener{conns: make(chan net.Conn), addr: ln.Addr(), done: make(chan struct{})}
	server := &http.Server{Handler: m.proxy(ns), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(inspected) }()
	t.Cleanup(func() { _ = server.Close() })
	cfg := &tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go m.inspect(conn, cfg, ns, inspected)
		}
	}()
}

// inspect looks at the first byte inside TLS: HTTP is proxied, anything else goes on to the gateway or is reset.
func (m *middlebox) inspect(raw net.Conn, cfg *tls.Config, ns *namespace, inspected *queueListener) {
	if m.idle > 0 {
		raw = &idleConn{Conn: raw, most: m.idle}
	}
	conn := tls.Server(raw, cfg)
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if err := conn.Handshake(); err != nil {
		_ = raw.Close()
		return
	}
	r := bufio.NewReader(conn)
	first, err := r.Peek(1)
	if err != nil {
		_ = raw.Close()
		return
	}
	_ = conn.SetDeadline(time.Time{})
	if first[0] >= 'A' && first[0] <= 'Z' {
		inspected.put(&bufferedConn{Conn: conn, r: r})
		return
	}
	if m.resetTURN {
		if tcp, ok := raw.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = raw.Close()
		return
	}
	m.pass(&bufferedConn{Conn: conn, r: r}, conn.ConnectionState().ServerName, ns)
}

// pass carries what is not HTTP on to the gateway, in TLS of the middlebox's own.
func (m *middlebox) pass(in net.Conn, name string, ns *namespace) {
	defer func() { _ = in.Close() }()
	raw, err := ns.dial(context.Background(), "tcp", m.gateway)
	if err != nil {
		return
	}
	out := tls.Client(raw, &tls.Config{ServerName: name, InsecureSkipVerify: true})
	defer func() { _ = out.Close() }()
	go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
	_, _ = io.Copy(in, out)
}

func (m *middlebox) proxy(ns *namespace) http.Handler {
	return &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(&url.URL{Scheme: "https", Host: r.In.Host})
			r.Out.Host = r.In.Host
			if m.stripUpgrade {
				r.Out.Header.Del("Upgrade")
				r.Out.Header.Del("Connection")
			}
		},
		FlushInterval: -1,
		Transport: &http.Transport{
			TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return ns.dial(ctx, "tcp", m.gateway)
			},
		},
	}
}

// idleConn closes itself when nothing has come or gone for a while, as firewalls forget connections.
type idleConn struct {
	net.Conn
	most  time.Duration
	mu    sync.Mutex
	timer *time.Timer
}

func (c *idleConn) touch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.timer == nil {
		c.timer = time.AfterFunc(c.most, func() { _ = c.Conn.Close() })
		return
	}
	c.timer.Reset(c.most)
}

func (c *idleConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.touch()
	return n, err
}

func (c *idleConn) Write(p []byte) (int, error) {
	c.touch()
	return c.Conn.Write(p)
}

// bufferedConn reads first what was peeked.
type bufferedConn struct {
	net.Conn
	r *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.r.Read(p) }

// queueListener hands out connections that somebody else accepted.
type queueListener struct {
	conns chan net.Conn
	addr  net.Addr
	done  chan struct{}
}

func (l *queueListener) put(c net.Conn) {
	select {
	case l.conns <- c:
	case <-l.done:
		_ = c.Close()
	}
}

func (l *queueListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *queueListener) Close() error {
	select {
	case <-l.done:
	default:
		close(l.done)
	}
	return nil
}

func (l *queueListener) Addr() net.Addr { return l.addr }

package signaling

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hafen/configs"
	"hafen/gateway/frugal"
)

// strictServer is a call server that takes nothing but whole requests that were counted before, each framed in one way, and answers each
// with a word.
type strictServer struct {
	requests atomic.Int64
	broken   atomic.Pointer[string] // what it got that is none
}

func (s *strictServer) serve(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	for {
		if _, err := in.Peek(1); err != nil {
			return
		}
		req, err := http.ReadRequest(in)
		switch {
		case err != nil:
			s.breaks(err.Error())
			return
		case len(req.TransferEncoding) > 0 && req.Header.Get("Content-Length") != "":
			s.breaks("framed by length and by chunks")
		case req.Host != host || !strings.HasPrefix(req.RequestURI, "/"):
			s.breaks("for " + req.Host + ": " + req.RequestURI)
		case req.Header.Get("X-Forwarded-For") != "192.0.2.1":
			s.breaks("from " + req.Header.Get("X-Forwarded-For"))
		case !slices.Equal(req.Header[countedHeader], []string{"yes"}):
			s.breaks("not counted: " + strings.Join(req.Header[countedHeader], ", "))
		}
		s.requests.Add(1)
		if _, err := io.Copy(io.Discard, req.Body); err != nil {
			return // it was given up: so may this connection be
		}
		if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

// countedHeader is put into each request that the gateway has taken for one.
const countedHeader = "X-Counted"

func (s *strictServer) breaks(why string) { s.broken.CompareAndSwap(nil, &why) }

// oneByOne is a listener of connections that are made here.
type oneByOne struct{ conns chan net.Conn }

func (l oneByOne) Accept() (net.Conn, error) {
	if conn, open := <-l.conns; open {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (l oneByOne) Close() error   { return nil }
func (l oneByOne) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 2), Port: 443} }

// said is a client that says all it has to say at once, stays to hear the answers, and then goes.
type said struct {
	net.Conn // nil: nothing else of it is asked for
	in       *bytes.Reader
	enough   chan struct{} // the server wants no more for now
	closed   chan struct{}
	once     sync.Once
	asked    atomic.Bool // a request of it is being answered
}

// Read of a single byte is as a rule net/http's, which waits while a request is answered for the client to go.
func (c *said) Read(p []byte) (int, error) {
	for len(p) == 1 && c.in.Len() == 0 {
		select {
		case <-c.enough:
			return 0, os.ErrDeadlineExceeded
		case <-c.closed:
			return 0, net.ErrClosed
		case <-time.After(50 * time.Millisecond):
			if !c.asked.Load() {
				return 0, io.EOF
			}
		}
	}
	return c.in.Read(p)
}

type saidKey struct{}

func (c *said) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && t.Before(time.Now()) {
		select {
		case c.enough <- struct{}{}:
		case <-c.closed:
		case <-time.After(time.Millisecond): // nobody reads
		}
	}
	return nil
}

func (c *said) Write(p []byte) (int, error)      { return len(p), nil }
func (c *said) LocalAddr() net.Addr              { return oneByOne{}.Addr() }
func (c *said) RemoteAddr() net.Addr             { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 50000} }
func (c *said) SetDeadline(time.Time) error      { return nil }
func (c *said) SetWriteDeadline(time.Time) error { return nil }

func (c *said) Close() error {
	c.once.Do(func() { close(c.closed) })
	return nil
}

// FuzzFront: whatever the bytes on a connection are, a call server sees whole requests only, each framed in one way and for its own name,
// and none but those that were taken for one here.
func FuzzFront(f *testing.F) {
	head := "Host: example.com\r\n"
	plain := "GET /x?y HTTP/1.1\r\n" + head + "\r\n"
	for _, seed := range []string{
		plain,
		"GET / HTTP/1.1\r\n" + head + "\r\nGET /2 HTTP/1.1\r\n" + head + "X-Forwarded-For: 6.6.6.6\r\n\r\n",
		"POST / HTTP/1.1\r\n" + head + "Content-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\n" + head + "\r\n",
		"POST / HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
		"POST / HTTP/1.1\r\n" + head + "Content-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\n" + head + "\r\n",
		"POST / HTTP/1.1\r\n" + head + "Transfer_Encoding: chunked\r\nContent-Length: 1\r\n\r\nx",
		"GET / HTTP/1.0\r\n" + head + "Connection: keep-alive\r\n\r\n",
		"GET / HTTP/1.1\n" + "Host: example.com\n" + "X: a\r\n b\n\n",
		"OPTIONS * HTTP/1.1\r\n" + head + "\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET / HTTP/1.1\r\n" + head + "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	far := new(strictServer)
	p, err := New(Options{
		Config: &configs.Config{
			Services:  []configs.Service{{Name: "calls", Hosts: []string{host}}},
			Signaling: configs.Signaling{Routes: []configs.Route{{Host: host, Upstream: "http://" + host}}},
		},
		Dial: func(context.Context, string, string, string) (net.Conn, error) {
			near, end := net.Pipe()
			go far.serve(end)
			return near, nil
		},
	})
	if err != nil {
		f.Fatal(err)
	}
	front := &http.Server{
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := r.Context().Value(saidKey{}).(*said)
			c.asked.Store(true)
			defer c.asked.Store(false)
			r.Header.Set(countedHeader, "yes")
			p.ServeHTTP(w, r)
		}),
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug), DisableGeneralOptionsHandler: true, MaxHeaderBytes: 64 << 10,
		ConnContext: func(ctx context.Context, conn net.Conn) context.Context {
			return context.WithValue(ctx, saidKey{}, conn)
		},
	}
	clients := oneByOne{make(chan net.Conn)}
	go func() { _ = front.Serve(clients) }()
	f.Cleanup(func() {
		close(clients.conns)
		_, _ = front.Close(), p.Close()
	})
	f.Fuzz(func(t *testing.T, raw []byte) {
		defer frugal.Input(t)()
		before := far.requests.Load()
		c := &said{in: bytes.NewReader(raw), enough: make(chan struct{}), closed: make(chan struct{})}
		clients.conns <- c
		select {
		case <-c.closed:
		case <-time.After(20 * time.Second):
			t.Fatalf("%q: the connection is still open", raw)
		}
		if string(raw) == plain && far.requests.Load() == before {
			t.Fatal("a plain request does not get as far as the call server")
		}
		if why := far.broken.Load(); why != nil {
			t.Fatalf("%q: the call server got what is no request of ours: %s", raw, *why)
		}
	})
}

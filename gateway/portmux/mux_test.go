package portmux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestAbuse_E07: a listener out of descriptors lives, and recovers within a second.
func TestAbuse_E07(t *testing.T) {
	tm := start(t, nil)
	fails := &failingListener{errs: []error{syscall.EMFILE, syscall.ENFILE, syscall.ECONNABORTED, syscall.EMFILE, io.ErrNoProgress}}
	addr := tm.serve(t, func(l net.Listener) error {
		fails.Listener = l
		return tm.Serve(fails)
	})
	if got := say(t, dial(t, addr), "GET /"); got != "HTTP:GET /" {
		t.Errorf("got %q", got)
	}
	if n := tm.counted(t, "hafen_mux_accept_errors_total"); n != 5 {
		t.Errorf("accept errors: %v", n)
	}
	var b backoff
	for i, want := range []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000} {
		if d, first := b.next(); d != want*time.Millisecond || first != (i == 0) {
			t.Errorf("error %d: waits %v", i, d)
		}
	}
	if n := b.reset(); n != 10 {
		t.Errorf("reset after %d errors", n)
	}
}

type failingListener struct {
	net.Listener
	errs []error
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.errs) > 0 {
		err := l.errs[0]
		l.errs = l.errs[1:]
		return nil, &net.OpError{Op: "accept", Err: err}
	}
	return l.Listener.Accept()
}

// TestListenerClosedByOthers ends Serve with an error.
func TestListenerClosedByOthers(t *testing.T) {
	m := New(Options{})
	defer m.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- m.Serve(l) }()
	_ = l.Close()
	if err := <-served; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve: %v", err)
	}
}

// TestAbuse_E01_A47 lets every step stall: each has a deadline, and says nothing.
func TestAbuse_E01_A47(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.FirstByteTimeout, o.HandshakeTimeout, o.PendingTimeout = 100*time.Millisecond, 150*time.Millisecond, 200*time.Millisecond
		o.HTTP = func(c *Conn) { // an owner that forgets its deadline
			_, _ = io.Copy(io.Discard, c)
			_ = c.Close()
		}
	})
	hello := captureHello(t, "gw.test")
	for _, c := range []struct {
		stage string
		begin func(net.Conn) error
	}{
		{"first_byte", func(net.Conn) error { return nil }},
		{"first_byte", func(c net.Conn) error { _, err := c.Write([]byte{0}); return err }},
		{"hello", func(c net.Conn) error { _, err := c.Write([]byte{0x16}); return err }},
		{"hello", func(c net.Conn) error { _, err := c.Write(hello[:len(hello)-1]); return err }},
		{"inside", func(c net.Conn) error { return tls.Client(c, tm.client(nil)).Handshake() }},
		{"pending", func(c net.Conn) error { _, err := c.Write([]byte("GET /")); return err }},
	} {
		before := tm.counted(t, "hafen_mux_timeouts_total", c.stage)
		conn := dial(t, tm.addr)
		if err := c.begin(conn); err != nil {
			t.Fatal(err)
		}
		got := readEnd(t, conn)
		if len(got) > 0 && c.stage != "inside" {
			t.Errorf("%s: answered %q", c.stage, got)
		}
		if e := tm.end(t); e.Status != "err_timeout" || e.Err == nil {
			t.Errorf("%s: ended as %+v", c.stage, e)
		}
		if n := tm.counted(t, "hafen_mux_timeouts_total", c.stage); n != before+1 {
			t.Errorf("%s: counted %v", c.stage, n)
		}
	}
	if n := tm.Counts(); n != (Counts{}) {
		t.Errorf("still counted: %+v", n)
	}
}

// TestHandshakeTimeout: a hello and then nothing.
func TestHandshakeTimeout(t *testing.T) {
	tm := start(t, func(o *Options) { o.HandshakeTimeout = 100 * time.Millisecond })
	c := dial(t, tm.addr)
	_, _ = c.Write(captureHello(t, "gw.test"))
	readEnd(t, c)
	if e := tm.end(t); e.Status != "err_timeout" || tm.counted(t, "hafen_tls_handshakes_total", "timeout") != 1 {
		t.Errorf("ended as %+v", e)
	}
}

// TestSilentVisitor is a health check that connects and goes: no error.
func TestSilentVisitor(t *testing.T) {
	tm := start(t, nil)
	_ = dial(t, tm.addr).Close()
	if e := tm.end(t); e.Protocol != Silent || e.Status != "ok" {
		t.Errorf("ended as %+v", e)
	}
	c := dial(t, tm.addr)
	_, _ = c.Write([]byte("GE"))
	_ = c.Close()
	if e := tm.end(t); e.Protocol != Unknown || e.Status != "err_client" {
		t.Errorf("ended as %+v", e)
	}
}

// TestLimits: pending is strict, established generous; both for one client and for all.
func TestLimits(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.Limits = Limits{PendingPerClient: 2, ConnectionsPerClient: 4, Connections: 6, Pending: 4}
		o.STUN = func(c *Conn) { _, _ = c.Write([]byte("held")) } // pending for good
	})
	open := func(from, first string) net.Conn {
		c := dialFrom(t, tm.addr, from)
		_, _ = io.WriteString(c, first)
		return c
	}
	served := func(c net.Conn) bool {
		n, _ := c.Read(make([]byte, 64))
		return n > 0
	}
	stun := string(bindingRequest)
	for i, want := range []bool{true, true, false} {
		if got := served(open("127.0.0.2", stun)); got != want {
			t.Fatalf("pending %d of one client: served %v", i, got)
		}
	}
	eventually(t, "the refused one to be gone", func() bool { return tm.Counts().Open == 2 })
	if tm.counted(t, "hafen_mux_refused_total", "client_pending") != 1 {
		t.Error("not counted")
	}
	for i, want := range []bool{true, true, true, true, false} {
		if i == 4 {
			eventually(t, "room for one more in all", func() bool { return tm.Counts().Open == 6 })
			tm.SetLimits(Limits{PendingPerClient: 2, ConnectionsPerClient: 4})
		}
		if got := served(open("127.0.0.3", "GET /")); got != want {
			t.Fatalf("established %d of one client: served %v", i, got)
		}
	}
	if tm.counted(t, "hafen_mux_refused_total", "client") != 1 {
		t.Error("not counted")
	}
	eventually(t, "the last one refused to be gone", func() bool {
		return tm.Counts() == Counts{Open: 6, Pending: 2, Clients: 2, MostOpen: 4, MostPending: 2}
	})
	tm.SetLimits(Limits{Connections: 6})
	if served(open("127.0.0.4", "GET /")) || tm.counted(t, "hafen_mux_refused_total", "total") != 1 {
		t.Error("beyond the limit of all")
	}
	for range 3 {
		if e := tm.end(t); e.Status != "err_limit" {
			t.Errorf("ended as %+v", e)
		}
	}
}

// TestTheLastTenth of all connections is for clients that have few.
func TestTheLastTenth(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.Limits = Limits{Connections: 20, ConnectionsPerClient: 18}
		o.STUN = func(c *Conn) { c.Established(); _, _ = c.Write([]byte("held")) }
	})
	for _, step := range []struct {
		from   string
		n      int
		served bool
	}{{"127.0.0.2", 17, true}, {"127.0.0.3", 1, true}, {"127.0.0.2", 1, false}, {"127.0.0.3", 1, false}, {"127.0.0.4", 1, true}, {"127.0.0.5", 1, true}, {"127.0.0.6", 1, false}} {
		for range step.n {
			c := dialFrom(t, tm.addr, step.from)
			_, _ = c.Write(bindingRequest)
			if n, _ := c.Read(make([]byte, 64)); (n > 0) != step.served {
				t.Errorf("%s with %+v: served %v, want %v", step.from, tm.Counts(), n > 0, step.served)
			}
			if !step.served {
				tm.end(t)
			}
		}
	}
	if client, all := tm.counted(t, "hafen_mux_refused_total", "client"), tm.counted(t, "hafen_mux_refused_total", "total"); client != 2 || all != 1 {
		t.Errorf("%v and %v counted", client, all)
	}
	few := newLoads(Limits{Connections: 20, ConnectionsPerClient: 5}) // a tenth of which is less than one
	few.open = 20
	if limit := few.claim(&Conn{}, netip.MustParsePrefix("127.0.0.7/32")); limit != "" {
		t.Errorf("the first connection of a client meets the limit %q", limit)
	}
}

// TestCrowdedOut: where too many are pending, the oldest ones of the client that has the most make room for another client, and where
// each has one the newcomer is refused.
func TestCrowdedOut(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.Limits = Limits{Pending: 4}
		o.STUN = func(c *Conn) { _, _ = c.Write([]byte("held")) } // pending for good
	})
	held := func(from string) net.Conn {
		c := dialFrom(t, tm.addr, from)
		_, _ = c.Write(bindingRequest)
		if _, err := c.Read(make([]byte, 64)); err != nil {
			t.Errorf("%s: %v", from, err)
		}
		return c
	}
	silent := dialFrom(t, tm.addr, "127.0.0.2") // its walk has not found an owner yet
	eventually(t, "it to be there", func() bool { return tm.Counts().Pending == 1 })
	second, third, other := held("127.0.0.2"), held("127.0.0.2"), held("127.0.0.3")
	held("127.0.0.4")
	if got := readEnd(t, silent); len(got) > 0 {
		t.Errorf("the oldest is told %q", got)
	}
	held("127.0.0.5")
	if got := readEnd(t, second); len(got) > 0 {
		t.Errorf("the second is told %q", got)
	}
	for range 2 {
		if e := tm.end(t); e.Status != "err_limit" || !errors.Is(e.Err, errCrowdedOut) {
			t.Errorf("ended as %+v", e)
		}
	}
	if got := readEnd(t, dialFrom(t, tm.addr, "127.0.0.6")); len(got) > 0 {
		t.Errorf("one too many where each has one is told %q", got)
	}
	if e := tm.end(t); e.Status != "err_limit" || errors.Is(e.Err, errCrowdedOut) || e.Client.Addr() != netip.MustParseAddr("127.0.0.6") {
		t.Errorf("ended as %+v", e)
	}
	if n := tm.counted(t, "hafen_mux_refused_total", "pending"); n != 3 {
		t.Errorf("%v counted", n)
	}
	for _, c := range []net.Conn{third, other} {
		_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("one that was to stay: %v", err)
		}
	}
	if got, want := tm.Counts(), (Counts{Open: 4, Pending: 4, Clients: 4, MostOpen: 1, MostPending: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
}

// TestAdmit: a stranger is closed unread, or told so over HTTP and nothing else; networks are summed.
func TestAdmit(t *testing.T) {
	no := errors.New("not a client network")
	admit := func(a netip.Addr) error {
		if a == netip.MustParseAddr("127.0.0.1") {
			return no
		}
		return nil
	}
	t.Run("closed", func(t *testing.T) {
		tm := start(t, func(o *Options) { o.Admit = admit })
		if got := readEnd(t, dial(t, tm.addr)); len(got) > 0 {
			t.Errorf("answered %q", got)
		}
		if e := tm.end(t); e.Status != "err_policy" || !errors.Is(e.Err, no) || e.Protocol != Silent {
			t.Errorf("ended as %+v", e)
		}
		r := tm.Refusals()
		if len(r) != 1 || r[0].Network.String() != "127.0.0.0/24" || r[0].Count != 1 || r[0].First.IsZero() {
			t.Errorf("%+v", r)
		}
	})
	t.Run("told", func(t *testing.T) {
		tm := start(t, func(o *Options) {
			o.Admit = admit
			o.PendingTimeout = 200 * time.Millisecond
			o.Refused = func(c *Conn) {
				if !errors.Is(c.Refused(), no) {
					t.Errorf("Refused() = %v", c.Refused())
				}
				answer("REFUSED")(c)
			}
		})
		if got := say(t, dial(t, tm.addr), "GET /"); got != "REFUSED:GET /" {
			t.Errorf("plain: %q", got)
		}
		for _, change := range []func(*tls.Config){nil, func(c *tls.Config) { c.ServerName, c.NextProtos = "call.test", []string{"h2"} }} {
			if got := say(t, tls.Client(dial(t, tm.addr), tm.client(change)), "GET /"); got != "REFUSED:GET /" {
				t.Errorf("TLS: %q", got)
			}
		}
		c := dial(t, tm.addr)
		_, _ = c.Write(bindingRequest)
		if got := readEnd(t, c); len(got) > 0 {
			t.Errorf("STUN: %q", got)
		}
		held := dial(t, tm.addr) // Established does nothing for a stranger, so the time is short
		_, _ = held.Write([]byte("GET /"))
		readEnd(t, held)
		for range 5 {
			if e := tm.end(t); e.Status != "err_policy" {
				t.Errorf("ended as %+v", e)
			}
		}
	})
	t.Run("few at once", func(t *testing.T) {
		tm := start(t, func(o *Options) {
			o.Admit, o.Limits.Refused = admit, 1
			o.Refused = answer("REFUSED")
		})
		held := dial(t, tm.addr)
		_, _ = held.Write([]byte("GET /"))
		_, _ = held.Read(make([]byte, 1))
		if got := readEnd(t, dial(t, tm.addr)); len(got) > 0 {
			t.Errorf("second one: %q", got)
		}
		if n := tm.Counts(); n.Refused != 1 {
			t.Errorf("%+v", n)
		}
	})
}

func TestRefusalsAreBounded(t *testing.T) {
	var r refusals
	at := time.Unix(1e9, 0)
	for i := range 3 * maxRefusals {
		a := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 1})
		r.add(a, at.Add(time.Duration(i)*time.Second))
		r.add(netip.MustParseAddr("192.0.2.1"), at.Add(time.Duration(i)*time.Second))
	}
	r.add(netip.MustParseAddr("2001:db8:5:6::7"), at.Add(time.Hour))
	all := r.list()
	if len(all) != maxRefusals || all[0].Network.String() != "192.0.2.0/24" || all[0].Count != 3*maxRefusals || !all[0].First.Equal(at) {
		t.Errorf("%d networks, first %+v", len(all), all[0])
	}
	six := all[len(all)-1]
	if six.Network.String() != "2001:db8:5::/48" {
		t.Errorf("%+v", six)
	}
}

// TestShutdown closes what is pending and waits for what is established.
func TestShutdown(t *testing.T) {
	tm := start(t, nil)
	held := dial(t, tm.addr)
	_, _ = held.Write([]byte("GET /"))
	if _, err := io.ReadFull(held, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	silent := dial(t, tm.addr)
	eventually(t, "both are in", func() bool { return tm.Counts().Open == 2 })
	ended := make(chan error)
	go func() { ended <- tm.Shutdown(context.Background()) }()
	readEnd(t, silent)
	if _, err := net.Dial("tcp", tm.addr); err == nil {
		t.Error("still accepting")
	}
	if got := say(t, held, "more"); got != "GET /more" {
		t.Errorf("while shutting down: %q", got)
	}
	if err := <-ended; err != nil {
		t.Errorf("Shutdown: %v", err)
	}
}

// TestShutdownDeadline closes the rest when the time is up.
func TestShutdownDeadline(t *testing.T) {
	tm := start(t, nil)
	held := tls.Client(dial(t, tm.addr), tm.client(nil))
	_, _ = held.Write([]byte("GET /"))
	if _, err := io.ReadFull(held, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := tm.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Shutdown: %v", err)
	}
	readEnd(t, held)
	if n := tm.Counts(); n.Open != 0 {
		t.Errorf("%+v", n)
	}
}

// TestHTTPServer puts http.Server behind the mux: HTTP/1.1 plain and over TLS, and HTTP/2; handlers find their connection.
func TestHTTPServer(t *testing.T) {
	l := NewListener(&net.TCPAddr{})
	var stray atomic.Int32
	server := &http.Server{
		ConnContext:       Context,
		ReadHeaderTimeout: patience,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			c := From(r.Context())
			if c == nil {
				stray.Add(1)
				return
			}
			c.Established()
			_, secure := c.TLS()
			if secure != (r.TLS != nil) {
				stray.Add(1)
			}
			if r.URL.Path == "/hijack" {
				raw, rw, err := http.NewResponseController(w).Hijack()
				if err != nil {
					t.Error(err)
					return
				}
				defer raw.Close()
				if Of(raw) != c {
					t.Error("the hijacked conn is not ours")
				}
				_, _ = io.WriteString(raw, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n")
				_, _ = io.Copy(raw, rw)
				return
			}
			fmt.Fprintf(w, "%s %s tls=%v %s", r.Proto, c.Protocol(), r.TLS != nil, c.Client().Addr())
		}),
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	tm := start(t, func(o *Options) {
		o.HTTP, o.TLSConn = l.Hand, nil
	})
	for url, want := range map[string]string{
		"http://gw.test/":    "HTTP/1.1 http tls=false 127.0.0.1",
		"https://gw.test/":   "HTTP/1.1 tls-http tls=true 127.0.0.1",
		"https://call.test/": "HTTP/2.0 tls-h2 tls=true 127.0.0.1",
	} {
		tr := &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: tm.roots}, ForceAttemptHTTP2: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp", tm.addr)
			},
		}
		resp, err := (&http.Client{Transport: tr, Timeout: patience}).Get(url)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		tr.CloseIdleConnections()
		if string(b) != want {
			t.Errorf("%s: %q, want %q", url, b, want)
		}
	}
	got := say(t, tls.Client(dial(t, tm.addr), tm.client(nil)), "GET /hijack HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\nbytes right behind")
	if !strings.HasPrefix(got, "HTTP/1.1 101 ") || !strings.HasSuffix(got, "\r\n\r\nbytes right behind") {
		t.Errorf("hijacked: %q", got)
	}
	if stray.Load() != 0 {
		t.Errorf("%d requests without their connection", stray.Load())
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	<-served
	late := dial(t, tm.addr) // the listener is closed: closed at once
	_, _ = late.Write([]byte("GET / HTTP/1.1\r\n\r\n"))
	if got := readEnd(t, late); len(got) > 0 {
		t.Errorf("after Close: %q", got)
	}
}

// TestServeHTTP1 speaks plain HTTP and nothing else.
func TestServeHTTP1(t *testing.T) {
	tm := start(t, nil)
	addr := tm.serve(t, func(l net.Listener) error { return tm.ServeHTTP1(l, answer("PROXY")) })
	if got := say(t, dial(t, addr), "CONNECT x"); got != "PROXY:CONNECT x" {
		t.Errorf("got %q", got)
	}
	for _, first := range []string{string(bindingRequest), string(captureHello(t, "gw.test"))} {
		c := dial(t, addr)
		_, _ = io.WriteString(c, first)
		if got := readEnd(t, c); len(got) > 0 {
			t.Errorf("answered %q", got)
		}
	}
}

// TestRedirect puts a TLS connection over other I/O after its handshake, as an event loop would.
func TestRedirect(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.STUN = func(c *Conn) {
			defer c.Close()
			inner, head := c.Detach()
			beneath := inner.(*tls.Conn).NetConn().(interface {
				Redirect(io.ReadWriter)
				NetConn() net.Conn
				SyscallConn() (syscall.RawConn, error)
			})
			loop := &countingIO{ReadWriter: beneath.NetConn()}
			beneath.Redirect(loop)
			if _, err := beneath.SyscallConn(); err != nil {
				t.Error(err)
			}
			_, _ = inner.Write(head)
			_, _ = io.Copy(struct{ io.Writer }{inner}, struct{ io.Reader }{inner})
			if loop.reads == 0 || loop.writes == 0 {
				t.Error("the other I/O was not used")
			}
		}
	})
	c := tls.Client(dial(t, tm.addr), tm.client(nil))
	if _, err := c.Write(bindingRequest); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, len(bindingRequest))); err != nil {
		t.Fatal(err)
	}
	if got := say(t, c, "through the loop"); got != "through the loop" {
		t.Errorf("got %q", got)
	}
}

type countingIO struct {
	io.ReadWriter
	reads, writes int
}

func (c *countingIO) Read(p []byte) (int, error)  { c.reads++; return c.ReadWriter.Read(p) }
func (c *countingIO) Write(p []byte) (int, error) { c.writes++; return c.ReadWriter.Write(p) }

// TestFailAfterClose: an owner that blocks may close first; its word still counts.
func TestFailAfterClose(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.STUN = func(c *Conn) {
			inner, _ := c.Detach()
			_ = inner.Close()
			_ = c.Close()
			c.Fail("err_auth", io.ErrNoProgress)
		}
	})
	_, _ = tls.Client(dial(t, tm.addr), tm.client(nil)).Write(bindingRequest)
	if e := tm.end(t); e.Status != "err_auth" || e.Duration <= 0 {
		t.Errorf("ended as %+v", e)
	}
}

// TestFail: the owner's word is the connection's end.
func TestFail(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.HTTP = func(c *Conn) {
			c.Fail("err_dial", io.ErrNoProgress)
			c.Fail("err_client", nil)
			_ = c.Close()
			_ = c.Close()
		}
	})
	_, _ = dial(t, tm.addr).Write([]byte("GET /"))
	if e := tm.end(t); e.Status != "err_dial" || !errors.Is(e.Err, io.ErrNoProgress) {
		t.Errorf("ended as %+v", e)
	}
	if n := tm.counted(t, "hafen_mux_ended_total", "err_dial"); n != 1 {
		t.Errorf("counted %v", n)
	}
}

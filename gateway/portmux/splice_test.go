package portmux

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// tcpPair is two ends of a TCP connection.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	n, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	f, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = n.Close(), f.Close() })
	_ = n.SetDeadline(time.Now().Add(patience))
	return n.(*net.TCPConn), f.(*net.TCPConn)
}

// spliced runs Splice between two far ends and gives the near ones.
func spliced(t *testing.T, idle time.Duration, wrap func(net.Conn) net.Conn) (a, b *net.TCPConn, ended chan error) {
	t.Helper()
	a, farA := tcpPair(t)
	b, farB := tcpPair(t)
	ended = make(chan error, 1)
	go func() { ended <- Splice(wrap(farA), wrap(farB), idle) }()
	return a, b, ended
}

// plainConn hides that a conn is TCP, so that nothing is left to the kernel.
type plainConn struct {
	net.Conn
	half interface{ CloseWrite() error }
}

func (p plainConn) CloseWrite() error { return p.half.CloseWrite() }

// TestSplice moves small and large amounts both ways; each half-close goes through by itself.
func TestSplice(t *testing.T) {
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"in the kernel": func(c net.Conn) net.Conn { return c },
		"by copying":    func(c net.Conn) net.Conn { return plainConn{c, c.(*net.TCPConn)} },
	} {
		t.Run(name, func(t *testing.T) {
			a, b, ended := spliced(t, time.Minute, wrap)
			for _, size := range []int{1, 100, coldSize, coldSize + 1, hotSize, 3*hotSize + 7, 9 << 20, 1} {
				text := bytes.Repeat([]byte{byte(size), byte(size >> 8), 3}, size/3+1)[:size]
				go func() { _, _ = a.Write(text) }()
				got := make([]byte, size)
				if _, err := io.ReadFull(b, got); err != nil || !bytes.Equal(got, text) {
					t.Fatalf("%d bytes: %v, equal %v", size, err, bytes.Equal(got, text))
				}
			}
			_ = a.CloseWrite()
			if rest, err := io.ReadAll(b); err != nil || len(rest) > 0 {
				t.Fatalf("after half-close: %q, %v", rest, err)
			}
			if got := sayBack(t, b, a, "the other way goes on"); got != "the other way goes on" {
				t.Errorf("got %q", got)
			}
			if err := <-ended; err != nil {
				t.Errorf("ended by %v", err)
			}
		})
	}
}

func sayBack(t *testing.T, from, to *net.TCPConn, text string) string {
	t.Helper()
	_, _ = io.WriteString(from, text)
	_ = from.CloseWrite()
	got, err := io.ReadAll(to)
	if err != nil {
		t.Error(err)
	}
	return string(got)
}

// TestAbuse_B19: silence in both directions ends it; one busy direction keeps it.
func TestAbuse_B19(t *testing.T) {
	const idle = 300 * time.Millisecond
	a, b, ended := spliced(t, idle, func(c net.Conn) net.Conn { return c })
	for began := time.Now(); time.Since(began) < 3*idle; time.Sleep(20 * time.Millisecond) {
		if _, err := a.Write([]byte("tick")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(b, make([]byte, 4)); err != nil {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
	}
	if err := <-ended; !errors.Is(err, ErrIdle) || statusOf(err, "") != "err_timeout" {
		t.Errorf("ended by %v", err)
	}
	readEnd(t, a)
	readEnd(t, b)
}

// TestSpliceStuck: one side does not read and the other is silent; a write that hangs ends too.
func TestSpliceStuck(t *testing.T) {
	a, _, ended := spliced(t, 300*time.Millisecond, func(c net.Conn) net.Conn { return c })
	go func() { _, _ = a.Write(make([]byte, 64<<20)) }()
	if err := <-ended; !errors.Is(err, ErrIdle) {
		t.Errorf("ended by %v", err)
	}
}

// TestSpliceBroken: a reset on one side ends both.
func TestSpliceBroken(t *testing.T) {
	a, b, ended := spliced(t, time.Minute, func(c net.Conn) net.Conn { return c })
	_, _ = a.Write([]byte("x"))
	_, _ = io.ReadFull(b, make([]byte, 1))
	_ = a.SetLinger(0)
	_ = a.Close()
	if err := <-ended; err == nil {
		t.Error("ended in order")
	}
	readEnd(t, b)
}

// TestSpliceConns joins a client within TLS to a plain target, as a CONNECT tunnel does, half-close and counts included.
func TestSpliceConns(t *testing.T) {
	far := make(chan *net.TCPConn, 1)
	tm := start(t, func(o *Options) {
		o.HTTP = func(c *Conn) {
			near, other := tcpPair(t)
			far <- near
			c.Established()
			_ = Splice(c.HTTPConn(), other, time.Minute)
		}
	})
	text := strings.Repeat("GET /", 100_000)
	for _, secure := range []bool{true, false} {
		conn := halfCloser(dial(t, tm.addr))
		if secure {
			conn = tls.Client(conn, tm.client(nil))
		}
		go func() {
			target := <-far
			got, _ := io.ReadAll(target)
			_, _ = target.Write(got)
			_ = target.CloseWrite()
		}()
		if got := sayWhileReading(t, conn, text); got != text {
			t.Errorf("TLS %v: %d bytes came back of %d", secure, len(got), len(text))
		}
		_ = conn.Close()
		e := tm.end(t)
		if over := int64(1.2 * float64(len(text))); e.In < int64(len(text)) || e.In > over || e.Out < int64(len(text)) || e.Out > over {
			t.Errorf("TLS %v: counted %d in, %d out of %d", secure, e.In, e.Out, len(text))
		}
	}
}

// TestSpliceFails: the mux's record says how a splice ended.
func TestSpliceFails(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.HTTP = func(c *Conn) {
			_, other := tcpPair(t)
			c.Established()
			_ = Splice(c, other, 50*time.Millisecond)
		}
	})
	c := dial(t, tm.addr)
	_, _ = c.Write([]byte("GET /"))
	readEnd(t, c)
	if e := tm.end(t); e.Status != "err_timeout" || !errors.Is(e.Err, ErrIdle) {
		t.Errorf("ended as %+v", e)
	}
}

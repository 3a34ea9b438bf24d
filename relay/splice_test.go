package relay

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// splicedPair is a pair in a test: its far ends, and what its owner was told.
type splicedPair struct {
	a, b    net.Conn // the far ends
	ours    [2]net.Conn
	stop    func()
	moved   [2]atomic.Int64 // by side, A first
	halves  atomic.Int32
	over    chan error
	faultyA atomic.Bool
}

func (s *splicedPair) Moved(fromA bool, n int) {
	if fromA {
		s.moved[0].Add(int64(n))
	} else {
		s.moved[1].Add(int64(n))
	}
}

func (s *splicedPair) HalfClosed() { s.halves.Add(1) }

func (s *splicedPair) Over(atA bool, err error) {
	s.faultyA.Store(atA)
	for _, c := range s.ours {
		_ = c.Close()
	}
	s.over <- err
}

// end waits until the pair is over.
func (s *splicedPair) end(t *testing.T) error {
	t.Helper()
	select {
	case err := <-s.over:
		return err
	case <-time.After(20 * time.Second):
		t.Fatal("it is not over")
		return nil
	}
}

// buffers are small, so that a side is often full.
const buffers = 32 << 10

func newSpliced(t *testing.T, secureA, secureB bool, slow time.Duration) *splicedPair {
	t.Helper()
	s := &splicedPair{over: make(chan error, 2)}
	s.ours[0], s.a = connected(t, secureA, buffers)
	s.ours[1], s.b = connected(t, secureB, buffers)
	splicer := NewSplicer(nil)
	var ok bool
	if s.stop, ok = splicer.Splice(s.ours[0], s.ours[1], slow, s); !ok {
		t.Fatal("they can't be spliced")
	}
	t.Cleanup(func() {
		s.stop()
		if len(s.over) == 0 {
			_ = s.a.Close()
		}
		l := splicer.loops.list[0]
		watched := func() int {
			l.mu.Lock()
			defer l.mu.Unlock()
			return len(l.watched)
		}
		for end := time.Now().Add(10 * time.Second); watched() > 0; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Error("the sockets were not given up")
				break
			}
		}
		if err := splicer.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func halfClose(c net.Conn) error { return c.(interface{ CloseWrite() error }).CloseWrite() }

// What one side sends arrives at the other whole and in order, both ways at once, read slowly or fast, however it was cut; each side's end is
// passed on when everything before it was, and the pair is over when both have ended.
func TestSpliceWhole(t *testing.T) {
	for _, secure := range [][2]bool{{true, false}, {true, true}, {false, true}, {false, false}} {
		t.Run(fmt.Sprintf("tls %v", secure), func(t *testing.T) {
			s := newSpliced(t, secure[0], secure[1], 0)
			var wg sync.WaitGroup
			for i, ends := range [][2]net.Conn{{s.a, s.b}, {s.b, s.a}} {
				sent := make([]byte, 1<<20+rand.IntN(1<<20))
				for i := range sent {
					sent[i] = byte(rand.Uint32())
				}
				wg.Go(func() {
					for rest := sent; len(rest) > 0; {
						n := min(len(rest), 1+rand.IntN(50<<10))
						if _, err := ends[0].Write(rest[:n]); err != nil {
							t.Errorf("write: %v", err)
							return
						}
						rest = rest[n:]
					}
					if err := halfClose(ends[0]); err != nil {
						t.Errorf("half-close: %v", err)
					}
				})
				wg.Go(func() {
					var got bytes.Buffer
					buf := make([]byte, 20<<10)
					for {
						n, err := ends[1].Read(buf)
						got.Write(buf[:n])
						if err == io.EOF {
							break
						}
						if err != nil {
							t.Errorf("read: %v", err)
							break
						}
						if i == 0 && rand.IntN(20) == 0 {
							time.Sleep(time.Millisecond)
						}
					}
					if !bytes.Equal(got.Bytes(), sent) {
						t.Errorf("%d bytes came of %d, or others", got.Len(), len(sent))
					}
					if n := s.moved[i].Load(); n != int64(len(sent)) {
						t.Errorf("told of %d bytes of %d", n, len(sent))
					}
				})
			}
			wg.Wait()
			if err := s.end(t); err != nil || s.halves.Load() != 2 {
				t.Errorf("over with %v after %d half-closes", err, s.halves.Load())
			}
		})
	}
}

// One half may end long before the other.
func TestSpliceHalfClosed(t *testing.T) {
	s := newSpliced(t, true, false, 0)
	if _, err := s.a.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := halfClose(s.a); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s.b); err != nil || string(got) != "question" {
		t.Fatalf("got %q, %v", got, err)
	}
	for _, word := range []string{"answer one", "answer two"} {
		if _, err := s.b.Write([]byte(word)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(word))
		if _, err := io.ReadFull(s.a, got); err != nil || string(got) != word {
			t.Fatalf("got %q, %v", got, err)
		}
	}
	if len(s.over) > 0 {
		t.Fatal("it was over too soon")
	}
	_ = s.b.Close()
	if err := s.end(t); err != nil {
		t.Errorf("over with %v", err)
	}
}

// A side that breaks off ends the pair, and it is known which one it was; so does one that takes nothing for too long, and stop.
func TestSpliceBroken(t *testing.T) {
	reset := func(c net.Conn) {
		if tlsConn, ok := c.(*tls.Conn); ok {
			c = tlsConn.NetConn()
		}
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	for name, of := range map[string]struct {
		slow  time.Duration
		do    func(s *splicedPair)
		atA   bool
		cause func(error) bool
	}{
		"a resets": {do: func(s *splicedPair) { reset(s.a) }, atA: true, cause: func(err error) bool { return err != nil }},
		"b resets": {do: func(s *splicedPair) { reset(s.b) }, cause: func(err error) bool { return err != nil }},
		"b takes nothing": {
			slow: 300 * time.Millisecond,
			do: func(s *splicedPair) {
				go func() { _, _ = io.Copy(s.a, io.LimitReader(zeros{}, 64<<20)) }()
			},
			cause: func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) },
		},
		"b takes nothing and goes": {
			do: func(s *splicedPair) {
				go func() { _, _ = io.Copy(s.a, io.LimitReader(zeros{}, 64<<20)) }()
				time.Sleep(50 * time.Millisecond)
				reset(s.b)
			},
			cause: func(err error) bool { return err != nil },
		},
		"closed from outside": {do: func(s *splicedPair) { _ = s.ours[0].Close() }, atA: true, cause: func(err error) bool { return errors.Is(err, net.ErrClosed) }},
		"stop":                {do: func(s *splicedPair) { s.stop(); s.stop() }, atA: true, cause: func(err error) bool { return errors.Is(err, net.ErrClosed) }},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSpliced(t, true, false, of.slow)
			of.do(s)
			if err := s.end(t); !of.cause(err) || s.faultyA.Load() != of.atA {
				t.Errorf("over with %v, at A: %v", err, s.faultyA.Load())
			}
			_, err := io.Copy(io.Discard, s.a)
			if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
				t.Error("the other side was not closed")
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// What TLS has read before arrives first.
func TestSpliceEarly(t *testing.T) {
	s := &splicedPair{over: make(chan error, 2)}
	s.ours[0], s.a = connected(t, true, buffers)
	s.ours[1], s.b = connected(t, false, buffers)
	for _, record := range []string{"f", "irst, ", "second"} {
		if _, err := s.a.Write([]byte(record)); err != nil {
			t.Fatal(err)
		}
	}
	time.Sleep(20 * time.Millisecond) // the records are in the kernel now, and TLS takes more than the one that is read
	if _, err := io.ReadFull(s.ours[0], make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	splicer := NewSplicer(nil)
	stop, ok := splicer.Splice(s.ours[0], s.ours[1], 0, s)
	if !ok {
		t.Fatal("they can't be spliced")
	}
	got := make([]byte, len("irst, second"))
	if _, err := io.ReadFull(s.b, got); err != nil || string(got) != "irst, second" {
		t.Errorf("got %q, %v", got, err)
	}
	stop()
	_ = s.end(t)
	_ = splicer.Close()
}

// Where no socket is at hand nothing happens.
func TestSpliceRefuses(t *testing.T) {
	a, b := net.Pipe()
	c, far := connected(t, false, buffers)
	defer c.Close()
	defer a.Close()
	defer b.Close()
	plain, farPlain := connected(t, false, buffers)
	bare := tls.Server(plain, &tls.Config{}) // nothing beneath it can be redirected
	defer plain.Close()
	splicer := NewSplicer(nil)
	for name, pair := range map[string][2]net.Conn{"a pipe": {c, a}, "TLS on a bare socket": {bare, c}} {
		if _, ok := splicer.Splice(pair[0], pair[1], 0, nil); ok {
			t.Errorf("%s was spliced", name)
		}
	}
	if _, err := c.Write([]byte("x")); err != nil {
		t.Error("it was taken over all the same")
	}
	_, _ = far, farPlain
	_ = splicer.Close()
	if _, ok := splicer.Splice(c, c, 0, nil); ok {
		t.Error("spliced after Close")
	}
	if conn := Redirectable(a); conn != a {
		t.Error("what is no socket was wrapped")
	}
}

// Much that TLS has read before, and more in the kernel, to a side that reads nothing yet: nothing is lost, and nobody is given up.
func TestSpliceEarlyMuch(t *testing.T) {
	s := &splicedPair{over: make(chan error, 2)}
	s.ours[0], s.a = connected(t, true, 256<<10)
	s.ours[1], s.b = connected(t, true, 4096)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 16<<10)
	go func() {
		_, _ = s.a.Write(sent) // an error shows at the other end
		_ = halfClose(s.a)
	}()
	head := make([]byte, 40<<10)
	if _, err := io.ReadFull(s.ours[0], head); err != nil {
		t.Fatal(err)
	}
	splicer := NewSplicer(nil)
	stop, ok := splicer.Splice(s.ours[0], s.ours[1], 0, s)
	if !ok {
		t.Fatal("they can't be spliced")
	}
	got, err := io.ReadAll(s.b)
	if err != nil || !bytes.Equal(append(head, got...), sent) {
		t.Errorf("%d bytes came of %d, or others: %v", len(head)+len(got), len(sent), err)
	}
	stop()
	_ = s.end(t)
	_ = splicer.Close()
}

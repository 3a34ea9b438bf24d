package portmux

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// ErrIdle is the end of a splice in which nothing moved for too long.
var ErrIdle error = idleError{}

type idleError struct{}

func (idleError) Error() string  { return "idle for too long" }
func (idleError) Status() string { return statusTimeout }

// Splice copies both ways between a and b until both sides have ended, one side breaks, or nothing has moved in either
// direction for idle (zero: for ever). It closes both. The end of one direction is passed on as a half-close, and the
// other goes on.
//
// The error is nil if both sides ended in order. Where both are TCP underneath (a Conn that is plain is), bulk data moves in
// the kernel by splice(2). Silence costs a small buffer a direction.
func Splice(a, b net.Conn, idle time.Duration) error {
	s := &splicing{idle: idle, a: a, b: b}
	_ = a.SetDeadline(time.Time{})
	_ = b.SetDeadline(time.Time{})
	s.touch()
	if idle > 0 {
		s.mu.Lock()
		s.watchdog = time.AfterFunc(idle, s.watch)
		s.mu.Unlock()
	}
	up := s.pump(a, b)
	down := s.pump(b, a)
	done := make(chan struct{})
	go func() {
		defer close(done)
		up.run()
	}()
	down.run()
	<-done
	s.end(nil)
	return s.err
}

// splicing is what the two directions share.
type splicing struct {
	a, b net.Conn
	idle time.Duration
	last atomic.Int64 // when something moved, in Unix nanoseconds

	once     sync.Once
	mu       sync.Mutex
	watchdog *time.Timer
	err      error
}

func (s *splicing) touch() { s.last.Store(time.Now().UnixNano()) }

// watch ends a splice that has gone silent. It is a timer, not a deadline on each read, because one silent direction is
// no reason to end, and because it also sees a direction that is stuck in a write.
func (s *splicing) watch() {
	silent := time.Since(time.Unix(0, s.last.Load()))
	if silent >= s.idle {
		s.end(ErrIdle)
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watchdog.Reset(s.idle - silent)
}

// end closes both sides, which ends both directions. The first reason counts.
func (s *splicing) end(err error) {
	s.once.Do(func() {
		s.err = err
		for _, c := range []net.Conn{s.a, s.b} {
			if c := Of(c); c != nil && err != nil {
				c.Fail(statusOf(err, statusClient), err)
			}
		}
		if s.idle > 0 {
			s.mu.Lock()
			s.watchdog.Stop()
			s.mu.Unlock()
		}
		_ = s.a.Close()
		_ = s.b.Close()
	})
}

// pump is one direction.
type pump struct {
	*splicing
	src, dst net.Conn
	in, out  *atomic.Int64 // counters of Conns whose inside is used directly
	head     []byte
	until    time.Time // the deadline of src while it is hot
}

const (
	coldSize = 512      // held while a direction is silent
	hotSize  = 32 << 10 // borrowed while it is not; two TLS records
	bulkSize = 4 << 20  // at most, by splice(2), before the counters move
	cooling  = time.Second
)

type hotBuffer [hotSize]byte

// pump readies one direction, over what lies beneath src and dst.
func (s *splicing) pump(src, dst net.Conn) *pump {
	p := &pump{splicing: s, src: src, dst: dst}
	if c, ok := src.(interface{ Detach() (net.Conn, []byte) }); ok {
		p.src, p.head = c.Detach()
		p.in = wireCounter(src, func(w *wire) *atomic.Int64 { return &w.in })
	}
	if c := Of(dst); c != nil && c.tls == nil {
		p.dst = c.wire.conn
		p.out = wireCounter(dst, func(w *wire) *atomic.Int64 { return &w.out })
	}
	return p
}

func wireCounter(c net.Conn, which func(*wire) *atomic.Int64) *atomic.Int64 {
	if c := Of(c); c != nil && c.tls == nil {
		return which(&c.wire)
	}
	return nil
}

func (p *pump) run() {
	in := p.in
	p.in = nil // the head was counted when it was read
	err := p.write(p.head)
	p.head, p.in = nil, in
	if err == nil {
		err = p.copy()
	}
	if err == nil {
		err = closeWrite(p.dst)
	}
	if err != nil {
		p.end(err)
	}
}

func closeWrite(c net.Conn) error {
	if c, ok := c.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return c.Close()
}

// copy moves bytes until the source ends. It waits with a small buffer. A read that fills it is the sign of more to come:
// then it borrows a large one, or leaves the copying to the kernel, until the source pauses.
func (p *pump) copy() error {
	cold := make([]byte, coldSize)
	for {
		n, err := p.src.Read(cold)
		if werr := p.write(cold[:n]); werr != nil {
			return werr
		}
		if err == nil && n == coldSize {
			err = p.hot()
		}
		if err != nil {
			return notEOF(err)
		}
	}
}

func notEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// hot moves bytes while there are many. It returns nil when the source pauses.
func (p *pump) hot() error {
	defer p.cool()
	step := p.kernelStep()
	if step == nil {
		buf := hotBuffers.Get().(*hotBuffer)
		defer hotBuffers.Put(buf)
		step = func() (int64, error) {
			n, err := p.src.Read(buf[:])
			if werr := p.write(buf[:n]); werr != nil {
				return 0, werr
			}
			return int64(n), err
		}
	}
	for {
		p.warm()
		n, err := step()
		switch {
		case err != nil && !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		case n < coldSize:
			return nil
		}
	}
}

// warm has the next step end when the source pauses. Moving the deadline for every piece would cost more than it is worth.
func (p *pump) warm() {
	if now := time.Now(); p.until.Sub(now) < cooling/2 {
		p.until = now.Add(cooling)
		_ = p.src.SetReadDeadline(p.until)
	}
}

func (p *pump) cool() {
	p.until = time.Time{}
	_ = p.src.SetReadDeadline(p.until)
}

// kernelStep moves bytes by splice(2), if both sides are sockets. The pipe that the kernel copies through costs two
// descriptors, so it is held only while there is much to copy.
func (p *pump) kernelStep() func() (int64, error) {
	src, ok := p.src.(*net.TCPConn)
	if !ok {
		return nil
	}
	dst, ok := p.dst.(*net.TCPConn)
	if !ok {
		return nil
	}
	return func() (int64, error) {
		r := &io.LimitedReader{R: src, N: bulkSize}
		n, err := dst.ReadFrom(r)
		p.count(n)
		if err == nil && r.N > 0 {
			err = io.EOF
		}
		return n, err
	}
}

// hotBuffers are shared by all splices: a pool is the one thing that has to be global to be of use.
var hotBuffers = sync.Pool{New: func() any { return new(hotBuffer) }}

func (p *pump) write(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := p.dst.Write(b)
	p.count(int64(n))
	return err
}

// count notes that n bytes have moved.
func (p *pump) count(n int64) {
	if n == 0 {
		return
	}
	p.touch()
	if p.in != nil {
		p.in.Add(n)
	}
	if p.out != nil {
		p.out.Add(n)
	}
}

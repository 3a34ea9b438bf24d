package relay

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"hafen/gateway/defect"
)

// Splicer moves bytes between two connections, both ways and as they are: tunnels and WebSockets, of which most are silent
// and the others send short messages. That is the work of a loop, for the reasons that media has (loop.go); these loops are its own,
// so that no tunnel keeps a call waiting. A pair costs its two connections and nothing else: no goroutine, no buffer.
//
// What one side sends is read only while the other side takes it, so that a pair never holds more than what was read at once.
type Splicer struct{ loops loops }

// NewSplicer makes one. defects is told of panics; nil: they are caught all the same.
func NewSplicer(defects *defect.Catcher) *Splicer { return &Splicer{loops{defects: defects}} }

// Spliced is whose pair it is.
type Spliced interface {
	// Moved is told, on the loop's thread, how many bytes were passed on.
	Moved(fromA bool, n int)
	// HalfClosed is told, on the loop's thread, that one side has ended its direction, which the other side was told.
	HalfClosed()
	// Over is told once, on a goroutine of its own, that nothing is moved any more. Without an error both sides have ended their
	// direction in order; else it says whose fault that was. The connections are the owner's to close, before it returns.
	Over(atA bool, err error)
}

// Splice moves bytes between a and b until both have ended, one has failed, has taken nothing for the time given (0: for ever), or stop
// is called. Nobody may read or write them any more; to close them remains the owner's. ok is false where it can't be done, and then
// nothing has happened: a socket must be at hand, bare or beneath one layer of TLS whose connection can be redirected.
func (s *Splicer) Splice(a, b net.Conn, slow time.Duration, owner Spliced) (stop func(), ok bool) {
	l, err := s.loops.pick()
	if err != nil {
		return nil, false
	}
	p := &pair{loop: l, slow: slow, owner: owner}
	for i, conn := range []net.Conn{a, b} {
		if ok := p.sides[i].find(p, conn); !ok {
			return nil, false
		}
	}
	for i := range p.sides {
		if err := p.sides[i].take(); err != nil {
			if i == 0 {
				return nil, false
			}
			p.lost = err
			break
		}
	}
	l.flushLater(p)
	return func() { l.flushLater(stopPair{p}) }, true
}

// Close ends the loops. All pairs must be over.
func (s *Splicer) Close() error {
	s.loops.close()
	return nil
}

// Redirectable wraps a connection that TLS is to be put on, so that Splice can have the socket beneath.
func Redirectable(conn net.Conn) net.Conn {
	if tcp, ok := conn.(*net.TCPConn); ok {
		return &wire{Conn: tcp}
	}
	return conn
}

// pair is two connections of one loop. All but its making happens on the loop's thread.
type pair struct {
	loop  *loop
	slow  time.Duration
	owner Spliced
	sides [2]pairSide
	lost  error // before it began
	over  bool
}

// pairSide is one of the two.
type pairSide struct {
	pair   *pair
	conn   net.Conn // a *tls.Conn, or the socket's connection
	tcp    socketConn
	io     io.ReadWriter // the plaintext: conn, or the socket itself
	socket *socket

	ended   bool  // it sends nothing more
	full    bool  // it takes nothing now, so the other side is not read
	closing bool  // it is to be told that the other side has ended
	closed  bool  // it was
	stuck   alarm // set while it takes nothing
}

// find looks whether a socket is to be had.
func (x *pairSide) find(p *pair, conn net.Conn) bool {
	x.pair, x.conn, x.tcp = p, conn, beneath(conn)
	if c, secure := x.conn.(*tls.Conn); secure {
		if _, ok := c.NetConn().(redirector); !ok {
			return false
		}
	}
	_, ok := x.tcp.(*net.TCPConn)
	return ok
}

// take makes the socket the loop's.
func (x *pairSide) take() (err error) {
	if x.socket, err = takeSocket(x.pair.loop, x.tcp, x); err != nil {
		return err
	}
	x.io = x.socket
	if c, secure := x.conn.(*tls.Conn); secure {
		x.io = c
		c.NetConn().(redirector).Redirect(x.socket)
	}
	return nil
}

// flush implements flusher: the first turn. What TLS has read already no event tells of. It is passed on by itself: together with what the
// kernel has, it might be more than may wait for a side.
func (p *pair) flush() {
	a, b := &p.sides[0], &p.sides[1]
	for _, x := range []*pairSide{a, b} {
		if p.lost == nil {
			p.lost = p.loop.watch(x.socket.descriptor)
		}
	}
	if p.lost != nil {
		p.finish(b, p.lost)
		return
	}
	for _, x := range []*pairSide{a, b} {
		if !p.over && !x.other().full {
			x.forward()
			x.settle()
		}
	}
}

// broke implements guest, for the pair and for each of its sides.
func (p *pair) broke(defect error) { p.finish(&p.sides[0], defect) }

func (x *pairSide) broke(defect error) { x.pair.finish(x, defect) }

// stopPair ends a pair from outside.
type stopPair struct{ *pair }

func (s stopPair) flush() { s.finish(&s.sides[0], net.ErrClosed) }

func (x *pairSide) other() *pairSide {
	if x == &x.pair.sides[0] {
		return &x.pair.sides[1]
	}
	return &x.pair.sides[0]
}

func (x *pairSide) isA() bool { return x == &x.pair.sides[0] }

// ready implements pollable.
func (x *pairSide) ready(readable, writable bool) {
	y := x.other()
	if x.pair.over {
		return
	}
	if x.full && (writable || readable) {
		x.drain()
	}
	switch {
	case x.pair.over || !readable:
	case (x.ended || y.full) && !x.full:
		x.socket.ignore() // it was reset: found out when there is something to be done with it again
		return
	case !x.ended && !y.full:
		x.read()
	}
	x.settle()
}

// read takes what the kernel has and passes it on. Only if the other side takes it.
func (x *pairSide) read() {
	x.socket.fill(x.pair.loop.raw[:])
	x.forward()
}

// forward passes on what was filled, and what TLS had read before.
func (x *pairSide) forward() {
	y, k := x.other(), x.socket
	y.socket.cork()
	moved, err := x.pass(y)
	k.filled = nil
	if failed := y.socket.uncork(); failed != nil && moved >= 0 {
		moved, err = -1, failed
	}
	if moved < 0 {
		x.pair.finish(y, err)
		return
	}
	if moved > 0 {
		x.pair.owner.Moved(x.isA(), moved)
	}
	switch {
	case errors.Is(err, errWouldBlock):
	case k.wasClosed():
		x.pair.finish(x, net.ErrClosed)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		// TLS without a close_notify ends as often in practice as with one.
		x.ended, y.closing = true, true
	default:
		x.pair.finish(x, err)
	}
}

// pass reads to the end of what was filled and writes it to y. It tells how many bytes those were, or -1 if y failed.
func (x *pairSide) pass(y *pairSide) (moved int, err error) {
	buf := x.pair.loop.in.bytes[:]
	n := 0
	for err == nil {
		for err == nil && n < len(buf) {
			var got int
			got, err = x.io.Read(buf[n:])
			n += got
		}
		if n > 0 {
			defect.Provoke("splice", buf[:n])
			if _, failed := y.io.Write(buf[:n]); failed != nil {
				return -1, failed
			}
			moved, n = moved+n, 0
		}
	}
	return moved, err
}

// drain writes what was kept for x.
func (x *pairSide) drain() {
	before := x.socket.total()
	x.socket.resume()
	done, err := x.socket.flush()
	switch {
	case err != nil:
		x.pair.finish(x, err)
	case done:
		x.full = false
		x.pair.loop.calm(&x.stuck)
	case x.socket.total() != before:
		x.limit()
	}
}

// limit gives x the time to take something.
func (x *pairSide) limit() {
	if slow := x.pair.slow; slow > 0 {
		if x.stuck.call == nil {
			x.stuck.guest, x.stuck.call = x, func() { x.pair.finish(x, os.ErrDeadlineExceeded) }
		}
		x.pair.loop.wakeAt(&x.stuck, nanoseconds()+int64(slow))
	}
}

// settle does what has become possible and watches for what is needed next.
func (x *pairSide) settle() {
	p := x.pair
	if p.over {
		return
	}
	for i := range p.sides {
		s := &p.sides[i]
		if s.socket.kept() && !s.full {
			s.full = true
			s.limit()
		}
		if s.closing && !s.closed && !s.full {
			s.closed = true
			s.closeWrite()
			p.owner.HalfClosed()
		}
	}
	if p.sides[0].closed && p.sides[1].closed {
		p.finish(x, nil)
		return
	}
	for i := range p.sides {
		p.sides[i].watch()
	}
}

// closeWrite tells x that nothing more comes. What can't be told shows as an error of the other direction.
func (x *pairSide) closeWrite() {
	if c, secure := x.conn.(*tls.Conn); secure {
		_ = c.CloseWrite()
		return
	}
	_ = x.socket.CloseWrite()
}

func (x *pairSide) watch() {
	wants := uint32(0)
	if !x.ended && !x.other().full {
		wants = unix.EPOLLIN | unix.EPOLLRDHUP
	}
	if x.full {
		wants |= unix.EPOLLOUT
	}
	x.socket.expect(wants, x.full)
}

// finish ends the pair; x is whose error it is.
func (p *pair) finish(x *pairSide, err error) {
	if p.over {
		return
	}
	p.over = true
	for i := range p.sides {
		if s := &p.sides[i]; s.socket != nil {
			p.loop.calm(&s.stuck)
			s.socket.ignore()
		}
	}
	go func() {
		defer p.loop.defects.Catch(nil)
		p.owner.Over(x.isA(), err)
		for i := range p.sides {
			if s := &p.sides[i]; s.socket != nil {
				s.socket.close()
			}
		}
	}()
}

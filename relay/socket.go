package relay

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// notSentLowat is how much unsent data the kernel holds before it calls a socket full (TCP_NOTSENT_LOWAT). What waits must
	// wait with us, where audio can overtake it.
	notSentLowat = 4096
	// clientUserTimeout ends a connection whose bytes nobody acknowledges (RFC 5482).
	clientUserTimeout = 20 * time.Second
	// maxUnwritten bounds what TLS has encrypted and the kernel has not taken. One record is the rule; more comes only from a
	// client that makes TLS answer while it does not read.
	maxUnwritten = 64 << 10
)

// errWouldBlock says that there is nothing to read now. It is temporary, so that crypto/tls does not take it for the end.
type wouldBlockError struct{}

func (wouldBlockError) Error() string   { return "would block" }
func (wouldBlockError) Timeout() bool   { return true }
func (wouldBlockError) Temporary() bool { return true }

var errWouldBlock error = wouldBlockError{}

// socket is a TCP socket of a loop: the layer beneath TLS, or the stream itself. It never blocks.
//
// Reading is in two steps: fill takes what the kernel has, and Read hands it on until it says errWouldBlock, without a system call.
// A write is always taken whole, since TLS is broken for ever by half a record; what the kernel does not take is kept, and is to be
// flushed when the socket has become writable.
type socket struct {
	*descriptor // its lock is the writers': the stream, and TLS answering from within a read

	filled []byte // read from the kernel, and not handed on
	ended  error  // behind that; nil: it goes on

	unwritten []byte
	corked    bool // what is written is kept until uncork
	awaited   bool // the loop tells when the socket becomes writable
	failed    error
	hungUp    bool  // by Close
	written   int64 // bytes, ever

	poll [1]unix.PollFd
	info pathInfo
}

// newSocket takes the TCP connection beneath conn over; nil when there is none.
func newSocket(l *loop, conn net.Conn, user pollable) *socket {
	tcp, ok := beneath(conn).(*net.TCPConn)
	if !ok || l == nil {
		return nil
	}
	k, err := takeSocket(l, tcp, user)
	if err != nil {
		return nil
	}
	// Both are wishes: without them the queue is longer, and a dead client found later.
	_ = unix.SetsockoptInt(k.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	_ = unix.SetsockoptInt(k.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(clientUserTimeout.Milliseconds()))
	return k
}

// takeSocket takes a TCP connection over, which is Go's no longer. On an error it still is.
func takeSocket(l *loop, tcp socketConn, user pollable) (*socket, error) {
	d, err := l.adopt(tcp, user)
	if err != nil {
		return nil, err
	}
	return &socket{descriptor: d}, nil
}

// fill reads what the kernel has into buf. Only its loop may, and what was filled before must have been read.
func (k *socket) fill(buf []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		k.ended = net.ErrClosed
		return
	}
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVFROM, uintptr(k.fd), uintptr(unsafe.Pointer(unsafe.SliceData(buf))), uintptr(len(buf)),
			unix.MSG_DONTWAIT, 0, 0)
		switch {
		case errno == unix.EINTR:
			continue
		case errno == unix.EAGAIN:
		case errno != 0:
			k.ended = errno
		case n == 0:
			k.ended = io.EOF
		default:
			k.filled = buf[:n]
		}
		return
	}
}

// Read hands on what was filled.
func (k *socket) Read(p []byte) (int, error) {
	switch {
	case len(k.filled) > 0:
		n := copy(p, k.filled)
		if k.filled = k.filled[n:]; len(k.filled) == 0 {
			k.filled = nil
		}
		return n, nil
	case k.ended != nil:
		return 0, k.ended
	}
	return 0, errWouldBlock
}

// Write takes all of p; an error means that the connection is lost.
func (k *socket) Write(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.failed != nil {
		return 0, k.failed
	}
	rest := p
	if len(k.unwritten) == 0 && !k.awaited && !k.corked {
		rest = k.attempt(p)
	}
	k.keep(rest)
	if k.failed != nil {
		return 0, k.failed
	}
	return len(p), nil
}

// keep keeps what was not written. The caller has the lock.
func (k *socket) keep(rest []byte) {
	switch {
	case len(rest) == 0 || k.failed != nil:
		return
	case len(k.unwritten)+len(rest) > maxUnwritten:
		k.failed = errStuck
		return
	case k.unwritten == nil:
		k.unwritten = unwrittenBuffers.Get().(*unwrittenBuffer)[:0]
	}
	if len(k.unwritten)+len(rest) > cap(k.unwritten) {
		large := append(largeBuffers.Get().(*largeBuffer)[:0], k.unwritten...)
		k.forget()
		k.unwritten = large
	}
	k.unwritten = append(k.unwritten, rest...)
}

// forget gives the buffer of what was kept back, now that it is written or lost. The caller has the lock.
func (k *socket) forget() {
	switch all := k.unwritten[:cap(k.unwritten)]; len(all) {
	case len(unwrittenBuffer{}):
		unwrittenBuffers.Put((*unwrittenBuffer)(all))
	case len(largeBuffer{}):
		largeBuffers.Put((*largeBuffer)(all))
	}
	k.unwritten = nil
}

// unwrittenBuffer has room for a chunk in TLS records.
type unwrittenBuffer [24 << 10]byte

// largeBuffer has room for all that may be kept.
type largeBuffer [maxUnwritten]byte

var largeBuffers = sync.Pool{New: func() any { return new(largeBuffer) }}

var unwrittenBuffers = sync.Pool{New: func() any { return new(unwrittenBuffer) }}

// cork has writes kept, so that uncork writes them all at once.
func (k *socket) cork() {
	k.mu.Lock()
	k.corked = true
	k.mu.Unlock()
}

func (k *socket) uncork() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.corked = false
	k.push()
	return k.failed
}

// attempt writes what the kernel takes of p, and returns what it does not. The caller has the lock.
func (k *socket) attempt(p []byte) []byte {
	for len(p) > 0 && !k.closed {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(k.fd), uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)),
			unix.MSG_DONTWAIT|unix.MSG_NOSIGNAL, 0, 0)
		switch errno {
		case 0:
			p = p[n:]
			k.written += int64(n)
		case unix.EINTR:
		case unix.EAGAIN:
			return p
		default:
			k.failed = errno
			return p
		}
	}
	if k.closed && k.failed == nil {
		k.failed = net.ErrClosed
	}
	return p
}

// push writes what was kept. The caller has the lock.
func (k *socket) push() {
	if len(k.unwritten) > 0 && k.failed == nil && !k.awaited {
		rest := k.attempt(k.unwritten)
		k.unwritten = k.unwritten[:copy(k.unwritten, rest)]
		if len(rest) == 0 || k.failed != nil {
			k.forget()
		}
	}
}

// flush writes what was kept; done when nothing of it is left.
func (k *socket) flush() (done bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.push()
	return len(k.unwritten) == 0, k.failed
}

// kept tells whether something waits to be flushed.
func (k *socket) kept() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.unwritten) > 0
}

// progress tells how many bytes were written, and how many of them are not acknowledged yet. full: the kernel holds so many unsent
// that it is to be waited for. Where the kernel can't tell, none are under way.
//
// A write is no way to ask: the kernel adds to a segment that has not gone out yet without looking at the low-water mark, and so
// takes much more than that.
func (k *socket) progress() (written int64, underway int, full bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.awaited || k.closed {
		return k.written, 0, true
	}
	var n int32
	if _, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(k.fd), unix.SIOCOUTQ, uintptr(unsafe.Pointer(&n))); errno != 0 {
		return k.written, 0, !k.canWrite()
	}
	return k.written, int(n), n > manyUnacked && !k.canWrite()
}

// total is how many bytes were written, ever.
func (k *socket) total() int64 {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.written
}

// path asks the kernel what it knows of the path.
func (k *socket) path() pathInfo {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return k.info
	}
	if info, err := unix.GetsockoptTCPInfo(k.fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
		k.info = pathInfo{minRTT: time.Duration(info.Min_rtt) * time.Microsecond, retrans: info.Total_retrans}
	}
	return k.info
}

// canWrite asks whether the kernel has room. The caller has the lock.
func (k *socket) canWrite() bool {
	k.poll[0] = unix.PollFd{Fd: int32(k.fd), Events: unix.POLLOUT}
	n, err := unix.Poll(k.poll[:], 0)
	return err != nil || n > 0
}

// await has the loop tell when the socket has become writable. Until then writes are kept.
func (k *socket) await(wanted bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.awaited = wanted
	if wanted {
		k.want(unix.EPOLLOUT)
	} else {
		k.want(0)
	}
}

// expect has the loop watch for just these events. full: writes are kept until resume.
func (k *socket) expect(wants uint32, full bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.awaited = full
	k.watchFor(wants)
}

// resume lets writes through to the kernel again.
func (k *socket) resume() {
	k.mu.Lock()
	k.awaited = false
	k.mu.Unlock()
}

// CloseWrite ends our direction.
func (k *socket) CloseWrite() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return net.ErrClosed
	}
	return unix.Shutdown(k.fd, unix.SHUT_WR)
}

// Close ends the connection from outside: its loop finds it at its end, and tells its stream, which gives the socket up.
func (k *socket) Close() error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return net.ErrClosed
	}
	k.hungUp = true
	return unix.Shutdown(k.fd, unix.SHUT_RDWR)
}

// wasClosed tells whether the connection's end was Close's work.
func (k *socket) wasClosed() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.hungUp
}

// wire is a connection beneath TLS that can be put over other I/O when the handshake is done. The owner of the TLS connection
// calls Redirect before anybody reads or writes.
type wire struct {
	net.Conn
	over io.ReadWriter
}

// Redirect has w read from rw and write to it from now on. Closing w closes rw too, if that can be closed.
func (w *wire) Redirect(rw io.ReadWriter) { w.over = rw }

// Close ends the connection.
func (w *wire) Close() error {
	if c, ok := w.over.(io.Closer); ok {
		return errors.Join(w.Conn.Close(), c.Close())
	}
	return w.Conn.Close()
}

// NetConn is the connection beneath.
func (w *wire) NetConn() net.Conn { return w.Conn }

func (w *wire) Read(p []byte) (int, error) {
	if w.over != nil {
		return w.over.Read(p)
	}
	return w.Conn.Read(p)
}

func (w *wire) Write(p []byte) (int, error) {
	if w.over != nil {
		return w.over.Write(p)
	}
	return w.Conn.Write(p)
}

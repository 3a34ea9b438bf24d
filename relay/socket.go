package relay

import (
	"io"
	"net"
	"sync"
	"syscall"
	"time"

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

// socket is a TCP socket that never blocks: the layer beneath TLS, or the stream itself.
//
// A read says errWouldBlock when there is nothing. A write is always taken whole, since TLS is broken for ever by half a record;
// what the kernel does not take is kept, and is to be flushed when the socket has become writable. Read may be called in the
// callback of raw.Read only: there, the descriptor is sure to be the connection's.
type socket struct {
	raw syscall.RawConn
	fd  int

	mu        sync.Mutex // writers: the stream, and TLS answering from within a read
	unwritten []byte
	corked    bool // what is written is kept until uncork
	awaited   bool // somebody waits for the socket to become writable, and writes then
	failed    error
	written   int64 // bytes, ever

	// What the callbacks of raw work on, made once so that no call allocates.
	poll      [1]unix.PollFd
	writing   []byte
	underway  int
	full      bool // of bytes that the kernel has not sent yet
	info      pathInfo
	count     func(fd uintptr)
	inform    func(fd uintptr)
	tryWrite  func(fd uintptr) bool
	waitWrite func(fd uintptr) bool
}

// newSocket takes the TCP connection beneath conn over; nil when there is none.
func newSocket(conn net.Conn) *socket {
	sc := socketOf(conn)
	if sc == nil {
		return nil
	}
	if _, ok := sc.(*net.UnixConn); ok {
		return nil
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	k := &socket{raw: raw, fd: -1}
	err = raw.Control(func(fd uintptr) {
		k.fd = int(fd)
		// Both are wishes: without them the queue is longer, and a dead client found later.
		_ = unix.SetsockoptInt(k.fd, unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		_ = unix.SetsockoptInt(k.fd, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(clientUserTimeout.Milliseconds()))
	})
	if err != nil || k.fd < 0 {
		return nil
	}
	k.count = func(fd uintptr) { k.countUnderway(int(fd)) }
	k.inform = func(fd uintptr) { k.askPath(int(fd)) }
	k.tryWrite = func(fd uintptr) bool { k.write(int(fd)); return true }
	k.waitWrite = func(fd uintptr) bool { return k.ready(int(fd)) }
	return k
}

// Read reads what there is. Only in the callback of raw.Read.
func (k *socket) Read(p []byte) (int, error) {
	for {
		n, err := unix.Read(k.fd, p)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return 0, errWouldBlock
		case err != nil:
			return 0, err
		case n == 0 && len(p) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
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
	k.unwritten = append(k.unwritten, rest...)
}

// forget gives the buffer of what was kept back, now that it is written or lost. The caller has the lock.
func (k *socket) forget() {
	if cap(k.unwritten) == len(unwrittenBuffer{}) {
		unwrittenBuffers.Put((*unwrittenBuffer)(k.unwritten[:cap(k.unwritten)]))
	}
	k.unwritten = nil
}

// unwrittenBuffer has room for a chunk in TLS records.
type unwrittenBuffer [24 << 10]byte

var unwrittenBuffers = sync.Pool{New: func() any { return new(unwrittenBuffer) }}

// cork has writes kept, so that uncork writes them all at once.
func (k *socket) cork() {
	k.mu.Lock()
	k.corked = true
	k.mu.Unlock()
}

func (k *socket) uncork() error {
	k.mu.Lock()
	k.corked = false
	k.mu.Unlock()
	_, err := k.flush()
	return err
}

// attempt writes what the kernel takes of p, and returns what it does not.
func (k *socket) attempt(p []byte) []byte {
	k.writing = p
	err := k.raw.Write(k.tryWrite)
	rest := k.writing
	k.writing = nil
	if err != nil && k.failed == nil {
		k.failed = err
	}
	return rest
}

func (k *socket) write(fd int) {
	for len(k.writing) > 0 {
		n, err := unix.Write(fd, k.writing)
		switch {
		case err == unix.EINTR:
		case err == unix.EAGAIN:
			return
		case err != nil:
			k.failed = err
			return
		default:
			k.writing = k.writing[n:]
			k.written += int64(n)
		}
	}
}

// flush writes what was kept; done when nothing of it is left.
func (k *socket) flush() (done bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.unwritten) > 0 && k.failed == nil && !k.awaited {
		rest := k.attempt(k.unwritten)
		k.unwritten = k.unwritten[:copy(k.unwritten, rest)]
		if len(rest) == 0 || k.failed != nil {
			k.forget()
		}
	}
	return len(k.unwritten) == 0, k.failed
}

// kept tells whether something waits to be flushed.
func (k *socket) kept() bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return len(k.unwritten) > 0
}

// progress tells how many bytes were written, and how many of them are not acknowledged yet. full: the kernel holds so many unsent
// that it is to be waited for; awaitWritable's notice is armed then. Where the kernel can't tell, none are under way.
//
// A write is no way to ask: the kernel adds to a segment that has not gone out yet without looking at the low-water mark, and so
// takes much more than that.
func (k *socket) progress() (written int64, underway int, full bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.awaited {
		return k.written, 0, true
	}
	k.underway, k.full = 0, false
	_ = k.raw.Control(k.count)
	return k.written, k.underway, k.full
}

func (k *socket) countUnderway(fd int) {
	n, err := unix.IoctlGetInt(fd, unix.SIOCOUTQ)
	if err != nil {
		k.full = !k.ready(fd)
		return
	}
	k.underway = n
	k.full = n > manyUnacked && !k.ready(fd)
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
	_ = k.raw.Control(k.inform)
	return k.info
}

func (k *socket) askPath(fd int) {
	if info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO); err == nil {
		k.info = pathInfo{minRTT: time.Duration(info.Min_rtt) * time.Microsecond, retrans: info.Total_retrans}
	}
}

func (k *socket) ready(fd int) bool {
	k.poll[0] = unix.PollFd{Fd: int32(fd), Events: unix.POLLOUT}
	n, err := unix.Poll(k.poll[:], 0)
	return err != nil || n > 0
}

// awaitWritable blocks until the socket is writable or lost. Meanwhile writes are kept.
func (k *socket) awaitWritable() error {
	k.mu.Lock()
	k.awaited = true
	k.mu.Unlock()
	err := k.raw.Write(k.waitWrite)
	k.mu.Lock()
	defer k.mu.Unlock()
	k.awaited = false
	if err != nil && k.failed == nil {
		k.failed = err
	}
	return k.failed
}

// wire is a connection beneath TLS that can be put over other I/O when the handshake is done. The owner of the TLS connection
// calls Redirect before anybody reads or writes.
type wire struct {
	net.Conn
	over io.ReadWriter
}

// Redirect has w read from rw and write to it from now on.
func (w *wire) Redirect(rw io.ReadWriter) { w.over = rw }

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

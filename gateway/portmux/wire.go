package portmux

import (
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// wire is the TCP connection as TLS sees it: bytes that were peeked are read again, bytes are counted, and Close, whoever
// calls it, is the one end of the Conn.
type wire struct {
	conn   net.Conn
	owner  *Conn
	client netip.AddrPort
	remote net.Addr
	head   []byte    // peeked, to be read again
	hello  *helloTap // until a ClientHello was read
	other  atomic.Pointer[redirected]

	in, out atomic.Int64
	once    sync.Once
}

type redirected struct{ io.ReadWriter }

func (w *wire) Read(p []byte) (int, error) {
	if w.hello != nil {
		return w.hello.read(w, p)
	}
	return w.read(p)
}

func (w *wire) read(p []byte) (int, error) {
	if len(w.head) > 0 {
		n := copy(p, w.head)
		if w.head = w.head[n:]; len(w.head) == 0 {
			w.head = nil
		}
		return n, nil
	}
	n, err := w.source().Read(p)
	w.in.Add(int64(n))
	return n, err
}

func (w *wire) Write(p []byte) (int, error) {
	if w.hello != nil {
		return w.hello.write(p)
	}
	n, err := w.source().Write(p)
	w.out.Add(int64(n))
	return n, err
}

func (w *wire) source() io.ReadWriter {
	if o := w.other.Load(); o != nil {
		return o
	}
	return w.conn
}

// Redirect puts the connection over other I/O, once the handshake is done: an event loop that has taken the socket over reads and
// writes through rw instead. Close closes rw too, if it can be closed, and CloseWrite is rw's; deadlines mean nothing any more.
//
// crypto/tls takes a read error whose Temporary() is true as "try again", so rw.Read may say that nothing is there yet.
// A write error is final to it, so rw.Write must take everything.
func (w *wire) Redirect(rw io.ReadWriter) { w.other.Store(&redirected{rw}) }

// unread puts bytes back in front of those still to be read.
func (w *wire) unread(b []byte) { w.head = append(b, w.head...) }

func (w *wire) Close() error {
	err := net.ErrClosed
	w.once.Do(func() {
		err = w.conn.Close()
		if c, ok := w.redirected().(io.Closer); ok {
			err = c.Close()
		}
		w.owner.mux.ended(w.owner)
	})
	return err
}

// redirected is where the connection was redirected to; nil: nowhere.
func (w *wire) redirected() io.ReadWriter {
	if o := w.other.Load(); o != nil {
		return o.ReadWriter
	}
	return nil
}

func (w *wire) CloseWrite() error {
	if c, ok := w.redirected().(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	if c, ok := w.conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return w.Close()
}

func (w *wire) CloseRead() error {
	if c, ok := w.conn.(interface{ CloseRead() error }); ok {
		return c.CloseRead()
	}
	return nil
}

// sayLast sends the last bytes of a connection that is about to be closed so that they arrive: closing a socket with
// unread bytes in it resets it, and the reset overtakes what was sent.
func (w *wire) sayLast(b []byte) {
	const linger, most = 500 * time.Millisecond, 32 << 10
	_ = w.conn.SetDeadline(time.Now().Add(linger))
	if _, err := w.Write(b); err != nil {
		return
	}
	if err := w.CloseWrite(); err != nil {
		return
	}
	_, _ = io.CopyN(io.Discard, w.conn, most)
}

func (w *wire) LocalAddr() net.Addr                { return w.conn.LocalAddr() }
func (w *wire) RemoteAddr() net.Addr               { return w.remote }
func (w *wire) SetDeadline(t time.Time) error      { return w.conn.SetDeadline(t) }
func (w *wire) SetReadDeadline(t time.Time) error  { return w.conn.SetReadDeadline(t) }
func (w *wire) SetWriteDeadline(t time.Time) error { return w.conn.SetWriteDeadline(t) }

// NetConn is the socket: for its options.
func (w *wire) NetConn() net.Conn { return w.conn }

// SyscallConn is the socket's, for those that set options on a *tls.Conn's NetConn.
func (w *wire) SyscallConn() (syscall.RawConn, error) {
	if c, ok := w.conn.(syscall.Conn); ok {
		return c.SyscallConn()
	}
	return nil, syscall.EINVAL
}

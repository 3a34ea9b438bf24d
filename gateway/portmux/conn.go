package portmux

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"
)

// Conn is one client's connection with its protocol known and its first bytes still to be read. It has exactly one
// owner, who closes it; that is its end, and the only one.
//
// Until Established is called it counts as pending: pending connections are few and do not live long.
type Conn struct {
	wire wire
	mux  *Mux
	id   uint64 // it is the how-manieth of this mux

	tls   *tls.Conn // nil: plain
	head  []byte    // read from inside TLS and not yet consumed
	hello *Hello

	http     func(*Conn) // owner of HTTP on the listener it came by
	only     bool        // that listener speaks plain HTTP alone
	protocol Protocol
	refused  error
	guest    bool
	opened   time.Time
	key      netip.Prefix // the client's entry among the loads; invalid: in none

	mu      sync.Mutex
	status  string
	cause   error
	overdue *time.Timer

	// These, and key, are guarded by mux.mu.
	pending  bool
	handed   bool      // it has its owner; what the walk found no longer changes
	released bool      // the goroutine of the walk is done with it
	closed   time.Time // zero: it is not
}

var _ net.Conn = (*Conn)(nil)

// Read reads what the client sent, from its first byte on; TLS is taken off.
func (c *Conn) Read(p []byte) (int, error) {
	if c.tls == nil {
		return c.wire.Read(p)
	}
	if len(c.head) > 0 {
		n := copy(p, c.head)
		if c.head = c.head[n:]; len(c.head) == 0 {
			c.head = nil
		}
		return n, nil
	}
	return c.tls.Read(p)
}

// Write sends to the client.
func (c *Conn) Write(p []byte) (int, error) {
	if c.tls == nil {
		return c.wire.Write(p)
	}
	return c.tls.Write(p)
}

// Close ends the connection, with a close_notify where there is TLS.
func (c *Conn) Close() error {
	if c.tls == nil {
		return c.wire.Close()
	}
	return c.tls.Close()
}

// CloseWrite tells the client that nothing more comes and leaves the other direction open: a FIN, or inside TLS a
// close_notify (RFC 8446 section 6.1), after which TCP stays open for the alerts of the other direction.
func (c *Conn) CloseWrite() error {
	if c.tls == nil {
		return c.wire.CloseWrite()
	}
	return c.tls.CloseWrite()
}

// CloseRead stops reading; what the client still sends is thrown away by the kernel.
func (c *Conn) CloseRead() error { return c.wire.CloseRead() }

// LocalAddr is the address that the client, or the balancer before us, connected to.
func (c *Conn) LocalAddr() net.Addr { return c.wire.LocalAddr() }

// RemoteAddr is the client's own address, a *net.TCPAddr, PROXY protocol applied.
func (c *Conn) RemoteAddr() net.Addr { return c.wire.RemoteAddr() }

// SetDeadline is net.Conn's. A write deadline that passes breaks a TLS connection for good; a read deadline does not.
func (c *Conn) SetDeadline(t time.Time) error { return c.wire.SetDeadline(t) }

// SetReadDeadline is net.Conn's.
func (c *Conn) SetReadDeadline(t time.Time) error { return c.wire.SetReadDeadline(t) }

// SetWriteDeadline is net.Conn's.
func (c *Conn) SetWriteDeadline(t time.Time) error { return c.wire.SetWriteDeadline(t) }

// Client is the client's own address and port, PROXY protocol applied.
func (c *Conn) Client() netip.AddrPort { return c.wire.client }

// Protocol is what the first bytes told.
func (c *Conn) Protocol() Protocol { return c.protocol }

// Hello is the ClientHello; nil when the client speaks no TLS.
func (c *Conn) Hello() *Hello { return c.hello }

// Refused is why Options.Admit turned the client away; nil for all but the connections given to Options.Refused.
func (c *Conn) Refused() error { return c.refused }

// TLS is the state of the TLS that was taken off; false when there was none. It is not called ConnectionState because
// http.Server takes every conn with that method for a TLS one; HTTPConn has it where it is true.
func (c *Conn) TLS() (tls.ConnectionState, bool) {
	if c.tls == nil {
		return tls.ConnectionState{}, false
	}
	return c.tls.ConnectionState(), true
}

// Detach gives what lies beneath, and the bytes read from it but not consumed: the *net.TCPConn, or the *tls.Conn, whose
// NetConn has the method Redirect(io.ReadWriter). It is for a data path of the owner's own. Close of this Conn stays the end.
func (c *Conn) Detach() (net.Conn, []byte) {
	if c.tls == nil {
		head := c.wire.head
		c.wire.head = nil
		return c.wire.conn, head
	}
	head := c.head
	c.head = nil
	return c.tls, head
}

// Redirect is the wire's, for an owner that has detached a plain connection and taken its socket over: closing closes rw too.
func (c *Conn) Redirect(rw io.ReadWriter) { c.wire.Redirect(rw) }

// HTTPConn is the form that http.Server understands: the bare *tls.Conn if HTTP/2 was chosen, a conn with ConnectionState if
// there is TLS, else the Conn itself.
func (c *Conn) HTTPConn() net.Conn {
	switch {
	case c.protocol == TLSHTTP2:
		return c.tls
	case c.tls != nil:
		return &secureConn{c}
	}
	return c
}

// secureConn is a Conn of which http.Server knows that it is TLS.
type secureConn struct{ *Conn }

// ConnectionState fills http.Request.TLS.
func (c *secureConn) ConnectionState() tls.ConnectionState { return c.tls.ConnectionState() }

// Established says that the client has shown itself to be one: an Allocate success, a whole request head, a target that
// answered. From then on only the generous limits count. Calling it again does nothing, and for a refused client
// it never does anything: an answer is all that one gets.
func (c *Conn) Established() {
	if c.refused == nil {
		c.mux.establish(c)
	}
}

// Fail records how the connection ended: a status word and the error behind it. The first call counts; none means ok. It may
// come after Close if the function that Options names has not returned.
func (c *Conn) Fail(status string, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.status == "" {
		c.status, c.cause = status, err
	}
}

// limitPending closes the connection if it is not established in time. It is what keeps a connection from outliving
// the deadlines of the walk when its owner forgets to set one.
func (c *Conn) limitPending(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.overdue = time.AfterFunc(d, func() {
		c.mux.metrics.timeouts.WithLabelValues("pending").Inc()
		c.Fail(statusTimeout, errPendingTooLong)
		_ = c.wire.Close()
	})
}

func (c *Conn) stopOverdue() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.overdue != nil {
		c.overdue.Stop()
	}
}

// Of finds the Conn beneath a net.Conn that came from HTTPConn: what http.Server hands to ConnContext. Nil: none of ours.
func Of(c net.Conn) *Conn {
	switch c := c.(type) {
	case *Conn:
		return c
	case *secureConn:
		return c.Conn
	case *tls.Conn:
		if w, ok := c.NetConn().(*wire); ok {
			return w.owner
		}
	}
	return nil
}

type contextKey struct{}

// Context is for http.Server.ConnContext: handlers then find their connection by From.
func Context(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, contextKey{}, Of(c))
}

// From finds the connection of a request; nil if it came another way.
func From(ctx context.Context) *Conn {
	c, _ := ctx.Value(contextKey{}).(*Conn)
	return c
}

var _ io.ReadWriteCloser = (*Conn)(nil)

// ID names the connection in logs. No other has the same, in this process or in one before it.
func (c *Conn) ID() string {
	return strconv.FormatInt(c.mux.born, 36) + "-" + strconv.FormatUint(c.id, 36)
}

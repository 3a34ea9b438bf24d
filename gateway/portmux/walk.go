package portmux

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"hafen/gateway/defect"
)

// Status words of the whole program that this package uses.
const (
	statusOK       = "ok"
	statusPolicy   = "err_policy"
	statusLimit    = "err_limit"
	statusProtocol = "err_protocol"
	statusClient   = "err_client"
	statusTimeout  = "err_timeout"
)

var (
	errPendingTooLong = errors.New("not established in time")
	errNoOwner        = errors.New("nothing here speaks that")
	errNoName         = errors.New("no certificate for that name")
)

// acmeProtocol is the ALPN of TLS-ALPN-01 (RFC 8737). The handshake is the whole of it.
const acmeProtocol = "acme-tls/1"

// walk takes a connection from accept to its owner. Whatever has no owner at the end of it is closed.
func (m *Mux) walk(c *Conn) {
	_ = c.wire.SetDeadline(time.Now().Add(m.opts.FirstByteTimeout))
	if !m.arrive(c) {
		m.drop(c)
		return
	}
	p, err := c.peek(&c.wire)
	defect.Provoke("first bytes", c.wire.head)
	if err != nil {
		m.count(c, p)
		m.lost(c, "first_byte", err)
		return
	}
	if p == TLS && !c.only {
		m.walkTLS(c)
		return
	}
	m.count(c, p)
	m.hand(c, p)
}

// arrive settles who the client is and whether it may come in.
func (m *Mux) arrive(c *Conn) bool {
	if m.opts.TrustedProxy != nil && m.opts.TrustedProxy(c.wire.client.Addr()) && !m.believe(c) {
		return false
	}
	if m.opts.Admit != nil {
		if err := m.opts.Admit(c.wire.client.Addr()); errors.Is(err, ErrGuest) {
			c.guest = true
		} else if err != nil {
			word, reason := statusOf(err, statusPolicy), "closing"
			if word == statusPolicy { // else it is one of ours, turned away for another reason
				reason = "clients"
				m.refusals.add(c.wire.client.Addr(), m.opts.Now())
			}
			m.refuse(c, reason, word, err)
			c.refused = err
		}
	}
	if c.refused != nil && m.opts.Refused == nil {
		return false
	}
	if limit := m.claim(c); limit != "" {
		m.refuse(c, limit, statusLimit, fmt.Errorf("limit reached: %s", limit))
		return false
	}
	return true
}

// believe takes the client's address from the header of a trusted balancer. One that forgets the header is refused: all
// clients behind it would look like one, and like a client that may come in.
func (m *Mux) believe(c *Conn) bool {
	err := c.readProxyHeader()
	switch {
	case err == nil:
		return true
	case errors.Is(err, io.EOF): // a health check that only connects
		m.count(c, Silent)
		return false
	case errors.Is(err, os.ErrDeadlineExceeded):
		m.metrics.timeouts.WithLabelValues("proxy").Inc()
		c.Fail(statusTimeout, err)
	}
	m.count(c, ProxyHeader)
	m.refuse(c, "proxy", statusProtocol, err)
	return false
}

func (m *Mux) refuse(c *Conn, reason, status string, err error) {
	m.metrics.refused.WithLabelValues(reason).Inc()
	c.Fail(status, err)
}

// peek reads until it is known what the connection speaks, and puts the bytes back.
func (c *Conn) peek(r io.Reader) (Protocol, error) {
	const size = 2 << 10 // often a whole first flight, so that the bytes are read once
	buf := make([]byte, 0, size)
	for {
		n, err := r.Read(buf[len(buf):size])
		buf = buf[:len(buf)+n]
		if n > 0 {
			if p, sure := sniff(buf); sure {
				c.putBack(buf)
				return p, nil
			}
		}
		if err != nil {
			if len(buf) > 0 {
				return Unknown, err
			}
			return Silent, err
		}
	}
}

func (c *Conn) putBack(b []byte) {
	if c.tls == nil {
		c.wire.unread(b)
	} else {
		c.head = b
	}
}

// walkTLS goes on from a first byte that says TLS: it shakes hands, as far as the ClientHello if TLS is not to be taken off here.
func (m *Mux) walkTLS(c *Conn) {
	c.protocol = TLS
	_ = c.wire.SetDeadline(time.Now().Add(m.opts.HandshakeTimeout))
	hello := &helloTap{limit: m.opts.MaxHello}
	c.wire.hello = hello
	conn := tls.Server(&c.wire, m.hello)
	err := conn.Handshake()
	terminated := c.wire.hello == nil
	c.wire.hello = nil
	switch route := hello.route; {
	case terminated:
		m.terminate(c, conn, err)
	case !errors.Is(err, errNotOurs):
		m.count(c, TLS)
		if len(hello.alert) > 0 {
			c.wire.sayLast(hello.alert)
		}
		m.lost(c, "hello", err)
	case route.Passthrough != "" && c.refused == nil && !c.guest:
		c.wire.unread(hello.seen)
		m.count(c, Passthrough)
		m.own(c, m.opts.Splice != nil, func() { m.opts.Splice(c, route.Passthrough) })
	default:
		m.count(c, TLS)
		m.refuseName(c, route.Refuse)
	}
}

// refuseName sends alert 112, as RFC 6066 section 3 has it for a name that is not served. crypto/tls has no way to send it, so the
// record is written here; before any key is agreed on it is plain.
func (m *Mux) refuseName(c *Conn, err error) {
	m.metrics.handshakes.WithLabelValues("unknown_name").Inc()
	if err == nil {
		err = errNoName
	}
	c.Fail(statusOf(err, statusPolicy), err)
	c.wire.sayLast([]byte{21, 3, 3, 0, 2, 2, 112}) // alert, TLS 1.2, length 2, fatal, unrecognized_name
	m.drop(c)
}

// statusOf takes an error's own status word, if it has one.
func statusOf(err error, otherwise string) string {
	var s interface{ Status() string }
	if errors.As(err, &s) {
		return s.Status()
	}
	return otherwise
}

// terminate looks inside, if the handshake succeeded.
func (m *Mux) terminate(c *Conn, conn *tls.Conn, err error) {
	if err != nil {
		m.count(c, TLS)
		m.metrics.handshakes.WithLabelValues(handshakeResult(err)).Inc()
		m.lost(c, "handshake", err)
		return
	}
	c.tls = conn
	switch proto := conn.ConnectionState().NegotiatedProtocol; proto {
	case acmeProtocol:
		m.handshaken(c, ACME)
		m.drop(c)
	case "h2":
		m.handshaken(c, TLSHTTP2)
		m.hand(c, TLSHTTP2)
	default:
		m.lookInside(c)
	}
}

func (m *Mux) handshaken(c *Conn, p Protocol) {
	m.metrics.handshakes.WithLabelValues("ok").Inc()
	m.count(c, p)
}

// lookInside peeks once more, whatever ALPN said: browsers send "http/1.1" to web servers, and nothing to TURN servers.
func (m *Mux) lookInside(c *Conn) {
	_ = c.wire.SetDeadline(time.Now().Add(m.opts.FirstByteTimeout))
	p, err := c.peek(c.tls)
	if err != nil && isAlert(err) {
		// In TLS 1.3 the server is done before the client has looked at the certificate.
		m.metrics.handshakes.WithLabelValues("rejected").Inc()
		m.count(c, TLS)
		m.lost(c, "inside", err)
		return
	}
	m.handshaken(c, p.inside())
	if err != nil {
		m.lost(c, "inside", err)
		return
	}
	m.hand(c, p.inside())
}

// hand gives a connection to its owner, or closes it where there is none.
func (m *Mux) hand(c *Conn, p Protocol) {
	http := slices.Contains([]Protocol{HTTP, TLSHTTP, TLSHTTP2}, p)
	switch {
	case c.refused != nil:
		m.own(c, http, func() { m.opts.Refused(c) })
	case c.guest:
		m.own(c, http && !c.only && m.opts.Guest != nil, func() { m.opts.Guest(c) })
	case p == HTTP:
		m.own(c, c.http != nil, func() { c.http(c) })
	case c.only:
		m.own(c, false, nil)
	case p == STUN || p == TLSSTUN:
		m.own(c, m.opts.STUN != nil, func() { m.opts.STUN(c) })
	case p == TLSHTTP2 && m.opts.TLSConn != nil:
		m.own(c, true, func() { m.opts.TLSConn(c.tls, c) })
	case p == TLSHTTP || p == TLSHTTP2:
		m.own(c, c.http != nil, func() { c.http(c) })
	default:
		m.own(c, false, nil)
	}
}

// own passes ownership on: from here the owner closes the connection. The deadlines of the walk are lifted; the one that
// stays is that of being established.
func (m *Mux) own(c *Conn, have bool, owner func()) {
	if !have {
		c.Fail(statusProtocol, errNoOwner)
		m.drop(c)
		return
	}
	_ = c.wire.SetDeadline(time.Time{})
	c.limitPending(m.opts.PendingTimeout)
	m.mu.Lock()
	c.handed = true
	m.mu.Unlock()
	owner()
}

// lost is the end of a connection whose first bytes did not come as they should.
func (m *Mux) lost(c *Conn, stage string, err error) {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		m.metrics.timeouts.WithLabelValues(stage).Inc()
		c.Fail(statusTimeout, fmt.Errorf("%s: %w", stage, err))
	case errors.Is(err, io.EOF) && (c.protocol == Silent || c.protocol == TLSSilent):
		// Health checks, and browsers that open a connection ahead of need, say nothing and go.
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isAlert(err), isReset(err):
		c.Fail(statusClient, fmt.Errorf("%s: %w", stage, err))
	default:
		c.Fail(statusProtocol, fmt.Errorf("%s: %w", stage, err))
	}
	m.drop(c)
}

// drop closes without another word; a close_notify could wait for a client that does not read.
func (m *Mux) drop(c *Conn) { _ = c.wire.Close() }

// count settles what the connection speaks.
func (m *Mux) count(c *Conn, p Protocol) {
	c.protocol = p
	m.metrics.connections.WithLabelValues(string(p)).Inc()
}

func handshakeResult(err error) string {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "timeout"
	case isAlert(err):
		return "rejected" // by the client: most often it does not trust the certificate
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), isReset(err):
		return "left"
	}
	return "failed"
}

// isAlert tells whether the client ended TLS with an alert; that is how crypto/tls reports one.
func isAlert(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "remote error"
}

func isReset(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "read" && !op.Timeout()
}

// setClient puts the address of a PROXY protocol header in place of the balancer's.
func (c *Conn) setClient(a *net.TCPAddr) {
	c.wire.client = netip.AddrPortFrom(a.AddrPort().Addr().Unmap().WithZone(""), a.AddrPort().Port())
	c.wire.remote = net.TCPAddrFromAddrPort(c.wire.client)
}

package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/pion/stun/v2"
)

const (
	// proberAge is how long a stream for probes is kept. New connections may be blocked while old ones live, so it must
	// not be kept for ever; a TLS handshake for every probe would cost a region more than our sessions do.
	proberAge = time.Minute
	// maxAnswer bounds what is read as one STUN message. Answers to what we ask are far shorter.
	maxAnswer = 2048
	// resendFirst is the time to the first retransmission of a request (RFC 8489 section 6.2.1 says 500 ms; a probe
	// is not patient).
	resendFirst = 200 * time.Millisecond
	// loopTries and loopPause say how a packet is sent around through a relay: UDP may lose it.
	loopTries = 5
	loopPause = 150 * time.Millisecond
)

// notSTUNError says that whatever answered does not speak STUN: a block page, a captive portal, another service.
type notSTUNError struct{ head []byte }

func (e *notSTUNError) Error() string {
	if strings.HasPrefix(string(e.head), "HTTP/") {
		return fmt.Sprintf("a web page answers instead of the relay (%q): a block page or a captive portal", e.head)
	}
	return fmt.Sprintf("what answers is no TURN server: it says %q", e.head)
}

// conversation is STUN over one connection, one request after the other.
type conversation struct {
	conn     net.Conn
	datagram bool
	buf      [maxAnswer]byte
}

// ask sends a request and waits for the response with its transaction, until ctx ends. Over datagrams it sends again
// if resend is set: a probe that counts losses must not. The round trip is that of the newest sending.
func (c *conversation) ask(ctx context.Context, req *stun.Message, resend bool) (*stun.Message, time.Duration, error) {
	stop := c.bound(ctx)
	defer stop()
	wait := resendFirst
	for {
		sent := time.Now()
		if _, err := c.conn.Write(req.Raw); err != nil {
			return nil, 0, inTime(ctx, err)
		}
		if c.datagram && resend {
			_ = c.conn.SetReadDeadline(earlier(ctx, sent.Add(wait)))
		}
		resp, err := c.answer(req.TransactionID)
		if err == nil {
			return resp, time.Since(sent), nil
		}
		if !c.datagram || !resend || !errors.Is(err, os.ErrDeadlineExceeded) || ctx.Err() != nil || expired(ctx) {
			return nil, 0, inTime(ctx, err)
		}
		wait *= 2
	}
}

// bound makes reads and writes end with ctx. The returned function takes that back.
func (c *conversation) bound(ctx context.Context) func() {
	deadline, _ := ctx.Deadline()
	_ = c.conn.SetDeadline(deadline)
	ended := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(ended)
		_ = c.conn.SetDeadline(time.Unix(1, 0))
	})
	return func() {
		if !stop() {
			<-ended // else it would end the next request
		}
		_ = c.conn.SetDeadline(time.Time{})
	}
}

func earlier(ctx context.Context, t time.Time) time.Time {
	if d, ok := ctx.Deadline(); ok && d.Before(t) {
		return d
	}
	return t
}

func expired(ctx context.Context) bool {
	d, ok := ctx.Deadline()
	return ok && !time.Now().Before(d)
}

// inTime prefers the reason of a deadline to the deadline.
func inTime(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return err
}

// answer reads until the response to a transaction comes. Everything else is somebody else's, or late, or forged.
func (c *conversation) answer(id [stun.TransactionIDSize]byte) (*stun.Message, error) {
	for {
		m, err := c.message()
		if err != nil {
			return nil, err
		}
		response := m.Type.Class == stun.ClassSuccessResponse || m.Type.Class == stun.ClassErrorResponse
		if response && m.TransactionID == id {
			return m, nil
		}
	}
}

// message reads the next STUN message. Datagrams that are none are skipped; a stream that carries anything else is
// at its end.
func (c *conversation) message() (*stun.Message, error) {
	for {
		raw, err := c.frame()
		if err != nil {
			return nil, err
		}
		m, err := parseAnswer(raw)
		if err == nil {
			return m, nil
		}
		if !c.datagram {
			return nil, err
		}
	}
}

func (c *conversation) frame() ([]byte, error) {
	if c.datagram {
		n, err := c.conn.Read(c.buf[:])
		return c.buf[:n], err
	}
	n, err := io.ReadFull(c.conn, c.buf[:stunHeaderSize])
	head := c.buf[:n]
	switch {
	case err != nil && n > 0 && !isTimeout(err):
		return nil, &notSTUNError{head: append([]byte(nil), head...)}
	case errors.Is(err, io.EOF):
		return nil, errClosedByRegion
	case err != nil:
		return nil, err
	}
	size := int(binary.BigEndian.Uint16(head[2:]))
	if head[0]&0xc0 != 0 || binary.BigEndian.Uint32(head[4:]) != stunCookie || size%4 != 0 || stunHeaderSize+size > len(c.buf) {
		return nil, &notSTUNError{head: append([]byte(nil), head...)}
	}
	if _, err := io.ReadFull(c.conn, c.buf[stunHeaderSize:stunHeaderSize+size]); err != nil {
		return nil, err
	}
	return c.buf[:stunHeaderSize+size], nil
}

var errClosedByRegion = errors.New("the connection was closed without an answer")

// parseAnswer reads one whole message from outside. The message does not share memory with raw.
func parseAnswer(raw []byte) (*stun.Message, error) {
	if len(raw) < stunHeaderSize || raw[0]&0xc0 != 0 || binary.BigEndian.Uint32(raw[4:]) != stunCookie ||
		int(binary.BigEndian.Uint16(raw[2:])) != len(raw)-stunHeaderSize {
		return nil, &notSTUNError{head: append([]byte(nil), raw[:min(len(raw), stunHeaderSize)]...)}
	}
	m := &stun.Message{Raw: append([]byte(nil), raw...)}
	if err := m.Decode(); err != nil {
		return nil, fmt.Errorf("the answer is broken: %w", err)
	}
	return m, nil
}

// addressOf reads an XOR-…-ADDRESS attribute of an answer.
func addressOf(m *stun.Message, attr stun.AttrType) (netip.AddrPort, bool) {
	v, err := m.Get(attr)
	if err != nil {
		return netip.AddrPort{}, false
	}
	return xorAddress(v, m.TransactionID)
}

// errorCodeOf is the ERROR-CODE of an answer; 0 for none.
func errorCodeOf(m *stun.Message) int {
	if m.Type.Class != stun.ClassErrorResponse {
		return 0
	}
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil {
		return -1
	}
	return int(code.Code)
}

// binding asks one STUN Binding on a connection. An error response is an answer too: some servers want even that
// authenticated, and none but a STUN server knows our transaction.
func (c *conversation) binding(ctx context.Context, resend bool) (time.Duration, error) {
	req, err := stun.Build(stun.TransactionID, stun.BindingRequest)
	if err != nil {
		return 0, err
	}
	resp, rtt, err := c.ask(ctx, req, resend)
	if err == nil && resp.Type.Method != stun.MethodBinding {
		err = &notSTUNError{head: resp.Raw[:stunHeaderSize]}
	}
	return rtt, err
}

// prober keeps the stream that a path's probes go over.
type prober struct {
	busy sync.Mutex // held by the probe that uses conn

	mu     sync.Mutex
	conn   net.Conn
	born   time.Time
	closed bool
}

// take returns the kept stream if it is young enough; nil: dial one.
func (b *prober) take() net.Conn {
	b.mu.Lock()
	defer b.mu.Unlock()
	conn := b.conn
	b.conn = nil
	if conn != nil && time.Since(b.born) > proberAge {
		_ = closeNow(conn)
		return nil
	}
	return conn
}

// keep takes a stream back, or closes it when there is no more use for it.
func (b *prober) keep(conn net.Conn, fresh bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.closed || b.conn != nil {
		_ = closeNow(conn)
		return
	}
	b.conn = conn
	if fresh {
		b.born = time.Now()
	}
}

func (b *prober) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closed = true
	if b.conn != nil {
		_ = closeNow(b.conn)
		b.conn = nil
	}
}

// closeNow closes the socket beneath TLS without the farewell of crypto/tls, which can take 5 s on a dead path.
func closeNow(conn net.Conn) error {
	if c, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return c.NetConn().Close()
	}
	return conn.Close()
}

// ping is one probe of a path: a Binding round trip. Datagrams leave from a new socket each time, as a new session's
// would; streams are kept for a while, and one probe at a time uses them: another dials its own, so that a stream
// which died alone does not take the path with it.
func (p *path) ping(ctx context.Context, keep bool) (time.Duration, error) {
	if p.rung.datagram() || !p.probe.busy.TryLock() {
		return p.pingFresh(ctx, nil)
	}
	defer p.probe.busy.Unlock()
	if conn := p.probe.take(); conn != nil {
		c := &conversation{conn: conn}
		rtt, err := c.binding(ctx, false)
		switch {
		case err == nil && keep:
			p.probe.keep(conn, false)
			return rtt, nil
		case err == nil:
			_ = closeNow(conn)
			return rtt, nil
		}
		_ = closeNow(conn)
		if !closedIdle(err) {
			return 0, err
		}
	}
	if !keep {
		return p.pingFresh(ctx, nil)
	}
	return p.pingFresh(ctx, &p.probe)
}

// closedIdle reports whether a kept stream had merely been closed by the other end: coturn does so after a minute
// without an allocation.
func closedIdle(err error) bool {
	return errors.Is(err, errClosedByRegion) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

func (p *path) pingFresh(ctx context.Context, keeper *prober) (time.Duration, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return 0, err
	}
	c := &conversation{conn: conn, datagram: p.rung.datagram()}
	rtt, err := c.binding(ctx, false)
	if err == nil && keeper != nil {
		keeper.keep(conn, true)
		return rtt, nil
	}
	_ = closeNow(conn)
	return rtt, err
}

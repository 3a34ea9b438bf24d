package forward

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// firstRead is how much of a client's first bytes is read at once: often a whole ClientHello.
const firstRead = 2 << 10

// tlsHandshake is the first byte of TLS (RFC 8446 section 5.1).
const tlsHandshake = 0x16

// look reads the first bytes that a client sends through a tunnel to a service's host, or to one of forward.allow, and
// decides whether they may pass. They end up in client.head.
func (t *tunnel) look() error {
	if !t.p.policy.Load().config.Forward.RequireSNIMatch {
		return nil
	}
	mustBeTLS := t.verdict.kind == serviceHost || t.target.Port == 443
	if mustBeTLS { // else the target may be one that speaks first, and the client silent for long
		t.firstBytesBy(t.p.opts.FirstBytesTimeout)
	}
	if err := t.readHead(1); err != nil {
		if errors.Is(err, io.EOF) && !mustBeTLS {
			return nil // it only listens
		}
		return clientError(err)
	}
	if t.client.head[0] != tlsHandshake && mustBeTLS {
		return &refusal{code: http.StatusForbidden, word: statusPolicy, why: "there is no TLS inside the tunnel"}
	}
	return t.checkHello()
}

// peekRelay reads until it is known whether a tunnel to a relay carries plain STUN.
func (t *tunnel) peekRelay() error {
	t.firstBytesBy(t.p.opts.FirstBytesTimeout)
	defer t.firstBytesBy(0)
	if err := t.readHead(1); err != nil {
		return clientError(err)
	}
	if !mayBeSTUN(t.client.head) {
		return nil
	}
	if err := t.readHead(stunCookieEnd); err != nil {
		return clientError(err)
	}
	return nil
}

// checkHello reads the ClientHello, if it is one, and checks the name that it asks for. It clears the read deadline.
func (t *tunnel) checkHello() error {
	defer t.firstBytesBy(0)
	if t.client.head[0] != tlsHandshake || !t.p.policy.Load().config.Forward.RequireSNIMatch {
		return nil
	}
	t.firstBytesBy(t.p.opts.FirstBytesTimeout)
	sni, seen, err := readHello(t.client.conn, t.client.head)
	t.client.head = seen
	if err != nil {
		if errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return clientError(err)
		}
		return &refusal{word: statusProtocol, why: "the TLS inside the tunnel does not begin as TLS does", err: err}
	}
	if r := checkSNI(t.verdict.kind, t.target.Host, sni); r != nil {
		return r
	}
	return nil
}

// readHead reads until client.head has at least n bytes.
func (t *tunnel) readHead(n int) error {
	if len(t.client.head) >= n {
		return nil
	}
	buf := make([]byte, firstRead)
	for len(t.client.head) < n {
		m, err := t.client.conn.Read(buf)
		t.client.head = append(t.client.head, buf[:m]...)
		if err != nil && len(t.client.head) < n {
			return err
		}
	}
	return nil
}

// firstBytesBy sets the read deadline of the client; 0 clears it.
func (t *tunnel) firstBytesBy(d time.Duration) {
	var by time.Time
	if d > 0 {
		by = time.Now().Add(d)
	}
	_ = t.client.conn.SetReadDeadline(by)
}

// stunCookieEnd is where the magic cookie ends (RFC 8489 section 5).
const stunCookieEnd = 8

// mayBeSTUN reports whether a first byte can begin a STUN message: its two first bits are zero. So are those of a TLS
// handshake, whose first byte no STUN method in use has.
func mayBeSTUN(head []byte) bool { return head[0]&0xc0 == 0 && head[0] != tlsHandshake }

// isSTUN reports whether head is the beginning of a STUN message, by its magic cookie.
func isSTUN(head []byte) bool {
	return len(head) >= stunCookieEnd && mayBeSTUN(head) && string(head[4:stunCookieEnd]) == "\x21\x12\xa4\x42"
}

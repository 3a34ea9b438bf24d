package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/stun/v2"
)

// Error codes of RFC 8489 and RFC 8656.
const (
	codeBadRequest           = 400
	codeUnauthorized         = 401
	codeForbidden            = 403
	codeUnknownAttribute     = 420
	codeAllocationMismatch   = 437
	codeStaleNonce           = 438
	codeAddressFamily        = 440
	codeWrongCredentials     = 441
	codeUnsupportedTransport = 442
	codePeerAddressFamily    = 443
	codeAllocationQuota      = 486
	codeServerError          = 500
	codeInsufficientCapacity = 508
)

func reason(code int) string {
	switch code {
	case codeBadRequest:
		return "Bad Request"
	case codeUnauthorized:
		return "Unauthorized"
	case codeForbidden:
		return "Forbidden"
	case codeUnknownAttribute:
		return "Unknown Attribute"
	case codeAllocationMismatch:
		return "Allocation Mismatch"
	case codeStaleNonce:
		return "Stale Nonce"
	case codeAddressFamily:
		return "Address Family not Supported"
	case codeWrongCredentials:
		return "Wrong Credentials"
	case codeUnsupportedTransport:
		return "Unsupported Transport Protocol"
	case codePeerAddressFamily:
		return "Peer Address Family Mismatch"
	case codeAllocationQuota:
		return "Allocation Quota Reached"
	case codeInsufficientCapacity:
		return "Insufficient Capacity"
	}
	return "Server Error"
}

// turnError is a refusal with the code that a client is told.
type turnError struct {
	code int
	why  string
}

func (e *turnError) Error() string { return fmt.Sprintf("%d %s: %s", e.code, reason(e.code), e.why) }

// Status is the word for logs and metrics.
func (e *turnError) Status() string {
	switch e.code {
	case codeUnauthorized, codeStaleNonce, codeWrongCredentials:
		return "err_auth"
	case codeForbidden:
		return "err_policy"
	case codeAllocationQuota, codeInsufficientCapacity:
		return "err_limit"
	case codeServerError:
		return "err_upstream"
	}
	return "err_protocol"
}

// reply is the one answer to one request. It holds no part of the request's frame, so it can wait for a backend.
type reply struct {
	tuple       *fiveTuple
	method      stun.Method
	id          [stun.TransactionIDSize]byte
	realm       string                // what a challenge names
	key         stun.MessageIntegrity // nil until the client has authenticated: the answer is not signed
	fingerprint bool                  // the request had one
}

func (r reply) succeed(attrs ...stun.Setter) {
	r.tuple.engine.metrics.answered(0)
	r.answer(stun.ClassSuccessResponse, attrs...)
}

// fail answers with an error. The reason is the code's own; why a request is refused is nothing to tell a stranger.
func (r reply) fail(code int, attrs ...stun.Setter) {
	r.tuple.engine.metrics.answered(code)
	failure := stun.ErrorCodeAttribute{Code: stun.ErrorCode(code), Reason: []byte(reason(code))}
	r.answer(stun.ClassErrorResponse, append([]stun.Setter{failure}, attrs...)...)
}

func (r reply) failUnknown(types []uint16) {
	r.fail(codeUnknownAttribute, unknownAttributes(types))
}

// challenge answers 401 or 438 with the realm and a fresh nonce, unsigned.
func (r reply) challenge(code int) {
	t := r.tuple
	r.key = nil
	nonce := t.engine.nonces.issue(t.engine.now(), t.client.Addr, t.stream)
	r.fail(code, stun.Realm(r.realm), stun.Nonce(nonce))
}

func (r reply) answer(class stun.MessageClass, attrs ...stun.Setter) {
	setters := append([]stun.Setter{stun.NewType(r.method, class), stun.NewTransactionIDSetter(r.id)}, attrs...)
	if r.key != nil {
		setters = append(setters, r.key)
	}
	if r.fingerprint {
		setters = append(setters, stun.Fingerprint)
	}
	m, err := stun.Build(setters...)
	if err != nil {
		// Every attribute we write is of our own making and within its bounds; silence is what a client expects of a lost answer.
		r.tuple.engine.metrics.refused("unanswerable")
		return
	}
	r.tuple.send(m.Raw)
}

// failWith answers what a limit or a backend has against a request.
func (r reply) failWith(err error) {
	var refusal *turnError
	ours := !errors.As(err, &refusal) || refusal.code == codeServerError || refusal.code == codeInsufficientCapacity
	if tell := r.tuple.engine.refused; ours && tell != nil {
		tell(err)
	}
	switch {
	case refusal == nil:
		r.fail(codeServerError)
	case refusal.code == codeStaleNonce || refusal.code == codeUnauthorized:
		r.challenge(refusal.code)
	default:
		r.fail(refusal.code)
	}
}

type setterFunc func(*stun.Message) error

func (f setterFunc) AddTo(m *stun.Message) error { return f(m) }

func xorAddressSetter(typ stun.AttrType, ap netip.AddrPort) stun.Setter {
	return setterFunc(func(m *stun.Message) error {
		m.Add(typ, appendXORAddress(nil, typ, ap, m.TransactionID)[attrHeaderSize:])
		return nil
	})
}

func lifetimeSetter(d time.Duration) stun.Setter {
	return setterFunc(func(m *stun.Message) error {
		m.Add(stun.AttrLifetime, binary.BigEndian.AppendUint32(nil, uint32(d/time.Second)))
		return nil
	})
}

// addressErrorSetter tells that the second family of a dual allocation could not be had (RFC 8656 section 18.12).
func addressErrorSetter(family byte, code int) stun.Setter {
	return setterFunc(func(m *stun.Message) error {
		m.Add(attrAddressErrorCode, append([]byte{family, 0, byte(code / 100), byte(code % 100)}, reason(code)...))
		return nil
	})
}

package relay

import (
	"encoding/binary"
	"sync"
	"sync/atomic"

	"github.com/pion/stun/v2"
)

// fiveTuple is one client on one connection, or one address of a UDP listener: what RFC 8656 hangs an allocation on. handle is
// called by one goroutine at a time.
type fiveTuple struct {
	engine *engine
	client Client
	stream bool
	send   func(msg []byte)
	lost   func(cause error) // nil: nobody wants to know

	allocation atomic.Pointer[allocation]

	mu      sync.Mutex
	foreign foreignNonce
	pending *[stun.TransactionIDSize]byte // the Allocate that a backend is busy with
	region  string                        // that the last allocation was made at, and over which rung
	rung    string
	closed  bool
}

// close frees what the client holds.
func (t *fiveTuple) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	if a := t.allocation.Load(); a != nil {
		t.engine.end(a)
	}
}

// where is the region that the client's media takes, or took last, and the rung; empty: none.
func (t *fiveTuple) where() (region, rung string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.region, t.rung
}

// isTest tells whether the client is a precall test's. In mode bridge the engine has no others.
func (t *fiveTuple) isTest() bool {
	a := t.allocation.Load()
	return t.engine.clients == nil || a != nil && a.account.foreign
}

// handle takes one whole message of the client: STUN, or ChannelData without padding. It never answers more than once, and it does
// not block.
func (t *fiveTuple) handle(frame []byte) {
	if len(frame) >= channelHeaderSize && frame[0]>>6 == 1 {
		t.channelData(frame)
		return
	}
	var m message
	err := m.parse(frame)
	switch {
	case err != nil && (m.raw == nil || m.class != stun.ClassRequest):
		t.engine.metrics.refused("malformed")
	case m.class == stun.ClassRequest:
		t.request(&m, err)
	case m.class == stun.ClassIndication && m.method == stun.MethodSend:
		t.sendIndication(&m)
	}
	// Answers, and indications that are none of a client's, are nothing that a server reacts to.
}

func (t *fiveTuple) channelData(frame []byte) {
	a := t.allocation.Load()
	size := int(binary.BigEndian.Uint16(frame[2:]))
	if a == nil || size > len(frame)-channelHeaderSize {
		t.engine.metrics.refused("malformed")
		return
	}
	a.sendOn(binary.BigEndian.Uint16(frame), frame[channelHeaderSize:channelHeaderSize+size])
}

// sendIndication passes data on. What is wrong with an indication is never answered (RFC 8656 section 11.2).
func (t *fiveTuple) sendIndication(m *message) {
	a := t.allocation.Load()
	if a == nil || len(m.peers) != 1 || m.badPeer || m.data == nil || m.badFingerprint || len(m.unknown) > 0 {
		t.engine.metrics.refused("malformed")
		return
	}
	a.sendTo(m.peers[0], m.data)
}

// request answers one request, now or when the backend is done.
func (t *fiveTuple) request(m *message, malformed error) {
	r := reply{tuple: t, method: m.method, id: m.id, realm: t.engine.realm, fingerprint: m.fingerprint}
	switch {
	case malformed != nil || m.badFingerprint:
		r.fail(codeBadRequest)
		return
	case m.method == stun.MethodBinding:
		t.binding(m, r)
		return
	case !relayMethod(m.method):
		// Connect and ConnectionBind of RFC 6062 among them: relaying TCP is off.
		r.fail(codeBadRequest)
		return
	}
	who, ok := t.authenticate(m, &r)
	if !ok {
		return
	}
	if len(m.unknown) > 0 {
		r.failUnknown(m.unknown)
		return
	}
	if m.method == stun.MethodAllocate {
		t.allocate(m, r, who)
		return
	}
	a := t.allocation.Load()
	switch {
	case a == nil || a.expired(t.engine.now()):
		r.fail(codeAllocationMismatch)
	case a.username != string(m.username):
		r.fail(codeWrongCredentials)
	case m.method == stun.MethodRefresh:
		t.refresh(m, r, a)
	case m.method == stun.MethodCreatePermission:
		t.createPermission(m, r, a)
	default:
		t.channelBind(m, r, a)
	}
}

func relayMethod(m stun.Method) bool {
	return m == stun.MethodAllocate || m == stun.MethodRefresh || m == stun.MethodCreatePermission || m == stun.MethodChannelBind
}

// binding tells a client its address. It needs no credential, and CHANGE-REQUEST (RFC 5780) is an unknown attribute here: an
// answer goes to whoever asked and nowhere else.
func (t *fiveTuple) binding(m *message, r reply) {
	if len(m.unknown) > 0 {
		r.failUnknown(m.unknown)
		return
	}
	r.succeed(xorAddressSetter(stun.AttrXORMappedAddress, t.client.Addr))
}

package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"time"

	"github.com/pion/stun/v2"
)

// deepFinding is what a real allocation taught about a region that answers Binding.
type deepFinding struct {
	// refuses says why no new session belongs there; empty: it takes them.
	refuses string
	// note is for the administrator; the region works.
	note string
	// looped: a packet came back through the relay. tried: it was sent.
	looped, tried bool
}

// deep makes a real allocation with the service's credentials, sends a packet through the relay to itself, and gives
// the allocation back. The error is one of the way there; what the region answers is a finding.
func (p *path) deep(ctx context.Context, username, password string) (deepFinding, error) {
	conn, err := p.dial(ctx)
	if err != nil {
		return deepFinding{}, err
	}
	defer func() { _ = closeNow(conn) }()
	a := &allocating{conversation: conversation{conn: conn, datagram: p.rung.datagram()}, username: username, password: password}
	relayed, finding, err := a.allocate(ctx)
	if err != nil || !relayed.IsValid() {
		return finding, err
	}
	finding.tried, finding.looped = a.loop(ctx, relayed)
	// RFC 8656 section 7.4: a LIFETIME of 0 gives the allocation back.
	if req, err := a.signed(stun.NewType(stun.MethodRefresh, stun.ClassRequest), lifetime(0)); err == nil {
		_, _, _ = a.ask(ctx, req, true)
	}
	return finding, nil
}

// allocating is the client's side of one allocation.
type allocating struct {
	conversation
	username, password string
	realm              stun.Realm
	nonce              stun.Nonce
}

// transportUDP is REQUESTED-TRANSPORT: UDP (RFC 8656 section 18.7).
var transportUDP = stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{protocolUDP, 0, 0, 0}}

func lifetime(seconds byte) stun.RawAttribute {
	return stun.RawAttribute{Type: stun.AttrLifetime, Value: []byte{0, 0, 0, seconds}}
}

// allocate asks twice, as every client does: the first time to be told realm and nonce (RFC 8489 section 9.2.3).
func (a *allocating) allocate(ctx context.Context) (netip.AddrPort, deepFinding, error) {
	kind := stun.NewType(stun.MethodAllocate, stun.ClassRequest)
	req, err := stun.Build(stun.TransactionID, kind, transportUDP, stun.Fingerprint)
	if err != nil {
		return netip.AddrPort{}, deepFinding{}, err
	}
	resp, _, err := a.ask(ctx, req, true)
	// A nonce may be stale at once when the server has just started: one more try (RFC 8489 section 9.2.5).
	for tries := 0; err == nil && tries < 2 && a.challenged(resp, tries > 0); tries++ {
		if req, err = a.signed(kind, transportUDP); err == nil {
			resp, _, err = a.ask(ctx, req, true)
		}
	}
	if err != nil {
		return netip.AddrPort{}, deepFinding{}, err
	}
	if code := errorCodeOf(resp); code != 0 {
		return netip.AddrPort{}, findingOf(code), nil
	}
	relayed, ok := addressOf(resp, stun.AttrXORRelayedAddress)
	if !ok || resp.Type.Method != stun.MethodAllocate {
		return netip.AddrPort{}, deepFinding{refuses: "it answers Allocate with a success that has no relayed address"}, nil
	}
	if a.realm != nil && !a.proves(resp) {
		return netip.AddrPort{}, deepFinding{refuses: "it does not know the shared secret: its answer to a signed Allocate is not signed with it"}, nil
	}
	return relayed, deepFinding{}, nil
}

// challenged takes realm and nonce from an answer that asks for a signature. 401 asks once, 438 again.
func (a *allocating) challenged(resp *stun.Message, again bool) bool {
	code := errorCodeOf(resp)
	if code != int(stun.CodeStaleNonce) && (code != int(stun.CodeUnauthorized) || again) {
		return false
	}
	var realm stun.Realm
	if err := realm.GetFrom(resp); err == nil || a.realm == nil {
		a.realm = realm
	}
	return a.nonce.GetFrom(resp) == nil && len(a.realm) > 0
}

func (a *allocating) key() stun.MessageIntegrity {
	return stun.NewLongTermIntegrity(a.username, a.realm.String(), a.password)
}

// proves reports whether an answer is signed with our key: only who knows the secret can do that.
func (a *allocating) proves(resp *stun.Message) bool {
	if v, err := resp.Get(stun.AttrMessageIntegrity); err != nil || len(v) != integritySize {
		return false
	}
	return a.key().Check(resp) == nil
}

func (a *allocating) signed(kind stun.MessageType, attrs ...stun.Setter) (*stun.Message, error) {
	setters := append([]stun.Setter{stun.TransactionID, kind}, attrs...)
	if len(a.realm) > 0 {
		setters = append(setters, stun.NewUsername(a.username), a.realm, a.nonce, a.key())
	}
	return stun.Build(append(setters, stun.Fingerprint)...)
}

// findingOf says what an error code in answer to a signed Allocate means. Credentials of ours that are refused are no
// reason to take a region from clients who have their own.
func findingOf(code int) deepFinding {
	switch {
	case code == int(stun.CodeUnauthorized) || code == int(stun.CodeWrongCredentials) || code == int(stun.CodeForbidden):
		return deepFinding{note: fmt.Sprintf("it refuses the credentials of turn_credentials (%d)", code)}
	case code == int(stun.CodeBadRequest): // what pion's server says to bad credentials
		return deepFinding{note: "it answers an Allocate with the credentials of turn_credentials with 400; some servers mean 401 by that"}
	case code == int(stun.CodeAllocQuotaReached):
		return deepFinding{note: "the user of turn_credentials has too many allocations there (486)"}
	case code == int(stun.CodeInsufficientCapacity):
		return deepFinding{refuses: "it is full (508)"}
	case code >= 500:
		return deepFinding{refuses: fmt.Sprintf("it answers Allocate with error %d", code)}
	}
	return deepFinding{note: fmt.Sprintf("it answers Allocate with error %d", code)}
}

// loop sends a packet from the relayed address to the relayed address. Some relays forbid that, or stand behind a NAT
// that does not turn packets around: whoever asks compares with what worked before.
func (a *allocating) loop(ctx context.Context, relayed netip.AddrPort) (tried, looped bool) {
	req, err := a.signed(stun.NewType(stun.MethodCreatePermission, stun.ClassRequest), peerAddress(relayed))
	if err != nil {
		return false, false
	}
	if resp, _, err := a.ask(ctx, req, true); err != nil || errorCodeOf(resp) != 0 {
		return false, false
	}
	payload := make([]byte, 32)
	if _, err := rand.Read(payload); err != nil {
		return false, false
	}
	stop := a.bound(ctx)
	defer stop()
	for range loopTries {
		ind, err := stun.Build(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication),
			peerAddress(relayed), stun.RawAttribute{Type: stun.AttrData, Value: payload})
		if err != nil {
			return true, false
		}
		if _, err := a.conn.Write(ind.Raw); err != nil || ctx.Err() != nil {
			return true, false
		}
		if a.comesBack(ctx, payload) {
			return true, true
		}
	}
	return true, false
}

// comesBack waits a moment for the payload in a Data indication. Over a stream a read that was cut off in the middle of
// a frame can't be taken up again, and nothing is lost on the way: there it waits once, as long as ctx lets it.
func (a *allocating) comesBack(ctx context.Context, payload []byte) bool {
	if a.datagram {
		_ = a.conn.SetReadDeadline(earlier(ctx, time.Now().Add(loopPause)))
	} else {
		_ = a.conn.SetReadDeadline(earlier(ctx, time.Now().Add(loopTries*loopPause)))
	}
	for {
		m, err := a.message()
		if err != nil {
			return false
		}
		data, err := m.Get(stun.AttrData)
		if err == nil && m.Type == stun.NewType(stun.MethodData, stun.ClassIndication) && bytes.Equal(data, payload) {
			return true
		}
	}
}

// peerAddress is XOR-PEER-ADDRESS, which is masked with the transaction of the message it goes into.
type peerAddress netip.AddrPort

// AddTo implements stun.Setter.
func (p peerAddress) AddTo(m *stun.Message) error {
	ap := netip.AddrPort(p)
	return stun.XORMappedAddress{IP: ap.Addr().AsSlice(), Port: int(ap.Port())}.AddToAs(m, stun.AttrXORPeerAddress)
}

package cloud

import (
	"encoding/binary"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/pion/stun/v2"
	"github.com/pion/turn/v4"
)

// guard stands in front of pion's TURN server and answers what pion answers wrongly or not at all:
//
//   - bad credentials get 401 with a fresh nonce (pion: 400, with which a browser can't tell what is wrong),
//   - TCP relaying gets 442 and another address family than IPv4 gets 440 (pion accepts and relays UDP over IPv4),
//   - a forbidden peer gets 403 and then none of the request's peers is admitted (pion: an error without code, and
//     the peers before the forbidden one stay admitted),
//   - requests without an allocation get 437 (pion: silence),
//   - responses, unknown methods and addresses of a wrong size go nowhere (an empty XOR-PEER-ADDRESS has killed pion).
//
// Whatever passes is a whole frame; see frame.go for why that matters.
type guard struct {
	realm, secret string
	now           func() time.Time
	allowed       func(netip.Addr) bool
	allocated     func(client, local net.Addr) bool
}

// inspect takes one whole frame that a client sent to a local address and returns what to hand to pion, or nil, and what to answer, or nil.
func (g *guard) inspect(frame []byte, client, local net.Addr) (pass, answer []byte) {
	if frame[0]>>4 == 4 {
		return frame, nil
	}
	m := &stun.Message{Raw: frame}
	if m.Decode() != nil || !addressesWellFormed(m) {
		return nil, nil
	}
	switch m.Type {
	case stun.BindingRequest, stun.NewType(stun.MethodSend, stun.ClassIndication):
		return frame, nil
	case stun.NewType(stun.MethodAllocate, stun.ClassRequest),
		stun.NewType(stun.MethodRefresh, stun.ClassRequest),
		stun.NewType(stun.MethodCreatePermission, stun.ClassRequest),
		stun.NewType(stun.MethodChannelBind, stun.ClassRequest):
		return g.inspectRequest(m, client, local)
	}
	return nil, nil
}

func (g *guard) inspectRequest(m *stun.Message, client, local net.Addr) (pass, answer []byte) {
	if !m.Contains(stun.AttrMessageIntegrity) {
		return m.Raw, nil // pion: 401 with realm and nonce
	}
	key, ok := g.authenticate(m)
	if !ok {
		// Without its signature the request is one that has not tried yet: pion answers 401 and a nonce.
		return unsigned(m), nil
	}
	if code := g.judge(m, client, local); code != 0 {
		return nil, refuse(m, code, key)
	}
	return m.Raw, nil
}

// authenticate checks a request against the TURN REST credentials ("expiry:user", HMAC-SHA1 with the secret). The
// nonce is pion's to check.
func (g *guard) authenticate(m *stun.Message) (key []byte, ok bool) {
	username, err := m.Get(stun.AttrUsername)
	if err != nil {
		return nil, false
	}
	realm, err := m.Get(stun.AttrRealm)
	if err != nil {
		return nil, false
	}
	key, ok = g.key(string(username), string(realm))
	return key, ok && stun.MessageIntegrity(key).Check(m) == nil
}

// key is the long-term key of a user whose time has not run out.
func (g *guard) key(username, realm string) ([]byte, bool) {
	stamp, _, _ := strings.Cut(username, ":")
	expiry, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || expiry < g.now().Unix() || realm != g.realm {
		return nil, false
	}
	return turn.GenerateAuthKey(username, realm, restPassword(g.secret, username)), true
}

// judge returns the error code that a signed request deserves, or 0.
func (g *guard) judge(m *stun.Message, client, local net.Addr) stun.ErrorCode {
	if m.Type.Method == stun.MethodAllocate {
		return judgeAllocate(m)
	}
	if !g.allocated(client, local) && !endsAllocation(m) {
		return stun.CodeAllocMismatch
	}
	if m.Type.Method == stun.MethodRefresh {
		return 0
	}
	if m.Type.Method == stun.MethodChannelBind {
		number, err := m.Get(stun.AttrChannelNumber)
		// RFC 8656, 12: channel numbers are 0x4000 to 0x4FFF.
		if err != nil || len(number) != 4 || number[0]>>4 != 4 {
			return stun.CodeBadRequest
		}
	}
	return g.judgePeers(m)
}

func judgeAllocate(m *stun.Message) stun.ErrorCode {
	if v, err := m.Get(stun.AttrRequestedTransport); err == nil && (len(v) != 4 || v[0] != 17) {
		return stun.CodeUnsupportedTransProto
	}
	if v, err := m.Get(stun.AttrRequestedAddressFamily); err == nil && (len(v) != 4 || v[0] != 1) {
		return stun.CodeAddrFamilyNotSupported
	}
	return 0
}

// endsAllocation: a Refresh with lifetime 0 of what is already gone is a success (RFC 8656, 7.2).
func endsAllocation(m *stun.Message) bool {
	v, err := m.Get(stun.AttrLifetime)
	return m.Type.Method == stun.MethodRefresh && err == nil && len(v) == 4 && binary.BigEndian.Uint32(v) == 0
}

// judgePeers admits all peers of a request or none.
func (g *guard) judgePeers(m *stun.Message) stun.ErrorCode {
	peers := 0
	for _, a := range m.Attributes {
		if a.Type != stun.AttrXORPeerAddress {
			continue
		}
		addr := peerAddr(a.Value)
		if !addr.IsValid() {
			return stun.CodePeerAddrFamilyMismatch
		}
		if !g.allowed(addr) {
			return stun.CodeForbidden
		}
		peers++
	}
	if peers == 0 {
		return stun.CodeBadRequest
	}
	return 0
}

// peerAddr decodes the address of an IPv4 XOR-PEER-ADDRESS; invalid for IPv6, which these relays don't relay.
func peerAddr(v []byte) netip.Addr {
	if len(v) != 8 || v[1] != 1 {
		return netip.Addr{}
	}
	var a [4]byte
	binary.BigEndian.PutUint32(a[:], binary.BigEndian.Uint32(v[4:])^stunCookie)
	return netip.AddrFrom4(a)
}

func addressesWellFormed(m *stun.Message) bool {
	for _, a := range m.Attributes {
		if a.Type != stun.AttrXORPeerAddress {
			continue
		}
		v4 := len(a.Value) == 8 && a.Value[1] == 1
		v6 := len(a.Value) == 20 && a.Value[1] == 2
		if !v4 && !v6 {
			return false
		}
	}
	return true
}

// unsigned returns the request without what authenticates it.
func unsigned(m *stun.Message) []byte {
	out := &stun.Message{TransactionID: m.TransactionID, Type: m.Type}
	out.WriteHeader()
	for _, a := range m.Attributes {
		switch a.Type {
		case stun.AttrUsername, stun.AttrRealm, stun.AttrNonce, stun.AttrMessageIntegrity, stun.AttrFingerprint:
		default:
			out.Add(a.Type, a.Value)
		}
	}
	out.WriteHeader()
	return out.Raw
}

func refuse(m *stun.Message, code stun.ErrorCode, key []byte) []byte {
	out, err := stun.Build(
		stun.NewTransactionIDSetter(m.TransactionID),
		stun.NewType(m.Type.Method, stun.ClassErrorResponse),
		code,
		stun.MessageIntegrity(key),
	)
	if err != nil {
		return nil
	}
	return out.Raw
}

package relay

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"math/rand/v2"
	"net/netip"
	"sync"

	"github.com/pion/stun/v2"
)

// Attributes of RFC 8656 that pion/stun v2 has no name for.
const (
	attrAdditionalAddressFamily stun.AttrType = 0x8000
	attrAddressErrorCode        stun.AttrType = 0x8001
)

const (
	stunHeaderSize    = 20
	stunCookie        = 0x2112A442
	attrHeaderSize    = 4
	integritySize     = 20
	fingerprintXOR    = 0x5354554e // RFC 8489 section 14.7
	channelHeaderSize = 4

	familyIPv4 = 0x01
	familyIPv6 = 0x02
	// protocolUDP is the only REQUESTED-TRANSPORT of RFC 8656; RFC 6062 would add TCP.
	protocolUDP = 17

	// maxUserNameBytes and maxOpaqueBytes are the longest USERNAME, and the longest REALM or NONCE, that RFC 8489 allows.
	maxUserNameBytes = 508
	maxOpaqueBytes   = 763
)

// message is one STUN message of a client, walked once. Its slices point into the frame it was read from, so it lives no longer
// than the frame.
//
// Only the first of several equal attributes counts (RFC 8489 section 14), XOR-PEER-ADDRESS in a CreatePermission excepted, and
// nothing behind MESSAGE-INTEGRITY but FINGERPRINT counts at all (section 14.5): those bytes nobody has signed.
type message struct {
	raw    []byte
	method stun.Method
	class  stun.MessageClass
	id     [stun.TransactionIDSize]byte

	username, realm, nonce []byte // nil: absent; empty: there, and empty
	integrity              []byte
	integrityAt            int // where the MESSAGE-INTEGRITY attribute begins
	fingerprint            bool
	badFingerprint         bool

	lifetime         []byte
	transport        []byte
	family           []byte
	additionalFamily []byte
	evenPort         []byte
	reservation      []byte
	channel          []byte
	data             []byte
	peers            []netip.AddrPort
	badPeer          bool // an XOR-PEER-ADDRESS that is none

	unknown []uint16 // comprehension-required attributes that this server does not know

	peerBuf [2]netip.AddrPort // where peers lives for the usual one or two
}

var (
	errNotSTUN   = errors.New("not a STUN message")
	errAttribute = errors.New("an attribute runs past the end of its message")
)

// parse walks raw, a whole frame. errNotSTUN means that not even the header can be trusted; after errAttribute the header (method,
// class, transaction) is filled in, so that a request can be answered 400.
func (m *message) parse(raw []byte) error {
	if len(raw) < stunHeaderSize || raw[0]&0xc0 != 0 || binary.BigEndian.Uint32(raw[4:]) != stunCookie {
		return errNotSTUN
	}
	if n := int(binary.BigEndian.Uint16(raw[2:])); n%4 != 0 || n != len(raw)-stunHeaderSize {
		return errNotSTUN
	}
	var typ stun.MessageType
	typ.ReadValue(binary.BigEndian.Uint16(raw))
	*m = message{raw: raw, method: typ.Method, class: typ.Class}
	m.peers = m.peerBuf[:0]
	copy(m.id[:], raw[8:])
	return m.walk()
}

func (m *message) walk() error {
	for at := stunHeaderSize; at < len(m.raw); {
		if len(m.raw)-at < attrHeaderSize {
			return errAttribute
		}
		typ := stun.AttrType(binary.BigEndian.Uint16(m.raw[at:]))
		length := int(binary.BigEndian.Uint16(m.raw[at+2:]))
		end := at + attrHeaderSize + length
		padded := at + attrHeaderSize + (length+3)&^3
		if padded > len(m.raw) {
			return errAttribute
		}
		m.take(typ, m.raw[at+attrHeaderSize:end:end], at)
		at = padded
	}
	return nil
}

func (m *message) take(typ stun.AttrType, value []byte, at int) {
	if typ == stun.AttrFingerprint {
		m.checkFingerprint(value, at)
		return
	}
	if m.fingerprint || m.integrity != nil {
		return
	}
	switch typ {
	case stun.AttrUsername:
		keepFirst(&m.username, value)
	case stun.AttrRealm:
		keepFirst(&m.realm, value)
	case stun.AttrNonce:
		keepFirst(&m.nonce, value)
	case stun.AttrMessageIntegrity:
		m.integrity, m.integrityAt = value, at
	case stun.AttrLifetime:
		keepFirst(&m.lifetime, value)
	case stun.AttrRequestedTransport:
		keepFirst(&m.transport, value)
	case stun.AttrRequestedAddressFamily:
		keepFirst(&m.family, value)
	case attrAdditionalAddressFamily:
		keepFirst(&m.additionalFamily, value)
	case stun.AttrEvenPort:
		keepFirst(&m.evenPort, value)
	case stun.AttrReservationToken:
		keepFirst(&m.reservation, value)
	case stun.AttrChannelNumber:
		keepFirst(&m.channel, value)
	case stun.AttrData:
		keepFirst(&m.data, value)
	case stun.AttrXORPeerAddress:
		m.takePeer(value)
	case stun.AttrMappedAddress, stun.AttrXORMappedAddress, stun.AttrXORRelayedAddress, stun.AttrErrorCode, stun.AttrUnknownAttributes:
		// Known, and of no meaning in what a client sends: ignored, RFC 8489 section 6.3.
	default:
		// DONT-FRAGMENT ends here too: a server that can't set the DF bit treats it as unknown (RFC 8656 section 7.2).
		if typ.Required() && len(m.unknown) < 16 {
			m.unknown = append(m.unknown, typ.Value())
		}
	}
}

func keepFirst(field *[]byte, value []byte) {
	if *field == nil {
		*field = value
	}
}

func (m *message) takePeer(value []byte) {
	peer, ok := xorAddress(value, m.id)
	if !ok {
		m.badPeer = true
		return
	}
	// More than a table could ever hold need not be remembered; the request is refused for its number anyway.
	if len(m.peers) <= maxPermissions {
		m.peers = append(m.peers, peer)
	}
}

// checkFingerprint judges a FINGERPRINT, which must be the last attribute (RFC 8489 section 14.7).
func (m *message) checkFingerprint(value []byte, at int) {
	m.fingerprint = true
	last := at+attrHeaderSize+4 == len(m.raw)
	m.badFingerprint = m.badFingerprint || len(value) != 4 || !last ||
		binary.BigEndian.Uint32(value) != crc32.ChecksumIEEE(m.raw[:at])^fingerprintXOR
}

// signedBy tells whether MESSAGE-INTEGRITY is the one that key makes, in constant time. The length in the header is taken as if
// the message ended right behind the attribute (RFC 8489 section 14.5).
func (m *message) signedBy(key stun.MessageIntegrity) bool {
	if len(m.integrity) != integritySize {
		return false
	}
	return hmacEqual(key, m.signedPart(), m.integrity)
}

func (m *message) signedPart() [2][]byte {
	header := make([]byte, stunHeaderSize)
	copy(header, m.raw)
	binary.BigEndian.PutUint16(header[2:], uint16(m.integrityAt+attrHeaderSize+integritySize-stunHeaderSize))
	return [2][]byte{header, m.raw[stunHeaderSize:m.integrityAt]}
}

// xorAddress reads the value of an XOR-…-ADDRESS attribute. What is shorter or longer than its family says is no address.
func xorAddress(value []byte, id [stun.TransactionIDSize]byte) (netip.AddrPort, bool) {
	if len(value) < 4 {
		return netip.AddrPort{}, false
	}
	port := binary.BigEndian.Uint16(value[2:]) ^ (stunCookie >> 16)
	var mask [16]byte
	binary.BigEndian.PutUint32(mask[:], stunCookie)
	copy(mask[4:], id[:])
	switch {
	case value[1] == familyIPv4 && len(value) == 8:
		var a [4]byte
		for i := range a {
			a[i] = value[4+i] ^ mask[i]
		}
		return netip.AddrPortFrom(netip.AddrFrom4(a), port), true
	case value[1] == familyIPv6 && len(value) == 20:
		var a [16]byte
		for i := range a {
			a[i] = value[4+i] ^ mask[i]
		}
		// ::ffff:a.b.c.d stays what it was sent as: whoever judges it must see that it came as IPv6.
		return netip.AddrPortFrom(netip.AddrFrom16(a), port), true
	}
	return netip.AddrPort{}, false
}

// appendXORAddress appends a whole XOR-…-ADDRESS attribute.
func appendXORAddress(b []byte, typ stun.AttrType, ap netip.AddrPort, id [stun.TransactionIDSize]byte) []byte {
	addr := ap.Addr().Unmap()
	family, size := byte(familyIPv4), 4
	if addr.Is6() {
		family, size = familyIPv6, 16
	}
	var mask [16]byte
	binary.BigEndian.PutUint32(mask[:], stunCookie)
	copy(mask[4:], id[:])
	b = binary.BigEndian.AppendUint16(b, typ.Value())
	b = binary.BigEndian.AppendUint16(b, uint16(4+size))
	b = append(b, 0, family)
	b = binary.BigEndian.AppendUint16(b, ap.Port()^(stunCookie>>16))
	if size == 4 {
		a := addr.As4()
		for i := range a {
			b = append(b, a[i]^mask[i])
		}
		return b
	}
	a := addr.As16()
	for i := range a {
		b = append(b, a[i]^mask[i])
	}
	return b
}

// headroom is the room that a packet needs in front of it to be framed in place for a client: a Data indication's header, an IPv6
// XOR-PEER-ADDRESS and the header of DATA. tailroom is for the padding of DATA.
const (
	headroom = stunHeaderSize + attrHeaderSize + 20 + attrHeaderSize
	tailroom = 3
)

// frameChannelData frames buf[headroom:] in place. The padding of streams is not its business.
func frameChannelData(buf []byte, number uint16) []byte {
	frame := buf[headroom-channelHeaderSize:]
	binary.BigEndian.PutUint16(frame, number)
	binary.BigEndian.PutUint16(frame[2:], uint16(len(buf)-headroom))
	return frame
}

// frameIndication frames buf[headroom:], a packet from peer (Data) or for it (Send), in place.
func frameIndication(buf []byte, method stun.Method, peer netip.AddrPort) []byte {
	size := len(buf) - headroom
	head := stunHeaderSize + attrHeaderSize + 8 + attrHeaderSize
	if peer.Addr().Unmap().Is6() {
		head += 12
	}
	for range (4 - size%4) % 4 {
		buf = append(buf, 0)
	}
	frame := buf[headroom-head:]
	// Nobody answers an indication, so its transaction needs to be different, not secret.
	var id [stun.TransactionIDSize]byte
	binary.BigEndian.PutUint64(id[:], rand.Uint64())
	binary.BigEndian.PutUint32(id[8:], rand.Uint32())
	binary.BigEndian.PutUint16(frame, stun.NewType(method, stun.ClassIndication).Value())
	binary.BigEndian.PutUint16(frame[2:], uint16(len(frame)-stunHeaderSize))
	binary.BigEndian.PutUint32(frame[4:], stunCookie)
	copy(frame[8:], id[:])
	at := len(appendXORAddress(frame[:stunHeaderSize], stun.AttrXORPeerAddress, peer, id))
	binary.BigEndian.PutUint16(frame[at:], stun.AttrData.Value())
	binary.BigEndian.PutUint16(frame[at+2:], uint16(size))
	return frame
}

// packetBuffers keeps buffers with headroom for packets that are framed in place.
type packetBuffers struct{ pool sync.Pool }

const packetBufferSize = 2048

func (p *packetBuffers) get() *[]byte {
	if b, ok := p.pool.Get().(*[]byte); ok {
		return b
	}
	b := make([]byte, headroom, packetBufferSize)
	return &b
}

func (p *packetBuffers) put(b *[]byte) { p.pool.Put(b) }

package relay

import (
	"encoding/binary"
	"net/netip"

	"github.com/pion/stun/v2"
)

// Answers that the data path gives itself. They are not signed, since it holds no credential, and they name no software.

// bindingAnswer answers a Binding request with the address it came from (RFC 8489 section 7.3.1). CHANGE-REQUEST and the like of
// RFC 5780 have no say in where an answer goes: to the one who asked.
func bindingAnswer(m *message, client netip.AddrPort) ([]byte, error) {
	mapped := stun.XORMappedAddress{IP: client.Addr().Unmap().AsSlice(), Port: int(client.Port())}
	setters := []stun.Setter{stun.NewType(stun.MethodBinding, stun.ClassSuccessResponse), stun.NewTransactionIDSetter(m.id), &mapped}
	return build(setters, m.fingerprint)
}

// errorAnswer answers a request with an error code.
func errorAnswer(m *message, code int) ([]byte, error) {
	failure := stun.ErrorCodeAttribute{Code: stun.ErrorCode(code), Reason: []byte(reason(code))}
	setters := []stun.Setter{stun.NewType(m.method, stun.ClassErrorResponse), stun.NewTransactionIDSetter(m.id), failure}
	if code == codeUnknownAttribute {
		setters = append(setters, unknownAttributes(m.unknown))
	}
	return build(setters, m.fingerprint)
}

// unknownAttributes is UNKNOWN-ATTRIBUTES: two bytes for each (RFC 8489 section 14.13). That of pion/stun v2 has four.
func unknownAttributes(types []uint16) stun.RawAttribute {
	list := make([]byte, 0, 2*len(types))
	for _, t := range types {
		list = binary.BigEndian.AppendUint16(list, t)
	}
	return stun.RawAttribute{Type: stun.AttrUnknownAttributes, Value: list}
}

// build makes a message, with FINGERPRINT if the request had one.
func build(setters []stun.Setter, fingerprint bool) ([]byte, error) {
	if fingerprint {
		setters = append(setters, stun.Fingerprint)
	}
	m, err := stun.Build(setters...)
	if err != nil {
		return nil, err
	}
	return m.Raw, nil
}

// signed tells whether a message carries MESSAGE-INTEGRITY of either kind.
func (m *message) signed() bool {
	return m.integrity != nil || attribute(m.raw, stun.AttrType(0x001c)) != nil // MESSAGE-INTEGRITY-SHA256
}

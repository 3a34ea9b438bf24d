package relay

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"net/netip"
	"time"
)

// nonceLifetime is how long a nonce is good for. RFC 8489 section 9.2.1 wants them to expire; ten minutes is the length of one
// allocation, so a client meets one 438 between two of its own Refreshes at the most.
const nonceLifetime = 10 * time.Minute

// nonces issues nonces and knows its own again without remembering them: a nonce is the time it was made and a MAC over that time
// and the five-tuple it was made for. Whoever overhears one can't use it from elsewhere, and a flood of Allocates costs no memory.
//
// The secret is the process's own, so every nonce is stale after a restart; 438 makes clients take the next one.
type nonces struct {
	secret [32]byte
}

const (
	nonceTimeSize = 4
	nonceMACSize  = 12
)

func newNonces() *nonces {
	n := &nonces{}
	rand.Read(n.secret[:]) // never fails: crypto/rand ends the process instead
	return n
}

// issue makes a nonce for one client address.
func (n *nonces) issue(now time.Time, client netip.AddrPort, stream bool) string {
	raw := binary.BigEndian.AppendUint32(make([]byte, 0, nonceTimeSize+nonceMACSize), uint32(now.Unix()))
	raw = append(raw, n.mac(raw, client, stream)...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// valid tells whether nonce was issued by this process to this client no more than nonceLifetime ago.
func (n *nonces) valid(nonce []byte, now time.Time, client netip.AddrPort, stream bool) bool {
	var raw [nonceTimeSize + nonceMACSize]byte
	if len(nonce) != base64.RawURLEncoding.EncodedLen(len(raw)) {
		return false
	}
	if _, err := base64.RawURLEncoding.Strict().Decode(raw[:], nonce); err != nil {
		return false
	}
	if !hmac.Equal(raw[nonceTimeSize:], n.mac(raw[:nonceTimeSize], client, stream)) {
		return false
	}
	age := now.Unix() - int64(binary.BigEndian.Uint32(raw[:]))
	return age >= 0 && age <= int64(nonceLifetime/time.Second)
}

func (n *nonces) mac(made []byte, client netip.AddrPort, stream bool) []byte {
	h := hmac.New(sha256.New, n.secret[:])
	h.Write(made)
	if stream {
		h.Write([]byte{1})
	} else {
		h.Write([]byte{0})
	}
	addr := client.Addr().Unmap().As16()
	h.Write(addr[:])
	h.Write(binary.BigEndian.AppendUint16(nil, client.Port()))
	return h.Sum(nil)[:nonceMACSize]
}

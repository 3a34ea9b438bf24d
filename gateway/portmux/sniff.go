package portmux

// Protocol is what a connection turned out to speak: the label of hafen_mux_connections_total, a fixed and short list.
type Protocol string

// What a connection may turn out to be. The ones down to ACME have an owner; the rest is closed without a banner.
const (
	HTTP        Protocol = "http"            // plain HTTP/1.x, CONNECT included
	STUN        Protocol = "stun"            // plain STUN and TURN
	TLS         Protocol = "tls"             // TLS that ended before it was known what is inside
	TLSHTTP     Protocol = "tls-http"        // HTTP/1.x inside TLS
	TLSHTTP2    Protocol = "tls-h2"          // HTTP/2, chosen by ALPN
	TLSSTUN     Protocol = "tls-stun"        // STUN and TURN inside TLS
	Passthrough Protocol = "tls-passthrough" // spliced to the named host, never decrypted
	ACME        Protocol = "tls-acme"        // a certificate authority looks at a TLS-ALPN-01 challenge

	TLSSilent   Protocol = "tls-none"    // handshaken, then nothing
	TLSUnknown  Protocol = "tls-unknown" // handshaken, then neither HTTP nor STUN
	Silent      Protocol = "none"        // not one byte
	ChannelData Protocol = "channeldata" // a TURN frame that belongs to no allocation
	ProxyHeader Protocol = "proxy"       // a PROXY protocol header that is not believed, or missing
	RDP         Protocol = "rdp"
	SSH         Protocol = "ssh"
	SSL2        Protocol = "sslv2"
	Unknown     Protocol = "unknown"
)

// sniffSize is how many first bytes settle every case: a STUN header up to its magic cookie, or "CONNECT ".
const sniffSize = 8

// sniff tells a protocol from its first bytes, at least one. It answers false while more are needed; once it has
// answered true, further bytes never change the answer.
//
// TURN over TCP is told from TLS, HTTP and the rest by RFC 7983's ranges, made stricter: what could be two things is
// decided on eight bytes. ChannelData (RFC 8656 section 12.4) never comes first, since it needs an allocation, so
// 0x43 is the C of CONNECT and never a channel.
func sniff(b []byte) (Protocol, bool) {
	switch first := b[0]; {
	case first == 0x16:
		return TLS, true
	case first <= 0x03:
		return sniffSTUN(b)
	case 'A' <= first && first <= 'Z':
		return sniffMethod(b)
	case first == 0x40:
		return ChannelData, true
	case first == 0x0d:
		return ProxyHeader, true
	case first == 0x80:
		return SSL2, true
	}
	return Unknown, true
}

// sniffSTUN checks a STUN header as far as it is there (RFC 8489 section 5): two zero bits, a length that is a multiple of
// four, the magic cookie. STUN as RFC 3489 had it, without the cookie, gets no answer.
func sniffSTUN(b []byte) (Protocol, bool) {
	const cookie = "\x21\x12\xa4\x42"
	other := Unknown
	if len(b) > 1 && b[0] == 0x03 && b[1] == 0x00 {
		other = RDP // a TPKT header; a STUN message of this type does not exist
	}
	if len(b) > 3 && b[3]&3 != 0 {
		return other, true
	}
	for i := 4; i < min(len(b), sniffSize); i++ {
		if b[i] != cookie[i-4] {
			return other, true
		}
	}
	if len(b) < sniffSize {
		return "", false
	}
	return STUN, true
}

// sniffMethod decides on a method token (RFC 9110 section 9.1) that is followed by a space or at least eight bytes long. Of the
// token's characters digits and small letters are left out: no method has them, "SSH-2.0-" does.
func sniffMethod(b []byte) (Protocol, bool) {
	for i := range min(len(b), sniffSize) {
		switch c := b[i]; {
		case 'A' <= c && c <= 'Z' || isMethodMark(c):
		case c == ' ' && string(b[:i]) == "PROXY":
			return ProxyHeader, true
		case c == ' ':
			return HTTP, true
		case string(b[:min(i, 4)]) == "SSH-":
			return SSH, true
		case b[0] <= 0x4f && (c < ' ' || c > '~'):
			return ChannelData, true
		default:
			return Unknown, true
		}
	}
	if len(b) < sniffSize {
		return "", false
	}
	return HTTP, true
}

func isMethodMark(c byte) bool {
	switch c {
	case '!', '#', '$', '%', '&', '\'', '*', '+', '-', '.', '^', '_', '`', '|', '~':
		return true
	}
	return false
}

// inside names p for a connection whose TLS was taken off.
func (p Protocol) inside() Protocol {
	switch p {
	case HTTP:
		return TLSHTTP
	case STUN:
		return TLSSTUN
	case Silent:
		return TLSSilent
	}
	return TLSUnknown
}

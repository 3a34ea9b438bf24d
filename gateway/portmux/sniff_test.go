package portmux

import (
	"strings"
	"testing"

	"hafen/gateway/frugal"
)

// TestAbuse_E02 is the table of first bytes.
func TestAbuse_E02(t *testing.T) {
	cookie := "\x21\x12\xa4\x42"
	for _, c := range []struct {
		name, first string
		want        Protocol
		after       int // bytes that must suffice
	}{
		{"TLS", "\x16\x03\x01\x02\x00\x01", TLS, 1},
		{"Binding request", "\x00\x01\x00\x00" + cookie, STUN, 8},
		{"Allocate request", "\x00\x03\x00\x08" + cookie, STUN, 8},
		{"Send indication", "\x00\x16\x00\x10" + cookie, STUN, 8},
		{"class bits", "\x01\x01\x00\x0c" + cookie, STUN, 8},
		{"cookie-less STUN", "\x00\x01\x00\x00\x11\x22\x33\x44", Unknown, 5},
		{"STUN, cookie wrong in its last byte", "\x00\x01\x00\x00\x21\x12\xa4\x43", Unknown, 8},
		{"STUN, length not a multiple of 4", "\x00\x01\x00\x01" + cookie, Unknown, 4},
		{"RDP", "\x03\x00\x00\x13\x0e\xe0\x00\x00", RDP, 4},
		{"GET", "GET / HTTP/1.1\r\n", HTTP, 4},
		{"CONNECT is no channel 0x434F", "CONNECT call.example.net:443", HTTP, 8},
		{"OPTIONS", "OPTIONS * HTTP/1.1\r\n", HTTP, 8},
		{"a long method", "PROPPATCH / HTTP/1.1\r\n", HTTP, 8},
		{"a method with a mark", "M-SEARCH * HTTP/1.1\r\n", HTTP, 8},
		{"HTTP/2 with prior knowledge is the HTTP server's to refuse", "PRI * HTTP/2.0\r\n", HTTP, 4},
		{"small letters are no method", "get / HTTP/1.1\r\n", Unknown, 1},
		{"small letters within", "Get / HTTP/1.1\r\n", Unknown, 2},
		{"channel 0x4000", "\x40\x00\x00\x04data", ChannelData, 1},
		{"channel 0x4300, the C of CONNECT", "\x43\x00\x00\x04data", ChannelData, 2},
		{"channel 0x4F4E", "\x4f\x4e\x00\x04data", ChannelData, 3},
		{"reserved channel 0x5000", "\x50\x00\x00\x04data", Unknown, 2},
		{"channel range of old, 0x7000", "\x70\x00\x00\x04data", Unknown, 1},
		{"SSLv2", "\x80\x2e\x01\x00\x02\x00\x15\x00", SSL2, 1},
		{"PROXY v2", "\x0d\x0a\x0d\x0a\x00\x0d\x0aQUIT\x0a", ProxyHeader, 1},
		{"PROXY v1", "PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", ProxyHeader, 6},
		{"SSH", "SSH-2.0-OpenSSH_9.2\r\n", SSH, 5},
		{"S then SSH-like", "SSHX2.0-", Unknown, 5},
		{"nothing but a space", "  GET / HTTP/1.1", Unknown, 1},
		{"random", "\xf3\x91\x00\x18", Unknown, 1},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, sure := sniff([]byte(c.first[:c.after]))
			if !sure || p != c.want {
				t.Errorf("%d bytes: %q %v, want %q", c.after, p, sure, c.want)
			}
			if c.after > 1 {
				if p, sure := sniff([]byte(c.first[:c.after-1])); sure {
					t.Errorf("one byte less already tells %q", p)
				}
			}
		})
	}
}

func FuzzSniff(f *testing.F) {
	f.Add([]byte("CONNECT call.example.net:443 HTTP/1.1\r\n"))
	f.Add([]byte("PROXY TCP4"))
	f.Add(bindingRequest)
	f.Add([]byte{0x16, 3, 1})
	f.Add([]byte{0x43, 0x4f, 0x4e, 0x4e})
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Input(t)()
		if len(b) == 0 {
			return
		}
		p, sure := sniff(b)
		if len(b) >= sniffSize && !sure {
			t.Fatalf("%q: not told by %d bytes", b, len(b))
		}
		for i := 1; sure && i < len(b); i++ {
			if q, early := sniff(b[:i]); early && q != p {
				t.Fatalf("%q: %q after %d bytes, %q after all", b, q, i, p)
			}
		}
		if sure && p == STUN && string(b[4:8]) != "\x21\x12\xa4\x42" {
			t.Fatalf("%q: STUN without its cookie", b)
		}
		if sure && p == HTTP && strings.ContainsAny(string(b[:1]), "abcdefghijklmnopqrstuvwxyz") {
			t.Fatalf("%q: HTTP", b)
		}
	})
}

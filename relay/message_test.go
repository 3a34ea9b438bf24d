package relay

import (
	"net/netip"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"hafen/gateway/frugal"
)

// The test vectors of RFC 5769.
const (
	vectorRequest = "\x00\x01\x00\x58\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
		"\x80\x22\x00\x10STUN test client\x00\x24\x00\x04\x6e\x00\x01\xff" +
		"\x80\x29\x00\x08\x93\x2f\xf9\xb1\x51\x26\x3b\x36\x00\x06\x00\x09evtj:h6vY   " +
		"\x00\x08\x00\x14\x9a\xea\xa7\x0c\xbf\xd8\xcb\x56\x78\x1e\xf2\xb5\xb2\xd3\xf2\x49\xc1\xb5\x71\xa2" +
		"\x80\x28\x00\x04\xe5\x7a\x3b\xcf"
	vectorIPv4 = "\x01\x01\x00\x3c\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
		"\x80\x22\x00\x0btest vector \x00\x20\x00\x08\x00\x01\xa1\x47\xe1\x12\xa6\x43" +
		"\x00\x08\x00\x14\x2b\x91\xf5\x99\xfd\x9e\x90\xc3\x8c\x74\x89\xf9\x2a\xf9\xba\x53\xf0\x6b\xe7\xd7" +
		"\x80\x28\x00\x04\xc0\x7d\x4c\x96"
	vectorIPv6 = "\x01\x01\x00\x48\x21\x12\xa4\x42\xb7\xe7\xa7\x01\xbc\x34\xd6\x86\xfa\x87\xdf\xae" +
		"\x80\x22\x00\x0btest vector \x00\x20\x00\x14\x00\x02\xa1\x47\x01\x13\xa9\xfa\xa5\xd3\xf1\x79\xbc\x25\xf4\xb5\xbe\xd2\xb9\xd9" +
		"\x00\x08\x00\x14\xa3\x82\x95\x4e\x4b\xe6\x7b\xf1\x17\x84\xc9\x7c\x82\x92\xc2\x75\xbf\xe3\xed\x41" +
		"\x80\x28\x00\x04\xc8\xfb\x0b\x4c"
	vectorLongTerm = "\x00\x01\x00\x60\x21\x12\xa4\x42\x78\xad\x34\x33\xc6\xad\x72\xc0\x29\xda\x41\x2e" +
		"\x00\x06\x00\x12\xe3\x83\x9e\xe3\x83\x88\xe3\x83\xaa\xe3\x83\x83\xe3\x82\xaf\xe3\x82\xb9\x00\x00" +
		"\x00\x15\x00\x1cf//499k954d6OL34oL9FSTvy64sA\x00\x14\x00\x0bexample.org\x00" +
		"\x00\x08\x00\x14\xf6\x70\x24\x65\x6d\xd6\x4a\x3e\x02\xb8\xe0\x71\x2e\x85\xc9\xa2\x8c\xa8\x96\x66"
)

func TestRFC5769(t *testing.T) {
	shortTerm := stun.NewShortTermIntegrity("VOkJxbRl1RmTxUk/WvJxBt")
	longTerm := stun.NewLongTermIntegrity("\u30DE\u30C8\u30EA\u30C3\u30AF\u30B9", "example.org", "TheMatrIX")
	for _, tc := range []struct {
		name, raw   string
		key         stun.MessageIntegrity
		class       stun.MessageClass
		fingerprint bool
		username    string
	}{
		{"request", vectorRequest, shortTerm, stun.ClassRequest, true, "evtj:h6vY"},
		{"IPv4 response", vectorIPv4, shortTerm, stun.ClassSuccessResponse, true, ""},
		{"IPv6 response", vectorIPv6, shortTerm, stun.ClassSuccessResponse, true, ""},
		{"long-term request", vectorLongTerm, longTerm, stun.ClassRequest, false, "マトリックス"},
	} {
		var m message
		if err := m.parse([]byte(tc.raw)); err != nil {
			t.Fatalf("%s: %v", tc.name, err)
		}
		if m.method != stun.MethodBinding || m.class != tc.class || string(m.username) != tc.username {
			t.Errorf("%s: %v %v, user name %q", tc.name, m.method, m.class, m.username)
		}
		if m.fingerprint != tc.fingerprint || m.badFingerprint {
			t.Errorf("%s: FINGERPRINT there %v, bad %v", tc.name, m.fingerprint, m.badFingerprint)
		}
		if !m.signedBy(tc.key) || m.signedBy(stun.NewShortTermIntegrity("wrong")) {
			t.Errorf("%s: MESSAGE-INTEGRITY is misjudged", tc.name)
		}
		for i := range tc.raw {
			// One byte of what is signed changed; some changes make it no message at all.
			changed := []byte(tc.raw)
			changed[i] ^= 1
			var n message
			if i < m.integrityAt && n.parse(changed) == nil && n.integrity != nil && n.signedBy(tc.key) {
				t.Errorf("%s: still signed with byte %d changed", tc.name, i)
			}
		}
	}
	at := netip.MustParseAddrPort("192.0.2.1:32853")
	if got := appendXORAddress(nil, stun.AttrXORMappedAddress, at, [12]byte([]byte(vectorIPv4)[8:20])); string(got) != vectorIPv4[36:48] {
		t.Errorf("XOR-MAPPED-ADDRESS %x", got)
	}
	at6 := netip.MustParseAddrPort("[2001:db8:1234:5678:11:2233:4455:6677]:32853")
	if got := appendXORAddress(nil, stun.AttrXORMappedAddress, at6, [12]byte([]byte(vectorIPv6)[8:20])); string(got) != vectorIPv6[36:60] {
		t.Errorf("XOR-MAPPED-ADDRESS %x", got)
	}
}

// FuzzEngine feeds two frames, each whole or nearly, to a client with an allocation and a channel: whatever they are, there is no
// panic, at most one answer each, and what is answered is STUN.
func FuzzEngine(f *testing.F) {
	for _, seed := range []string{
		vectorRequest, vectorIPv4, vectorLongTerm, "\x40\x00\x00\x04data", "\x40\x00\xff\xfcx",
		"\x00\x01\xff\xec\x21\x12\xa4\x42............", "\x00\x16\x00\x0c\x21\x12\xa4\x42............\x00\x13\x00\x04data\x00\x12\x00\x00",
	} {
		f.Add([]byte(seed), []byte(seed))
	}
	r := newRigFor(f, false)
	seeds := r.client("10.1.2.3:40000", "tls")
	for _, method := range []stun.Method{stun.MethodAllocate, stun.MethodRefresh, stun.MethodCreatePermission, stun.MethodChannelBind} {
		f.Add(seeds.signed(method, udpTransport, channelAttr(0x4000), peerAttr("198.51.100.7:5000")), seeds.indication("198.51.100.7:5000", "data"))
	}
	c := r.client("10.1.2.3:40001", "tls")
	c.want(0, stun.MethodAllocate, udpTransport)
	c.want(0, stun.MethodChannelBind, channelAttr(0x4000), peerAttr("198.51.100.7:5000"))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		defer frugal.Input(t)()
		for _, frame := range [][]byte{one, two} {
			// The fuzzer may even be let in: its bytes signed as the client would.
			c.tuple.handle(frame)
			got := c.answers()
			if len(got) > 1 {
				t.Fatalf("%d answers to one frame", len(got))
			}
			for _, answer := range got {
				var m stun.Message
				if err := stun.Decode(answer, &m); err != nil {
					t.Fatalf("an answer that is no STUN: %v", err)
				}
			}
			if signed, ok := resign(frame, c); ok {
				c.tuple.handle(signed)
				if got := c.answers(); len(got) > 1 {
					t.Fatalf("%d answers to one signed frame", len(got))
				}
			}
			c.rig.relayed[0].take()
		}
	})
}

// resign turns a frame into the same request with a good credential.
func resign(frame []byte, c *rawClient) ([]byte, bool) {
	var m stun.Message
	if stun.Decode(frame, &m) != nil || m.Type.Class != stun.ClassRequest {
		return nil, false
	}
	c.nonce = c.engine.nonces.issue(c.clock.Now(), c.tuple.client.Addr, true)
	setters := []stun.Setter{stun.TransactionID, m.Type}
	for _, a := range m.Attributes {
		switch a.Type {
		case stun.AttrUsername, stun.AttrRealm, stun.AttrNonce, stun.AttrMessageIntegrity, stun.AttrFingerprint:
		case stun.AttrLifetime: // it would delete the allocation that the next ones need
		default:
			setters = append(setters, a)
		}
	}
	setters = append(setters, stun.NewUsername(c.username), stun.NewRealm(c.realm), stun.NewNonce(c.nonce), c.key())
	out, err := stun.Build(setters...)
	if err != nil || len(out.Raw) > 60000 {
		return nil, false
	}
	return out.Raw, true
}

// TestAuthenticationTime: an unknown name, a wrong signature and a right one take about as long.
func TestAuthenticationTime(t *testing.T) {
	c := newRig(t, false).client("10.1.2.3:40000", "tls")
	c.allocated()
	c.challenge()
	user, password := c.username, c.password
	frame := func(name, pass string) []byte {
		c.username, c.password = name, pass
		return c.signed(stun.MethodAllocate, udpTransport)
	}
	// Each is refused: the right one with 437, for there is an allocation already.
	frames := [][]byte{frame("nobody of that form", "x"), frame(user, "wrong"), frame(user, password)}
	best := make([]time.Duration, len(frames))
	for range 2000 {
		for i, f := range frames {
			start := time.Now()
			c.tuple.handle(f)
			if took := time.Since(start); best[i] == 0 || took < best[i] {
				best[i] = took
			}
		}
		c.answers()
	}
	for i := range best {
		// The least of many runs is the machine's own time, whatever else it was doing; the bound is the abuse table's.
		if diff := (best[i] - best[0]).Abs(); diff > 20*time.Microsecond {
			t.Errorf("times %v differ by more than 20 µs", best)
		}
	}
}

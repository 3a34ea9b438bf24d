package relay

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// places are the addresses of a test in one address family.
type places struct {
	v6                          bool
	client, other               string
	peer, peerOtherPort, friend string
	foreignFamily               string
}

var families = map[string]places{
	"IPv4": {client: "10.1.2.3:40000", other: "10.1.2.4:40000", peer: "198.51.100.7:5000", peerOtherPort: "198.51.100.7:5001", friend: "198.51.100.8:5000", foreignFamily: "[2001:db8::7]:5000"},
	"IPv6": {v6: true, client: "[fd00::3]:40000", other: "[fd00:0:0:1::4]:40000", peer: "[2001:db8::7]:5000", peerOtherPort: "[2001:db8::7]:5001", friend: "[2001:db8::8]:5000", foreignFamily: "198.51.100.7:5000"},
}

func inBothFamilies(t *testing.T, f func(t *testing.T, at places)) {
	for name, at := range families {
		t.Run(name, func(t *testing.T) { f(t, at) })
	}
}

// TestErrorCodes has each way to earn an error code, as raw messages, over streams and UDP, in both address families.
func TestErrorCodes(t *testing.T) {
	type step func(c *rawClient, at places)
	allocate := func(c *rawClient, _ places) { c.allocated() }
	send := func(code int, method stun.Method, attrs ...stun.Setter) step {
		return func(c *rawClient, _ places) { c.want(code, method, attrs...) }
	}
	toPeer := func(code int, method stun.Method, which func(places) []stun.Setter) step {
		return func(c *rawClient, at places) { c.want(code, method, which(at)...) }
	}
	peers := func(pick ...func(places) string) func(places) []stun.Setter {
		return func(at places) (out []stun.Setter) {
			for _, p := range pick {
				out = append(out, peerAttr(p(at)))
			}
			return out
		}
	}
	bind := func(number uint16, pick func(places) string) func(places) []stun.Setter {
		return func(at places) []stun.Setter { return []stun.Setter{channelAttr(number), peerAttr(pick(at))} }
	}
	peer := func(at places) string { return at.peer }
	samePeerOtherPort := func(at places) string { return at.peerOtherPort }
	friend := func(at places) string { return at.friend }
	stranger := func(at places) string { return at.foreignFamily }
	otherUser := func(c *rawClient, _ places) {
		c.username, c.password = c.auth.mint("mallory", c.clock.Now().Add(time.Minute))
	}
	expired := func(c *rawClient, _ places) { c.clock.advance(11 * time.Minute) }
	wrongPassword := func(c *rawClient, _ places) { c.password = "wrong" }

	for _, tc := range []struct {
		name  string
		steps []step
	}{
		{"401 wrong password", []step{wrongPassword, send(401, stun.MethodAllocate, udpTransport)}},
		{"400 no transport", []step{send(400, stun.MethodAllocate)}},
		{"400 transport too short", []step{send(400, stun.MethodAllocate, rawAttr(stun.AttrRequestedTransport, protocolUDP))}},
		{"400 lifetime too short", []step{send(400, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrLifetime, 1, 2))}},
		{"400 token beside even port", []step{send(400, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrEvenPort, 0x80), rawAttr(stun.AttrReservationToken, 1, 2, 3, 4, 5, 6, 7, 8))}},
		{"400 two families, first named", []step{send(400, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrRequestedAddressFamily, 1, 0, 0, 0), rawAttr(attrAdditionalAddressFamily, 2, 0, 0, 0))}},
		{"400 second family IPv4", []step{send(400, stun.MethodAllocate, udpTransport, rawAttr(attrAdditionalAddressFamily, 1, 0, 0, 0))}},
		{"420 unknown attribute", []step{send(420, stun.MethodAllocate, udpTransport, rawAttr(0x7abc, 1, 2, 3, 4))}},
		{"420 DONT-FRAGMENT", []step{send(420, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrDontFragment))}},
		{"442 TCP relaying", []step{send(442, stun.MethodAllocate, rawAttr(stun.AttrRequestedTransport, 6, 0, 0, 0))}},
		{"400 Connect", []step{allocate, send(400, stun.MethodConnect)}},
		{"400 ConnectionBind", []step{allocate, send(400, stun.MethodConnectionBind)}},
		{"400 Send as a request", []step{allocate, send(400, stun.MethodSend)}},
		{"440 family 3", []step{send(440, stun.MethodAllocate, udpTransport, rawAttr(stun.AttrRequestedAddressFamily, 3, 0, 0, 0))}},
		{"437 second Allocate", []step{allocate, send(437, stun.MethodAllocate, udpTransport)}},
		{"437 Refresh without allocation", []step{send(437, stun.MethodRefresh)}},
		{"437 CreatePermission without allocation", []step{toPeer(437, stun.MethodCreatePermission, peers(peer))}},
		{"437 ChannelBind without allocation", []step{toPeer(437, stun.MethodChannelBind, bind(0x4000, peer))}},
		{"437 after expiry", []step{allocate, expired, send(438, stun.MethodRefresh), func(c *rawClient, _ places) { c.nonce = "" }, func(c *rawClient, _ places) {
			c.username, c.password = c.auth.mint("alice", c.clock.Now().Add(time.Minute))
		}, send(437, stun.MethodRefresh)}},
		{"437 after Refresh 0", []step{allocate, send(0, stun.MethodRefresh, lifetimeAttr(0)), send(437, stun.MethodRefresh)}},
		{"438 garbage nonce", []step{allocate, func(c *rawClient, _ places) { c.nonce = "garbage" }, send(438, stun.MethodRefresh)}},
		{"441 another user's Refresh", []step{allocate, otherUser, send(441, stun.MethodRefresh)}},
		{"441 another user's permission", []step{allocate, otherUser, toPeer(441, stun.MethodCreatePermission, peers(peer))}},
		{"441 another user's channel", []step{allocate, otherUser, toPeer(441, stun.MethodChannelBind, bind(0x4000, peer))}},
		{"443 Refresh with the other family", []step{allocate, func(c *rawClient, at places) {
			other := byte(familyIPv6)
			if at.v6 {
				other = familyIPv4
			}
			c.want(443, stun.MethodRefresh, rawAttr(stun.AttrRequestedAddressFamily, other, 0, 0, 0))
		}}},
		{"400 permission without peer", []step{allocate, send(400, stun.MethodCreatePermission)}},
		{"443 permission for the other family", []step{allocate, toPeer(443, stun.MethodCreatePermission, peers(peer, stranger))}},
		{"443 IPv4 in IPv6 clothes", []step{allocate, send(443, stun.MethodCreatePermission, mappedPeerAttr("127.0.0.1:80"))}},
		{"443 channel for IPv4 in IPv6 clothes", []step{allocate, send(443, stun.MethodChannelBind, channelAttr(0x4000), mappedPeerAttr("127.0.0.1:80"))}},
		{"0 permission", []step{allocate, toPeer(0, stun.MethodCreatePermission, peers(peer, friend))}},
		{"400 channel 0x3FFF", []step{allocate, toPeer(400, stun.MethodChannelBind, bind(0x3fff, peer))}},
		{"0 channel 0x4000", []step{allocate, toPeer(0, stun.MethodChannelBind, bind(0x4000, peer))}},
		{"0 channel 0x4FFF", []step{allocate, toPeer(0, stun.MethodChannelBind, bind(0x4fff, peer))}},
		{"400 channel 0x5000", []step{allocate, toPeer(400, stun.MethodChannelBind, bind(0x5000, peer))}},
		{"400 channel 0x7FFF", []step{allocate, toPeer(400, stun.MethodChannelBind, bind(0x7fff, peer))}},
		{"400 channel 0xFFFF", []step{allocate, toPeer(400, stun.MethodChannelBind, bind(0xffff, peer))}},
		{"0 channel once more", []step{allocate, toPeer(0, stun.MethodChannelBind, bind(0x4001, peer)), toPeer(0, stun.MethodChannelBind, bind(0x4001, peer))}},
		{"400 channel of another peer", []step{allocate, toPeer(0, stun.MethodChannelBind, bind(0x4001, peer)), toPeer(400, stun.MethodChannelBind, bind(0x4001, friend))}},
		{"400 channel of another port", []step{allocate, toPeer(0, stun.MethodChannelBind, bind(0x4001, peer)), toPeer(400, stun.MethodChannelBind, bind(0x4001, samePeerOtherPort))}},
		{"400 second channel of a peer", []step{allocate, toPeer(0, stun.MethodChannelBind, bind(0x4001, peer)), toPeer(400, stun.MethodChannelBind, bind(0x4002, peer))}},
		{"400 channel without number", []step{allocate, toPeer(400, stun.MethodChannelBind, peers(peer))}},
		{"400 channel without peer", []step{allocate, send(400, stun.MethodChannelBind, channelAttr(0x4000))}},
		{"400 channel with two peers", []step{allocate, func(c *rawClient, at places) {
			c.want(400, stun.MethodChannelBind, channelAttr(0x4000), peerAttr(at.peer), peerAttr(at.friend))
		}}},
		{"500 backend down", []step{func(c *rawClient, _ places) { c.rig.refuse = errTestDown }, send(500, stun.MethodAllocate, udpTransport)}},
		{"508 backend full", []step{func(c *rawClient, _ places) { c.rig.refuse = &turnError{code: 508, why: "no port is free"} }, send(508, stun.MethodAllocate, udpTransport)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inBothFamilies(t, func(t *testing.T, at places) {
				for _, via := range []string{"tls", "udp"} {
					c := newRig(t, at.v6).client(at.client, via)
					for _, s := range tc.steps {
						s(c, at)
					}
				}
			})
		})
	}
}

// TestUnsigned: what a request without a proper credential gets, by RFC 8489 section 9.2.4 and the abuse table.
func TestUnsigned(t *testing.T) {
	long := func(n int) string { return strings.Repeat("x", n) }
	for _, tc := range []struct {
		name                   string
		username, realm, nonce string
		code                   int
	}{
		{"no nonce", "u", "gw.example", "-", 401},
		{"no username", "-", "gw.example", "n", 400},
		{"no realm", "u", "-", "n", 400},
		{"empty username", "", "gw.example", "n", 400},
		{"empty realm", "u", "", "n", 400},
		{"username too long", long(509), "gw.example", "n", 400},
		{"username of the most bytes", long(508), "gw.example", "good", 401},
		{"username not UTF-8", "\xff\xfe", "gw.example", "good", 400},
		{"username with NUL", "1800000100:a\x00b", "gw.example", "good", 401},
		{"username with newline", "1800000100:a\nb", "gw.example", "good", 401},
		{"username with ESC", "1800000100:\x1b[31m", "gw.example", "good", 401},
		{"username as a template", "{{.}}", "gw.example", "good", 401},
		{"wrong realm", "signed", "other.example", "good", 401},
		{"realm too long", "u", long(764), "n", 400},
		{"empty nonce", "signed", "gw.example", "", 438},
		{"garbage nonce", "signed", "gw.example", "garbage", 438},
		{"huge nonce", "signed", "gw.example", long(60000), 438},
		{"good", "signed", "gw.example", "good", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := newRig(t, false).client("10.1.2.3:40000", "tls")
			c.challenge()
			if tc.username != "signed" {
				c.username = tc.username
				c.password = c.auth.password(tc.username)
			}
			if tc.nonce != "good" {
				c.nonce = tc.nonce
			}
			c.realm = tc.realm
			var attrs []stun.Setter
			attrs = append(attrs, udpTransport)
			for typ, v := range map[stun.AttrType]string{stun.AttrUsername: c.username, stun.AttrRealm: c.realm, stun.AttrNonce: c.nonce} {
				if v != "-" {
					attrs = append(attrs, rawAttr(typ, []byte(v)...))
				}
			}
			m := c.exchange(c.unsigned(stun.MethodAllocate, append(attrs, c.key())...))
			if got := codeOf(m); got != tc.code {
				t.Fatalf("answered %d, want %d", got, tc.code)
			}
			if tc.code == 401 || tc.code == 438 {
				if text(m, stun.AttrRealm) != "gw.example" || text(m, stun.AttrNonce) == "" {
					t.Error("a challenge without our realm or without a nonce")
				}
				if _, err := m.Get(stun.AttrMessageIntegrity); err == nil {
					t.Error("a challenge is signed")
				}
			}
		})
	}
}

// TestUsernames: which REST user names are good.
func TestUsernames(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for username, good := range map[string]bool{
		"1800000100:alice":           true,
		"1799999970:alice":           true, // within the tolerance of clocks
		"1799999900:alice":           false,
		"1800086400:alice":           true,
		"1800090100:alice":           false, // more than a day ahead
		"99999999999999999999:alice": false,
		"9223372036854775807:alice":  false,
		"-1:alice":                   false,
		"+1800000100:alice":          false,
		" 1800000100:alice":          false,
		"01800000100:alice":          false,
		"1800000100":                 false,
		"1800000100:":                false,
		"alice":                      false,
		"0:alice":                    false,
	} {
		if _, _, err := readUsername(username, now); (err == nil) != good {
			t.Errorf("%q: %v, want good %v", username, err, good)
		}
	}
}

// TestNonces: a nonce is good for one client address and ten minutes.
func TestNonces(t *testing.T) {
	n, at := newNonces(), time.Unix(1_800_000_000, 0)
	client := netip.MustParseAddrPort("10.1.2.3:40000")
	nonce := []byte(n.issue(at, client, true))
	for _, tc := range []struct {
		name   string
		nonce  string
		now    time.Time
		client string
		stream bool
		good   bool
	}{
		{"at once", string(nonce), at, "10.1.2.3:40000", true, true},
		{"after ten minutes", string(nonce), at.Add(10 * time.Minute), "10.1.2.3:40000", true, true},
		{"later", string(nonce), at.Add(10*time.Minute + time.Second), "10.1.2.3:40000", true, false},
		{"before it was made", string(nonce), at.Add(-time.Minute), "10.1.2.3:40000", true, false},
		{"other address", string(nonce), at, "10.1.2.4:40000", true, false},
		{"other port", string(nonce), at, "10.1.2.3:40001", true, false},
		{"other transport", string(nonce), at, "10.1.2.3:40000", false, false},
		{"same address in IPv6 clothes", string(nonce), at, "[::ffff:10.1.2.3]:40000", true, true},
		{"one character changed", "A" + string(nonce[1:]), at, "10.1.2.3:40000", true, false},
		{"shortened", string(nonce[:len(nonce)-1]), at, "10.1.2.3:40000", true, false},
		{"padded", string(nonce) + "=", at, "10.1.2.3:40000", true, false},
		{"another process's", newNonces().issue(at, client, true), at, "10.1.2.3:40000", true, false},
	} {
		if got := n.valid([]byte(tc.nonce), tc.now, netip.MustParseAddrPort(tc.client), tc.stream); got != tc.good {
			t.Errorf("%s: %v, want %v", tc.name, got, tc.good)
		}
	}
}

// TestReplay: a whole valid Allocate is of no use from another five-tuple, and repeats its answer on its own.
func TestReplay(t *testing.T) {
	inBothFamilies(t, func(t *testing.T, at places) {
		r := newRig(t, at.v6)
		c := r.client(at.client, "udp")
		raw := c.signed(stun.MethodAllocate, udpTransport)
		first := c.exchange(raw)
		if code := codeOf(first); code != 0 {
			t.Fatalf("Allocate: %d", code)
		}
		again := c.exchange(raw)
		if codeOf(again) != 0 || text(again, stun.AttrXORRelayedAddress) != text(first, stun.AttrXORRelayedAddress) {
			t.Error("a retransmitted Allocate does not get the same answer")
		}
		if n := r.engine.stats().Allocations; n != 1 {
			t.Errorf("%d allocations, want 1", n)
		}
		for _, from := range []string{at.other, strings.Replace(at.client, ":40000", ":40001", 1)} {
			if code := codeOf(r.client(from, "udp").exchange(raw)); code != 438 {
				t.Errorf("replayed from %s: %d, want 438", from, code)
			}
		}
	})
}

// TestAllocateAnswer: what a success says.
func TestAllocateAnswer(t *testing.T) {
	inBothFamilies(t, func(t *testing.T, at places) {
		c := newRig(t, at.v6).client(at.client, "tcp")
		m := c.want(0, stun.MethodAllocate, udpTransport, rawAttr(attrAdditionalAddressFamily, 2, 0, 0, 0), lifetimeAttr(1200))
		var mapped, relayed stun.XORMappedAddress
		if err := mapped.GetFrom(m); err != nil || mapped.String() != at.client {
			t.Errorf("XOR-MAPPED-ADDRESS %v %v, want the client's %s", mapped, err, at.client)
		}
		if err := relayed.GetFromAs(m, stun.AttrXORRelayedAddress); err != nil || relayed.String() != c.rig.relayed[0].addr.String() {
			t.Errorf("XOR-RELAYED-ADDRESS %v %v, want %v", relayed, err, c.rig.relayed[0].addr)
		}
		if v := text(m, stun.AttrLifetime); v != "\x00\x00\x04\xb0" {
			t.Errorf("LIFETIME %x, want 1200", v)
		}
		if v := text(m, attrAddressErrorCode); !strings.HasPrefix(v, "\x02\x00\x04\x28") {
			t.Errorf("ADDRESS-ERROR-CODE %x, want IPv6 440", v)
		}
	})
}

// TestLifetime: the clamp of RFC 8656 section 7.2, and the end that no Refresh moves.
func TestLifetime(t *testing.T) {
	for _, tc := range []struct {
		asked, got uint32
	}{{0, 600}, {1, 600}, {600, 600}, {1800, 1800}, {3600, 3600}, {3601, 3600}, {0xffffffff, 3600}} {
		c := newRig(t, false).client("10.1.2.3:40000", "tls")
		m := c.want(0, stun.MethodAllocate, udpTransport, lifetimeAttr(tc.asked))
		if got := binary.BigEndian.Uint32([]byte(text(m, stun.AttrLifetime))); got != tc.got {
			t.Errorf("LIFETIME for %d: %d, want %d", tc.asked, got, tc.got)
		}
	}
	// Refreshed for ever, long after the credential expired, it ends after maxAllocationAge.
	r := newRig(t, false)
	c := r.client("10.1.2.3:40000", "tls")
	c.allocated()
	var age time.Duration
	for ; age < 13*time.Hour; age += 9 * time.Minute {
		r.clock.advance(9 * time.Minute)
		r.engine.sweep(r.clock.Now())
		if r.engine.stats().Allocations == 0 {
			break
		}
		c.nonce = ""
		c.want(0, stun.MethodRefresh, lifetimeAttr(600))
	}
	if age < 11*time.Hour || age > 12*time.Hour+9*time.Minute {
		t.Errorf("the allocation lived for %v, want 12 h", age)
	}
	if !c.rig.relayed[0].closed {
		t.Error("its relayed address was not closed")
	}
}

// TestPermissions: all or none, 64 at the most, for 300 seconds, in both directions.
func TestPermissions(t *testing.T) {
	inBothFamilies(t, func(t *testing.T, at places) {
		r := newRig(t, at.v6)
		c := r.client(at.client, "tls")
		f := c.allocated()
		f.deny[netip.MustParseAddrPort(at.friend).Addr()] = true
		for _, order := range [][]stun.Setter{{peerAttr(at.peer), peerAttr(at.friend)}, {peerAttr(at.friend), peerAttr(at.peer)}} {
			c.want(403, stun.MethodCreatePermission, order...)
			c.tuple.handle(c.indication(at.peer, "nothing"))
			f.arrive(at.peer, "nothing")
			if sent, got := f.take(), c.answers(); len(sent)+len(got) != 0 {
				t.Fatal("a permission was kept from a refused request")
			}
		}
		c.want(0, stun.MethodCreatePermission, peerAttr(at.peer))
		c.tuple.handle(c.indication(at.peerOtherPort, "ports don't count"))
		if sent := f.take(); len(sent) != 1 || sent[0].data != "ports don't count" {
			t.Errorf("sent %v", sent)
		}
		f.arrive(at.peer, "hello")
		if got := c.answers(); len(got) != 1 {
			t.Errorf("%d messages for one packet", len(got))
		}
		r.clock.advance(permissionLifetime)
		c.tuple.handle(c.indication(at.peer, "too late"))
		f.arrive(at.peer, "too late")
		if sent, got := f.take(), c.answers(); len(sent)+len(got) != 0 {
			t.Error("a permission outlived 300 s")
		}
	})
}

func TestPermissionsAreBounded(t *testing.T) {
	c := newRig(t, false).client("10.1.2.3:40000", "tls")
	f := c.allocated()
	accepted := 0
	for i := range 1000 {
		m := c.do(stun.MethodCreatePermission, peerAttr(fmt.Sprintf("198.51.%d.%d:1000", i/250, i%250+1)))
		switch code := codeOf(m); code {
		case 0:
			accepted++
		case 508:
		default:
			t.Fatalf("answered %d", code)
		}
	}
	if n := len(f.allocation.permissions); accepted != maxPermissions || n != maxPermissions {
		t.Errorf("%d accepted, %d kept, want %d", accepted, n, maxPermissions)
	}
	// The ones that are there may be refreshed, and one request for too many leaves nothing.
	c.want(0, stun.MethodCreatePermission, peerAttr("198.51.0.1:1"))
	c.rig.clock.advance(permissionLifetime)
	var many []stun.Setter
	for i := range maxPermissions + 1 {
		many = append(many, peerAttr(fmt.Sprintf("192.0.2.%d:1", i+1)))
	}
	c.want(508, stun.MethodCreatePermission, many...)
	if n := len(f.allocation.permissions); n != 0 {
		t.Errorf("%d permissions kept of a refused request", n)
	}
}

// TestChannels: data both ways as ChannelData, the channel's ten minutes, and that it does not replace its permission.
func TestChannels(t *testing.T) {
	inBothFamilies(t, func(t *testing.T, at places) {
		r := newRig(t, at.v6)
		c := r.client(at.client, "tls")
		f := c.allocated()
		c.want(0, stun.MethodChannelBind, channelAttr(0x4abc), peerAttr(at.peer))
		c.tuple.handle(channelFrame(0x4abc, "out"))
		c.tuple.handle(channelFrame(0x4abd, "no such channel"))
		if sent := f.take(); len(sent) != 1 || sent[0].data != "out" || sent[0].peer.String() != at.peer {
			t.Errorf("sent %v", sent)
		}
		f.arrive(at.peer, "in")
		if got := c.answers(); len(got) != 1 || string(got[0]) != string(channelFrame(0x4abc, "in")) {
			t.Errorf("received %q", got)
		}
		f.arrive(at.peerOtherPort, "indication")
		got := c.answers()
		if len(got) != 1 {
			t.Fatalf("%d messages", len(got))
		}
		var m stun.Message
		var from stun.XORMappedAddress
		if err := stun.Decode(got[0], &m); err != nil || text(&m, stun.AttrData) != "indication" {
			t.Errorf("a Data indication: %v %v", m, err)
		}
		if err := from.GetFromAs(&m, stun.AttrXORPeerAddress); err != nil || from.String() != at.peerOtherPort {
			t.Errorf("from %v %v", from, err)
		}
		r.clock.advance(permissionLifetime)
		c.tuple.handle(channelFrame(0x4abc, "the permission is gone"))
		c.want(0, stun.MethodRefresh)
		c.want(0, stun.MethodCreatePermission, peerAttr(at.peer))
		c.tuple.handle(channelFrame(0x4abc, "and back"))
		r.clock.advance(channelLifetime - permissionLifetime)
		c.nonce = "" // it has grown old
		c.want(0, stun.MethodCreatePermission, peerAttr(at.peer))
		c.tuple.handle(channelFrame(0x4abc, "the channel is gone"))
		if sent := f.take(); len(sent) != 1 || sent[0].data != "and back" {
			t.Errorf("sent %v", sent)
		}
	})
}

// TestDataLengths: every remainder of padding, framed in place, is what a STUN parser reads back.
func TestDataLengths(t *testing.T) {
	inBothFamilies(t, func(t *testing.T, at places) {
		c := newRig(t, at.v6).client(at.client, "tls")
		f := c.allocated()
		c.want(0, stun.MethodCreatePermission, peerAttr(at.peer))
		for size := range 9 {
			data := strings.Repeat("x", size)
			f.arrive(at.peer, data)
			var m stun.Message
			if got := c.answers(); len(got) != 1 || stun.Decode(got[0], &m) != nil || text(&m, stun.AttrData) != data {
				t.Errorf("%d bytes: %x", size, got)
			}
			c.tuple.handle(c.indication(at.peer, data))
			if sent := f.take(); len(sent) != 1 || sent[0].data != data {
				t.Errorf("%d bytes sent: %v", size, sent)
			}
		}
	})
}

// TestQuotas: 486 for a user and for a client network, 508 for all; freed when allocations end.
func TestQuotas(t *testing.T) {
	inBothFamilies(t, func(t *testing.T, at places) {
		client := func(r *rig, user string, i int) *rawClient {
			addr := netip.MustParseAddrPort(at.client).Addr()
			c := r.client(netip.AddrPortFrom(addr, uint16(1000+i)).String(), "udp")
			c.username, c.password = r.auth.mint(user, r.clock.Now().Add(time.Duration(60+i)*time.Second))
			return c
		}
		fill := func(r *rig, bound, code int, user func(int) string) {
			t.Helper()
			for i := range bound {
				client(r, user(i), i).allocated()
			}
			over := client(r, user(bound), bound)
			over.want(code, stun.MethodAllocate, udpTransport)
			r.clock.advance(11 * time.Minute)
			r.engine.sweep(r.clock.Now())
			over = client(r, user(bound), bound+1)
			over.allocated()
		}
		one := func(int) string { return "alice" }
		many := func(i int) string { return fmt.Sprint("user", i) }
		fill(newRig(t, at.v6), 4, 486, one)
		fill(newRig(t, at.v6, func(o *engineOptions) { o.bounds.maxPerClient = 5 }), 5, 486, many)
		fill(newRig(t, at.v6, func(o *engineOptions) { o.bounds.maxTotal = 6 }), 6, 508, many)
	})
}

// TestQuotaAfterFailure: what could not be made does not count.
func TestQuotaAfterFailure(t *testing.T) {
	r := newRig(t, false, func(o *engineOptions) { o.bounds.maxTotal = 1 })
	r.refuse = errTestDown
	c := r.client("10.1.2.3:40000", "tls")
	for range 3 {
		c.want(500, stun.MethodAllocate, udpTransport)
	}
	r.refuse = nil
	c.allocated()
	c.tuple.close()
	if r.engine.held != 0 || len(r.engine.perUser) != 0 || len(r.engine.perClient) != 0 {
		t.Errorf("after the end: %d held, %v, %v", r.engine.held, r.engine.perUser, r.engine.perClient)
	}
}

// TestSlowBackend: while a backend is busy, the client's other requests are answered, a retransmission is not a second
// allocation, and a client that goes away leaves nothing behind.
func TestSlowBackend(t *testing.T) {
	r := newRig(t, false)
	var queue []func()
	r.slow = &queue
	c := r.client("10.1.2.3:40000", "udp")
	raw := c.signed(stun.MethodAllocate, udpTransport)
	c.tuple.handle(raw)
	c.tuple.handle(raw)
	if got := c.answers(); len(got) != 0 || len(queue) != 1 {
		t.Fatalf("%d answers, %d allocations under way", len(got), len(queue))
	}
	if code := codeOf(c.exchange(c.unsigned(stun.MethodBinding))); code != 0 {
		t.Errorf("Binding meanwhile: %d", code)
	}
	c.want(437, stun.MethodAllocate, udpTransport)
	queue[0]()
	if got := c.answers(); len(got) != 1 {
		t.Fatalf("%d answers", len(got))
	}
	for range maxInFlight {
		c.tuple.handle(c.signed(stun.MethodCreatePermission, peerAttr("198.51.100.7:1")))
	}
	c.want(508, stun.MethodCreatePermission, peerAttr("198.51.100.7:1"))
	c.tuple.handle(c.indication("198.51.100.7:1", "too early"))
	for _, f := range queue[1:] {
		f()
	}
	if got := c.answers(); len(got) != maxInFlight {
		t.Errorf("%d answers, want %d", len(got), maxInFlight)
	}
	if sent := r.relayed[0].take(); len(sent) != 0 {
		t.Error("a packet passed before its permission")
	}

	gone := r.client("10.1.2.3:40001", "udp")
	gone.tuple.handle(gone.signed(stun.MethodAllocate, udpTransport))
	gone.tuple.close()
	queue[len(queue)-1]()
	if !r.relayed[1].closed || r.engine.stats().Allocations != 1 || r.engine.held != 1 || len(gone.answers()) != 0 {
		t.Error("an allocation for a client that went away is left")
	}
}

// TestBinding: answered without a credential, to the true address; CHANGE-REQUEST is refused.
func TestBinding(t *testing.T) {
	inBothFamilies(t, func(t *testing.T, at places) {
		c := newRig(t, at.v6).client(at.client, "udp")
		m := c.exchange(c.unsigned(stun.MethodBinding, stun.Fingerprint))
		var mapped stun.XORMappedAddress
		if err := mapped.GetFrom(m); err != nil || mapped.String() != at.client {
			t.Errorf("mapped %v %v", mapped, err)
		}
		if err := stun.Fingerprint.Check(m); err != nil {
			t.Errorf("the request had a FINGERPRINT, the answer: %v", err)
		}
		m = c.exchange(c.unsigned(stun.MethodBinding, rawAttr(stun.AttrChangeRequest, 0, 0, 0, 6)))
		if codeOf(m) != 420 || text(m, stun.AttrUnknownAttributes) != "\x00\x03" {
			t.Errorf("CHANGE-REQUEST: %d %x", codeOf(m), text(m, stun.AttrUnknownAttributes))
		}
	})
}

// TestIntegrityPosition: what stands behind MESSAGE-INTEGRITY does not count.
func TestIntegrityPosition(t *testing.T) {
	c := newRig(t, false).client("10.1.2.3:40000", "tls")
	c.challenge()
	name, realm, nonce := stun.NewUsername(c.username), stun.NewRealm(c.realm), stun.NewNonce(c.nonce)
	for _, tc := range []struct {
		name  string
		attrs []stun.Setter
		code  int
	}{
		{"transport behind it", []stun.Setter{name, realm, nonce, c.key(), udpTransport}, 400},
		{"user name behind it", []stun.Setter{udpTransport, realm, nonce, c.key(), name}, 400},
		{"an unknown attribute behind it", []stun.Setter{name, realm, nonce, lifetimeAttr(1), c.key(), rawAttr(0x7abc), udpTransport}, 400},
		{"19 bytes of it", []stun.Setter{udpTransport, name, realm, nonce, rawAttr(stun.AttrMessageIntegrity, make([]byte, 19)...)}, 400},
		{"SHA-256 alone", []stun.Setter{udpTransport, name, realm, nonce, rawAttr(stun.AttrMessageIntegritySHA256, make([]byte, 32)...)}, 401},
		{"wrong FINGERPRINT", []stun.Setter{udpTransport, name, realm, nonce, c.key(), rawAttr(stun.AttrFingerprint, 1, 2, 3, 4)}, 400},
		{"FINGERPRINT not last", []stun.Setter{udpTransport, name, realm, nonce, c.key(), stun.Fingerprint, rawAttr(0x8abc)}, 400},
		{"everything in its place", []stun.Setter{udpTransport, name, realm, nonce, c.key(), stun.Fingerprint}, 0},
	} {
		if got := codeOf(c.exchange(c.unsigned(stun.MethodAllocate, tc.attrs...))); got != tc.code {
			t.Errorf("%s: %d, want %d", tc.name, got, tc.code)
		}
	}
}

// TestBadAttributes: every address attribute in every odd size, in every method that reads one, and broken lengths:
// answered 400 or dropped, never more than one answer, never a panic.
func TestBadAttributes(t *testing.T) {
	c := newRig(t, false).client("10.1.2.3:40000", "tls")
	c.allocated()
	for size := range 9 {
		for family := range byte(4) {
			value := make([]byte, size)
			if size > 1 {
				value[1] = family
			}
			if size == 8 && family == familyIPv4 {
				continue // that is an address
			}
			for _, method := range []stun.Method{stun.MethodCreatePermission, stun.MethodChannelBind} {
				c.want(400, method, channelAttr(0x4000), rawAttr(stun.AttrXORPeerAddress, value...))
			}
			m := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), rawAttr(stun.AttrData, 1), rawAttr(stun.AttrXORPeerAddress, value...))
			c.tuple.handle(m.Raw)
		}
	}
	if got := c.answers(); len(got) != 0 {
		t.Errorf("%d answers to indications", len(got))
	}
	past := c.unsigned(stun.MethodAllocate, rawAttr(0x8abc, 1, 2, 3, 4))
	past[stunHeaderSize+3] = 200
	if code := codeOf(c.exchange(past)); code != 400 {
		t.Errorf("an attribute past the end: %d, want 400", code)
	}
	many := []stun.Setter{}
	for range 1000 {
		many = append(many, rawAttr(0x7abc, 1, 2, 3, 4))
	}
	if code := codeOf(c.do(stun.MethodRefresh, many...)); code != 420 {
		t.Errorf("1000 unknown attributes: %d, want 420", code)
	}
}

// TestChallengeIsSmall: what an unproven source gets back is little, and costs no memory of ours.
func TestChallengeIsSmall(t *testing.T) {
	r := newRig(t, false)
	c := r.client("10.1.2.3:40000", "udp")
	ask := c.unsigned(stun.MethodAllocate, udpTransport)
	answer := r.engine.challenge(ask, Client{Addr: netip.MustParseAddrPort("10.1.2.3:40000"), Via: "udp"})
	if len(answer) == 0 || len(answer) > 120 {
		t.Errorf("%d bytes in answer to %d", len(answer), len(ask))
	}
	if r.engine.held+len(r.engine.perUser)+len(r.engine.perClient) != 0 {
		t.Error("a stranger is remembered")
	}
	if r.engine.challenge([]byte("nonsense"), Client{}) != nil {
		t.Error("nonsense was answered")
	}
}

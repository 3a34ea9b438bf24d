package gateway

import (
	"crypto/tls"
	"net"
	"net/netip"
	"testing"
	"time"
)

// TestResetsCount: a page that is left while it loads is no flood, and neither is a busy page of which some requests are taken back.
func TestResetsCount(t *testing.T) {
	for name, tc := range map[string]struct {
		answered, reset int
		each            time.Duration // between two that are taken back
		tooMany         bool
	}{
		"a page is left": {0, resetsAllowed - 1, 0, false}, "a flood": {0, resetsAllowed, 0, true},
		"half of a busy page": {resetsAllowed, resetsAllowed, 0, false}, "most of it": {resetsAllowed, resetsAllowed + 1, 0, true},
		"somebody types all day": {0, 10000, 200 * time.Millisecond, false},
	} {
		now := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
		var a asked
		tooMany := false
		for range tc.answered {
			tooMany = tooMany || a.count(now, false)
		}
		for range tc.reset {
			tooMany = tooMany || a.count(now, true)
			now = now.Add(tc.each)
		}
		if tooMany != tc.tooMany {
			t.Errorf("%s: %v, want %v", name, tooMany, tc.tooMany)
		}
	}
}

// from is a connection of which only the other end's address is asked.
type from struct {
	net.Conn
	addr string
}

func (f from) RemoteAddr() net.Addr {
	return net.TCPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(f.addr), 1234))
}

func TestResetsAreForgotten(t *testing.T) {
	now := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	r := newResets(func() time.Time { return now })
	resetting := func(addr string) bool { return r.resetting(&tls.ClientHelloInfo{Conn: from{addr: addr}}) }
	r.remember(netip.MustParseAddr("10.1.2.3"))
	r.remember(netip.MustParseAddr("2001:db8:1:2::3"))
	if !resetting("10.1.2.3") || resetting("10.1.2.4") || !resetting("2001:db8:1:2:9::9") || resetting("2001:db8:1:3::3") {
		t.Error("it is a client's, an IPv4 address or a /64")
	}
	now = now.Add(withoutHTTP2 + time.Second)
	if resetting("10.1.2.3") || len(r.clients) != 1 {
		t.Errorf("it is over after %v: %v", withoutHTTP2, r.clients)
	}
	for i := range uint32(2 * maxResetting) {
		r.remember(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(r.clients) > maxResetting {
		t.Errorf("%d are remembered", len(r.clients))
	}
	now = now.Add(withoutHTTP2 + time.Second)
	if r.remember(netip.MustParseAddr("10.9.9.9")); !resetting("10.9.9.9") || len(r.clients) != 1 {
		t.Errorf("old ones leave no room: %d", len(r.clients))
	}
}

package precall

import (
	"net/netip"
	"testing"
	"time"

	"hafen/gateway/frugal"
)

func TestCanonicalCode(t *testing.T) {
	for in, want := range map[string]string{
		"K7QF-2M": "K7QF-2M", "k7qf2m": "K7QF-2M", " k7 qf – 2m ": "K7QF-2M", "oilo-oo": "0110-00", "K7QF-2": "", "K7QF-2MM": "", "K7QF-2U": "",
		"": "", "K7QF-2Ü": "", "K7QF-2\x00": "", "%37": "",
	} {
		got, ok := CanonicalCode(in)
		if got != want || ok != (want != "") {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
	for range 1000 {
		code := newCode()
		if got, ok := CanonicalCode(code); !ok || got != code {
			t.Fatalf("%q reads as %q", code, got)
		}
	}
}

func TestRateLimit(t *testing.T) {
	now := time.Unix(1000, 0)
	l := newRateLimit(1, 3, 1000, func() time.Time { return now })
	a, same, other := netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("2001:db8::ffff"), netip.MustParseAddr("192.0.2.1")
	for i := range 4 {
		if got := l.allow(a); got != (i < 3) {
			t.Errorf("request %d: %v", i, got)
		}
	}
	if l.allow(same) || !l.allow(other) {
		t.Error("a /64 is one client, another address another")
	}
	now = now.Add(2 * time.Minute)
	if !l.allow(a) || len(l.clients) != 1 {
		t.Errorf("after a rest: %d clients remembered", len(l.clients))
	}
	for i := range maxClients + 500 {
		l.allow(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
	}
	if len(l.clients) > maxClients+1 {
		t.Errorf("%d clients remembered", len(l.clients))
	}
}

// FuzzCanonicalCode: whatever is written down, a code is either none or in the one form, and reads the same again.
func FuzzCanonicalCode(f *testing.F) {
	for _, seed := range []string{"K7QF-2M", "k7qf2m", "oilo oo", "K7QF-2Ü", "\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Input(t)()
		code, ok := CanonicalCode(s)
		if again, still := CanonicalCode(code); ok != still || ok && (again != code || len(code) != 7) {
			t.Errorf("%q: %q, %q", s, code, again)
		}
	})
}

package precall

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"
)

func TestMemoryForgets(t *testing.T) {
	start := time.Date(2026, 11, 1, 0, 0, 0, 0, time.UTC)
	m := NewMemory(3, time.Hour)
	for i := range 5 {
		must(t, m.Put(t.Context(), Record{ID: fmt.Sprint(i), Code: fmt.Sprint("C", i), Time: start.Add(time.Duration(i) * time.Minute)}))
	}
	now := start.Add(5 * time.Minute)
	recent, err := m.Recent(t.Context(), 10, now)
	must(t, err)
	if len(recent) != 3 || recent[0].ID != "4" || recent[2].ID != "2" {
		t.Errorf("by number: %v", recent)
	}
	if _, err := m.ByID(t.Context(), "1", now); !errors.Is(err, ErrNoRun) {
		t.Error("the oldest is still there:", err)
	}
	if err := m.Put(t.Context(), Record{ID: "x", Code: "C4", Time: now}); !errors.Is(err, ErrCodeTaken) {
		t.Error("a code was given twice:", err)
	}
	if rec, err := m.ByCode(t.Context(), "C3", now); err != nil || rec.ID != "3" {
		t.Error(rec, err)
	}
	now = start.Add(time.Hour + 3*time.Minute)
	if recent, _ = m.Recent(t.Context(), 10, now); len(recent) != 1 || recent[0].ID != "4" {
		t.Errorf("by age: %v", recent)
	}
	if cap(m.records) > 0 {
		for _, gone := range m.records[len(m.records):cap(m.records)] {
			if gone.ID != "" {
				t.Error("what is forgotten is still in memory")
			}
		}
	}
}

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

func TestShorten(t *testing.T) {
	for in, want := range map[string]string{"10.2.3.4": "10.2.3.0/24", "::ffff:10.2.3.4": "10.2.3.0/24", "2001:db8:1:2:3::4": "2001:db8:1::/48", "fe80::1%eth0": "fe80::/48"} {
		if got := shorten(netip.MustParseAddr(in)).String(); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
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

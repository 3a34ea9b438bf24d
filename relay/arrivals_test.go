package relay

import (
	"errors"
	"net/netip"
	"testing"
	"time"
)

func TestArrivals(t *testing.T) {
	a := newArrivals()
	client, other := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.2.4")
	second := int64(time.Second)
	now := 100 * second
	ask := func(want time.Duration) {
		t.Helper()
		if got, err := a.turn(client, 200, now); err != nil || got != want {
			t.Fatalf("a wait of %v, want %v (%v)", got, want, err)
		}
	}
	for range 200 {
		ask(0)
	}
	for i := range 100 { // twenty a second, up to five seconds ahead
		ask(time.Duration(i+1) * 50 * time.Millisecond)
	}
	for range 1000 {
		if _, err := a.turn(client, 200, now); !errors.Is(err, errHurry) {
			t.Fatalf("the 301st: %v", err)
		}
	}
	if got, err := a.turn(other, 200, now); got != 0 || err != nil {
		t.Errorf("another client waits for %v, %v", got, err)
	}
	now += second // what was refused has cost nothing: one second later there is room for twenty
	for i := range 20 {
		ask(4*time.Second + time.Duration(i+1)*50*time.Millisecond)
	}
	now += 60 * second // all is forgotten
	for range 200 {
		ask(0)
	}
	ask(50 * time.Millisecond)
	if got, err := a.turn(client, 0, now); got != 0 || err != nil {
		t.Errorf("without a limit a client waits for %v, %v", got, err)
	}
	// A small limit is no slow one: ten a second for whoever may hold two.
	small := netip.MustParseAddr("10.1.2.5")
	for i, want := range []time.Duration{0, 0, 100 * time.Millisecond, 200 * time.Millisecond} {
		if got, err := a.turn(small, 2, now); err != nil || got != want {
			t.Errorf("number %d waits for %v, want %v (%v)", i, got, want, err)
		}
	}
	// A network of IPv6 is one client.
	for range 200 {
		if _, err := a.turn(netip.MustParseAddr("2001:db8::1"), 200, now); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := a.turn(netip.MustParseAddr("2001:db8::2"), 200, now); err != nil || got == 0 {
		t.Errorf("another address of the same network waits for %v, %v", got, err)
	}
}

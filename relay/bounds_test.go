package relay

import (
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// bounded is a bridge with relay.max_bandwidth, and its region.
func bounded(t *testing.T, each, total string) (*house, *tape) {
	t.Helper()
	region := newTape(t, willing(600))
	return newHouse(t, region.urls(), func(o *Options) {
		o.Config.Relay.MaxBandwidth.PerAllocation, o.Config.Relay.MaxBandwidth.Total = each, total
	}), region
}

// flood is what passes of an allocation's 10 Mbit/s in ten seconds, in bits a second.
func flood(b *bounds, now time.Time, up bool) int {
	passed := 0
	for range 10000 {
		now = now.Add(time.Millisecond)
		msgs := [][]byte{channelOf(0x4000, 1246)}
		if up {
			msgs = b.up(msgs, now)
		} else {
			msgs = b.down(msgs, now)
		}
		for _, m := range msgs {
			passed += 8 * len(m)
		}
	}
	return passed / 10
}

// A-50 in mode bridge: one allocation gets what relay.max_bandwidth says each way, and all together get the total.
func TestBandwidthOfTheBridge(t *testing.T) {
	t.Parallel()
	h, _ := bounded(t, "2mbit", "3mbit")
	now := time.Unix(1000, 0)
	one, other := h.newBounds(), h.newBounds()
	for _, up := range []bool{true, false} {
		if got := flood(one, now, up); got < 1_800_000 || got > 2_200_000 {
			t.Errorf("up %v: %d bit/s passed, want 2 Mbit/s", up, got)
		}
	}
	passed := 0
	for i := range 10000 {
		at := now.Add(20*time.Second + time.Duration(i)*time.Millisecond)
		for _, b := range []*bounds{one, other} {
			for _, m := range b.up([][]byte{channelOf(0x4000, 1246)}, at) {
				passed += 8 * len(m)
			}
		}
	}
	if passed /= 10; passed < 2_700_000 || passed > 3_300_000 {
		t.Errorf("%d bit/s of two passed, want 3 Mbit/s", passed)
	}
	free, _ := bounded(t, "", "")
	if free.newBounds() != nil {
		t.Error("bounds where none are set")
	}
}

// What keeps an allocation alive passes a bound that media has used up.
func TestBandwidthSparesRequests(t *testing.T) {
	t.Parallel()
	h, region := bounded(t, "8kbit", "")
	for _, via := range []string{"tls", "udp"} {
		c := h.raw(via)
		c.allocate()
		before := len(region.seen())
		for range 120 {
			c.send(channelOf(0x4000, 1000))
		}
		c.send(signedRequest(stun.MethodRefresh, lifetimeAttr(600)))
		c.answer()
		if n := len(region.seen()) - before - 1; n > 70 { // the burst of an allocation is one long packet
			t.Errorf("%s: %d packets passed", via, n)
		} else if n == 0 {
			t.Errorf("%s: nothing passed", via)
		}
	}
	if h.engine.limits.Load().bitsEach != 8000 {
		t.Errorf("%d bit/s", h.engine.limits.Load().bitsEach)
	}
}

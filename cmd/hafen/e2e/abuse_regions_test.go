package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestAbuse_J04: the nearest region fails in each way that a relay has. New calls go to the next one within three seconds, and one that
// comes and goes every second does not take the choice along with it.
func TestAbuse_J04(t *testing.T) { longScenario(t, failingRegion) }

func failingRegion(t *testing.T) {
	l := distances(t, map[relay]time.Duration{frankfurt: 5 * time.Millisecond, london: 20 * time.Millisecond}).standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	l.waitNearest(frankfurt)
	const (
		blackHole = "drop"
		refuses   = "meta l4proto tcp reject with tcp reset; ip daddr " + fraAddr + " meta l4proto udp reject"
	)
	for _, way := range []struct{ name, does string }{{"black hole", blackHole}, {"refuses", refuses}} {
		l.waitChosen(frankfurt.region, 90*time.Second)
		l.fails(t, way.does)
		cut := time.Now()
		c := l.smallCall(t, ward, "tls", newCallMost)
		took := time.Since(cut).Round(time.Millisecond)
		t.Logf("%s: a new call at %s after %v", way.name, c.relayedAt(), took)
		if c.relayedAt() != london.addr {
			t.Errorf("%s: a new call is relayed at %s, want %s", way.name, c.relayedAt(), london.addr)
		}
		within(t, way.name+": a new call elsewhere", took, closedMost)
		c.close()
		l.cloud.nft(t, "flush ruleset")
	}
	l.waitChosen(frankfurt.region, 90*time.Second)
	l.flaps(t, ward)
}

// fails gives what comes for frankfurt another fate.
func (l *laboratory) fails(t testing.TB, fate string) {
	t.Helper()
	l.cloud.nft(t, fmt.Sprintf("flush ruleset\ntable inet fate { chain in { type filter hook input priority 0; ip daddr %s %s; }; }", fraAddr, fate))
}

// flaps: frankfurt is there and gone, a second each, for half a minute. The choice moves once, and stays; whoever calls has a call.
func (l *laboratory) flaps(t *testing.T, ward *namespace) {
	t.Helper()
	moves, before := 0, frankfurt.region
	for i := range 30 {
		if i%2 == 0 {
			l.fails(t, "drop")
		} else {
			l.cloud.nft(t, "flush ruleset")
		}
		second := time.Now().Add(time.Second)
		if i%5 == 4 {
			c := l.smallCall(t, ward, "tls", newCallMost)
			within(t, "a call while a region flaps", c.took, newCallMost)
			c.close()
		}
		if chosen := l.snapshot().Services[0].Chosen; chosen != before {
			moves, before = moves+1, chosen
		}
		time.Sleep(time.Until(second))
	}
	t.Logf("a region that flaps every second: the choice moved %d times in 30 s, and ended at %s", moves, before)
	if moves > 1 {
		t.Errorf("the choice moved %d times", moves)
	}
}

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// newAddr is what the DMZ's interface gets in the place of gatewayAddr.
const newAddr = "10.10.0.9"

// TestAddressChanges: the gateway's interface loses its address under running calls and gets another, as a renewed lease does it. Nothing
// hangs: what ran over the old one is ended, new calls work over the new one, and over the old one when it is back.
func TestAddressChanges(t *testing.T) { scenarioWithout(t, addressChanges) }

func addressChanges(t *testing.T) {
	l := (&scene{regions: []relay{frankfurt, london}}).standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, "ip daddr { "+gatewayAddr+", "+newAddr+" } meta l4proto { tcp, udp } th dport 443")
	for _, region := range []string{"frankfurt", "london"} {
		l.waitRungs(region, "udp:3478")
	}
	calls := []*smallCall{l.smallCall(t, ward, "tls", newCallMost), l.smallCall(t, ward, "udp", newCallMost)}
	held := func() float64 { return l.metric("go_goroutines ") + l.metric("process_open_fds ") }
	before := held()
	move := func(from, to string) time.Time {
		l.dmz.run(t, "ip", "addr", "del", from+"/24", "dev", "eth0")
		l.dmz.run(t, "ip", "addr", "add", to+"/24", "dev", "eth0")
		l.dmz.run(t, "ip", "route", "replace", "default", "via", "10.10.0.1", "dev", "eth0")
		return time.Now()
	}
	for _, step := range []struct{ from, to string }{{gatewayAddr, newAddr}, {newAddr, gatewayAddr}} {
		moved := move(step.from, step.to)
		for _, via := range []string{"tls", "tcp", "udp"} {
			c, err := l.trySmallCall(ward, via, step.to, 10*time.Second)
			if err != nil {
				t.Fatalf("%s: no call over %s: %v\n%+v", step.to, via, err, l.snapshot().Services)
			}
			t.Cleanup(c.close)
			t.Logf("%s: a call over %s %v after the address changed, connected in %v", step.to, via, time.Since(moved).Round(time.Millisecond), c.took.Round(time.Millisecond))
			c.close() // while it can still be told: nobody tells of a client over UDP that its way is gone
		}
	}
	for _, c := range calls {
		c.close()
	}
	waitForOr(t, "what the calls held to be given back", time.Minute, func() bool {
		return l.metric("hafen_relay_allocations") == 0 && held() <= before+10
	}, func() string {
		return fmt.Sprintf("%v allocations, %v held, %v before", l.metric("hafen_relay_allocations"), held(), before)
	})
	if rung := rungOf(l.snapshot(), "frankfurt", "udp:3478"); rung.State != "up" {
		waitFor(t, "the rung to be up again", 40*time.Second, func() bool { return rungOf(l.snapshot(), "frankfurt", "udp:3478").State == "up" })
	}
}

package e2e

import (
	"testing"
	"time"
)

// TestPeerVanishes: the machines of two calls are switched off, nothing is closed. No other call notices.
func TestPeerVanishes(t *testing.T) { scenarioWithout(t, peerVanishes) }

func peerVanishes(t *testing.T) {
	l := (&scene{regions: []relay{frankfurt}}).standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	lost := l.office("lost", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	l.waitRungs("frankfurt", "udp:3478")
	others := []*smallCall{l.smallCall(t, ward, "tls", 10*time.Second), l.smallCall(t, ward, "tcp", 10*time.Second)}
	for _, via := range []string{"tls", "tcp"} {
		l.smallCall(t, lost, via, 10*time.Second)
	}
	time.Sleep(500 * time.Millisecond)
	before := make(map[*caller]int64)
	for _, c := range others {
		for _, end := range c.ends {
			end.worst.Store(0)
			before[end] = end.got.Load()
		}
	}
	lost.run(t, "ip", "link", "set", "eth0", "down")
	time.Sleep(5 * time.Second) // longer than anything that takes a rung for dead
	for _, c := range others {
		for i, end := range c.ends {
			got, worst := end.got.Load()-before[end], time.Duration(end.worst.Load())
			t.Logf("end %d of another call: %d packets, the longest wait %v", i, got, worst.Round(time.Millisecond))
			if got < 100 || worst > time.Second {
				t.Errorf("another call noticed: %d packets in 5 s, the longest wait %v", got, worst)
			}
			select {
			case <-end.ended:
				t.Error("another call was ended")
			default:
			}
		}
	}
	if s := rungOf(l.snapshot(), "frankfurt", "udp:3478"); s.State != "up" {
		t.Errorf("the rung is %s: %s", s.State, s.Why)
	}
}

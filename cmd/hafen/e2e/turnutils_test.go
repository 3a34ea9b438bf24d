package e2e

import (
	"regexp"
	"testing"
)

var lostPackets = regexp.MustCompile(`Total lost packets (\d+)`)

// TestTurnutils drives the bridge with coturn's own load client over each transport: nothing may be lost.
func TestTurnutils(t *testing.T) {
	l := newLaboratory(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway, "ip daddr "+gatewayAddr+" udp dport 443")
	for _, tc := range []struct {
		name  string
		flags []string
	}{{"tls", []string{"-t", "-S"}}, {"tcp", []string{"-t"}}, {"udp", nil}} {
		t.Run(tc.name, func(t *testing.T) {
			args := append([]string{"-y", "-c", "-z", "5", "-m", "4", "-n", "50", "-l", "500", "-p", "443", "-u", "tester", "-W", relaySecret}, tc.flags...)
			out := ward.run(t, "turnutils_uclient", append(args, gatewayAddr)...)
			found := lostPackets.FindAllStringSubmatch(out, -1)
			if len(found) == 0 {
				t.Fatalf("no count of lost packets:\n%s", out)
			}
			if last := found[len(found)-1][1]; last != "0" {
				t.Errorf("%s packets lost\n%s", last, out)
			}
			// A UDP client that leaves without a Refresh is gone only when its allocation's lifetime is over.
			if tc.name != "udp" {
				waitForMetric(t, l, "hafen_relay_allocations", 0)
			}
		})
	}
}

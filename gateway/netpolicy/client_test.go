package netpolicy

import (
	"net/netip"
	"testing"
)

func TestClient(t *testing.T) {
	for a, want := range map[string][2]string{
		"192.0.2.7": {"192.0.2.7/32", "192.0.2.0/24"}, "::ffff:192.0.2.7": {"192.0.2.7/32", "192.0.2.0/24"},
		"2001:db8:1:2:3::4": {"2001:db8:1:2::/64", "2001:db8:1::/48"}, "fe80::1%eth0": {"fe80::/64", "fe80::/48"},
	} {
		if got := [2]string{Client(netip.MustParseAddr(a)).String(), Network(netip.MustParseAddr(a)).String()}; got != want {
			t.Errorf("%s: %v, want %v", a, got, want)
		}
	}
	if Client(netip.Addr{}).IsValid() || Network(netip.Addr{}).IsValid() {
		t.Error("no address has a network")
	}
}

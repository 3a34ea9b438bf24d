package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// host6 makes a namespace behind the router like host, with fd00:SUBNET::/64 beside 10.SUBNET.0.0/24. IPv6 neighbours are
// not asked whether the address is free: nobody else is there.
func (n *network) host6(short string, extra ...int) *namespace {
	n.t.Helper()
	ns := n.host(short, extra...)
	ns.run(n.t, "ip", "route", "add", "default", "via", n.six(ns, n.subnet, extra...))
	return ns
}

// six gives a host IPv6 addresses like its others, and returns the router's.
func (n *network) six(ns *namespace, subnet int, extra ...int) string {
	n.t.Helper()
	link := fmt.Sprintf("v%s%d", strings.TrimSuffix(strings.TrimPrefix(n.prefix, "hf"), "-"), subnet)
	base := fmt.Sprintf("fd00:%d::", 10*subnet)
	n.core.run(n.t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	n.core.run(n.t, "ip", "addr", "add", base+"1/64", "dev", link, "nodad")
	for _, last := range append([]int{2}, extra...) {
		ns.run(n.t, "ip", "addr", "add", fmt.Sprintf("%s%d/64", base, last), "dev", "eth0", "nodad")
	}
	return base + "1"
}

// without takes one family's addresses away: 4 or 6.
func (ns *namespace) without(t testing.TB, family string) {
	t.Helper()
	ns.run(t, "ip", "-"+family, "addr", "flush", "dev", "eth0")
}

const gatewayAddr6 = "fd00:10::2"

// TestOfficeIPv6 is an office with IPv6 only and a cloud with IPv4 only; the gateway has both.
func TestOfficeIPv6(t *testing.T) {
	callScenario(t, func(t *testing.T) { familyCall(t, false) })
}

// TestCloudIPv6 is the reverse.
func TestCloudIPv6(t *testing.T) {
	callScenario(t, func(t *testing.T) { familyCall(t, true) })
}

func familyCall(t *testing.T, cloud6 bool) {
	sc := &scene{regions: []relay{frankfurt}, six: true}
	gateway, officeLacks, cloudLacks := gatewayAddr6, "4", "6"
	if cloud6 {
		gateway, officeLacks, cloudLacks = gatewayAddr, "6", "4"
		sc.cloudAddr = "fd00:20::2"
		sc.regions[0].addr = "fd00:20::11"
	}
	sc.between = func(l *laboratory) { l.cloud.without(t, cloudLacks) }
	l := sc.standUp(t)
	ward := l.net.host6("ward")
	ward.without(t, officeLacks)
	ward.names(t, map[string]string{gatewayName: gateway, callName: gateway})
	ward.onlyTo(t, "meta nfproto ipv6 icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-solicit }", "ip daddr "+gatewayAddr+" tcp dport 443", "ip6 daddr "+gatewayAddr6+" tcp dport 443")
	ward.nft(t, "insert rule inet fw input icmpv6 type { nd-neighbor-solicit, nd-neighbor-advert, nd-router-advert } accept")
	l.waitRungs("frankfurt", "udp:3478")
	ward.waitTCP(t, hostPort(gateway, 443)) // neighbours find each other
	l.familyCalls(t, ward, gateway, sc.regions[0].addr)
	a, b := l.call(t, ward, "https://"+callName+"/r/family?join=1&relay=1&video=small")
	t.Logf("browsers: %+v", a.stats().Pair)
	for _, p := range []*tab{a, b} {
		must(t, p.navigate("about:blank"))
	}
	for mode, at := range map[string]string{"terminate": sc.regions[0].addr, "local": gatewayAddr} {
		sc.mode, sc.more = mode, ""
		l.bootGateway(sc.config(l))
		l.waitRungs("frankfurt", "udp:3478")
		l.familyCalls(t, ward, gateway, at)
	}
}

// familyCalls makes a small call over each stream, and checks where it is relayed.
func (l *laboratory) familyCalls(t *testing.T, ward *namespace, gateway, at string) {
	t.Helper()
	for _, via := range []string{"tls", "tcp"} {
		c, err := l.trySmallCall(ward, via, gateway, 10*time.Second)
		if err != nil {
			t.Fatalf("no call over %s: %v\n%+v", via, err, l.snapshot().Services)
		}
		t.Logf("%s: connected in %v at %s", via, c.took.Round(time.Millisecond), c.relayedAt())
		if c.relayedAt() != at {
			t.Errorf("relayed at %s, want %s", c.relayedAt(), at)
		}
		c.close()
	}
}

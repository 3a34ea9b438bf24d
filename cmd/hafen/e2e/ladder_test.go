package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// companyFirewall is the firewall between the DMZ and the cloud: what is closed is dropped both ways, in silence, also for
// connections that are open.
func (l *laboratory) companyFirewall(t testing.TB, closed ...string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("table inet company\ndelete table inet company\ntable inet company { chain forward { type filter hook forward priority 0;\n")
	for _, port := range closed {
		proto, number, _ := strings.Cut(port, ":")
		fmt.Fprintf(&b, "ip saddr %s ip daddr 10.20.0.0/24 %s dport %s drop\n", gatewayAddr, proto, number)
		fmt.Fprintf(&b, "ip daddr %s ip saddr 10.20.0.0/24 %s sport %s drop\n", gatewayAddr, proto, number)
	}
	b.WriteString(" }\n}\n")
	l.net.core.nft(t, b.String())
}

// newCallMost is the bound for a new call after a rung was closed.
const newCallMost = 5 * time.Second

// TestLadder closes one rung after the other. The first and the last call are two browsers', those between have no browser.
func TestLadder(t *testing.T) { callScenario(t, everyRung) }

func everyRung(t *testing.T) {
	sc := &scene{regions: []relay{frankfurt, london}}
	sc.between = func(l *laboratory) {
		s := startSquid(t, l, sc.cloudNames())
		sc.names = sc.cloudNames()
		sc.names[proxyName] = s.ns.addr
		sc.more = fmt.Sprintf("egress: {proxy: %q}\n", s.url("http", proxyPasswordInURL, 3128))
	}
	l := sc.standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	for _, region := range []string{"frankfurt", "london"} {
		l.waitRungs(region, "udp:3478", "udp:443", "tcp:3478", "tls:443", "proxy:443")
	}
	room := "https://" + callName + "/r/%s?join=1&relay=1&video=small"
	a, b := l.call(t, ward, fmt.Sprintf(room, "top"))
	l.onRung(t, "udp:3478", 2)
	must(t, a.navigate("about:blank"))
	must(t, b.navigate("about:blank"))
	waitForMetric(t, l, "hafen_relay_allocations", 0)

	before := l.smallCall(t, ward, "tls", newCallMost)
	var closed []string
	for _, step := range []struct{ close, next string }{
		{"udp:3478", "udp:443"}, {"udp:443", "tcp:3478"}, {"tcp:3478", "tls:443"}, {"tcp:443", "proxy:443"},
	} {
		closed = append(closed, step.close)
		l.companyFirewall(t, closed...)
		cut := time.Now()
		c := l.smallCall(t, ward, "tls", newCallMost)
		t.Logf("%s closed: a new call connected in %v, %d attempts", step.close, c.took.Round(time.Millisecond), c.attempts)
		l.closedSoon(t, before, cut)
		l.onRung(t, step.next, 2)
		before = c
	}
	before.close()
	waitForMetric(t, l, "hafen_relay_allocations", 0)
	began := time.Now()
	must(t, a.navigate(fmt.Sprintf(room, "last")))
	must(t, b.navigate(fmt.Sprintf(room, "last")))
	mediaFlows(t, a, b)
	t.Logf("all closed but the company's proxy: the browsers' media flowed after %v", time.Since(began).Round(time.Millisecond))
	l.onRung(t, "proxy:443", 2)
}

// closedMost is the bound for finding a dead rung, and closing its clients at once.
const closedMost = 3 * time.Second

// closedSoon checks that the gateway closes the clients of a call whose rung is dead.
func (l *laboratory) closedSoon(t testing.TB, c *smallCall, cut time.Time) {
	t.Helper()
	for i, end := range c.ends {
		select {
		case <-end.ended:
			took := end.closed.Sub(cut).Round(time.Millisecond)
			t.Logf("end %d of the call before was closed %v after its rung", i, took)
			within(t, "closing the clients of a dead rung", took, closedMost)
		case <-time.After(10 * time.Second):
			t.Fatalf("end %d of the call before is still open", i)
		}
	}
}

// TestLadderBack: when UDP is open again, new calls return to it, after it has answered for a while.
func TestLadderBack(t *testing.T) { longScenario(t, ladderBack) }

func ladderBack(t *testing.T) {
	l := (&scene{regions: []relay{frankfurt, london}}).standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	for _, region := range []string{"frankfurt", "london"} {
		l.waitRungs(region, "udp:3478", "udp:443", "tcp:3478")
	}
	first := l.smallCall(t, ward, "tls", newCallMost)
	l.onRung(t, "udp:3478", 2)
	l.companyFirewall(t, "udp:3478", "udp:443")
	l.closedSoon(t, first, time.Now())
	second := l.smallCall(t, ward, "tls", newCallMost)
	l.onRung(t, "tcp:3478", 2)
	second.close()
	waitForMetric(t, l, "hafen_relay_allocations", 0)

	l.companyFirewall(t)
	opened := time.Now()
	waitFor(t, "new calls on UDP", time.Minute, func() bool {
		c := l.smallCall(t, ward, "tls", newCallMost)
		on := l.rungs()
		c.close()
		waitForMetric(t, l, "hafen_relay_allocations", 0)
		return on["frankfurt udp:3478"]+on["london udp:3478"] == 2
	})
	t.Logf("new calls are on UDP again %v after it was opened", time.Since(opened).Round(100*time.Millisecond))
}

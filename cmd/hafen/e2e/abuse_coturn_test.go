package e2e

import (
	"fmt"
	"net"
	"testing"
)

// TestAbuse_NegativeControl runs the tables of TestAbuse_Relay against Debian's coturn with 127/8 and 169.254/16 denied. It grants
// what it should not; a suite that found nothing wrong there would test nothing.
func TestAbuse_NegativeControl(t *testing.T) {
	t.Parallel()
	a := layAbuse(t)
	a.net.six(a.dmz, 1)
	const port = 3490
	cert, key := a.ca.issue(t, "control", gatewayAddr)
	a.dmz.start(t, "the control", "turnserver", "-n", "--log-file=stdout", "--simple-log", "--no-cli", "--no-rfc5780",
		"--listening-ip="+gatewayAddr, "--relay-ip="+gatewayAddr, "--listening-ip="+gatewayAddr6, "--relay-ip="+gatewayAddr6,
		fmt.Sprintf("--listening-port=%d", port), "--tls-listening-port=3491", "--min-port=50000", "--max-port=51999", "--cert="+cert, "--pkey="+key,
		"--use-auth-secret", "--static-auth-secret="+relaySecret, "--realm=control.example", "--denied-peer-ip=127.0.0.0-127.255.255.255",
		"--denied-peer-ip=169.254.0.0-169.254.255.255", "--pidfile="+a.dir+"/control.pid", "--userdb="+a.dir+"/control.db")
	a.dmz.waitTCP(t, hostPort(gatewayAddr, port))
	client := func(w relayWay) *turnClient {
		conn := a.tcp(t, a.dmz, hostPort(w.pick(gatewayAddr, gatewayAddr6), port))
		c := newTURN(conn, false)
		if code, err := c.allocate(w.family()); code != 0 || err != nil {
			t.Fatalf("%v: %d %v", w, code, err)
		}
		return c
	}
	t.Run("A-01 to A-12", func(t *testing.T) {
		inClothes := 0
		for _, w := range []relayWay{{"tcp", false}, {"tcp", true}} {
			got := client(w).granted(t, peersOf(forbiddenAddresses, 443))
			t.Logf("%v: %d of %d granted: %v", w, len(got), len(forbiddenAddresses), got)
			if len(got) == 0 {
				t.Errorf("%v: coturn grants nothing: the table, or how it is tried, shows nothing", w)
			}
			if w.v6 {
				inClothes += len(got)
			}
		}
		if inClothes == 0 {
			t.Error("coturn grants no IPv4 in the clothes of IPv6")
		}
	})
	t.Run("A-16 and A-21", func(t *testing.T) {
		c := client(relayWay{"tcp", false})
		if code := c.bind(t, 0x4001, peersOf([]string{"8.8.8.8"}, 22)[0]); code != 0 {
			t.Errorf("coturn refuses a channel to port 22: %d", code)
		}
		if code := c.bind(t, 0x5000, peersOf([]string{"8.8.8.8"}, 50000)[0]); code != 0 {
			t.Errorf("coturn refuses channel 0x5000: %d", code)
		}
	})
	t.Run("A-22", func(t *testing.T) {
		c := client(relayWay{"tcp", false})
		for i := range 200 {
			if code := c.permit(t, peersOf([]string{net.IPv4(11, 100, 0, byte(i)).String()}, 50000)...); code != 0 {
				t.Fatalf("coturn refuses permission %d: %d", i+1, code)
			}
		}
	})
}

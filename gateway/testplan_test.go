package gateway

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hafen/configs"
	"hafen/precall"
)

// TestPlan: what there is to ask comes from the configuration; whose media may pass through the cloud depends on who asks, on the
// mode and on what there is to mint credentials from.
func TestPlan(t *testing.T) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("very-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	inside, outside := netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("192.0.2.1")
	for name, test := range map[string]struct {
		change func(*configs.Config)
		from   netip.Addr
		cloud  bool
	}{
		"no credentials":  {func(*configs.Config) {}, inside, false},
		"a shared secret": {func(c *configs.Config) { c.Services[0].TURNCredentials.SecretFile = secret }, inside, true},
		"outside":         {func(c *configs.Config) { c.Services[0].TURNCredentials.SecretFile = secret }, outside, false},
		"a fixed password": {func(c *configs.Config) {
			c.Services[0].TURNCredentials = configs.TURNCredentials{Username: "gw", PasswordFile: secret}
		}, inside, false},
		"media stays": {func(c *configs.Config) { c.Relay.Mode, c.Services[0].TURNCredentials.SecretFile = "local", secret }, inside, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, func(c *configs.Config) {
				c.Services[0].Hosts = append(c.Services[0].Hosts, "*.wild.example")
				c.Services[0].Probes = configs.Probes{CallServers: []string{"Asked.Example."}, HTTPS: "/healthz", WebSocket: "/ws", LongPoll: "/poll"}
				c.Clients = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
				test.change(c)
			})
			plan := w.gateway.testPlan(t.Context(), test.from)
			want := []precall.Asked{
				{Host: "asked.example", HTTPS: "/healthz", WebSocket: "/ws", LongPoll: "/poll"},
				{Host: callHost, HTTPS: "/healthz", WebSocket: "/ws", LongPoll: "/poll"},
			}
			if !slices.Equal(plan.CallServers, want) {
				t.Errorf("call servers %+v, want %+v", plan.CallServers, want)
			}
			if len(plan.Relays) != 1 || plan.Relays[0].Region != "calls/calls-region" || !strings.HasPrefix(plan.Relays[0].URL, "turn:127.0.0.1:") {
				t.Errorf("relays %+v", plan.Relays)
			}
			if got := plan.Cloud != nil; got != test.cloud {
				t.Fatalf("credentials of the cloud's: %v, want %v", got, test.cloud)
			}
			if c := plan.Cloud; c != nil && (!strings.Contains(c.Username, ":precall-") || c.Credential == "" || strings.Contains(c.Credential+c.Username, "secret") || len(c.URLs) == 0) {
				t.Errorf("%+v", c)
			}
			if plan.IPv6 != "" {
				t.Errorf("an IPv6 address that nobody has: %q", plan.IPv6)
			}
		})
	}
}

// TestFaultOf: the words that relay, signaling and netpolicy have for what is a cause of its own.
func TestFaultOf(t *testing.T) {
	for why, want := range map[string]precall.Fault{
		"company proxy proxy.example:3128: it answered 407: it wants a user name and a password; write them into `egress.proxy`":  precall.FaultProxyAuth,
		"company proxy p:1: it answered 407: it asks for authentication and offers NTLM, the gateway knows Basic only":            precall.FaultProxyAuth,
		`a web page answers instead of the relay ("HTTP/1.1 200 OK"): a block page or a captive portal`:                           precall.FaultPortal,
		`what answers is no TURN server: it says "SSH-2.0"`:                                                                       precall.FaultPortal,
		"tls: failed to verify certificate: x509: certificate signed by unknown authority":                                        precall.FaultPortal,
		"tls: failed to verify certificate: x509: certificate is valid for portal.example, not fra.relay.example":                 precall.FaultPortal,
		"resolve fra.relay.example: lookup fra.relay.example on 10.0.0.53:53: no such host":                                       precall.FaultDNS,
		"resolve fra.relay.example: lookup fra.relay.example on 10.0.0.53:53: read udp 10.0.0.2:40000->10.0.0.53:53: i/o timeout": precall.FaultDNS,
		"resolve fra.relay.example: 10.0.0.7:3478 is refused: private addresses are not for services; add it to private_networks": "",
		"dial 192.0.2.1:3478: connect: connection refused":                                                                        "",
		"company proxy proxy.example:3128: it answered 403 Forbidden":                                                             "",
		"no answer within 2 s": "",
		"":                     "",
	} {
		if got := faultOf(why); got != want {
			t.Errorf("%q: %q, want %q", why, got, want)
		}
	}
}

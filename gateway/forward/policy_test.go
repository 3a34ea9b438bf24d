package forward

import (
	"testing"

	"hafen/configs"
)

// testConfig is a house with two services.
func testConfig() *configs.Config {
	c := configs.Default()
	c.Name, c.Aliases = "gw.hospital.example", []string{"wpad.hospital.example"}
	c.Site.Help = "the help desk, 4711"
	c.Services = []configs.Service{
		{
			Name: "calls", GatewayName: "turn.hospital.example", Hosts: []string{"call.example", "*.rooms.example", "both.example"},
			Regions: []configs.Region{
				{Name: "fra", Use: true, URLs: []string{"turn:fra.relay.example:3478?transport=udp", "turns:fra.relay.example:443?transport=tcp", "turn:fra.relay.example:8080?transport=tcp"}},
				{Name: "home", Use: false, URLs: []string{"turns:home.relay.example:5349", "turn:both.example:3478", "turn:203.0.113.9:3478"}},
			},
		},
		{
			Name: "other", Hosts: []string{"meet.other.example", "*.call.example"},
			Regions: []configs.Region{{Name: "x", Use: true, URLs: []string{"turn:turn.call.example:3478"}}},
		},
	}
	c.Forward.Allow = []string{"updates.vendor.example:443", "*.cdn.example:8443", "mail.example:25"}
	c.PAC.Otherwise = "DIRECT"
	c.Listen.Proxy = []string{":3128"}
	return c
}

func TestDecide(t *testing.T) {
	p := newPolicy(testConfig(), func(host string) bool { return host == "node1.rooms.example" })
	for _, c := range []struct {
		target, service string
		kind            kind
		refused         bool
	}{
		{"call.example:443", "calls", serviceHost, false},
		{"call.example:80", "", 0, true},
		{"call.example:3478", "", 0, true},
		{"a.rooms.example:443", "calls", serviceHost, false},
		{"a.b.rooms.example:443", "calls", serviceHost, false},
		{"rooms.example:443", "", 0, true},
		{"xrooms.example:443", "", 0, true},
		{"evil.com:443", "", 0, true},
		{"call.example.evil.com:443", "", 0, true},
		{"xcall.example:443", "", 0, true},
		{"x.call.example:443", "other", serviceHost, false},
		{"meet.other.example:443", "other", serviceHost, false},
		{"fra.relay.example:443", "calls", serviceRelay, false},
		{"fra.relay.example:3478", "calls", serviceRelay, false},
		{"fra.relay.example:8080", "calls", serviceRelay, false},
		{"fra.relay.example:5349", "", 0, true},
		{"home.relay.example:5349", "calls", serviceRelay, false},
		{"home.relay.example:443", "calls", serviceRelay, false},
		{"turn.call.example:3478", "other", serviceRelay, false},
		{"turn.call.example:443", "other", serviceHost, false}, // by the wildcard; no URL of the relay says 443
		{"both.example:443", "calls", serviceHost, false},      // a call server that is a relay at another port
		{"both.example:3478", "calls", serviceRelay, false},
		{"both.example:80", "", 0, true},
		{"updates.vendor.example:443", "", extra, false},
		{"updates.vendor.example:80", "", 0, true},
		{"a.cdn.example:8443", "", extra, false},
		{"cdn.example:8443", "", 0, true},
		{"a.cdn.example:443", "", 0, true},
		{"gw.hospital.example:443", "", 0, true},
		{"wpad.hospital.example:443", "", 0, true},
		{"turn.hospital.example:443", "", 0, true},
		{"node1.rooms.example:443", "", 0, true},
	} {
		target, err := ParseTarget(c.target)
		if err != nil {
			t.Fatal(err)
		}
		v := p.decide(target)
		if (v.refused != nil) != c.refused {
			t.Errorf("%s: refused %v", c.target, v.refused)
		} else if v.refused == nil && (v.kind != c.kind || v.service != c.service) {
			t.Errorf("%s: kind %d of %q, want %d of %q", c.target, v.kind, v.service, c.kind, c.service)
		}
		if v.refused != nil && (v.refused.code != 403 || v.refused.word != statusPolicy || v.refused.why == "") {
			t.Errorf("%s: %+v", c.target, *v.refused)
		}
	}
}

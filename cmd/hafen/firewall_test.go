package main

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hafen/configs"
)

// fakeLookup is a network in which every name has one address.
type fakeLookup struct {
	moved map[string]string
	proxy string // everything goes through it
}

func (fakeLookup) own(string) []string { return []string{"192.0.2.7"} }

func (f fakeLookup) addresses(host string, _ uint16, _ *configs.Service) []string {
	if a := f.moved[host]; a != "" {
		return []string{a}
	}
	return []string{"198.51.100.1"}
}
func (f fakeLookup) proxied(string, uint16) string { return f.proxy }
func (fakeLookup) resolvers() []string             { return []string{"10.0.0.53"} }

var sheetTime = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

func fwConfig(change func(*configs.Config)) *configs.Config {
	c := configs.Default()
	c.Name = "gw.hospital.example"
	c.Services = []configs.Service{{
		Name: "calls", Hosts: []string{"call.example.net", "*.call.example.net"},
		Regions: []configs.Region{
			{Name: "fra", Use: true, URLs: []string{"turn:fra.example.net:3478?transport=udp", "turns:fra.example.net:443?transport=tcp"}},
			{Name: "us", Use: false, URLs: []string{"turn:us.example.net:3478?transport=udp", "turn:us.example.net:3478?transport=tcp"}},
		},
	}}
	if change != nil {
		change(c)
	}
	return c
}

// TestFirewallRules: what the configuration says decides which rules are on the sheet.
func TestFirewallRules(t *testing.T) {
	base := []string{
		"inside → gw.hospital.example TCP 443", "gw.hospital.example → call.example.net TCP 443", "gw.hospital.example → *.call.example.net TCP 443",
		"gw.hospital.example → fra.example.net UDP 3478", "gw.hospital.example → fra.example.net TCP 443", "gw.hospital.example → us.example.net TCP 3478",
		"gw.hospital.example → 10.0.0.53 UDP, TCP 53", "gw.hospital.example → the house's time server UDP 123", "gw.hospital.example → any any",
	}
	for name, tc := range map[string]struct {
		change func(*configs.Config)
		look   fakeLookup
		more   []string
		less   []string
	}{
		"the least": {},
		"every listener": {
			change: func(c *configs.Config) {
				c.Listen.HTTPS = []string{"192.0.2.7:443", ":3478"}
				c.Listen.TURNUDP, c.Listen.Proxy, c.Listen.HTTP = []string{":443", ":3478"}, []string{":3128"}, []string{":80"}
				c.Listen.Metrics = "10.0.0.5:9443"
			},
			more: []string{
				"inside → gw.hospital.example TCP 443, 3478", "inside → gw.hospital.example UDP 443, 3478", "inside → gw.hospital.example TCP 3128",
				"inside → gw.hospital.example TCP 80", "monitoring → gw.hospital.example TCP 9443",
			},
			less: base[:1],
		},
		"no UDP wanted": {change: func(c *configs.Config) { c.Relay.Rungs = []string{"tls"} }, less: []string{base[3]}},
		"ACME": {
			change: func(c *configs.Config) {
				c.TLS.Source = "acme"
				c.TLS.ACME.Directory = "https://ca.hospital.example:9000/dir"
			},
			more: []string{"gw.hospital.example → ca.hospital.example TCP 9000", "the authority (public ones: any) → gw.hospital.example TCP 443"},
		},
		"house services": {
			change: func(c *configs.Config) {
				c.DNS.Servers = []string{"10.9.9.9:5353"}
				c.Audit.Syslog, c.Events.Mail.Server, c.Events.Webhook = "log.hospital.example:6514", "mail.hospital.example:25", "https://user:canary@hook.hospital.example/canary"
			},
			more: []string{
				"gw.hospital.example → 10.9.9.9 UDP, TCP 5353", "gw.hospital.example → log.hospital.example TCP 6514",
				"gw.hospital.example → mail.hospital.example TCP 25", "gw.hospital.example → hook.hospital.example TCP 443",
			},
			less: []string{base[6]},
		},
		"company proxy": {
			look: fakeLookup{proxy: "proxy.hospital.example:3128"},
			more: []string{
				"gw.hospital.example → proxy.hospital.example TCP 3128", "company proxy proxy.hospital.example:3128 → call.example.net TCP 443",
				"company proxy proxy.hospital.example:3128 → *.call.example.net TCP 443", "company proxy proxy.hospital.example:3128 → fra.example.net TCP 443",
			},
			less: base[1:3],
		},
		"ACME through the company proxy": {
			look:   fakeLookup{proxy: "proxy.hospital.example:3128"},
			change: func(c *configs.Config) { c.TLS.Source = "acme" },
			more: []string{
				"gw.hospital.example → proxy.hospital.example TCP 3128", "company proxy proxy.hospital.example:3128 → call.example.net TCP 443",
				"company proxy proxy.hospital.example:3128 → *.call.example.net TCP 443", "company proxy proxy.hospital.example:3128 → fra.example.net TCP 443",
				"company proxy proxy.hospital.example:3128 → acme-v02.api.letsencrypt.org TCP 443", "the authority (public ones: any) → gw.hospital.example TCP 443",
			},
			less: base[1:3],
		},
		"another upstream": {
			change: func(c *configs.Config) {
				c.Signaling.Routes = []configs.Route{{Host: "calls.hospital.example", Path: "/", Upstream: "https://origin.example.net:8443", Service: "calls"}}
			},
			more: []string{"gw.hospital.example → origin.example.net TCP 8443"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSheet(fwConfig(tc.change), tc.look, sheetTime)
			var got []string
			for i, r := range s.Rules {
				if r.Number != i+1 || r.Why == "" || r.Without == "" || r.Inspection == "" || r.NAT == "" || r.QoS == "" {
					t.Errorf("a rule is not complete: %+v", r)
				}
				if r.Protocol == "TCP" && strings.Contains(r.Application, "TURN") && (r.Idle != idleTCP || r.Inspection != exempt) {
					t.Errorf("media over TCP needs a long idle time-out and no inspection: %+v", r)
				}
				from := r.From
				if r.FromZone == zoneInside {
					from = "inside"
				}
				got = append(got, from+" → "+r.To+" "+r.service())
			}
			want := slices.Concat(base, tc.more)
			want = slices.DeleteFunc(want, func(w string) bool { return slices.Contains(tc.less, w) })
			slices.Sort(want)
			sorted := slices.Sorted(slices.Values(got))
			if !slices.Equal(sorted, want) {
				t.Errorf("rules\n%s\nwant\n%s", strings.Join(sorted, "\n"), strings.Join(want, "\n"))
			}
			if last := s.Rules[len(s.Rules)-1]; last.ToZone != zoneInside || last.Application != "none" {
				t.Errorf("the last line is %+v, want DMZ to inside: none", last)
			}
			text, _ := json.Marshal(s)
			if bytes.Contains(text, []byte("canary")) {
				t.Error("the sheet shows a secret")
			}
		})
	}
}

func TestFirewallFormats(t *testing.T) {
	s := newSheet(fwConfig(nil), fakeLookup{}, sheetTime)
	var text, ticket, table bytes.Buffer
	s.writeText(&text)
	s.writeTicket(&ticket)
	if err := s.writeCSV(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"fra.example.net (198.51.100.1)", "TLS inspection: exempt; idle time-out: ≥ 3600 s", "keep DSCP AF41", "media goes over TCP or TLS"} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("the text lacks %q:\n%s", want, text.String())
		}
	}
	for _, want := range []string{"Rule 4: Allow UDP 3478 from gw.hospital.example [DMZ] to fra.example.net (198.51.100.1) [outside]", "Deny any from gw.hospital.example [DMZ] to any [inside]"} {
		if !strings.Contains(ticket.String(), want) {
			t.Errorf("the ticket lacks %q:\n%s", want, ticket.String())
		}
	}
	rows, err := csv.NewReader(&table).ReadAll()
	if err != nil || len(rows) != len(s.Rules)+1 || len(rows[0]) != 15 {
		t.Errorf("%d rows of %d rules, %v", len(rows), len(s.Rules), err)
	}
}

func TestFirewallDiff(t *testing.T) {
	before := newSheet(fwConfig(nil), fakeLookup{}, sheetTime)
	for name, tc := range map[string]struct {
		change func(*configs.Config)
		look   fakeLookup
		want   []string
	}{
		"nothing":        {},
		"a relay moved":  {look: fakeLookup{moved: map[string]string{"us.example.net": "198.51.100.9"}}, want: []string{"~ TCP 3478 to us.example.net: 198.51.100.1 → 198.51.100.9"}},
		"a rule came":    {change: func(c *configs.Config) { c.Listen.TURNUDP = []string{":443"} }, want: []string{"+ UDP 443 from 10.0.0.0/8"}},
		"a rule is gone": {change: func(c *configs.Config) { c.Relay.Rungs = []string{"udp"} }, want: []string{"- TCP 443 from gw.hospital.example to fra.example.net"}},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := writeSheetDiff(&out, before, newSheet(fwConfig(tc.change), tc.look, sheetTime))
			if (len(tc.want) > 0) != errors.Is(err, errSilent) {
				t.Errorf("error %v", err)
			}
			changes := sheetDiff(before, newSheet(fwConfig(tc.change), tc.look, sheetTime))
			if len(changes) != len(tc.want) {
				t.Fatalf("changes %q, want %q", changes, tc.want)
			}
			for i, want := range tc.want {
				if !strings.HasPrefix(changes[i], want) {
					t.Errorf("change %q, want %q", changes[i], want)
				}
			}
		})
	}
}

const fwFile = `name: gw.hospital.example
listen: {https: ["192.0.2.7:443"]}
services:
  - name: calls
    hosts: [call.hospital.test]
    private_networks: [127.0.0.0/8]
    regions: [{name: fra, urls: ["turn:fra.hospital.test:3478?transport=udp"]}]
hosts: [{host: call.hospital.test, ip: 127.0.0.1}, {host: fra.hospital.test, ip: 10.1.1.1}]
`

// TestFirewallCommand goes the whole way: file, names, sheet, and the difference to a sheet that was kept.
func TestFirewallCommand(t *testing.T) {
	code, kept, stderr := hafen(t, fwFile, "firewall", "--config", "-", "--json")
	if code != exitOK {
		t.Fatalf("exit %d: %s", code, stderr)
	}
	if !strings.Contains(kept, `"127.0.0.1"`) || !strings.Contains(kept, "refused: see hafen doctor") {
		t.Errorf("the names' addresses are missing:\n%s", kept)
	}
	file := filepath.Join(t.TempDir(), "rules.json")
	if err := os.WriteFile(file, []byte(kept), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, stdout, stderr := hafen(t, fwFile, "firewall", "--config", "-", "--diff", file); code != exitOK || !strings.HasPrefix(stdout, "Nothing has changed") {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	moved := strings.Replace(fwFile, "ip: 127.0.0.1", "ip: 127.0.0.2", 1)
	if code, stdout, _ := hafen(t, moved, "firewall", "--config", "-", "--diff", file); code != exitFailed || !strings.Contains(stdout, "127.0.0.1 → 127.0.0.2") {
		t.Errorf("exit %d, %q", code, stdout)
	}
	if code, _, stderr := hafen(t, fwFile, "firewall", "--config", "-", "--diff", os.DevNull); code != exitUsage || !strings.Contains(stderr, "--json") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

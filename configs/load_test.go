package configs

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"hafen/gateway/frugal"
)

// least is the least that runs a real service.
const least = `
name: gw.hospital.example
services:
  - name: calls
    hosts: [call.example.net, "*.call.example.net"]
    regions:
      - name: frankfurt
        urls: "turn:fra.relay.example.net:3478?transport=udp"
`

func load(t *testing.T, text string, environ ...string) (*Config, error) {
	t.Helper()
	return Load("-", strings.NewReader(text), environ)
}

// problems loads a configuration that must be refused.
func problems(t *testing.T, text string, environ ...string) Problems {
	t.Helper()
	c, err := load(t, text, environ...)
	var ps Problems
	if !errors.As(err, &ps) {
		t.Fatalf("got %v and error %v, want problems", c, err)
	}
	if c != nil {
		t.Error("a configuration came back beside its problems")
	}
	return ps
}

func write(t *testing.T, name, text string, mode fs.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestLoadLeast(t *testing.T) {
	c, err := Load(write(t, "hafen.yaml", least, 0o644), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := Default()
	want.Name = "gw.hospital.example"
	want.Services = []Service{{
		Name: "calls", Hosts: []string{"call.example.net", "*.call.example.net"}, Choose: "nearest", Probes: Probes{HTTPS: "/"},
		Regions: []Region{{Name: "frankfurt", URLs: []string{"turn:fra.relay.example.net:3478?transport=udp"}, Use: true}},
	}}
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v\nwant %+v", c, want)
	}
}

func TestLoadTwoServices(t *testing.T) {
	secretA := write(t, "a", "secret-of-a", 0o600)
	passwordB := write(t, "b", "password-of-b", 0o640)
	c, err := load(t, `
name: GW.Hospital.Example.
aliases: wpad.hospital.example
services:
  - name: calls
    hosts: [call.example.net, "*.call.example.net"]
    regions:
      - {name: frankfurt, urls: ["turn:fra.relay.example.net:3478?transport=udp", "turns:fra.relay.example.net:443?transport=tcp"]}
      - {name: ashburn, urls: "turn:ash.relay.example.net", use: false}
    turn_credentials: {secret_file: `+secretA+`}
  - name: video
    gateway_name: video-gw.hospital.example
    hosts: ["*.example.org", deep.call.example.org, "*.call.example.org"]
    choose: as-asked
    regions:
      - {name: frankfurt, urls: "turns:relay.example.org"}
    turn_credentials: {username: gw, password_file: `+passwordB+`}
    probes: {call_servers: a.example.org, websocket: "/ws?x=1"}
    private_networks: 10.9.0.0/16
signaling:
  routes:
    - {host: calls.hospital.example, upstream: "https://call.example.net", service: calls}
    - {host: call.example.net, path: /api}
`)
	if err != nil {
		t.Fatal(err)
	}
	calls, video := &c.Services[0], &c.Services[1]
	if calls.TURNCredentials.SecretFile != secretA || video.TURNCredentials.PasswordFile != passwordB || video.TURNCredentials.SecretFile != "" {
		t.Error("the services' credentials are mixed up")
	}
	if !calls.Regions[0].Use || calls.Regions[1].Use || !video.Regions[0].Use {
		t.Error("use of regions")
	}
	if video.Probes.HTTPS != "/" || video.Probes.WebSocket != "/ws?x=1" || calls.Choose != "nearest" || video.Choose != "as-asked" {
		t.Error("defaults of a list's members")
	}
	if r := c.Signaling.Routes; !r[0].KeepOriginalICE || r[0].Path != "/" || r[1].Path != "/api" {
		t.Errorf("routes %+v", r)
	}
	for host, want := range map[string]*Service{
		"call.example.net": calls, "CALL.example.net.": calls, "x.y.call.example.net": calls, "xcall.example.net": nil, ".call.example.net": nil,
		"a.example.org": video, "example.org": nil, "deep.call.example.org": video, "other.example": nil, "": nil,
	} {
		if got := c.ServiceOfHost(host); got != want {
			t.Errorf("ServiceOfHost(%q) = %v", host, got)
		}
	}
	if s, r := c.ServiceOfRelay("ASH.relay.example.net"); s != calls || r != &calls.Regions[1] {
		t.Errorf("ServiceOfRelay: %v %v", s, r)
	}
	if s, r := c.ServiceOfRelay("relay.example.org"); s != video || r.Name != "frankfurt" {
		t.Errorf("ServiceOfRelay: %v %v", s, r)
	}
	if s, r := c.ServiceOfRelay("call.example.net"); s != nil || r != nil {
		t.Errorf("ServiceOfRelay of a call server: %v %v", s, r)
	}
	for sni, want := range map[string]*Service{"video-gw.hospital.example": video, "gw.hospital.example": calls, "": calls, "anything": calls} {
		if got := c.ServiceOfGatewayName(sni); got != want {
			t.Errorf("ServiceOfGatewayName(%q) = %v", sni, got.Name)
		}
	}
	for host, want := range map[string]bool{"gw.hospital.example": true, "Wpad.hospital.example.": true, "video-gw.hospital.example": true, "call.example.net": false, "": false} {
		if c.OwnName(host) != want {
			t.Errorf("OwnName(%q) is not %v", host, want)
		}
	}
	if got := c.NameForTURN(video) + " " + c.NameForTURN(calls); got != "video-gw.hospital.example gw.hospital.example" {
		t.Errorf("NameForTURN: %s", got)
	}
	if got := calls.CallServers(); !reflect.DeepEqual(got, []string{"call.example.net"}) {
		t.Errorf("CallServers: %v", got)
	}
	if got := video.CallServers(); !reflect.DeepEqual(got, []string{"a.example.org", "deep.call.example.org"}) {
		t.Errorf("CallServers: %v", got)
	}
	if got := len(calls.Relays()); got != 3 {
		t.Errorf("%d relays", got)
	}
}

func TestLoadEnvironment(t *testing.T) {
	c, err := load(t, least+"listen: {https: \":1\"}\n",
		"HAFEN_LISTEN_HTTPS=:443, :8443", "HAFEN_CLIENTS=10.1.0.0/16,10.2.0.0/16,", "HAFEN_DRAIN=5m", "HAFEN_LIMITS_ALLOCATIONS=7",
		"HAFEN_FORWARD_REQUIRE_SNI_MATCH=false", "HAFEN_EGRESS_SOURCE=192.0.2.1", "HAFEN_LOG_LEVEL=", "PATH=/bin", "HAFEN_PORT=tcp://10.0.0.1:443", "HAFEN_SERVICE_HOST=10.0.0.1", "HAFEN_LAB=1")
	if err != nil {
		t.Fatal(err)
	}
	switch {
	case !reflect.DeepEqual(c.Listen.HTTPS, []string{":443", ":8443"}):
		t.Error("listen.https", c.Listen.HTTPS)
	case len(c.Clients) != 2 || c.Clients[1] != netip.MustParsePrefix("10.2.0.0/16"):
		t.Error("clients", c.Clients)
	case c.Drain != 5*time.Minute || c.Limits.Allocations != 7 || c.Limits.AllocationsPerUser != 40:
		t.Error("drain or limits", c.Drain, c.Limits)
	case c.Forward.RequireSNIMatch || c.Egress.Source[0] != netip.MustParseAddr("192.0.2.1") || c.Log.Level != "info":
		t.Error("forward, egress or log", c.Forward, c.Egress, c.Log)
	}
	ps := problems(t, least, "HAFEN_SERVICES=x", "HAFEN_DRAIN=5", "HAFEN_LISTEN_HTPS=:1", "HAFEN_CLIENTS=10.0.0.1/8", "HAFEN_ADDRESSES_PUBLIC=1.2.3")
	wantProblems(t, ps, map[string]string{
		"services": "can't be given", "drain": "no duration", "HAFEN_LISTEN_HTPS": "HAFEN_LISTEN_HTTPS", "clients[0]": "(HAFEN_CLIENTS): write 10.0.0.0/8", "addresses.public": "no IP address",
	})
}

// No two keys may share a variable, or one could not be set.
func TestEnvironmentNamesAreApart(t *testing.T) {
	seen := make(map[string]string)
	walkKeys(reflect.TypeFor[Config](), "", func(pattern string, f field) {
		if !strings.Contains(pattern, "[]") && kindOf(f.typ) != sectionKind {
			if other, taken := seen[envName(pattern)]; taken {
				t.Errorf("%s and %s are both %s", other, pattern, envName(pattern))
			}
			seen[envName(pattern)] = pattern
		}
	})
}

// wantProblems checks that exactly the keys of want are problems, and that each line holds its text.
func wantProblems(t *testing.T, got Problems, want map[string]string) {
	t.Helper()
	seen := make(map[string]bool)
	for _, p := range got {
		part, expected := want[p.Key]
		if !expected {
			t.Errorf("unexpected: %s", p)
		} else if !strings.Contains(p.String(), part) {
			t.Errorf("%q is not in: %s", part, p)
		}
		if seen[p.Key] {
			t.Errorf("a second time: %s", p)
		}
		seen[p.Key] = true
		if p.Problem == "" || p.Write == "" || strings.ContainsAny(p.String(), "\n\r") {
			t.Errorf("not one full line: %q", p.String())
		}
	}
	for key, part := range want {
		if !seen[key] {
			t.Errorf("no problem with %s (%s)", key, part)
		}
	}
}

// A configuration with ten mistakes gets ten lines.
func TestTenMistakes(t *testing.T) {
	got := problems(t, `name: gw.hospital.example
naem: x
clients: [10.0.0.1/8]
listen:
  htps: ":443"
  proxy: "443 "
  http: ":0"
services:
  - name: calls
    hosts: [call.example.net]
    regions:
      - name: frankfurt
        urls: ["turn://fra.relay.example.net"]
    chose: nearest
relay:
  dscp: AF44
limits:
  allocations: "many"
drain: 90
log: {level: verbose}
log: {}
`)
	wantProblems(t, got, map[string]string{
		"naem":                           "naem: is no key (line 2): write name",
		"clients[0]":                     "(line 3): write 10.0.0.0/8",
		"listen.htps":                    "(line 5): write listen.https",
		"listen.proxy[0]":                "(line 6): write",
		"listen.http[0]":                 "has no port from 1 to 65535 (line 7)",
		"services[0].regions[0].urls[0]": "has // after the scheme",
		"services[0].chose":              "write services[0].choose",
		"relay.dscp":                     "no DSCP name",
		"limits.allocations":             "is no whole number",
		"drain":                          "is no duration (line 19)",
		"log.level":                      "write one of debug, info, warn, error",
		"log":                            "is there twice, first on line 20",
	})
}

func TestStructureProblems(t *testing.T) {
	for _, tt := range []struct{ name, text, key, part string }{
		{"not YAML", "name: [", "file", "is no YAML"},
		{"no quotes", least + "pac: {gateways: [a?b]}\n", "file", "into quotes"},
		{"tab", "listen:\n\thttps: x\n", "file", "(line 2)"},
		{"not a section", "- a\n- b\n", "file", "is not a section"},
		{"two documents", least + "---\nname: x\n", "file", "second document"},
		{"wrong section", least + "turn_udp: \":443\"\n", "turn_udp", "write listen.turn_udp"},
		{"capital", "Name: x\n" + least, "Name", "write name"},
		{"nothing near", least + "xyzzyxyzzy: 1\n", "xyzzyxyzzy", "write one of name, aliases"},
		{"key inside a member", strings.Replace(least, "    hosts", "    host: x\n    hosts", 1), "services[0].host", "write services[0].hosts"},
		{"empty value", least + "clients:\n", "clients", "has no value"},
		{"null member", least + "aliases: [~]\n", "aliases[0]", "has no value"},
		{"section for a value", least + "drain: {a: 1}\n", "drain", "is not a single value"},
		{"value for a section", least + "limits: 4\n", "limits", "is not a section"},
		{"value for a list of sections", least + "hosts: x\n", "hosts", "is not a list"},
		{"section for a list", least + "clients: {a: b}\n", "clients", "is not a list"},
		{"quoted number", least + "limits: {allocations: \"4\"}\n", "limits.allocations", "without quotes"},
		{"yes", least + "clients_any: yes\n", "clients_any", "write true or false"},
		{"anchor", least + "aliases: &a [b.example]\n", "aliases", "anchor"},
		{"alias", least + "aliases: &a [b.example]\npac: {gateways: *a}\n", "pac.gateways", "anchor"},
		{"merge key", least + "limits: {<<: {allocations: 1}}\n", "limits.<<", "is no key"},
		{"tag", least + "drain: !!str 1h\n", "drain", "tag"},
		{"address for network", least + "clients: 10.1.2.3\n", "clients", "write 10.1.2.3/32"},
		{"mapped address", least + "addresses: {public: \"::ffff:192.0.2.1\"}\n", "addresses.public", "write 192.0.2.1"},
		{"zone", least + "addresses: {public: \"fe80::1%eth0\"}\n", "addresses.public", "zone"},
		{"threshold", least + "precall: {thresholds: {rtt_pas: 4}}\n", "precall.thresholds.rtt_pas", "write rtt_pass"},
		{"threshold no number", least + "precall: {thresholds: {rtt_pass: .nan}}\n", "precall.thresholds.rtt_pass", "is no number"},
		{"key that is no text", least + "? [a]\n: b\n", "file", "key that is no text"},
		{"secret inline", strings.Replace(least, "    hosts", "    turn_credentials: {secret: x}\n    hosts", 1), "services[0].turn_credentials.secret", "name that file in services[0].turn_credentials.secret_file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, p := range problems(t, tt.text) {
				if p.Key == tt.key && strings.Contains(p.String(), tt.part) {
					return
				}
			}
			t.Errorf("no problem with %s that says %q in:\n%v", tt.key, tt.part, problems(t, tt.text))
		})
	}
}

// A member of a list that says nothing is none.
func TestEmptyMembers(t *testing.T) {
	c, err := load(t, least+`
tls: {files: [{cert: "", key: "", password_file: ""}]}
signaling: {routes: [{host: "", path: "/", upstream: "", service: "", rewrite_ice_servers: [], keep_original_ice: true}, {host: call.example.net}]}
admin: {users: [{name: "", password_hash: "", role: admin}, {}]}
sites: [{name: "", networks: [], gateways: [], help: ""}]
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.TLS.Files)+len(c.Admin.Users)+len(c.Sites) != 0 || len(c.Signaling.Routes) != 1 || c.Signaling.Routes[0].Host != "call.example.net" {
		t.Errorf("%+v", c)
	}
}

func TestLoadNothingToRead(t *testing.T) {
	var pathError *fs.PathError
	if _, err := Load(filepath.Join(t.TempDir(), "none.yaml"), nil, nil); !errors.As(err, &pathError) {
		t.Errorf("no file: %v", err)
	}
	if _, err := Load(t.TempDir(), nil, nil); !errors.As(err, &pathError) {
		t.Errorf("a directory: %v", err)
	}
	if _, err := load(t, strings.Repeat("# long\n", 1<<18)); !errors.As(err, &pathError) {
		t.Errorf("a huge file: %v", err)
	}
	if ps := problems(t, ""); len(ps) != 2 {
		t.Errorf("an empty file lacks a name and a service, got:\n%v", ps)
	}
}

// G-03: whatever is wrong with a configuration, no value that may be a secret is in what is said about it.
func TestProblemsHideSecrets(t *testing.T) {
	const canary = "CANARY7f3a"
	for name, text := range map[string]string{
		"inline":          "turn_credentials: {secret: CANARY7f3a, password: CANARY7f3a}",
		"as file":         "turn_credentials: {secret_file: CANARY7f3a}",
		"as section":      "turn_credentials: CANARY7f3a",
		"as list":         "turn_credentials: [CANARY7f3a]",
		"as alias":        "turn_credentials: {secret_file: *CANARY7f3a}",
		"as tag":          "turn_credentials: {secret_file: !CANARY7f3a x}",
		"as anchor":       "turn_credentials: {secret_file: &CANARY7f3a x}",
		"broken quotes":   "turn_credentials: {secret_file: \"CANARY7f3a}",
		"escape":          "turn_credentials: {secret_file: \"\\CANARY7f3a\"}",
		"url":             "turn_credentials: {url: \"http://u:CANARY7f3a@x\"}",
		"choose":          "choose: CANARY7f3a",
		"private network": "private_networks: [CANARY7f3a]",
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(least, "    hosts", "    "+text+"\n    hosts", 1)
			if out := problems(t, text).Error(); strings.Contains(out, canary) {
				t.Errorf("the secret is in:\n%s", out)
			}
		})
	}
	for name, text := range map[string]string{
		"proxy":       "egress: {proxy: \"http://user:CANARY7f3a@[proxy:3128\"}",
		"proxy path":  "egress: {proxy: \"http://user:CANARY7f3a@proxy:3128/x\"}",
		"duration":    "drain: CANARY7f3a",
		"number":      "limits: {allocations: CANARY7f3a}",
		"hash":        "admin: {users: [{name: anna, password_hash: CANARY7f3a}]}",
		"store":       "store: postgres://u:CANARY7f3a@db/x",
		"webhook":     "events: {webhook: \"ftp://x/CANARY7f3a\"}",
		"inline key":  "tls: {source: files, files: [{cert: x, key: \"-----BEGIN PRIVATE KEY-----CANARY7f3a\"}]}",
		"upstream":    "signaling: {routes: [{host: call.example.net, upstream: \"https://u:CANARY7f3a@x\"}]}",
		"eab":         "tls: {source: acme, acme: {eab_key_id: k, eab_key_file: CANARY7f3a}}",
		"environment": "",
	} {
		t.Run(name, func(t *testing.T) {
			environ := []string(nil)
			if name == "environment" {
				environ = []string{"HAFEN_EGRESS_PROXY=CANARY7f3a", "HAFEN_DRAIN=CANARY7f3a", "HAFEN_RELAY_MODE=CANARY7f3a", "HAFEN_CLIENTS=CANARY7f3a"}
			}
			if out := problems(t, least+text+"\n", environ...).Error(); strings.Contains(out, canary) {
				t.Errorf("the secret is in:\n%s", out)
			}
		})
	}
}

func FuzzLoad(f *testing.F) {
	f.Add([]byte(least))
	f.Add([]byte("name: gw.example\nservices: [{name: a, hosts: [a.example], regions: [{name: r, urls: ['turn:r.example']}]}]\nlimits: {allocations: 4}\ndrain: 1h\n"))
	f.Add([]byte("clients: [10.0.0.1/8, &a x, *a]\n<<: {}\nservices: [[], {}, ~, 1]\n"))
	f.Add([]byte("precall: {thresholds: {rtt_pass: 1, a: {}}}\nname: !!binary aGk=\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		defer frugal.Input(t)()
		c, err := Load("-", strings.NewReader(string(text)), nil)
		var ps Problems
		switch {
		case err == nil && c == nil:
			t.Fatal("neither a configuration nor an error")
		case err == nil:
			if _, err := c.Show(); err != nil {
				t.Fatal(err)
			}
			if again := c.Validate(); len(again) > 0 {
				t.Fatalf("accepted, then refused:\n%v", again)
			}
		case errors.As(err, &ps):
			for _, p := range ps {
				if p.Key == "" || p.Problem == "" || p.Write == "" || strings.ContainsAny(p.String(), "\n\r\x1b") {
					t.Fatalf("not one full line: %q", p.String())
				}
			}
		}
	})
}

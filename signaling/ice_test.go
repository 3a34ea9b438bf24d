package signaling

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"hafen/configs"
	"hafen/gateway/frugal"
)

// relays gives the rig's service a region and the gateway a name, and its one route the paths to rewrite.
func relays(keep bool, patterns ...string) func(*configs.Config) {
	return func(c *configs.Config) {
		c.Name = "gw.hospital.example"
		c.Relay.Mode = "bridge"
		c.Services[0].Regions = []configs.Region{{Name: "frankfurt", URLs: []string{"turn:fra.relay.example:3478?transport=udp"}, Use: true}}
		c.Signaling.Routes = []configs.Route{{Host: host, Path: "/", RewriteICEServers: patterns, KeepOriginalICE: keep}}
	}
}

const (
	gatewayURL  = `"turns:gw.hospital.example:443?transport=tcp"`
	serviceICE  = `{"urls":["turn:fra.relay.example:3478?transport=udp"],"username":"1:u","credential":"a&b<"}`
	gatewayICE  = `{"urls":[` + gatewayURL + `],"username":"1:u","credential":"a&b<"}`
	strangerICE = `{"urls":"stun:stun.example.org"}`
)

func TestRewriteICE(t *testing.T) {
	for _, tt := range []struct {
		name, text, want string // want empty: untouched
		drop             bool   // keep_original_ice: false
		udp              bool
	}{
		{name: "configuration", text: `{"a":1,"iceServers":[` + serviceICE + `], "z": 1.50}`, want: `{"a":1,"iceServers":[` + gatewayICE + `,` + serviceICE + `], "z": 1.50}`},
		{name: "drop", text: `{"iceServers":[` + strangerICE + `,` + serviceICE + `]}`, want: `{"iceServers":[` + gatewayICE + `]}`, drop: true},
		{name: "udp", text: `[` + serviceICE + `]`, want: `[` + strings.Replace(gatewayICE, `tcp"]`, `tcp","turn:gw.hospital.example:443?transport=udp"]`, 1) + `]`, drop: true, udp: true},
		{name: "deep", text: `{"a":[[{"b":{"iceServers":[` + serviceICE + `]}}],{}]}`, want: `{"a":[[{"b":{"iceServers":[` + gatewayICE + `]}}],{}]}`, drop: true},
		{name: "another name", text: `{"ice_servers":[` + serviceICE + `]}`, want: `{"ice_servers":[` + gatewayICE + `]}`, drop: true},
		{name: "two lists", text: `[{"iceServers":[` + serviceICE + `]},{"iceServers":[` + serviceICE + `]}]`, want: `[{"iceServers":[` + gatewayICE + `]},{"iceServers":[` + gatewayICE + `]}]`, drop: true},
		{name: "spaces stay", text: "{\n \"iceServers\": [\n  " + serviceICE + "\n ]\n}\n", want: "{\n \"iceServers\": [" + gatewayICE + ",\n  " + serviceICE + "\n ]\n}\n"},
		{name: "further members", text: `[{"x":{"y":[1e3]},"username":"u","urls":["turns:FRA.relay.example"],"credential":"p","credentialType":"password"}]`, want: `[{"x":{"y":[1e3]},"username":"u","urls":[` + gatewayURL + `],"credential":"p","credentialType":"password"}]`, drop: true},
		{name: "string", text: `[{"urls":"turn:fra.relay.example","username":"u","credential":"p"}]`, want: `[{"urls":` + gatewayURL + `,"username":"u","credential":"p"}]`, drop: true},
		{name: "string, udp", text: `[{"url":"turn:fra.relay.example","credential":"p"}]`, want: `[{"url":` + gatewayURL + `,"credential":"p"},{"url":"turn:gw.hospital.example:443?transport=udp","credential":"p"}]`, drop: true, udp: true},
		{name: "socket.io", text: `42["join",{"iceServers":[` + serviceICE + `]}]`, want: `42["join",{"iceServers":[` + gatewayICE + `]}]`, drop: true},
		{name: "lines", text: `{"a":1}` + "\n" + `{"iceServers":[` + serviceICE + `]}` + "\n", want: `{"a":1}` + "\n" + `{"iceServers":[` + gatewayICE + `]}` + "\n", drop: true},
		{name: "escaped name", text: `{"ice\u0053ervers":[{"urls":"turn:fra.relay.example","credential":"\u00fc\"]"}]}`, want: `{"ice\u0053ervers":[{"urls":` + gatewayURL + `,"credential":"\u00fc\"]"}]}`, drop: true},

		{name: "no relay of the service", text: `{"iceServers":[` + strangerICE + `]}`},
		{name: "another's relay", text: `{"iceServers":[{"urls":["turn:other.example"],"username":"u","credential":"p"}]}`},
		{name: "no credential", text: `{"iceServers":[{"urls":["turn:fra.relay.example"]}]}`},
		{name: "empty", text: `{"iceServers":[]}`},
		{name: "the gateway is listed", text: `{"iceServers":[` + serviceICE + `,{"urls":["turn:gw.hospital.example"],"credential":"p"}]}`},
		{name: "not a list", text: `{"iceServers":` + serviceICE + `}`},
		{name: "mixed list", text: `{"iceServers":[` + serviceICE + `,null]}`},
		{name: "other URLs", text: `{"urls":[{"urls":["https://fra.relay.example"]}]}`},
		{name: "mixed URLs", text: `[{"urls":["turn:fra.relay.example",1],"credential":"p"}]`},
		{name: "no JSON", text: `window.ice = {"iceServers":[` + serviceICE + `]}`},
		{name: "broken JSON", text: `{"iceServers":[` + serviceICE + `]`},
		{name: "rubbish behind", text: `{"iceServers":[` + serviceICE + `]}}`},
		{name: "inside of a string", text: `{"body":"{\"iceServers\":[{\"urls\":\"turn:fra.relay.example\",\"credential\":\"p\"}]}"}`},
		{name: "too deep", text: strings.Repeat("[", 300) + serviceICE + strings.Repeat("]", 300)},
		{name: "nothing of it", text: `{"hello":"world"}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &configs.Config{Services: []configs.Service{{Name: "calls", Hosts: []string{host}}}}
			relays(!tt.drop, "/ice")(c)
			if tt.udp {
				c.Listen.TURNUDP = []string{":3478", ":443"}
			}
			rw := newRewriter(c, &c.Services[0], !tt.drop, nil)
			got, changed := rw.rewrite([]byte(tt.text), netip.Addr{})
			if tt.want == "" {
				tt.want = tt.text
			}
			if string(got) != tt.want || changed != (tt.want != tt.text) {
				t.Errorf("changed %v:\n got %s\nwant %s", changed, got, tt.want)
			}
		})
	}
}

// Where the gateway authenticates the credentials are its own, and a list needs no entry of the service's.
func TestRewriteICEMinted(t *testing.T) {
	c := &configs.Config{Services: []configs.Service{{Name: "calls", Hosts: []string{host}}}, Listen: configs.Listen{HTTPS: []string{":8443"}}}
	relays(true, "/ice")(c)
	var err error
	mint := func(service string, client netip.Addr) (string, string, error) { return service, client.String(), err }
	rw := newRewriter(c, &c.Services[0], true, mint)
	ours := `{"credential":"192.0.2.1","urls":["turns:gw.hospital.example:8443?transport=tcp"],"username":"calls"}`
	for text, want := range map[string]string{
		`{"iceServers":[]}`: `{"iceServers":[` + ours + `]}`, `{"iceServers":[` + strangerICE + `]}`: `{"iceServers":[` + ours + `,` + strangerICE + `]}`, `{"urls":[]}`: `{"urls":[]}`,
	} {
		if got, _ := rw.rewrite([]byte(text), netip.MustParseAddr("192.0.2.1")); string(got) != want {
			t.Errorf("%s became %s", text, got)
		}
	}
	err = errors.New("no")
	if _, changed := rw.rewrite([]byte(`{"iceServers":[]}`), netip.Addr{}); changed {
		t.Error("it changed without credentials")
	}
	c.Relay.Mode = "terminate"
	if _, err := New(Options{Config: c}); err == nil {
		t.Error("terminate without MintTURN is accepted")
	}
	p, err := New(Options{Config: c, MintTURN: mint})
	if err != nil {
		t.Fatal(err)
	}
	_ = p.Close()
}

func TestPathPattern(t *testing.T) {
	for _, tt := range []struct {
		pattern, path string
		want          bool
	}{
		{"/ice", "/ice", true},
		{"/ice", "/ice/", false},
		{"/ice", "/x/ice", false},
		{"/api/*/ice", "/api/v1/ice", true},
		{"/api/*/ice", "/api/v1/x/ice", false},
		{"/api/**", "/api/v1/x", true},
		{"/api/**", "/api", false},
		{"/a.b", "/axb", false},
		{"/**/ice", "/a/b/ice", true},
		{"/*", "/a\nb", true},
	} {
		if got := pathPattern(tt.pattern).MatchString(tt.path); got != tt.want {
			t.Errorf("%s matches %q: %v", tt.pattern, tt.path, got)
		}
	}
}

// What a browser gets of an answer on a path that is rewritten, and what the call server is asked.
func TestRewriteAnswer(t *testing.T) {
	list := `{"iceServers":[` + serviceICE + `]}`
	changed := `{"iceServers":[` + gatewayICE + `,` + serviceICE + `]}`
	long := `{"pad":"` + strings.Repeat("x", maxRewritten) + `","iceServers":[` + serviceICE + `]}`
	for _, tt := range []struct {
		name, path string
		header     map[string]string
		code       int
		body, want string
	}{
		{"JSON", "/ice", map[string]string{"Content-Type": "application/json; charset=utf-8"}, 200, list, changed},
		{"problem", "/ice", map[string]string{"Content-Type": "application/vnd.calls+json"}, 201, list, changed},
		{"plain text", "/ice", map[string]string{"Content-Type": "text/plain"}, 200, list, changed},
		{"another path", "/other", map[string]string{"Content-Type": "application/json"}, 200, list, list},
		{"page", "/ice", map[string]string{"Content-Type": "text/html"}, 200, list, list},
		{"failure", "/ice", map[string]string{"Content-Type": "application/json"}, 500, list, list},
		{"compressed all the same", "/ice", map[string]string{"Content-Type": "application/json", "Content-Encoding": "br"}, 200, list, list},
		{"too long", "/ice", map[string]string{"Content-Type": "application/json"}, 200, long, long},
		{"nothing in it", "/ice", map[string]string{"Content-Type": "application/json"}, 200, `{"a": 1}`, `{"a": 1}`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				if encoding := req.Header.Get("Accept-Encoding"); (encoding == "") != (req.URL.Path == "/ice") {
					t.Errorf("%s was asked with Accept-Encoding %q", req.URL.Path, encoding)
				}
				if req.URL.Path == "/ice" && req.Header.Get("If-None-Match")+req.Header.Get("Range") != "" {
					t.Errorf("asked for a part: %v", req.Header)
				}
				for name, value := range tt.header {
					w.Header().Set(name, value)
				}
				w.Header().Set("ETag", `"1"`)
				w.WriteHeader(tt.code)
				_, _ = io.WriteString(w, tt.body)
			}, settings{config: relays(true, "/ice")})
			req, _ := http.NewRequest(http.MethodGet, "https://"+host+tt.path, nil)
			for name, value := range map[string]string{"Accept-Encoding": "gzip", "If-None-Match": `"1"`, "Range": "bytes=0-1"} {
				req.Header.Set(name, value)
			}
			res, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = res.Body.Close() }()
			body, err := io.ReadAll(res.Body)
			if err != nil || string(body) != tt.want || res.StatusCode != tt.code {
				t.Errorf("%d %v: got %d bytes %.200s", res.StatusCode, err, len(body), body)
			}
			if tagged := res.Header.Get("ETag") != ""; tagged == (tt.want == changed) {
				t.Errorf("ETag %q", res.Header.Get("ETag"))
			}
			if tt.want == changed && res.ContentLength != int64(len(changed)) {
				t.Errorf("Content-Length %d, want %d", res.ContentLength, len(changed))
			}
		})
	}
}

func FuzzRewriteICE(f *testing.F) {
	f.Add([]byte(`{"iceServers":[` + serviceICE + `,` + strangerICE + `]}`))
	f.Add([]byte(`42["x",[{"url":"turn:fra.relay.example","credential":""}]]`))
	c := &configs.Config{Services: []configs.Service{{Name: "calls", Hosts: []string{host}}}}
	relays(true, "/ice")(c)
	keep, drop := newRewriter(c, &c.Services[0], true, nil), newRewriter(c, &c.Services[0], false, nil)
	f.Fuzz(func(t *testing.T, text []byte) {
		defer frugal.Input(t)()
		for _, rw := range []*rewriter{keep, drop} {
			got, changed := rw.rewrite(text, netip.Addr{})
			if !changed && string(got) != string(text) {
				t.Fatal("changed, and does not say so")
			}
			if json.Valid(text) && !json.Valid(got) {
				t.Fatalf("%q became %q", text, got)
			}
			if again, twice := rw.rewrite(got, netip.Addr{}); changed && twice {
				t.Fatalf("%q changed again, to %q", got, again)
			}
		}
	})
}

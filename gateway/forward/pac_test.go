package forward

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/dop251/goja"
	"pgregory.net/rapid"

	"hafen/configs"
)

// browser runs a PAC file as browsers do: url without what they strip, and the host of it.
func browser(t interface {
	Helper()
	Fatalf(string, ...any)
}, file []byte,
) func(rawURL string) string {
	t.Helper()
	vm := goja.New()
	if _, err := vm.RunString(string(file)); err != nil {
		t.Fatalf("the file does not run: %v\n%s", err, file)
	}
	find, ok := goja.AssertFunction(vm.Get("FindProxyForURL"))
	if !ok {
		t.Fatalf("there is no FindProxyForURL")
	}
	return func(rawURL string) string {
		u, err := url.Parse(rawURL)
		if err != nil {
			t.Fatalf("%s: %v", rawURL, err)
		}
		answer, err := find(goja.Undefined(), vm.ToValue(rawURL), vm.ToValue(u.Hostname()))
		if err != nil {
			t.Fatalf("%s: %v", rawURL, err)
		}
		return answer.String()
	}
}

func render(t interface {
	Helper()
	Fatalf(string, ...any)
}, in PACInput,
) []byte {
	t.Helper()
	file, err := RenderPAC(in)
	if err != nil {
		t.Fatalf("%v", err)
	}
	return file
}

// TestGatewaysOverTLSFirst: when one gateway is gone the next entry is the other's port 443, and not a port that a firewall may drop.
func TestGatewaysOverTLSFirst(t *testing.T) {
	c := testConfig()
	c.PAC.Otherwise, c.PAC.Gateways = "DIRECT", []string{"a.hospital.example", "b.hospital.example:8443"}
	c.Listen.Proxy = []string{":3128"}
	got := browser(t, render(t, PACInput{Config: c, Client: netip.MustParseAddr("10.1.2.3")}))("https://call.example/")
	a, b := "a.hospital.example", "b.hospital.example"
	want := []string{
		"HTTPS " + a + ":443; HTTPS " + b + ":8443; PROXY " + a + ":3128; PROXY " + b + ":3128; DIRECT",
		"HTTPS " + b + ":8443; HTTPS " + a + ":443; PROXY " + b + ":3128; PROXY " + a + ":3128; DIRECT",
	}
	if !slices.Contains(want, got) {
		t.Errorf("%s", got)
	}
}

const viaGateway = "HTTPS gw.hospital.example:443; PROXY gw.hospital.example:3128; DIRECT"

// TestAbuse_B24 is the table of URLs; see also TestPACAsServed.
func TestAbuse_B24(t *testing.T) {
	c := testConfig()
	c.PAC.Otherwise = "PROXY proxy.corp:8080"
	c.Signaling.Routes = []configs.Route{{Host: "video.hospital.example", Service: "calls"}, {Host: "call.example"}}
	find := browser(t, render(t, PACInput{Config: c}))
	for _, row := range []struct{ want, urls string }{
		{viaGateway, `https://call.example/ https://call.example:443/ https://CALL.Example/ https://call.example./ wss://call.example/ws
			https://a.rooms.example/ https://a.b.rooms.example/x?y=http://z/ https://x.call.example/ https://meet.other.example/
			https://user:pw@call.example/ https://call.example?x https://call.example#x https://call.example/a:80 http://call.example:443/
			https://fra.relay.example:3478/ http://fra.relay.example:3478/ https://fra.relay.example/ https://fra.relay.example:443/
			http://fra.relay.example:443/ http://fra.relay.example:8080/ https://fra.relay.example:8080/ https://home.relay.example:5349/ http://home.relay.example:5349/
			https://both.example/ http://both.example:3478/ https://turn.call.example:3478/ http://turn.call.example:3478/ https://turn.call.example/`},
		{"DIRECT", `https://gw.hospital.example/ http://gw.hospital.example/ https://gw.hospital.example:8443/ http://wpad.hospital.example/wpad.dat
			https://turn.hospital.example/ https://GW.hospital.example./ https://video.hospital.example/ wss://video.hospital.example/`},
		{"PROXY proxy.corp:8080", `http://call.example/ ws://call.example/ https://call.example:8443/ https://rooms.example/ https://xrooms.example/ https://example/
			https://evil.com/ https://call.example.evil.com/ https://xcall.example/ https://evil.com/call.example https://evil.com:443/#call.example
			http://fra.relay.example/ https://fra.relay.example:5349/ ftp://call.example/ ftp://call.example:21/ https://203.0.113.9/ http://203.0.113.9:3478/ http://127.0.0.1/
			https://[2001:db8::1]/ https://[::1]:443/ https://updates.vendor.example/ https://a.cdn.example:8443/ https://hospital.example/ https://intranet/
			https://evil.com/?https://call.example/ https://constructor/ https://hasownproperty/ https://__proto__/ https://tostring:443/ http://localhost:443/ about:blank
			https://call.example:0/ https://call.example:44300000000000000000000/ https://user@evil.com:443/ https://rooms.example.:443/ file:///etc/passwd`},
	} {
		for _, u := range strings.Fields(row.urls) {
			if u == "https://call.example:44300000000000000000000/" {
				continue // no URL of Go's
			}
			if got := find(u); got != row.want {
				t.Errorf("%s: %s, want %s", u, got, row.want)
			}
		}
	}
}

// TestPACAndCONNECTAgree: what the file sends to us CONNECT allows, and what CONNECT allows for the services the file
// sends to us, however browsers write the URL.
func TestPACAndCONNECTAgree(t *testing.T) {
	c := testConfig()
	c.PAC.Otherwise = "PROXY elsewhere:1"
	find := browser(t, render(t, PACInput{Config: c}))
	p := newPolicy(c, nil)
	hosts := []string{
		"call.example", "rooms.example", "a.rooms.example", "a.b.rooms.example", "both.example", "fra.relay.example", "home.relay.example", "turn.call.example",
		"x.call.example", "meet.other.example", "gw.hospital.example", "turn.hospital.example", "wpad.hospital.example", "updates.vendor.example", "a.cdn.example",
		"mail.example", "evil.com", "203.0.113.9", "fra.relay.example.evil.com", "xfra.relay.example", "relay.example",
	}
	ports := []int{0, 1, 22, 25, 80, 443, 444, 3128, 3478, 3479, 5349, 8080, 8443, 65535}
	schemes := map[string]int{"http": 80, "https": 443, "ws": 80, "wss": 443}
	check := func(t *rapid.T, host string, port int, scheme, suffix string) {
		u := scheme + "://" + host + suffix
		if port == 0 {
			port = schemes[scheme]
		} else {
			u += ":" + strconv.Itoa(port)
		}
		sent := strings.HasPrefix(find(u+"/"), "HTTPS gw.hospital.example:443")
		target, err := ParseTarget(fmt.Sprintf("%s%s:%d", host, suffix, port))
		v := verdict{refused: &refusal{}}
		if err == nil {
			v = p.decide(target)
		}
		if allowed := v.refused == nil && v.kind != extra; sent != allowed {
			t.Fatalf("%s: the PAC file sends it to us: %v, CONNECT allows it: %v", u, sent, allowed)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.SampledFrom(hosts).Draw(t, "host"), rapid.SampledFrom(ports).Draw(t, "port"),
			rapid.SampledFrom([]string{"http", "https", "ws", "wss"}).Draw(t, "scheme"), rapid.SampledFrom([]string{"", "."}).Draw(t, "suffix"))
	})
}

func TestPACGateways(t *testing.T) {
	base := func() *configs.Config {
		c := testConfig()
		c.Listen.Proxy = nil
		return c
	}
	find := func(t *testing.T, in PACInput) string { return browser(t, render(t, in))("https://call.example/") }
	client := netip.MustParseAddr("10.1.2.3")

	t.Run("entries", func(t *testing.T) {
		c := base()
		if got := find(t, PACInput{Config: c}); got != "HTTPS gw.hospital.example:443; DIRECT" {
			t.Error(got)
		}
		c.Listen.HTTPS, c.PAC.ServiceFallback = []string{":3478", "10.0.0.1:8443", "broken"}, "none"
		if got := find(t, PACInput{Config: c}); got != "HTTPS gw.hospital.example:3478" {
			t.Error(got)
		}
		c.Listen.HTTPS, c.Listen.Proxy, c.PAC.ServiceFallback = []string{":3478", ":443"}, []string{"10.0.0.1:8080"}, "PROXY proxy.corp:3128"
		if got := find(t, PACInput{Config: c}); got != "HTTPS gw.hospital.example:443; PROXY gw.hospital.example:8080; PROXY proxy.corp:3128" {
			t.Error(got)
		}
		if got := find(t, PACInput{Config: c, OmitHTTPS: true}); got != "PROXY gw.hospital.example:8080; PROXY proxy.corp:3128" {
			t.Error(got)
		}
		c.Listen.Proxy, c.PAC.Otherwise = nil, "PROXY rest:1"
		if got := find(t, PACInput{Config: c, OmitHTTPS: true}); got != "PROXY rest:1" {
			t.Errorf("no gateway can be offered: %s", got)
		}
	})
	t.Run("failover", func(t *testing.T) {
		c := base()
		c.PAC.Gateways = []string{"gw1.hospital.example", "gw2.hospital.example:8443", "gw3.hospital.example"}
		if got := find(t, PACInput{Config: c}); got != "HTTPS gw1.hospital.example:443; HTTPS gw2.hospital.example:8443; HTTPS gw3.hospital.example:443; DIRECT" {
			t.Error(got)
		}
		first := make(map[string]int)
		for i := range 300 {
			a := netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)})
			one := render(t, PACInput{Config: c, Client: a})
			if again := render(t, PACInput{Config: c, Client: netip.AddrFrom16(a.As16())}); string(again) != string(one) {
				t.Fatalf("%s gets one file and then another", a)
			}
			first[(PACInput{Config: c, Client: a}).gateways()[0]]++
		}
		for _, g := range c.PAC.Gateways {
			if first[g] < 60 || first[g] > 140 {
				t.Errorf("%s is the first for %d of 300", g, first[g])
			}
		}
		// A gateway that leaves the list moves only the clients that it had.
		less := base()
		less.PAC.Gateways = c.PAC.Gateways[:2]
		for i := range 100 {
			a := netip.AddrFrom4([4]byte{10, 2, 0, byte(i)})
			before, after := (PACInput{Config: c, Client: a}).gateways()[0], (PACInput{Config: less, Client: a}).gateways()[0]
			if before != c.PAC.Gateways[2] && before != after {
				t.Errorf("%s moved from %s to %s", a, before, after)
			}
		}
		if got := browser(t, render(t, PACInput{Config: c}))("https://gw2.hospital.example:8443/"); got != "DIRECT" {
			t.Errorf("another gateway: %s", got)
		}
	})
	t.Run("sites", func(t *testing.T) {
		c := base()
		c.PAC.Gateways = []string{"gw1.hospital.example", "near.hospital.example"}
		c.Sites = []configs.Site{
			{Name: "far", Networks: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")}, Gateways: []string{"far.hospital.example"}},
			{Name: "near", Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}, Gateways: []string{"near.hospital.example", "near2.hospital.example:444"}},
		}
		want := "HTTPS near.hospital.example:443; HTTPS near2.hospital.example:444; HTTPS gw1.hospital.example:443; DIRECT"
		if got := find(t, PACInput{Config: c, Client: client}); got != want {
			t.Error(got)
		}
		if got := browser(t, render(t, PACInput{Config: c}))("https://far.hospital.example/"); got != "DIRECT" {
			t.Errorf("a site's gateway: %s", got)
		}
	})
	t.Run("roll-out", func(t *testing.T) {
		c := base()
		c.PAC.Otherwise = "PROXY rest:1"
		c.PAC.Rollout = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}
		c.PAC.Skip = []netip.Prefix{netip.MustParsePrefix("10.1.9.0/24")}
		for text, offered := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.1.9.1": false, "10.2.0.1": false, "fd00::1": false} {
			file := render(t, PACInput{Config: c, Client: netip.MustParseAddr(text)})
			got := browser(t, file)("https://call.example/")
			if offered != (got == "HTTPS gw.hospital.example:443; DIRECT") || !offered && got != "PROXY rest:1" {
				t.Errorf("%s: %s", text, got)
			}
			if !offered && strings.Contains(string(file), "HTTPS gw") {
				t.Errorf("%s gets a file with gateways in it", text)
			}
			if got := browser(t, file)("https://gw.hospital.example/"); got != "DIRECT" {
				t.Errorf("%s, our own name: %s", text, got)
			}
		}
	})
}

func TestPACIsOld(t *testing.T) {
	file := string(render(t, PACInput{Config: testConfig()}))
	for _, newer := range []string{`\blet\b`, `\bconst\b`, `=>`, "`", `,\s*[\]}]`, `\.(?:includes|endsWith|startsWith|trim|forEach|indexOf|map)\(`, `\bJSON\b`, `[^\x00-\x7f]`, `\r`} {
		if at := regexp.MustCompile(newer).FindString(file); at != "" {
			t.Errorf("ECMAScript 3 does not have %q (%s)", at, newer)
		}
	}
	if names := regexp.MustCompile(`(?m)^(?:var|function) (\w+)`).FindAllStringSubmatch(file, -1); len(names) != 2 {
		t.Errorf("%d globals", len(names))
	} else {
		for _, n := range names {
			if n[1] != "FindProxyForURL" && !strings.HasPrefix(n[1], "hafen") {
				t.Errorf("the global %s may be another's", n[1])
			}
		}
	}
}

func TestPACOff(t *testing.T) {
	c := testConfig()
	c.PAC.Otherwise = ""
	if _, err := RenderPAC(PACInput{Config: c}); !errors.Is(err, ErrPACOff) {
		t.Errorf("%v", err)
	}
	r := newRig(t, nil)
	if err := reconfigure(r.proxy, c); err != nil {
		t.Fatal(err)
	}
	w := httptest.NewRecorder()
	r.proxy.PAC().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/proxy.pac", nil))
	if w.Code != 404 || !strings.Contains(w.Body.String(), "`pac.otherwise: DIRECT`") || !strings.HasPrefix(w.Header().Get("Content-Type"), "text/plain") {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
}

// TestPACAsServed: nothing but the client's address changes the file.
func TestPACAsServed(t *testing.T) {
	untrusted := false
	r := newRig(t, func(o *Options) { o.OmitHTTPS = func() bool { return untrusted } })
	r.config.PAC.Gateways = []string{"gw1.hospital.example", "gw2.hospital.example", "gw3.hospital.example"}
	get := func(method, target, remote string, header http.Header) *httptest.ResponseRecorder {
		req := httptest.NewRequest(method, target, nil)
		req.RemoteAddr, req.Header = remote, header
		if h := header.Get("Host"); h != "" {
			req.Host = h
		}
		w := httptest.NewRecorder()
		r.proxy.PAC().ServeHTTP(w, req)
		return w
	}
	first := get(http.MethodGet, "/proxy.pac", "10.1.2.3:4711", nil)
	h := first.Header()
	if first.Code != 200 || h.Get("Content-Type") != "application/x-ns-proxy-autoconfig" || h.Get("X-Content-Type-Options") != "nosniff" || h.Get("Cache-Control") != "private, max-age=300" {
		t.Errorf("%d %v", first.Code, h)
	}
	if want := render(t, PACInput{Config: r.config, Client: netip.MustParseAddr("10.1.2.3")}); first.Body.String() != string(want) {
		t.Error("not the file that RenderPAC makes")
	}
	for _, w := range []*httptest.ResponseRecorder{
		get(http.MethodGet, "/wpad.dat", "10.1.2.3:1", nil),
		get(http.MethodGet, "/proxy.pac?client=10.9.9.9&x=\";alert(1);//", "[::ffff:10.1.2.3]:5", nil),
		get(http.MethodGet, "/proxy.pac?"+strings.Repeat("x", 10_000), "10.1.2.3:2", http.Header{"Host": {`evil";alert(1)//`}, "X-Forwarded-For": {"10.9.9.9"}, "X-Forwarded-Host": {"evil"}}),
	} {
		if w.Body.String() != first.Body.String() {
			t.Errorf("another file:\n%s", w.Body)
		}
	}
	if w := get(http.MethodHead, "/proxy.pac", "10.1.2.3:1", nil); w.Body.Len() != 0 || w.Header().Get("Content-Length") != fmt.Sprint(first.Body.Len()) {
		t.Errorf("HEAD: %v", w.Header())
	}
	if w := get(http.MethodPost, "/proxy.pac", "10.1.2.3:1", nil); w.Code != 405 {
		t.Errorf("POST: %d", w.Code)
	}
	untrusted = true
	if w := get(http.MethodGet, "/proxy.pac", "10.1.2.3:1", nil); strings.Contains(w.Body.String(), "HTTPS ") || !strings.Contains(w.Body.String(), "PROXY gw") {
		t.Errorf("a certificate that nobody trusts:\n%s", w.Body)
	}
}

// TestPACCannotBeInjected: whatever a configuration may come to hold, it stays inside its string.
func TestPACCannotBeInjected(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		evil := rapid.SampledFrom([]string{`";throw 1;//`, "</script>", "\u2028throw 1", "a\nb", `\`, `\";x`, "*/", "'+x+'"})
		text := rapid.Custom(func(t *rapid.T) string { return rapid.String().Draw(t, "any") + evil.Draw(t, "evil") })
		c := testConfig()
		c.PAC.Otherwise = text.Draw(t, "otherwise")
		c.PAC.ServiceFallback = text.Draw(t, "fallback")
		c.Name = text.Draw(t, "name")
		c.Services[0].Hosts = append(c.Services[0].Hosts, text.Draw(t, "host"))
		file := render(t, PACInput{Config: c})
		if i := slices.IndexFunc(file, func(b byte) bool { return b != '\n' && (b < ' ' || b > '~') }); i >= 0 {
			t.Fatalf("byte %#x in\n%s", file[i], file)
		}
		if strings.Contains(string(file), "</") {
			t.Fatalf("the file could end a script element")
		}
		find := browser(t, file)
		if got := find("https://evil.com/"); got != strings.ToValidUTF8(c.PAC.Otherwise, "\ufffd") && !strings.ContainsFunc(c.PAC.Otherwise, func(r rune) bool { return r > 0xffff }) {
			t.Fatalf("otherwise is %q", got)
		}
	})
}

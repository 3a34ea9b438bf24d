package main

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// pacConfig writes a configuration whose gateway browsers trust, with more below the key pac.
func pacConfig(t *testing.T, pac string) string {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "hafen.yaml")
	text := `name: gw.hospital.example
listen: {proxy: ":3128"}
tls: {source: acme, acme: {directory: "https://ca.example/dir", email: "it@hospital.example"}}
services:
  - name: calls
    hosts: [call.example.net, "*.rooms.example.net"]
    regions: [{name: fra, urls: ["turn:fra.relay.example.net:3478?transport=tcp"]}]
data_dir: ` + dir + "\npac: {" + pac + "}\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

func writePAC(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "corp.pac")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}

const toUs = "HTTPS gw.hospital.example:443; PROXY gw.hospital.example:3128; DIRECT"

func TestPACURL(t *testing.T) {
	plain := pacConfig(t, `otherwise: "PROXY proxy.corp.example:8080", skip: [10.9.0.0/16]`)
	parent := pacConfig(t, "parent_file: "+writePAC(t, "'use strict';\nfunction FindProxyForURL(url, host) { return isInNet(myIpAddress(), '10.7.0.0', '255.255.0.0') ? 'PROXY near:1' : 'PROXY far:1' } // \xfcber alles"))
	for _, row := range []struct{ file, url, client, want string }{
		{plain, "https://call.example.net/", "", toUs},
		{plain, "http://fra.relay.example.net:3478/", "10.1.1.1", toUs},
		{plain, "https://call.example.net/", "10.9.1.1", "PROXY proxy.corp.example:8080"},
		{plain, "https://gw.hospital.example/precall/", "", "DIRECT"},
		{plain, "https://evil.example/", "", "PROXY proxy.corp.example:8080"},
		{parent, "https://a.rooms.example.net/", "", toUs},
		{parent, "https://evil.example/", "10.7.1.1", "PROXY near:1"},
		{parent, "https://evil.example/", "10.8.1.1", "PROXY far:1"},
	} {
		args := []string{"pac", "--config", row.file, "--url", row.url}
		if row.client != "" {
			args = append(args, "--client", row.client)
		}
		if code, out, errs := hafen(t, "", args...); code != exitOK || strings.TrimSpace(out) != row.want {
			t.Errorf("%s for %q: exit %d, %q %q, want %q", row.url, row.client, code, out, errs, row.want)
		}
	}
	for _, args := range [][]string{{"--url", "call.example.net"}, {"--url", "https://x/", "--snippet"}, {"--client", "x"}} {
		if code, _, errs := hafen(t, "", append([]string{"pac", "--config", plain}, args...)...); code == exitOK || errs == "" {
			t.Errorf("%v: exit %d %s", args, code, errs)
		}
	}
}

// TestPACParentFetched: where no gateway runs, the parent is fetched for the answer.
func TestPACParentFetched(t *testing.T) {
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write([]byte("function FindProxyForURL(u, h) { return 'PROXY theirs:1' }"))
	}))
	defer srv.Close()
	file := pacConfig(t, "parent: "+srv.URL)
	if code, out, errs := hafen(t, "", "pac", "--config", file, "--url", "http://x.example/"); code != exitOK || out != "PROXY theirs:1\n" {
		t.Errorf("exit %d %q %q", code, out, errs)
	}
	srv.Close()
	if code, _, errs := hafen(t, "", "pac", "--config", file); code != exitFailed || !strings.Contains(errs, "pac.parent: ") {
		t.Errorf("exit %d %q", code, errs)
	}
}

// TestPACVerify: the snippet pasted as it says makes a company's file right, and every way to get it wrong is seen.
func TestPACVerify(t *testing.T) {
	config := pacConfig(t, "")
	code, snippet, errs := hafen(t, "", "pac", "--config", config, "--snippet")
	if code != exitOK || strings.Contains(snippet, "function FindProxyForURL") {
		t.Fatalf("exit %d %s\n%s", code, errs, snippet)
	}
	company := func(ours string) string {
		return `function FindProxyForURL(url, host) {
  ` + ours + `
  if (isPlainHostName(host) || shExpMatch(host, "*.corp.example")) return "DIRECT";
  return "PROXY proxy.corp.example:8080";
}
`
	}
	const pasted = "var viaHafen = hafenRoute(url, host);\n  if (viaHafen) return viaHafen;"
	for _, row := range []struct {
		name, text string
		code       int
		want       []string
	}{
		{"pasted", snippet + company(pasted), exitOK, []string{"OK    https://call.example.net/", "OK    http://fra.relay.example.net:3478/", "OK    https://gw.hospital.example/"}},
		{"pasted behind", company(pasted) + snippet, exitOK, []string{"OK    wss://any-name.rooms.example.net/"}},
		{"pasted in windows-1252", "// f\xfcr\r\n" + snippet + company(pasted), exitOK, nil},
		{"not called", snippet + company(""), exitFailed, []string{"FAIL  https://call.example.net/", "WARN  https://gw.hospital.example/", "PROXY proxy.corp.example:8080  (does not reach"}},
		{"by https only, as Firefox would not find it", company(`if (url.substring(0, 6) === "https:" && /example\.net$/.test(host)) return "HTTPS gw.hospital.example:443";`), exitFailed, []string{"OK    https://fra.relay.example.net:3478/", "FAIL  http://fra.relay.example.net:3478/"}},
		{"the wrong port", company(`if (/example\.net$/.test(host)) return "PROXY gw.hospital.example:8080";`), exitFailed, []string{"FAIL  https://call.example.net/", "does not listen at that port"}},
		{"ourselves through us", company(`if (/example(\.net)?$/.test(host)) return "HTTPS gw.hospital.example:443";`), exitFailed, []string{"OK    https://call.example.net/", "FAIL  https://gw.hospital.example/"}},
		{"after another", company(`if (/example\.net$/.test(host)) return "PROXY x:1; HTTPS gw.hospital.example:443"; if (host === "gw.hospital.example" || host === "gw") return "DIRECT";`), exitOK, []string{"WARN  https://call.example.net/"}},
		{"it throws", company("return undefinedThing(host);"), exitFailed, []string{"FAIL  https://call.example.net/"}},
		{"no string", company("return null;"), exitFailed, []string{"is no string"}},
		{"escape sequences", company(`return "\x1b[2JDIRECT";`), exitFailed, []string{" [2JDIRECT"}},
	} {
		code, out, errs := hafen(t, "", "pac", "--config", config, "--verify", writePAC(t, row.text))
		if code != row.code {
			t.Errorf("%s: exit %d, want %d\n%s%s", row.name, code, row.code, out, errs)
		}
		for _, want := range row.want {
			if !strings.Contains(out, want) {
				t.Errorf("%s: no %q in\n%s%s", row.name, want, out, errs)
			}
		}
	}
	for name, text := range map[string]string{"no PAC file": "var x = 1", "a syntax error": "function FindProxyForURL(", "empty": ""} {
		if code, _, errs := hafen(t, text, "pac", "--config", config, "--verify", "-"); code != exitFailed || !strings.Contains(errs, "PAC file") {
			t.Errorf("%s: exit %d %s", name, code, errs)
		}
	}
}

func TestPACNoGateway(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hafen.yaml")
	text := "name: gw.hospital.example\nservices: [{name: calls, hosts: call.example.net, regions: [{name: fra, urls: \"turn:fra.relay.example.net:3478?transport=tcp\"}]}]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, errs := hafen(t, "", "pac", "--config", file, "--snippet"); code != exitFailed || !strings.Contains(errs, "listen.proxy") {
		t.Errorf("exit %d %s", code, errs)
	}
	if code, _, errs := hafen(t, "", "pac", "--config", file, "--url", "https://x.example/"); code != exitFailed || !strings.Contains(errs, "pac.otherwise") {
		t.Errorf("exit %d %s", code, errs)
	}
}

// TestPACEngineStops: a file that never ends does not hold the program.
func TestPACEngineStops(t *testing.T) {
	if testing.Short() {
		t.Skip("waits out the engine's time limit")
	}
	if _, err := newPACEngine([]byte("function FindProxyForURL() {} for (;;) {}"), netip.Addr{}); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("%v", err)
	}
	e, err := newPACEngine([]byte("function FindProxyForURL(u, h) { return FindProxyForURL(u, h) }"), netip.Addr{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.find("http://x.example/"); err == nil {
		t.Error("it came back from an endless recursion")
	}
}

func TestPACHelpers(t *testing.T) {
	e, err := newPACEngine([]byte("function FindProxyForURL(u, h) { return String(eval(decodeURIComponent(h))) }"), netip.MustParseAddr("10.7.1.2"))
	if err != nil {
		t.Fatal(err)
	}
	e.now = func() time.Time { return time.Date(2026, time.November, 22, 23, 30, 15, 0, time.Local) } // a Sunday
	e.lookup = func(host string) []netip.Addr {
		if a, err := netip.ParseAddr(host); err == nil {
			return []netip.Addr{a}
		}
		return map[string][]netip.Addr{
			"six.example":  {netip.MustParseAddr("2001:db8::5")},
			"both.example": {netip.MustParseAddr("2001:db8::5"), netip.MustParseAddr("10.7.9.9")},
		}[host]
	}
	for expr, want := range map[string]string{
		`isPlainHostName("intranet")`: "true", `isPlainHostName("a.b")`: "false", `isPlainHostName("::1")`: "false",
		`dnsDomainIs("www.Corp.example", ".corp.example")`: "true", `dnsDomainIs("corp.example", ".corp.example")`: "false",
		`localHostOrDomainIs("www", "www.corp.example")`: "true", `localHostOrDomainIs("www.x.example", "www.corp.example")`: "false",
		`dnsDomainLevels("a.b.c")`: "2", `shExpMatch("a.corp.example", "*.corp.*")`: "true", `shExpMatch("axcorp", "a.corp")`: "false", `shExpMatch("ab", "a?")`: "true",
		`shExpMatch("a\nb", "a*b")`: "true", `shExpMatch("a(b", "a(?")`: "true",
		`isResolvable("both.example")`: "true", `isResolvable("six.example")`: "false", `isResolvableEx("six.example")`: "true", `isResolvable("none.example")`: "false",
		`dnsResolve("both.example")`: "10.7.9.9", `dnsResolve("none.example")`: "null", `dnsResolveEx("both.example")`: "2001:db8::5;10.7.9.9",
		`isInNet("both.example", "10.7.0.0", "255.255.0.0")`: "true", `isInNet("10.8.1.1", "10.7.0.0", "255.255.0.0")`: "false", `isInNet("none.example", "0.0.0.0", "0.0.0.0")`: "false",
		`isInNetEx("six.example", "2001:db8::/32")`: "true", `convert_addr("10.0.0.1")`: "167772161", `myIpAddress()`: "10.7.1.2", `alert("x")`: "null",
		`weekdayRange("SUN")`: "true", `weekdayRange("MON", "FRI")`: "false", `weekdayRange("SAT", "MON")`: "true", `weekdayRange("xx")`: "false",
		`timeRange(23)`: "true", `timeRange(9, 17)`: "false", `timeRange(22, 6)`: "true", `timeRange(23, 0, 23, 30)`: "true", `timeRange(23, 30, 16, 23, 59, 59)`: "false", `timeRange()`: "false",
		`dateRange(22)`: "true", `dateRange("NOV")`: "true", `dateRange(2027)`: "false", `dateRange(1, 21)`: "false", `dateRange("OCT", "JAN")`: "true",
		`dateRange(1, "NOV", 30, "NOV")`: "true", `dateRange("JAN", 2025, "OCT", 2026)`: "false", `dateRange(1, "JAN", 2026, 1, "DEC", 2026)`: "true", `dateRange(22, "NOV")`: "true", `dateRange(22, "NOV", 2026)`: "true",
	} {
		v, err := e.vm.Run(expr)
		if err != nil || v.String() != want {
			t.Errorf("%s: %v %v, want %s", expr, v, err, want)
		}
	}
}

package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dop251/goja"

	"hafen/configs"
)

func parentConfig(t *testing.T) *configs.Config {
	c := testConfig()
	c.PAC.Otherwise, c.PAC.Parent, c.DataDir = "", "http://wpad.corp.example/proxy.pac", t.TempDir()
	return c
}

// TestParentGoesOn: what the company's file answers, it answers as before; what is ours is ours.
func TestParentGoesOn(t *testing.T) {
	big := "var hosts = {\n" + strings.Repeat(`  "a-host-with-a-long-name.corp.example": "PROXY proxy-a.corp:8080",`+"\n", 5000) + `"last.example": "PROXY last:1"};
function FindProxyForURL(url, host) { return hosts[host] || "PROXY big:1"; }`
	if len(big) < 256<<10 {
		t.Fatalf("%d bytes are not big", len(big))
	}
	for _, row := range []struct{ name, text, url, want string }{
		{"plain", `function FindProxyForURL(url, host) { return "PROXY p:" + url.length; }`, "http://x.example/", "PROXY p:17"},
		{"globals", "var count = 0\nfunction next() { return ++count }\nfunction FindProxyForURL(u, h) { next(); this.last = h; return 'PROXY p:' + next() }", "http://x.example/", "PROXY p:2"},
		{"strict", "'use strict';\nfunction FindProxyForURL(u, h) { return this === undefined ? 'PROXY strict:1' : 'PROXY sloppy:1'; }", "http://x.example/", "PROXY strict:1"},
		{"strict, behind a comment", "/* ours */ \"use strict\"\nfunction FindProxyForURL(u, h) { try { undeclared = 1; return 'PROXY sloppy:1' } catch (e) { return 'PROXY strict:1' } }", "http://x.example/", "PROXY strict:1"},
		{"sloppy", "function FindProxyForURL(u, h) { undeclared = 010; return 'PROXY sloppy:' + undeclared; }", "http://x.example/", "PROXY sloppy:8"},
		{"no semicolon at its end", "var FindProxyForURL = function (u, h) { return 'PROXY p:1' }", "http://x.example/", "PROXY p:1"},
		{"a comment at its end", "function FindProxyForURL(u, h) { return 'PROXY p:1' } // end", "http://x.example/", "PROXY p:1"},
		{"assigned, not declared", "FindProxyForURL = function (u, h) { return 'PROXY p:1' };", "http://x.example/", "PROXY p:1"},
		{"CRLF", "function FindProxyForURL(u, h)\r\n{\r\n  return 'PROXY p:1';\r\n}\r\n", "http://x.example/", "PROXY p:1"},
		{"it asks itself", "function FindProxyForURL(u, h) { return h === 'a.example' ? FindProxyForURL('http://b.example/', 'b.example') : 'PROXY ' + h + ':1' }", "http://a.example/", "PROXY b.example:1"},
		{"helpers of the engine", "function FindProxyForURL(u, h) { return dnsDomainIs(h, '.corp.example') ? 'DIRECT' : 'PROXY p:1' }", "http://x.corp.example/", "DIRECT"},
		{"big", big, "http://last.example/", "PROXY last:1"},
		{"newer JavaScript", "const p = `PROXY p:${1}`; function FindProxyForURL(u, h) { let q = p; return [q].map(x => x)[0] }", "http://x.example/", "PROXY p:1"},
		{"our snippet in it", snippet(t) + "function FindProxyForURL(u, h) { var v = hafenRoute(u, h); if (v) return v; return 'PROXY p:1' }", "http://x.example/", "PROXY p:1"},
	} {
		t.Run(row.name, func(t *testing.T) {
			parent, err := newParent([]byte(row.text), "")
			if err != nil {
				t.Fatal(err)
			}
			file := render(t, PACInput{Config: parentConfig(t), Parent: parent})
			if !bytes.HasPrefix(file, parent.Text) {
				t.Error("the parent does not stand first and unchanged")
			}
			find := browser(t, append([]byte("function dnsDomainIs(h, d) { return h.substring(h.length - d.length) === d }\n"), file...))
			if row.name == "strict" || strings.HasPrefix(row.name, "strict,") {
				find = browser(t, file) // a helper in front would end the directive
			}
			if got := find(row.url); got != row.want {
				t.Errorf("%s: %s, want %s", row.url, got, row.want)
			}
			if got := find("https://call.example/"); got != viaGateway {
				t.Errorf("a host of the service: %s", got)
			}
			if got := find("https://gw.hospital.example/"); got != "DIRECT" {
				t.Errorf("our own name: %s", got)
			}
		})
	}
}

func snippet(t *testing.T) string {
	t.Helper()
	text, err := RenderSnippet(PACInput{Config: testConfig()})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestParentEncodings: a byte order mark stays the first thing, and bytes stay what they are.
func TestParentEncodings(t *testing.T) {
	for name, text := range map[string]string{
		"BOM":     "\xef\xbb\xbf'use strict'; // \xc3\xa4\nfunction FindProxyForURL(u, h) { return 'DIRECT' }",
		"Latin-1": "// f\xfcr alle\nvar s = '\xe4';\nfunction FindProxyForURL(u, h) { return 'DIRECT' }",
		"UTF-8":   "// für alle\nfunction FindProxyForURL(u, h) { return 'DIRECT' }",
	} {
		parent, err := newParent([]byte(text), "")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		file := render(t, PACInput{Config: parentConfig(t), Parent: parent})
		ours, ok := bytes.CutPrefix(file, []byte(text))
		if !ok {
			t.Errorf("%s: it is not the first thing", name)
		}
		if i := bytes.IndexFunc(ours, func(r rune) bool { return r > 0x7e }); i >= 0 {
			t.Errorf("%s: what is ours is not ASCII", name)
		}
	}
}

// TestParentEx: WinHTTP asks FindProxyForURLEx where there is one.
func TestParentEx(t *testing.T) {
	parent := &Parent{Text: []byte("function FindProxyForURL(u, h) { return 'PROXY v4:1' } function FindProxyForURLEx(u, h) { return 'PROXY v6:1' }")}
	vm := goja.New()
	if _, err := vm.RunString(string(render(t, PACInput{Config: parentConfig(t), Parent: parent}))); err != nil {
		t.Fatal(err)
	}
	for expr, want := range map[string]string{
		`FindProxyForURLEx("http://x.example/", "x.example")`:        "PROXY v6:1",
		`FindProxyForURLEx("https://call.example/", "call.example")`: viaGateway,
		`FindProxyForURL("http://x.example/", "x.example")`:          "PROXY v4:1",
	} {
		if v, err := vm.RunString(expr); err != nil || v.String() != want {
			t.Errorf("%s: %v %v, want %s", expr, v, err, want)
		}
	}
}

func TestParentForSkippedClients(t *testing.T) {
	c := parentConfig(t)
	c.PAC.Skip = append(c.PAC.Skip, netip.MustParsePrefix("10.9.0.0/16"))
	parent := &Parent{Text: []byte("function FindProxyForURL(u, h) { return 'PROXY theirs:1' }")}
	find := browser(t, render(t, PACInput{Config: c, Parent: parent, Client: netip.MustParseAddr("10.9.1.1")}))
	if got := find("https://call.example/"); got != "PROXY theirs:1" {
		t.Error(got)
	}
}

func TestNoParent(t *testing.T) {
	for name, text := range map[string]string{
		"a web page":      "\n <!DOCTYPE html><script>FindProxyForURL</script>",
		"nothing":         "",
		"something else":  "{}",
		"UTF-16":          "\xff\xfef\x00u\x00",
		"too large":       "function FindProxyForURL(){}" + strings.Repeat(" ", maxParent),
		"a file of ours":  string(render(t, PACInput{Config: func() *configs.Config { c := testConfig(); c.PAC.Otherwise = "DIRECT"; return c }()})),
		"BOM, a web page": "\xef\xbb\xbf<html>FindProxyForURL",
	} {
		if _, err := newParent([]byte(text), ""); err == nil {
			t.Errorf("%s is taken for a PAC file", name)
		}
	}
	if _, err := RenderPAC(PACInput{Config: parentConfig(t)}); !errors.Is(err, ErrNoParent) {
		t.Errorf("%v", err)
	}
}

// parentServer is the company's web server.
type parentServer struct {
	*httptest.Server
	mu     sync.Mutex
	answer func(w http.ResponseWriter, r *http.Request)
	asked  int
}

func newParentServer(t *testing.T) *parentServer {
	s := &parentServer{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		answer := s.answer
		s.asked++
		s.mu.Unlock()
		answer(w, r)
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *parentServer) set(answer func(w http.ResponseWriter, r *http.Request)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

func (s *parentServer) serves(text, contentType string) {
	s.set(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		_, _ = w.Write([]byte(text))
	})
}

func (s *parentServer) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, s.Listener.Addr().String())
}

// TestParentIsKept: it is fetched, kept over trouble and over a restart, and never replaced by nonsense.
func TestParentIsKept(t *testing.T) {
	s := newParentServer(t)
	c := parentConfig(t)
	c.PAC.Parent = "http://user:top-secret@wpad.corp.example/proxy.pac?key=also-secret"
	const first = "function FindProxyForURL(u, h) { return 'PROXY first:1' }"
	s.serves(first, "application/x-ns-proxy-autoconfig; charset=ISO-8859-1")
	start := func() *rig {
		return newRig(t, func(o *Options) { o.Config, o.DialParent = c, s.dial })
	}
	r := start()
	serve := func(r *rig) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		req := httptest.NewRequest(http.MethodGet, "/proxy.pac", nil)
		req.RemoteAddr = "10.1.2.3:1"
		r.proxy.PAC().ServeHTTP(w, req)
		return w
	}
	if w := serve(r); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "pac.parent") {
		t.Errorf("before it was fetched: %d %s", w.Code, w.Body)
	}
	r.proxy.Start()
	eventually(t, "the parent", func() bool { return serve(r).Code == 200 })
	w := serve(r)
	if got := browser(t, w.Body.Bytes())("http://x.example/"); got != "PROXY first:1" {
		t.Error(got)
	}
	if got := w.Header().Get("Content-Type"); got != "application/x-ns-proxy-autoconfig; charset=ISO-8859-1" {
		t.Error(got)
	}
	for name, answer := range map[string]func(w http.ResponseWriter, r *http.Request){
		"500":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(500) },
		"204":     func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(204) },
		"a login": func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>FindProxyForURL")) },
		"half": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "999")
			_, _ = w.Write([]byte(first))
			panic(http.ErrAbortHandler)
		},
		"for ever": func(w http.ResponseWriter, _ *http.Request) {
			_, _ = w.Write(bytes.Repeat([]byte("FindProxyForURL "), 1<<17))
		},
		"in a circle": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/again", http.StatusFound)
		},
		"elsewhere": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "file:///etc/passwd", http.StatusFound)
		},
	} {
		s.set(answer)
		if wait := r.proxy.parent.look(t.Context()); wait < parentAgain || wait > parentLeast {
			t.Errorf("%s: the next look is in %v", name, wait)
		}
		if got := serve(r).Body.String(); got != w.Body.String() {
			t.Errorf("%s: the last good one did not stay", name)
		}
	}
	if log := r.log.String(); strings.Contains(log, "secret") || !strings.Contains(log, "the last good one stays") {
		t.Errorf("%s", log)
	}
	again := start() // the server is still nonsense
	if got := serve(again).Body.String(); got != w.Body.String() {
		t.Error("it did not survive a restart")
	}
	s.serves("function FindProxyForURL(u, h) { return 'PROXY second:1' }", "text/plain")
	if wait := again.proxy.parent.look(t.Context()); wait != 5*time.Minute {
		t.Errorf("the next look is in %v", wait)
	}
	if got := browser(t, serve(again).Body.Bytes())("http://x.example/"); got != "PROXY second:1" {
		t.Error(got)
	}
	c2 := *c
	c2.PAC.Parent = "http://other.corp.example/proxy.pac"
	if err := reconfigure(again.proxy, &c2); err != nil {
		t.Fatal(err)
	}
	if w := serve(again); w.Code != http.StatusServiceUnavailable {
		t.Errorf("another URL's copy is served: %d", w.Code)
	}
}

func TestParentCopyBroken(t *testing.T) {
	c := parentConfig(t)
	for _, text := range []string{"", "x", copyHead(c, ""), copyHead(c, "utf-8") + "<html>", "hafen pac-parent 1 0000 \nfunction FindProxyForURL(){}"} {
		if err := os.WriteFile(copyFile(c), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if p, _ := readCopy(c); p != nil {
			t.Errorf("%q is a copy", text)
		}
		r := newRig(t, func(o *Options) {
			o.Config = c
			o.DialParent = func(context.Context, string, string) (net.Conn, error) { return nil, fmt.Errorf("no") }
		})
		if r.proxy.parent.current() != nil {
			t.Errorf("%q is served", text)
		}
	}
}

func TestParentFile(t *testing.T) {
	c := testConfig()
	c.PAC.Otherwise, c.PAC.ParentFile = "", filepath.Join(t.TempDir(), "corp.pac")
	write := func(text string) {
		if err := os.WriteFile(c.PAC.ParentFile, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("<html>")
	if _, err := New(Options{Config: c, Dial: (&rig{}).dial}); err == nil || !strings.Contains(err.Error(), "pac.parent_file") {
		t.Errorf("%v", err)
	}
	write("function FindProxyForURL(u, h) { return 'PROXY first:1' }")
	r := newRig(t, func(o *Options) { o.Config = c })
	write("function FindProxyForURL(u, h) { return 'PROXY second:1' }")
	r.proxy.parent.look(t.Context())
	if p := r.proxy.parent.current(); !strings.Contains(string(p.Text), "second") {
		t.Error("a changed file is not read again")
	}
	write("")
	r.proxy.parent.look(t.Context())
	if p := r.proxy.parent.current(); !strings.Contains(string(p.Text), "second") {
		t.Error("an empty file took the place of a good one")
	}
	if err := reconfigure(r.proxy, c); err == nil {
		t.Error("a broken file is taken for a configuration")
	}
}

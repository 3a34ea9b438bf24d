package page

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// get asks a real server and gives its answer with the body read.
func get(t *testing.T, h http.Handler, path string, header ...string) (*http.Response, string) {
	t.Helper()
	srv := httptest.NewServer(h)
	defer srv.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, srv.URL+path, nil)
	must(t, err)
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	client := srv.Client()
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp, err := client.Do(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	must(t, err)
	return resp, string(body)
}

func front(t *testing.T, site Site) http.Handler {
	t.Helper()
	h, err := Front(func(*http.Request) Site { return site })
	must(t, err)
	return h
}

func TestAbuse_F09_HeadersAreTheSameOnEveryAnswer(t *testing.T) {
	mux := http.NewServeMux()
	mux.Handle("/", front(t, Site{}))
	mux.Handle(AssetPath, Assets())
	mux.Handle("/secured", Secure(http.NotFoundHandler()))
	mux.HandleFunc("/plain", func(w http.ResponseWriter, _ *http.Request) { Plain(w, http.StatusTeapot, "Tea.") })
	mux.HandleFunc("/refused", func(w http.ResponseWriter, r *http.Request) { Refused(w, r, netip.Addr{}, "") })
	want := http.Header{}
	Headers(want)
	set, err := own()
	must(t, err)
	for _, path := range []string{"/", "/nowhere", "/secured", "/plain", "/refused", AssetPath + "nothing", set.URL("style.css"), "/favicon.ico"} {
		resp, _ := get(t, mux, path, "Accept", "text/html")
		for name := range want {
			if name == "Cache-Control" && resp.StatusCode == http.StatusOK && strings.HasPrefix(path, AssetPath) {
				continue
			}
			if got := resp.Header.Values(name); !slices.Equal(got, want[name]) {
				t.Errorf("%s: %s is %q, want %q", path, name, got, want[name])
			}
		}
	}
	for _, bad := range []string{"unsafe", "http:", "https:", "*", "data:"} {
		if strings.Contains(want.Get("Content-Security-Policy"), bad) {
			t.Errorf("the policy allows %s", bad)
		}
	}
}

// inline finds what the policy would stop, and what would come from elsewhere.
var inline = regexp.MustCompile(`(?i)<script(?:[^>]*[^>]src=)?[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=|(?:src|href)="?(?:https?:|//)|javascript:`)

func TestFrontDoor(t *testing.T) {
	h := front(t, Site{Name: `Klinik <b>am</b> See`, Help: "Tel. 4711 & Haus B"})
	resp, body := get(t, h, "/")
	if resp.StatusCode != http.StatusOK {
		t.Fatal(resp.Status)
	}
	for _, want := range []string{`href="/precall/"`, `href="/status/"`, "Klinik &lt;b&gt;am&lt;/b&gt; See", "Tel. 4711 &amp; Haus B", `<html lang="en" dir="ltr">`} {
		if !strings.Contains(body, want) {
			t.Errorf("no %s in the page", want)
		}
	}
	if found := inline.FindString(body); found != "" {
		t.Errorf("the page holds %q", found)
	}
	resp, body = get(t, h, "/", "Accept-Language", "xx, de-CH;q=0.9, en;q=0.5")
	if !strings.Contains(body, `<html lang="de"`) || !strings.Contains(body, "Verbindung testen") || resp.Header.Get("Set-Cookie") != "" {
		t.Errorf("not in German, or with a cookie nobody asked for: %s", resp.Header)
	}
	resp, _ = get(t, h, "/?lang=de")
	if c := resp.Header.Get("Set-Cookie"); !strings.HasPrefix(c, "hafen_lang=de;") || !strings.Contains(c, "HttpOnly") {
		t.Errorf("the choice is not kept: %q", c)
	}
	if resp, _ = get(t, h, "/nothing"); resp.StatusCode != http.StatusNotFound {
		t.Errorf("a page that does not exist: %s", resp.Status)
	}
}

func TestMethods(t *testing.T) {
	srv := httptest.NewServer(front(t, Site{}))
	defer srv.Close()
	for method, status := range map[string]int{http.MethodPost: 405, http.MethodDelete: 405, http.MethodHead: 200} {
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+"/", nil)
		must(t, err)
		resp, err := srv.Client().Do(req)
		must(t, err)
		_ = resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", method, resp.StatusCode, status)
		}
	}
}

func TestAccepted(t *testing.T) {
	languages := []string{"de", "en"}
	for header, want := range map[string]string{
		"":                                 "en",
		"de":                               "de",
		"DE-at":                            "de",
		"fr":                               "en",
		"fr;q=1, de;q=0.3":                 "de",
		"en;q=0.4,de;q=0.5":                "de",
		"en,de":                            "en",
		"de;q=0":                           "en",
		"de;q=x":                           "en",
		"de;q=9":                           "en",
		strings.Repeat("xx,", 1000) + "de": "en",
		"*":                                "en",
		`"><script>`:                       "en",
	} {
		if got := accepted(header, languages); got != want {
			t.Errorf("%.40q: %s, want %s", header, got, want)
		}
	}
}

// TestLanguageByItsFirstPart: a country's form of a language asks for the one form there is.
func TestLanguageByItsFirstPart(t *testing.T) {
	languages := []string{"ar", "en", "pt", "zh-Hans"}
	for header, want := range map[string]string{"zh-CN,zh;q=0.9": "zh-Hans", "zh": "zh-Hans", "pt-BR": "pt", "ar-EG, en;q=0.5": "ar", "ja": "en"} {
		if got := accepted(header, languages); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
}

func TestLanguageOrder(t *testing.T) {
	languages := []string{"de", "en"}
	r := httptest.NewRequest(http.MethodGet, "/?lang=de", nil)
	r.Header.Set("Accept-Language", "en")
	if Language(r, languages) != "de" {
		t.Error("what is asked for comes first")
	}
	r = httptest.NewRequest(http.MethodGet, "/?lang=xx", nil)
	r.AddCookie(&http.Cookie{Name: languageCookie, Value: "de"})
	if Language(r, languages) != "de" {
		t.Error("then what was chosen before")
	}
	r = httptest.NewRequest(http.MethodGet, "/", nil)
	r.AddCookie(&http.Cookie{Name: languageCookie, Value: "../../x"})
	if Language(r, languages) != Fallback {
		t.Error("a cookie with nonsense chose something")
	}
}

func TestOwnMessagesAreWhole(t *testing.T) {
	texts, err := LoadTexts(web, "web/messages.*.json")
	must(t, err)
	used, err := KeysIn(web, "web/*.html")
	must(t, err)
	// Titles are handed over in Go; the texts of refusals are chosen by a variable.
	used = append(used, "front.title", "missing.title", "refused.title", "refused.address", "refused.ask", "refused.call")
	for _, p := range texts.Problems(used) {
		t.Error(p)
	}
}

func TestProblemsAreFound(t *testing.T) {
	fsys := fstest.MapFS{
		"m.en.json": {Data: []byte(`{"a": "A {x}", "b": "B", "unused": "U"}`)},
		"m.de.json": {Data: []byte(`{"a": "A {y}", "b": "", "more": "M"}`)},
		"x.html":    {Data: []byte(`{{.T "a" "x" 1}} {{$.T "b"}} {{.T "gone"}}`)},
	}
	texts, err := LoadTexts(fsys, "m.*.json")
	must(t, err)
	used, err := KeysIn(fsys, "x.html")
	must(t, err)
	want := []string{
		"de: a: fills in [{y}], en fills in [{x}]", "de: b: empty", "de: more: not in en", "de: unused: missing",
		"gone: used, but there is no message", "unused: a message that nothing uses",
	}
	if got := texts.Problems(used); !slices.Equal(got, want) {
		t.Errorf("got %q", got)
	}
	if got := texts.T("fr", "a", "x", 7); got != "A 7" {
		t.Errorf("the fallback says %q", got)
	}
	if _, err := LoadTexts(fstest.MapFS{"m.de.json": {Data: []byte(`{}`)}}, "m.*.json"); err == nil {
		t.Error("texts without English were taken")
	}
	if _, err := LoadTexts(fstest.MapFS{"m.en.json": {Data: []byte(`{"a": 1}`)}}, "m.*.json"); err == nil {
		t.Error("a message that is a number was taken")
	}
}

func TestFileSet(t *testing.T) {
	fsys := fstest.MapFS{
		"w/a.js":            {Data: []byte("1")},
		"w/secret.html":     {Data: []byte("template")},
		"w/m.en.json":       {Data: []byte("{}")},
		"w/sub/picture.svg": {Data: []byte("<svg/>")},
	}
	set, err := NewFileSet(fsys, "w", "/x/assets/")
	must(t, err)
	resp, body := get(t, set, set.URL("a.js"))
	if resp.StatusCode != http.StatusOK || body != "1" || resp.Header.Get("Content-Type") != "text/javascript; charset=utf-8" ||
		!strings.Contains(resp.Header.Get("Cache-Control"), "immutable") {
		t.Errorf("%s %q %v", resp.Status, body, resp.Header)
	}
	if resp, _ := get(t, set, set.URL("sub/picture.svg")); resp.StatusCode != http.StatusOK {
		t.Error(resp.Status)
	}
	if set.URL("secret.html") != "" || set.URL("m.en.json") != "" {
		t.Error("a template or messages count as assets")
	}
	prefix := strings.TrimSuffix(set.URL("a.js"), "a.js")
	for _, path := range []string{"/x/assets/a.js", prefix, prefix + "secret.html", prefix + "../w/a.js", prefix + "%2e%2e/a.js"} {
		if resp, _ := get(t, set, path); resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, resp.Status)
		}
	}
	before := set.URL("a.js")
	fsys["w/sub/picture.svg"].Data = []byte("<svg />")
	if set, err = NewFileSet(fsys, "w", "/x/assets/"); err != nil || set.URL("a.js") == before {
		t.Error("another picture, the same address:", err)
	}
}

func TestRefused(t *testing.T) {
	client := netip.MustParseAddr("::ffff:203.0.113.9")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { Refused(w, r, client, `the "desk" <4711>`) })
	resp, first := get(t, h, "/")
	if resp.StatusCode != http.StatusForbidden || !strings.Contains(first, "203.0.113.9") || !strings.Contains(first, `the "desk" <4711>`) {
		t.Errorf("%s %q", resp.Status, first)
	}
	if _, other := get(t, h, "/status/api/snapshot?x=1"); other != first {
		t.Errorf("the answer tells what is here: %q", other)
	}
	_, html := get(t, h, "/", "Accept", "text/html", "Accept-Language", "de")
	if !strings.Contains(html, "&lt;4711&gt;") || strings.Contains(html, "<4711>") || !strings.Contains(html, "bedient Ihre Adresse 203.0.113.9 nicht") {
		t.Errorf("the page: %s", html)
	}
	if text := RefusedText(netip.Addr{}, " "); !strings.Contains(text, "administrator") {
		t.Error(text)
	}
}

func TestRenderIsWholeOrNotAtAll(t *testing.T) {
	fsys := fstest.MapFS{
		"bad.html":  {Data: []byte(`{{define "main"}}before{{.Data.Nothing}}{{end}}`)},
		"m.en.json": {Data: []byte(`{"t": "T"}`)},
	}
	texts, err := LoadTexts(fsys, "m.*.json")
	must(t, err)
	tpl, err := Parse(fsys, texts, "bad.html")
	must(t, err)
	resp, body := get(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		tpl.Render(w, r, View{Title: "t", Data: struct{}{}})
	}), "/")
	if resp.StatusCode != http.StatusInternalServerError || strings.Contains(body, "before") {
		t.Errorf("%s %q", resp.Status, body)
	}
}

func TestNumbers(t *testing.T) {
	for got, want := range map[string]string{
		Number("de", 1.5, 1): "1,5", Number("en", 1.5, 1): "1.5", Rate("de", 1_250_000): "1,2 Mbit/s", Rate("en", 0): "0 kbit/s",
		Rate("en", 2.5e9): "2.5 Gbit/s", Bytes("en", 1_500): "2 kB", Bytes("de", 3_400_000): "3,4 MB", Bytes("en", 7_200_000_000): "7.2 GB",
	} {
		if got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
}

func TestSignHasSixStrokes(t *testing.T) {
	svg, err := web.ReadFile("web/sign.svg")
	must(t, err)
	if n := bytes.Count(svg, []byte("<path")); n != 6 {
		t.Errorf("%d strokes", n)
	}
}

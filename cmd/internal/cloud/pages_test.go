package cloud

import (
	"io/fs"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func TestPagesInEveryLanguage(t *testing.T) {
	c := startCloud(t, Options{})
	for _, l := range languages() {
		for _, path := range []string{"", "r/harbour", "wait", "wait?name=Anna", "console"} {
			url := c.URL() + path + "?lang=" + l
			if strings.Contains(path, "?") {
				url = c.URL() + path + "&lang=" + l
			}
			code, body := get(t, url)
			if code != http.StatusOK || !strings.Contains(body, `<html lang="`+l+`"`) || !strings.HasSuffix(body, "</html>\n") {
				t.Errorf("%s in %s: %d %.80q", path, l, code, body)
			}
		}
	}
}

func TestLanguageOfTheBrowser(t *testing.T) {
	p, err := newPages()
	if err != nil {
		t.Fatal(err)
	}
	for header, want := range map[string]string{
		"": "en", "de-AT,de;q=0.9,en;q=0.8": "de", "fr,en;q=0.5": "en", "en-GB,de;q=0.5": "en", "ja": "en", ";;;": "en",
	} {
		r, _ := http.NewRequest(http.MethodGet, "/", nil)
		r.Header.Set("Accept-Language", header)
		if got := p.language(r); got != want {
			t.Errorf("%q: %s", header, got)
		}
	}
}

// Every language has the same sentences with the same blanks, and scripts ask for none that is missing.
func TestWordsAreComplete(t *testing.T) {
	p, err := newPages()
	if err != nil {
		t.Fatal(err)
	}
	blanks := regexp.MustCompile(`\{\w+\}`)
	for _, l := range languages() {
		for key, english := range p.words["en"] {
			sentence := p.words[l][key]
			got, want := blanks.FindAllString(sentence, -1), blanks.FindAllString(english, -1)
			slices.Sort(got)
			slices.Sort(want)
			if sentence == "" || !slices.Equal(got, want) {
				t.Errorf("%s in %s: %q", key, l, sentence)
			}
		}
		if len(p.words[l]) != len(p.words["en"]) {
			t.Errorf("%s has %d sentences, en %d", l, len(p.words[l]), len(p.words["en"]))
		}
	}
	asked := regexp.MustCompile(`\bt\([^)]*?'([a-z]+\.[\w.]+)'|'((?:media|wait|state|way|sig|kind|patient|console|ctl|pre)\.[\w.]+)'`)
	for name, script := range p.assets {
		for _, m := range asked.FindAllStringSubmatch(string(script), -1) {
			if key := m[1] + m[2]; p.words["en"][key] == "" && strings.HasSuffix(name, ".js") {
				t.Errorf("%s asks for %q", name, key)
			}
		}
	}
}

func TestAssets(t *testing.T) {
	c := startCloud(t, Options{})
	files, err := fs.Glob(web, "web/*.js")
	if err != nil || len(files) < 8 {
		t.Fatalf("%v %v", files, err)
	}
	for _, f := range files {
		if code, body := get(t, c.URL()+"assets/"+strings.TrimPrefix(f, "web/")); code != http.StatusOK || len(body) < 100 {
			t.Errorf("%s: %d", f, code)
		}
	}
	for _, f := range []string{"words.en.json", "call.html", "..%2fcloud.go"} {
		if code, _ := get(t, c.URL()+"assets/"+f); code != http.StatusNotFound {
			t.Errorf("%s: %d", f, code)
		}
	}
}

// What a stranger types is shown as text, and every page forbids scripts from elsewhere.
func TestPagesAreSafe(t *testing.T) {
	c := startCloud(t, Options{})
	_, body := get(t, c.URL()+`wait?name=%22%3E%3Cscript%3Ealert(1)%3C/script%3E`)
	if strings.Contains(body, "<script>alert") {
		t.Error("a name became a script")
	}
	for _, bad := range []string{"r/a%20b", "r/%22x", "wait?room=a%3Cb", "r/" + strings.Repeat("x", 65)} {
		if code, _ := get(t, c.URL()+bad); code != http.StatusNotFound {
			t.Errorf("%s: %d", bad, code)
		}
	}
	r, err := http.Get(c.URL() + "r/harbour")
	if err != nil {
		t.Fatal(err)
	}
	_ = r.Body.Close()
	if csp := r.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
		t.Errorf("policy: %q", csp)
	}
}

func TestNewRoomsCannotBeGuessed(t *testing.T) {
	c := startCloud(t, Options{})
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	seen := map[string]bool{}
	for range 20 {
		r, err := client.Get(c.URL() + "new")
		if err != nil {
			t.Fatal(err)
		}
		_ = r.Body.Close()
		where := r.Header.Get("Location")
		if !regexp.MustCompile(`^/r/\w{4}-\w{4}-\w{4}$`).MatchString(where) || seen[where] {
			t.Errorf("a new room: %q", where)
		}
		seen[where] = true
	}
	client.CloseIdleConnections()
}

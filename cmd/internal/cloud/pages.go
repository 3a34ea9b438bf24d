package cloud

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"golang.org/x/text/language"
)

// web holds the pages. They need no build step: what is here is what browsers get.
//
//go:embed web
var web embed.FS

// languages are those the pages speak; the first is for readers whose own is not among them.
func languages() []string { return []string{"en", "de"} }

const badRoom = "A room's name has letters, digits and dashes only, at most 64."

// pages renders the HTML in the reader's language and hands out scripts and styles.
type pages struct {
	templates *template.Template
	words     map[string]map[string]string // language → key → sentence
	match     language.Matcher
	assets    map[string][]byte
	version   string // changes with any asset
}

// view is what a template sees.
type view struct {
	Lang  string
	Room  string
	Name  string
	Words template.JS // the sentences that scripts need, as JSON
	words map[string]string
}

// T is the sentence of a key; templates of a missing key fail, and a test runs them all.
func (v view) T(key string) (string, error) {
	s, ok := v.words[key]
	if !ok {
		return "", fmt.Errorf("no sentence for %q in %q", key, v.Lang)
	}
	return s, nil
}

func newPages() (*pages, error) {
	p := &pages{words: map[string]map[string]string{}, assets: map[string][]byte{}}
	files, err := fs.Sub(web, "web")
	if err != nil {
		return nil, err
	}
	if p.templates, err = template.ParseFS(files, "*.html"); err != nil {
		return nil, err
	}
	var tags []language.Tag
	for _, l := range languages() {
		b, err := fs.ReadFile(files, "words."+l+".json")
		if err != nil {
			return nil, err
		}
		words := map[string]string{}
		if err := json.Unmarshal(b, &words); err != nil {
			return nil, fmt.Errorf("words of %q: %w", l, err)
		}
		p.words[l] = words
		tags = append(tags, language.Make(l))
	}
	p.match = language.NewMatcher(tags)
	return p, p.readAssets(files)
}

func (p *pages) readAssets(files fs.FS) error {
	sum := sha256.New()
	for _, pattern := range []string{"*.css", "*.js", "*.svg"} {
		names, err := fs.Glob(files, pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			b, err := fs.ReadFile(files, name)
			if err != nil {
				return err
			}
			p.assets[name] = b
			sum.Write(b)
		}
	}
	p.version = hex.EncodeToString(sum.Sum(nil))[:12]
	return nil
}

// show renders a page.
func (p *pages) show(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if room := r.FormValue("room"); room != "" && !plainWord(room) {
			http.Error(w, badRoom, http.StatusNotFound)
			return
		}
		p.render(w, r, name, view{Room: r.FormValue("room"), Name: cleanLabel(r.FormValue("name"))})
	}
}

func (p *pages) showRoom(w http.ResponseWriter, r *http.Request) {
	room := r.PathValue("room")
	if !plainWord(room) {
		http.Error(w, badRoom, http.StatusNotFound)
		return
	}
	p.render(w, r, "call", view{Room: room})
}

func (p *pages) render(w http.ResponseWriter, r *http.Request, name string, v view) {
	v.Lang = p.language(r)
	v.words = p.words[v.Lang]
	b, err := json.Marshal(v.words) // escapes < and >: safe inside a script element
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	v.Words = template.JS(b) //nolint:gosec // our own words, escaped
	var page bytes.Buffer
	if err := p.templates.ExecuteTemplate(&page, name+".html", v); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Language", v.Lang)
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("Vary", "Accept-Language")
	_, _ = w.Write(page.Bytes()) // the reader may be gone
}

// language is the one asked for by ?lang=, or else the browser's.
func (p *pages) language(r *http.Request) string {
	_, i := language.MatchStrings(p.match, r.FormValue("lang"), r.Header.Get("Accept-Language"))
	return languages()[i]
}

// asset serves a script or style. Browsers keep it but ask each time whether it is still the one: scripts of two
// versions must not meet.
func (p *pages) asset(w http.ResponseWriter, r *http.Request) {
	name := r.PathValue("file")
	b, ok := p.assets[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	types := map[string]string{".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
	w.Header().Set("Content-Type", types[path.Ext(name)]+"; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Etag", `"`+p.version+`"`)
	http.ServeContent(w, r, name, time.Time{}, strings.NewReader(string(b)))
}

// sign is the icon for browsers that ask for none in particular.
func (p *pages) sign(w http.ResponseWriter, r *http.Request) {
	r.SetPathValue("file", "sign.svg")
	p.asset(w, r)
}

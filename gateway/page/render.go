package page

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
)

// Site is the house a page is shown in, for the client that asks.
type Site struct {
	Name string // of the house; may be empty
	Help string // whom to call there; may be empty
	// StatusElsewhere: the status page is at another address, which is nobody's business here.
	StatusElsewhere bool
}

// View is what one answer shows.
type View struct {
	// Title is the key of the page's title.
	Title string
	Site  Site
	// Status is the HTTP status. 0: 200.
	Status int
	// Wide is for pages of cards; else there is one column.
	Wide bool
	// Styles and Modules are addresses of assets besides the shared stylesheet.
	Styles, Modules []string
	// Connect are the sources that the page's scripts may connect to besides the page's own.
	Connect []string
	// Self is the path of the language switch. "": the path that was asked for.
	Self string
	// Lang is the language. "": chosen by the request.
	Lang string
	Data any

	texts, frame *Texts
	assets       *FileSet
}

// Template is a page in the shared layout. It is made once and used by many requests at a time.
type Template struct {
	html         *template.Template
	texts, frame *Texts
	assets       *FileSet
}

// Parse reads templates that define "main", and what it includes, into the shared layout.
//
// In a template, `{{$.T "key" "name" value}}` is a message, `{{$.Data}}` what the caller handed over.
func Parse(fsys fs.FS, texts *Texts, patterns ...string) (*Template, error) {
	t, err := template.New("layout.html").Funcs(template.FuncMap{"sign": sign}).ParseFS(web, "web/layout.html")
	if err != nil {
		return nil, err
	}
	if t, err = t.ParseFS(fsys, patterns...); err != nil {
		return nil, err
	}
	frame, err := LoadTexts(web, "web/messages.*.json")
	if err != nil {
		return nil, err
	}
	assets, err := own()
	if err != nil {
		return nil, err
	}
	return &Template{html: t, texts: texts, frame: frame, assets: assets}, nil
}

// Render answers a request with the page.
func (t *Template) Render(w http.ResponseWriter, r *http.Request, v View) {
	languages := t.texts.Languages()
	v.Lang = cmp.Or(v.Lang, Language(r, languages))
	v.Self = cmp.Or(v.Self, r.URL.Path)
	remember(w, r, languages)
	t.write(w, r, "layout.html", v)
}

// Fragment answers with one named template alone, without the layout: for a script that puts it in place.
func (t *Template) Fragment(w http.ResponseWriter, r *http.Request, name string, v View) {
	v.Lang = cmp.Or(v.Lang, Language(r, t.texts.Languages()))
	t.write(w, r, name, v)
}

func (t *Template) write(w http.ResponseWriter, r *http.Request, name string, v View) {
	v.texts, v.frame, v.assets = t.texts, t.frame, t.assets
	var out bytes.Buffer // whole or not at all: no half page with status 200
	if err := t.html.ExecuteTemplate(&out, name, v); err != nil {
		Plain(w, http.StatusInternalServerError, fmt.Sprintf("This page can't be shown: %v", err))
		return
	}
	Headers(w.Header())
	if len(v.Connect) > 0 {
		w.Header().Set("Content-Security-Policy", policyWith(v.Connect))
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Add("Vary", "Accept-Language, Cookie")
	w.WriteHeader(cmp.Or(v.Status, http.StatusOK))
	if r.Method != http.MethodHead {
		_, _ = w.Write(out.Bytes()) // the reader may be gone
	}
}

// T is a message of the page, or of the layout around it, in the view's language.
func (v View) T(key string, pairs ...any) string {
	if v.texts.Has(key) {
		return v.texts.T(v.Lang, key, pairs...)
	}
	return v.frame.T(v.Lang, key, pairs...)
}

// Dir is the direction of writing.
func (v View) Dir() string { return direction(v.Lang) }

// Stylesheet and Favicon are the shared assets.
func (v View) Stylesheet() string { return v.assets.URL("style.css") }

// Favicon is the sign as a file.
func (v View) Favicon() string { return v.assets.URL("sign.svg") }

// Messages are the page's messages in the view's language as JSON, for its script: in a data attribute, since the policy
// allows no inline script.
func (v View) Messages() (string, error) {
	data, err := json.Marshal(v.texts.Messages(v.Lang))
	return string(data), err
}

// LanguageName is what the speakers of the view's language call it.
func (v View) LanguageName() string { return languageName(v.Lang) }

// LanguageLink is one entry of the language switch.
type LanguageLink struct {
	Lang, Name string
	Current    bool
}

// Languages are the entries of the language switch.
func (v View) Languages() []LanguageLink {
	var links []LanguageLink
	for _, lang := range v.texts.Languages() {
		links = append(links, LanguageLink{Lang: lang, Name: languageName(lang), Current: lang == v.Lang})
	}
	return links
}

// sign is the lighthouse, to be drawn in the page's own colours.
func sign() (template.HTML, error) {
	svg, err := fs.ReadFile(web, "web/sign.svg")
	return template.HTML(svg), err // a file of ours, not input
}

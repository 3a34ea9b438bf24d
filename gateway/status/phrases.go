package status

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"
)

// phrases translate what the gateway's parts say for the administrator. They say it in English, in sentences that logs,
// the terminal and machines show as they are; a phrase book has each of them for another language:
//
//	"No relay of {service} can be reached": "Kein Relay von {service} ist erreichbar"
//
// A {name} stands for any text, and is itself translated where it is a phrase. What is in no book stays English.
type phrases struct {
	books map[string][]phrase // by language
}

// phrase is one entry of a book.
type phrase struct {
	english *regexp.Regexp
	prefix  string // what every match begins with: most phrases are told apart by it
	names   []string
	other   string
}

// maxPhrase bounds what is looked up: sentences are short, and what is longer is not ours.
const maxPhrase = 1000

func loadPhrases(fsys fs.FS, pattern string) (*phrases, error) {
	files, err := fs.Glob(fsys, pattern)
	if err != nil {
		return nil, err
	}
	p := &phrases{books: make(map[string][]phrase)}
	for _, name := range files {
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		var entries [][2]string
		if err := json.Unmarshal(data, &entries); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		lang := strings.Split(name, ".")
		for _, e := range entries {
			p.books[lang[len(lang)-2]] = append(p.books[lang[len(lang)-2]], newPhrase(e[0], e[1]))
		}
	}
	return p, nil
}

var blank = regexp.MustCompile(`\{[a-z]+\}`)

func newPhrase(english, other string) phrase {
	var b strings.Builder
	p := phrase{other: other}
	rest := english
	for at := blank.FindStringIndex(rest); at != nil; at = blank.FindStringIndex(rest) {
		b.WriteString(regexp.QuoteMeta(rest[:at[0]]) + "(.*?)")
		p.names = append(p.names, rest[at[0]:at[1]])
		rest = rest[at[1]:]
	}
	p.prefix, _, _ = strings.Cut(english, "{")
	p.english = regexp.MustCompile("^" + b.String() + regexp.QuoteMeta(rest) + "$")
	return p
}

// in gives a sentence in a language.
func (p *phrases) in(lang, text string) string {
	book := p.books[lang]
	if len(book) == 0 || text == "" || len(text) > maxPhrase {
		return text
	}
	return translate(book, text, 6)
}

// translate looks for a phrase that is the whole text, then for the parts of a list. depth bounds phrases in phrases.
func translate(book []phrase, text string, depth int) string {
	if depth == 0 {
		return text
	}
	for _, p := range book {
		if !strings.HasPrefix(text, p.prefix) {
			continue
		}
		found := p.english.FindStringSubmatch(text)
		if found == nil {
			continue
		}
		var fill []string
		for i, name := range p.names {
			fill = append(fill, name, translate(book, found[i+1], depth-1))
		}
		return strings.NewReplacer(fill...).Replace(p.other)
	}
	parts := strings.Split(text, "; ")
	if len(parts) == 1 {
		return text
	}
	for i, part := range parts {
		parts[i] = translate(book, part, depth-1)
	}
	return strings.Join(parts, "; ")
}

// languages are those that there is a book for, and English.
func (p *phrases) languages() []string {
	all := []string{"en"}
	for lang := range p.books {
		all = append(all, lang)
	}
	slices.Sort(all)
	return all
}

// in gives the snapshot in a language: a copy, since all readers share one.
func (s Snapshot) in(p *phrases, lang string) Snapshot {
	if len(p.books[lang]) == 0 {
		return s
	}
	say := func(texts ...*string) {
		for _, t := range texts {
			*t = p.in(lang, *t)
		}
	}
	say(&s.Sentence, &s.Advice)
	s.Faults = each(s.Faults, func(f *Fault) { say(&f.Sentence, &f.Advice, &f.Works) })
	s.Services = each(s.Services, func(svc *Service) {
		svc.Regions = each(svc.Regions, func(r *Region) { r.Rungs = each(r.Rungs, func(g *Rung) { say(&g.Why) }) })
	})
	s.CallServers = each(s.CallServers, func(c *CallServer) { say(&c.Why) })
	s.Certificates = each(s.Certificates, func(c *Certificate) { say(&c.Problem) })
	s.Events = each(s.Events, func(e *Event) { say(&e.Sentence, &e.Advice) })
	s.Peers = each(s.Peers, func(p *Peer) { say(&p.Sentence) })
	s.SelfTests = each(s.SelfTests, func(t *SelfTest) { say(&t.Sentence, &t.Advice, &t.Works) })
	return s
}

// each copies a list and changes the copy.
func each[T any](list []T, change func(*T)) []T {
	list = slices.Clone(list)
	for i := range list {
		change(&list[i])
	}
	return list
}

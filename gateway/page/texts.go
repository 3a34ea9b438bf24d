package page

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
)

// Texts are the messages of one package in every language: files named messages.LANGUAGE.json, each one flat object of
// keys and sentences. {name} in a sentence is filled in by T.
type Texts struct {
	byLang map[string]map[string]string
}

// Fallback is the language that every set of texts must have.
const Fallback = "en"

// LoadTexts reads the files that match the pattern.
func LoadTexts(fsys fs.FS, pattern string) (*Texts, error) {
	names, err := fs.Glob(fsys, pattern)
	if err != nil {
		return nil, err
	}
	t := &Texts{byLang: map[string]map[string]string{}}
	for _, name := range names {
		lang := strings.Split(path.Base(name), ".")
		data, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		messages := map[string]string{}
		if err := json.Unmarshal(data, &messages); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		t.byLang[lang[len(lang)-2]] = messages
	}
	if t.byLang[Fallback] == nil {
		return nil, fmt.Errorf("no messages in %q match %s", Fallback, pattern)
	}
	return t, nil
}

// Languages are the languages there are messages in, in alphabetical order.
func (t *Texts) Languages() []string { return slices.Sorted(maps.Keys(t.byLang)) }

// Messages are all messages of a language, for a script; English ones where it lacks some.
func (t *Texts) Messages(lang string) map[string]string {
	all := maps.Clone(t.byLang[Fallback])
	maps.Copy(all, t.byLang[t.known(lang)])
	return all
}

func (t *Texts) known(lang string) string {
	if t.byLang[lang] == nil {
		return Fallback
	}
	return lang
}

// T is the message of a key in a language, with its {names} replaced by pairs of name and value. What a language lacks is said
// in English, and a key without any message gives the key itself: a test of Problems keeps both from happening.
func (t *Texts) T(lang, key string, pairs ...any) string {
	text := cmp.Or(t.byLang[t.known(lang)][key], t.byLang[Fallback][key], key)
	if len(pairs) < 2 {
		return text
	}
	args := make([]string, 0, len(pairs))
	for i := 0; i+1 < len(pairs); i += 2 {
		args = append(args, fmt.Sprintf("{%v}", pairs[i]), fmt.Sprint(pairs[i+1]))
	}
	return strings.NewReplacer(args...).Replace(text)
}

// Has reports whether there is a message for a key.
func (t *Texts) Has(key string) bool { return t.byLang[Fallback][key] != "" }

var placeholder = regexp.MustCompile(`\{[a-zA-Z]+\}`)

// Problems names, for a test, each key that is used but missing, present but unused, missing in one language, empty, or
// that fills in other names in one language than in another.
func (t *Texts) Problems(used []string) []string {
	var problems []string
	add := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	base := t.byLang[Fallback]
	for _, key := range used {
		if base[key] == "" {
			add("%s: used, but there is no message", key)
		}
	}
	for key := range base {
		if !slices.Contains(used, key) {
			add("%s: a message that nothing uses", key)
		}
	}
	for lang, messages := range t.byLang {
		for key, text := range messages {
			switch english, ok := base[key]; {
			case text == "":
				add("%s: %s: empty", lang, key)
			case !ok:
				add("%s: %s: not in %s", lang, key, Fallback)
			case !slices.Equal(placeholders(text), placeholders(english)):
				add("%s: %s: fills in %v, %s fills in %v", lang, key, placeholders(text), Fallback, placeholders(english))
			}
		}
		for key := range base {
			if _, ok := messages[key]; !ok {
				add("%s: %s: missing", lang, key)
			}
		}
	}
	slices.Sort(problems)
	return problems
}

func placeholders(text string) []string {
	return slices.Compact(slices.Sorted(slices.Values(placeholder.FindAllString(text, -1))))
}

// call finds the keys in templates (.T "key"), in Go (T(lang, "key")) and in scripts (t('key'), t("key")).
var call = regexp.MustCompile(`\.T "([a-z0-9.:-]+)"|\bT\([a-zA-Z.]+, "([a-z0-9.:-]+)"|\bt\(["']([a-z0-9.:-]+)["']`)

// KeysIn finds, for a test, the keys that the files matching the patterns use literally. Keys that are put together at
// run time the test adds itself.
func KeysIn(fsys fs.FS, patterns ...string) ([]string, error) {
	var keys []string
	for _, pattern := range patterns {
		names, err := fs.Glob(fsys, pattern)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			data, err := fs.ReadFile(fsys, name)
			if err != nil {
				return nil, err
			}
			for _, m := range call.FindAllSubmatch(data, -1) {
				keys = append(keys, string(slices.Concat(m[1:]...)))
			}
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys), nil
}

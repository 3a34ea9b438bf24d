// Package canary finds secrets where they must not be. The suites that run the program put strings of their own into its secret places,
// name them to a Registry, and have it search all that the program says:
//
//	secrets := canary.New()
//	password := secrets.Make("the proxy's password") // goes into the configuration
//	secrets.Search(t, "the log", log)                // fails t if it is in there, whatever the encoding
//	os.Exit(secrets.End(code, canary.Whole()))       // how much was searched
//
// A secret is looked for in two halves, each by itself: a line that is broken within it, or an end that is cut off, hides one half at
// most. What a text is there to hand out (a cookie, a minted password) is named with it, and is a secret to all other texts.
//
// What is compressed or encrypted, or encoded twice, is not found; Archive opens a support bundle.
package canary

import (
	"bytes"
	"crypto/rand"
	"flag"
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// shortest is the least length of what is looked for. Shorter ones turn up by chance.
const shortest = 12

// Mark begins the message of every find.
const Mark = "SECRET FOUND"

// Registry knows the secrets of a test process.
type Registry struct {
	mu       sync.RWMutex
	names    map[string]string // secret → its name
	starts   map[uint64][]pattern
	filter   filter
	patterns int

	texts, bytes, took, found, strays atomic.Int64
	others                            totals // of the processes that Join was told of
}

// pattern is half a secret in one encoding.
type pattern struct{ text, encoding, secret string }

// New makes one that knows nothing.
func New() *Registry {
	return &Registry{names: make(map[string]string), starts: make(map[uint64][]pattern)}
}

// Make makes a secret of 32 letters and digits. name is what messages call it.
func (r *Registry) Make(name string) string {
	return r.Add(name, rand.Text()[:16]+strings.ToLower(rand.Text()[:16]))
}

// Add takes in a secret and gives it back.
func (r *Registry) Add(name, secret string) string {
	if len(secret) < shortest {
		panic(fmt.Sprintf("canary: %s has %d bytes, and less than %d turn up by chance", name, len(secret), shortest))
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.names[secret]; !known {
		r.names[secret] = name
		for _, half := range halves(secret) {
			for text, encoding := range encodings(half) {
				r.look(pattern{text, encoding, secret})
			}
		}
	}
	return secret
}

// look has a pattern looked for. It needs the lock.
func (r *Registry) look(p pattern) {
	at := window(p.text)
	r.starts[at] = append(r.starts[at], p)
	r.filter.set(at)
	r.patterns++
}

// halves cuts a secret in two, unless they would be too short.
func halves(secret string) []string {
	if len(secret) < 2*shortest {
		return []string{secret}
	}
	return []string{secret[:len(secret)/2], secret[len(secret)/2:]}
}

// Search fails the test if a secret is in the text, and names it without showing it. handsOut are secrets that this text, and no other,
// is there to tell. t may be nil: then End fails the suite.
func (r *Registry) Search(t testing.TB, where, text string, handsOut ...string) {
	if t != nil {
		t.Helper()
	}
	began := time.Now()
	finds := r.search(text)
	r.took.Add(int64(time.Since(began)))
	r.texts.Add(1)
	r.bytes.Add(int64(len(text)))
	for _, secret := range slices.Sorted(maps.Keys(finds)) {
		if !slices.Contains(handsOut, secret) {
			r.report(t, where, text, finds[secret])
		}
	}
	for _, secret := range handsOut {
		r.Add("what was handed out by "+where, secret)
	}
}

// search gives the first place of each secret in the text, and how often it is there.
func (r *Registry) search(text string) map[string]*find {
	r.mu.RLock()
	defer r.mu.RUnlock()
	finds := make(map[string]*find)
	for i := r.filter.next(text, 0); i >= 0; i = r.filter.next(text, i+1) {
		for _, p := range r.starts[window(text[i:])] {
			switch {
			case !strings.HasPrefix(text[i:], p.text):
			case finds[p.secret] == nil:
				finds[p.secret] = &find{p, r.names[p.secret], i, 1}
			case finds[p.secret].text == p.text:
				finds[p.secret].times++
			}
		}
	}
	return finds
}

// find is a secret that is in a text.
type find struct {
	pattern
	name  string
	at    int
	times int
}

func (r *Registry) report(t testing.TB, where, text string, f *find) {
	if t != nil {
		t.Helper()
	}
	r.found.Add(1)
	const around = 100
	said := fmt.Sprintf("%s: %s holds %s (%s), %d times, behind %q", Mark, where, f.name, f.encoding, f.times, r.Hide(text[max(0, f.at-around):f.at]))
	if t == nil {
		r.strays.Add(1)
		fmt.Println(said)
		return
	}
	t.Error(said)
}

// Hide cuts the secrets out of a text.
func (r *Registry) Hide(text string) string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var b strings.Builder
	done := 0
	for i := r.filter.next(text, 0); i >= 0; i = r.filter.next(text, max(i+1, done)) {
		for _, p := range r.starts[window(text[i:])] {
			if i >= done && strings.HasPrefix(text[i:], p.text) {
				b.WriteString(text[done:i] + "[" + r.names[p.secret] + "]")
				done = i + len(p.text)
			}
		}
	}
	return b.String() + text[done:]
}

// totals are what a process has searched.
type totals struct{ secrets, patterns, texts, bytes, found int64 }

const summary = "canary: %d secrets in %d forms were looked for in %d texts of %d bytes; %d found"

var summaries = regexp.MustCompile(`(?m)^canary: \d+ secrets in .*$`)

// Join adds what another process of the suite has said at its end.
func (r *Registry) Join(output []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, line := range summaries.FindAll(output, -1) {
		var o totals
		if n, _ := fmt.Sscanf(string(line), summary, &o.secrets, &o.patterns, &o.texts, &o.bytes, &o.found); n == 5 {
			r.others = totals{
				r.others.secrets + o.secrets, r.others.patterns + o.patterns, r.others.texts + o.texts, r.others.bytes + o.bytes, r.others.found + o.found,
			}
		}
	}
}

// Leaked reports whether a process of the suite has found a secret.
func Leaked(output []byte) bool { return bytes.Contains(output, []byte(Mark)) }

// End says how much was searched, and gives the suite's exit code: a suite that ran whole and has looked for nothing, or in nothing, has
// failed.
func (r *Registry) End(w io.Writer, code int, whole bool) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	all := totals{
		int64(len(r.names)) + r.others.secrets, int64(r.patterns) + r.others.patterns,
		r.texts.Load() + r.others.texts, r.bytes.Load() + r.others.bytes, r.found.Load() + r.others.found,
	}
	fmt.Fprintf(w, summary+" (%v in this process)\n", all.secrets, all.patterns, all.texts, all.bytes, all.found, time.Duration(r.took.Load()).Round(time.Millisecond))
	nothing := whole && (all.secrets == 0 || all.texts == 0 || all.bytes == 0)
	if code == 0 && (nothing || r.strays.Load() > 0) {
		return 1
	}
	return code
}

// Whole reports whether all tests were asked for.
func Whole() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f == nil || f.Value.String() != "" {
			return false
		}
	}
	return true
}

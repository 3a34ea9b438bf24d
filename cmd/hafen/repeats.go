package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"
)

// repeats keeps a log readable when one thing goes wrong over and over: of lines about failures that say the same, the first few of a
// minute are written, and at its end how many more there were. Lines about what went well are all written.
type repeats struct {
	slog.Handler
	tally *tally
	with  string // what With has added: part of what a line says
}

const (
	// freeRepeats of a line are written each minute.
	freeRepeats = 10
	// maxRepeats bounds the lines that are remembered; of more, all are written.
	maxRepeats = 1000
	// maxLineKey bounds what of a line tells it from others.
	maxLineKey = 400
	// repeatsTime is the minute.
	repeatsTime = time.Minute
)

func newRepeats(h slog.Handler) repeats {
	return repeats{Handler: h, tally: &tally{lines: make(map[string]*repeated)}}
}

// Handle writes the line, or counts it.
func (h repeats) Handle(ctx context.Context, r slog.Record) error {
	key := h.key(r)
	if key == "" || h.tally.admit(key, h.Handler, r) {
		return h.Handler.Handle(ctx, r)
	}
	return nil
}

// WithAttrs and WithGroup keep what they add in the key.
func (h repeats) WithAttrs(attrs []slog.Attr) slog.Handler {
	return repeats{h.Handler.WithAttrs(attrs), h.tally, h.with + fmt.Sprint(attrs)}
}

// WithGroup opens a group.
func (h repeats) WithGroup(name string) slog.Handler {
	return repeats{h.Handler.WithGroup(name), h.tally, h.with + "/" + name}
}

// key is what a line about a failure says: its message and its words, but no numbers: how long something took, how many bytes came,
// from which port. "" for a line that is about no failure.
func (h repeats) key(r slog.Record) string {
	var b strings.Builder
	b.WriteString(h.with + r.Message)
	failure := r.Level >= slog.LevelWarn
	r.Attrs(func(a slog.Attr) bool {
		switch v := a.Value.Resolve(); {
		case a.Key == "status":
			failure = failure || v.String() != "ok"
			b.WriteString(" " + v.String())
		case a.Key == "err" || a.Key == "why":
			b.WriteString(" " + strings.Map(noDigit, v.String()))
		case a.Key == "id" || a.Key == "conn" || a.Key == "incident" || a.Key == "code" || a.Key == "stack":
		case v.Kind() == slog.KindString:
			b.WriteString(" " + a.Key + "=" + v.String())
		}
		return true
	})
	if !failure {
		return ""
	}
	return b.String()[:min(b.Len(), maxLineKey)]
}

func noDigit(r rune) rune {
	if r >= '0' && r <= '9' {
		return -1
	}
	return r
}

// tally counts lines.
type tally struct {
	mu    sync.Mutex
	lines map[string]*repeated
}

type repeated struct {
	count int
	out   slog.Handler
	last  slog.Record
}

// admit reports whether a line is to be written.
func (t *tally) admit(key string, out slog.Handler, r slog.Record) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	line := t.lines[key]
	if line == nil {
		if len(t.lines) >= maxRepeats {
			return true
		}
		line = &repeated{}
		t.lines[key] = line
		time.AfterFunc(repeatsTime, func() { t.sum(key) })
	}
	line.count++
	if line.count <= freeRepeats {
		return true
	}
	line.out, line.last = out, r.Clone()
	return false
}

// sum says how many lines of a key were not written, and begins anew.
func (t *tally) sum(key string) {
	t.mu.Lock()
	line := t.lines[key]
	delete(t.lines, key)
	t.mu.Unlock()
	if line != nil && line.count > freeRepeats {
		line.write()
	}
}

// flush says it of all keys now: the program ends.
func (t *tally) flush() {
	t.mu.Lock()
	keys := make([]string, 0, len(t.lines))
	for key := range t.lines {
		keys = append(keys, key)
	}
	t.mu.Unlock()
	for _, key := range keys {
		t.sum(key)
	}
}

// write is the last of the lines, with how many it stands for.
func (line *repeated) write() {
	more := line.count - freeRepeats
	r := slog.NewRecord(time.Now(), line.last.Level, fmt.Sprintf("%s … %d more in the last minute", line.last.Message, more), 0)
	line.last.Attrs(func(a slog.Attr) bool {
		r.AddAttrs(a)
		return true
	})
	r.AddAttrs(slog.Int("repeats", more))
	_ = line.out.Handle(context.Background(), r) // a log that can't be written has nobody to tell
}

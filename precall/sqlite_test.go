package precall

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAbuse_J14: a file that a newer version has marked as its own is neither read nor changed. What that means is said once, and a
// new history begins when the file is moved away.
func TestAbuse_J14(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, storeFile)
	s := OpenStore(StoreOptions{Dir: dir})
	must(t, s.Put(t.Context(), run("OLD", time.Now())))
	s.mu.Lock()
	_, err := s.db.ExecContext(t.Context(), `PRAGMA user_version = 1`)
	s.mu.Unlock()
	must(t, errors.Join(err, s.Close()))
	before, err := os.ReadFile(path)
	must(t, err)

	var events []string
	s = openStore(t, StoreOptions{Dir: dir, History: time.Nanosecond, Event: func(kind, sentence, advice string) {
		events = append(events, kind+": "+sentence+" "+advice)
	}})
	if err := s.Put(t.Context(), run("NEW", time.Now())); !errors.Is(err, errNewer) {
		t.Error("kept in a file of a newer version:", err)
	}
	if _, err := s.ByCode(t.Context(), "OLD"); !errors.Is(err, errNewer) {
		t.Error("read from a file of a newer version:", err)
	}
	s.Sweep(t.Context())
	after, err := os.ReadFile(path)
	must(t, err)
	files, err := os.ReadDir(dir)
	must(t, err)
	if !bytes.Equal(before, after) || len(files) != 1 {
		t.Errorf("the file was changed, or others made: %v", files)
	}
	if len(events) != 1 || !strings.HasPrefix(events[0], EventStoreFails+": ") || !strings.Contains(events[0], "newer version") || !strings.Contains(events[0], path) {
		t.Errorf("events: %q", events)
	}
	must(t, os.Rename(path, path+".of-later"))
	s.Keep(time.Hour)
	must(t, s.Put(t.Context(), run("NEW", time.Now())))
	if len(events) != 2 || !strings.HasPrefix(events[1], EventStoreWorks) {
		t.Errorf("events: %q", events)
	}
}

package precall

import (
	"context"
	"database/sql"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestSweepInPortions: however much is too old, it is deleted in portions that others need not wait for long; the start waits for one.
func TestSweepInPortions(t *testing.T) {
	dir := t.TempDir()
	s := OpenStore(StoreOptions{Dir: dir})
	must(t, s.Put(t.Context(), run("NEW", time.Now())))
	must(t, s.Put(t.Context(), run("OLD", time.Now().Add(-2*time.Hour))))
	s.mu.Lock()
	_, err := s.db.ExecContext(t.Context(), `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i < $1)
		INSERT INTO precall_runs SELECT 'id'||i, 'code'||i, at, day, place, verdict, cause, run FROM n, precall_runs WHERE code = 'OLD'`, 5*portion/2-1)
	s.mu.Unlock()
	must(t, errors.Join(err, s.Close()))

	o := StoreOptions{Dir: dir, History: time.Hour, Event: func(kind, sentence, _ string) { t.Error(kind, sentence) }, Now: time.Now, MaxBytes: 1 << 30}
	var left []int // after each portion
	started := make(chan struct{})
	e := sqlite(o)
	e.shrink = func(ctx context.Context, db *sql.DB) error {
		if len(left) == 1 {
			<-started
		}
		var n int
		err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM precall_runs`).Scan(&n)
		left = append(left, n)
		return errors.Join(err, shrinkSQLite(ctx, db))
	}
	o.Log, o.Why = slog.New(slog.DiscardHandler), error.Error
	s = startStore(o, e)
	close(started)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		runs, err := s.Recent(t.Context(), 10)
		if must(t, err); len(runs) != 1 {
			t.Fatalf("what is too old is given out: %+v", runs)
		}
		s.mu.Lock()
		done := len(left) == 3
		s.mu.Unlock()
		if done {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not deleted:", left)
		}
	}
	must(t, s.Close())
	if want := []int{3*portion/2 + 1, portion/2 + 1, 1}; !slices.Equal(left, want) {
		t.Errorf("left after each portion: %v, want %v", left, want)
	}
}

// TestShorterHistoryEndsWhatWasSetAside: a retention that a reload has made shorter holds for files that were set aside, too.
func TestShorterHistoryEndsWhatWasSetAside(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	s := openStore(t, StoreOptions{Dir: dir, History: 24 * time.Hour})
	aside := filepath.Join(dir, storeFile+asideMark+"20261101T120000Z")
	must(t, os.WriteFile(aside, []byte("damaged"), 0o600))
	must(t, os.Chtimes(aside, now, now.Add(-2*time.Hour)))
	s.Sweep(t.Context())
	if _, err := os.Stat(aside); err != nil {
		t.Error("gone before its time:", err)
	}
	s.Keep(time.Hour)
	s.Sweep(t.Context())
	if _, err := os.Stat(aside); !errors.Is(err, os.ErrNotExist) {
		t.Error("there after its time:", err)
	}
}

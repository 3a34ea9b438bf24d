package precall

import (
	"database/sql"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	_ "github.com/jackc/pgx/v5/stdlib"
)

// sharedDB opens a schema of the test's own in the PostgreSQL that .ci/postgres has started.
func sharedDB(t *testing.T) func() *sql.DB {
	t.Helper()
	url := os.Getenv("HAFEN_TEST_POSTGRES")
	if url == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL: run the tests with make, or .ci/postgres go test ...")
		}
		t.Skip("no PostgreSQL: .ci/postgres go test ... starts one")
	}
	schema := "t" + strings.ToLower(newID()[:20])
	open := func() *sql.DB {
		db, err := sql.Open("pgx", url+"&search_path="+schema)
		must(t, err)
		return db
	}
	db := open()
	defer db.Close()
	_, err := db.ExecContext(t.Context(), "create schema "+schema)
	must(t, err)
	return open
}

// TestSharedHistory: what one gateway keeps the other finds; a code is given once; what is old goes; the size is bounded.
func TestSharedHistory(t *testing.T) {
	open := sharedDB(t)
	now := time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	one := openStore(t, StoreOptions{Shared: open, Now: clock, MaxBytes: 60_000})
	other := openStore(t, StoreOptions{Shared: open, Now: clock, MaxBytes: 60_000})
	rec := run("K7QF-2M", now)
	must(t, one.Put(t.Context(), rec))
	if err := other.Put(t.Context(), run("K7QF-2M", now)); !errors.Is(err, ErrCodeTaken) {
		t.Error("a code was given twice:", err)
	}
	got, err := other.ByCode(t.Context(), "K7QF-2M")
	if err != nil || got.ID != rec.ID || !got.Time.Equal(rec.Time) || len(got.Result.Causes) != len(rec.Result.Causes) {
		t.Errorf("%+v %v", got, err)
	}
	for i := range 100 {
		now = now.Add(time.Second)
		must(t, one.Put(t.Context(), run(fmt.Sprint("C", i), now)))
	}
	recent, err := other.Recent(t.Context(), 1000)
	if err != nil || len(recent) < 10 || len(recent) > 99 || recent[0].Code != "C99" {
		t.Errorf("%d runs in 60,000 bytes: %v", len(recent), err)
	}
	now = now.AddDate(0, 0, 91)
	other.Sweep(t.Context())
	db := open()
	defer db.Close()
	var n int
	if err := db.QueryRowContext(t.Context(), `select count(*) from precall_runs`).Scan(&n); err != nil || n != 0 {
		t.Errorf("%d old runs are there: %v", n, err)
	}
}

// TestSharedHistoryAway: a database that does not answer fails a run with an event, and says nothing of its password.
func TestSharedHistoryAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	must(t, ln.Close())
	var told []string
	s := openStore(t, StoreOptions{
		Shared: func() *sql.DB {
			db, err := sql.Open("pgx", "postgres://hafen:CANARY7f3a@"+ln.Addr().String()+"/hafen?sslmode=disable")
			must(t, err)
			return db
		},
		Event: func(kind, sentence, advice string) { told = append(told, kind+" "+sentence+" "+advice) },
	})
	if err := s.Put(t.Context(), run("K7QF-2M", time.Now())); err == nil {
		t.Error("kept where?")
	}
	if len(told) != 1 || !strings.HasPrefix(told[0], EventStoreFails) || strings.Contains(told[0], "CANARY") {
		t.Errorf("%q", told)
	}
}

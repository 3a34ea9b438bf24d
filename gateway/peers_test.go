package gateway

import (
	"context"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"hafen/gateway/status"
)

// testDatabase is a schema of the test's own in the PostgreSQL that .ci/postgres has started.
func testDatabase(t *testing.T) *database {
	t.Helper()
	url := os.Getenv("HAFEN_TEST_POSTGRES")
	if url == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL: run the tests with make, or .ci/postgres go test ...")
		}
		t.Skip("no PostgreSQL: .ci/postgres go test ... starts one")
	}
	schema := "t" + strings.ToLower(rand.Text())
	d := openTestDatabase(t, url+"&search_path="+schema)
	if _, err := d.ExecContext(t.Context(), "create schema "+schema); err != nil {
		t.Fatal(err)
	}
	return d
}

func openTestDatabase(t *testing.T, url string) *database {
	t.Helper()
	d, err := openDatabase(url, (&net.Dialer{}).DialContext, slog.New(slog.DiscardHandler), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func testPeers(t *testing.T, db *database, dir string) *peers {
	t.Helper()
	p, err := newPeers(db, dir)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPeers(t *testing.T) {
	db, dir := testDatabase(t), t.TempDir()
	var wg sync.WaitGroup
	for range 4 { // all at once make the tables
		wg.Go(func() {
			if err := db.prepare(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	one, other := testPeers(t, db, dir), testPeers(t, db, t.TempDir())
	exchange := func(p *peers, up time.Duration) []status.Peer {
		if err := p.exchange(t.Context(), status.Peer{Name: "gw.example", Verdict: "ok", Version: p.run, Uptime: up}); err != nil {
			t.Fatal(err)
		}
		return p.list()
	}
	exchange(one, time.Hour)
	if got := exchange(other, time.Hour); len(got) != 2 || got[0].Self == got[1].Self || got[0].Missing || got[0].Name != "gw.example" {
		t.Fatalf("%+v", got)
	}

	// An upgrade: the newer process of the same gateway has the line, and keeps it when the older one writes and goes.
	newer := testPeers(t, db, dir)
	if newer.self != one.self {
		t.Fatal("a gateway is another one after a restart")
	}
	exchange(newer, time.Minute)
	exchange(one, time.Hour)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	one.keep(ended, func() status.Peer { return status.Peer{Uptime: time.Hour} })
	found := false
	for _, p := range exchange(other, time.Hour) {
		found = found || p.Version == newer.run
	}
	if !found {
		t.Error("the newer process is not on the list")
	}

	// One is killed, the other one is stopped.
	if _, err := db.ExecContext(t.Context(), `update hafen_gateways set seen = now() - interval '1 minute' where id = $1`, newer.self); err != nil {
		t.Fatal(err)
	}
	for _, p := range exchange(other, time.Hour) {
		if p.Missing == p.Self || p.Missing && (p.Sign() != "down" || !strings.Contains(p.Words(), "not heard of for 1m")) {
			t.Errorf("%+v: %s", p, p.Words())
		}
	}
	other.keep(ended, func() status.Peer { return status.Peer{} })
	if got := exchange(newer, time.Minute); len(got) != 1 || got[0].Missing {
		t.Errorf("the stopped one is still there: %+v", got)
	}
}

// TestDatabaseAway: one event when it goes and one when it is back, and neither has the password.
func TestDatabaseAway(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	d := openTestDatabase(t, "postgres://hafen:CANARY7f3a@"+ln.Addr().String()+"/x?sslmode=disable")
	for range 3 {
		d.reached(d.prepare(t.Context()))
	}
	d.reached(nil)
	d.reached(nil)
	got := d.newest()
	if len(got) != 2 || got[0].Kind != "database-back" || got[1].Kind != "database-away" || !strings.Contains(got[1].Sentence, "connection refused") {
		t.Fatalf("%+v", got)
	}
	if strings.Contains(got[1].Sentence, "CANARY") || strings.Contains(got[1].Sentence, "127.0.0.1") {
		t.Error(got[1].Sentence)
	}
}

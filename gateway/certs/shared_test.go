package certs

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"io/fs"
	"math/big"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	_ "github.com/jackc/pgx/v5/stdlib"

	"hafen/configs"
)

// testDatabase is a schema of the test's own in the PostgreSQL that .ci/postgres has started.
func testDatabase(t *testing.T) *sql.DB {
	t.Helper()
	url := os.Getenv("HAFEN_TEST_POSTGRES")
	if url == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("no PostgreSQL: run the tests with make, or .ci/postgres go test ...")
		}
		t.Skip("no PostgreSQL: .ci/postgres go test ... starts one")
	}
	schema := "t" + strings.ToLower(newShared(nil, "").owner)
	db, err := sql.Open("pgx", url+"&search_path="+schema)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	for _, statement := range append([]string{"create schema " + schema}, Schema()...) {
		if _, err := db.ExecContext(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	return db
}

// awayDatabase is one that nobody answers for.
func awayDatabase(t *testing.T) *sql.DB {
	t.Helper()
	db, err := sql.Open("pgx", "postgres://hafen@127.0.0.1:"+freePort(t)+"/hafen?sslmode=disable")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = db.Close() })
	return db
}

func TestSharedStorage(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	one, dir := newShared(testDatabase(t), t.TempDir()), t.TempDir()
	other := newShared(one.db, dir)
	if _, err := one.Load(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := one.Stat(ctx, "a/b"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	for _, k := range []string{"a/b", "a/c/d", "a/c/e", "ab"} {
		if err := one.Store(ctx, k, []byte(k)); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := other.Load(ctx, "a/c/d"); err != nil || string(got) != "a/c/d" {
		t.Errorf("%q %v", got, err)
	}
	if i, err := other.Stat(ctx, "a/c/d"); err != nil || !i.IsTerminal || i.Size != 5 || time.Since(i.Modified).Abs() > time.Minute {
		t.Errorf("%+v %v", i, err)
	}
	if i, err := other.Stat(ctx, "a/c"); err != nil || i.IsTerminal {
		t.Errorf("%+v %v", i, err)
	}
	if got, err := other.List(ctx, "a", false); err != nil || !slices.Equal(got, []string{"a/b", "a/c"}) {
		t.Error(got, err)
	}
	if got, err := other.List(ctx, "a/", true); err != nil || !slices.Equal(got, []string{"a/b", "a/c/d", "a/c/e"}) {
		t.Error(got, err)
	}
	if err := other.Delete(ctx, "a/c"); err != nil || one.Exists(ctx, "a/c/d") || !one.Exists(ctx, "a") || !one.Exists(ctx, "ab") {
		t.Error("deleted too much or too little:", err)
	}
	if got, err := other.Load(ctx, "a/b"); err != nil || string(got) != "a/b" {
		t.Errorf("%q %v", got, err)
	}

	// While the database is away, what this machine has read or written is there, and nothing is said not to exist.
	away := newShared(awayDatabase(t), dir)
	if got, err := away.Load(ctx, "a/b"); err != nil || string(got) != "a/b" || !away.Exists(ctx, "a/b") {
		t.Errorf("away: %q %v", got, err)
	}
	if _, err := away.Load(ctx, "ab"); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Error("away, and it says that there is none:", err)
	}
	if err := away.Lock(ctx, "x"); err == nil {
		t.Error("a lock without a database")
	}
}

func TestSharedLock(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	one := newShared(testDatabase(t), t.TempDir())
	other := newShared(one.db, t.TempDir())
	t.Cleanup(func() { one.close(); other.close() })
	if err := one.Lock(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 3*lockPace)
	defer cancel()
	if err := other.Lock(short, "x"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatal("two have the lock:", err)
	}
	if err := other.Unlock(ctx, "x"); err != nil { // of one that is not his
		t.Error(err)
	}
	if got, err := other.take(ctx, "x"); err != nil || got {
		t.Error("another one's lock was given away:", err)
	}
	if err := one.Unlock(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	if err := other.Lock(ctx, "x"); err != nil {
		t.Fatal(err)
	}
	// The gateway that holds it dies: its time runs out.
	if _, err := one.db.ExecContext(ctx, `update hafen_locks set until = now() - interval '1 second'`); err != nil {
		t.Fatal(err)
	}
	if err := one.Lock(ctx, "x"); err != nil {
		t.Fatal(err)
	}
}

// TestSharedCertificate has two gateways under one name. The authority looks at one of them, and the other one orders; both show the
// one certificate that was issued. A third, started while the database is away on the first one's data, shows it too.
func TestSharedCertificate(t *testing.T) {
	t.Parallel()
	p := startPebble(t, pebbleOptions{validity: time.Hour})
	db := testDatabase(t)
	gateway := func(dir string, db *sql.DB) (*Store, *configs.Config) {
		conf := baseConfig(t, "acme")
		if dir != "" {
			conf.DataDir = dir
		}
		conf.TLS.ACME = configs.ACME{Directory: p.directory, CAFile: p.caFile}
		return newStore(t, Options{Config: conf, Database: db}), conf
	}
	orders, conf := gateway("", db)
	looked, _ := gateway("", db)
	serveTLS(t, looked, p.tlsPort)
	if err := orders.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	roots := p.roots(t)
	serial := func(s *Store) *big.Int {
		c, err := handshake(t, s, &tls.Config{ServerName: ownName, RootCAs: roots})
		if err != nil {
			return nil
		}
		return c.SerialNumber
	}
	eventually(t, time.Minute, "the gateway that orders has a certificate", func() bool { return serial(orders) != nil })
	if err := looked.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "the other has the same", func() bool {
		got := serial(looked)
		return got != nil && got.Cmp(serial(orders)) == 0
	})
	var n int
	if err := db.QueryRowContext(t.Context(), `select count(*) from hafen_certificates where key like 'certificates/%.crt'`).Scan(&n); err != nil || n != 1 {
		t.Errorf("%d certificates: %v", n, err)
	}
	want := serial(orders)
	if err := orders.Close(); err != nil {
		t.Fatal(err)
	}
	restarted, _ := gateway(conf.DataDir, awayDatabase(t))
	if err := restarted.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "one that starts without the database shows the last one", func() bool {
		got := serial(restarted)
		return got != nil && got.Cmp(want) == 0
	})
	private(t, conf.DataDir)
}

// TestSharedStrangers: whoever asks for a challenge that nobody opened makes few looks at the database.
func TestSharedStrangers(t *testing.T) {
	t.Parallel()
	conf := baseConfig(t, "acme")
	s := newStore(t, Options{Config: conf, Database: awayDatabase(t)})
	looks := 0
	for range 1000 {
		if s.acme.mayBeOpen(ownName) {
			looks++
		}
		if s.acme.mayBeOpen("stranger.example") {
			t.Fatal("a look for a name that is not ours")
		}
	}
	if looks == 0 || looks > 30 {
		t.Errorf("%d looks of 1,000", looks)
	}
}

var _ certmagic.Storage = (*shared)(nil)

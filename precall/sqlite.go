package precall

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	driver "modernc.org/sqlite"
	codes "modernc.org/sqlite/lib"
)

const (
	storeFile = "precall.db"
	asideMark = ".broken-"
)

// errDamaged says that a check of the file found faults.
var errDamaged = errors.New("the file is damaged")

// sqlite is the engine of one gateway: a file in Dir.
func sqlite(o StoreOptions) engine {
	path := filepath.Join(o.Dir, storeFile)
	if o.Dir == "" {
		path = ":memory:"
	}
	return engine{
		open: func(ctx context.Context) (*sql.DB, error) { return openSQLite(ctx, path, o.Dir == "") },
		taken: func(err error) bool {
			return sqliteCode(err) == codes.SQLITE_CONSTRAINT_UNIQUE || sqliteCode(err) == codes.SQLITE_CONSTRAINT_PRIMARYKEY
		},
		broken: func(err error) bool {
			code := sqliteCode(err) & 0xff
			return code == codes.SQLITE_CORRUPT || code == codes.SQLITE_NOTADB || errors.Is(err, errDamaged)
		},
		setAside: func() (string, error) { return setAside(path, o.Now()) },
		size:     sqliteSize,
		shrink:   shrinkSQLite,
		tidy:     func(before time.Time) { dropAside(o.Dir, before) },
	}
}

func sqliteCode(err error) int {
	var e *driver.Error
	if errors.As(err, &e) {
		return e.Code()
	}
	return 0
}

// pragmas: the rollback journal is deleted with each commit, so that no second file keeps what the first has forgotten, and
// EXTRA syncs the folder as well: what was acknowledged stays after a power cut. secure_delete overwrites what is deleted.
var pragmas = []string{"busy_timeout(5000)", "auto_vacuum(INCREMENTAL)", "journal_mode(DELETE)", "synchronous(EXTRA)", "secure_delete(ON)"}

func openSQLite(ctx context.Context, path string, memory bool) (*sql.DB, error) {
	dsn := url.URL{Scheme: "file", Path: path, RawQuery: url.Values{"_pragma": pragmas}.Encode()}
	if memory {
		dsn = url.URL{Scheme: "file", Opaque: path, RawQuery: dsn.RawQuery}
	} else if err := makePrivate(path); err != nil {
		return nil, err
	}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, err
	}
	db.SetMaxOpenConns(1) // one file, one writer; in memory one connection is the database
	db.SetConnMaxLifetime(0)
	if err := prepareSQLite(ctx, db); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// makePrivate makes the file for its owner alone; SQLite would let others read it.
func makePrivate(path string) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

func prepareSQLite(ctx context.Context, db *sql.DB) error {
	var found string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&found); err != nil {
		return err
	}
	if found != "ok" {
		return fmt.Errorf("%w: %s", errDamaged, found)
	}
	_, err := db.ExecContext(ctx, fmt.Sprintf(schema, "BLOB"))
	return err
}

// setAside renames the file, and the journal that belongs to it.
func setAside(path string, now time.Time) (string, error) {
	aside := path + asideMark + now.UTC().Format("20060102T150405Z")
	if err := os.Rename(path, aside); err != nil {
		return "", err
	}
	if err := os.Rename(path+"-journal", aside+"-journal"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	return aside, nil
}

// dropAside deletes files that were set aside before a time: they hold runs that nobody may keep for longer.
func dropAside(dir string, before time.Time) {
	if dir == "" {
		return
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return // whoever uses the store next says it
	}
	for _, e := range entries {
		info, err := e.Info()
		if err == nil && strings.HasPrefix(e.Name(), storeFile+asideMark) && info.ModTime().Before(before) {
			_ = os.Remove(filepath.Join(dir, e.Name())) // the next sweep tries again
		}
	}
}

func sqliteSize(ctx context.Context, db *sql.DB) (int64, error) {
	var pages, size int64
	err := cmp.Or(
		db.QueryRowContext(ctx, `PRAGMA page_count`).Scan(&pages),
		db.QueryRowContext(ctx, `PRAGMA page_size`).Scan(&size),
	)
	return pages * size, err
}

// shrinkSQLite cuts the file to what is in use. The pragma gives one row for each page: all have to be read.
func shrinkSQLite(ctx context.Context, db *sql.DB) error {
	rows, err := db.QueryContext(ctx, `PRAGMA incremental_vacuum`)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
	}
	return rows.Err()
}

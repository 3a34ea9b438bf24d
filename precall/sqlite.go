package precall

import (
	"bytes"
	"cmp"
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

// format is the highest format of the file that this program reads and writes. A version that changes the table so that the one
// before can't read it marks the file with a higher one (PRAGMA user_version), and keeps it out of WAL mode: the mark is looked
// for in the file itself.
const format = 0

var (
	// errDamaged says that a check of the file found faults.
	errDamaged = errors.New("the file is damaged")
	// errNewer says that the file is whole, and not for this program.
	errNewer = errors.New("a newer version of hafen has written it")
)

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
	} else if err := prepareFile(path); err != nil {
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

func prepareFile(path string) error {
	if err := checkFormat(path); err != nil {
		return err
	}
	return makePrivate(path)
}

// checkFormat refuses a file of a newer format before SQLite has opened it, and so before anything of it could change.
func checkFormat(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	head := make([]byte, 64) // https://www.sqlite.org/fileformat2.html, section 1.3
	if _, err := io.ReadFull(f, head); err != nil || !bytes.HasPrefix(head, []byte("SQLite format 3\x00")) {
		return nil // new, or damaged, which SQLite will say
	}
	if found := binary.BigEndian.Uint32(head[60:]); found > format {
		return fmt.Errorf("%s has format %d, %d is the highest known here: %w", path, found, format, errNewer)
	}
	return nil
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

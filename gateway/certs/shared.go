package certs

import (
	"context"
	"crypto/rand"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
)

// shared is certmagic's storage in a PostgreSQL that several gateways share, so that a certificate is ordered once, whichever of
// them the authority then asks.
//
// Everything is written to a copy on this machine as well, and read from there while the database is away: a gateway
// that starts then shows the last certificate it knew. Nothing is ordered then, for no lock is to be had.
type shared struct {
	db    *sql.DB
	copy  *certmagic.FileStorage
	owner string // of the locks of this process

	mu   sync.Mutex
	held map[string]context.CancelFunc // ends the renewal of a lock's lease
	wg   sync.WaitGroup
}

const (
	// sharedTimeout bounds one question to the database.
	sharedTimeout = 5 * time.Second
	// lease is how long a lock outlives a gateway that is gone; it is renewed three times as often.
	lease = 30 * time.Second
	// lockPace is how often a lock that another one holds is asked for.
	lockPace = 500 * time.Millisecond
)

// Schema are the tables that shared certificates need.
func Schema() []string {
	return []string{
		`create table if not exists hafen_certificates (
			key text primary key, value bytea not null, modified timestamptz not null default now())`,
		`create table if not exists hafen_locks (name text primary key, owner text not null, until timestamptz not null)`,
	}
}

func newShared(db *sql.DB, dir string) *shared {
	return &shared{db: db, copy: &certmagic.FileStorage{Path: dir}, owner: rand.Text(), held: make(map[string]context.CancelFunc)}
}

// key is the one under which certmagic's is kept: without slashes at its ends.
func key(k string) string { return strings.Trim(k, "/") }

// Store implements certmagic.Storage.
func (s *shared) Store(ctx context.Context, k string, value []byte) error {
	err := s.exec(ctx, `insert into hafen_certificates (key, value) values ($1, $2)
		on conflict (key) do update set value = excluded.value, modified = now()`, key(k), value)
	if err != nil {
		return err
	}
	return s.copy.Store(ctx, k, value)
}

// Load implements certmagic.Storage.
func (s *shared) Load(ctx context.Context, k string) ([]byte, error) {
	var value []byte
	err := s.row(ctx, `select value from hafen_certificates where key = $1`, key(k))(&value)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return nil, fmt.Errorf("%s: %w", k, fs.ErrNotExist)
	case err != nil:
		return s.fromCopy(ctx, k, err)
	}
	if err := s.copy.Store(ctx, k, value); err != nil {
		return nil, err
	}
	return value, nil
}

// fromCopy reads what this machine has, while the database is away. That there is nothing here does not mean that there is nothing: the
// error stays the database's then, so that nothing is ordered anew.
func (s *shared) fromCopy(ctx context.Context, k string, away error) ([]byte, error) {
	value, err := s.copy.Load(ctx, k)
	if err != nil {
		return nil, away
	}
	return value, nil
}

// Delete implements certmagic.Storage: the key, and all below it.
func (s *shared) Delete(ctx context.Context, k string) error {
	if err := s.exec(ctx, `delete from hafen_certificates where key = $1 or starts_with(key, $1 || '/')`, key(k)); err != nil {
		return err
	}
	return s.copy.Delete(ctx, k)
}

// Exists implements certmagic.Storage.
func (s *shared) Exists(ctx context.Context, k string) bool {
	var there bool
	err := s.row(ctx, `select exists (select from hafen_certificates where key = $1 or starts_with(key, $1 || '/'))`, key(k))(&there)
	if err != nil {
		return s.copy.Exists(ctx, k)
	}
	return there
}

// List implements certmagic.Storage.
func (s *shared) List(ctx context.Context, path string, recursive bool) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	prefix := ""
	if key(path) != "" {
		prefix = key(path) + "/"
	}
	rows, err := s.db.QueryContext(ctx, `select key from hafen_certificates where starts_with(key, $1) order by key`, prefix)
	if err != nil {
		return s.copy.List(ctx, path, recursive)
	}
	defer func() { _ = rows.Close() }()
	var (
		keys []string
		seen = make(map[string]bool)
	)
	for rows.Next() {
		var k string
		if err := rows.Scan(&k); err != nil {
			return nil, err
		}
		if rest := strings.TrimPrefix(k, prefix); !recursive {
			first, _, _ := strings.Cut(rest, "/")
			k = prefix + first
		}
		if !seen[k] {
			seen[k], keys = true, append(keys, k)
		}
	}
	if err := rows.Err(); err != nil {
		return nil, err
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	}
	return keys, nil
}

// Stat implements certmagic.Storage.
func (s *shared) Stat(ctx context.Context, k string) (certmagic.KeyInfo, error) {
	info := certmagic.KeyInfo{Key: k, IsTerminal: true}
	err := s.row(ctx, `select modified, length(value) from hafen_certificates where key = $1`, key(k))(&info.Modified, &info.Size)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		var below bool
		if err := s.row(ctx, `select exists (select from hafen_certificates where starts_with(key, $1 || '/'))`, key(k))(&below); err == nil && below {
			return certmagic.KeyInfo{Key: k}, nil
		}
		return certmagic.KeyInfo{}, fmt.Errorf("%s: %w", k, fs.ErrNotExist)
	case err != nil:
		return s.copy.Stat(ctx, k)
	}
	return info, nil
}

// Lock implements certmagic.Locker: a row with an owner and a time until which it counts, so that the lock of a gateway that is
// gone frees itself. Times are the database's.
func (s *shared) Lock(ctx context.Context, name string) error {
	for {
		got, err := s.take(ctx, name)
		if err != nil {
			return err
		}
		if got {
			s.keep(name)
			return nil
		}
		select {
		case <-time.After(lockPace):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// take takes a lock that is free or whose time is over. One that this process holds already is held by another goroutine of it.
func (s *shared) take(ctx context.Context, name string) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	done, err := s.db.ExecContext(ctx, `insert into hafen_locks (name, owner, until) values ($1, $2, now() + $3::float8 * interval '1 second')
		on conflict (name) do update set owner = excluded.owner, until = excluded.until where hafen_locks.until < now()`, name, s.owner, lease.Seconds())
	if err != nil {
		return false, err
	}
	n, err := done.RowsAffected()
	return n == 1, err
}

// keep renews the lease until Unlock. A gateway that loses the database for longer than the lease loses its locks.
func (s *shared) keep(name string) {
	ctx, cancel := context.WithCancel(context.Background())
	s.mu.Lock()
	s.held[name] = cancel
	s.mu.Unlock()
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		ticker := time.NewTicker(lease / 3)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
				_ = s.exec(ctx, `update hafen_locks set until = now() + $3::float8 * interval '1 second' where name = $1 and owner = $2`, name, s.owner, lease.Seconds())
			case <-ctx.Done():
				return
			}
		}
	}()
}

// Unlock implements certmagic.Locker.
func (s *shared) Unlock(ctx context.Context, name string) error {
	s.mu.Lock()
	if end := s.held[name]; end != nil {
		end()
		delete(s.held, name)
	}
	s.mu.Unlock()
	return s.exec(context.WithoutCancel(ctx), `delete from hafen_locks where name = $1 and owner = $2`, name, s.owner)
}

// close ends the leases; the locks end by themselves.
func (s *shared) close() {
	s.mu.Lock()
	for _, end := range s.held {
		end()
	}
	clear(s.held)
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *shared) exec(ctx context.Context, query string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
	defer cancel()
	_, err := s.db.ExecContext(ctx, query, args...)
	return err
}

// row asks for one row and gives what reads it.
func (s *shared) row(ctx context.Context, query string, args ...any) func(into ...any) error {
	return func(into ...any) error {
		ctx, cancel := context.WithTimeout(ctx, sharedTimeout)
		defer cancel()
		return s.db.QueryRowContext(ctx, query, args...).Scan(into...)
	}
}

package precall

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"
)

// Store keeps runs in a SQL database. What Put has acknowledged is on the disk; what is older than History is given to nobody
// and its bytes are overwritten within the hour. A store that can't be written, or not even opened, fails each Put until it
// can: calls never wait for it. It is safe for concurrent use, by several processes too.
type Store struct {
	opts    StoreOptions
	history atomic.Int64 // a time.Duration
	engine  engine

	mu      sync.Mutex
	db      *sql.DB // nil: not open, the next use tries
	failing bool    // the last write failed; said once

	stop    context.CancelFunc
	stopped sync.WaitGroup
}

// StoreOptions are the world of a Store.
type StoreOptions struct {
	// Dir is where precall.db lies. "": in memory, gone with the process.
	Dir string
	// Shared opens the PostgreSQL that several gateways share, without asking it anything; the Store closes it. nil: a file in Dir.
	Shared func() *sql.DB
	// Why puts an error of the shared database into words without its password. nil: the error's own.
	Why func(error) string
	// History is how long a run is kept. 0: 90 days.
	History time.Duration
	// MaxBytes bounds the file; beyond it the oldest runs go. 0: 256 MiB, some 100,000 runs.
	MaxBytes int64
	// Event is told, once each, what an administrator should hear: that the store fails, that it works again, that a damaged
	// file was set aside. It must not block. nil: only the log.
	Event func(kind, sentence, advice string)
	// Log is told the same. nil: silent.
	Log *slog.Logger
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// engine is what differs between databases.
type engine struct {
	// open gives a database that is sound and has the table.
	open func(ctx context.Context) (*sql.DB, error)
	// taken says that an error is a violated UNIQUE, broken that the file itself is damaged.
	taken, broken func(error) bool
	// setAside puts a damaged file out of the way and says where it is now.
	setAside func() (string, error)
	// size is what the runs take on the disk; shrink gives back what was deleted so that no byte of it is left.
	size   func(context.Context, *sql.DB) (int64, error)
	shrink func(context.Context, *sql.DB) error
	// tidy ends what else is older than a time, such as files set aside.
	tidy func(before time.Time)
}

// schema makes the table. BLOB is the type of binary data, which PostgreSQL calls BYTEA. `day` is the gateway's own.
const schema = `CREATE TABLE IF NOT EXISTS precall_runs (
	id TEXT PRIMARY KEY, code TEXT NOT NULL UNIQUE, at BIGINT NOT NULL, day TEXT NOT NULL, place TEXT NOT NULL,
	verdict TEXT NOT NULL, cause TEXT NOT NULL, run %s NOT NULL);
CREATE INDEX IF NOT EXISTS precall_runs_at ON precall_runs (at)`

// Kinds of events.
const (
	EventStoreFails    = "precall-store-fails"
	EventStoreWorks    = "precall-store-works"
	EventStoreSetAside = "precall-store-set-aside"
)

// storeTimeout bounds one use of the store: a page waits for it.
const storeTimeout = 15 * time.Second

// OpenStore opens the history, in SQLite where nothing is shared. It always gives a Store: what is wrong with the file is said by Event, and tried anew
// at each use.
func OpenStore(o StoreOptions) *Store {
	if o.History == 0 {
		o.History = 90 * 24 * time.Hour
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = 256 << 20
	}
	if o.Event == nil {
		o.Event = func(string, string, string) {}
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Why == nil {
		o.Why = error.Error
	}
	if o.Shared != nil {
		return startStore(o, postgres(o.Shared))
	}
	return startStore(o, sqlite(o))
}

// startStore opens the database and sweeps it from time to time until Close.
func startStore(o StoreOptions, e engine) *Store {
	ctx, cancel := context.WithCancel(context.Background())
	s := &Store{opts: o, engine: e, stop: cancel}
	s.Keep(o.History)
	s.tidy()
	more := s.sweepPortion(ctx)
	s.stopped.Go(func() {
		if more {
			s.Sweep(ctx) // nobody waits for it with the start
		}
		tick := time.NewTicker(20 * time.Minute)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				s.Sweep(ctx)
			case <-ctx.Done():
				return
			}
		}
	})
	return s
}

// Close ends the sweeping and closes the database.
func (s *Store) Close() error {
	s.stop()
	s.stopped.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.db == nil {
		return nil
	}
	err := s.db.Close()
	s.db = nil
	return err
}

// use runs something on the database, opened if need be. A damaged one is set aside and the same tried on a new one. The
// caller's context ends nothing here: a page that goes away in the middle is no reason to lose its run.
func (s *Store) use(ctx context.Context, do func(context.Context, *sql.DB) error) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), storeTimeout)
	defer cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	err := s.try(ctx, do)
	if err == nil || !s.engine.broken(err) {
		return err
	}
	if err := s.replace(err); err != nil {
		return err
	}
	return s.try(ctx, do)
}

func (s *Store) try(ctx context.Context, do func(context.Context, *sql.DB) error) (err error) {
	if s.db == nil {
		if s.db, err = s.engine.open(ctx); err != nil {
			s.db = nil
			return fmt.Errorf("the precall history can't be opened: %w", err)
		}
	}
	return do(ctx, s.db)
}

// replace sets a damaged database aside, so that the next use begins a new one.
func (s *Store) replace(cause error) error {
	if s.db != nil {
		_ = s.db.Close() // damaged: what it says about that is known
		s.db = nil
	}
	where, err := s.engine.setAside()
	if err != nil {
		return fmt.Errorf("the precall history is damaged (%w) and can't be set aside: %w", cause, err)
	}
	s.opts.Log.Error("the precall history is damaged and was set aside", "err", cause, "file", where)
	s.opts.Event(EventStoreSetAside, "The history of precall tests was damaged; a new one has begun.",
		"The damaged file is "+where+". Check the disk; older codes are not found any more.")
	return nil
}

// note says once that writing fails, and once that it works again.
func (s *Store) note(err error) {
	s.mu.Lock()
	failed := s.failing
	s.failing = err != nil
	s.mu.Unlock()
	switch {
	case err != nil && !failed:
		why, advice := s.opts.Why(err), "Make room in data_dir, or repair what the message names."
		if errors.Is(err, errNewer) {
			advice = "Go back to the newer version, or move the file away for a new history to begin."
		}
		s.opts.Log.Error("the precall history can't be written", "err", why)
		s.opts.Event(EventStoreFails, "Precall tests can't be kept: "+why+".", advice+" Calls go on; tests are kept again without a restart.")
	case err == nil && failed:
		s.opts.Log.Info("the precall history is written again")
		s.opts.Event(EventStoreWorks, "Precall tests are kept again.", "")
	}
}

// Put keeps a run; when it returns nil the run is on the disk. ErrCodeTaken: another run has its code.
func (s *Store) Put(ctx context.Context, r Record) error {
	data, err := r.pack()
	if err != nil {
		return err
	}
	err = s.use(ctx, func(ctx context.Context, db *sql.DB) error {
		_, err := db.ExecContext(ctx, `INSERT INTO precall_runs (id, code, at, day, place, verdict, cause, run) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
			r.ID, r.Code, r.Time.Unix(), r.Time.Local().Format(time.DateOnly), r.place(), string(r.Result.Verdict), r.firstCause(), data)
		return err
	})
	if err != nil && s.engine.taken(err) {
		return ErrCodeTaken
	}
	s.note(err)
	if err == nil {
		s.trim(ctx)
	}
	return err
}

// oldest is the second before which nothing is given out any more.
func (s *Store) oldest() int64 {
	return s.opts.Now().Add(-time.Duration(s.history.Load())).Unix()
}

// Keep changes how long runs are kept, from now on.
func (s *Store) Keep(history time.Duration) { s.history.Store(int64(history)) }

// ByID gives the run of a long id; ErrNoRun where there is none.
func (s *Store) ByID(ctx context.Context, id string) (Record, error) {
	return s.one(ctx, `SELECT run FROM precall_runs WHERE id = $1 AND at > $2`, id)
}

// ByCode gives the run of a short code in its canonical form; ErrNoRun where there is none.
func (s *Store) ByCode(ctx context.Context, code string) (Record, error) {
	return s.one(ctx, `SELECT run FROM precall_runs WHERE code = $1 AND at > $2`, code)
}

func (s *Store) one(ctx context.Context, query, key string) (r Record, err error) {
	err = s.use(ctx, func(ctx context.Context, db *sql.DB) error {
		var data []byte
		if err := db.QueryRowContext(ctx, query, key, s.oldest()).Scan(&data); err != nil {
			return err
		}
		r, err = unpack(data)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Record{}, ErrNoRun
	}
	return r, err
}

package precall

import (
	"context"
	"database/sql"
	"time"
)

// Run is one line of the history.
type Run struct {
	Code    string
	Time    time.Time
	Place   string // the site, or the shortened network where no site has it
	Verdict Verdict
	Cause   string // the likeliest; "": none
}

// Recent gives the newest runs, at most n, the newest first.
func (s *Store) Recent(ctx context.Context, n int) (runs []Run, err error) {
	err = s.use(ctx, func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT code, at, place, verdict, cause FROM precall_runs WHERE at > $1 ORDER BY at DESC LIMIT $2`, s.oldest(), n)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		runs = nil // a second try begins anew
		for rows.Next() {
			var r Run
			var at int64
			if err := rows.Scan(&r.Code, &at, &r.Place, &r.Verdict, &r.Cause); err != nil {
				return err
			}
			r.Time = time.Unix(at, 0)
			runs = append(runs, r)
		}
		return rows.Err()
	})
	return runs, err
}

// Count is how many runs of a day at a place came out alike.
type Count struct {
	Day     string // 2026-11-27, the gateway's own
	Place   string
	Verdict Verdict
	Cause   string // the likeliest; "": none
	Runs    int
}

// maxCounts bounds one answer of Counts.
const maxCounts = 50_000

// Counts sums up the runs since a time, by day and place.
func (s *Store) Counts(ctx context.Context, since time.Time) (counts []Count, err error) {
	err = s.use(ctx, func(ctx context.Context, db *sql.DB) error {
		rows, err := db.QueryContext(ctx, `SELECT day, place, verdict, cause, COUNT(*) FROM precall_runs WHERE at > $1
			GROUP BY day, place, verdict, cause ORDER BY day, place, verdict, cause LIMIT $2`, max(since.Unix(), s.oldest()), maxCounts)
		if err != nil {
			return err
		}
		defer func() { _ = rows.Close() }()
		counts = nil // a second try begins anew
		for rows.Next() {
			var c Count
			if err := rows.Scan(&c.Day, &c.Place, &c.Verdict, &c.Cause, &c.Runs); err != nil {
				return err
			}
			counts = append(counts, c)
		}
		return rows.Err()
	})
	return counts, err
}

// Sweep deletes what is older than the retention, down to its bytes. A Store does it by itself.
func (s *Store) Sweep(ctx context.Context) {
	s.engine.tidy(s.opts.Now().Add(-s.opts.History))
	err := s.use(ctx, func(ctx context.Context, db *sql.DB) error {
		return s.drop(ctx, db, `DELETE FROM precall_runs WHERE at <= $1`, s.oldest())
	})
	s.note(err)
}

// drop deletes rows and, if there were any, what the file still holds of them.
func (s *Store) drop(ctx context.Context, db *sql.DB, query string, arg any) error {
	result, err := db.ExecContext(ctx, query, arg)
	if err != nil {
		return err
	}
	if n, err := result.RowsAffected(); err == nil && n == 0 {
		return nil
	}
	return s.engine.shrink(ctx, db)
}

// trim deletes the oldest runs while the file is larger than it may be, a twentieth of them at a time. It fails only where
// writing fails, which the next Put says.
func (s *Store) trim(ctx context.Context) {
	err := s.use(ctx, func(ctx context.Context, db *sql.DB) error {
		for range 40 {
			size, err := s.engine.size(ctx, db)
			if err != nil || size <= s.opts.MaxBytes {
				return err
			}
			var runs int
			if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM precall_runs`).Scan(&runs); err != nil {
				return err
			}
			const oldest = `DELETE FROM precall_runs WHERE id IN (SELECT id FROM precall_runs ORDER BY at LIMIT $1)`
			if err := s.drop(ctx, db, oldest, max(1, runs/20)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		s.opts.Log.Warn("the precall history can't be made smaller", "err", err)
	}
}

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

// portion is how many runs are deleted at a time. Whoever uses the store meanwhile waits for one portion, and one is deleted in
// time on a slow disk too: 256 MiB at once would not be, this time and every other.
const portion = 250

// Sweep deletes what is older than the retention, down to its bytes. A Store does it by itself.
func (s *Store) Sweep(ctx context.Context) {
	s.tidy()
	for s.sweepPortion(ctx) && ctx.Err() == nil {
	}
}

// tidy ends what was set aside when its runs have become too old.
func (s *Store) tidy() { s.engine.tidy(s.opts.Now().Add(-time.Duration(s.history.Load()))) }

// sweepPortion deletes the oldest of what is too old, and reports whether more may be left.
func (s *Store) sweepPortion(ctx context.Context) (more bool) {
	err := s.use(ctx, func(ctx context.Context, db *sql.DB) error {
		const old = `DELETE FROM precall_runs WHERE id IN (SELECT id FROM precall_runs WHERE at <= $1 ORDER BY at LIMIT $2)`
		n, err := s.drop(ctx, db, old, s.oldest(), portion)
		more = n == portion
		return err
	})
	s.note(err)
	return err == nil && more
}

// drop deletes rows and, if there were any, what the file still holds of them.
func (s *Store) drop(ctx context.Context, db *sql.DB, query string, args ...any) (rows int64, err error) {
	result, err := db.ExecContext(ctx, query, args...)
	if err != nil {
		return 0, err
	}
	if rows, err = result.RowsAffected(); err == nil && rows == 0 {
		return 0, nil
	}
	return rows, s.engine.shrink(ctx, db)
}

// trim deletes the oldest runs while the file is larger than it may be. It fails only where writing fails, which the next Put says.
func (s *Store) trim(ctx context.Context) {
	large := true
	for range 40 { // the next Put goes on with it
		err := s.use(ctx, func(ctx context.Context, db *sql.DB) error {
			size, err := s.engine.size(ctx, db)
			if large = size > s.opts.MaxBytes; err != nil || !large {
				return err
			}
			return s.trimPortion(ctx, db)
		})
		if err != nil {
			s.opts.Log.Warn("the precall history can't be made smaller", "err", err)
		}
		if err != nil || !large {
			return
		}
	}
}

// trimPortion deletes the oldest twentieth, or a portion where that is less.
func (s *Store) trimPortion(ctx context.Context, db *sql.DB) error {
	var runs int
	if err := db.QueryRowContext(ctx, `SELECT COUNT(*) FROM precall_runs`).Scan(&runs); err != nil {
		return err
	}
	const oldest = `DELETE FROM precall_runs WHERE id IN (SELECT id FROM precall_runs ORDER BY at LIMIT $1)`
	_, err := s.drop(ctx, db, oldest, min(max(1, runs/20), portion))
	return err
}

package precall

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// uniqueViolation is PostgreSQL's word for a key that is taken (SQLSTATE).
const uniqueViolation = "23505"

// postgres is the engine of several gateways: one history in a database that they share. It is never damaged in our sight, and what is
// deleted is cleared away by its own vacuum.
func postgres(open func() *sql.DB) engine {
	return engine{
		open: func(ctx context.Context) (*sql.DB, error) {
			db := open()
			if _, err := db.ExecContext(ctx, fmt.Sprintf(schema, "BYTEA")); err != nil {
				return nil, errors.Join(err, db.Close())
			}
			return db, nil
		},
		taken: func(err error) bool {
			var refused interface{ SQLState() string }
			return errors.As(err, &refused) && refused.SQLState() == uniqueViolation
		},
		broken:   func(error) bool { return false },
		setAside: func() (string, error) { return "", errors.New("a shared database is not set aside") },
		size: func(ctx context.Context, db *sql.DB) (n int64, err error) {
			// Of what is there: the table's file keeps its size when its oldest rows go.
			err = db.QueryRowContext(ctx, `SELECT COALESCE(SUM(pg_column_size(run)), 0) FROM precall_runs`).Scan(&n)
			return n, err
		},
		shrink: func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, `VACUUM precall_runs`)
			return err
		},
		tidy: func(time.Time) {},
	}
}

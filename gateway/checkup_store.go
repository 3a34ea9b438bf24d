package gateway

import "context"

// store asks the shared database for one row.
func (c *checkup) store(ctx context.Context) []Finding {
	d := c.g.database
	if d == nil {
		return []Finding{{Area: "store", About: "shared database", Verdict: Skip, Detail: "store is not set"}}
	}
	f := Finding{Area: "store", About: "shared database", Verdict: Pass}
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	var mayMake bool
	err := d.QueryRowContext(ctx, `select has_schema_privilege(current_schema(), 'create')`).Scan(&mayMake)
	switch {
	case err != nil:
		f.Verdict, f.Detail = Fail, databaseWhy(err)
		f.Todo = "calls work without it; let this machine reach the database, and have its owner let this user in (pg_hba.conf, password, TLS)"
	case !mayMake:
		f.Verdict, f.Detail = Fail, "this user may make no tables there"
		f.Todo = "make it the database's owner: ALTER DATABASE hafen OWNER TO hafen"
	default:
		f.Detail = "answers; this user may make tables"
	}
	return []Finding{f}
}

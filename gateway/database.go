package gateway

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"

	"hafen/gateway/certs"
	"hafen/gateway/netpolicy"
	"hafen/gateway/status"
)

// database is the PostgreSQL that several gateways share: certificates, precall runs, the list of gateways. No call waits for it: it is
// opened without being asked, every question to it ends after a few seconds, and while it is away each gateway goes on with what it has.
type database struct {
	*sql.DB
	another func() *sql.DB // opens further connections to the same
	log     *slog.Logger
	now     func() time.Time

	mu     sync.Mutex
	away   error // why it can't be reached; nil while it can
	events []status.Event
}

const (
	// databaseTimeout bounds one question, a new connection included.
	databaseTimeout = 5 * time.Second
	// maxDatabaseConns bounds what one gateway's parts may hold each.
	maxDatabaseConns = 4
	// maxDatabaseEvents are kept for the status page.
	maxDatabaseEvents = 50
)

// openDatabase reads the URL and dials nothing.
func openDatabase(url string, dial pgconn.DialFunc, log *slog.Logger, now func() time.Time) (*database, error) {
	cfg, err := pgx.ParseConfig(url)
	if err != nil {
		return nil, errors.New("store: " + databaseWhy(err))
	}
	cfg.ConnectTimeout = databaseTimeout
	// A name is resolved where it is dialled, by the gateway's own resolver.
	cfg.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cfg.DialFunc = dial
	cfg.RuntimeParams["application_name"] = "hafen"
	cfg.RuntimeParams["statement_timeout"] = fmt.Sprint(databaseTimeout.Milliseconds())
	cfg.RuntimeParams["lock_timeout"] = cfg.RuntimeParams["statement_timeout"]
	open := func() *sql.DB {
		db := stdlib.OpenDB(*cfg)
		db.SetMaxOpenConns(maxDatabaseConns)
		db.SetMaxIdleConns(1)
		db.SetConnMaxLifetime(30 * time.Minute)
		return db
	}
	return &database{DB: open(), another: open, log: log, now: now}, nil
}

// databaseWhy says why in words without the URL, which has a password in it. pgx names user, host and database in its errors.
func databaseWhy(err error) string {
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		return "it answers: " + refused.Message
	}
	var parse *pgconn.ParseConfigError
	if errors.As(err, &parse) {
		return "is no URL that PostgreSQL's clients take: write postgres://USER@HOST/DATABASE?sslmode=verify-full&passfile=FILE"
	}
	if errors.Is(err, context.DeadlineExceeded) || os.IsTimeout(err) {
		return "it does not answer within " + databaseTimeout.String()
	}
	var dialled *net.OpError
	if errors.As(err, &dialled) {
		return dialled.Err.Error()
	}
	var failed *pgconn.ConnectError
	if errors.As(err, &failed) {
		_, text, _ := strings.Cut(failed.Error(), ": ") // behind user, host and database
		return strings.TrimSpace(text)
	}
	return netpolicy.ErrorText(err)
}

// reached notes how a question went, and makes an event of a change.
func (d *database) reached(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	was := d.away
	d.away = err
	switch {
	case err != nil && was == nil:
		why := databaseWhy(err)
		d.log.Warn("the database can't be reached; calls go on", "err", why)
		d.tell("database-away", "The shared database can't be reached: "+why+". Calls go on, and so do the certificates in use; nothing is issued, and precall runs are not shared, until it is back.",
			"Look at the database, and at the firewall between it and this gateway.")
	case err == nil && was != nil:
		d.log.Info("the database is back")
		d.tell("database-back", "The shared database can be reached again.", "")
	}
}

func (d *database) tell(kind, sentence, advice string) {
	d.events = append(d.events, status.Event{Time: d.now(), Kind: kind, Sentence: sentence, Advice: advice})
	if n := len(d.events) - maxDatabaseEvents; n > 0 {
		d.events = d.events[n:]
	}
}

// newest are the events, newest first.
func (d *database) newest() []status.Event {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	out := slices.Clone(d.events)
	slices.Reverse(out)
	return out
}

// schemaLock is the advisory lock under which one gateway at a time makes tables; any number that nobody else takes.
const schemaLock = 0x68616665 // "hafe"

// prepare makes the tables that are missing.
func (d *database) prepare(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	tx, err := d.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	if _, err := tx.ExecContext(ctx, `select pg_advisory_xact_lock($1)`, schemaLock); err != nil {
		return err
	}
	for _, statement := range append(certs.Schema(), gatewaysSchema) {
		if _, err := tx.ExecContext(ctx, statement); err != nil {
			return err
		}
	}
	return tx.Commit()
}

func (g *Gateway) makeDatabase() (err error) {
	if g.opts.Config.Store == "" {
		return nil
	}
	g.database, err = openDatabase(g.opts.Config.Store, g.dialDatabase, g.log.With("area", "store"), g.opts.Now)
	return err
}

// dialDatabase dials the database of the configuration, which is a server of the house or of this machine.
func (g *Gateway) dialDatabase(ctx context.Context, network, addr string) (net.Conn, error) {
	if network == "unix" {
		return (&net.Dialer{}).DialContext(ctx, network, addr)
	}
	return g.dialNeighbour(ctx, network, addr)
}

// sharedDB is the database, or nil.
func (g *Gateway) sharedDB() *sql.DB {
	if g.database == nil {
		return nil
	}
	return g.database.DB
}

// startDatabase makes its tables, where it answers, and joins the list of gateways.
func (g *Gateway) startDatabase(ctx context.Context) error {
	if g.database == nil {
		return nil
	}
	g.database.reached(g.database.prepare(ctx))
	return g.startPeers()
}

package gateway

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"hafen/gateway/status"
)

// peers is the list of all gateways that share the database: each writes a line of its own, and reads those of the others.
type peers struct {
	db   *database
	self string // tells this gateway from others, over restarts
	run  string // tells this process from the one that takes over from it in an upgrade
	host string
	all  atomic.Pointer[[]status.Peer]
}

const (
	// peerPace is how often a gateway writes its line.
	peerPace = 5 * time.Second
	// peerMissing is the silence after which a gateway is said to be missing.
	peerMissing = 3 * peerPace
	// peerForgotten is the silence after which a gateway is taken off the list.
	peerForgotten = 24 * time.Hour
	// maxPeers bounds what is read.
	maxPeers = 100
)

// The time of a line is the database's, so that it does not matter whose clock is wrong.
const gatewaysSchema = `create table if not exists hafen_gateways (
	id text primary key, run text not null, host text not null, state jsonb not null, started timestamptz not null, seen timestamptz not null)`

// In an upgrade two processes are one gateway for a while: the line is the newer one's.
const upsertPeer = `insert into hafen_gateways as g (id, run, host, state, started, seen)
	values ($1, $2, $3, $4, now() - $5::float8 * interval '1 second', now())
	on conflict (id) do update set run = excluded.run, host = excluded.host, state = excluded.state, started = excluded.started, seen = excluded.seen
	where g.run = excluded.run or g.started < excluded.started`

// newPeers reads who this gateway is, or decides it at the first start.
func newPeers(db *database, dataDir string) (*peers, error) {
	p := &peers{db: db, run: rand.Text()}
	p.host, _ = os.Hostname()
	file := filepath.Join(dataDir, "gateway-id")
	data, err := os.ReadFile(file)
	p.self = strings.TrimSpace(string(data))
	if err != nil || p.self == "" {
		p.self = rand.Text()
		err = os.WriteFile(file, []byte(p.self+"\n"), 0o600)
	}
	return p, err
}

// keep keeps the line and the list fresh until ctx ends, then takes the line away: a gateway that was stopped is not missing.
func (p *peers) keep(ctx context.Context, state func() status.Peer) {
	ticker := time.NewTicker(peerPace)
	defer ticker.Stop()
	prepared := false
	for {
		if !prepared {
			err := p.db.prepare(ctx)
			prepared = err == nil
			p.note(ctx, err)
		}
		if prepared {
			p.note(ctx, p.exchange(ctx, state()))
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			last, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
			defer cancel()
			_, _ = p.db.ExecContext(last, `delete from hafen_gateways where id = $1 and run = $2`, p.self, p.run)
			return
		}
	}
}

// note passes on how the database is, but for the end of our own context.
func (p *peers) note(ctx context.Context, err error) {
	if ctx.Err() == nil {
		p.db.reached(err)
	}
}

// exchange writes this gateway's line and reads all of them.
func (p *peers) exchange(ctx context.Context, own status.Peer) error {
	ctx, cancel := context.WithTimeout(ctx, databaseTimeout)
	defer cancel()
	state, err := json.Marshal(own)
	if err != nil {
		return err
	}
	if _, err := p.db.ExecContext(ctx, upsertPeer, p.self, p.run, p.host, string(state), own.Uptime.Seconds()); err != nil {
		return err
	}
	if _, err := p.db.ExecContext(ctx, `delete from hafen_gateways where seen < now() - $1::float8 * interval '1 second'`, peerForgotten.Seconds()); err != nil {
		return err
	}
	rows, err := p.db.QueryContext(ctx, `select id, host, state, extract(epoch from now() - seen)::float8 from hafen_gateways order by host, id limit $1`, maxPeers)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	var all []status.Peer
	for rows.Next() {
		var (
			id, host string
			state    []byte
			silent   float64
			peer     status.Peer
		)
		if err := rows.Scan(&id, &host, &state, &silent); err != nil {
			return err
		}
		_ = json.Unmarshal(state, &peer) // of a newer version, perhaps: what is understood is shown
		peer.Host, peer.Self, peer.Silent = host, id == p.self, time.Duration(silent*float64(time.Second))
		peer.Missing = peer.Silent > peerMissing
		all = append(all, peer)
	}
	if err := rows.Err(); err != nil {
		return err
	}
	p.all.Store(&all)
	return nil
}

// list is what was read last.
func (p *peers) list() []status.Peer {
	if p == nil || p.all.Load() == nil {
		return nil
	}
	return *p.all.Load()
}

// ownState is this gateway's line.
func (g *Gateway) ownState() status.Peer {
	s := g.snapshot()
	return status.Peer{Name: s.Name, Version: s.Version, Verdict: s.Verdict, Sentence: s.Sentence, Draining: s.Draining, Uptime: s.Uptime, Counts: s.Counts}
}

// startPeers keeps this gateway on the list until Stop.
func (g *Gateway) startPeers() error {
	p, err := newPeers(g.database, g.config().DataDir)
	if err != nil {
		return err
	}
	g.peers = p
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		p.keep(g.ctx, g.ownState)
	}()
	return nil
}

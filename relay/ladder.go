package relay

import (
	"context"
	"net"
	"time"
)

const (
	// rungTimeout ends one attempt to connect; other rungs have had their start long before. Through the company's proxy
	// it is openTimeout: the proxy resolves and dials in that time, and there is no other rung left.
	rungTimeout = 2500 * time.Millisecond
	// openTimeout bounds the whole climb: a client that waits longer has given up.
	openTimeout = 5 * time.Second
	// firstAnswers is how long a client is kept waiting for the first probes after a start.
	firstAnswers = time.Second
	// maxAttempts bounds the sockets that one client may cause. A ladder has five rungs: a second region has its turn.
	maxAttempts = 12
	// proofAge is how old the last answer to a probe may be for a new uplink over a stream to need no proof of its own: it
	// has connected, and through TLS. Datagrams always need one: an attempt on a rung that has just died would look like
	// a success, and cost its client the whole time of finding that out. It costs the others one round trip.
	proofAge = time.Minute
)

// climb tries n things, the better ones first: each has a head start before the next is tried beside it, and none if
// the one before has failed (as RFC 8305 section 5 does for addresses). The first success wins and the others are
// discarded; climb returns when all of them have ended. Without a success the errors come back in order.
func climb[T any](ctx context.Context, n int, start func(int) time.Duration, try func(context.Context, int) (T, error), discard func(T)) (T, []error) {
	type end struct {
		i   int
		v   T
		err error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ends := make(chan end, n)
	begun, running := 0, 0
	next := time.NewTimer(time.Hour)
	defer next.Stop()
	begin := func() {
		for begun < n && ctx.Err() == nil {
			i := begun
			begun++
			running++
			go func() {
				v, err := try(ctx, i)
				ends <- end{i, v, err}
			}()
			if alone := start(i); alone > 0 {
				next.Reset(alone)
				return
			}
		}
	}
	var winner *end
	errs := make([]error, n)
	begin()
	for running > 0 {
		select {
		case <-next.C:
			begin()
		case e := <-ends:
			running--
			switch {
			case e.err != nil:
				errs[e.i] = e.err
				begin()
			case winner != nil:
				discard(e.v)
			default:
				winner = &e
				cancel()
			}
		}
	}
	if winner != nil {
		return winner.v, nil
	}
	var none T
	return none, errs[:begun]
}

// attempt is one rung that a new uplink may take.
type attempt struct {
	path     *path
	proof    bool // it must answer a Binding before it is believed
	doubtful bool // it owes answers already
}

// headStart is what the attempt has before the next is tried. One in doubt has none: when a region falls silent all its
// rungs do, and the next region's turn would come after all of theirs.
func (a attempt) headStart() time.Duration {
	if a.doubtful {
		return 0
	}
	return headStart
}

// attempts are the rungs of a region that a new session may take, the best first. Rungs nobody knows yet are among
// them: their head start costs a moment, and only after a start. With last also those that died and answer again.
func (g *region) attempts(now time.Time, last bool) []attempt {
	var list []attempt
	if g.cut() {
		return nil
	}
	for _, rg := range g.rungs {
		p := rg.current
		if p == nil || p.state == stateDown && !(last && p.recovering()) || p.state == stateUp && !p.usable() {
			continue
		}
		list = append(list, attempt{
			path: p, doubtful: p.doubtful(now),
			proof: rg.datagram() || p.state != stateUp || p.lastAnswer.IsZero() || now.Sub(p.lastAnswer) > proofAge,
		})
	}
	return list
}

// undecided reports whether the first answers of a region are still to come.
func (g *region) undecided(now time.Time) bool {
	if !g.active(now) || g.cut() || g.best() != nil {
		return false
	}
	for _, rg := range g.rungs {
		if rg.current == nil && rg.unnamed == "" || rg.current != nil && rg.current.state == stateUnknown {
			return true
		}
	}
	return false
}

// connect makes the connection of an attempt.
func (a attempt) connect(parent context.Context) (net.Conn, error) {
	limit := rungTimeout
	if a.path.rung.kind == rungProxy {
		limit = openTimeout
	}
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	conn, err := a.path.dial(ctx)
	if err != nil || !a.proof {
		return conn, err
	}
	c := &conversation{conn: conn, datagram: a.path.rung.datagram()}
	if _, err := c.binding(ctx, true); err != nil {
		_ = closeNow(conn)
		return nil, err
	}
	return conn, nil
}

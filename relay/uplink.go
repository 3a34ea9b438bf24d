package relay

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// stickyFor is how long a client that a substitute region refused goes to the region it asks for.
	stickyFor = 12 * time.Hour
	// maxSticky bounds the memory for that.
	maxSticky = 4096
)

// uplink is one session's connection to a region. The data path owns it from openUplink on: it reads, writes and
// closes it. Conn is a *net.UDPConn (connected) when datagram is true; else a *net.TCPConn, or a *tls.Conn over a
// *wire, so that the data path finds the socket beneath. Through the company's proxy the socket may be wrapped.
type uplink struct {
	net.Conn
	datagram bool
	region   *region
	rung     string

	path      *path
	askedHost string
	cause     error // why it died; written before die, read by its callee

	mu     sync.Mutex
	onDead func(cause error)
	dead   bool
	closed bool
}

// noRegionError says that no region takes a session, and which rung failed where.
type noRegionError struct{ text string }

func (e *noRegionError) Error() string        { return e.text }
func (e *noRegionError) Status() string       { return "err_upstream" }
func (e *noRegionError) Is(target error) bool { return target == errNoRegion }

var errNoRegion = errors.New("no region is up")

// deadError says that the rung an uplink was on is dead.
type deadError struct{ text string }

func (e *deadError) Error() string  { return e.text }
func (e *deadError) Status() string { return "err_upstream" }

// openUplinkFor connects a client to the best region of its service over its best rung; one that a substitute region has
// refused gets the region that it asks for. It blocks until it is the client's turn (see arrivals), and then for openTimeout at most; ctx ends
// with the session. An error means that no region is up, or that the client asks too often; it has a status word.
func (s *Server) openUplinkFor(ctx context.Context, c Client) (*uplink, error) {
	if err := s.arrivals.await(ctx, c.Addr.Addr(), s.config().Limits.AllocationsPerClient); err != nil {
		return nil, err
	}
	for {
		if r := s.regions(); r.enter() { // else another has just taken its place
			defer r.leave()
			return r.open(ctx, c.Service, c.AskedHost, c.Addr.Addr())
		}
	}
}

func (r *regions) open(parent context.Context, service, askedHost string, client netip.Addr) (*uplink, error) {
	s := r.serviceNamed(service)
	if s == nil {
		return nil, &noRegionError{fmt.Sprintf("there is no service %q", service)}
	}
	ctx, cancel := context.WithTimeout(parent, openTimeout)
	defer cancel()
	asked := s.regionOfHost(askedHost)
	var failed []string
	for _, group := range r.plan(ctx, s, asked, client) {
		u, errs := r.climb(ctx, group)
		if u != nil {
			u.askedHost = askedHost
			return u, nil
		}
		for i, err := range errs {
			if p := group[i].path; err != nil {
				failed = append(failed, fmt.Sprintf("%s %s: %s", p.rung.region.name, p.rung.name, p.rung.explain(err)))
			}
		}
	}
	if err := parent.Err(); err != nil {
		return nil, &noRegionError{"given up: " + err.Error()}
	}
	return nil, r.noRegion(s, failed)
}

// plan lists what to try, in groups: what is in one is tried side by side, with a head start for the better ones. It
// waits a moment when the first probes are still under way.
func (r *regions) plan(ctx context.Context, s *callService, asked *region, client netip.Addr) [][]attempt {
	patience := time.NewTimer(firstAnswers)
	defer patience.Stop()
	for waiting := true; ; {
		r.mu.Lock()
		now := r.now()
		groups, undecided := s.plan(now, s.preferred(now, asked, client))
		changed := r.changed
		r.mu.Unlock()
		if !undecided || !waiting {
			return groups
		}
		select {
		case <-changed:
		case <-patience.C:
			waiting = false
		case <-ctx.Done():
			waiting = false
		}
	}
}

// preferred is the region that a client must get if it lives: the one it asked for, where the service is to be used
// as asked or a substitute has refused the client. nil: the nearest.
func (s *callService) preferred(now time.Time, asked *region, client netip.Addr) *region {
	if asked == nil || !s.asAsked && !s.isSticky(now, asked, client) {
		return nil
	}
	if !asked.use && !now.Before(asked.wantedUntil) {
		asked.wantedUntil = now.Add(wantedFor)
		asked.out.nudge()
	} else if !asked.use {
		asked.wantedUntil = now.Add(wantedFor)
	}
	return asked
}

// plan is the decision behind regions.plan. It reports whether waiting for probes may change it for the better.
func (s *callService) plan(now time.Time, preferred *region) (groups [][]attempt, undecided bool) {
	if preferred != nil {
		if list := preferred.attempts(now, false); len(list) > 0 {
			groups = append(groups, list)
		}
		undecided = preferred.undecided(now)
	}
	order, any := s.nearestFirst(preferred)
	var rest []attempt
	for _, g := range order {
		if g.best() != nil {
			rest = append(rest, g.attempts(now, false)...)
		}
	}
	if !any && preferred == nil {
		for _, g := range order {
			undecided = undecided || g.undecided(now)
			rest = append(rest, g.attempts(now, true)...)
		}
	}
	if len(rest) > 0 {
		groups = append(groups, rest[:min(len(rest), maxAttempts)])
	}
	return groups, undecided
}

// nearestFirst is the regions for use, the chosen one first, then by round trip. any: one of them is usable.
func (s *callService) nearestFirst(but *region) (order []*region, any bool) {
	for _, g := range s.regions {
		if g.use && g != but {
			order = append(order, g)
			any = any || g.best() != nil
		}
	}
	rank := func(g *region) time.Duration {
		rg := g.best()
		switch {
		case g.name == s.choice.region:
			return -1
		case rg == nil:
			return time.Hour
		}
		return rg.current.rtt
	}
	slices.SortStableFunc(order, func(a, b *region) int { return cmp.Compare(rank(a), rank(b)) })
	return order, any
}

// climb tries a group and makes an uplink of the winner.
func (r *regions) climb(ctx context.Context, group []attempt) (*uplink, []error) {
	type won struct {
		attempt
		conn net.Conn
	}
	w, errs := climb(ctx, len(group), func(i int) time.Duration { return group[i].headStart() },
		func(ctx context.Context, i int) (won, error) {
			conn, err := group[i].connect(ctx)
			if err != nil {
				r.doubt(ctx, group[i].path)
			}
			return won{group[i], conn}, err
		},
		func(w won) { _ = closeNow(w.conn) })
	if w.conn == nil {
		return nil, errs
	}
	p := w.path
	u := &uplink{Conn: w.conn, datagram: p.rung.datagram(), region: p.rung.region, rung: p.rung.name, path: p}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if w.proof {
		p.packet(now)
	}
	if p.state != stateUp && !w.proof {
		_ = closeNow(w.conn)
		errs := make([]error, len(group))
		errs[slices.Index(group, w.attempt)] = &deadError{"it died meanwhile: " + p.reason}
		return nil, errs
	}
	if p.state != stateUp {
		// It has just answered, and there was nothing better.
		p.worked = true
		p.set(stateUp, "", now)
		p.rung.region.tell(now)
	}
	p.uplinks[u] = struct{}{}
	r.nudge()
	return u, nil
}

// doubt has a path that failed a session probed at once. An attempt that was called off says nothing.
func (r *regions) doubt(ctx context.Context, p *path) {
	if ctx.Err() != nil {
		return
	}
	r.mu.Lock()
	if p.state == stateUp && r.now().Sub(p.lastSent) > probeFast {
		p.lastSent = p.lastSent.Add(-probeNever)
	}
	r.mu.Unlock()
	r.nudge()
}

// noRegion is the refusal when nothing works: it says which rung failed where.
func (r *regions) noRegion(s *callService, failed []string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var told []string
	for _, g := range s.regions {
		if !g.use {
			continue
		}
		for _, rg := range g.rungs {
			if state, reason := rg.state(); state == stateDown {
				told = append(told, fmt.Sprintf("%s %s: %s", g.name, rg.name, reason))
			}
		}
	}
	for _, f := range failed {
		if !slices.Contains(told, f) {
			told = append(told, f)
		}
	}
	if len(told) == 0 {
		told = append(told, "none has answered yet")
	}
	return &noRegionError{fmt.Sprintf("no region of %s is up: %s", s.name, strings.Join(told, "; "))}
}

// sawPacket notes that something arrived from the region. It is for the fast path: a read of a flag, most times.
func (u *uplink) sawPacket() {
	if !u.path.seen.Load() {
		u.path.seen.Store(true)
	}
}

// whenDead has f called once, from any goroutine, when the rung of u is found dead; at once if it is already. f does
// not block. Close forgets f.
func (u *uplink) whenDead(f func(cause error)) {
	u.mu.Lock()
	dead := u.dead && !u.closed
	if !dead {
		u.onDead = f
	}
	u.mu.Unlock()
	if dead {
		f(u.cause)
	}
}

func (u *uplink) die() {
	u.mu.Lock()
	u.dead = true
	f := u.onDead
	u.onDead = nil
	u.mu.Unlock()
	if f != nil {
		f(u.cause)
	}
}

// Close ends the uplink. It may be called more than once and from any goroutine.
func (u *uplink) Close() error {
	u.mu.Lock()
	first := !u.closed
	u.closed = true
	u.onDead = nil
	u.mu.Unlock()
	if !first {
		return nil
	}
	r := u.region.out
	r.mu.Lock()
	delete(u.path.uplinks, u)
	r.mu.Unlock()
	r.nudge()
	return closeNow(u.Conn)
}

// suspect has the uplink's path probed at once: the data path calls it when the kernel reports that the region refused
// a packet. That kills one session; whether it kills others, probes find out.
func (u *uplink) suspect() { u.region.out.doubt(context.Background(), u.path) }

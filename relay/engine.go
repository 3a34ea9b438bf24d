package relay

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"

	"hafen/gateway/defect"
	"hafen/gateway/netpolicy"
)

// What an allocation may ask for and gets (RFC 8656 section 7.2).
const (
	defaultLifetime = 10 * time.Minute
	maxLifetime     = time.Hour
	// maxAllocationAge ends an allocation that its client refreshes for ever, long after its credential expired.
	maxAllocationAge = 12 * time.Hour
)

// sweepInterval is how often expired allocations are looked for. They stop working at once when their time is up; the sweep frees
// what they hold.
const sweepInterval = time.Second

// engine is a TURN server without sockets: whole messages of clients in, answers out, and behind it one backend or several that
// make relayed addresses. It keeps the allocations with their permissions and channels, the quotas, nonces and the rules of RFC
// 8656 and 8489; what a relayed address is, and whom it may talk to, is the backend's business.
//
// Nothing is remembered about a client before its credential was checked: the 401 that it gets first can be told from a forged
// one by its nonce alone.
type engine struct {
	engineOptions
	nonces *nonces

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu          sync.Mutex
	allocations map[*allocation]struct{}
	perUser     map[string]int
	perClient   map[netip.Prefix]int
	held        int // allocations, and places kept for those under way
	closed      bool

	limits  atomic.Pointer[engineLimits]
	guests  atomic.Pointer[guests] // of the services, where the gateway has users of its own
	metrics *engineMetrics
}

// engineOptions are the world of an engine.
type engineOptions struct {
	// realm is what challenges name.
	realm string
	// find tells who stands behind a user name of a service's client. It returns an account to check the signature against even when there is nobody,
	// so that a stranger's name takes as long as a known one's; the error then says why it is refused.
	find func(service, username string, now time.Time) (account, error)
	// clients mints for the gateway's own users; nil in mode bridge, which has none.
	clients *authority
	// bounds are the first ones: see engine.bound.
	bounds engineBounds
	// test is the test relay, which every mode has.
	test *testRelay
	// main makes relayed addresses for the gateway's own users; nil in mode bridge.
	main modeBackend
	// backends are what is swept and closed with the engine.
	backends []swept
	// draining tells that no allocations but tests' are made any more. nil: never.
	draining func() bool
	// refused is told why an allocation failed through no doing of its client, who hears a code only. nil: nobody wants to know.
	refused func(why error)
	// defects is told of panics. nil: nobody is.
	defects *defect.Catcher
	// now is the clock.
	now func() time.Time
}

func startEngine(o engineOptions) *engine {
	e := &engine{
		engineOptions: o,
		nonces:        newNonces(),
		allocations:   make(map[*allocation]struct{}),
		perUser:       make(map[string]int),
		perClient:     make(map[netip.Prefix]int),
		metrics:       newEngineMetrics(),
	}
	e.bound(o.bounds)
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.wg.Add(1)
	go e.sweepAlways()
	return e
}

func (e *engine) sweepAlways() {
	defer e.wg.Done()
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-tick.C:
			e.sweepCaught()
		}
	}
}

// sweepCaught is sweep; what a defect leaves undone is done the next time.
func (e *engine) sweepCaught() {
	defer e.defects.Catch(nil)
	e.sweep(e.now())
}

// sweep ends what is past its time.
func (e *engine) sweep(now time.Time) {
	for _, a := range e.snapshot() {
		if a.expired(now) {
			e.end(a)
		}
	}
	for _, b := range e.backends {
		b.sweep(now)
	}
}

func (e *engine) snapshot() []*allocation {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*allocation, 0, len(e.allocations))
	for a := range e.allocations {
		all = append(all, a)
	}
	return all
}

// close ends every allocation and waits for what is under way.
func (e *engine) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	for _, a := range e.snapshot() {
		e.end(a)
	}
	e.wg.Wait()
	for _, b := range e.backends {
		b.close()
	}
}

// reserve keeps a place for one allocation, or says which bound is reached: 486 for the client's own, 508 for the gateway's.
func (e *engine) reserve(name string, quota int, client netip.Addr) *turnError {
	e.mu.Lock()
	defer e.mu.Unlock()
	network, limits := netpolicy.Client(client), e.limits.Load()
	switch {
	case e.closed || e.ctx.Err() != nil:
		return &turnError{code: codeInsufficientCapacity, why: "the gateway is closing"}
	case quota > 0 && e.perUser[name] >= quota:
		return &turnError{code: codeAllocationQuota, why: fmt.Sprintf("the user holds %d allocations", quota)}
	case limits.maxPerClient > 0 && e.perClient[network] >= limits.maxPerClient:
		return &turnError{code: codeAllocationQuota, why: fmt.Sprintf("the client holds %d allocations", limits.maxPerClient)}
	case limits.maxTotal > 0 && e.held >= limits.maxTotal:
		return &turnError{code: codeInsufficientCapacity, why: fmt.Sprintf("the gateway holds %d allocations", limits.maxTotal)}
	}
	e.perUser[name]++
	e.perClient[network]++
	e.held++
	return nil
}

func (e *engine) release(name string, client netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held--
	countDown(e.perUser, name)
	countDown(e.perClient, netpolicy.Client(client))
}

func countDown[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// keep takes an allocation whose place was reserved into the table; false: the engine has closed meanwhile.
func (e *engine) keep(a *allocation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.allocations[a] = struct{}{}
	return true
}

// end frees an allocation: its relayed address, its place in the table and in the quotas. Only the first call does anything.
func (e *engine) end(a *allocation) {
	if !a.finish() {
		return
	}
	a.tuple.allocation.CompareAndSwap(a, nil)
	e.mu.Lock()
	delete(e.allocations, a)
	e.mu.Unlock()
	e.release(a.user, a.tuple.client.Addr.Addr())
	a.relayed.close()
}

// lose ends an allocation through no doing of its client, and tells so.
func (e *engine) lose(a *allocation, cause error) {
	if a.tuple.allocation.Load() != a {
		return
	}
	e.end(a)
	if a.tuple.lost != nil {
		a.tuple.lost(cause)
	}
}

// engineStats is what the engine shows of itself.
type engineStats struct {
	Allocations     int
	TestRuns        int
	TestAllocations int
}

func (e *engine) stats() engineStats {
	e.mu.Lock()
	st := engineStats{Allocations: len(e.allocations)}
	e.mu.Unlock()
	if e.test != nil {
		st.TestRuns, st.TestAllocations = e.test.count()
	}
	return st
}

// open takes a client. send delivers one whole message to it: it copies, never blocks, and may be called from any goroutine.
func (e *engine) open(c Client, send func(msg []byte)) *fiveTuple {
	return &fiveTuple{engine: e, client: c, stream: c.Via != "udp", send: send}
}

// challenge is the 401 to a request that carries no MESSAGE-INTEGRITY.
func (e *engine) challenge(msg []byte, c Client) []byte {
	var m message
	if m.parse(msg) != nil || m.class != stun.ClassRequest {
		return nil
	}
	var out []byte
	t := e.open(c, func(answer []byte) { out = answer })
	r := reply{tuple: t, method: m.method, id: m.id, realm: e.realm, fingerprint: m.fingerprint}
	r.challenge(codeUnauthorized)
	return out
}

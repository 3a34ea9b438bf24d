package relay

import (
	"net/netip"
	"sync"
	"sync/atomic"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// table is every session, and how many allocations each client holds.
type table struct {
	limits configs.Limits
	live   atomic.Int64 // sessions that hold an allocation

	mu       sync.Mutex
	sessions map[*session]struct{}
	serial   uint64
	places   map[netip.Prefix]int // allocations and requests for one under way, per client
	taken    int
}

func newTable(limits configs.Limits) *table {
	return &table{limits: limits, sessions: make(map[*session]struct{}), places: make(map[netip.Prefix]int)}
}

func (t *table) add(ses *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.serial++
	ses.serial = t.serial
	t.sessions[ses] = struct{}{}
}

func (t *table) remove(ses *session) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.sessions, ses)
}

// all appends the sessions, in no order, to list.
func (t *table) all(list []*session) []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	for ses := range t.sessions {
		list = append(list, ses)
	}
	return list
}

func (t *table) len() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.sessions)
}

func (t *table) allocated() int { return int(t.live.Load()) }

// reserve takes a place for one allocation of a client. A bound of 0 is none.
func (t *table) reserve(client netip.Addr) *turnError {
	network := netpolicy.Client(client)
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.limits.AllocationsPerClient > 0 && t.places[network] >= t.limits.AllocationsPerClient:
		return &turnError{codeAllocationQuota, "limits.allocations_per_client"}
	case t.limits.Allocations > 0 && t.taken >= t.limits.Allocations:
		return &turnError{codeInsufficientCapacity, "limits.allocations"}
	}
	t.places[network]++
	t.taken++
	return nil
}

// release gives a reserved place back.
func (t *table) release(client netip.Addr) {
	network := netpolicy.Client(client)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.taken--
	if t.places[network]--; t.places[network] <= 0 {
		delete(t.places, network)
	}
}

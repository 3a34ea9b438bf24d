package relay

import (
	"net/netip"
	"slices"
	"sync"

	"hafen/gateway/netpolicy"
)

// maxUnverified bounds the five-tuples on the way to an allocation: each holds a socket towards a region.
const maxUnverified = 256

// strangers are the UDP five-tuples that have not won an allocation yet, of all listeners together, and the budget of their
// addresses: one who asks at two ports gets no more than one who asks at one.
//
// Where there are too many, the one that has waited longest makes room for the newest, unless it has shown that it receives. So
// whoever invents sources, and never answers a challenge, fills the place with nothing: a client needs it only until it has answered
// its own, which is a matter of two round trips.
type strangers struct {
	*budget
	perClient int // 0: no bound

	mu    sync.Mutex
	queue []*packetClient // oldest first
	each  map[netip.Prefix]int
}

func newStrangers(perClient int) *strangers {
	return &strangers{budget: newBudget(), perClient: perClient, each: make(map[netip.Prefix]int)}
}

// welcome takes c in. It returns who had to make room, for the caller to end; false: c must stay outside.
func (s *strangers) welcome(c *packetClient) (ousted *packetClient, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.perClient > 0 && s.each[netpolicy.Client(c.tuple.client.Addr())] >= s.perClient {
		return nil, false
	}
	if len(s.queue) >= maxUnverified {
		i := slices.IndexFunc(s.queue, func(c *packetClient) bool { return !c.proof.shown() })
		if i < 0 {
			return nil, false
		}
		ousted = s.queue[i]
		s.take(i)
	}
	s.queue = append(s.queue, c)
	s.each[netpolicy.Client(c.tuple.client.Addr())]++
	return ousted, true
}

// take removes the i-th. The caller has the lock.
func (s *strangers) take(i int) {
	countDown(s.each, netpolicy.Client(s.queue[i].tuple.client.Addr()))
	s.queue = slices.Delete(s.queue, i, i+1)
}

// know ends c's time as a stranger: it has won an allocation, and its address has a larger budget for it.
func (s *strangers) know(c *packetClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.queue, c); i >= 0 {
		s.take(i)
		c.known = true
		s.budget.know(c.tuple.client.Addr())
	}
}

// forget is told that c is gone.
func (s *strangers) forget(c *packetClient) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.queue, c); i >= 0 {
		s.take(i)
	}
	if c.known {
		c.known = false
		s.budget.forget(c.tuple.client.Addr())
	}
}

// limit changes how many one client may have, from now on.
func (s *strangers) limit(perClient int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.perClient = perClient
}

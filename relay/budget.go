package relay

import (
	"hash/maphash"
	"net/netip"
	"sync"
	"time"
)

// What a UDP source that has not proved that it receives may be answered: anybody can put another's address into a datagram, and an
// answer is longer than what asked for it.
const (
	budgetAnswers = 10
	budgetBytes   = 2 << 10
	budgetTime    = 10 * time.Second
	// budgetRequests bounds what is looked at for a source at all: requests come faster than a region's answers to them.
	budgetRequests = 2 * budgetAnswers

	budgetSpan    = budgetTime / 2 // the counts of three spans cover budgetTime wherever it begins
	budgetSlots   = 1 << 16
	typicalAnswer = 100 // a challenge with its realm and nonce
)

// budget counts the answers to sources that have proved nothing, per client (an IPv4 address or a /64; the port plays no part). It
// is a table of fixed size, 1 MiB: a flood from invented sources cannot make it grow. Sources that meet in one slot share its
// budget, so the bound is kept, never exceeded.
type budget struct {
	seed  maphash.Seed
	mu    sync.Mutex
	slots []budgetSlot
}

type budgetSlot struct {
	span     uint32 // the latest
	requests [3]uint8
	answers  [3]uint8
	bytes    [3]uint16
}

func newBudget() *budget {
	return &budget{seed: maphash.MakeSeed(), slots: make([]budgetSlot, budgetSlots)}
}

func (b *budget) slot(client netip.Addr, now time.Time) *budgetSlot {
	s := &b.slots[maphash.Comparable(b.seed, clientNetwork(client))%budgetSlots]
	span := uint32(now.UnixNano() / int64(budgetSpan))
	if back := span - s.span; back >= 3 {
		*s = budgetSlot{}
	} else {
		for i := s.span + 1; i != span+1; i++ {
			s.requests[i%3], s.answers[i%3], s.bytes[i%3] = 0, 0, 0
		}
	}
	s.span = span
	return s
}

func (s *budgetSlot) has(bytes int) bool {
	return sum(s.answers) < budgetAnswers && sum(s.bytes)+bytes <= budgetBytes
}

func sum[N uint8 | uint16](of [3]N) int { return int(of[0]) + int(of[1]) + int(of[2]) }

// allows tells whether a request may be worked on: an answer of usual length could be paid. It counts the request.
func (b *budget) allows(client netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slot(client, now)
	if sum(s.requests) >= budgetRequests || !s.has(typicalAnswer) {
		return false
	}
	s.requests[s.span%3]++
	return true
}

// spend pays for an answer; false: it must not be sent.
func (b *budget) spend(client netip.Addr, bytes int, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slot(client, now)
	if !s.has(bytes) {
		return false
	}
	s.answers[s.span%3]++
	s.bytes[s.span%3] += uint16(bytes)
	return true
}

package relay

import (
	"bytes"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v2"

	"hafen/gateway/netpolicy"
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

	// maxBudgetShares is how often the budget an address may get at the most: 2,000 answers and 400 KiB.
	maxBudgetShares = 200
	// maxProofs is how many answers a five-tuple gets beside the budget because its Allocates carry a nonce that only it was sent:
	// the one that makes it verified, and a few that went wrong or astray.
	maxProofs = 4
)

// budget counts the answers to sources that have proved nothing, per client (an IPv4 address or a /64; the port plays no part). It
// is a table of fixed size, 2 MiB: a flood from invented sources cannot make it grow. Sources that meet in one slot share its
// budget, so the bound is kept, never exceeded.
//
// A NAT has a whole ward behind its address. So an address gets the budget once more for each verified five-tuple that it has: what
// somebody could have sent there in its name stays small beside the media that goes there anyway.
type budget struct {
	seed     maphash.Seed
	mu       sync.Mutex
	slots    []budgetSlot
	verified map[netip.Prefix]int // five-tuples
}

type budgetSlot struct {
	span     uint32 // the latest
	requests [3]uint16
	answers  [3]uint16
	bytes    [3]uint32
}

func newBudget() *budget {
	return &budget{seed: maphash.MakeSeed(), slots: make([]budgetSlot, budgetSlots), verified: make(map[netip.Prefix]int)}
}

// know counts one more verified five-tuple of a client; each owes one forget.
func (b *budget) know(client netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.verified[netpolicy.Client(client)]++
}

func (b *budget) forget(client netip.Addr) {
	b.mu.Lock()
	defer b.mu.Unlock()
	countDown(b.verified, netpolicy.Client(client))
}

// shares is how often a client has the budget. The caller has the lock.
func (b *budget) shares(client netip.Addr) int {
	return min(1+b.verified[netpolicy.Client(client)], maxBudgetShares)
}

func (b *budget) slot(client netip.Addr, now time.Time) *budgetSlot {
	s := &b.slots[maphash.Comparable(b.seed, netpolicy.Client(client))%budgetSlots]
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

func (s *budgetSlot) has(bytes, shares int) bool {
	return sum(s.answers) < shares*budgetAnswers && sum(s.bytes)+bytes <= shares*budgetBytes
}

func sum[N uint16 | uint32](of [3]N) int { return int(of[0]) + int(of[1]) + int(of[2]) }

// allows tells whether a request may be worked on: an answer of usual length could be paid. It counts the request.
func (b *budget) allows(client netip.Addr, now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.slot(client, now)
	if shares := b.shares(client); sum(s.requests) >= shares*budgetRequests || !s.has(typicalAnswer, shares) {
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
	if !s.has(bytes, b.shares(client)) {
		return false
	}
	s.answers[s.span%3]++
	s.bytes[s.span%3] += uint32(bytes)
	return true
}

// proof is what a five-tuple that has no allocation yet has shown of itself: an Allocate with a nonce that it alone was sent comes
// from one that receives. Otherwise many clients that begin at once behind one NAT would use the budget up on challenges, and
// nothing would be left for the answers that make them verified.
type proof struct {
	mu    sync.Mutex
	nonce []byte // the latest that it was sent; nil: none, or the gateway's own, which can be told without memory
	given int
	owed  int
}

// sent remembers the nonce of an answer.
func (p *proof) sent(answer []byte) {
	if nonce := attribute(answer, stun.AttrNonce); len(nonce) >= minProofNonce {
		p.mu.Lock()
		p.nonce = append(p.nonce[:0], nonce...)
		p.mu.Unlock()
	}
}

// minProofNonce is the least length of a nonce that nobody guesses: a region chooses it, not we.
const minProofNonce = 8

// knows tells whether nonce is the one that was sent.
func (p *proof) knows(nonce []byte) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.nonce) > 0 && bytes.Equal(p.nonce, nonce)
}

// shown tells whether the five-tuple has ever come with such a nonce.
func (p *proof) shown() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.given > 0
}

// give grants one answer; false: there were enough.
func (p *proof) give() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.given == maxProofs {
		return false
	}
	p.given++
	p.owed++
	return true
}

// spend pays for one answer out of what was given.
func (p *proof) spend() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.owed == 0 {
		return false
	}
	p.owed--
	return true
}

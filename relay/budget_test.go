package relay

import (
	"crypto/rand"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// rawFrom is a UDP client with a source address of its own.
func (h *house) rawFrom(ip string) *rawTURN {
	h.t.Helper()
	conn, err := net.DialUDP("udp", &net.UDPAddr{IP: net.ParseIP(ip)}, h.udpAddr())
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return &rawTURN{t: h.t, conn: conn}
}

// An address has the budget once more for each verified five-tuple, and no longer than these last.
func TestBudgetGrowsWithTheVerified(t *testing.T) {
	b := newBudget()
	now := time.Unix(1000, 0)
	nat, other := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
	spend := func(a netip.Addr, now time.Time) (n int) {
		for b.spend(a, 60, now) {
			n++
		}
		return n
	}
	if got := spend(nat, now); got != budgetAnswers {
		t.Errorf("%d answers to a stranger", got)
	}
	for range 3 {
		b.know(nat)
	}
	if got := spend(nat, now); got != 3*budgetAnswers {
		t.Errorf("%d more answers with three calls", got)
	}
	if got := spend(other, now); got != budgetAnswers {
		t.Errorf("%d answers to its neighbour", got)
	}
	for range 3 {
		b.forget(nat)
	}
	if got := spend(nat, now.Add(time.Minute)); got != budgetAnswers {
		t.Errorf("%d answers when they have gone", got)
	}
	if len(b.verified) != 0 {
		t.Errorf("%d addresses are remembered", len(b.verified))
	}
	for range 10 * maxBudgetShares {
		b.know(nat)
	}
	if got := spend(nat, now.Add(2*time.Minute)); got != maxBudgetShares*budgetAnswers {
		t.Errorf("%d answers with a whole company", got)
	}
}

func TestProof(t *testing.T) {
	var p proof
	challenge := func(nonce string) []byte {
		return stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), stun.NewNonce(nonce)).Raw
	}
	if p.knows(nil) || p.spend() {
		t.Error("nothing was sent, and it is proven")
	}
	p.sent(challenge("short"))
	if p.knows([]byte("short")) {
		t.Error("a nonce that can be guessed is a proof")
	}
	p.sent(challenge("0123456789abcdef"))
	if !p.knows([]byte("0123456789abcdef")) || p.knows([]byte("0123456789abcdeg")) || p.knows(nil) {
		t.Error("the nonce that was sent is not known")
	}
	for range maxProofs {
		if !p.give() || !p.spend() {
			t.Fatal("too few answers")
		}
	}
	if p.give() || p.spend() {
		t.Error("answers without end")
	}
}

// strict answers like a region that checks its nonces: each client has its own.
func strict() func(raw []byte) [][]byte {
	var mu sync.Mutex
	issued := make(map[string]bool)
	return func(raw []byte) [][]byte {
		var m message
		if m.parse(raw) != nil || m.method != stun.MethodAllocate {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		if m.signed() && issued[string(attribute(raw, stun.AttrNonce))] {
			return [][]byte{response(&m, stun.ClassSuccessResponse, lifetimeAttr(600))}
		}
		nonce := rand.Text()
		issued[nonce] = true
		return [][]byte{response(&m, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.Realm("r"), stun.NewNonce(nonce))}
	}
}

// begin wins an allocation as a browser does: it asks again until it is answered. It returns the code of the last answer.
func (c *rawTURN) begin(giveUp time.Time) bool {
	nonce := ""
	for time.Now().Before(giveUp) {
		msg := request(stun.MethodAllocate, udpTransport)
		if nonce != "" {
			msg = request(stun.MethodAllocate, udpTransport, stun.Username("u"), stun.Realm("r"), stun.NewNonce(nonce), testKey)
		}
		if _, err := c.conn.Write(msg); err != nil {
			return false
		}
		_ = c.conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		answer, err := c.next()
		switch {
		case err != nil:
		case messageType(answer) == allocateSuccess:
			return true
		default:
			nonce = string(attribute(answer, stun.AttrNonce))
		}
	}
	return false
}

// A ward behind one address that begins to call at once gets there within moments, though ten challenges are all that strangers are
// told: who answers a challenge is none.
func TestManyUDPClientsBehindOneAddress(t *testing.T) {
	t.Parallel()
	h := newHouse(t, newTape(t, strict()).urls(), nil)
	const clients = 60
	var won atomic.Int64
	var wg sync.WaitGroup
	giveUp := time.Now().Add(9 * time.Second) // before the budget is anew
	for range clients {
		c := h.rawFrom("127.0.0.3")
		wg.Go(func() {
			if c.begin(giveUp) {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if n := won.Load(); n != clients {
		t.Errorf("%d of %d clients have an allocation", n, clients)
	}
}

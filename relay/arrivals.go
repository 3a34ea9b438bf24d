package relay

import (
	"context"
	"hash/maphash"
	"net/netip"
	"sync"
	"time"

	"hafen/gateway/netpolicy"
)

const (
	// arrivalSlots bounds the memory: two clients that meet in one slot share its pace.
	arrivalSlots = 1 << 14
	// arrivalShare of what a client may hold it may begin anew each second, and slowestArrivals at least.
	arrivalShare    = 10
	slowestArrivals = 10
	// longestArrival is how long a client's turn is waited for. Browsers give up on a relay after some ten seconds.
	longestArrival = 5 * time.Second
)

// arrivals spreads out what one client (an IPv4 address or a /64) begins. To reach a region for it is the most costly thing that a client
// can ask for: sockets, a proof that the region answers, an end with its log line. So it gets as many at once as it may hold, which a
// ward behind one NAT needs when its region dies, and then a tenth of that each second; beyond that its sessions wait for their turn. Whoever
// wins allocations and throws them away, or asks at its limit for ever more, delays itself, and no call beside.
//
// It is the generic cell rate algorithm (ITU-T I.371): a slot keeps when the next turn would be, had there been no burst.
type arrivals struct {
	seed maphash.Seed
	mu   sync.Mutex
	due  [arrivalSlots]int64 // as nanoseconds() counts
}

func newArrivals() *arrivals { return &arrivals{seed: maphash.MakeSeed()} }

var errHurry = fail("err_limit", "this client begins more allocations than one may hold, again and again (`limits.allocations_per_client`)")

// turn tells how long a client has to wait before one more is begun for it. hold is how many it may hold; 0: any number, and it never waits. An
// error: the wait would be too long, and nothing was noted.
func (a *arrivals) turn(client netip.Addr, hold int, now int64) (time.Duration, error) {
	if hold <= 0 {
		return 0, nil
	}
	each := int64(time.Second) / int64(max(hold/arrivalShare, slowestArrivals))
	a.mu.Lock()
	defer a.mu.Unlock()
	due := &a.due[maphash.Comparable(a.seed, netpolicy.Client(client))%arrivalSlots]
	next := max(*due, now) + each
	wait := max(next-int64(hold)*each-now, 0)
	if wait > int64(longestArrival) {
		return 0, errHurry
	}
	*due = next
	return time.Duration(wait), nil
}

// await waits for a client's turn.
func (a *arrivals) await(ctx context.Context, client netip.Addr, hold int) error {
	wait, err := a.turn(client, hold, nanoseconds())
	if wait == 0 || err != nil {
		return err
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

package precall

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"hafen/gateway/netpolicy"
)

// maxClients bounds what a limit remembers; beyond it clients share one bucket.
const maxClients = 10_000

// rateLimit is a bucket of tokens for each client and one for all together.
type rateLimit struct {
	mu      sync.Mutex
	clients map[netip.Prefix]*rate.Limiter
	all     *rate.Limiter
	each    rate.Limit
	burst   int
	now     func() time.Time
	swept   time.Time
}

// newRateLimit allows a client so many a second after a burst, and all together so many a second.
func newRateLimit(perSecond float64, burst int, all float64, now func() time.Time) *rateLimit {
	return &rateLimit{
		clients: map[netip.Prefix]*rate.Limiter{}, all: rate.NewLimiter(rate.Limit(all), int(2*all)),
		each: rate.Limit(perSecond), burst: burst, now: now,
	}
}

// allow takes a token. Clients with a full bucket are forgotten once a minute.
func (l *rateLimit) allow(a netip.Addr) bool {
	client, now := netpolicy.Client(a), l.now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.swept) > time.Minute {
		l.swept = now
		for key, b := range l.clients {
			if b.TokensAt(now) >= float64(l.burst) {
				delete(l.clients, key)
			}
		}
	}
	b := l.clients[client]
	if b == nil {
		if len(l.clients) >= maxClients {
			client = netip.Prefix{}
		}
		if b = l.clients[client]; b == nil {
			b = rate.NewLimiter(l.each, l.burst)
			l.clients[client] = b
		}
	}
	return b.AllowN(now, 1) && l.all.AllowN(now, 1)
}

// gauge counts what is held open, by client and in all, and refuses beyond its bounds.
type gauge struct {
	mu        sync.Mutex
	clients   map[netip.Prefix]int
	total     int
	each, max int
	live      sync.WaitGroup
}

func newGauge(each, all int) *gauge {
	return &gauge{clients: map[netip.Prefix]int{}, each: each, max: all}
}

// enter counts one in. When it may not stay ok is false; else leave must be called.
func (g *gauge) enter(a netip.Addr) (leave func(), ok bool) {
	client := netpolicy.Client(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.max || g.clients[client] >= g.each {
		return nil, false
	}
	g.total++
	g.clients[client]++
	g.live.Add(1)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.total--
		if g.clients[client]--; g.clients[client] == 0 {
			delete(g.clients, client)
		}
		g.live.Done()
	}, true
}

func (g *gauge) count() float64 {
	g.mu.Lock()
	defer g.mu.Unlock()
	return float64(g.total)
}

// wait returns when all have left.
func (g *gauge) wait() { g.live.Wait() }

package precall

import (
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// maxClients bounds what a limit remembers; beyond it clients share one bucket.
const maxClients = 10_000

// client is whom limits count: an IPv4 address or an IPv6 /64.
func client(a netip.Addr) netip.Addr {
	a = a.Unmap()
	if a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return p.Addr()
		}
	}
	return a
}

// rateLimit is a bucket of tokens for each client and one for all together.
type rateLimit struct {
	mu      sync.Mutex
	clients map[netip.Addr]*rate.Limiter
	all     *rate.Limiter
	each    rate.Limit
	burst   int
	now     func() time.Time
	swept   time.Time
}

// newRateLimit allows a client so many a second after a burst, and all together so many a second.
func newRateLimit(perSecond float64, burst int, all float64, now func() time.Time) *rateLimit {
	return &rateLimit{
		clients: map[netip.Addr]*rate.Limiter{}, all: rate.NewLimiter(rate.Limit(all), int(2*all)),
		each: rate.Limit(perSecond), burst: burst, now: now,
	}
}

// allow takes a token. Clients with a full bucket are forgotten once a minute.
func (l *rateLimit) allow(a netip.Addr) bool {
	a, now := client(a), l.now()
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
	b := l.clients[a]
	if b == nil {
		if len(l.clients) >= maxClients {
			a = netip.Addr{}
		}
		if b = l.clients[a]; b == nil {
			b = rate.NewLimiter(l.each, l.burst)
			l.clients[a] = b
		}
	}
	return b.AllowN(now, 1) && l.all.AllowN(now, 1)
}

// gauge counts what is held open, by client and in all, and refuses beyond its bounds.
type gauge struct {
	mu        sync.Mutex
	clients   map[netip.Addr]int
	total     int
	each, max int
	live      sync.WaitGroup
}

func newGauge(each, all int) *gauge {
	return &gauge{clients: map[netip.Addr]int{}, each: each, max: all}
}

// enter counts one in. When it may not stay ok is false; else leave must be called.
func (g *gauge) enter(a netip.Addr) (leave func(), ok bool) {
	a = client(a)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.total >= g.max || g.clients[a] >= g.each {
		return nil, false
	}
	g.total++
	g.clients[a]++
	g.live.Add(1)
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.total--
		if g.clients[a]--; g.clients[a] == 0 {
			delete(g.clients, a)
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

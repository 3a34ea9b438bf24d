package gateway

import (
	"crypto/tls"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hafen/configs"
	"hafen/gateway/portmux"
	"hafen/gateway/status"
	"hafen/precall"
)

// sightings are the ways by which clients have come for the hosts of services lately: the precall test tells from them whether a
// browser's calls would go through this gateway. They are addresses, so they are few, short-lived and never written anywhere.
type sightings struct {
	mu      sync.Mutex
	clients map[netip.Addr]*sighting
	swept   time.Time
	now     func() time.Time
}

type sighting struct {
	ways map[string]seenWay
	pac  time.Time // when it fetched the PAC file
	// conns are its connections lately: the log has a line for each.
	conns []seenConn
	last  time.Time
}

type seenConn struct {
	id string
	at time.Time
}

type seenWay struct {
	way precall.Way
	at  time.Time
}

const (
	sightingLife = 3 * time.Minute // a run takes one, and one more with what is held
	maxSightings = 8192
	maxSeenHosts = 32
	maxSeenConns = 64
	// strayHost stands for all hosts that are none of a service's: which ones is the client's own business.
	strayHost = "*"
)

func newSightings(now func() time.Time) *sightings {
	return &sightings{clients: map[netip.Addr]*sighting{}, now: now}
}

// of is the client's entry, made if need be; nil when there are too many. The lock is held.
func (s *sightings) of(client netip.Addr) *sighting {
	now := s.now()
	if now.Sub(s.swept) > time.Minute {
		s.swept = now
		for a, c := range s.clients {
			if now.Sub(c.last) > sightingLife {
				delete(s.clients, a)
			}
		}
	}
	c := s.clients[client]
	if c == nil && len(s.clients) < maxSightings {
		c = &sighting{ways: map[string]seenWay{}}
		s.clients[client] = c
	}
	if c != nil {
		c.last = now
	}
	return c
}

func (s *sightings) note(client netip.Addr, host string, way precall.Way) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(client.Unmap())
	if c == nil || len(c.ways) >= maxSeenHosts {
		return
	}
	if way == precall.WayAsked && c.ways[host].way == precall.WayConnect {
		return // a browser asks without credentials first, each time
	}
	c.ways[host] = seenWay{way, s.now()}
}

func (s *sightings) fetchedPAC(client netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.of(client.Unmap()); c != nil {
		c.pac = s.now()
	}
}

// noteConn notes a connection that was used just now.
func (s *sightings) noteConn(client netip.Addr, id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.of(client.Unmap())
	if c == nil {
		return
	}
	c.conns = slices.DeleteFunc(c.conns, func(has seenConn) bool { return has.id == id || s.now().Sub(has.at) > sightingLife })
	c.conns = append(c.conns, seenConn{id, s.now()})
	c.conns = c.conns[max(0, len(c.conns)-maxSeenConns):]
}

// connsOf are the client's connections lately, oldest first.
func (s *sightings) connsOf(client netip.Addr) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	if c := s.clients[client.Unmap()]; c != nil {
		for _, conn := range c.conns {
			if s.now().Sub(conn.at) < sightingLife {
				ids = append(ids, conn.id)
			}
		}
	}
	return ids
}

// seen tells how a client came.
func (s *sightings) seen(client netip.Addr) (ways map[string]precall.Way, pac bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[client.Unmap()]
	if c == nil {
		return nil, false
	}
	ways = map[string]precall.Way{}
	for host, w := range c.ways {
		if s.now().Sub(w.at) < sightingLife {
			ways[host] = w.way
		}
	}
	return ways, s.now().Sub(c.pac) < sightingLife
}

// sites tells for each site of the configuration how its clients of the last minutes came.
func (g *Gateway) sites() []status.Site {
	configured := g.config().Sites
	sites := make([]status.Site, len(configured))
	for i, c := range configured {
		sites[i].Name = c.Name
	}
	s := g.sightings
	s.mu.Lock()
	defer s.mu.Unlock()
	for client, seen := range s.clients {
		at := slices.IndexFunc(configured, func(c configs.Site) bool { return contains(c.Networks, client) })
		if at >= 0 && s.now().Sub(seen.last) < sightingLife {
			seen.count(&sites[at])
		}
	}
	return sites
}

// count adds a client to its site.
func (c *sighting) count(site *status.Site) {
	site.Clients++
	if !c.pac.IsZero() {
		site.Fetched++
	}
	ways := map[precall.Way]bool{}
	for _, w := range c.ways {
		ways[w.way] = true
	}
	switch {
	case ways[precall.WayConnect]:
		site.Through++
	case ways[precall.WayRouted] || ways[precall.WayPassthrough]:
		site.Direct++
	case ways[precall.WayAsked] || ways[precall.WayRefused]:
		site.Failed++
	}
}

// noteHello notes a name that DNS leads here and that goes on unread.
func (g *Gateway) noteHello(h *tls.ClientHelloInfo, name string) {
	if h.Conn == nil {
		return
	}
	if from, ok := addrPort(h.Conn.RemoteAddr()); ok && g.config().ServiceOfHost(name) != nil {
		g.sightings.note(from.Addr(), name, precall.WayPassthrough)
	}
}

// noteConnect notes what a browser asks of its proxy.
func (g *Gateway) noteConnect(r *http.Request) {
	if r.Method != http.MethodConnect {
		return
	}
	host, from := requestHost(r), clientAddr(r)
	_, region := g.config().ServiceOfRelay(host)
	switch {
	case g.ownHost(host, nil): // refused, and then the page comes directly, if it comes
		g.sightings.note(from, configs.CanonicalHost(g.config().Name), precall.WayRefused)
	case g.config().ServiceOfHost(host) == nil && region == nil:
		if len(g.config().Forward.Allow) == 0 {
			g.sightings.note(from, strayHost, precall.WayRefused)
		}
	case g.config().Forward.Auth == "basic" && r.Header.Get("Proxy-Authorization") == "":
		g.sightings.note(from, host, precall.WayAsked)
	default:
		g.sightings.note(from, host, precall.WayConnect)
	}
}

// seen is what this gateway saw of the client that sends a request.
func (g *Gateway) seen(r *http.Request) precall.Seen {
	from := clientAddr(r)
	s := precall.Seen{Outside: !contains(g.config().Clients, from), Headers: precall.AddedHeaders(r.Header)}
	s.Ways, s.PACFetched = g.sightings.seen(from)
	s.Connections = g.sightings.connsOf(from)
	s.TLS = precall.JudgeHello(r.UserAgent(), helloOf(r))
	return s
}

// helloOf is the ClientHello of a request's connection; nil without one.
func helloOf(r *http.Request) *precall.ClientHello {
	c := portmux.From(r.Context())
	if c == nil || c.Hello() == nil {
		return nil
	}
	h := c.Hello()
	return &precall.ClientHello{GREASE: h.GREASE, ALPN: h.ALPN, Extensions: h.Extensions}
}

package gateway

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"
	"time"

	"hafen/configs"
	"hafen/gateway/status"
	"hafen/precall"
)

// TestSites: how far each site has come with the PAC file is told from how its clients came lately.
func TestSites(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	g := &Gateway{sightings: newSightings(func() time.Time { return now })}
	g.now.Store(&generation{config: &configs.Config{Sites: []configs.Site{
		{Name: "North", Networks: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16")}},
		{Name: "South", Networks: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/16")}},
	}}})
	for client, way := range map[string]precall.Way{
		"10.1.0.1": precall.WayConnect, "10.1.0.2": precall.WayPassthrough, "10.1.0.3": precall.WayAsked, "10.9.0.1": precall.WayConnect,
	} {
		g.sightings.note(netip.MustParseAddr(client), "call.example", way)
	}
	g.sightings.fetchedPAC(netip.MustParseAddr("10.1.0.1"))
	g.sightings.fetchedPAC(netip.MustParseAddr("::ffff:10.1.0.4"))
	want := status.Site{Name: "North", Clients: 4, Fetched: 2, Through: 1, Direct: 1, Failed: 1}
	if got := g.sites(); len(got) != 2 || got[0] != want || got[1] != (status.Site{Name: "South"}) {
		t.Errorf("%+v, want %+v and an empty South", got, want)
	}
	now = now.Add(sightingLife)
	if got := g.sites(); got[0] != (status.Site{Name: "North"}) {
		t.Errorf("after a while: %+v", got[0])
	}
}

// TestSightings: the last way counts, but a browser that asks for a password's sake each time has not lost its tunnel.
func TestSightings(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newSightings(func() time.Time { return now })
	here := netip.MustParseAddr("10.1.0.1")
	for _, step := range []struct {
		note precall.Way
		want precall.Way
	}{
		{precall.WayAsked, precall.WayAsked},
		{precall.WayConnect, precall.WayConnect},
		{precall.WayAsked, precall.WayConnect},
		{precall.WayRouted, precall.WayRouted},
	} {
		s.note(here, "call.example", step.note)
		if ways, _ := s.seen(netip.MustParseAddr("::ffff:10.1.0.1")); ways["call.example"] != step.want {
			t.Errorf("after %s: %v, want %s", step.note, ways, step.want)
		}
	}
	if ways, pac := s.seen(netip.MustParseAddr("10.1.0.2")); len(ways) != 0 || pac {
		t.Errorf("a stranger came by %v", ways)
	}
	s.fetchedPAC(here)
	now = now.Add(sightingLife - time.Second)
	s.note(here, "other.example", precall.WayConnect)
	now = now.Add(time.Second)
	if ways, pac := s.seen(here); len(ways) != 1 || ways["other.example"] != precall.WayConnect || pac {
		t.Errorf("after a while: %v, PAC %v", ways, pac)
	}
}

// TestSightingsAreFew: neither many hosts nor many clients make it large, and the old make room.
func TestSightingsAreFew(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s := newSightings(func() time.Time { return now })
	addr := func(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}) }
	for i := range 2 * maxSeenHosts {
		s.note(addr(0), "h"+string(rune('a'+i)), precall.WayConnect)
	}
	for i := range maxSightings + 100 {
		s.note(addr(i), "call.example", precall.WayConnect)
	}
	if ways, _ := s.seen(addr(0)); len(ways) != maxSeenHosts || len(s.clients) != maxSightings {
		t.Errorf("%d hosts of one, %d clients", len(ways), len(s.clients))
	}
	now = now.Add(sightingLife + time.Second)
	s.note(addr(maxSightings+1), "call.example", precall.WayRouted)
	if ways, _ := s.seen(addr(maxSightings + 1)); len(s.clients) != 1 || ways["call.example"] != precall.WayRouted {
		t.Errorf("%d clients, the newest came by %v", len(s.clients), ways)
	}
}

// TestOwnPageByProxy: a browser that asks its proxy, this gateway, for the gateway's own pages has a wrong PAC file, and that is noted.
func TestOwnPageByProxy(t *testing.T) {
	w := newWorld(t)
	for i, c := range []struct {
		host string
		want map[string]precall.Way
	}{
		{ownName + ":443", map[string]precall.Way{ownName: precall.WayRefused}},
		{callHost + ":443", map[string]precall.Way{callHost: precall.WayConnect}},
		{"web.example.net:443", map[string]precall.Way{strayHost: precall.WayRefused}},
	} {
		client := netip.AddrFrom4([4]byte{127, 0, 1, byte(i)}) // its own: the running gateway notes clients meanwhile
		r := httptest.NewRequest(http.MethodConnect, "http://"+c.host, nil)
		r.Host, r.RemoteAddr = c.host, netip.AddrPortFrom(client, 40000).String()
		w.gateway.noteConnect(r)
		if ways, _ := w.gateway.sightings.seen(client); !maps.Equal(ways, c.want) {
			t.Errorf("%s: %v, want %v", c.host, ways, c.want)
		}
	}
}

// TestSightingsNameConnections: a client's connections of the last minutes, each once, and no more than are worth having.
func TestSightingsNameConnections(t *testing.T) {
	now := time.Date(2026, 11, 28, 3, 0, 0, 0, time.UTC)
	s := newSightings(func() time.Time { return now })
	client, other := netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("10.1.2.4")
	s.noteConn(client, "old")
	now = now.Add(sightingLife)
	for i := range 2 * maxSeenConns {
		s.noteConn(client, fmt.Sprint("c", i/2))
	}
	s.noteConn(other, "x")
	got := s.connsOf(client)
	if len(got) != maxSeenConns || got[0] != "c0" || got[len(got)-1] != fmt.Sprint("c", maxSeenConns-1) {
		t.Errorf("%d: %v", len(got), got)
	}
	if got := s.connsOf(netip.MustParseAddr("10.9.9.9")); len(got) != 0 {
		t.Errorf("a stranger's: %v", got)
	}
}

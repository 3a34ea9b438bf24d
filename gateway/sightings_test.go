package gateway

import (
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

package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"hafen/configs"
	"hafen/gateway/page"
	"hafen/gateway/status"
	"hafen/precall"
	"hafen/relay"
	"hafen/signaling"
)

// makeRunStore opens the history of precall runs. A store that fails is a matter of the precall page: calls go on without it.
func (g *Gateway) makeRunStore() error {
	o := precall.StoreOptions{Dir: g.config().DataDir, History: g.config().Precall.History, Event: g.storeSaid, Log: g.log.With("area", "precall"), Now: g.opts.Now}
	if g.database != nil {
		o.Shared, o.Why = g.database.another, databaseWhy
	}
	g.runStore = precall.OpenStore(o)
	return nil
}

func (g *Gateway) makePrecall() (err error) {
	o := precallSettings(g.config())
	o.Store = g.runStore
	o.ICE, o.Regions, o.CallServers, o.Load = g.testICE, g.testRegions, g.testCallServers, g.load
	o.Own, o.Plan, o.Seen = g.ownPage, g.testPlan, g.seen
	o.SiteName, o.Guest, o.CallPage = g.siteName, g.isGuest, g.callPage
	o.Site, o.Client, o.Registry, o.Log, o.Now = g.siteOf, clientAddr, g.registry, g.log.With("area", "precall"), g.opts.Now
	g.precall, err = precall.New(o)
	return err
}

// ownPage reports whether a host is one under which our own pages are.
func (g *Gateway) ownPage(host string) bool {
	return g.ownHost(configs.CanonicalHost(strings.Trim(host, "[]")), nil)
}

// precallSettings are what a configuration says of the test.
func precallSettings(c *configs.Config) precall.Options {
	return precall.Options{
		Name: c.Name, Mode: c.Precall.Mode, Thresholds: c.Precall.Thresholds, History: c.Precall.History, SelfSigned: c.TLS.Source == "self-signed",
		PAC: c.PAC.Otherwise != "" || c.PAC.Parent != "" || c.PAC.ParentFile != "",
	}
}

// testICE names the gateway's own test relay over each transport, with credentials of one run.
func (g *Gateway) testICE(_ context.Context, client netip.Addr) ([]precall.ICEServer, error) {
	if g.isGuest(client) { // whose TURN is closed at the port
		return nil, nil
	}
	username, password, err := g.relay.TestCredentials(rand.Text(), g.opts.Now())
	if err != nil {
		return nil, err
	}
	return []precall.ICEServer{{URLs: g.turnURLs(), Username: username, Credential: password}}, nil
}

// turnURLs are the URLs under which a client finds this gateway's TURN.
func (g *Gateway) turnURLs() []string {
	var urls []string
	host := configs.CanonicalHost(g.config().Name)
	if addrs := g.Addrs(); len(addrs) > 0 {
		addr, _ := addrPort(addrs[0])
		port := strconv.Itoa(int(addr.Port()))
		if g.opts.PlainPages { // the demo: its name may mean another address of this machine
			host = addr.Addr().Unmap().String()
		} else {
			urls = append(urls, fmt.Sprintf("turns:%s?transport=tcp", net.JoinHostPort(host, port)))
		}
		urls = append(urls, fmt.Sprintf("turn:%s?transport=tcp", net.JoinHostPort(host, port)))
	}
	for _, a := range g.bound.Load().udp {
		urls = append(urls, fmt.Sprintf("turn:%s?transport=udp", net.JoinHostPort(host, strconv.Itoa(int(a.Port())))))
	}
	return urls
}

// testRegions measures every region now.
func (g *Gateway) testRegions(ctx context.Context) []precall.Region {
	var out []precall.Region
	for i := range g.config().Services {
		s := &g.config().Services[i]
		regions, err := g.relay.ProbeNow(ctx, s.Name)
		if err != nil {
			out = append(out, precall.Region{Service: s.Name, Name: "all", Why: err.Error()})
			continue
		}
		for _, r := range regions {
			if r.Use {
				out = append(out, testedRegion(s, r))
			}
		}
	}
	return out
}

func testedRegion(s *configs.Service, r relay.RegionStatus) precall.Region {
	out := precall.Region{
		Service: r.Service, Name: r.Name, Up: r.State == "up", RTT: milliseconds(r.RTT), Why: r.Reason, Fault: faultOf(r.Reason),
	}
	for i := range s.Regions {
		if s.Regions[i].Name == r.Name {
			out.Hosts = regionHosts(&s.Regions[i])
		}
	}
	for _, rung := range r.Rungs {
		out.Rungs = append(out.Rungs, precall.Rung{Name: rung.Name, Up: rung.State == "up", RTT: milliseconds(rung.RTT), Why: rung.Reason})
		if strings.Contains(rung.Note, "turn_credentials") && rung.State == "up" {
			out.Fault, out.Why = precall.FaultCredentials, rung.Note
		}
	}
	return out
}

func milliseconds(v float64) time.Duration { return time.Duration(v * float64(time.Millisecond)) }

// faultOf knows the causes that have names of their own by the words that relay, signaling and netpolicy say of them to the administrator.
func faultOf(why string) precall.Fault {
	has := func(words ...string) bool {
		return slices.ContainsFunc(words, func(w string) bool { return strings.Contains(why, w) })
	}
	switch {
	case has("answered 407"):
		return precall.FaultProxyAuth
	case has("captive portal", "what answers is no TURN server", "certificate signed by unknown authority", "certificate is valid for"):
		return precall.FaultPortal
	case has("resolve ", "no such host") && !has(" is refused: "): // that is policy, and the name has an address
		return precall.FaultDNS
	}
	return ""
}

// testCallServers asks every call server now.
func (g *Gateway) testCallServers(ctx context.Context) []precall.CallServer {
	var out []precall.CallServer
	for _, c := range g.signaling.ProbeNow(ctx) {
		level := precall.LevelPath
		if c.HTTPS.State == signaling.CheckOK {
			level = precall.LevelService
		}
		out = append(out, precall.CallServer{
			Service: c.Service, Host: c.Host, Up: c.Up, RTT: c.HTTPS.RTT, Level: level, Why: c.HTTPS.Why, Fault: faultOf(c.HTTPS.Why),
			Opens: c.WebSocket.Opened,
		})
	}
	return out
}

// load tells the test whether new sessions are taken.
func (g *Gateway) load() precall.Load {
	return precall.Load{Draining: g.isDraining(), Full: g.relay.Live() >= g.config().Limits.Allocations}
}

// runs are the latest precall runs, for the status page.
func (g *Gateway) runs() []status.Run {
	runs, err := g.recentRuns(g.ctx, 20)
	if err != nil {
		return nil // the store has said so
	}
	return runs
}

func (g *Gateway) recentRuns(ctx context.Context, n int) ([]status.Run, error) {
	records, err := g.precall.Recent(ctx, n)
	out := make([]status.Run, 0, len(records))
	for _, r := range records {
		out = append(out, status.Run{Time: r.Time, Code: r.Code, Verdict: string(r.Verdict), Cause: r.Cause})
	}
	return out, err
}

// siteOf is the house that a client's page names, and whom to call there.
func (g *Gateway) siteOf(client netip.Addr) page.Site {
	for _, s := range g.config().Sites {
		if contains(s.Networks, client) {
			return page.Site{Name: s.Name, Help: s.Help, StatusElsewhere: g.config().Admin.Listen != ""}
		}
	}
	return page.Site{Name: g.config().Site.Name, Help: g.config().Site.Help, StatusElsewhere: g.config().Admin.Listen != ""}
}

func (g *Gateway) site(r *http.Request) page.Site { return g.siteOf(clientAddr(r)) }

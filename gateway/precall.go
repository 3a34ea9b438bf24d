package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"hafen/configs"
	"hafen/gateway/page"
	"hafen/gateway/status"
	"hafen/precall"
)

// makeRunStore opens the history of precall runs. A store that fails is a matter of the precall page: calls go on without it.
func (g *Gateway) makeRunStore() error {
	g.runStore = precall.OpenStore(precall.StoreOptions{
		Dir: g.cfg.DataDir, History: g.cfg.Precall.History, Log: g.log.With("area", "precall"), Now: g.opts.Now,
	})
	return nil
}

func (g *Gateway) makePrecall() (err error) {
	g.precall, err = precall.New(precall.Options{
		Name: g.cfg.Name, Mode: g.cfg.Precall.Mode, Thresholds: g.cfg.Precall.Thresholds, Store: g.runStore,
		SelfSigned: g.untrusted(), ICE: g.testICE, Regions: g.testRegions, CallServers: g.testCallServers, Load: g.load,
		Site: g.siteOf, SiteName: g.siteName, Guest: g.isGuest, CallPage: g.callPage, Client: clientAddr, Registry: g.registry, Log: g.log.With("area", "precall"), Now: g.opts.Now,
	})
	return err
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
	host := configs.CanonicalHost(g.cfg.Name)
	if len(g.addrs) > 0 {
		addr, _ := addrPort(g.addrs[0])
		port := strconv.Itoa(int(addr.Port()))
		if g.opts.PlainPages { // the demo: its name may mean another address of this machine
			host = addr.Addr().Unmap().String()
		} else {
			urls = append(urls, fmt.Sprintf("turns:%s?transport=tcp", net.JoinHostPort(host, port)))
		}
		urls = append(urls, fmt.Sprintf("turn:%s?transport=tcp", net.JoinHostPort(host, port)))
	}
	for _, a := range g.udp {
		urls = append(urls, fmt.Sprintf("turn:%s?transport=udp", net.JoinHostPort(host, strconv.Itoa(int(a.Port())))))
	}
	return urls
}

// testRegions measures every region now.
func (g *Gateway) testRegions(ctx context.Context) []precall.Region {
	var out []precall.Region
	for i := range g.cfg.Services {
		name := g.cfg.Services[i].Name
		regions, err := g.relay.ProbeNow(ctx, name)
		if err != nil {
			out = append(out, precall.Region{Service: name, Name: "all", Why: err.Error()})
			continue
		}
		for _, r := range regions {
			if r.Use {
				out = append(out, precall.Region{Service: r.Service, Name: r.Name, Up: r.State == "up", RTT: time.Duration(r.RTT * float64(time.Millisecond)), Why: r.Reason})
			}
		}
	}
	return out
}

func (g *Gateway) testCallServers(context.Context) []precall.CallServer {
	var out []precall.CallServer
	for _, c := range g.signaling.Status().CallServers {
		out = append(out, precall.CallServer{Service: c.Service, Host: c.Host, Up: c.Up, RTT: c.HTTPS.RTT, Level: "service", Why: c.HTTPS.Why})
	}
	return out
}

// load tells the test whether new sessions are taken.
func (g *Gateway) load() precall.Load {
	return precall.Load{Draining: g.isDraining(), Full: g.relay.Live() >= g.cfg.Limits.Allocations}
}

// runs are the latest precall runs, for the status page.
func (g *Gateway) runs() []status.Run {
	records, err := g.precall.Recent(g.ctx, 20)
	if err != nil {
		return nil
	}
	out := make([]status.Run, 0, len(records))
	for _, r := range records {
		out = append(out, status.Run{Time: r.Time, Code: r.Code, Verdict: string(r.Verdict), Cause: r.Cause})
	}
	return out
}

// siteOf is the house that a client's page names, and whom to call there.
func (g *Gateway) siteOf(client netip.Addr) page.Site {
	for _, s := range g.cfg.Sites {
		if contains(s.Networks, client) {
			return page.Site{Name: s.Name, Help: s.Help}
		}
	}
	return page.Site{Name: g.cfg.Site.Name, Help: g.cfg.Site.Help}
}

func (g *Gateway) site(r *http.Request) page.Site { return g.siteOf(clientAddr(r)) }

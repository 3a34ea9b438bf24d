package gateway

import (
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"hafen/configs"
	"hafen/precall"
)

// testPlan is what a client's precall page is to ask besides this gateway.
func (g *Gateway) testPlan(ctx context.Context, client netip.Addr) precall.Plan {
	var plan precall.Plan
	for i := range g.config().Services {
		s := &g.config().Services[i]
		for _, host := range s.CallServers() {
			plan.CallServers = append(plan.CallServers, precall.Asked{Host: host, HTTPS: s.Probes.HTTPS, WebSocket: s.Probes.WebSocket, LongPoll: s.Probes.LongPoll})
		}
		for j := range s.Regions {
			for _, url := range s.Regions[j].URLs {
				plan.Relays = append(plan.Relays, precall.WayURL{Region: s.Name + "/" + s.Regions[j].Name, URL: strings.TrimSpace(url)})
			}
		}
	}
	if contains(g.config().Clients, client) {
		plan.Cloud, plan.IPv6 = g.testCloud(), g.testIPv6(ctx)
	}
	return plan
}

// regionHosts are the names of a region's relays.
func regionHosts(r *configs.Region) (hosts []string) {
	for _, u := range r.Relays() {
		hosts = append(hosts, u.Host)
	}
	return hosts
}

// testCloud are ICE servers at this gateway whose media goes on through the cloud's relays: with credentials of ten minutes, minted from a
// secret that stays here. A fixed user name and password are the gateway's own and go to no browser.
func (g *Gateway) testCloud() *precall.ICEServer {
	var username, password string
	var err error
	switch g.config().Relay.Mode {
	case "terminate":
		username, password, err = g.relay.Credentials("precall-"+strings.ToLower(rand.Text()[:12]), g.opts.Now())
	case "bridge":
		username, password, err = g.relay.CloudCredentials("precall-"+strings.ToLower(rand.Text()[:12]), g.opts.Now())
	default:
		return nil // media stays in the house
	}
	if err != nil {
		return nil
	}
	return &precall.ICEServer{URLs: g.turnURLs(), Username: username, Credential: password}
}

// ownAAAA is the IPv6 address that the gateway's own name has, asked for seldom.
type ownAAAA struct {
	mu   sync.Mutex
	at   time.Time
	addr netip.Addr
}

const ownAAAAHolds = time.Minute

// testIPv6 is a TURN URL with the IPv6 address that clients find for this gateway's name; "" when they find none.
func (g *Gateway) testIPv6(ctx context.Context) string {
	g.aaaa.mu.Lock()
	defer g.aaaa.mu.Unlock()
	if now := g.opts.Now(); now.Sub(g.aaaa.at) > ownAAAAHolds {
		g.aaaa.at, g.aaaa.addr = now, netip.Addr{}
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		found, _ := net.DefaultResolver.LookupNetIP(ctx, "ip6", g.config().Name) // none, or no DNS: then clients have none either
		for _, a := range found {
			if a.Is6() && !a.Is4In6() && a.IsGlobalUnicast() {
				g.aaaa.addr = a
				break
			}
		}
	}
	addrs := g.Addrs()
	if !g.aaaa.addr.IsValid() || len(addrs) == 0 {
		return ""
	}
	own, _ := addrPort(addrs[0])
	return fmt.Sprintf("turn:%s?transport=tcp", netip.AddrPortFrom(g.aaaa.addr, own.Port()))
}

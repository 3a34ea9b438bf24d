package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"hafen/configs"
	"hafen/gateway/status"
)

// What the gateway needs from outside, and asks at intervals: the company proxy and DNS. Connections that stand need neither, so that
// nobody notices when they are gone, until the next call. While somebody watches, all regions are asked as well.

// finding is what came of asking.
type finding struct {
	asked bool
	host  string // that was asked for
	err   error
}

const (
	// outsidePeriod is how often it is asked while nobody watches; outsidePause while somebody does.
	outsidePeriod = 30 * time.Second
	outsidePause  = 1500 * time.Millisecond
	// outsidePatience is how long an answer may take.
	outsidePatience = 2500 * time.Millisecond
)

// askOutside asks now and at intervals.
func (g *Gateway) askOutside(ctx context.Context) {
	watched := false
	for ctx.Err() == nil {
		asked := time.Now()
		var all sync.WaitGroup
		all.Go(func() { g.askProxy(ctx) })
		all.Go(func() { g.askDNS(ctx) })
		if watched { // else the relay asks in its own time: regions that nobody needs now, seldom
			all.Go(func() { g.testRegions(ctx) })
		}
		all.Wait()
		watched = false
		select {
		case <-time.After(outsidePeriod):
		case <-ctx.Done():
		case <-g.watch.hurry:
			watched = true
			select {
			case <-time.After(outsidePause - time.Since(asked)):
			case <-ctx.Done():
			}
		}
	}
}

// askProxy asks the company proxy for a way to a call server.
func (g *Gateway) askProxy(ctx context.Context) {
	now := g.now.Load()
	var found finding
	if host, service := proxied(now); host != "" {
		try, cancel := context.WithTimeout(ctx, outsidePatience)
		defer cancel()
		conn, err := now.dialer.DialVia(try, "tcp", net.JoinHostPort(host, "443"), scopeOf(service))
		if err == nil {
			_ = conn.Close()
		}
		found = finding{true, host, err}
	}
	g.watch.mu.Lock()
	defer g.watch.mu.Unlock()
	g.watch.proxy = found
}

// proxied is the first call server that is reached through the company proxy; "" where there is none.
func proxied(now *generation) (string, *configs.Service) {
	if now.dialer.Proxy == nil {
		return "", nil
	}
	for i := range now.config.Services {
		s := &now.config.Services[i]
		for _, host := range s.CallServers() {
			if !now.dialer.Proxy.Exempt(host, 443) {
				return host, s
			}
		}
	}
	return "", nil
}

// askDNS asks for a name that the gateway dials. That DNS does not know it is an answer too: what needs the name says so.
func (g *Gateway) askDNS(ctx context.Context) {
	var found finding
	if host := g.resolved(); host != "" {
		try, cancel := context.WithTimeout(ctx, outsidePatience)
		defer cancel()
		_, err := g.dialer().Resolve(try, host, 443, scopeOf(nil))
		var dns *net.DNSError
		silent := errors.Is(err, context.DeadlineExceeded) || errors.As(err, &dns) && !dns.IsNotFound
		if !silent {
			err = nil
		}
		found = finding{true, host, err}
	}
	g.watch.mu.Lock()
	defer g.watch.mu.Unlock()
	g.watch.dns = found
}

// resolved is the first name that the gateway has DNS resolve: an upstream's, a call server's or a relay's. "": none.
func (g *Gateway) resolved() string {
	now := g.now.Load()
	var names []string
	for _, r := range now.config.Signaling.Routes {
		if u, err := url.Parse(r.Upstream); err == nil {
			names = append(names, u.Hostname())
		}
	}
	for i := range now.config.Services {
		names = append(names, now.config.Services[i].CallServers()...)
	}
	for _, r := range g.relay.RegionStatus() {
		for _, rung := range r.Rungs {
			if host, _, err := net.SplitHostPort(rung.Target); err == nil {
				names = append(names, host)
			}
		}
	}
	for _, name := range names {
		_, notName := netip.ParseAddr(name)
		fixed := len(now.dialer.Hosts[configs.CanonicalHost(name)]) > 0
		byProxy := now.dialer.Proxy != nil && !now.dialer.Proxy.Exempt(name, 443)
		if name != "" && notName != nil && !fixed && !byProxy {
			return name
		}
	}
	return ""
}

func (g *Gateway) proxyTest() status.SelfTest {
	g.watch.mu.Lock()
	found := g.watch.proxy
	g.watch.mu.Unlock()
	t := status.SelfTest{Kind: "company-proxy", State: "pass", Sentence: "The company proxy lets the gateway through.", Works: "What needs no proxy works."}
	switch {
	case !found.asked:
		t.State, t.Sentence = "skipped", "The company proxy has not been asked yet."
	case found.err != nil:
		t.State, t.Sentence, t.Advice = "fail", fmt.Sprintf("The company proxy does not let the gateway through to %s.", found.host), found.err.Error()
	}
	return t
}

// dnsTest is of no state where the gateway resolves no names.
func (g *Gateway) dnsTest() status.SelfTest {
	g.watch.mu.Lock()
	found := g.watch.dns
	g.watch.mu.Unlock()
	t := status.SelfTest{Kind: "dns", State: "pass", Sentence: "DNS answers.", Works: "Calls that run go on; new ones may not begin."}
	switch {
	case !found.asked:
		t.State = ""
	case found.err != nil:
		t.State, t.Sentence = "fail", fmt.Sprintf("DNS does not answer: it was asked for %s.", found.host)
		t.Advice = fmt.Sprintf("%v. Let this machine ask its DNS servers (`dns.servers`, else /etc/resolv.conf), or write fixed addresses into `hosts`.", found.err)
	}
	return t
}

// Package cloud is a stand-in for a call service in the cloud: what `hafen demo`, laboratories and training run
// against, so that nobody needs a contract with a real one to see a call go through the gateway.
//
// It has what such a service has. A two-person call page and a waiting-room console, which signal over a WebSocket
// and, where that is stopped, over long-polls held up to three minutes. An endpoint that hands out ICE servers with
// time-limited credentials. And TURN relays in several regions, each a little further away than the last: every
// packet between a client and a region waits for the region's delay, in both directions, so that "the nearest
// region" means something on one machine.
//
//	c, err := cloud.New(cloud.Options{
//		Listen: "127.0.0.1:0",
//		Regions: []cloud.RegionOptions{
//			{Name: "frankfurt", UDP: []string{"127.0.0.1:0"}, Delay: 5 * time.Millisecond},
//			{Name: "tokyo", UDP: []string{"127.0.0.1:0"}, Delay: 60 * time.Millisecond},
//		},
//	})
//	err = c.Start() // binds; c.URL() is the page to open
//	defer c.Close()
//
// It is a stand-in: rooms live in memory, everybody who knows a room's name may enter, and everybody who asks gets
// credentials. The relays are pion/turn behind a guard of ours (guard.go says what pion must not see).
package cloud

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/net/netutil"
)

const (
	defaultListen = "127.0.0.1:9080"
	// defaultHold is how long the longest poll is held: what call services do, and what the gateway promises to carry.
	defaultHold = 180 * time.Second
	// defaultGrace is how long a member may be without a connection before the others hear that it left. Longer
	// than a browser needs to notice a dead WebSocket and to fall back to long-polls.
	defaultGrace = 15 * time.Second
	// defaultCredentialLife outlasts any call: a relay checks the expiry on every Refresh as well.
	defaultCredentialLife = 6 * time.Hour
	defaultRealm          = "calls.example"
	// maxConnections bounds the call service's open connections; further ones wait in the kernel's backlog.
	maxConnections = 10_000
)

// Options describe a stand-in cloud.
type Options struct {
	// Listen is the address of the call service; zero means 127.0.0.1:9080. Port 0 is fine, Addr tells which it got.
	Listen string
	// TLS holds the certificate of the call service and of the relays' TLS listeners. Nil means plain HTTP, which
	// browsers take for secure on localhost only, and no TLS listeners.
	TLS *tls.Config
	// Origins are further hosts whose pages may open the signaling WebSocket, as path.Match patterns, for a service
	// that is routed through a name of the hospital's own. The name asked for is always allowed.
	Origins []string
	// Regions are the TURN relays, nearest first.
	Regions []RegionOptions
	// Secret is the TURN REST secret shared by the ICE endpoint and all regions; zero means a random one.
	Secret string
	// Realm is the relays' realm; zero means "calls.example".
	Realm string
	// CredentialLife is how long credentials last; zero means 6 hours.
	CredentialLife time.Duration
	// Gateway are ICE URLs listed before the regions', with the same credentials: a bridging gateway holds none.
	Gateway []string
	// GatewayOnly leaves the regions' own URLs out, so that media can't go round the gateway.
	GatewayOnly bool
	// ForceRelay makes the call page use relays only, as ?relay=1 does for one page.
	ForceRelay bool
	// RefuseWebSocket answers every WebSocket handshake of the signaling with 403, so that pages fall back.
	RefuseWebSocket bool
	// Peers are networks that the relays may send to besides public addresses and the regions' own, for
	// laboratories: private ranges are refused otherwise.
	Peers []netip.Prefix
	// Hold is the longest that a poll is held; zero means 180 s.
	Hold time.Duration
	// Grace is how long a member of a room may be without a connection; zero means 15 s.
	Grace time.Duration
	// Heartbeat is how often a silent WebSocket gets a few bytes; zero means 25 s.
	Heartbeat time.Duration
	// Now is the clock of credentials; nil means time.Now.
	Now func() time.Time
	// Log gets events; nil means none.
	Log *slog.Logger
}

// Cloud is a running stand-in. All methods may be called from any goroutine.
type Cloud struct {
	opts    Options
	log     *slog.Logger
	hub     *hub
	signal  *signalServer
	pages   *pages
	regions []*Region

	listener net.Listener
	server   *http.Server
	ctx      context.Context // ends with Close: what is held or streamed ends with it
	cancel   context.CancelFunc
	serving  sync.WaitGroup // the HTTP server's Serve and handlers of hijacked connections
}

// New checks the options; it binds nothing.
func New(o Options) (*Cloud, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	pages, err := newPages()
	if err != nil {
		return nil, err
	}
	c := &Cloud{opts: o, log: o.Log, pages: pages, hub: newHub(o.Grace)}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.signal = &signalServer{
		hub: c.hub, refuse: o.RefuseWebSocket, origins: o.Origins,
		hold: o.Hold, heartbeat: o.Heartbeat, live: &c.serving,
	}
	names := map[string]bool{}
	for _, ro := range o.Regions {
		if names[ro.Name] {
			return nil, fmt.Errorf("region %q: named twice", ro.Name)
		}
		names[ro.Name] = true
		r, err := newRegion(ro, c.regionSettings())
		if err != nil {
			return nil, fmt.Errorf("region %q: %w", ro.Name, err)
		}
		c.regions = append(c.regions, r)
	}
	return c, nil
}

func (o Options) withDefaults() (Options, error) {
	setDefault(&o.Listen, defaultListen)
	setDefault(&o.Realm, defaultRealm)
	setDefault(&o.CredentialLife, defaultCredentialLife)
	setDefault(&o.Hold, defaultHold)
	setDefault(&o.Grace, defaultGrace)
	setDefault(&o.Heartbeat, 25*time.Second)
	if o.Secret == "" {
		o.Secret = rand.Text()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.GatewayOnly && len(o.Gateway) == 0 {
		return o, errors.New("only the gateway is to be listed, but no gateway is given")
	}
	return o, nil
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func (c *Cloud) regionSettings() regionSettings {
	return regionSettings{
		realm:   c.opts.Realm,
		secret:  c.opts.Secret,
		tls:     c.opts.TLS,
		log:     c.log,
		now:     c.opts.Now,
		allowed: c.peerAllowed,
	}
}

// Start binds every address and serves until Close. After an error nothing is left bound.
func (c *Cloud) Start() error {
	for _, r := range c.regions {
		if err := r.start(); err != nil {
			return errors.Join(fmt.Errorf("region %q: %w", r.opts.Name, err), c.Close())
		}
	}
	l, err := net.Listen("tcp", c.opts.Listen)
	if err != nil {
		return errors.Join(fmt.Errorf("call service: %w", err), c.Close())
	}
	c.listener = l
	c.server = &http.Server{
		Handler:           c.handler(),
		TLSConfig:         c.httpTLS(),
		ReadHeaderTimeout: 10 * time.Second,
		// Longer than the longest poll, so that a connection whose poll has just ended is still there for the next.
		IdleTimeout: c.opts.Hold + time.Minute,
		ErrorLog:    slog.NewLogLogger(c.log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return c.ctx },
	}
	c.serving.Go(c.serve)
	return nil
}

func (c *Cloud) serve() {
	l := netutil.LimitListener(c.listener, maxConnections)
	err := error(nil)
	if c.server.TLSConfig != nil {
		err = c.server.ServeTLS(l, "", "")
	} else {
		err = c.server.Serve(l)
	}
	if !errors.Is(err, http.ErrServerClosed) {
		c.log.Error("call service stopped", "error", err)
	}
}

func (c *Cloud) httpTLS() *tls.Config {
	if c.opts.TLS == nil {
		return nil
	}
	conf := c.opts.TLS.Clone()
	conf.NextProtos = []string{"h2", "http/1.1"}
	return conf
}

// Close ends everything at once: open polls are answered, WebSockets and relays closed. It waits for all of it.
func (c *Cloud) Close() error {
	c.cancel()
	c.hub.close()
	var errs []error
	if c.server != nil {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if c.server.Shutdown(ctx) != nil {
			errs = append(errs, c.server.Close())
		}
	}
	c.serving.Wait()
	for _, r := range c.regions {
		errs = append(errs, r.close())
	}
	return errors.Join(errs...)
}

// Addr is the address that the call service listens on, after Start.
func (c *Cloud) Addr() net.Addr { return c.listener.Addr() }

// URL is the call service's first page on the address it listens on. With TLS the certificate decides which name
// browsers accept; put that name in place of the address.
func (c *Cloud) URL() string {
	scheme := "http"
	if c.opts.TLS != nil {
		scheme = "https"
	}
	return scheme + "://" + c.listener.Addr().String() + "/"
}

// Region returns the region of that name, or nil.
func (c *Cloud) Region(name string) *Region {
	for _, r := range c.regions {
		if r.opts.Name == name {
			return r
		}
	}
	return nil
}

// Regions returns all regions as configured, nearest first.
func (c *Cloud) Regions() []*Region { return append([]*Region(nil), c.regions...) }

// peerAllowed says whether relays may send to an address: public ones, the regions' own (two relayed clients meet
// there) and those that the options name. A relay that sent anywhere else would be a way into its own network.
func (c *Cloud) peerAllowed(a netip.Addr) bool {
	a = a.Unmap()
	for _, r := range c.regions {
		if r.publicIP == a {
			return true
		}
	}
	for _, p := range c.opts.Peers {
		if p.Contains(a) {
			return true
		}
	}
	return a.IsGlobalUnicast() && !a.IsPrivate() && !sharedAddressSpace.Contains(a)
}

// sharedAddressSpace is RFC 6598: private in all but name, and where one cloud keeps its metadata service.
var sharedAddressSpace = netip.MustParsePrefix("100.64.0.0/10")

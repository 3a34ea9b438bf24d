// Package signaling passes HTTPS, WebSocket and long-poll through to the call servers, unharmed.
//
// A request walks like this. inspect refuses what no browser sends and what two servers might understand differently. The
// table finds the route: host and path prefix to a target. A WebSocket handshake is made anew with the target, and then the two
// connections are spliced (websocket.go, socket.go): the gateway reads no frame, unless its configuration makes it rewrite ICE servers
// (ice.go) or send pings (frames.go), and then none of the client's. All else is an exchange (exchange.go): net/http's
// ReverseProxy carries it, streaming both ways, with no limit on how long an answer takes, since a long-poll is held for minutes.
// In both, only headers that belong to the hop change: hop-by-hop headers, and one set of forwarding headers that say who asked.
//
//	p, err := signaling.New(signaling.Options{Config: cfg, Dial: dial})
//	if err != nil { … }
//	_ = p.Start(ctx)          // begins to probe the call servers
//	http.Serve(listener, p)   // for hosts that p.Routed
//	defer p.Close()
//
// The package does not decide which addresses may be reached: it dials through Options.Dial alone. It cannot see a
// client that vanishes without a word; TCP keep-alive on the listener's side finds those.
package signaling

import (
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/defect"
)

// The status words of this package; they are the contract's.
const (
	statusOK       = "ok"
	statusPolicy   = "err_policy"
	statusProtocol = "err_protocol"
	statusDial     = "err_dial"
	statusClient   = "err_client"
	statusUpstream = "err_upstream"
	statusTimeout  = "err_timeout"
)

// Options are what a Proxy is made of.
type Options struct {
	// Config must be valid. It must not change afterwards; another one comes by Prepare.
	Config *configs.Config
	// Dial connects to host:port on behalf of a service. It decides whether that may be reached. An error that has a method
	// Status() string keeps its status word. The conn should have CloseWrite.
	Dial func(ctx context.Context, network, addr, service string) (net.Conn, error)
	// MintTURN makes TURN credentials for a client where this gateway is the one who checks them (relay.mode terminate and local), for
	// routes with rewrite_ice_servers. nil: such a configuration is refused.
	MintTURN func(service string, client netip.Addr) (username, credential string, err error)
	// Splice moves bytes between the two ends of a WebSocket, with no goroutine for it, until both have ended their direction, one has
	// failed, has taken nothing for as long as slow, or stop is called; it tells t of it. ok is false where it can't, and then nothing has
	// happened. nil: goroutines copy.
	Splice func(a, b net.Conn, slow time.Duration, t Spliced) (stop func(), ok bool)
	// Defects is told of panics; nil: they are caught all the same.
	Defects *defect.Catcher
	// Registry takes the metrics. nil: none.
	Registry prometheus.Registerer
	// Log takes one line for the end of each WebSocket and each long-poll. nil: silent.
	Log *slog.Logger
	// Now is the clock. nil: time.Now.
	Now func() time.Time
	// After is the clock of the prober's pauses. nil: time.After.
	After func(time.Duration) <-chan time.Time
	// HeldAfter is the age from which a request counts as a long-poll. Zero means 5 s.
	HeldAfter time.Duration
	// SlowReader is how long a client may take to accept a piece of an answer. Zero means 60 s. Silence between pieces is not bounded.
	SlowReader time.Duration
	// SlowSender is how long a client may keep us waiting for its request's body, beside a second for each KiB of it. Zero means 30 s.
	SlowSender time.Duration
}

// Spliced is told of what Options.Splice does: how many bytes it has moved, that one side has ended its direction, and once that all is
// over and the connections are to be closed, because both have ended in order (nil) or because of an error of the one side or the other.
// Only Over may block.
type Spliced interface {
	Moved(fromA bool, n int)
	HalfClosed()
	Over(atA bool, err error)
}

func (o *Options) defaults() {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.After == nil {
		o.After = time.After
	}
	if o.HeldAfter == 0 {
		o.HeldAfter = 5 * time.Second
	}
	if o.SlowReader == 0 {
		o.SlowReader = time.Minute
	}
	if o.SlowSender == 0 {
		o.SlowSender = 30 * time.Second
	}
}

// Proxy is the passthrough to all call servers of a configuration. It is an http.Handler for the hosts that are Routed.
type Proxy struct {
	opts    Options
	log     *slog.Logger
	setup   atomic.Pointer[setup]
	reverse *httputil.ReverseProxy
	buffers *buffers
	metrics *metrics
	noise   *noise

	ctx      context.Context // ends with Close
	cancel   context.CancelFunc
	draining atomic.Bool

	webSockets, longPolls, requests atomic.Int64

	changed chan struct{} // another configuration: whoever waits by the old one looks again

	mu      sync.Mutex
	closed  bool
	started bool
	sockets map[*socket]struct{}
	polls   map[*exchange]struct{} // those that are held
	wg      sync.WaitGroup         // sockets and the probers
}

// New makes a Proxy. It reads the services' root certificates and touches no network.
func New(o Options) (*Proxy, error) {
	o.defaults()
	p := &Proxy{opts: o, log: o.Log, buffers: newBuffers(), noise: newNoise(o.Log, o.Now), sockets: make(map[*socket]struct{}), polls: make(map[*exchange]struct{}), changed: make(chan struct{}, 1)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	first, err := p.newSetup(o.Config)
	if err == nil {
		p.setup.Store(first)
		p.metrics, err = newMetrics(o.Registry)
	}
	if err != nil {
		p.cancel()
		return nil, fmt.Errorf("signaling: %w", err)
	}
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        rewrite,
		Transport:      roundTripper{},
		FlushInterval:  -1, // each piece of an answer goes on at once
		BufferPool:     p.buffers,
		ModifyResponse: modifyResponse,
		ErrorHandler:   answerFailure,
		ErrorLog:       log.New(io.Discard, "", 0), // an exchange's end is one line of ours
	}
	return p, nil
}

// Start begins to probe the call servers and to keep silent WebSockets alive. It returns at once.
func (p *Proxy) Start(context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.setup.Load().prober.start(&p.wg)
		if !p.started {
			p.wg.Add(1)
			go p.keepAlive()
		}
		p.started = true
	}
	return nil
}

// enter counts one more goroutine in, which calls wg.Done; false once the Proxy is closed.
func (p *Proxy) enter() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.closed {
		p.wg.Add(1)
	}
	return !p.closed
}

// Drain asks clients to come back on another connection: answers close theirs, and new WebSockets are refused. What lives goes on.
func (p *Proxy) Drain() { p.draining.Store(true) }

// Close ends everything: WebSockets, requests under way, the prober. It returns when the sockets' and the prober's goroutines
// have ended; requests end in their http.Server.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	open := make([]*socket, 0, len(p.sockets))
	for s := range p.sockets {
		open = append(open, s)
	}
	p.mu.Unlock()
	p.cancel()
	for _, s := range open {
		s.end(statusOK, errStopped)
	}
	p.wg.Wait()
	p.setup.Load().table.closeIdle()
	return nil
}

// Routed reports whether requests for host are passed through.
func (p *Proxy) Routed(host string) bool {
	return p.setup.Load().table.routed(configs.CanonicalHost(host))
}

// ServeHTTP passes one request on.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	host := requestHost(r)
	if refused := inspect(r, host); refused != nil {
		p.refuse(w, r, host, refused)
		return
	}
	to, refused := p.setup.Load().table.find(host, r.URL.Path)
	if refused != nil {
		p.refuse(w, r, host, refused)
		return
	}
	if isUpgrade(r) {
		p.serveWebSocket(w, r, to)
		return
	}
	p.serveExchange(w, r, to)
}

// Live counts what a drain waits for: open WebSockets, and requests that have no whole answer yet.
func (p *Proxy) Live() int { return int(p.webSockets.Load() + p.requests.Load()) }

// Status is what the passthrough is doing now.
type Status struct {
	// WebSockets are open now.
	WebSockets int `json:"websockets"`
	// LongPolls are requests older than Options.HeldAfter that have no whole answer yet.
	LongPolls int `json:"longpolls"`
	// Requests are all requests under way, long-polls among them.
	Requests int `json:"requests"`
	// CallServers are the services' call servers, as the prober sees them.
	CallServers []CallServer `json:"call_servers"`
}

// Status tells what the passthrough is doing now.
func (p *Proxy) Status() Status {
	return Status{
		WebSockets:  int(p.webSockets.Load()),
		LongPolls:   int(p.longPolls.Load()),
		Requests:    int(p.requests.Load()),
		CallServers: p.setup.Load().prober.status(),
	}
}

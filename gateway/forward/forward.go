// Package forward is the way through the gateway for browsers that were given a PAC file: a CONNECT proxy for the call
// services' hosts and relays and nothing else, and the PAC file, rendered from the same list.
//
// A CONNECT goes through these steps, and each can end it with a sentence for the person in front of the browser:
//
//	syntax    name:port, nothing that needs to be interpreted        target.go
//	login     name and password, if forward.auth asks    auth.go
//	policy    a host, a relay, or an entry of forward.allow?         policy.go
//	dial      the composition root resolves, judges and dials        Options.Dial
//	look      does the TLS inside name the host that was asked for?  hello.go
//	splice    copy both ways until both have ended                   splice.go
//
// A tunnel to a relay is different: it is answered 200 at once, and then its first bytes decide. Plain TURN is handed
// to the gateway's own relay (Options.STUN), which bridges it to the nearest region over UDP; TLS is dialled and
// spliced, unread.
//
//	p, err := forward.New(forward.Options{Config: cfg, Dial: dial, Own: own})
//	http.Serve(ln, p)                        // CONNECT only; all else is refused
//	http.Handle("/proxy.pac", p.PAC())
//
// goproxy takes the requests, and by its rules they are hijacked: it never dials, never breaks TLS open, never sends a
// request of its own. A handler that is not CONNECT ends before it.
package forward

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/elazarl/goproxy"
	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/defect"
)

// Options are what a Proxy is made of.
type Options struct {
	// Config must be valid: see configs.Load.
	Config *configs.Config
	// Dial connects to a target that policy allows: it resolves the name, judges the addresses and dials one. service is
	// "" for a target of forward.allow. Its errors should have a method Status. Required.
	Dial func(ctx context.Context, host string, port uint16, service string) (net.Conn, error)
	// STUN takes over a tunnel to a service's relay whose first bytes, head, are plain STUN. conn is what lies beneath the
	// hijacked connection. It blocks until the session's end; conn is closed behind it. nil: such tunnels are spliced.
	STUN func(conn net.Conn, head []byte, host string, client netip.AddrPort) error
	// Splice moves bytes between a client, a, and its target, b, with no goroutine for it, until both have ended their direction,
	// one has failed or stop is called; it tells t of it. ok is false where it can't, and then nothing has happened. It is asked for
	// what can't be spliced in the kernel. nil: goroutines copy.
	Splice func(a, b net.Conn, t Spliced) (stop func(), ok bool)
	// Own knows further names of the gateway, besides those of Config. nil: none.
	Own func(host string) bool
	// Via is this gateway's name in Via headers (RFC 9110 section 7.6.3), the same as on its way out (netpolicy.Proxy). A
	// CONNECT that carries it, there or in CDN-Loop (RFC 8586), has been here before and is refused. "": the name of Config.
	Via string
	// OmitHTTPS says that browsers won't trust the gateway's certificate, so that the PAC file must not offer HTTPS entries.
	// nil: they trust it.
	OmitHTTPS func() bool
	// Verify reports whether a password has a hash of forward.users. It may be slow: at most two run at once, and results
	// are remembered for minutes. Required where forward.auth is basic.
	Verify func(hash, password string) bool
	// DialParent connects to where pac.parent is fetched from: a server of the house, or what it redirects to. Required where
	// pac.parent is set.
	DialParent func(ctx context.Context, network, addr string) (net.Conn, error)
	// MaxTunnels bounds all tunnels together. 0 means 8,000.
	MaxTunnels int
	// DialTimeout bounds resolving and dialling. 0 means 20 seconds.
	DialTimeout time.Duration
	// FirstBytesTimeout is how long a client may take to show what it speaks inside a tunnel. 0 means 10 seconds.
	FirstBytesTimeout time.Duration
	// IdleTimeout ends a tunnel through which nothing has moved in either direction. 0 means an hour to the services' hosts, where
	// a WebSocket of a waiting room may be silent for long, and 10 minutes to all else.
	IdleTimeout time.Duration
	// Ended is told of each CONNECT when it has ended, refused ones too. It must not block. nil: nobody wants to know.
	Ended func(End)
	// Defects is told of panics; nil: they are caught all the same.
	Defects *defect.Catcher
	// Registry takes the metrics. nil: none.
	Registry prometheus.Registerer
	// Log gets one line for each CONNECT. nil: silent.
	Log *slog.Logger
}

// Spliced is told of what Options.Splice does: how many bytes it has moved, that one side has ended its direction, and once that all is
// over and the connections are to be closed, because both have ended in order (nil) or because of an error of the one side or the other.
// Only Over may block.
type Spliced interface {
	Moved(fromA bool, n int)
	HalfClosed()
	Over(atA bool, err error)
}

// Proxy is the forward proxy. It owns its tunnels, which outlive the requests that they came by; Close ends them.
type Proxy struct {
	opts    Options
	policy  atomic.Pointer[policy]
	front   *goproxy.ProxyHttpServer
	auth    *authenticator
	parent  *parentKeeper
	metrics *metrics
	log     *slog.Logger
	buffers sync.Pool

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	tunnels map[*tunnel]struct{}
	clients map[netip.Prefix]int // tunnels by netpolicy.Client
}

// New makes a proxy.
func New(o Options) (*Proxy, error) {
	if o.Config == nil || o.Dial == nil {
		return nil, errors.New("forward: Options.Config and Options.Dial are required")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.MaxTunnels = orDefault(o.MaxTunnels, 8000)
	o.DialTimeout = orDefault(o.DialTimeout, 20*time.Second)
	o.FirstBytesTimeout = orDefault(o.FirstBytesTimeout, 10*time.Second)
	p := &Proxy{
		opts: o, log: o.Log, metrics: newMetrics(o.Registry), auth: newAuthenticator(o.Verify),
		tunnels: make(map[*tunnel]struct{}), clients: make(map[netip.Prefix]int),
	}
	p.buffers.New = func() any { return new([burstSize]byte) }
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.front = p.newFront()
	p.parent = newParentKeeper(o.DialParent, o.Log, o.Registry)
	use, err := p.Prepare(o.Config)
	if err != nil {
		p.cancel()
		return nil, err
	}
	use()
	return p, nil
}

// Start begins to fetch the company's own PAC file, where the configuration names one.
func (p *Proxy) Start() { p.wg.Go(func() { p.parent.run(p.ctx) }) }

func orDefault[T int | time.Duration](v, otherwise T) T {
	if v <= 0 {
		return otherwise
	}
	return v
}

// Prepare makes what another configuration needs: the policy and the PAC file. Calling use puts it in place; never calling it changes
// nothing. Tunnels that stand go on.
func (p *Proxy) Prepare(c *configs.Config) (use func(), err error) {
	if c.Forward.Auth == "basic" && p.opts.Verify == nil {
		return nil, errors.New("forward: Options.Verify is required for forward.auth: basic")
	}
	useParent, err := p.parent.prepare(c)
	if err != nil {
		return nil, err
	}
	return func() {
		useParent()
		p.policy.Store(newPolicy(c, p.opts.Own))
	}, nil
}

// newFront configures goproxy. Made bare, not by its constructor: that would read proxies from the environment. What it
// could still reach a network with says no.
func (p *Proxy) newFront() *goproxy.ProxyHttpServer {
	front := &goproxy.ProxyHttpServer{
		Logger:          silent{},
		NonproxyHandler: http.HandlerFunc(p.refuseMethod),
		Tr:              &http.Transport{DialContext: noDial, DialTLSContext: noDial, DisableKeepAlives: true},
		ConnectDialWithReq: func(r *http.Request, network, addr string) (net.Conn, error) {
			return noDial(r.Context(), network, addr)
		},
	}
	front.OnRequest().HandleConnectFunc(func(host string, _ *goproxy.ProxyCtx) (*goproxy.ConnectAction, string) {
		return &goproxy.ConnectAction{
			Action: goproxy.ConnectHijack,
			Hijack: func(r *http.Request, conn net.Conn, _ *goproxy.ProxyCtx) { p.take(r, conn) },
		}, host
	})
	return front
}

func noDial(context.Context, string, string) (net.Conn, error) {
	return nil, errors.New("goproxy does not dial here")
}

// silent is goproxy's logger: what it has to say is in the line of the tunnel.
type silent struct{}

func (silent) Printf(string, ...any) {}

// ServeHTTP answers proxy requests: CONNECT over HTTP/1.x becomes a tunnel, everything else is refused.
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method != http.MethodConnect:
		p.refuseMethod(w, r)
	case r.ProtoMajor != 1:
		p.refuseRequest(w, r, &refusal{
			code: http.StatusMethodNotAllowed, word: statusProtocol,
			why: "CONNECT is not offered over HTTP/2, only over HTTP/1.1, so that every tunnel has a connection of its own",
		})
	default:
		p.front.ServeHTTP(hijacker{w}, r)
	}
}

func (p *Proxy) refuseMethod(w http.ResponseWriter, r *http.Request) {
	p.refuseRequest(w, r, &refusal{
		code: http.StatusMethodNotAllowed, word: statusProtocol,
		why: "this proxy takes CONNECT only: it carries encrypted connections and fetches nothing itself",
	})
}

// refuseRequest refuses what has not been hijacked.
func (p *Proxy) refuseRequest(w http.ResponseWriter, r *http.Request, why *refusal) {
	client := clientOf(r)
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	h.Set("Allow", http.MethodConnect)
	if r.ProtoMajor == 1 {
		h.Set("Connection", "close")
	}
	w.WriteHeader(why.code)
	_, _ = w.Write([]byte(why.body(r.Method+" "+r.RequestURI, client.Addr(), helpFor(p.policy.Load().config, client.Addr()))))
	if r.Method == http.MethodConnect {
		p.metrics.connects.WithLabelValues(why.word).Inc()
	}
}

// clientOf is the client's address; http.Server has it from the connection.
func clientOf(r *http.Request) netip.AddrPort {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
}

// hijacker makes Hijack give up the bytes that the server has read behind the request head: goproxy would throw them
// away, and with them the ClientHello of a client that doesn't wait for the 200.
type hijacker struct{ http.ResponseWriter }

func (h hijacker) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	conn, rw, err := http.NewResponseController(h.ResponseWriter).Hijack()
	if err != nil {
		// Without an answer from here, returning from the handler would answer 200.
		http.Error(h.ResponseWriter, "This connection can't become a tunnel.", http.StatusInternalServerError)
		return nil, nil, err
	}
	head, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		_ = conn.Close()
		return nil, nil, err
	}
	return newClient(conn, head), rw, nil
}

// judge decides about a CONNECT by all that its head says.
func (p *Proxy) judge(r *http.Request) (Target, verdict) {
	refuse := func(r *refusal) verdict { return verdict{refused: r} }
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		// "A CONNECT request message does not have content" (RFC 9110 section 9.3.6).
		return Target{}, refuse(&refusal{code: http.StatusBadRequest, word: statusProtocol, why: "a CONNECT has no content"})
	}
	t, err := ParseTarget(r.RequestURI)
	if err != nil {
		var why *refusal
		errors.As(err, &why)
		return Target{}, refuse(why)
	}
	if p.seenBefore(r.Header) {
		return t, refuse(&refusal{code: http.StatusLoopDetected, word: statusPolicy, why: "this request has been through this gateway before, or through far too many, by its Via header"})
	}
	return t, p.policy.Load().decide(t)
}

// maxHops is how many proxies a request may have behind it, and maxVia in how many bytes they may be told.
const (
	maxHops = 20
	maxVia  = 2 << 10
)

func (p *Proxy) seenBefore(h http.Header) bool {
	own := cmp.Or(p.opts.Via, p.policy.Load().config.Name)
	hops, size := 0, 0
	for _, name := range []string{"Via", "Cdn-Loop"} {
		for _, field := range h.Values(name) {
			hops, size = hops+1+strings.Count(field, ","), size+len(field)
			for word := range strings.FieldsFuncSeq(field, func(r rune) bool { return strings.ContainsRune(" \t,;", r) }) {
				if strings.EqualFold(word, own) {
					return true
				}
			}
		}
	}
	return hops > maxHops || size > maxVia
}

// Live is the number of tunnels, those being set up included.
func (p *Proxy) Live() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.tunnels)
}

// Close ends all tunnels and waits for them. CONNECTs that come later are closed unanswered.
func (p *Proxy) Close() error {
	p.mu.Lock()
	p.closed = true
	live := slices.Collect(maps.Keys(p.tunnels))
	p.mu.Unlock()
	p.cancel()
	for _, t := range live {
		p.wg.Go(func() { t.end(errClosed) }) // beside one another: a close_notify may have to wait for its client
	}
	p.wg.Wait()
	return nil
}

package signaling

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"hafen/configs"
)

// target is where a request goes.
type target struct {
	host      string // the host that the client asked for
	secure    bool
	authority string // for the Host header
	addr      string // host:port to dial
	up        *upstream
	ice       *rewriter // what this path's answers are rewritten with; nil: they are not read
}

// sameHost reports whether the target has the name that the client asked for.
func (t *target) sameHost() bool { return t.authority == t.host }

// route sends a host, or a wildcard's hosts, and a path prefix to an upstream.
type route struct {
	host, path string
	upstream   *url.URL // nil: https to the host itself
	up         *upstream
	rewrites   []*regexp.Regexp // the paths whose ICE servers ice rewrites
	ice        *rewriter
}

// table finds routes. It does not change once it is made.
type table struct {
	routes    []route // in the order in which they are tried
	upstreams []*upstream
}

// upstream is how one service's call servers are reached.
type upstream struct {
	service   string
	dial      func(ctx context.Context, addr string) (net.Conn, error)
	tls       *tls.Config
	transport *http.Transport
}

// Time-outs on the way to a call server. There is none on its answer: a long-poll takes as long as it takes.
const (
	dialTimeout      = 15 * time.Second
	handshakeTimeout = 10 * time.Second // TLS, and apart from it the head of a WebSocket's answer
	idlePooled       = 90 * time.Second
)

func newTable(o *Options) (*table, error) {
	c, dial := o.Config, o.Dial
	t := new(table)
	byService := make(map[string]*upstream)
	for i := range c.Services {
		up, err := newUpstream(&c.Services[i], dial)
		if err != nil {
			return nil, err
		}
		byService[up.service] = up
		t.upstreams = append(t.upstreams, up)
	}
	for i := range c.Signaling.Routes {
		r, err := newRoute(o, &c.Signaling.Routes[i], byService)
		if err != nil {
			return nil, err
		}
		t.routes = append(t.routes, r)
	}
	if len(t.routes) == 0 { // each service host to itself
		for i := range c.Services {
			for _, host := range c.Services[i].Hosts {
				t.routes = append(t.routes, route{host: configs.CanonicalHost(host), path: "/", up: byService[c.Services[i].Name]})
			}
		}
	}
	slices.SortStableFunc(t.routes, precedence)
	return t, nil
}

// precedence puts names before wildcards, longer wildcards before shorter ones, and then longer paths before shorter ones.
func precedence(a, b route) int {
	wildA, wildB := strings.HasPrefix(a.host, "*"), strings.HasPrefix(b.host, "*")
	switch {
	case wildA != wildB && wildB:
		return -1
	case wildA != wildB:
		return 1
	}
	return cmp.Or(cmp.Compare(len(b.host), len(a.host)), cmp.Compare(len(b.path), len(a.path)))
}

func newRoute(o *Options, from *configs.Route, byService map[string]*upstream) (route, error) {
	c := o.Config
	r := route{host: configs.CanonicalHost(from.Host), path: from.Path}
	if r.path == "" {
		r.path = "/"
	}
	service := c.ServiceNamed(from.Service)
	if from.Service == "" {
		service = c.ServiceOfHost(r.host)
	}
	if service == nil {
		return route{}, fmt.Errorf("route %s%s belongs to no service", r.host, r.path)
	}
	r.up = byService[service.Name]
	if err := r.rewriteICE(o, from, service); err != nil {
		return route{}, err
	}
	if from.Upstream == "" {
		return r, nil
	}
	u, err := url.Parse(from.Upstream)
	if err != nil || u.Hostname() == "" || u.Scheme != "https" && u.Scheme != "http" {
		return route{}, fmt.Errorf("route %s%s has no http or https upstream", r.host, r.path) // the URL itself is not shown
	}
	r.upstream = u
	return r, nil
}

// rewriteICE sets up what a route's rewrite_ice_servers asks for.
func (r *route) rewriteICE(o *Options, from *configs.Route, service *configs.Service) error {
	if len(from.RewriteICEServers) == 0 {
		return nil
	}
	mint := o.MintTURN
	switch {
	case o.Config.Relay.Mode == "" || o.Config.Relay.Mode == "bridge":
		mint = nil // the service's own credentials are what its relays know
	case mint == nil:
		return fmt.Errorf("route %s%s rewrites ICE servers in relay.mode %s, but nothing mints credentials", r.host, r.path, o.Config.Relay.Mode)
	}
	for _, pattern := range from.RewriteICEServers {
		r.rewrites = append(r.rewrites, pathPattern(pattern))
	}
	r.ice = newRewriter(o.Config, service, from.KeepOriginalICE, mint)
	return nil
}

// pathPattern understands * as any run of characters but a slash, and ** as any run at all.
func pathPattern(pattern string) *regexp.Regexp {
	text := regexp.QuoteMeta(pattern)
	text = strings.ReplaceAll(text, `\*\*`, `.*`)
	text = strings.ReplaceAll(text, `\*`, `[^/]*`)
	return regexp.MustCompile(`(?s)^` + text + `$`) // all that is special is quoted
}

// routed reports whether any route has host.
func (t *table) routed(host string) bool {
	return slices.ContainsFunc(t.routes, func(r route) bool { return configs.MatchHost(r.host, host) })
}

// find gives the target of a request for host and path.
func (t *table) find(host, path string) (*target, *refusal) {
	known := false
	for i := range t.routes {
		r := &t.routes[i]
		if !configs.MatchHost(r.host, host) {
			continue
		}
		known = true
		if r.takes(path) {
			to := r.target(host)
			if slices.ContainsFunc(r.rewrites, func(p *regexp.Regexp) bool { return p.MatchString(path) }) {
				to.ice = r.ice
			}
			return to, nil
		}
	}
	if known {
		return nil, &refusal{code: http.StatusNotFound, status: statusPolicy, text: "This gateway has no route for that path."}
	}
	return nil, misdirected
}

// takes reports whether path is the route's or lies below it.
func (r *route) takes(path string) bool {
	rest, ok := strings.CutPrefix(path, r.path)
	return ok && (rest == "" || rest[0] == '/' || strings.HasSuffix(r.path, "/"))
}

func (r *route) target(host string) *target {
	if r.upstream == nil {
		return &target{host: host, secure: true, authority: host, addr: net.JoinHostPort(host, "443"), up: r.up}
	}
	u := r.upstream
	t := &target{host: host, secure: u.Scheme == "https", authority: u.Host, up: r.up}
	port := u.Port()
	switch {
	case port != "":
	case t.secure:
		port = "443"
	default:
		port = "80"
	}
	t.addr = net.JoinHostPort(u.Hostname(), port)
	return t
}

func newUpstream(s *configs.Service, dial func(ctx context.Context, network, addr, service string) (net.Conn, error)) (*upstream, error) {
	roots, err := rootsOf(s)
	if err != nil {
		return nil, err
	}
	up := &upstream{service: s.Name}
	up.dial = func(ctx context.Context, addr string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, dialTimeout)
		defer cancel()
		return dial(ctx, "tcp", addr, s.Name)
	}
	up.tls = &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, ClientSessionCache: tls.NewLRUClientSessionCache(64)}
	up.transport = &http.Transport{
		DialContext:            func(ctx context.Context, _, addr string) (net.Conn, error) { return up.dial(ctx, addr) },
		TLSClientConfig:        &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12, ClientSessionCache: tls.NewLRUClientSessionCache(64)},
		TLSHandshakeTimeout:    handshakeTimeout,
		ForceAttemptHTTP2:      true,
		DisableCompression:     true, // what the client did not ask for is not asked for
		MaxIdleConns:           512,
		MaxIdleConnsPerHost:    128,
		IdleConnTimeout:        idlePooled,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: 256 << 10,
		HTTP2: &http.HTTP2Config{
			MaxReceiveBufferPerStream: 256 << 10, // what a slow reader makes us hold
			// Held polls are silent: without pings nobody would notice that the connection under them is dead.
			SendPingTimeout:  30 * time.Second,
			PingTimeout:      15 * time.Second,
			WriteByteTimeout: 30 * time.Second,
		},
	}
	return up, nil
}

// rootsOf are the system's roots and those of the service's ca_file. nil: the system's alone.
func rootsOf(s *configs.Service) (*x509.CertPool, error) {
	if s.CAFile == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(s.CAFile)
	if err != nil {
		return nil, fmt.Errorf("ca_file of service %s: %w", s.Name, err)
	}
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // a machine without roots of its own
	}
	if !roots.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ca_file of service %s has no certificate in PEM form", s.Name)
	}
	return roots, nil
}

// connect makes a connection of its own to the target: TCP, and TLS where it is https. The TLS is HTTP/1.1 alone.
func (t *target) connect(ctx context.Context) (net.Conn, error) {
	conn, err := t.up.dial(ctx, t.addr)
	if err != nil || !t.secure {
		return conn, err
	}
	config := t.up.tls.Clone()
	config.ServerName, _, _ = net.SplitHostPort(t.addr)
	secured := tls.Client(conn, config)
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secured, nil
}

func (t *table) closeIdle() {
	for _, up := range t.upstreams {
		up.transport.CloseIdleConnections()
	}
}

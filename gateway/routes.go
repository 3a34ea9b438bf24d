package gateway

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"hafen/configs"
	"hafen/gateway/page"
	"hafen/gateway/portmux"
	"hafen/precall"
)

// ServeHTTP is the third step of a connection's walk: CONNECT goes to the forward proxy, the gateway's own names and
// addresses to its pages, a routed host to its call server, all else is misdirected.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn := portmux.From(r.Context())
	if conn != nil {
		conn.Established()
	}
	if !contains(g.config().Clients, clientAddr(r)) { // it was one when the connection was made
		g.refuse(w, r)
		return
	}
	if r.Method == http.MethodConnect || r.URL.IsAbs() { // what a browser asks of a proxy
		g.noteConnect(r)
		g.forward.ServeHTTP(w, r)
		return
	}
	host := requestHost(r)
	if g.signaling.Routed(host) {
		g.sightings.note(clientAddr(r), host, precall.WayRouted)
	}
	switch {
	case g.ownHost(host, conn):
		if conn != nil {
			g.sightings.noteConn(clientAddr(r), conn.ID())
		}
		g.pages.ServeHTTP(w, r)
	case g.signaling.Routed(host) && strings.HasPrefix(r.URL.Path, wellKnown):
		g.precall.WellKnown().ServeHTTP(w, r) // the test's echo and hold, on the way that signaling takes
	case g.signaling.Routed(host):
		g.signaling.ServeHTTP(w, r)
	default:
		page.Plain(w, http.StatusMisdirectedRequest, "This gateway knows no host of that name.")
	}
}

// proxyOnly is listen.proxy: CONNECT and nothing else.
func (g *Gateway) proxyOnly(w http.ResponseWriter, r *http.Request) {
	if conn := portmux.From(r.Context()); conn != nil {
		conn.Established() // a tunnel outlives the time that a connection has to say what it is
	}
	g.noteConnect(r)
	g.forward.ServeHTTP(w, r)
}

// requestHost is the host that a request names, without its port, in the form that names are compared in.
func requestHost(r *http.Request) string {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	return configs.CanonicalHost(strings.Trim(host, "[]"))
}

// ownHost reports whether a request is for the gateway itself: one of its names, or an address of this machine.
func (g *Gateway) ownHost(host string, conn *portmux.Conn) bool {
	if g.config().OwnName(host) {
		return true
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return false
	}
	if conn != nil {
		// Behind NAT or a virtual address the address asked is not on an interface, but it is the connection's.
		if local, ok := addrPort(conn.LocalAddr()); ok && local.Addr().Unmap() == ip.Unmap() {
			return true
		}
	}
	return g.dialer().Policy.Own(ip)
}

// refuse answers a client outside the client networks: the precall page where that is allowed to more, health, and else
// one sentence with the address that we saw.
func (g *Gateway) refuse(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/livez", "/readyz":
		g.status.Healthz().ServeHTTP(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, acmeHTTP) && r.Method == http.MethodGet {
		g.acmeChallenge(w, r)
		return
	}
	if c := portmux.From(r.Context()); c != nil && errors.Is(c.Refused(), errDraining) {
		if contains(g.config().Clients, clientAddr(r)) && testPath(r.URL.Path) {
			g.pages.ServeHTTP(w, r) // who tests now is to hear that this gateway drains
			return
		}
		w.Header().Set("Connection", "close")
		w.Header().Set("Retry-After", "30")
		page.Plain(w, http.StatusServiceUnavailable, "This gateway is being restarted and takes no new work. Please try again in a minute.")
		return
	}
	page.Refused(w, r, clientAddr(r), g.siteOf(clientAddr(r)).Help)
}

// testPath reports whether a path is the precall test's.
func testPath(path string) bool {
	return strings.HasPrefix(path, precall.Path) || strings.HasPrefix(path, page.AssetPath) || strings.HasPrefix(path, wellKnown) || path == "/api/v1/ice"
}

// clientAddr is the client's own address, without its port.
func clientAddr(r *http.Request) netip.Addr {
	if c := portmux.From(r.Context()); c != nil {
		return c.Client().Addr().Unmap()
	}
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

// newPages is what the gateway serves under its own names.
func (g *Gateway) newPages() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("/", g.front)
	mux.Handle("/precall/", g.precall)
	mux.Handle("/api/v1/precall/", g.precall)
	mux.Handle("/api/v1/ice", g.precall.ICE())
	mux.Handle(wellKnown, g.precall.WellKnown())
	mux.HandleFunc("/proxy.pac", g.servePAC)
	mux.HandleFunc("/wpad.dat", g.servePAC)
	mux.HandleFunc("/status/", g.statusPage)
	mux.Handle("/livez", g.status.Healthz())
	mux.Handle("/readyz", g.status.Healthz())
	mux.Handle(acmeHTTP, http.HandlerFunc(g.acmeChallenge))
	mux.Handle(page.AssetPath, page.Assets())
	return timed(pageTimeout, g.strict(mux))
}

// strict has browsers ask by https alone from now on (RFC 6797), where they trust the certificate: with one of the gateway's own authority
// they could not get in any more when its root is not installed.
func (g *Gateway) strict(h http.Handler) http.Handler {
	const halfAYear = "max-age=15768000"
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS != nil && !g.untrusted() {
			w.Header().Set("Strict-Transport-Security", halfAYear)
		}
		h.ServeHTTP(w, r)
	})
}

const (
	acmeTLS = "acme-tls/1"
	// wellKnown is where the precall test's echo and hold are, under own and under routed names.
	wellKnown = "/.well-known/hafen/"
	acmeHTTP  = "/.well-known/acme-challenge/"
)

func (g *Gateway) acmeChallenge(w http.ResponseWriter, r *http.Request) {
	if h := g.certs().HTTPChallenge(); h != nil {
		h.ServeHTTP(w, r)
		return
	}
	http.NotFound(w, r)
}

// servePAC gives the PAC file, and remembers for the precall test who has it.
func (g *Gateway) servePAC(w http.ResponseWriter, r *http.Request) {
	g.sightings.fetchedPAC(clientAddr(r))
	g.forward.PAC().ServeHTTP(w, r)
}

// secureHost is the host of a request with the port on which we speak TLS.
func (g *Gateway) secureHost(r *http.Request) string {
	host := requestHost(r)
	port := uint16(443)
	if addrs := g.Addrs(); len(addrs) > 0 {
		if ap, ok := addrPort(addrs[0]); ok {
			port = ap.Port()
		}
	}
	switch {
	case port != 443:
		return net.JoinHostPort(host, fmt.Sprint(port))
	case strings.Contains(host, ":"):
		return "[" + host + "]"
	}
	return host
}

// redirect is what listen.http does with everything but the PAC file and challenges.
func (g *Gateway) redirect(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == "/proxy.pac" || r.URL.Path == "/wpad.dat":
		g.servePAC(w, r)
	case strings.HasPrefix(r.URL.Path, acmeHTTP):
		g.acmeChallenge(w, r)
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		http.Redirect(w, r, "https://"+g.secureHost(r)+r.URL.RequestURI(), http.StatusFound)
	default:
		page.Plain(w, http.StatusMethodNotAllowed, "This port only redirects to https.")
	}
}

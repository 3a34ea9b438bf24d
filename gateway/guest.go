package gateway

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"

	"hafen/configs"
	"hafen/gateway/page"
	"hafen/gateway/portmux"
)

// isGuest reports whether an address is no client's but may run the precall test: a patient at home, a phone on mobile data.
func (g *Gateway) isGuest(a netip.Addr) bool {
	return !contains(g.config().Clients, a) && contains(g.config().Precall.Networks, a)
}

// guestPages are what a guest may ask for: the test, its endpoints and what the page is made of. ICE servers have no entry
// here that helps: a guest's STUN is closed at the port.
var guestPages = []string{"/precall/", "/api/v1/precall/", "/api/v1/ice", wellKnown, page.AssetPath}

// guest serves those in precall.networks: the precall page and its reports, and else what everybody outside gets.
func (g *Gateway) guest(w http.ResponseWriter, r *http.Request) {
	conn := portmux.From(r.Context())
	if conn != nil {
		conn.Established()
	}
	if r.Method == http.MethodConnect || r.URL.IsAbs() || !g.ownHost(requestHost(r), conn) {
		g.refuse(w, r)
		return
	}
	switch {
	case r.URL.Path == "/" && r.Method == http.MethodGet:
		http.Redirect(w, r, "/precall/", http.StatusFound)
	case !allowedToGuests(r.URL.Path):
		g.refuse(w, r)
	case conn != nil && conn.Hello() == nil && !g.opts.PlainPages:
		g.redirect(w, r)
	default:
		g.pages.ServeHTTP(w, r)
	}
}

func allowedToGuests(path string) bool {
	for _, p := range guestPages {
		if path == p || strings.HasSuffix(p, "/") && strings.HasPrefix(path, p) {
			return true
		}
	}
	return false
}

// siteName is the one of `sites` that a client is in; "" where none has it.
func (g *Gateway) siteName(client netip.Addr) string {
	for _, s := range g.config().Sites {
		if contains(s.Networks, client) {
			return s.Name
		}
	}
	return ""
}

// callPage reports whether an origin is that of a service's pages: only those may ask for the verdict of a test.
func (g *Gateway) callPage(origin string) bool {
	u, err := url.Parse(origin)
	if err != nil || u.Scheme != "https" && !g.opts.PlainPages || u.Port() != "" && !g.opts.PlainPages {
		return false
	}
	host := configs.CanonicalHost(u.Hostname())
	return host != "" && (g.config().ServiceOfHost(host) != nil || g.signaling.Routed(host))
}

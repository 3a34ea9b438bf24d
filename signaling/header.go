package signaling

import (
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// headerKey is the form in which headers are recognised: lower case, and underscores for the hyphens that many servers take them for.
func headerKey(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", "-"))
}

// claimsOrigin reports whether a header claims, in front of a call server, who the client is or what it asked for. Only the gateway may say that.
func claimsOrigin(name string) bool {
	key := headerKey(name)
	if strings.HasPrefix(key, "x-forwarded") || strings.HasPrefix(key, "x-original-") || strings.HasPrefix(key, "x-rewrite-") {
		return true
	}
	switch key {
	case "forwarded", "x-real-ip", "true-client-ip", "cf-connecting-ip", "cf-connecting-ipv6", "x-client-ip", "x-cluster-client-ip", "client-ip",
		"fastly-client-ip", "x-appengine-user-ip", "x-envoy-external-address", "x-host", "x-proxyuser-ip", "wl-proxy-client-ip", "proxy-client-ip",
		"proxy",          // CGI servers make HTTP_PROXY of it
		"http2-settings": // belongs to an upgrade that does not pass
		return true
	}
	return false
}

// clean takes out what the client may not claim and writes the one set of forwarding headers that is true.
func clean(h http.Header, in *http.Request) {
	for name := range h {
		if claimsOrigin(name) {
			delete(h, name)
		}
	}
	proto, host := scheme(in.TLS), in.Host
	h.Set("X-Forwarded-Host", host)
	h.Set("X-Forwarded-Proto", proto)
	forwarded := "host=" + quote(host) + ";proto=" + proto
	if client := clientOf(in); client.IsValid() {
		h.Set("X-Forwarded-For", client.String())
		forwarded = "for=" + node(client) + ";" + forwarded
	}
	h.Set("Forwarded", forwarded)
}

// clientOf is the client's address as the listener knows it.
func clientOf(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// node is an address as RFC 7239 section 6 wants it: IPv6 in brackets and quotes.
func node(a netip.Addr) string {
	if a.Is6() {
		return `"[` + a.String() + `]"`
	}
	return a.String()
}

// quote writes a host as a value of Forwarded; one with a port is no token and needs quotes (RFC 7239 section 4).
func quote(host string) string {
	if strings.ContainsAny(host, ":[]\"\\") {
		return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(host) + `"`
	}
	return host
}

// hopByHop are the headers that belong to one connection (RFC 9110 section 7.6.1, and those that are used so).
var hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authorization", "Te", "Trailer", "Transfer-Encoding", "Upgrade"}

// dropHopByHop takes out the headers of one connection, those that Connection names among them.
func dropHopByHop(h http.Header) {
	for _, value := range h["Connection"] {
		for name := range strings.SplitSeq(value, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for _, name := range hopByHop {
		h.Del(name)
	}
}

// outURL is the URL of a request to the target. Path and query are the client's own bytes: parsing and printing them again would change some.
func (t *target) outURL(r *http.Request) *url.URL {
	path, query, hasQuery := strings.Cut(r.RequestURI, "?")
	u := &url.URL{Scheme: "http", Host: t.addr, Opaque: path, RawQuery: query, ForceQuery: hasQuery && query == ""}
	if t.secure {
		u.Scheme = "https"
	}
	return u
}

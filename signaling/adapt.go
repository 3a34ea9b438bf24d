package signaling

import (
	"net"
	"net/http"
	"net/url"
	"strings"

	"hafen/configs"
)

// adapt takes out of an answer what is true for the call server's own connections only. Where the route gives a host another name than its upstream
// has, redirects and cookies are put under the name that the browser knows.
func adapt(h http.Header, to *target, scheme, host string) {
	h.Del("Alt-Svc") // it offers QUIC on ports of the call server
	if to.sameHost() {
		return
	}
	if location := h.Get("Location"); location != "" {
		h.Set("Location", moved(location, to, scheme, host))
	}
	cookies := h["Set-Cookie"]
	for i := range cookies {
		cookies[i] = withoutDomain(cookies[i], to)
	}
}

// moved puts a redirect to the upstream's own origin under the name that the client asked.
func moved(location string, to *target, scheme, host string) string {
	u, err := url.Parse(location)
	if err != nil || !strings.EqualFold(u.Host, to.authority) || u.Scheme == "http" && to.secure || u.Scheme == "https" && !to.secure {
		return location
	}
	u.Host = host
	if u.Scheme != "" {
		u.Scheme = scheme
	}
	return u.String()
}

// withoutDomain drops the Domain attribute that names the upstream or a domain above it: a browser that knows another name would refuse the
// cookie. Without it the cookie belongs to the host that was asked.
func withoutDomain(cookie string, to *target) string {
	parts := strings.Split(cookie, ";")
	kept := parts[:1]
	for _, part := range parts[1:] {
		name, value, _ := strings.Cut(part, "=")
		if strings.EqualFold(strings.TrimSpace(name), "domain") && covers(value, to) {
			continue
		}
		kept = append(kept, part)
	}
	return strings.Join(kept, ";")
}

func covers(domain string, to *target) bool {
	domain = configs.CanonicalHost(strings.TrimPrefix(strings.TrimSpace(domain), "."))
	name, _, err := net.SplitHostPort(to.addr)
	if err != nil || domain == "" {
		return false
	}
	name = configs.CanonicalHost(name)
	return name == domain || strings.HasSuffix(name, "."+domain)
}

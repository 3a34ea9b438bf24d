package configs

import (
	"crypto/x509"
	"encoding/pem"
	"net/url"
	"os"
	"strings"
	"time"
)

// signaling checks the routes to the call servers.
func (k *check) signaling() {
	seen := make(map[string]string)
	for i := range k.config.Signaling.Routes {
		r := &k.config.Signaling.Routes[i]
		key := at("signaling.routes", i)
		k.route(key, r)
		if first, taken := take(seen, CanonicalHost(r.Host)+r.Path, key); taken && r.Host != "" {
			k.bad(key, "has the host and path of "+first, "delete one of them, or give them different paths")
		}
	}
	if every := k.config.Signaling.KeepAlive; every != 0 {
		k.atLeast("signaling.keepalive", every, leastKeepAlive)
	}
}

// leastKeepAlive is shorter than any firewall's memory; less would only be traffic.
const leastKeepAlive = 5 * time.Second

func (k *check) route(key string, r *Route) {
	c := k.config
	if r.Host == "" {
		k.bad(key+".host", "is missing", "write the host that browsers ask for")
	} else if k.hostname(key+".host", r.Host, true) && c.OwnName(r.Host) {
		k.bad(key+".host", "is a name of the gateway itself, whose pages come first", "write another name that leads to the gateway")
	}
	if !strings.HasPrefix(r.Path, "/") || strings.ContainsAny(r.Path, "?#*\\ ") || strings.Contains(r.Path, "//") {
		k.bad(key+".path", "is no path prefix", "write one that begins with /, or delete it for the whole host")
	}
	if r.Upstream != "" {
		if problem := checkOrigin(r.Upstream); problem != "" {
			k.bad(key+".upstream", problem, "write where the call server is, such as https://call.example.net")
		}
	}
	k.rewriting(key, r)
	if r.Service != "" && c.ServiceNamed(r.Service) == nil {
		var names []string
		for i := range c.Services {
			names = append(names, c.Services[i].Name)
		}
		k.bad(key+".service", "names a service that does not exist", "write "+orAnyOf(nearest(r.Service, names), names))
	}
	if r.Service == "" && r.Host != "" && c.ServiceOfHost(r.Host) == nil {
		k.bad(key+".service", "is missing, and no service has this host", "write the name of the service that the route belongs to")
	}
	if r.Upstream == "" && r.Host != "" && c.ServiceOfHost(r.Host) == nil {
		k.bad(key+".upstream", "is missing, and the host is none of a service's", "write where the call server is, such as https://call.example.net")
	}
}

// rewriting checks the paths whose ICE servers are rewritten, and that they can be: what is rewritten must be read, so the gateway needs a
// certificate for the name that browsers ask for.
func (k *check) rewriting(key string, r *Route) {
	if len(r.RewriteICEServers) == 0 {
		if !r.KeepOriginalICE {
			k.bad(key+".keep_original_ice", "is false, but nothing is rewritten", "delete it, or name paths under rewrite_ice_servers")
		}
		return
	}
	for i, pattern := range r.RewriteICEServers {
		if !strings.HasPrefix(pattern, "/") || strings.ContainsAny(pattern, "?#\\ ") {
			k.bad(at(key+".rewrite_ice_servers", i), "is no path", "write one such as /api/ice; * stands for a part of it without a slash, ** for any part")
		}
	}
	if r.Host == "" || k.coversName(r.Host) {
		return
	}
	k.bad(key+".rewrite_ice_servers", "can't work: there is no certificate for "+CanonicalHost(r.Host)+", so its answers pass through unread",
		"add one to tls.files; or give the route a name of your own and the service's as its upstream; or delete this, and let browsers use the PAC file, or the service list turns:"+
			CanonicalHost(k.config.Name)+":443?transport=tcp")
}

// coversName reports whether the gateway can have a certificate for the host of a route; in doubt it does. An authority, the gateway's own
// or another, is only asked for names that are no service's.
func (k *check) coversName(host string) bool {
	if k.config.TLS.Source != "files" {
		return k.config.ServiceOfHost(host) == nil && !strings.HasPrefix(host, "*")
	}
	for _, f := range k.config.TLS.Files {
		text, err := os.ReadFile(f.Cert)
		block, _ := pem.Decode(text)
		if err != nil || block == nil {
			return true // a PKCS#12 file, or one that other checks complain about
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil || cert.VerifyHostname(strings.Replace(CanonicalHost(host), "*", "any", 1)) == nil {
			return true
		}
	}
	return false
}

// checkOrigin says what is wrong with the URL of an upstream, which is an origin and nothing more; "" when nothing is.
func checkOrigin(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return "is no URL"
	case u.Scheme != "https" && u.Scheme != "http":
		return "is neither an https:// nor an http:// URL"
	case u.Hostname() == "":
		return "has no host"
	case u.User != nil:
		return "has a user name or password, which upstreams are not given"
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "has a path, which comes from the request"
	}
	if u.Port() != "" {
		if _, err := parsePort(u.Port()); err != nil {
			return "has no port from 1 to 65535"
		}
	}
	return ""
}

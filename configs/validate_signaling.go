package configs

import (
	"net/url"
	"strings"
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
	k.atLeast("signaling.keepalive", k.config.Signaling.KeepAlive, 0)
}

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

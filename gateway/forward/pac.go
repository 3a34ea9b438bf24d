package forward

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"hafen/configs"
)

// Why there may be no PAC file.
var (
	// ErrPACOff says what to do about it. A PAC file decides about the whole web, so there is none as long as nobody has
	// said what the rest of the web gets.
	ErrPACOff = errors.New("the PAC file is off, because neither `pac.otherwise` nor `pac.parent` says where the rest of the web goes: " +
		"write `pac.otherwise: DIRECT` or `pac.otherwise: \"PROXY proxy.example:3128\"`, or the company's own PAC file as `pac.parent`, " +
		"or put the lines of `hafen pac --snippet` into that one")
	// ErrNoParent says that the rest of the web is up to a file that was never had.
	ErrNoParent = errors.New("the company's own PAC file (`pac.parent`) could not be fetched yet, and without it nobody knows where the rest of the web goes")
	// ErrNoGateway says that a PAC file has nothing to offer.
	ErrNoGateway = errors.New("there is no gateway that browsers can be sent to: they don't trust a self-signed certificate at a proxy (`tls.source`), " +
		"and without TLS nothing listens (`listen.proxy`), or this client is not to have it (`pac.rollout`, `pac.skip`)")
)

// PACInput is what a PAC file depends on. The same input gives the same bytes.
type PACInput struct {
	// Config must be valid: see configs.Load.
	Config *configs.Config
	// Client is the browser's address: it decides whether the gateway is offered at all (pac.rollout, pac.skip) and in which
	// order the gateways stand. The zero value is a client like any other: the gateways are offered, in the order written.
	Client netip.Addr
	// OmitHTTPS leaves the HTTPS entries out: browsers don't fall back from a proxy whose certificate they don't trust.
	OmitHTTPS bool
	// Parent is the company's own PAC file, where Config names one.
	Parent *Parent
}

// RenderPAC makes the PAC file for one client, in the JavaScript of 1999 (ECMAScript 3) that all PAC engines know. The
// services' hosts and relays go to the gateways at the ports that CONNECT allows, whatever the scheme: for TURN over
// TCP, Firefox asks about http://host:3478/ and Chromium about https://host:3478/. Own names are DIRECT, the rest goes
// as pac.otherwise says, or the parent. The error is ErrPACOff or ErrNoParent.
//
// A parent stands first and unchanged, byte for byte: so its byte order mark, its encoding and a "use strict" at its top
// mean what they meant, and its globals are globals. What follows takes the place of its FindProxyForURL and asks it for
// everything that is not ours.
func RenderPAC(in PACInput) ([]byte, error) {
	c := in.Config
	switch {
	case c.PAC.Parent == "" && c.PAC.ParentFile == "":
		if c.PAC.Otherwise == "" {
			return nil, ErrPACOff
		}
		return []byte(pacHead + in.route() + fmt.Sprintf(pacOtherwise, jsString(c.PAC.Otherwise))), nil
	case in.Parent == nil:
		return nil, ErrNoParent
	}
	// The semicolon ends a last statement that has none of its own: it would go on with our first line.
	return slices.Concat(in.Parent.Text, []byte("\n;\n"+pacHead+in.route()+pacParent)), nil
}

// RenderSnippet makes the lines with which the company's own PAC file sends the services' hosts here. Without addresses
// to tell clients apart by, the gateways are in the order of the configuration. The error is ErrNoGateway.
func RenderSnippet(in PACInput) ([]byte, error) {
	if in.answer() == "" {
		return nil, ErrNoGateway
	}
	return []byte(pacSnippet + in.route()), nil
}

// pacMark is in every file of ours, so that one is never taken for a company's own.
const pacMark = "Proxy auto-configuration by Hafen"

const pacHead = "// " + pacMark + `. Made from the gateway's configuration; edit that, not this.
// Video calls go to the gateway, the gateway itself is reached directly, all else goes as the administrator has set.

`

const pacSnippet = `// Video calls go to the gateway (made by hafen pac --snippet; make it anew when the services change).
// Paste this at the top level of the PAC file, and write as the first lines inside its FindProxyForURL:
//
//   var viaHafen = hafenRoute(url, host);
//   if (viaHafen) return viaHafen;
//
// Then let hafen pac --verify FILE prove it.

`

const pacOtherwise = `
function FindProxyForURL(url, host) {
  return hafenRoute(url, host) || %s;
}
`

// pacParent also takes over what Internet Explorer and WinHTTP ask instead where there is IPv6.
const pacParent = `
var hafenParent = FindProxyForURL;
FindProxyForURL = function (url, host) {
  return hafenRoute(url, host) || hafenParent(url, host);
};
var hafenParentEx = typeof FindProxyForURLEx === "function" ? FindProxyForURLEx : null;
if (hafenParentEx) {
  FindProxyForURLEx = function (url, host) {
    return hafenRoute(url, host) || hafenParentEx(url, host);
  };
}
`

// route makes the function that knows our part: what it returns for a URL is "" where that is none of ours.
func (in PACInput) route() string {
	exact, below := pacTargets(in.Config)
	answer := in.answer()
	if answer == "" {
		exact, below = nil, nil // the services are a part of the rest of the web
	}
	return fmt.Sprintf(pacRoute, jsList(pacOwn(in.Config), jsString), jsList(exact, jsTarget), jsList(below, jsTarget), jsString(answer))
}

const pacRoute = `var hafenRoute = (function () {
  var own = %s;
  var hosts = %s;
  var below = %s;
  var gateways = %s;

  function nameOf(host) {
    var name = String(host).toLowerCase();
    return name.charAt(name.length - 1) === "." ? name.substring(0, name.length - 1) : name;
  }

  function has(ports, port) {
    for (var i = 0; i < ports.length; i++) {
      if (ports[i] === port) return true;
    }
    return false;
  }

  function portOf(url) {
    var m = /^([a-z][a-z0-9+.\-]*):\/\/([^\/?#\\]*)/i.exec(String(url));
    if (!m) return 0;
    var p = /:([0-9]+)$/.exec(m[2]), scheme = m[1].toLowerCase();
    if (p) return parseInt(p[1], 10);
    return scheme === "https" || scheme === "wss" ? 443 : scheme === "http" || scheme === "ws" ? 80 : 0;
  }

  return function (url, host) {
    var name = nameOf(host), port = portOf(url), i, suffix;
    for (i = 0; i < own.length; i++) {
      if (name === own[i]) return "DIRECT";
    }
    for (i = 0; i < hosts.length; i++) {
      if (name === hosts[i][0] && has(hosts[i][1], port)) return gateways;
    }
    for (i = 0; i < below.length; i++) {
      suffix = below[i][0];
      if (name.length > suffix.length && name.substring(name.length - suffix.length) === suffix && has(below[i][1], port)) return gateways;
    }
    return "";
  };
})();
`

// pacTarget is a host, or the suffix ".example.net", with its ports.
type pacTarget struct {
	host  string
	ports []uint16
}

// pacTargets are the targets that CONNECT allows for the services, in a fixed order. What forward.allow adds is not
// among them: it may be used, but browsers aren't sent here for it.
func pacTargets(c *configs.Config) (exact, below []pacTarget) {
	p := newPolicy(c, nil)
	ports := make(map[string][]uint16)
	for host, r := range p.relays {
		ports[host] = r.ports
	}
	for i := range c.Services {
		for _, host := range c.Services[i].Hosts {
			host = configs.CanonicalHost(host)
			ports[host] = append(slices.Clone(ports[host]), 443)
		}
	}
	for host, list := range ports {
		slices.Sort(list)
		t := pacTarget{host, slices.Compact(list)}
		if suffix, wild := strings.CutPrefix(host, "*"); wild {
			t.host = suffix
			below = append(below, t)
		} else {
			exact = append(exact, t)
		}
	}
	byHost := func(a, b pacTarget) int { return strings.Compare(a.host, b.host) }
	slices.SortFunc(exact, byHost)
	slices.SortFunc(below, byHost)
	return exact, below
}

// pacOwn are the names that lead to a gateway without a proxy: our own, those of the other gateways, and names of the
// house that are routed to a service.
func pacOwn(c *configs.Config) []string {
	names := c.OwnNames()
	for _, g := range allGateways(c) {
		host, _, _ := strings.Cut(g, ":")
		names = append(names, configs.CanonicalHost(host))
	}
	for i := range c.Signaling.Routes {
		if host := configs.CanonicalHost(c.Signaling.Routes[i].Host); host != "" && !strings.HasPrefix(host, "*") && c.ServiceOfHost(host) == nil {
			names = append(names, host)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func allGateways(c *configs.Config) []string {
	all := slices.Clone(c.PAC.Gateways)
	for i := range c.Sites {
		all = append(all, c.Sites[i].Gateways...)
	}
	return all
}

// answer is what the PAC file returns for the services; "" where it does not offer a gateway to this client.
func (in PACInput) answer() string {
	c := in.Config
	if in.Client.IsValid() && (within(c.PAC.Skip, in.Client) || len(c.PAC.Rollout) > 0 && !within(c.PAC.Rollout, in.Client)) {
		return ""
	}
	// All gateways over TLS come before any without: most firewalls let through 443 only and drop the rest in silence, and behind such
	// an entry a browser waits for seconds before it tries the next gateway.
	var overTLS, plain []string
	for _, g := range in.gateways() {
		host, port, ok := strings.Cut(g, ":")
		if !ok {
			port = portOf(c.Listen.HTTPS, "443")
		}
		if !in.OmitHTTPS {
			overTLS = append(overTLS, "HTTPS "+host+":"+port)
		}
		if len(c.Listen.Proxy) > 0 {
			plain = append(plain, "PROXY "+host+":"+portOf(c.Listen.Proxy, "3128"))
		}
	}
	entries := append(overTLS, plain...)
	if len(entries) == 0 {
		return ""
	}
	if fallback := cmp.Or(c.PAC.ServiceFallback, "DIRECT"); fallback != "none" {
		entries = append(entries, fallback)
	}
	return strings.Join(entries, "; ")
}

// gateways are the gateways for this client: those of its site as written, then the others in an order that is the
// client's own and stays (rendezvous hashing), so that the clients share the gateways and a browser that fetches the
// file again stays where it is.
func (in PACInput) gateways() []string {
	c := in.Config
	rest := slices.Clone(c.PAC.Gateways)
	if len(rest) == 0 {
		rest = []string{configs.CanonicalHost(c.Name)}
	}
	if in.Client.IsValid() {
		weight := func(g string) string {
			sum := sha256.Sum256([]byte(in.Client.Unmap().String() + " " + g))
			return string(sum[:])
		}
		slices.SortStableFunc(rest, func(a, b string) int { return cmp.Compare(weight(a), weight(b)) })
	}
	var all []string
	for _, g := range append(in.siteGateways(), rest...) {
		if !slices.Contains(all, g) {
			all = append(all, g)
		}
	}
	return all
}

func (in PACInput) siteGateways() []string {
	for i := range in.Config.Sites {
		if s := &in.Config.Sites[i]; in.Client.IsValid() && within(s.Networks, in.Client) {
			return slices.Clone(s.Gateways)
		}
	}
	return nil
}

func within(networks []netip.Prefix, a netip.Addr) bool {
	a = a.Unmap().WithZone("")
	return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// portOf is the port that browsers use of a list of listeners: the usual one if it is among them, else the first.
func portOf(listen []string, usual string) string {
	first := ""
	for _, l := range listen {
		_, port, err := net.SplitHostPort(l)
		if port == usual {
			return usual
		}
		if err == nil && first == "" {
			first = port
		}
	}
	return cmp.Or(first, usual)
}

// jsString is a JavaScript string literal. Everything but the characters of names and proxy lists is escaped, so that
// nothing in a configuration can leave the literal, in a script or in a page that a script is put into.
func jsString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(" .:;-_[]*", r):
			b.WriteRune(r)
		case r > 0xffff:
			b.WriteString(`\ufffd`)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func jsTarget(t pacTarget) string {
	return "[" + jsString(t.host) + ", " + jsList(t.ports, func(p uint16) string { return strconv.Itoa(int(p)) }) + "]"
}

func jsList[T any](list []T, element func(T) string) string {
	texts := make([]string, len(list))
	for i, x := range list {
		texts[i] = element(x)
	}
	return "[" + strings.Join(texts, ", ") + "]"
}

// PAC serves /proxy.pac and /wpad.dat. What a request says beside its client's address changes nothing.
func (p *Proxy) PAC() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("X-Content-Type-Options", "nosniff")
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			h.Set("Allow", "GET, HEAD")
			http.Error(w, "The PAC file can only be fetched.", http.StatusMethodNotAllowed)
			return
		}
		c := p.policy.Load().config
		in := PACInput{Config: c, Client: clientOf(r).Addr(), OmitHTTPS: p.opts.OmitHTTPS != nil && p.opts.OmitHTTPS(), Parent: p.parent.current()}
		text, err := RenderPAC(in)
		if err != nil {
			h.Set("Cache-Control", "no-store")
			code := http.StatusNotFound
			if errors.Is(err, ErrNoParent) {
				code = http.StatusServiceUnavailable // it may come; a browser asks again
			}
			http.Error(w, "No PAC file here: "+err.Error()+".", code)
			return
		}
		h.Set("Content-Type", "application/x-ns-proxy-autoconfig"+in.Parent.charsetParameter())
		h.Set("Cache-Control", fmt.Sprintf("private, max-age=%d", int(c.PAC.MaxAge.Seconds()))) // private: it depends on the client
		h.Set("Content-Length", strconv.Itoa(len(text)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(text)
		}
	})
}

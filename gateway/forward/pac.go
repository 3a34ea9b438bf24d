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

// ErrPACOff says that there is no PAC file, and what to do about it. A PAC file decides about the whole web, so there is
// none as long as nobody has said what the rest of the web gets.
var ErrPACOff = errors.New("the PAC file is off, because `pac.otherwise` does not say where the rest of the web goes: " +
	"write `pac.otherwise: DIRECT` or `pac.otherwise: \"PROXY proxy.example:3128\"`, or let the company's own PAC file send the services' hosts here")

// PACInput is what a PAC file depends on. The same input gives the same bytes.
type PACInput struct {
	// Config must be valid: see configs.Load.
	Config *configs.Config
	// Client is the browser's address: it decides whether the gateway is offered at all (pac.rollout, pac.skip) and in which
	// order the gateways stand. The zero value is a client like any other: the gateways are offered, in the order written.
	Client netip.Addr
	// OmitHTTPS leaves the HTTPS entries out: browsers don't fall back from a proxy whose certificate they don't trust.
	OmitHTTPS bool
}

// RenderPAC makes the PAC file for one client, in the JavaScript of 1999 (ECMAScript 3) that all PAC engines know. The
// services' hosts and relays go to the gateways at the ports that CONNECT allows, whatever the scheme: for TURN over
// TCP, Firefox asks about http://host:3478/ and Chromium about https://host:3478/. Own names are DIRECT, the rest goes
// as pac.otherwise says. The error is ErrPACOff.
func RenderPAC(in PACInput) ([]byte, error) {
	c := in.Config
	if c.PAC.Otherwise == "" {
		return nil, ErrPACOff
	}
	var b strings.Builder
	b.WriteString(pacHead)
	exact, below := pacTargets(c)
	answer := in.answer()
	if answer == "" {
		exact, below = nil, nil // the services are a part of the rest of the web
	}
	fmt.Fprintf(&b, "var hafenOwn = %s;\n", jsList(pacOwn(c), jsString))
	fmt.Fprintf(&b, "var hafenHosts = %s;\n", jsList(exact, jsTarget))
	fmt.Fprintf(&b, "var hafenBelow = %s;\n", jsList(below, jsTarget))
	fmt.Fprintf(&b, "var hafenGateways = %s;\n", jsString(answer))
	fmt.Fprintf(&b, "var hafenOtherwise = %s;\n", jsString(c.PAC.Otherwise))
	b.WriteString(pacBody)
	return []byte(b.String()), nil
}

const pacHead = `// Proxy auto-configuration by Hafen. Made from the gateway's configuration; edit that, not this.
// Video calls go to the gateway, the gateway itself is reached directly, all else goes as the administrator has set.
`

const pacBody = `
function FindProxyForURL(url, host) {
  var name = hafenName(host), port = hafenPort(url), i, suffix;
  for (i = 0; i < hafenOwn.length; i++) {
    if (name === hafenOwn[i]) return "DIRECT";
  }
  for (i = 0; i < hafenHosts.length; i++) {
    if (name === hafenHosts[i][0] && hafenHas(hafenHosts[i][1], port)) return hafenGateways;
  }
  for (i = 0; i < hafenBelow.length; i++) {
    suffix = hafenBelow[i][0];
    if (name.length > suffix.length && name.substring(name.length - suffix.length) === suffix && hafenHas(hafenBelow[i][1], port)) return hafenGateways;
  }
  return hafenOtherwise;
}

function hafenName(host) {
  var name = String(host).toLowerCase();
  return name.charAt(name.length - 1) === "." ? name.substring(0, name.length - 1) : name;
}

function hafenHas(ports, port) {
  for (var i = 0; i < ports.length; i++) {
    if (ports[i] === port) return true;
  }
  return false;
}

function hafenPort(url) {
  var m = /^([a-z][a-z0-9+.\-]*):\/\/([^\/?#\\]*)/i.exec(String(url));
  if (!m) return 0;
  var p = /:([0-9]+)$/.exec(m[2]), scheme = m[1].toLowerCase();
  if (p) return parseInt(p[1], 10);
  return scheme === "https" || scheme === "wss" ? 443 : scheme === "http" || scheme === "ws" ? 80 : 0;
}
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
	var entries []string
	for _, g := range in.gateways() {
		host, port, ok := strings.Cut(g, ":")
		if !ok {
			port = portOf(c.Listen.HTTPS, "443")
		}
		if !in.OmitHTTPS {
			entries = append(entries, "HTTPS "+host+":"+port)
		}
		if len(c.Listen.Proxy) > 0 {
			entries = append(entries, "PROXY "+host+":"+portOf(c.Listen.Proxy, "3128"))
		}
	}
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
		in := PACInput{Config: c, Client: clientOf(r).Addr(), OmitHTTPS: p.opts.OmitHTTPS != nil && p.opts.OmitHTTPS()}
		text, err := RenderPAC(in)
		if err != nil {
			h.Set("Cache-Control", "no-store")
			http.Error(w, "No PAC file here: "+err.Error()+".", http.StatusNotFound)
			return
		}
		h.Set("Content-Type", "application/x-ns-proxy-autoconfig")
		h.Set("Cache-Control", fmt.Sprintf("private, max-age=%d", int(c.PAC.MaxAge.Seconds()))) // private: it depends on the client
		h.Set("Content-Length", strconv.Itoa(len(text)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(text)
		}
	})
}

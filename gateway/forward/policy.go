package forward

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"hafen/configs"
)

// kind is what a target is to us.
type kind int

const (
	serviceHost  kind = iota // a call server: HTTPS on 443
	serviceRelay             // a TURN server of a service
	extra                    // something that forward.allow names
)

// relayPorts are open at every relay, besides those of its URLs: browsers get URLs from the service, and a service may
// add 443 to 3478 without asking us.
var relayPorts = []uint16{443, 3478}

// policy says what may be connected to. It is made from a configuration and never changes; the PAC file is rendered
// from the same one.
type policy struct {
	config *configs.Config
	own    func(host string) bool
	relays map[string]relayRule
	extras []extraRule
	users  map[string]string // password hashes by name; nil: nobody is asked
}

// relayRule is one relay's name.
type relayRule struct {
	service string
	ports   []uint16 // in order, with relayPorts
	urls    []uint16 // those of its URLs alone
}

// extraRule is one entry of forward.allow.
type extraRule struct {
	pattern string // a name, or *.suffix
	port    uint16
}

// newPolicy reads the policy from a valid configuration. own knows further names of the gateway; it may be nil.
func newPolicy(c *configs.Config, own func(string) bool) *policy {
	p := &policy{config: c, own: own, relays: make(map[string]relayRule), users: usersOf(c)}
	for i := range c.Services {
		for _, u := range c.Services[i].Relays() {
			if isAddress(u.Host) {
				continue // names only: the bridge reaches it, CONNECT does not
			}
			r, ok := p.relays[u.Host]
			if !ok {
				r = relayRule{service: c.Services[i].Name, ports: slices.Clone(relayPorts)}
			}
			r.ports, r.urls = append(r.ports, u.Port), append(r.urls, u.Port)
			p.relays[u.Host] = r
		}
	}
	for host, r := range p.relays {
		slices.Sort(r.ports)
		r.ports = slices.Compact(r.ports)
		p.relays[host] = r
	}
	for _, entry := range c.Forward.Allow {
		host, text, _ := strings.Cut(entry, ":")
		if port, err := strconv.ParseUint(text, 10, 16); err == nil {
			p.extras = append(p.extras, extraRule{configs.CanonicalHost(host), uint16(port)})
		}
	}
	return p
}

// verdict is what becomes of a target: refused, or allowed as a kind of target of a service ("" for extras).
type verdict struct {
	kind    kind
	service string
	refused *refusal // nil: allowed
}

// decide judges a target by its name and port. What the name resolves to is judged when it is dialled.
func (p *policy) decide(t Target) verdict {
	if p.ownName(t.Host) {
		return verdict{refused: &refusal{
			code: http.StatusForbidden, word: statusPolicy,
			why: "it is this gateway itself, which needs no proxy: the PAC file has to send its names DIRECT",
		}}
	}
	service := p.config.ServiceOfHost(t.Host)
	relay, isRelay := p.relays[t.Host]
	switch {
	case isRelay && slices.Contains(relay.ports, t.Port) && (service == nil || t.Port != 443 || slices.Contains(relay.urls, 443)):
		return verdict{kind: serviceRelay, service: relay.service}
	case service != nil && t.Port == 443:
		return verdict{kind: serviceHost, service: service.Name}
	}
	for _, e := range p.extras {
		if e.port == t.Port && configs.MatchHost(e.pattern, t.Host) {
			return verdict{kind: extra}
		}
	}
	return verdict{refused: p.notAllowed(t, service != nil, relay.ports)}
}

func (p *policy) ownName(host string) bool {
	return p.config.OwnName(host) || p.own != nil && p.own(host)
}

func (p *policy) notAllowed(t Target, isHost bool, relayPorts []uint16) *refusal {
	r := &refusal{code: http.StatusForbidden, word: statusPolicy}
	switch {
	case len(relayPorts) > 0:
		r.why = fmt.Sprintf("%s is a relay of a call service, and may be reached at ports %v only", t.Host, relayPorts)
	case isHost:
		r.why = fmt.Sprintf("%s is a host of a call service, and may be reached at port 443 only", t.Host)
	default:
		r.why = fmt.Sprintf("%s is no host of a call service; this proxy serves video calls and nothing else (`services`, `forward.allow`)", t.Host)
	}
	return r
}

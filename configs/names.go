package configs

import (
	"strings"
)

// CanonicalHost is the form in which host names are compared: lower case, without the one trailing dot of a
// fully qualified name.
func CanonicalHost(host string) string {
	return strings.ToLower(strings.TrimSuffix(host, "."))
}

// MatchHost reports whether host is meant by pattern: the name itself, or for "*.suffix" any name below suffix, at any
// depth, but not suffix itself.
func MatchHost(pattern, host string) bool {
	pattern, host = CanonicalHost(pattern), CanonicalHost(host)
	if suffix, wild := strings.CutPrefix(pattern, "*"); wild {
		return len(host) > len(suffix) && strings.HasPrefix(suffix, ".") && strings.HasSuffix(host, suffix)
	}
	return pattern != "" && pattern == host
}

// OwnNames are the names of the gateway itself: its name, its aliases and the services' gateway names.
func (c *Config) OwnNames() []string {
	names := make([]string, 0, 1+len(c.Aliases)+len(c.Services))
	add := func(name string) {
		name = CanonicalHost(name)
		for _, n := range names {
			if n == name {
				return
			}
		}
		if name != "" {
			names = append(names, name)
		}
	}
	add(c.Name)
	for _, a := range c.Aliases {
		add(a)
	}
	for i := range c.Services {
		add(c.Services[i].GatewayName)
	}
	return names
}

// OwnName reports whether host is a name of the gateway itself. Addresses are not names: whoever knows the machine's
// addresses judges those.
func (c *Config) OwnName(host string) bool {
	host = CanonicalHost(host)
	for _, name := range c.OwnNames() {
		if name == host {
			return true
		}
	}
	return false
}

// ServiceOfHost finds the service that host is a call server of: by its exact name, else by the longest wildcard.
// It returns nil when there is none.
func (c *Config) ServiceOfHost(host string) *Service {
	var best *Service
	longest := 0
	for i := range c.Services {
		for _, pattern := range c.Services[i].Hosts {
			if !MatchHost(pattern, host) {
				continue
			}
			if !strings.HasPrefix(pattern, "*") {
				return &c.Services[i]
			}
			if len(pattern) > longest {
				best, longest = &c.Services[i], len(pattern)
			}
		}
	}
	return best
}

// ServiceOfRelay finds the service and the region whose URLs name host as their relay. Both are nil when none does.
func (c *Config) ServiceOfRelay(host string) (*Service, *Region) {
	host = CanonicalHost(host)
	for i := range c.Services {
		s := &c.Services[i]
		for j := range s.Regions {
			for _, u := range s.Regions[j].Relays() {
				if u.Host == host {
					return s, &s.Regions[j]
				}
			}
		}
	}
	return nil, nil
}

// ServiceOfGatewayName finds the service whose TURN is asked for under the name sni: the one with that gateway name,
// else the first. It returns nil only when there is no service at all.
func (c *Config) ServiceOfGatewayName(sni string) *Service {
	sni = CanonicalHost(sni)
	for i := range c.Services {
		if name := CanonicalHost(c.Services[i].GatewayName); name != "" && name == sni {
			return &c.Services[i]
		}
	}
	if len(c.Services) == 0 {
		return nil
	}
	return &c.Services[0]
}

// ServiceNamed finds a service by its name; nil when there is none.
func (c *Config) ServiceNamed(name string) *Service {
	for i := range c.Services {
		if c.Services[i].Name == name {
			return &c.Services[i]
		}
	}
	return nil
}

// NameForTURN is the name under which clients ask the gateway for this service's TURN: its gateway name, else the
// gateway's own.
func (c *Config) NameForTURN(s *Service) string {
	if s.GatewayName != "" {
		return CanonicalHost(s.GatewayName)
	}
	return CanonicalHost(c.Name)
}

// CallServers are the call servers of a service that can be asked something by name: those of its probes, and its
// hosts that are no wildcards.
func (s *Service) CallServers() []string {
	servers := make([]string, 0, len(s.Probes.CallServers)+len(s.Hosts))
	seen := make(map[string]bool)
	for _, host := range append(append([]string(nil), s.Probes.CallServers...), s.Hosts...) {
		host = CanonicalHost(host)
		if host == "" || seen[host] || strings.HasPrefix(host, "*") {
			continue
		}
		seen[host] = true
		servers = append(servers, host)
	}
	return servers
}

// Relays are the URLs of all regions of the service, used or not; URLs that do not parse are left out (Validate names them).
func (s *Service) Relays() []TURNURL {
	var urls []TURNURL
	for i := range s.Regions {
		urls = append(urls, s.Regions[i].Relays()...)
	}
	return urls
}

// Relays are the region's URLs, parsed; those that do not parse are left out (Validate names them).
func (r *Region) Relays() []TURNURL {
	urls := make([]TURNURL, 0, len(r.URLs))
	for _, text := range r.URLs {
		if u, err := ParseTURNURL(text); err == nil {
			urls = append(urls, u)
		}
	}
	return urls
}

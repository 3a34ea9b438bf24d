package configs

import (
	"net/netip"
	"net/url"
	"strings"
)

// services checks each service, and that no two of them claim the same name, host or relay: a client must belong to one.
func (k *check) services() {
	c := k.config
	if len(c.Services) == 0 {
		k.bad("services", "is empty, so that there is nothing to pass on", "write a service with its name, hosts and regions")
	}
	claims := &claims{names: make(map[string]string), hosts: make(map[string]string), relays: make(map[string]string), gatewayNames: make(map[string]string)}
	for i := range c.Services {
		k.service(at("services", i), &c.Services[i], claims)
	}
}

// claims are the names that services have taken, with the keys that took them.
type claims struct{ names, hosts, relays, gatewayNames map[string]string }

// take claims a name for key. It reports who has it already.
func take(claimed map[string]string, name, key string) (first string, taken bool) {
	if first, taken = claimed[name]; !taken {
		claimed[name] = key
	}
	return first, taken
}

func (k *check) service(key string, s *Service, claimed *claims) {
	k.label(key+".name", s.Name)
	if first, taken := take(claimed.names, s.Name, key); taken && s.Name != "" {
		k.bad(key+".name", "is the name of "+first+" already", "write another name")
	}
	k.gatewayName(key, s, claimed)
	k.hosts(key, s, claimed)
	if len(s.Regions) == 0 {
		k.bad(key+".regions", "is empty, so that no media could be relayed", "write a region with its name and urls")
	}
	k.regions(key, s, claimed)
	k.choice(key+".choose", s.Choose)
	k.turnCredentials(key+".turn_credentials", s.TURNCredentials)
	k.probes(key, s)
	k.networks(key+".private_networks", s.PrivateNetworks)
	k.rootsFile(key+".ca_file", s.CAFile)
}

// label checks a name of the administrator's own choice. It becomes a label of metrics and a part of commands.
func (k *check) label(key, name string) {
	ok := name != "" && len(name) <= 63 && name[0] != '-' && name[0] != '.'
	for i := range len(name) {
		b := name[i]
		ok = ok && (b >= 'a' && b <= 'z' || b >= 'A' && b <= 'Z' || b >= '0' && b <= '9' || b == '-' || b == '_' || b == '.')
	}
	switch {
	case name == "":
		k.bad(key, "is missing", "write a short name of your choice")
	case !ok:
		k.bad(key, "is not made of letters, digits, hyphens, underscores and dots", "write a short name such as calls or frankfurt-1")
	}
}

func (k *check) gatewayName(key string, s *Service, claimed *claims) {
	c := k.config
	name := CanonicalHost(s.GatewayName)
	if name == "" && s == &c.Services[0] {
		name = CanonicalHost(c.Name) // the first service has the gateway's own name
	}
	if name == "" {
		return
	}
	key += ".gateway_name"
	if s.GatewayName != "" && !k.hostname(key, s.GatewayName, false) {
		return
	}
	if first, taken := take(claimed.gatewayNames, name, key); taken {
		k.bad(key, "is what "+first+" is already", "write a name of this service's own")
	}
}

func (k *check) hosts(key string, s *Service, claimed *claims) {
	c := k.config
	if len(s.Hosts) == 0 {
		k.bad(key+".hosts", "is empty", "write the names of the call servers, such as call.example.net or *.call.example.net")
	}
	for i, host := range s.Hosts {
		hostKey := at(key+".hosts", i)
		if !k.hostname(hostKey, host, true) {
			continue
		}
		if c.OwnName(host) {
			k.bad(hostKey, "is a name of the gateway itself", "write the name that the call service has")
		}
		if first, taken := take(claimed.hosts, CanonicalHost(host), hostKey); taken {
			k.bad(hostKey, "is "+first+" already", "delete one of them")
		}
	}
}

func (k *check) regions(key string, s *Service, claimed *claims) {
	seen := make(map[string]string)
	usable := false
	for i := range s.Regions {
		r := &s.Regions[i]
		regionKey := at(key+".regions", i)
		usable = usable || r.Use
		k.label(regionKey+".name", r.Name)
		if first, taken := take(seen, r.Name, regionKey); taken && r.Name != "" {
			k.bad(regionKey+".name", "is the name of "+first+" already", "write another name")
		}
		if len(r.URLs) == 0 {
			k.bad(regionKey+".urls", "is empty", "write the region's TURN URLs, such as turn:relay.example.net:3478?transport=udp")
		}
		for j, text := range r.URLs {
			k.turnURL(at(regionKey+".urls", j), text, key, s, claimed)
		}
	}
	if len(s.Regions) > 0 && !usable {
		k.bad(key+".regions", "has no region that may be used", "write use: true at one of them")
	}
}

func (k *check) turnURL(key, text, serviceKey string, s *Service, claimed *claims) {
	u, err := ParseTURNURL(text)
	if err != nil {
		k.bad(key, "is no TURN URL, "+err.Error(), "write one such as turn:relay.example.net:3478?transport=udp or turns:relay.example.net:443?transport=tcp")
		return
	}
	// Names decide which service a tunnel to a relay belongs to. Addresses can't be asked for, so two services may share one.
	claim := u.Host
	if addr, err := netip.ParseAddr(u.Host); err == nil {
		claim = u.String()
		inside := addr.IsPrivate() || addr.IsLoopback() || addr.IsLinkLocalUnicast()
		if inside && !containsAddr(s.PrivateNetworks, addr) {
			k.bad(key, "has a private address, which is refused by default", "write its network into "+serviceKey+".private_networks as well")
		}
	} else if k.config.OwnName(u.Host) {
		k.bad(key, "names the gateway itself", "write the name of the cloud's relay")
	}
	if first, taken := take(claimed.relays, claim, serviceKey); taken && first != serviceKey {
		k.bad(key, "is a relay of "+first+" too", "write relays of this service's own, so that each belongs to one service")
	}
}

func containsAddr(networks []netip.Prefix, addr netip.Addr) bool {
	for _, p := range networks {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}

func (k *check) turnCredentials(key string, t TURNCredentials) {
	ways := 0
	for _, set := range []bool{t.SecretFile != "", t.Username != "" || t.PasswordFile != "", t.URL != ""} {
		if set {
			ways++
		}
	}
	if ways > 1 {
		k.bad(key, "has more than one source", "keep one of secret_file, username with password_file, url")
	}
	if (t.Username == "") != (t.PasswordFile == "") {
		k.bad(key+".username", "and password_file belong together, but one is missing", "write both, or neither")
	}
	k.secretFile(key+".secret_file", t.SecretFile)
	k.secretFile(key+".password_file", t.PasswordFile)
	if t.URL != "" {
		if u, err := url.Parse(t.URL); err != nil || u.Scheme != "https" || u.Host == "" {
			k.bad(key+".url", "is no https:// URL", "write the URL that answers with ICE servers")
		}
	}
}

// probes checks what is asked of the call servers. Wildcard hosts alone name nobody to ask.
func (k *check) probes(key string, s *Service) {
	p := s.Probes
	key += ".probes"
	for i, name := range p.CallServers {
		serverKey := at(key+".call_servers", i)
		if k.hostname(serverKey, name, false) && !matchesAny(s.Hosts, name) {
			k.bad(serverKey, "is none of the service's hosts", "write a name that is, or add it to hosts")
		}
	}
	k.probePath(key+".https", p.HTTPS)
	k.probePath(key+".websocket", p.WebSocket)
	k.probePath(key+".longpoll", p.LongPoll)
	if used := p.WebSocket != "" || p.LongPoll != ""; used && len(s.Hosts) > 0 && len(s.CallServers()) == 0 {
		k.bad(key+".call_servers", "is empty, and all hosts are wildcards, so that there is nobody to probe", "write the call servers to ask by name")
	}
}

func (k *check) probePath(key, path string) {
	if path == "" {
		return
	}
	u, err := url.ParseRequestURI(path)
	if err != nil || !strings.HasPrefix(path, "/") || strings.HasPrefix(path, "//") || u.Host != "" || strings.Contains(path, "#") {
		k.bad(key, "is no path", "write a path on the call server that begins with /")
	}
}

func matchesAny(patterns []string, host string) bool {
	for _, pattern := range patterns {
		if MatchHost(pattern, host) {
			return true
		}
	}
	return false
}

package configs

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Validate finds everything wrong that can be known without the network: it reads the files that the configuration names, and
// nothing else of the world. An empty result means that the gateway may start with it.
func (c *Config) Validate() Problems {
	k := &check{config: c}
	k.names()
	k.clients()
	k.listen()
	k.tls()
	k.services()
	k.wayOut()
	k.signaling()
	k.relay()
	k.limits()
	k.forward()
	k.pac()
	k.pages()
	k.reports()
	k.house()
	k.store()
	return k.problems
}

// check collects problems. Its methods are one per section, each reads like the section's manual.
type check struct {
	config   *Config
	problems Problems
}

func (k *check) bad(key, problem, write string) {
	k.problems = append(k.problems, Problem{Key: key, Problem: problem, Write: write})
}

// at is the key of a member of a list.
func at(key string, i int) string { return fmt.Sprintf("%s[%d]", key, i) }

// choice checks a word against the words that its key may have.
func (k *check) choice(key, value string) {
	words := choices()[patternOf(key)]
	if slices.Contains(words, value) {
		return
	}
	write := "write one of " + list(words)
	if near := nearest(value, words); near != "" && value != "" {
		write = "write " + near
	}
	k.bad(key, "is not a word that can stand here", write)
}

// patternOf is a key with its positions taken out: services[0].name is services[].name.
func patternOf(key string) string {
	for i := 0; i < len(key); i++ {
		if key[i] == '[' {
			end := strings.IndexByte(key[i:], ']')
			key = key[:i+1] + key[i+end:]
		}
	}
	return key
}

// hostname checks a name; it may be a wildcard where wild is set.
func (k *check) hostname(key, name string, wild bool) bool {
	plainName, isWild := strings.CutPrefix(CanonicalHost(name), "*.")
	if isWild && !wild {
		k.bad(key, "is a wildcard", "write a name in full")
		return false
	}
	if addr, err := netip.ParseAddr(strings.Trim(plainName, "[]")); err == nil && addr.IsValid() {
		k.bad(key, "is an address", "write a name that DNS knows")
		return false
	}
	if err := checkHostname(plainName); err != nil {
		write := "write a name such as gw.hospital.example"
		if wild {
			write = "write a name such as call.example.net or *.call.example.net"
		}
		if ascii := asciiForm(plainName); ascii != "" {
			write = "write its form in DNS, " + ascii
		}
		k.bad(key, "is no host name, it "+err.Error(), write)
		return false
	}
	if isWild && !strings.Contains(plainName, ".") {
		k.bad(key, "is a wildcard for a whole top-level domain", "write *. and a name with a dot, such as *.call.example.net")
		return false
	}
	return true
}

// network checks one network: it must be masked, and IPv4 must be written as IPv4.
func (k *check) network(key string, p netip.Prefix) {
	switch {
	case !p.IsValid():
		k.bad(key, "is no network", "write "+example(reflect.TypeFor[netip.Prefix]()))
	case p.Addr().Is4In6() && p.Bits() >= 96:
		v4 := netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Masked()
		k.bad(key, "is an IPv4 network in IPv6 form", "write "+v4.String())
	case p != p.Masked():
		k.bad(key, "has bits set behind its length", "write "+p.Masked().String()+", or "+netip.PrefixFrom(p.Addr(), p.Addr().BitLen()).String()+" for the one address")
	}
}

func (k *check) networks(key string, ps []netip.Prefix) {
	for i, p := range ps {
		k.network(at(key, i), p)
	}
}

func (k *check) atLeast(key string, d, least time.Duration) {
	if d < least {
		k.bad(key, "is shorter than "+durationText(least), "write "+durationText(least)+" or more")
	}
}

func (k *check) between(key string, d, least, most time.Duration) {
	if d < least || d > most {
		k.bad(key, "is not between "+durationText(least)+" and "+durationText(most), "write a duration between them")
	}
}

// names checks the gateway's own names.
func (k *check) names() {
	c := k.config
	if c.Name == "" {
		k.bad("name", "is missing", "write the gateway's own name, such as gw.hospital.example")
	} else {
		k.hostname("name", c.Name, false)
	}
	seen := map[string]string{CanonicalHost(c.Name): "name"}
	for i, alias := range c.Aliases {
		key := at("aliases", i)
		if !k.hostname(key, alias, false) {
			continue
		}
		if first, twice := seen[CanonicalHost(alias)]; twice {
			k.bad(key, "is the same name as "+first, "delete it")
			continue
		}
		seen[CanonicalHost(alias)] = key
	}
	for i, a := range c.Addresses.Public {
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			k.bad(at("addresses.public", i), "is no address that the outside could see", "write the address that NAT gives the gateway")
		}
	}
}

// clients checks who may use the gateway. An empty list would be nobody, which nobody means; everybody must be meant twice.
func (k *check) clients() {
	c := k.config
	if len(c.Clients) == 0 {
		k.bad("clients", "is empty, so that nobody could use the gateway", "write the networks of its users, or delete the line for the private ranges")
	}
	k.networks("clients", c.Clients)
	for i, p := range c.Clients {
		if p.IsValid() && wide(p) && !c.ClientsAny {
			k.bad(at("clients", i), "lets the whole internet use the gateway", "write the networks of its users; if the whole internet is meant, add clients_any: true")
		}
	}
	if everything := slices.ContainsFunc(c.Clients, func(p netip.Prefix) bool { return p.IsValid() && wide(p) }); c.ClientsAny && !everything {
		k.bad("clients_any", "is true, but no client network is 0.0.0.0/0, ::/0 or nearly as wide", "delete it")
	}
}

// wide tells whether a network is the internet, or so much of it that a few such are: two halves are as much as the whole. No
// company has an IPv4 network wider than a /8, and of IPv6 only the private range is wider than what a registry hands out.
func wide(p netip.Prefix) bool {
	if p.Addr().Is4() {
		return p.Bits() < 8
	}
	private := netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfc}), 7)
	return p.Bits() < 16 && !(p.Bits() >= private.Bits() && private.Contains(p.Addr()))
}

// wayOut checks fixed addresses, resolvers and the company proxy.
func (k *check) wayOut() {
	c := k.config
	seen := make(map[string]bool)
	for i, h := range c.Hosts {
		key := at("hosts", i)
		k.hostname(key+".host", h.Host, false)
		if !h.IP.IsValid() || h.IP.IsUnspecified() || h.IP.IsMulticast() {
			k.bad(key+".ip", "is missing or no address of a host", "write the address that the name shall have")
		}
		pair := CanonicalHost(h.Host) + " " + h.IP.String()
		if seen[pair] {
			k.bad(key, "is there twice", "delete one of them")
		}
		seen[pair] = true
	}
	for i, server := range c.DNS.Servers {
		k.resolver(at("dns.servers", i), server)
	}
	k.choice("dns.proxy_resolves", c.DNS.ProxyResolves)
	k.egress()
}

func (k *check) resolver(key, server string) {
	if _, err := netip.ParseAddr(server); err == nil {
		return
	}
	if ap, err := netip.ParseAddrPort(server); err == nil && ap.Port() != 0 {
		return
	}
	k.bad(key, "is no address of a resolver", "write its address, such as 192.0.2.53 or 192.0.2.53:53 or [2001:db8::53]:53")
}

func (k *check) egress() {
	e := k.config.Egress
	if e.Proxy != "" && e.ProxyFile != "" {
		k.bad("egress.proxy_file", "is set beside egress.proxy", "keep one of them")
	}
	if e.Proxy != "" {
		if problem := checkProxyURL(e.Proxy); problem != "" {
			k.bad("egress.proxy", problem, "write http://proxy.hospital.example:3128, with user:password@ before the host if it asks")
		}
	}
	k.secretProxyFile("egress.proxy_file", e.ProxyFile)
	if len(e.NoProxy) > 0 && e.Proxy == "" && e.ProxyFile == "" {
		k.bad("egress.no_proxy", "is set, but there is no company proxy", "set egress.proxy, or delete it")
	}
	for i, pattern := range e.NoProxy {
		k.noProxy(at("egress.no_proxy", i), pattern)
	}
	families := make(map[bool]bool)
	for i, a := range e.Source {
		key := at("egress.source", i)
		if !a.IsValid() || a.IsUnspecified() || a.IsMulticast() {
			k.bad(key, "is no address of this machine", "write the address to send from")
			continue
		}
		if families[a.Is4()] {
			k.bad(key, "is the second address of its family", "write one IPv4 and one IPv6 address at most")
		}
		families[a.Is4()] = true
	}
}

// noProxy accepts what the company proxy is passed by for: a name, a suffix, an address or a network.
func (k *check) noProxy(key, pattern string) {
	if p, err := netip.ParsePrefix(pattern); err == nil {
		k.network(key, p)
		return
	}
	if _, err := netip.ParseAddr(pattern); err == nil {
		return
	}
	name := strings.TrimPrefix(strings.TrimPrefix(pattern, "*"), ".")
	if checkHostname(name) != nil || strings.HasPrefix(pattern, "*") && !strings.HasPrefix(pattern, "*.") {
		k.bad(key, "is neither a name nor a network", "write a name, *.suffix, an address or a network")
	}
}

func (k *check) limits() {
	l := k.config.Limits
	limits := []struct {
		key   string
		value int
	}{
		{"limits.allocations_per_user", l.AllocationsPerUser},
		{"limits.allocations_per_client", l.AllocationsPerClient},
		{"limits.allocations", l.Allocations},
		{"limits.connections_per_client", l.ConnectionsPerClient},
		{"limits.pending_per_client", l.PendingPerClient},
	}
	for _, limit := range limits {
		if limit.value < 1 || limit.value > 10_000_000 {
			k.bad(limit.key, "is not between 1 and 10000000", "write how many there may be, or delete the line for the default")
		}
	}
}

// house checks what belongs to the process itself.
func (k *check) house() {
	c := k.config
	k.atLeast("drain", c.Drain, 0)
	k.choice("log.level", c.Log.Level)
	k.choice("log.format", c.Log.Format)
	if c.DataDir == "" {
		k.bad("data_dir", "is empty", "write the directory for keys, certificates and reports, such as /var/lib/hafen")
	}
	if c.RunDir == "" {
		k.bad("run_dir", "is empty", "write the directory for the control socket, such as /run/hafen")
	}
}

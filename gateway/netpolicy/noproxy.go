package netpolicy

import (
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// exemption is an entry of no_proxy: what is reached without the company proxy.
type exemption struct {
	all    bool
	suffix string       // ".example.net": names below it
	name   string       // "example.net"
	prefix netip.Prefix // addresses
	port   uint16       // 0: any
}

// parseExemption reads one entry: "*", a network, an address, "name" (it and every name below it, as curl and Go read
// it), ".name" or "*.name" (the names below it), each but the first with an optional ":port".
func parseExemption(entry string) (exemption, error) {
	text := strings.ToLower(strings.TrimSpace(entry))
	bad := func(why string) (exemption, error) {
		return exemption{}, fmt.Errorf("no_proxy entry %q %s", entry, why)
	}
	if text == "*" {
		return exemption{all: true}, nil
	}
	if p, err := netip.ParsePrefix(text); err == nil {
		return exemption{prefix: p.Masked()}, nil
	}
	var e exemption
	if host, port, err := net.SplitHostPort(text); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return bad("has a port that is no number from 1 to 65535")
		}
		text, e.port = host, uint16(n)
	}
	if a, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		a = a.Unmap()
		e.prefix = netip.PrefixFrom(a, a.BitLen())
		return e, nil
	}
	name := strings.TrimSuffix(strings.TrimPrefix(text, "*"), ".")
	if below, ok := strings.CutPrefix(name, "."); ok {
		e.suffix, name = name, below
	} else {
		e.suffix, e.name = "."+name, name
	}
	if checkName(name) != nil {
		return bad("is neither a name, .suffix, address nor network")
	}
	return e, nil
}

// matchesName reports whether a target named by name (lower case, no trailing dot) is exempt.
func (e exemption) matchesName(name string, port uint16) bool {
	if e.all {
		return true
	}
	if e.port != 0 && e.port != port || e.suffix == "" {
		return false
	}
	return name == e.name && e.name != "" || strings.HasSuffix(name, e.suffix)
}

// matchesAddr reports whether a target with this address is exempt.
func (e exemption) matchesAddr(ap netip.AddrPort) bool {
	return e.all || (e.port == 0 || e.port == ap.Port()) && e.prefix.IsValid() && e.prefix.Contains(ap.Addr().Unmap())
}

package netpolicy

import "net/netip"

// Client is what counts as one client wherever something is counted or limited: an IPv4 address, or an IPv6 /64, since one host has all
// addresses of that. The zero Prefix for no address: then all of those count as one.
func Client(a netip.Addr) netip.Prefix { return masked(a, 32, 64) }

// Network is as much of a client's address as logs, pages and records have: an IPv4 /24 or an IPv6 /48. The zero Prefix for no address.
func Network(a netip.Addr) netip.Prefix { return masked(a, 24, 48) }

func masked(a netip.Addr, v4, v6 int) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := v4
	if a.Is6() {
		bits = v6
	}
	p, _ := a.Prefix(bits) // fails for no address only
	return p
}

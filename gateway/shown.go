package gateway

import "net/netip"

// shown is an address as logs have it: its network, or the whole of it where log.full_addresses is set.
func (g *Gateway) shown(a netip.Addr) string {
	if g.cfg.Log.FullAddresses {
		return a.String()
	}
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, err := a.WithZone("").Prefix(bits)
	if err != nil {
		return ""
	}
	return p.String()
}

package relay

import (
	"net/netip"
	"time"
)

const (
	// permissionLifetime is fixed by RFC 8656 section 9.
	permissionLifetime = 5 * time.Minute
	// maxPermissions bounds one allocation. A call has a handful of peers, each with a few candidates.
	maxPermissions = 64
)

// permissions are the peer addresses that an allocation exchanges packets with, each until its time is up. Ports don't count
// (RFC 8656 section 9).
type permissions map[netip.Addr]time.Time

func (p permissions) has(peer netip.Addr, now time.Time) bool {
	expires, ok := p[peer]
	return ok && now.Before(expires)
}

// room tells whether all of peers could be installed. A CreatePermission is done as a whole or not at all.
func (p permissions) room(peers []netip.AddrPort, now time.Time) bool {
	p.sweep(now)
	seen := make(map[netip.Addr]bool, len(peers))
	for _, peer := range peers {
		if _, ok := p[peer.Addr()]; !ok {
			seen[peer.Addr()] = true
		}
	}
	return len(p)+len(seen) <= maxPermissions
}

// install adds or refreshes peers.
func (p permissions) install(peers []netip.AddrPort, now time.Time) {
	for _, peer := range peers {
		p[peer.Addr()] = now.Add(permissionLifetime)
	}
}

func (p permissions) sweep(now time.Time) {
	for peer, expires := range p {
		if !now.Before(expires) {
			delete(p, peer)
		}
	}
}

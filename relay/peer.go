package relay

import (
	"fmt"
	"net/netip"
	"slices"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// peerPolicy says which peers an allocation of the gateway's own may exchange packets with. What no rule admits is refused.
type peerPolicy struct {
	// judgeClass is netpolicy's verdict on an address with the networks of allow opened; own tells the machine's addresses.
	judgeClass func(netip.AddrPort, netpolicy.Scope) *netpolicy.Refusal
	own        func(netip.Addr) bool
	// allow opens networks whose class is refused otherwise; deny closes any, and wins.
	allow, deny []netip.Prefix
	// deps are what the gateway itself depends on: media has no business there, unless allow names it.
	deps *dependencies
}

// anyMediaPort stands in for the port of a CreatePermission that leaves it out: RFC 8656 section 10.2 has it ignored.
const anyMediaPort = 49152

// judge is the verdict on one peer.
func (p *peerPolicy) judge(peer netip.AddrPort) error {
	refuse := func(why string) error { return &turnError{code: codeForbidden, why: fmt.Sprintf("%s: %s", peer, why)} }
	if peer.Port() == 0 {
		peer = netip.AddrPortFrom(peer.Addr(), anyMediaPort)
	}
	meant := netpolicy.Reduce(peer.Addr())
	in := func(list []netip.Prefix) bool {
		return slices.ContainsFunc(list, func(n netip.Prefix) bool { return n.Contains(peer.Addr()) || n.Contains(meant) })
	}
	switch {
	case p.own(peer.Addr()):
		return refuse("it is ours")
	case in(p.deny):
		return refuse("relay.local.deny_peers")
	case (p.deps.has(meant) || p.deps.has(peer.Addr())) && !in(p.allow):
		return refuse("the gateway depends on it")
	case !mediaPort(peer.Port()):
		return refuse("no port for media")
	}
	if refusal := p.judgeClass(peer, netpolicy.Scope{Private: p.allow}); refusal != nil {
		return refuse(refusal.Reason)
	}
	return nil
}

// mediaPort tells whether media may be sent to a port: 443 and 3478, where relays listen, and what is not privileged, except where
// well-known servers listen that take a datagram from anybody.
func mediaPort(port uint16) bool {
	switch {
	case port == 443 || port == 3478:
		return true
	case port < 1024:
		return false
	}
	_, server := slices.BinarySearch(serverPorts, port)
	return !server
}

// serverPorts are unprivileged ports on which services of a house listen, above all over UDP. Media agents draw theirs from high
// ranges, so these cost nobody a call.
var serverPorts = []uint16{
	1194,       // OpenVPN
	1433, 1434, // SQL Server and its browser
	1521,       // Oracle
	1645, 1646, // RADIUS of old
	1701,       // L2TP
	1812, 1813, // RADIUS
	1900,       // SSDP
	2049,       // NFS
	3306,       // MySQL
	3389,       // RDP
	3702,       // WS-Discovery
	4500,       // IPsec
	5060, 5061, // SIP
	5353, 5355, // mDNS, LLMNR
	5432,       // PostgreSQL
	5683, 5684, // CoAP
	5900,  // VNC
	6379,  // Redis
	9200,  // Elasticsearch
	11211, // memcached
	27017, // MongoDB
}

// newPeerPolicy makes the policy of a configuration. A dialer without a policy, or none at all, is judged by the registries alone.
func newPeerPolicy(c *configs.Config, d *netpolicy.Dialer) *peerPolicy {
	policy := &netpolicy.Policy{Public: c.Addresses.Public}
	if d != nil && d.Policy != nil {
		policy = d.Policy
	}
	return &peerPolicy{
		judgeClass: policy.Judge, own: policy.Own,
		allow: c.Relay.Local.AllowPeers, deny: c.Relay.Local.DenyPeers, deps: newDependencies(c, d),
	}
}

package netpolicy

import "net/netip"

// Class is what kind of address an address is.
type Class string

// The classes. Those up to Own may be opened by a Scope that names the network; the others never.
const (
	// Public is global unicast outside every special-purpose block. It passes.
	Public Class = "public"
	// Special is anything else in the registries: documentation, benchmarking, protocol assignments, unallocated.
	Special Class = "special"
	// Shared is 100.64.0.0/10, the provider's side of carrier-grade NAT.
	Shared Class = "shared"
	// Private is RFC 1918, unique local and the old site-local space.
	Private Class = "private"
	// LinkLocal is this link only.
	LinkLocal Class = "link-local"
	// Loopback is this machine.
	Loopback Class = "loopback"
	// Own is an address of this machine's interfaces, or its public address behind NAT.
	Own Class = "own"
	// Broadcast is 255.255.255.255, and first and last address of a subnet of our own.
	Broadcast Class = "broadcast"
	// Multicast is a group.
	Multicast Class = "multicast"
	// Unspecified is 0.0.0.0/8 and ::, which many systems take for themselves.
	Unspecified Class = "unspecified"
	// Metadata is where clouds hand out credentials to whoever asks from the machine.
	Metadata Class = "metadata"
	// Loop is a port at which this gateway itself listens.
	Loop Class = "loop"
	// Invalid is no address at all, port 0, or an address with a zone.
	Invalid Class = "invalid"
)

// classes in the order of how little policy likes them.
var ranks = [...]Class{Public, Special, Shared, Private, LinkLocal, Loopback, Own, Broadcast, Multicast, Unspecified, Metadata, Loop, Invalid}

// rank orders classes: the higher, the worse.
func (c Class) rank() int {
	for i, k := range ranks {
		if k == c {
			return i
		}
	}
	return len(ranks)
}

// never reports whether no configuration can open the class.
func (c Class) never() bool { return c.rank() >= Broadcast.rank() }

// Classify tells what kind of address a is, after Reduce, by the IANA registries alone. Own, Broadcast of a subnet
// and Loop need a Policy, which knows the machine.
func Classify(a netip.Addr) Class {
	return read(a).worst().class
}

// finding is a reading with the block that it was found in.
type finding struct {
	addr  netip.Addr
	class Class
	name  string // "loopback (127.0.0.0/8, RFC 1122)", for people
}

// find looks up one reading.
func find(a netip.Addr) finding {
	if !a.IsValid() {
		return finding{a, Invalid, "no address"}
	}
	for i := range special {
		if b := &special[i]; b.prefix.Contains(a) {
			return finding{a, b.class, b.name + " (" + b.prefix.String() + ", " + b.rfc + ")"}
		}
	}
	// "The rest of the IPv6 address space" is reserved: only 2000::/3 is handed out (RFC 4291 section 2.4 and the IANA
	// IPv6 address space registry).
	if a.Is6() && !globalUnicast.Contains(a) {
		return finding{a, Special, "outside the allocated IPv6 space (RFC 4291)"}
	}
	return finding{a, Public, "public"}
}

var globalUnicast = netip.MustParsePrefix("2000::/3")

// block is a row of the registries, or a metadata service.
type block struct {
	prefix netip.Prefix
	class  Class
	name   string
	rfc    string
}

func row(prefix string, class Class, name, rfc string) block {
	return block{netip.MustParsePrefix(prefix), class, name, rfc}
}

// special is searched from the top, so a narrower block stands before the wider one around it. It holds the metadata
// addresses of the clouds, then the IANA IPv4 and IPv6 special-purpose address registries, with multicast. Blocks that
// the registries call globally reachable (AS112, AMT, the anycast addresses) are refused too: no call service is there.
var special = []block{
	row("169.254.169.0/24", Metadata, "cloud metadata", "AWS, Azure, Google, Oracle, OpenStack"),
	row("169.254.170.0/24", Metadata, "container credentials", "AWS ECS and EKS"),
	row("169.254.42.42/32", Metadata, "cloud metadata", "Scaleway"),
	row("169.254.0.23/32", Metadata, "cloud metadata", "Tencent"),
	row("100.100.100.200/32", Metadata, "cloud metadata", "Alibaba"),
	row("192.0.0.192/32", Metadata, "cloud metadata", "Oracle"),
	row("168.63.129.16/32", Metadata, "the virtual machine's host", "Azure"),
	row("fd00:ec2::/64", Metadata, "cloud metadata", "AWS"),
	row("fd20:ce::254/128", Metadata, "cloud metadata", "Google"),
	row("fd00:42::42/128", Metadata, "cloud metadata", "Scaleway"),
	row("fd00:c1::a9fe:a9fe/128", Metadata, "cloud metadata", "Oracle"),
	row("fe80::a9fe:a9fe/128", Metadata, "cloud metadata", "OpenStack"),

	row("0.0.0.0/8", Unspecified, "this network", "RFC 791"),
	row("10.0.0.0/8", Private, "private", "RFC 1918"),
	row("100.64.0.0/10", Shared, "shared address space", "RFC 6598"),
	row("127.0.0.0/8", Loopback, "loopback", "RFC 1122"),
	row("169.254.0.0/16", LinkLocal, "link-local", "RFC 3927"),
	row("172.16.0.0/12", Private, "private", "RFC 1918"),
	row("192.0.0.0/29", Special, "DS-Lite", "RFC 7335"),
	row("192.0.0.8/32", Special, "dummy address", "RFC 7600"),
	row("192.0.0.9/32", Special, "port control anycast", "RFC 7723"),
	row("192.0.0.10/32", Special, "TURN anycast", "RFC 8155"),
	row("192.0.0.170/31", Special, "NAT64 discovery", "RFC 8880"),
	row("192.0.0.0/24", Special, "protocol assignments", "RFC 6890"),
	row("192.0.2.0/24", Special, "documentation", "RFC 5737"),
	row("192.31.196.0/24", Special, "AS112", "RFC 7535"),
	row("192.52.193.0/24", Special, "AMT", "RFC 7450"),
	row("192.88.99.0/24", Special, "6to4 relay anycast, deprecated", "RFC 7526"),
	row("192.168.0.0/16", Private, "private", "RFC 1918"),
	row("192.175.48.0/24", Special, "AS112", "RFC 7534"),
	row("198.18.0.0/15", Special, "benchmarking", "RFC 2544"),
	row("198.51.100.0/24", Special, "documentation", "RFC 5737"),
	row("203.0.113.0/24", Special, "documentation", "RFC 5737"),
	row("224.0.0.0/4", Multicast, "multicast", "RFC 5771"),
	row("255.255.255.255/32", Broadcast, "broadcast", "RFC 919"),
	row("240.0.0.0/4", Special, "reserved", "RFC 1112"),

	row("::/128", Unspecified, "unspecified", "RFC 4291"),
	row("::1/128", Loopback, "loopback", "RFC 4291"),
	row("100::/64", Special, "discard", "RFC 6666"),
	row("100:0:0:1::/64", Special, "dummy prefix", "RFC 9780"),
	row("2001:1::1/128", Special, "port control anycast", "RFC 7723"),
	row("2001:1::2/128", Special, "TURN anycast", "RFC 8155"),
	row("2001:1::3/128", Special, "DNS-SD anycast", "RFC 9665"),
	row("2001:2::/48", Special, "benchmarking", "RFC 5180"),
	row("2001:3::/32", Special, "AMT", "RFC 7450"),
	row("2001:4:112::/48", Special, "AS112", "RFC 7535"),
	row("2001:10::/28", Special, "ORCHID, deprecated", "RFC 4843"),
	row("2001:20::/28", Special, "ORCHIDv2", "RFC 7343"),
	row("2001:30::/28", Special, "drone remote identification", "RFC 9374"),
	row("2001::/23", Special, "protocol assignments", "RFC 2928"),
	row("2001:db8::/32", Special, "documentation", "RFC 3849"),
	row("2620:4f:8000::/48", Special, "AS112", "RFC 7534"),
	row("3fff::/20", Special, "documentation", "RFC 9637"),
	row("5f00::/16", Special, "segment routing", "RFC 9602"),
	row("fc00::/7", Private, "unique local", "RFC 4193"),
	row("fe80::/10", LinkLocal, "link-local", "RFC 4291"),
	row("fec0::/10", Private, "site-local, deprecated", "RFC 3879"),
	row("ff00::/8", Multicast, "multicast", "RFC 4291"),
}

package netpolicy

import "net/netip"

// Reduce returns the address that a means. An IPv6 address that carries an IPv4 address (mapped, compatible,
// translated, 6to4, NAT64, Teredo, ISATAP) reaches that IPv4 address, or is taken for it by some router on the way, so
// that is what has to be judged. A zone is stripped: it chooses an interface, not a destination.
//
// Where an address can be read in more than one way, the reading that is refused first is returned. Reduce is
// idempotent, and never turns a refused address into one that passes.
func Reduce(a netip.Addr) netip.Addr {
	return read(a).worst().addr
}

// readings are the addresses that one address may mean. Nearly all have one; a local NAT64 address has up to four.
type readings struct {
	addr [4]netip.Addr
	n    int
}

func (r *readings) add(a netip.Addr) {
	if r.n < len(r.addr) {
		r.addr[r.n] = a
		r.n++
	}
}

func (r *readings) all() []netip.Addr { return r.addr[:r.n] }

// worst is the reading that policy likes least; among equals the last one, which is the embedded address.
func (r readings) worst() finding {
	var w finding
	for _, a := range r.all() {
		if f := find(a); w.class == "" || f.class.rank() >= w.class.rank() {
			w = f
		}
	}
	return w
}

// read lists what a may mean. The result is never empty.
func read(a netip.Addr) readings {
	var r readings
	a = a.WithZone("").Unmap() // ::ffff:0:0/96, RFC 4291 section 2.5.5.2
	if !a.Is6() {
		r.add(a)
		return r
	}
	b := a.As16()
	switch {
	case zero(b[:12]): // ::/96, IPv4-compatible, RFC 4291 section 2.5.5.1; :: and ::1 are themselves
		if zero(b[12:15]) && b[15] <= 1 {
			r.add(a)
		} else {
			r.add(ipv4(b[12:16]))
		}
	case zero(b[:8]) && b[8] == 0xff && b[9] == 0xff && zero(b[10:12]): // ::ffff:0:0:0/96, IPv4-translated, RFC 2765 section 2.1
		r.add(ipv4(b[12:16]))
	case nat64.Contains(a):
		r.add(ipv4(b[12:16]))
	case localNAT64.Contains(a):
		readLocalNAT64(&r, b)
	case teredo.Contains(a): // the client's address is stored inverted, RFC 4380 section 4
		r.add(netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}))
	default:
		if sixToFour.Contains(a) {
			r.add(ipv4(b[2:6]))
		} else {
			r.add(a)
		}
		// ISATAP: any prefix with the interface identifier [0|2]00:5efe:a.b.c.d (RFC 5214 section 6.1). The prefix counts too:
		// fe80::5efe:8.8.8.8 is on this link, whatever it carries.
		if b[8]&0xfc == 0 && b[9] == 0 && b[10] == 0x5e && b[11] == 0xfe {
			r.add(ipv4(b[12:16]))
		}
	}
	return r
}

// readLocalNAT64 reads an address below 64:ff9b:1::/48 (RFC 8215). Which prefix length the site's translator uses can't
// be seen; RFC 6052 section 2.2 places the IPv4 address differently for each. All that fit are readings, except that
// zeros between prefix and the last 32 bits are the plain /96 that sites use.
func readLocalNAT64(r *readings, b [16]byte) {
	if b[8] == 0 && !zero(b[9:12]) { // "bits 64 to 71 ... MUST be set to zero" below /96
		if zero(b[11:]) { // /48
			r.add(netip.AddrFrom4([4]byte{b[6], b[7], b[9], b[10]}))
		}
		if zero(b[12:]) { // /56
			r.add(netip.AddrFrom4([4]byte{b[7], b[9], b[10], b[11]}))
		}
		if zero(b[13:]) { // /64
			r.add(netip.AddrFrom4([4]byte{b[9], b[10], b[11], b[12]}))
		}
	}
	r.add(ipv4(b[12:])) // /96
}

func zero(b []byte) bool {
	for _, x := range b {
		if x != 0 {
			return false
		}
	}
	return true
}

func ipv4(b []byte) netip.Addr { return netip.AddrFrom4([4]byte(b)) }

var (
	nat64      = netip.MustParsePrefix("64:ff9b::/96")   // RFC 6052
	localNAT64 = netip.MustParsePrefix("64:ff9b:1::/48") // RFC 8215
	teredo     = netip.MustParsePrefix("2001::/32")      // RFC 4380
	sixToFour  = netip.MustParsePrefix("2002::/16")      // RFC 3056
)

// Package netpolicy decides which addresses the gateway may reach, and reaches them.
//
// Whatever the gateway dials or relays to comes from outside in the end: a name that a client wrote in a CONNECT, the
// answer of a DNS server, a peer address in a TURN message. None of it may lead to the machine itself, to the house's
// own network or to a cloud's metadata service. So there is one place that decides, in three steps:
//
//	Reduce    what does this address mean? ::ffff:10.1.2.3, 64:ff9b::a01:203 and 2002:a01:203:: all mean 10.1.2.3.
//	Classify  what kind of address is that, by the IANA special-purpose registries?
//	Judge     may it be reached: by its class, the machine's own addresses, and what the administrator has opened?
//
// A Dialer resolves a name, judges every address of the answer and dials one that was judged; a name is never resolved
// twice, so an answer that changes in between changes nothing:
//
//	d := &netpolicy.Dialer{Policy: &netpolicy.Policy{}}
//	conn, err := d.DialContext(ctx, "tcp", "call.example.net:443", netpolicy.Scope{})
//
// A Scope opens networks that are otherwise refused. Multicast, broadcast, unspecified and metadata addresses are never
// opened, nor is a port at which this gateway itself listens: a name that resolves to ourselves is a loop.
//
// What the package can't see: a translator of the site with a prefix of its own (RFC 6052 section 2.2) makes public
// addresses out of private ones; the translator has to refuse them. And through a company proxy it is the proxy that
// resolves, see DialVia.
package netpolicy

import (
	"net/netip"
	"time"
)

// Scope is what is opened for one service.
type Scope struct {
	// Private are the networks that names of the service may resolve to although their class is refused otherwise.
	Private []netip.Prefix
}

// opens reports whether the scope names the address.
func (s Scope) opens(a netip.Addr) bool {
	for _, p := range s.Private {
		if p.Contains(a) {
			return true
		}
		// A prefix that was written as ::ffff:10.0.0.0/104 means 10.0.0.0/8.
		if p.Addr().Is4In6() && p.Bits() >= 96 && netip.PrefixFrom(p.Addr().Unmap(), p.Bits()-96).Contains(a) {
			return true
		}
	}
	return false
}

// Policy judges addresses. It may be used from many goroutines; its fields are not changed after the first use.
type Policy struct {
	// Public are the addresses under which the outside sees the gateway, where it stands behind NAT.
	Public []netip.Addr
	// Listening tells where this gateway listens, TCP and UDP alike; an unspecified address means all own addresses. It is
	// asked at each judgement and must be cheap. nil means nowhere.
	Listening func() []netip.AddrPort
	// Interfaces tells the machine's own addresses, each with the length of its subnet. nil means those of the system.
	// They are read again after at most 5 seconds.
	Interfaces func() ([]netip.Prefix, error)
	// Now is the clock. nil means time.Now.
	Now func() time.Time

	own own
}

// Refusal says why an address may not be reached. It is an error with the status word err_policy.
type Refusal struct {
	// Addr is the address as it was given.
	Addr netip.AddrPort
	// Class is the class that it was refused for.
	Class Class
	// Reason is a sentence about the address, without the address.
	Reason string
}

func (r *Refusal) Error() string { return r.Addr.String() + " is refused: " + r.Reason }

// Status is the refusal's status word.
func (r *Refusal) Status() string { return StatusPolicy }

// Judge says whether ap may be reached. nil means yes. The verdict depends on nothing but its arguments, the policy's
// fields and the machine's addresses.
func (p *Policy) Judge(ap netip.AddrPort, s Scope) *Refusal {
	refuse := func(c Class, reason string) *Refusal { return &Refusal{Addr: ap, Class: c, Reason: reason} }
	switch a := ap.Addr(); {
	case !a.IsValid():
		return refuse(Invalid, "it is no address")
	case ap.Port() == 0:
		return refuse(Invalid, "port 0 can't be dialled")
	case a.Zone() != "":
		return refuse(Invalid, "it has a zone, and no name resolves to such an address")
	}
	self, err := p.self()
	if err != nil {
		return refuse(Own, err.Error())
	}
	raw := ap.Addr().Unmap()
	rs := read(raw)
	// The address is judged as it is written, too: an own address may itself be of a form that means another.
	if f := p.locate(self, raw, ap.Port()); f.class != Public {
		if r := f.refusal(ap, s); r != nil {
			return r
		}
	}
	var worst *Refusal
	for _, a := range rs.all() {
		f := p.locate(self, a, ap.Port())
		if f.class == Public {
			f = find(a)
		}
		if r := f.refusal(ap, s); r != nil && (worst == nil || r.Class.rank() > worst.Class.rank()) {
			worst = r
		}
	}
	return worst
}

// Own reports whether a means this machine: an address of its interfaces, loopback or a public address of ours.
func (p *Policy) Own(a netip.Addr) bool {
	self, err := p.self()
	if err != nil {
		return false
	}
	rs := read(a)
	for _, m := range append(rs.all(), a.WithZone("").Unmap()) {
		if self.addrs[m] || p.isPublic(m) || find(m).class == Loopback {
			return true
		}
	}
	return false
}

func (p *Policy) self() (*ownList, error) {
	source, now := p.Interfaces, time.Now
	if source == nil {
		source = interfaces
	}
	if p.Now != nil {
		now = p.Now
	}
	return p.own.read(source, now())
}

// locate finds what only this machine can know about a: that it is a loop, our own, or the broadcast address of a
// subnet that we are in. Public means none of these.
func (p *Policy) locate(self *ownList, a netip.Addr, port uint16) finding {
	loopback := find(a).class == Loopback
	mine := self.addrs[a]
	public := p.isPublic(a)
	if (mine || public || loopback) && p.listensAt(a, port, public) {
		return finding{a, Loop, "this gateway itself listens there, so it is a loop; give the name its address outside with `hosts:`, or ask another resolver with `dns.servers`"}
	}
	if subnet, ok := self.broadcast[a]; ok && !mine {
		return finding{a, Broadcast, "broadcast address of our own subnet " + subnet.String()}
	}
	if mine && !loopback && !find(a).class.never() {
		return finding{a, Own, "an address of this machine"}
	}
	if public {
		return finding{a, Own, "the public address of this machine"}
	}
	return finding{a, Public, ""}
}

func (p *Policy) isPublic(a netip.Addr) bool {
	for _, x := range p.Public {
		if x.WithZone("").Unmap() == a {
			return true
		}
	}
	return false
}

// listensAt reports whether the gateway listens at a port of an address that is known to be its own. The public address
// is taken to forward every port that we listen on.
func (p *Policy) listensAt(a netip.Addr, port uint16, public bool) bool {
	if p.Listening == nil {
		return false
	}
	for _, l := range p.Listening() {
		at := l.Addr().WithZone("").Unmap()
		if l.Port() == port && (public || !at.IsValid() || at.IsUnspecified() || at == a) {
			return true
		}
	}
	return false
}

// refusal is the finding's verdict; nil means that it passes.
func (f finding) refusal(ap netip.AddrPort, s Scope) *Refusal {
	if f.class == Public || !f.class.never() && s.opens(f.addr) {
		return nil
	}
	reason := f.name
	if f.addr != ap.Addr().Unmap() {
		reason = "it means " + f.addr.String() + ", " + reason
	}
	return &Refusal{Addr: ap, Class: f.class, Reason: reason}
}

package relay

import (
	"net/netip"
	"time"
)

// backend makes relayed addresses. The modes differ in nothing else.
type backend interface {
	// allocate makes a relayed address for a and calls then exactly once, at once or later, from any goroutine. What arrives at
	// the address goes to a.deliver. An error that is no *turnError is answered 500.
	allocate(a *allocation, want wanted, then func(relayed, error))
}

// relayed is one relayed address; its allocation owns it and closes it.
type relayed interface {
	// address is what the client is told.
	address() netip.AddrPort
	// permit judges peers, all or none, and does what must be done before a packet can pass: then is called exactly once, at
	// once or later, from any goroutine. number is the channel they are bound to, or 0.
	permit(peers []netip.AddrPort, number uint16, then func(error))
	// send passes one packet on to a peer; number is the channel it came on, or 0. It never blocks and does not keep data.
	send(peer netip.AddrPort, number uint16, data []byte)
	close()
}

// wanted is what an Allocate asks of a backend.
type wanted struct {
	family byte // familyIPv4, familyIPv6, or 0: the client did not say, which means IPv4 (RFC 8656 section 7.2)
	// evenPort asks for an even port, andNext to keep the port behind it for whoever brings the reservation.
	evenPort, andNext bool
	reservation       []byte // the token of a port kept so; nil: none
	// integrity is the request's MESSAGE-INTEGRITY: no two Allocates have the same, unless one is a copy of the other.
	integrity [integritySize]byte
}

// swept is a backend that holds more than its allocations do.
type swept interface {
	sweep(now time.Time)
	close()
}

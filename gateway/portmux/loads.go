package portmux

import "net/netip"

// loads counts connections, in all and for each client. Its lock is the mux's.
type loads struct {
	limits          Limits
	clients         map[netip.Prefix]load // bounded by the connections there are
	open, pending   int
	refused, guests int
}

type load struct{ open, pending int }

func newLoads(l Limits) loads {
	return loads{limits: l.withDefaults(), clients: make(map[netip.Prefix]load)}
}

func (l Limits) withDefaults() Limits {
	setDefault(&l.ConnectionsPerClient, 4000)
	setDefault(&l.PendingPerClient, 200)
	setDefault(&l.Connections, 10000)
	setDefault(&l.Pending, 2000)
	setDefault(&l.Refused, 100)
	setDefault(&l.Guests, 1000)
	return l
}

// The limits that may be reached, as the label reason of hafen_mux_refused_total.
const (
	refusedTotal         = "total"
	refusedPending       = "pending"
	refusedClient        = "client"
	refusedClientPending = "client_pending"
	refusedRefused       = "refused"
	refusedGuests        = "guests"
)

// full tells whether one more than there may be in all is here. The connection itself is counted already.
func (l *loads) full() string {
	switch {
	case l.open > l.limits.Connections:
		return refusedTotal
	case l.pending > l.limits.Pending:
		return refusedPending
	}
	return ""
}

// scarce reports whether the last tenth of all connections has begun. It is for clients with few: else three that each hold what one may
// would keep everybody else out.
func (l *loads) scarce() bool { return l.open > l.limits.Connections-l.limits.Connections/10 }

// claim counts c for the client key; it answers with the limit that is reached, or "".
func (l *loads) claim(c *Conn, key netip.Prefix) string {
	if !key.IsValid() { // no TCP, no address
		return ""
	}
	of := l.clients[key]
	switch {
	case c.refused != nil && l.refused >= l.limits.Refused:
		return refusedRefused
	case c.guest && l.guests >= l.limits.Guests:
		return refusedGuests
	case of.open >= l.limits.ConnectionsPerClient, l.scarce() && of.open >= max(1, l.limits.ConnectionsPerClient/10):
		return refusedClient
	case of.pending >= l.limits.PendingPerClient:
		return refusedClientPending
	}
	c.key = key
	of.open++
	of.pending++
	l.clients[key] = of
	if c.refused != nil {
		l.refused++
	}
	if c.guest {
		l.guests++
	}
	return ""
}

func (l *loads) established(c *Conn) {
	l.pending--
	if of, ok := l.clients[c.key]; ok {
		of.pending--
		l.clients[c.key] = of
	}
}

func (l *loads) leave(c *Conn) {
	if c.pending {
		c.pending = false
		l.established(c)
	}
	l.open--
	if !c.key.IsValid() {
		return
	}
	if c.refused != nil {
		l.refused--
	}
	if c.guest {
		l.guests--
	}
	of := l.clients[c.key]
	if of.open--; of.open == 0 {
		delete(l.clients, c.key)
	} else {
		l.clients[c.key] = of
	}
}

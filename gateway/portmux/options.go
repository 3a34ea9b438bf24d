package portmux

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/gateway/defect"
)

// Route is what becomes of a TLS connection, decided on its ClientHello.
type Route struct {
	// Config terminates TLS here. Its session tickets are encrypted under keys of the Mux, unless it has its own.
	Config *tls.Config
	// Passthrough is a "host:port" to which Options.Splice takes the connection, still encrypted.
	Passthrough string
	// Refuse closes the connection with alert 112, unrecognized_name. A Route with nothing set refuses too.
	Refuse error
}

// Limits bound how many connections there are. A client is an IPv4 address or an IPv6 /64.
type Limits struct {
	// ConnectionsPerClient is for all of one client's connections. Zero means 4000.
	ConnectionsPerClient int
	// PendingPerClient is for those of one client that are not yet established. Zero means 200.
	PendingPerClient int
	// Connections is for all clients together. Zero means 10000.
	Connections int
	// Pending is for all that are not yet established. Zero means 2000. Beyond it the oldest ones of the clients that have the most make room.
	Pending int
	// Refused is for the connections of all refused clients that are being told so. Zero means 100.
	Refused int
	// Guests is for the connections of all guests. Zero means 1000.
	Guests int
}

// ErrGuest is Admit's answer for somebody who is no client and may see some pages all the same. It refuses nothing and is not
// counted as a refusal.
var ErrGuest = errors.New("a guest: some pages only")

// Options are the parts that a Mux is made of. A function that is nil closes the connections it would have got.
type Options struct {
	// Admit says whether the address is a client's; its error refuses it, but for ErrGuest.
	Admit func(netip.Addr) error
	// TrustedProxy says whether the address is a balancer's whose PROXY protocol header is believed, and required.
	// The client's address is the one in the header. Nil means nobody's.
	TrustedProxy func(netip.Addr) bool
	// Hello decides on a ClientHello. ServerName is in lower case; Conn is for its addresses only.
	Hello func(*tls.ClientHelloInfo) Route

	// STUN owns STUN and TURN, plain or with TLS taken off.
	STUN func(*Conn)
	// HTTP owns HTTP/1.x, plain or with TLS taken off.
	HTTP func(*Conn)
	// TLSConn owns HTTP/2, for which http.Server needs the bare *tls.Conn. Nil: HTTP gets it, and Conn.HTTPConn is it.
	TLSConn func(*tls.Conn, *Conn)
	// Splice owns the connections passed through to target; the ClientHello is the first thing it reads.
	Splice func(c *Conn, target string)
	// Refused owns the HTTP connections, all versions, of clients that Admit turned away: to tell them so, and for what
	// everybody may ask, such as ACME challenges. Nil: they are closed unread.
	Refused func(*Conn)
	// Guest owns the HTTP connections of those for whom Admit answered ErrGuest; nothing else of theirs is served.
	Guest func(*Conn)

	Limits Limits
	// FirstByteTimeout is for the first bytes of a connection, and for those inside TLS. Zero means 10 s.
	FirstByteTimeout time.Duration
	// HandshakeTimeout is for the TLS handshake from its first byte on. Zero means 10 s.
	HandshakeTimeout time.Duration
	// PendingTimeout is how long an owner may hold a connection that is not established. Zero means 30 s.
	PendingTimeout time.Duration
	// MaxHello bounds a ClientHello in bytes. Zero means 16 KiB; real ones have two or three.
	MaxHello int

	// Observe is told of the end of each connection, refused ones included: when it is closed and the function that
	// owned it has returned. A function that returns at once and closes later, such as Listener.Hand, calls Fail before Close.
	Observe  func(End)
	Defects  *defect.Catcher       // is told of panics; nil: they are caught all the same
	Registry prometheus.Registerer // nil: no metrics
	Log      *slog.Logger          // nil: nothing is logged
	Now      func() time.Time      // nil: time.Now
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

package precall

import (
	"net/netip"
	"time"

	"hafen/gateway/netpolicy"
)

// Gateway is the gateway's half of a run: what it measured itself while the page did, and what it saw of the client.
type Gateway struct {
	Name        string
	Regions     []Region
	CallServers []CallServer
	Load        Load
	SelfSigned  bool
	// PAC says that the gateway has a PAC file for browsers.
	PAC bool
	// ClockAhead is by how much the client's clock is ahead of the gateway's.
	ClockAhead time.Duration
	Seen       Seen
}

// Region is one cloud relay location as the gateway reaches it.
type Region struct {
	Service, Name string
	Up            bool
	RTT           time.Duration // 0: not measured
	Level         Level         // path, or media where the gateway has looped media through it. "": path
	Why           string        // not up: what happened, for IT
	Fault         Fault         // not up: what kind of thing happened
	Rungs         []Rung
	// Hosts are the names of its relays, in the form that the page's targets have.
	Hosts []string
}

// Rung is one way from the gateway to a region.
type Rung struct {
	Name string // udp:3478
	Up   bool
	RTT  time.Duration
	Why  string
}

// CallServer is one call server as the gateway reaches it.
type CallServer struct {
	Service, Host string
	Up            bool
	RTT           time.Duration // 0: not measured
	Level         Level         // service when it answered HTTP, path when only TCP or TLS did. "": path
	Why           string
	Fault         Fault
	// Opens says that the gateway itself opened a WebSocket there: a browser that can't has something in its way.
	Opens bool
}

// Fault is why the gateway does not reach something.
type Fault string

// Faults that are causes of their own. "" is any other.
const (
	FaultDNS         Fault = "dns"         // the name has no address for the gateway
	FaultProxyAuth   Fault = "proxy-auth"  // the company proxy wants other credentials
	FaultPortal      Fault = "portal"      // something answers in its place
	FaultCredentials Fault = "credentials" // it refuses turn_credentials
)

// Load is whether the gateway takes new sessions.
type Load struct {
	Draining bool // it is about to go down
	Full     bool // a limit is reached
}

// Seen is what the gateway saw of the client itself.
type Seen struct {
	// Outside: the client is in precall.networks and not in clients, so nothing but this page is for it.
	Outside bool
	// TLS is how the page's own connection came.
	TLS Handshake
	// Headers are the names of headers that only something on the way adds (Via and the like).
	Headers []string
	// Ways is by which way the browser came for each host of a service, while the test ran.
	Ways map[string]Way
	// PACFetched: a browser at this address has fetched the PAC file lately.
	PACFetched bool
	// Connections name the client's connections while the test ran, as the gateway's log does.
	Connections []string
	// Mapped compares the address of HTTPS with the one that STUN over UDP told.
	Mapped Mapping
}

// Way is how a request for a service's host reached the gateway.
type Way string

// Ways. A host without one was not asked for here.
const (
	WayRouted      Way = "routed"      // DNS leads here and the gateway has a certificate for the name
	WayPassthrough Way = "passthrough" // DNS leads here, the bytes go on unread
	WayConnect     Way = "connect"     // the gateway is the browser's proxy
	WayAsked       Way = "asked"       // CONNECT came without credentials and was answered 407, never with them
	WayRefused     Way = "refused"     // CONNECT came and was refused
)

// Handshake is what the ClientHello looked like, held against the browser's name.
type Handshake struct {
	// Judged is false where there was no TLS, or no browser that we know.
	Judged bool
	// Intercepted: that browser's ClientHello does not look so.
	Intercepted bool
	// Missing is what the ClientHello lacked: GREASE, ALPN h2, …
	Missing string
}

// Mapping is what came of comparing two addresses of one client.
type Mapping string

// Mappings. "" is not compared.
const (
	MappedSame      Mapping = "same"      // HTTPS and UDP come from one address
	MappedDifferent Mapping = "different" // they come from two: a VPN for one of them, a proxy, or several ways out
)

// compare holds the address that HTTPS came from against the one that STUN over UDP told the browser.
func compare(https netip.Addr, mapped string) Mapping {
	a, err := netip.ParseAddr(mapped)
	switch {
	case err != nil || !https.IsValid() || a.Unmap().Is4() != https.Unmap().Is4():
		return "" // one of each family says nothing
	case netpolicy.Client(a) == netpolicy.Client(https):
		return MappedSame
	}
	return MappedDifferent
}

package cloud

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/turn/v4"
)

// maxAllocations is a region's; the next Allocate gets 486.
const maxAllocations = 2000

// RegionOptions describe one regional TURN relay.
type RegionOptions struct {
	// Name is the region's one word, Label what people read; zero means the name.
	Name, Label string
	// Host is the relay's name in ICE URLs; zero means PublicIP.
	Host string
	// UDP, TCP and TLS are the addresses to listen on; port 0 is fine. TLS needs Options.TLS.
	UDP, TCP, TLS []string
	// PublicIP is the relayed address; zero means the address of the first listener or, where that is a wildcard,
	// of an interface. Firefox drops allocations on loopback: give an interface's address for it.
	PublicIP netip.Addr
	// Delay is added to every packet between client and region, each way: a round trip takes twice as much longer.
	Delay time.Duration
	// URLs make the region an external one: these ICE URLs are handed out and nothing is run here. The relay behind
	// them knows the same secret and realm.
	URLs []string
}

// regionSettings are what all regions of a cloud share.
type regionSettings struct {
	realm, secret string
	tls           *tls.Config
	log           *slog.Logger
	now           func() time.Time
	allowed       func(netip.Addr) bool
}

// Region is one TURN relay of the cloud.
type Region struct {
	opts     RegionOptions
	set      regionSettings
	guard    *guard
	publicIP netip.Addr

	server *turn.Server
	urls   []string
	owned  sync.WaitGroup // goroutines of listeners, connections and delay lines
	down   atomic.Bool
	fromCl atomic.Uint64
	toCl   atomic.Uint64

	mu          sync.Mutex
	closers     []func() error // sockets bound here, until pion owns them
	allocations map[string]bool
	relays      map[uint16]*relaySocket
	streams     map[*streamConn]bool
}

func newRegion(o RegionOptions, s regionSettings) (*Region, error) {
	if o.Name == "" {
		return nil, errors.New("has no name")
	}
	setDefault(&o.Label, o.Name)
	listeners := len(o.UDP) + len(o.TCP) + len(o.TLS)
	switch {
	case len(o.URLs) > 0 && listeners > 0:
		return nil, errors.New("has both URLs of an external relay and listeners of its own")
	case len(o.URLs) == 0 && listeners == 0:
		return nil, errors.New("has neither listeners nor URLs")
	case len(o.TLS) > 0 && s.tls == nil:
		return nil, errors.New("is to listen for TLS, but there is no certificate")
	}
	r := &Region{
		opts: o, set: s, urls: o.URLs, publicIP: o.PublicIP.Unmap(),
		allocations: map[string]bool{}, relays: map[uint16]*relaySocket{}, streams: map[*streamConn]bool{},
	}
	r.guard = &guard{realm: s.realm, secret: s.secret, now: s.now, allowed: s.allowed, allocated: r.allocated}
	if listeners > 0 && !r.publicIP.IsValid() {
		r.publicIP = addressOf(append(append(append([]string{}, o.UDP...), o.TCP...), o.TLS...)[0])
	}
	return r, nil
}

// addressOf is the address that clients reach a listener by, as far as this machine can know.
func addressOf(listen string) netip.Addr {
	if ap, err := netip.ParseAddrPort(listen); err == nil && !ap.Addr().IsUnspecified() {
		return ap.Addr().Unmap()
	}
	if a, ok := InterfaceAddr(); ok {
		return a
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// InterfaceAddr is an IPv4 address of this machine that is not loopback: what relays announce to browsers that
// drop loopback addresses.
func InterfaceAddr() (netip.Addr, bool) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, false
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is4() && p.Addr().IsGlobalUnicast() {
			return p.Addr(), true
		}
	}
	return netip.Addr{}, false
}

// start binds the listeners and hands them to pion.
func (r *Region) start() error {
	if len(r.opts.URLs) > 0 {
		return nil
	}
	conf := turn.ServerConfig{
		Realm:         r.set.realm,
		LoggerFactory: quietLoggers{r.set.log.With("region", r.opts.Name)},
		AuthHandler: func(username, realm string, _ net.Addr) ([]byte, bool) {
			return r.guard.key(username, realm)
		},
		QuotaHandler: func(string, string, net.Addr) bool { return r.Allocations() < maxAllocations },
		EventHandler: turn.EventHandler{OnAllocationCreated: r.created, OnAllocationDeleted: r.deleted},
		InboundMTU:   maxFrame + 1, // pion drops what fills its buffer
	}
	if err := r.bind(&conf); err != nil {
		return errors.Join(err, r.closeBound())
	}
	server, err := turn.NewServer(conf)
	if err != nil {
		return errors.Join(err, r.closeBound())
	}
	r.server = server
	return nil
}

func (r *Region) bind(conf *turn.ServerConfig) error {
	for _, addr := range r.opts.UDP {
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			return err
		}
		guarded := newPacketConn(pc, r)
		r.closers = append(r.closers, guarded.Close)
		conf.PacketConnConfigs = append(conf.PacketConnConfigs, turn.PacketConnConfig{
			PacketConn: guarded, RelayAddressGenerator: r, PermissionHandler: r.permit,
		})
		r.addURL("turn", pc.LocalAddr(), "udp")
	}
	for _, addr := range r.opts.TCP {
		if err := r.bindStream(conf, addr, "turn"); err != nil {
			return err
		}
	}
	for _, addr := range r.opts.TLS {
		if err := r.bindStream(conf, addr, "turns"); err != nil {
			return err
		}
	}
	return nil
}

func (r *Region) bindStream(conf *turn.ServerConfig, addr, scheme string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	r.addURL(scheme, l.Addr(), "tcp")
	if scheme == "turns" {
		c := r.set.tls.Clone()
		c.NextProtos = nil // the HTTP server's would refuse a client that offers stun.turn alone
		l = tls.NewListener(l, c)
	}
	guarded := &listener{Listener: l, region: r, done: make(chan struct{})}
	r.closers = append(r.closers, guarded.Close)
	conf.ListenerConfigs = append(conf.ListenerConfigs, turn.ListenerConfig{
		Listener: guarded, RelayAddressGenerator: r, PermissionHandler: r.permit,
	})
	return nil
}

func (r *Region) addURL(scheme string, a net.Addr, transport string) {
	host := r.opts.Host
	if host == "" {
		host = r.publicIP.String()
		if r.publicIP.Is6() {
			host = "[" + host + "]"
		}
	}
	_, port, _ := net.SplitHostPort(a.String())
	r.urls = append(r.urls, fmt.Sprintf("%s:%s:%s?transport=%s", scheme, host, port, transport))
}

// closeBound closes what was bound when a start fails half way.
func (r *Region) closeBound() error {
	var errs []error
	for _, c := range r.closers {
		errs = append(errs, c())
	}
	r.closers = nil
	return errors.Join(errs...)
}

func (r *Region) close() error {
	if r.server == nil {
		return nil
	}
	err := r.server.Close()
	r.dropAll()
	r.owned.Wait()
	return err
}

// dropAll closes every stream and every relayed socket; pion deletes the allocations that hang on them.
func (r *Region) dropAll() {
	r.mu.Lock()
	streams, relays := r.streams, r.relays
	r.streams, r.relays = map[*streamConn]bool{}, map[uint16]*relaySocket{}
	r.mu.Unlock()
	for s := range streams {
		_ = s.Close()
	}
	for _, s := range relays {
		_ = s.Close()
	}
}

// Name is the region's configured name.
func (r *Region) Name() string { return r.opts.Name }

// Label is what people read.
func (r *Region) Label() string { return r.opts.Label }

// URLs are the region's ICE URLs, after Start with the ports it got.
func (r *Region) URLs() []string { return append([]string(nil), r.urls...) }

// PublicIP is the address of its relayed addresses.
func (r *Region) PublicIP() netip.Addr { return r.publicIP }

// Allocations counts live allocations.
func (r *Region) Allocations() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.allocations)
}

// SetDown cuts the region off, as a drill: its streams and relayed sockets are closed, datagrams vanish, new
// streams are closed at once. False brings it back for new sessions.
func (r *Region) SetDown(down bool) {
	r.down.Store(down)
	if down {
		r.dropAll()
	}
}

// Down says whether SetDown cut the region off.
func (r *Region) Down() bool { return r.down.Load() }

func (r *Region) permit(_ net.Addr, ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && r.set.allowed(a)
}

func (r *Region) created(src, dst net.Addr, _, _, _ string, _ net.Addr, _ int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.allocations[fiveTuple(src, dst)] = true
}

func (r *Region) deleted(src, dst net.Addr, _, _, _ string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.allocations, fiveTuple(src, dst))
}

func (r *Region) allocated(src, dst net.Addr) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.allocations[fiveTuple(src, dst)]
}

func fiveTuple(src, dst net.Addr) string {
	return src.Network() + " " + src.String() + " " + dst.String()
}

// relays says whether the region relays from that address now.
func (r *Region) hasRelay(a netip.AddrPort) bool {
	if a.Addr().Unmap() != r.publicIP {
		return false
	}
	if len(r.opts.URLs) > 0 {
		return true // what ports an external relay has is its own affair
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.relays[a.Port()] != nil
}

// Validate is part of turn.RelayAddressGenerator.
func (r *Region) Validate() error { return nil }

// AllocatePacketConn is part of turn.RelayAddressGenerator: a socket for one allocation.
func (r *Region) AllocatePacketConn(_ string, port int) (net.PacketConn, net.Addr, error) {
	pc, err := net.ListenPacket("udp4", net.JoinHostPort(r.bindIP(), strconv.Itoa(port)))
	if err != nil {
		return nil, nil, err
	}
	got := uint16(pc.LocalAddr().(*net.UDPAddr).Port) //nolint:gosec // a port
	s := &relaySocket{PacketConn: pc, region: r, port: got}
	r.mu.Lock()
	r.relays[got] = s
	r.mu.Unlock()
	return s, net.UDPAddrFromAddrPort(netip.AddrPortFrom(r.publicIP, got)), nil
}

// AllocateConn is part of turn.RelayAddressGenerator. TCP relaying (RFC 6062) is refused before it comes to this.
func (r *Region) AllocateConn(string, int) (net.Conn, net.Addr, error) {
	return nil, nil, errors.New("no TCP relaying")
}

// bindIP is the public address where it is this machine's own, so that packets leave from the address announced.
func (r *Region) bindIP() string {
	if r.publicIP.IsLoopback() {
		return r.publicIP.String()
	}
	addrs, _ := net.InterfaceAddrs()
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == r.publicIP {
			return r.publicIP.String()
		}
	}
	return "0.0.0.0"
}

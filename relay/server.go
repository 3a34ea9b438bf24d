// Package relay is TURN for clients: it carries their media to the nearest healthy region of their call service.
//
// # The idea
//
// A browser in a hospital can reach one TCP port of one host. Behind that port a client speaks TURN (RFC 8656) in a
// stream; the region that can carry its media speaks TURN in datagrams. In mode bridge this package holds no
// credential and keeps no allocation: it reads whole messages from the client, hands each unchanged to the region as
// one datagram, and gives back what the region answers as padded frames:
//
//	client ── TLS/TCP: |STUN|ChannelData..|ChannelData..| ──> session ── UDP: one datagram each ──> region
//
// MESSAGE-INTEGRITY stays valid because no byte between the first and the last of a message changes. What the bridge
// adds is what a converter owes both ends: requests are retransmitted on the datagram leg (RFC 8489, section 6.2.1),
// since a client on TCP will not do it; a Binding request without MESSAGE-INTEGRITY is answered here; and what waits
// for a slow client waits in a queue of ours, where audio overtakes video and what is too old is dropped.
//
// # The parts
//
// A session (session.go) is one client's leg and what it is bridged to. The client's leg is a stream (stream.go) or
// a five-tuple of a UDP listener (udp.go); the other is an uplink to a region or the engine of the test relay. The
// session itself is passive: the legs feed it whole, validated messages (frame.go), and it says where they go.
//
// # Limits
//
// The bridge learns of an allocation only from a region's answers, which it cannot verify; it trusts a region as the
// client does. It cannot read media, and it cannot move an allocation: when a region dies, it closes the region's
// streams at once, so that the browser's ICE restart finds what works.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"hafen/configs"
	"hafen/gateway/defect"
	"hafen/gateway/netpolicy"
)

// Client is what is known about the one who connected.
type Client struct {
	// Addr is the client's own address, PROXY protocol applied.
	Addr netip.AddrPort
	// Local is the address that was asked.
	Local net.Addr
	// Via is how it came: tls, tcp, udp or connect.
	Via string
	// Service is the call service it belongs to. Empty: the first.
	Service string
	// AskedHost is the relay it named in a CONNECT, or "".
	AskedHost string
	// Established is called once, when the client has won an allocation. nil: nobody wants to know.
	Established func()
	// Ended is called once, before the connection is closed, with the reason why it did not end as it should; nil: it did. It must
	// not wait for the relay.
	Ended func(err error)

	loop *loop // that has its sockets
}

// Options are the world of a Server.
type Options struct {
	// Config is the whole configuration; the relay reads services, relay, limits and log.
	Config *configs.Config
	// Dialer resolves, judges and dials the regions.
	Dialer *netpolicy.Dialer
	// Admit tells whether a UDP client may use the gateway; an error: it gets silence. Stream clients have been admitted by
	// whoever hands them over. nil: Config.Clients decides.
	Admit func(netip.Addr) error
	// Ended is told of each client that had an allocation when it has left, and of each that was refused one. It must not
	// block. nil: nobody wants to know.
	Ended func(End)
	// TestSecret is what the test relay's credentials are made with in mode bridge. nil: one that nobody else has.
	TestSecret []byte
	// Defects is told of panics; nil: they are caught all the same.
	Defects *defect.Catcher
	// Registry takes the metrics. nil: none are kept.
	Registry prometheus.Registerer
	// Log takes one line for each session that ends. nil: silent.
	Log *slog.Logger
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// Server carries TURN for clients. It owns every session and what belongs to it; connections are handed to it with
// ServeStream and sockets with ServePacket, and are closed by it.
type Server struct {
	setup      atomic.Pointer[setup]
	admit      func(netip.Addr) error
	ended      func(End) // nil: nobody wants to know
	testSecret []byte
	log        *slog.Logger
	registry   prometheus.Registerer // nil: no metrics
	now        func() time.Time
	metrics    *metrics
	defects    *defect.Catcher
	engine     *engine
	table      *table
	strangers  *strangers
	loops      loops
	arrivals   *arrivals

	endings  *rate.Limiter // log lines of clients that never had an allocation
	unlogged atomic.Int64

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	wg     sync.WaitGroup // every goroutine and every ServeStream, ServePacket under way

	mu       sync.Mutex
	started  bool
	draining bool
	closed   bool
	sockets  map[*net.UDPConn]*listener
	retired  []*regions // of former configurations, as long as sessions are on them
}

// New makes a Server. It touches no network.
func New(o Options) (*Server, error) {
	if o.Config == nil {
		return nil, errors.New("relay: no configuration")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	s := &Server{
		loops: loops{rests: true, defects: o.Defects}, defects: o.Defects,
		admit: o.Admit, ended: o.Ended, testSecret: o.TestSecret, log: o.Log, registry: o.Registry, now: o.Now,
		table: newTable(o.Config.Limits), strangers: newStrangers(o.Config.Limits.PendingPerClient), endings: newEndings(), arrivals: newArrivals(),
	}
	if s.admit == nil {
		s.admit = s.admitConfigured
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if s.metrics, err = newMetrics(o.Registry, s.table); err != nil {
		return nil, fmt.Errorf("relay: metrics: %w", err)
	}
	first, err := s.newSetup(o.Config, o.Dialer, &eventRing{})
	if err != nil {
		return nil, err
	}
	s.setup.Store(first)
	if _, err := registerRegions(o.Registry, s.RegionStatus); err != nil {
		return nil, fmt.Errorf("relay: metrics: %w", err)
	}
	if s.engine, err = newEngine(s); err != nil {
		return nil, fmt.Errorf("relay: test relay: %w", err)
	}
	return s, nil
}

// Start begins probing the regions and watching the sessions' clocks. ctx bounds the starting only; Close ends what
// was started.
func (s *Server) Start(ctx context.Context) error {
	s.mu.Lock()
	if s.started || s.closed {
		s.mu.Unlock()
		return errors.New("relay: started twice, or after Close")
	}
	s.started = true
	s.wg.Add(1)
	s.mu.Unlock()
	go s.watchClocks()
	if err := s.regions().start(ctx); err != nil {
		return fmt.Errorf("relay: regions: %w", err)
	}
	return nil
}

// enter counts one more user of the server; false once it is closed. Each success owes one s.wg.Done.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

// beside runs f in a goroutine of the server's, unless the server is closed.
func (s *Server) beside(f func()) {
	if s.enter() {
		go func() {
			defer s.wg.Done()
			defer s.defects.Catch(nil)
			f()
		}()
	}
}

// Drain refuses new allocations from now on; live ones go on. It returns at once: Live tells how many are left.
func (s *Server) Drain() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining || s.closed
}

// Live is the number of clients that hold an allocation.
func (s *Server) Live() int { return s.table.allocated() }

// Close ends every session and waits until nothing of the server runs any more.
func (s *Server) Close() error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if first {
		s.cancel()
		for _, ses := range s.table.all(nil) {
			ses.end(errClosing)
		}
		for _, r := range append(s.takeRetired(), s.regions()) {
			r.close()
		}
	}
	s.wg.Wait()
	if first {
		s.engine.close()
		s.loops.close()
	}
	return nil
}

// Status is what the relay shows of itself.
type Status struct {
	Draining    bool            `json:"draining"`
	Allocations int             `json:"allocations"`
	Regions     []RegionStatus  `json:"regions"`
	Sessions    []SessionStatus `json:"sessions"`
}

// Status tells the state of the regions and lists the live sessions, oldest first.
func (s *Server) Status() Status {
	return Status{
		Draining:    s.isDraining(),
		Allocations: s.table.allocated(),
		Regions:     s.RegionStatus(),
		Sessions:    s.sessionStatus(),
	}
}

// Package portmux shares one TCP port among protocols. It asks of each connection "who knocks?", by its first bytes,
// and hands it to exactly one owner.
//
//	accept ─ admit, limit ─ peek ─┬─ TLS ─ ClientHello ─┬─ terminate ─ peek again ─┬─ HTTP
//	                              ├─ HTTP               ├─ passthrough (spliced)   └─ STUN, TURN
//	                              ├─ STUN, TURN         └─ refuse (alert 112)
//	                              └─ anything else: closed, counted, no banner
//
// Browsers' TURN clients send no ALPN, so what is inside TLS is found by looking at its first bytes too. Only HTTP/2,
// which ALPN alone can choose, is believed without looking.
//
// The owner gets a Conn from which the first byte is still to be read, closes it, and calls Established once the client
// has shown itself to be one. Every connection has a deadline, a limit and an owner from accept on:
//
//   - pending connections (not handshaken, not identified, not established) are few for each client and in all, and each
//     step has a deadline;
//   - established ones are bounded generously: a client's address may be a proxy with a company behind it;
//   - its end is one status word, one counter and one call of Options.Observe.
//
// The package knows streams only. What a name, an address or a method means is up to the functions in Options.
package portmux

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Route is what becomes of a TLS connection, decided on its ClientHello.
type Route struct {
	// Config terminates TLS here. It must be a pointer that is kept: see ServerConfig.
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
	// Pending is for all that are not yet established. Zero means 2000.
	Pending int
	// Refused is for the connections of all refused clients that are being told so. Zero means 100.
	Refused int
}

// Options are the parts that a Mux is made of. A function that is nil closes the connections it would have got.
type Options struct {
	// Admit says whether the address is a client's; its error refuses it.
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
	Registry prometheus.Registerer // nil: no metrics
	Log      *slog.Logger          // nil: nothing is logged
	Now      func() time.Time      // nil: time.Now
}

// End is what can be said of a connection when it has ended.
type End struct {
	Client   netip.AddrPort // the client's own address; the one who logs it decides how much of it
	Local    net.Addr
	Protocol Protocol
	SNI      string // at most 255 bytes
	Status   string // ok, err_policy, …
	Err      error  // behind the status; may be nil
	In, Out  int64  // bytes on the wire
	Opened   time.Time
	Duration time.Duration
}

// Mux is the walk of connections from accept to their owner. Make one with New; it may Serve several listeners.
type Mux struct {
	opts     Options
	metrics  *metrics
	refusals refusals
	done     chan struct{} // closed when no more are accepted

	goroutines sync.WaitGroup

	mu        sync.Mutex
	loads     loads
	stopped   bool
	listeners map[net.Listener]bool
	conns     map[*Conn]bool
	empty     chan struct{} // closed when stopped and conns is empty
	emptied   bool
}

// New makes a Mux.
func New(o Options) *Mux {
	setDefault(&o.FirstByteTimeout, 10*time.Second)
	setDefault(&o.HandshakeTimeout, 10*time.Second)
	setDefault(&o.PendingTimeout, 30*time.Second)
	setDefault(&o.MaxHello, 16<<10)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Hello == nil {
		o.Hello = func(*tls.ClientHelloInfo) Route { return Route{} }
	}
	m := &Mux{
		opts:      o,
		done:      make(chan struct{}),
		empty:     make(chan struct{}),
		listeners: make(map[net.Listener]bool),
		conns:     make(map[*Conn]bool),
		loads:     newLoads(o.Limits),
	}
	m.metrics = newMetrics(o.Registry, m.Counts)
	return m
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

func (m *Mux) nowEmpty() {
	if !m.emptied {
		m.emptied = true
		close(m.empty)
	}
}

// SetLimits changes the limits from now on; connections beyond them stay.
func (m *Mux) SetLimits(l Limits) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.loads.limits = l.withDefaults()
}

// Serve accepts connections on l until Shutdown or Close, which close l, and then returns nil. No error of Accept ends it
// but that of a listener that somebody else closed.
func (m *Mux) Serve(l net.Listener) error { return m.serve(l, false, m.opts.HTTP) }

// ServeHTTP1 is Serve for a port where plain HTTP alone is spoken: admission, limits and deadlines are the same, http owns
// the connections, and all else is closed.
func (m *Mux) ServeHTTP1(l net.Listener, http func(*Conn)) error { return m.serve(l, true, http) }

func (m *Mux) serve(l net.Listener, only bool, http func(*Conn)) error {
	if !m.addListener(l) {
		_ = l.Close()
		return nil
	}
	defer m.removeListener(l)
	var wait backoff
	for {
		raw, err := l.Accept()
		select {
		case <-m.done:
			if err == nil {
				_ = raw.Close()
			}
			return nil
		default:
		}
		if errors.Is(err, net.ErrClosed) {
			return fmt.Errorf("accept on %s: %w", l.Addr(), err)
		}
		if err != nil {
			m.acceptFailed(l, err, &wait)
			continue
		}
		if n := wait.reset(); n > 0 {
			m.opts.Log.Info("accepting again", "address", l.Addr().String(), "errors", n)
		}
		m.accepted(raw, only, http)
	}
}

// acceptFailed waits. Too many open files (EMFILE, ENFILE) and connections that ended while they waited (ECONNABORTED) are
// states of the system that pass; a listener that gave up over them would need a restart.
func (m *Mux) acceptFailed(l net.Listener, err error, wait *backoff) {
	m.metrics.acceptErrors.Inc()
	d, first := wait.next()
	if first {
		m.opts.Log.Error("accept failed, trying on", "address", l.Addr().String(), "err", err)
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.done:
	}
}

// backoff doubles from 5 ms to 1 s.
type backoff struct {
	wait   time.Duration
	errors int
}

func (b *backoff) next() (d time.Duration, first bool) {
	b.errors++
	b.wait = min(max(2*b.wait, 5*time.Millisecond), time.Second)
	return b.wait, b.errors == 1
}

func (b *backoff) reset() (errors int) {
	errors = b.errors
	*b = backoff{}
	return errors
}

// accepted starts the walk of one connection.
func (m *Mux) accepted(raw net.Conn, only bool, http func(*Conn)) {
	c := &Conn{mux: m, opened: m.opts.Now(), http: http, only: only, pending: true, protocol: Silent}
	remote, _ := raw.RemoteAddr().(*net.TCPAddr)
	c.wire = wire{conn: raw, owner: c, remote: raw.RemoteAddr(), client: unmap(remote.AddrPort())}
	limit, ok := m.add(c)
	if !ok {
		_ = raw.Close()
		return
	}
	if limit != "" {
		defer m.release(c)
		m.refuse(c, limit, statusLimit, fmt.Errorf("limit reached: %s", limit))
		m.drop(c)
		return
	}
	go func() {
		defer m.release(c)
		defer m.catch(c)
		m.walk(c)
	}()
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// catch keeps a panic in the handling of one connection from taking the others with it.
func (m *Mux) catch(c *Conn) {
	v := recover()
	if v == nil {
		return
	}
	m.metrics.panics.Inc()
	m.opts.Log.Error("panic while handling a connection", "panic", v, "stack", string(debug.Stack()))
	c.Fail(statusProtocol, fmt.Errorf("panic: %v", v))
	_ = c.wire.Close()
}

func (m *Mux) addListener(l net.Listener) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return false
	}
	m.listeners[l] = true
	m.goroutines.Add(1)
	return true
}

func (m *Mux) removeListener(l net.Listener) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.listeners, l)
	m.goroutines.Done()
}

// add counts a connection, and tells which limit of them all it exceeds, if any; false: no more are taken.
func (m *Mux) add(c *Conn) (limit string, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return "", false
	}
	m.conns[c] = true
	m.loads.open++
	m.loads.pending++
	m.goroutines.Add(1)
	return m.loads.full(), true
}

// claim puts a connection to its client's account, or tells which limit is reached.
func (m *Mux) claim(c *Conn, refused bool) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loads.claim(c, clientKey(c.wire.client.Addr()), refused)
}

func (m *Mux) establish(c *Conn) {
	m.mu.Lock()
	if c.pending && m.conns[c] {
		c.pending = false
		m.loads.established(c)
	}
	m.mu.Unlock()
	c.stopOverdue()
}

// ended is called once for each connection, when its socket is closed.
func (m *Mux) ended(c *Conn) {
	c.stopOverdue()
	m.mu.Lock()
	delete(m.conns, c)
	m.loads.leave(c)
	c.closed = m.opts.Now()
	released := c.released
	m.mu.Unlock()
	if released {
		m.report(c)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped && len(m.conns) == 0 {
		m.nowEmpty()
	}
}

// release is the end of the goroutine that walked with the connection, and with it of an owner that works on that goroutine. Such
// an owner may close first and say afterwards how it went, so the report waits for both.
func (m *Mux) release(c *Conn) {
	defer m.goroutines.Done()
	m.mu.Lock()
	c.released = true
	closed := !c.closed.IsZero()
	m.mu.Unlock()
	if closed {
		m.report(c)
	}
}

// report tells of the end of a connection: one status word, one counter, one call.
func (m *Mux) report(c *Conn) {
	end := c.end()
	m.metrics.ended.WithLabelValues(end.Status).Inc()
	if m.opts.Observe != nil {
		m.opts.Observe(end)
	}
}

func (c *Conn) end() End {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := End{
		Client: c.wire.client, Local: c.wire.LocalAddr(), Protocol: c.protocol,
		Status: c.status, Err: c.cause,
		In: c.wire.in.Load(), Out: c.wire.out.Load(),
		Opened: c.opened, Duration: c.closed.Sub(c.opened),
	}
	if e.Status == "" {
		e.Status = statusOK
	}
	if c.hello != nil {
		e.SNI = c.hello.SNI[:min(len(c.hello.SNI), 255)]
	}
	return e
}

// Counts is the number of connections there are now.
type Counts struct {
	Open    int // all
	Pending int // of these, not yet established
	Refused int // of these, of refused clients
	Clients int // distinct
}

// Counts tells how many connections there are now.
func (m *Mux) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Counts{Open: m.loads.open, Pending: m.loads.pending, Refused: m.loads.refused, Clients: len(m.loads.clients)}
}

// Refusals tells which networks were turned away by Admit, the most frequent first.
func (m *Mux) Refusals() []Refusal { return m.refusals.list() }

// Shutdown stops accepting, closes what is pending, and waits for the owners to end the rest. When ctx ends first it closes
// what is left, as Close does, and returns the error of ctx.
func (m *Mux) Shutdown(ctx context.Context) error {
	m.stop(func(c *Conn) bool { return c.pending })
	select {
	case <-m.empty:
		return m.Close()
	case <-ctx.Done():
		_ = m.Close()
		return ctx.Err()
	}
}

// Close stops accepting, closes every connection and waits for the goroutines of the mux. An owner that goes on for five
// seconds after its connection is closed is not waited for.
func (m *Mux) Close() error {
	m.stop(func(*Conn) bool { return true })
	gone := make(chan struct{})
	go func() {
		m.goroutines.Wait()
		close(gone)
	}()
	timer := time.NewTimer(5 * time.Second)
	defer timer.Stop()
	select {
	case <-gone:
		return nil
	case <-timer.C:
		return errors.New("portmux: an owner did not let go of its connection")
	}
}

// stop ends accepting and closes the connections that victim chooses, underneath their TLS: a close_notify to each could take
// its time.
func (m *Mux) stop(victim func(*Conn) bool) {
	m.mu.Lock()
	if !m.stopped {
		m.stopped = true
		close(m.done)
		if len(m.conns) == 0 {
			m.nowEmpty()
		}
	}
	var victims []*Conn
	handed := make(map[*Conn]bool)
	for c := range m.conns {
		if victim(c) {
			victims = append(victims, c)
			handed[c] = c.handed
		}
	}
	for l := range m.listeners {
		_ = l.Close()
	}
	m.mu.Unlock()
	for _, c := range victims {
		if handed[c] {
			_ = c.wire.Close()
		} else {
			_ = c.wire.conn.Close() // the walk is under way: it notices, and ends the connection
		}
	}
}

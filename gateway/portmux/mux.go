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
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"hafen/gateway/netpolicy"
)

// Mux is the walk of connections from accept to their owner. Make one with New; it may Serve several listeners.
type Mux struct {
	opts     Options
	hello    *tls.Config // what handshakes begin with
	born     int64       // milliseconds since 1970: names connections, with serial
	serial   atomic.Uint64
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
		hello:     helloConfig(o.Hello),
		born:      time.Now().UnixMilli(),
		done:      make(chan struct{}),
		empty:     make(chan struct{}),
		listeners: make(map[net.Listener]bool),
		conns:     make(map[*Conn]bool),
		loads:     newLoads(o.Limits),
	}
	m.metrics = newMetrics(o.Registry, m.Counts)
	return m
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

// add counts a connection, and tells which limit of them all it exceeds, if any, and which connections make room for it; false: no more
// are taken.
func (m *Mux) add(c *Conn) (limit string, room []*Conn, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return "", nil, false
	}
	m.conns[c] = true
	m.loads.open++
	m.loads.pending++
	m.goroutines.Add(1)
	limit = m.loads.full()
	if limit == refusedPending {
		if room = m.crowdedOut(); len(room) > 0 {
			limit = ""
		}
	}
	return limit, room, true
}

// claim puts a connection to its client's account, or tells which limit is reached.
func (m *Mux) claim(c *Conn) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.loads.claim(c, netpolicy.Client(c.wire.client.Addr()))
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

// Counts is the number of connections there are now.
type Counts struct {
	Open    int // all
	Pending int // of these, not yet established
	Refused int // of these, of refused clients
	Clients int // distinct
	// MostOpen and MostPending are those of the busiest client.
	MostOpen, MostPending int
}

// Counts tells how many connections there are now.
func (m *Mux) Counts() Counts {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := Counts{Open: m.loads.open, Pending: m.loads.pending, Refused: m.loads.refused, Clients: len(m.loads.clients)}
	for _, l := range m.loads.clients {
		c.MostOpen, c.MostPending = max(c.MostOpen, l.open), max(c.MostPending, l.pending)
	}
	return c
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

// stop ends accepting and closes the connections that victim chooses.
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
	for c := range m.conns {
		if victim(c) {
			victims = append(victims, c)
		}
	}
	for l := range m.listeners {
		_ = l.Close()
	}
	m.mu.Unlock()
	m.putOut(victims)
}

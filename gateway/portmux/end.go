package portmux

import (
	"net"
	"net/netip"
	"time"
)

// End is what can be said of a connection when it has ended.
type End struct {
	ID       string
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
		ID: c.ID(), Client: c.wire.client, Local: c.wire.LocalAddr(), Protocol: c.protocol,
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

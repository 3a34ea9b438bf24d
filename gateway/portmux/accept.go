package portmux

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"
)

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
	c := &Conn{mux: m, id: m.serial.Add(1), opened: m.opts.Now(), http: http, only: only, pending: true, protocol: Silent}
	remote, _ := raw.RemoteAddr().(*net.TCPAddr)
	c.wire = wire{conn: raw, owner: c, remote: raw.RemoteAddr(), client: unmap(remote.AddrPort())}
	limit, room, ok := m.add(c)
	if !ok {
		_ = raw.Close()
		return
	}
	for _, other := range room {
		m.refuse(other, refusedPending, statusLimit, errCrowdedOut)
	}
	m.putOut(room)
	if limit != "" {
		defer m.release(c)
		m.refuse(c, limit, statusLimit, fmt.Errorf("limit reached: %s", limit))
		m.drop(c)
		return
	}
	go func() {
		defer m.release(c)
		defer m.opts.Defects.Catch(c.broke)
		m.walk(c)
	}()
}

func unmap(ap netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}

// broke ends a connection whose handling has met a defect.
func (c *Conn) broke(err error) {
	c.Fail(statusProtocol, err)
	_ = c.wire.Close()
}

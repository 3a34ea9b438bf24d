package portmux

import (
	"net"
	"sync"
)

// Listener is a net.Listener that is fed with connections: it puts an http.Server behind the mux.
//
//	l := portmux.NewListener(addr)
//	options.HTTP = l.Hand
//	server := &http.Server{Handler: h, ConnContext: portmux.Context, ReadHeaderTimeout: …}
//	go server.Serve(l)
//
// It holds no queue: Hand waits until the server accepts, and those that wait are bounded by the mux's limits.
type Listener struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// NewListener makes a Listener that calls itself addr.
func NewListener(addr net.Addr) *Listener {
	return &Listener{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

// Hand gives a connection to whoever accepts. After Close it closes the connection instead.
func (l *Listener) Hand(c *Conn) {
	select {
	case <-l.done: // looked at first: select chooses at random when both are ready
		_ = c.Close()
		return
	default:
	}
	select {
	case l.conns <- c.HTTPConn():
	case <-l.done:
		_ = c.Close()
	}
}

// Accept is net.Listener's.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

// Close is net.Listener's. Connections already accepted live on.
func (l *Listener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

// Addr is net.Listener's.
func (l *Listener) Addr() net.Addr { return l.addr }

package relay

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Release gives up reading a UDP socket that ServePacket serves, so that another process which has a copy of it may read it alone.
// Clients that hold an allocation stay: each gets a socket of its own, connected to it, which the kernel prefers for its datagrams.
// Who is on the way to an allocation begins anew, with whoever reads the socket then. When Release returns nothing more is read
// from it; ServePacket returns when the last of its clients has gone.
func (s *Server) Release(pc *net.UDPConn) {
	s.mu.Lock()
	l := s.sockets[pc]
	s.mu.Unlock()
	if l == nil {
		return
	}
	for _, c := range l.keepVerified() {
		if err := l.separate(c); err != nil {
			c.session.end(&failure{"err_client", fmt.Errorf("it gets no socket of its own: %w", err)})
		}
	}
	l.socket.ignore()
	l.socket.loop.settle()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.released = true
	for _, c := range l.clients {
		if c.own != nil {
			_ = c.own.loop.watch(c.own) // fails when the server is closed, and the client with it
		}
	}
	l.oneLess()
}

// settle returns when the loop has ended the turn it is in. It must not be called on the loop's thread.
func (l *loop) settle() {
	done := make(turnEnd)
	l.flushLater(done)
	select {
	case <-done:
	case <-l.done:
	}
}

type turnEnd chan struct{}

func (t turnEnd) flush() { close(t) }

func (turnEnd) broke(error) {}

// keepVerified ends the sessions of those who have no allocation, and returns the others.
func (l *listener) keepVerified() (kept []*packetClient) {
	l.mu.Lock()
	all := make([]*packetClient, 0, len(l.clients))
	for _, c := range l.clients {
		all = append(all, c)
	}
	l.mu.Unlock()
	for _, c := range all {
		if c.verified() {
			kept = append(kept, c)
		} else {
			c.session.end(errClosing)
		}
	}
	return kept
}

// separate gives a client a socket of its own beside the shared one. All sockets of the port must allow that; the shared one does for
// as long as it takes and no longer, for any program might do the same.
func (l *listener) separate(c *packetClient) error {
	if err := l.socket.share(1); err != nil {
		return err
	}
	defer func() { _ = l.socket.share(0) }() // no worse than before
	d := net.Dialer{
		LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(c.tuple.local, l.port)),
		Control: func(_, _ string, raw syscall.RawConn) (err error) {
			failed := raw.Control(func(fd uintptr) { err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1) })
			if failed != nil {
				return failed
			}
			return err
		},
	}
	conn, err := d.Dial("udp", c.tuple.client.String())
	if err != nil {
		return err
	}
	in := &inbox{listener: l, only: c}
	own, err := l.socket.loop.adopt(conn.(*net.UDPConn), in)
	if err != nil {
		_ = conn.Close()
		return err
	}
	in.socket = &datagrams{descriptor: own}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients[c.tuple] != c { // it has ended meanwhile
		own.close()
		return nil
	}
	c.own = own
	return nil
}

// share lets other sockets have the same address, or no longer.
func (d *descriptor) share(on int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return net.ErrClosed
	}
	return unix.SetsockoptInt(d.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, on)
}

// oneLess notices the end of the last client. The caller has the lock.
func (l *listener) oneLess() {
	if l.released && len(l.clients) == 0 {
		select {
		case <-l.empty:
		default:
			close(l.empty)
		}
	}
}

func (s *Server) addListener(pc *net.UDPConn, l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sockets == nil {
		s.sockets = make(map[*net.UDPConn]*listener)
	}
	s.sockets[pc] = l
}

func (s *Server) removeListener(pc *net.UDPConn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, pc)
}

package relay

import (
	"net"
	"runtime"
	"sync"
	"syscall"

	"hafen/gateway/defect"
)

// loops are a server's. They start with the first socket.
type loops struct {
	rests   bool // under load, between two turns
	defects *defect.Catcher
	mu      sync.Mutex
	list    []*loop
	next    int
	closed  bool
}

// loopsFor is how many there are: one for every two processors. A loop moves some 100,000 packets a second; the other half is the
// kernel's, for handshakes and for all that is no media.
func loopsFor(processors int) int { return max(processors/2, 1) }

// pick is the loop for a new session: they take turns.
func (ls *loops) pick() (*loop, error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case ls.closed:
		return nil, errLoopClosed
	case len(ls.list) < loopsFor(runtime.GOMAXPROCS(0)):
		l, err := newLoop(ls.rests, ls.defects)
		if err != nil {
			return nil, err
		}
		ls.list = append(ls.list, l)
		return l, nil
	}
	ls.next = (ls.next + 1) % len(ls.list)
	return ls.list[ls.next], nil
}

func (ls *loops) close() {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.closed = true
	for _, l := range ls.list {
		l.close()
	}
	ls.list = nil
}

// socketConn is a connection of Go's whose socket a loop can adopt.
type socketConn interface {
	net.Conn
	syscall.Conn
}

// beneath finds the socket under wrappers such as TLS; nil: there is none that a loop can watch.
func beneath(conn net.Conn) socketConn {
	for conn != nil {
		switch c := conn.(type) {
		case *net.TCPConn:
			return c
		case *net.UDPConn:
			return c
		}
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = inner.NetConn()
	}
	return nil
}

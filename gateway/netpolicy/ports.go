package netpolicy

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"syscall"
)

// UDP sockets dial from source ports taken in turn. Left to itself the kernel draws them at random and gives a port out
// again within seconds; a TURN server knows its clients by their five-tuple and keeps an allocation for ten minutes when
// nobody gave it back, so the next client behind such a port is refused with 437 (RFC 8656 section 7.2). In turn, a port
// comes again only after all the others.
const (
	// The range is where kernels look for such ports by default.
	firstSourcePort = 32768
	sourcePorts     = 60999 - firstSourcePort + 1
	// maxSourceTries bounds how many ports in use are passed over before the kernel is asked to choose.
	maxSourceTries = 16
)

// portTurn hands out source ports in turn, from a random one on.
type portTurn struct {
	mu   sync.Mutex
	next int // 0: not begun
}

func (t *portTurn) take() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.next == 0 {
		t.next = firstSourcePort + rand.IntN(sourcePorts) // no secret: it spares the ports of a process before us
	}
	port := t.next
	if t.next++; t.next == firstSourcePort+sourcePorts {
		t.next = firstSourcePort
	}
	return port
}

// dialUDP dials from the next source port that is free.
func (d *Dialer) dialUDP(ctx context.Context, nd net.Dialer, network string, ap netip.AddrPort) (net.Conn, error) {
	source, _ := nd.LocalAddr.(*net.UDPAddr)
	local := net.UDPAddr{IP: net.IPv4zero}
	switch {
	case source != nil:
		local = *source
	case ap.Addr().Is6():
		local.IP = net.IPv6unspecified
	}
	for range maxSourceTries {
		local.Port = d.sources.take()
		nd.LocalAddr = &local
		conn, err := nd.DialContext(ctx, network, ap.String())
		if !errors.Is(err, syscall.EADDRINUSE) {
			return conn, err
		}
	}
	local.Port = 0
	return nd.DialContext(ctx, network, ap.String())
}

package cloud

import (
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// packetsInFlight bounds one UDP socket's delay line: 100 ms of 40,000 packets a second.
	packetsInFlight = 4096
	// unsignedPerSecond is how many requests without credentials one address may send over UDP. They are answered
	// with nearly four times their bytes, which would make the relay an amplifier for forged addresses.
	unsignedPerSecond = 500
	// pauseAfterError keeps a socket that fails (out of buffers, say) from being asked in a circle.
	pauseAfterError = 20 * time.Millisecond
)

type datagram struct {
	bytes []byte
	addr  net.Addr
}

// packetConn is a region's UDP socket as pion sees it: validated frames, the region's delay both ways, and a
// ReadFrom that fails once only, at the end. (pion stops serving a socket at its first error.)
type packetConn struct {
	net.PacketConn
	region  *Region
	in, out *line[datagram]
	budget  budget
	done    chan struct{}
	once    sync.Once
	err     error
}

func newPacketConn(pc net.PacketConn, r *Region) *packetConn {
	c := &packetConn{
		PacketConn: pc, region: r, done: make(chan struct{}),
		in:  newLine[datagram](r.opts.Delay, packetsInFlight),
		out: newLine[datagram](r.opts.Delay, packetsInFlight),
	}
	r.owned.Go(c.receive)
	r.owned.Go(c.send)
	return c
}

// receive moves datagrams from the socket into the delay line.
func (c *packetConn) receive() {
	buf := make([]byte, 1<<16)
	for {
		n, addr, err := c.PacketConn.ReadFrom(buf)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if !pause(c.done) {
				return
			}
			continue
		}
		if c.region.down.Load() || checkFrame(buf[:n]) != nil {
			continue
		}
		c.in.put(datagram{append([]byte(nil), buf[:n]...), addr})
	}
}

func (c *packetConn) send() {
	for {
		d, ok := c.out.get()
		if !ok {
			return
		}
		_, _ = c.PacketConn.WriteTo(d.bytes, d.addr) // a datagram may be lost
	}
}

// ReadFrom returns the next frame that pion may see.
func (c *packetConn) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		d, ok := c.in.get()
		if !ok {
			return 0, nil, net.ErrClosed
		}
		pass, answer := c.region.guard.inspect(d.bytes, d.addr, c.LocalAddr())
		if answer != nil {
			_, _ = c.WriteTo(answer, d.addr)
		}
		if pass == nil || !c.budget.allow(pass, d.addr, time.Now()) {
			continue
		}
		c.region.fromCl.Add(uint64(len(pass)))
		return copy(p, pass), d.addr, nil
	}
}

// WriteTo queues a datagram to a client. It never blocks; like a network it loses what is too much.
func (c *packetConn) WriteTo(p []byte, addr net.Addr) (int, error) {
	if !c.region.down.Load() {
		c.region.toCl.Add(uint64(len(p)))
		c.out.put(datagram{append([]byte(nil), p...), addr})
	}
	return len(p), nil
}

// Close may be called twice.
func (c *packetConn) Close() error {
	c.once.Do(func() {
		close(c.done)
		c.in.close()
		c.out.close()
		c.err = c.PacketConn.Close()
	})
	return c.err
}

// pause waits a moment after an error; false means that done was closed.
func pause(done <-chan struct{}) bool {
	t := time.NewTimer(pauseAfterError)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-done:
		return false
	}
}

// budget counts requests without credentials per source address and second. Only ReadFrom uses it: no lock.
type budget struct {
	second int64
	counts map[netip.Addr]int
}

// maxSources bounds the table within a second; forged sources beyond it share the answer "no".
const maxSources = 10_000

func (b *budget) allow(frame []byte, addr net.Addr, now time.Time) bool {
	u, ok := addr.(*net.UDPAddr)
	if !ok || frame[0]>>4 == 4 || hasIntegrity(frame) {
		return true
	}
	if now.Unix() != b.second || b.counts == nil {
		b.second, b.counts = now.Unix(), map[netip.Addr]int{}
	}
	ip := u.AddrPort().Addr()
	if len(b.counts) >= maxSources && b.counts[ip] == 0 {
		return false
	}
	b.counts[ip]++
	return b.counts[ip] <= unsignedPerSecond
}

// hasIntegrity looks for MESSAGE-INTEGRITY in a validated message; indications have none and are answered by none.
func hasIntegrity(m []byte) bool {
	if m[0]&0x01 == 0 && m[1]&0x10 != 0 {
		return true // an indication
	}
	for b := m[stunHeader:]; len(b) >= 4; {
		if b[0] == 0 && b[1] == 8 {
			return true
		}
		b = b[(int(b[2])<<8|int(b[3])+3)&^3+4:]
	}
	return false
}

// relaySocket is the socket of one allocation, towards the peers.
type relaySocket struct {
	net.PacketConn
	region *Region
	port   uint16
	once   sync.Once
	err    error
}

// ReadFrom skips errors that are not the socket's end: one would end the allocation.
func (s *relaySocket) ReadFrom(p []byte) (int, net.Addr, error) {
	for {
		n, addr, err := s.PacketConn.ReadFrom(p)
		if err == nil && !s.region.down.Load() {
			return n, addr, nil
		}
		if errors.Is(err, net.ErrClosed) {
			return 0, nil, err
		}
		if err != nil {
			time.Sleep(pauseAfterError)
		}
	}
}

// WriteTo drops what a region that is down would not send, and what the network refuses.
func (s *relaySocket) WriteTo(p []byte, addr net.Addr) (int, error) {
	if s.region.down.Load() {
		return len(p), nil
	}
	if _, err := s.PacketConn.WriteTo(p, addr); errors.Is(err, net.ErrClosed) {
		return 0, err
	}
	return len(p), nil
}

// Close may be called twice: by pion and by the region.
func (s *relaySocket) Close() error {
	s.once.Do(func() {
		s.region.mu.Lock()
		delete(s.region.relays, s.port)
		s.region.mu.Unlock()
		s.err = s.PacketConn.Close()
	})
	return s.err
}

package cloud

import (
	"bufio"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// framesInFlight bounds one stream's delay lines. A client that does not read loses frames; waiting for it
	// would stop pion's loop for the allocation.
	framesInFlight = 1024
	// helloTimeout covers the TLS handshake and the first frame.
	helloTimeout = 10 * time.Second
	// allocateTimeout is how long a stream may be silent without an allocation, idleTimeout with one: its
	// allocation would have run out by then (RFC 8656, 3.2: refreshed at least every ten minutes).
	allocateTimeout = 60 * time.Second
	idleTimeout     = 15 * time.Minute
	writeTimeout    = 15 * time.Second
	maxStreams      = 4000
)

// listener hands pion connections that deliver one whole, validated frame a Read. Its Accept fails once only, at
// the end: pion ends a listener at its first error, and running out of file descriptors is one.
type listener struct {
	net.Listener
	region *Region
	done   chan struct{}
	once   sync.Once
	err    error
}

func (l *listener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil, err
		}
		if err != nil {
			if !pause(l.done) {
				return nil, net.ErrClosed
			}
			continue
		}
		if c := newStreamConn(conn, l.region); c != nil {
			return c, nil
		}
		_ = conn.Close()
	}
}

// Close may be called twice.
func (l *listener) Close() error {
	l.once.Do(func() {
		close(l.done)
		l.err = l.Listener.Close()
	})
	return l.err
}

// streamConn is one client over TCP or TLS. Goroutines of its own read and write, so that neither the delay nor a
// slow client holds up pion.
type streamConn struct {
	net.Conn
	region  *Region
	in, out *line[[]byte]
	once    sync.Once
	err     error
}

// newStreamConn returns nil if the region takes no more.
func newStreamConn(conn net.Conn, r *Region) *streamConn {
	c := &streamConn{
		Conn: conn, region: r,
		in:  newLine[[]byte](r.opts.Delay, framesInFlight),
		out: newLine[[]byte](r.opts.Delay, framesInFlight),
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down.Load() || len(r.streams) >= maxStreams {
		return nil
	}
	r.streams[c] = true
	r.owned.Go(c.receive)
	r.owned.Go(c.send)
	return c
}

// receive reads frames until the stream breaks one's bounds or ends.
func (c *streamConn) receive() {
	defer func() { _ = c.Close() }()
	frames := bufio.NewReaderSize(c.Conn, maxFrame)
	wait := helloTimeout
	for {
		if c.SetReadDeadline(time.Now().Add(wait)) != nil {
			return
		}
		frame, err := readFrame(frames)
		if err != nil {
			return
		}
		wait = allocateTimeout
		if c.region.allocated(c.RemoteAddr(), c.LocalAddr()) {
			wait = idleTimeout
		}
		c.in.put(frame)
	}
}

func (c *streamConn) send() {
	defer func() { _ = c.Close() }()
	for {
		frame, ok := c.out.get()
		if !ok {
			return
		}
		if c.SetWriteDeadline(time.Now().Add(writeTimeout)) != nil {
			return
		}
		if _, err := c.Conn.Write(frame); err != nil {
			return
		}
	}
}

// Read returns one whole frame. pion's buffer holds maxFrame, so none is cut. (It keeps ChannelData of up to 4 bytes
// back until the next frame; nothing that calls send is as short.)
func (c *streamConn) Read(p []byte) (int, error) {
	for {
		frame, ok := c.in.get()
		if !ok {
			return 0, io.EOF
		}
		pass, answer := c.region.guard.inspect(frame, c.RemoteAddr(), c.LocalAddr())
		if answer != nil {
			c.out.put(answer)
		}
		if pass == nil {
			continue
		}
		c.region.fromCl.Add(uint64(len(pass)))
		return copy(p, pass), nil
	}
}

// Write queues one whole frame: pion writes one at a time.
func (c *streamConn) Write(p []byte) (int, error) {
	c.region.toCl.Add(uint64(len(p)))
	c.out.put(append([]byte(nil), p...))
	return len(p), nil
}

// Close may be called twice: by pion, the region and either goroutine.
func (c *streamConn) Close() error {
	c.once.Do(func() {
		c.region.mu.Lock()
		delete(c.region.streams, c)
		c.region.mu.Unlock()
		c.in.close()
		c.out.close()
		c.err = c.Conn.Close()
	})
	return c.err
}

package relay

import (
	"errors"
	"fmt"
	"net"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxFailures in a row end a datagram uplink. One alone is an ICMP error, which anybody on the way may cause.
const maxFailures = 100

// upstream is an uplink in use: datagrams in batches, or a stream with a queue of its own.
type upstream struct {
	*uplink
	server   *Server
	user     upstreamUser
	socket   *datagrams // nil: a stream
	stream   *stream
	frames   frameReader
	over     func(err error)
	failures int
}

// upstreamUser is whose uplink it is: a session that bridges, or an allocation of mode terminate.
type upstreamUser interface {
	// fromRegion takes valid messages of the region. It may change msgs, and keeps nothing of them.
	fromRegion(msgs [][]byte)
	// countUp counts what was sent.
	countUp(packets, bytes int)
	// regionLost is told that a stream took no more, by whoever wrote last.
	regionLost(err error)
}

// newUpstream takes an uplink over; l is the loop that will read it.
func newUpstream(s *Server, l *loop, user upstreamUser, link *uplink) (*upstream, error) {
	up := &upstream{uplink: link, server: s, user: user}
	if !link.datagram {
		up.stream = newStream(l, link.Conn, s.config().Relay.Queue.MaxAge, s.metrics)
		up.stream.owner = link
		up.stream.relayed = user.countUp
		up.stream.lost = user.regionLost
		return up, nil
	}
	conn := beneath(link.Conn)
	if conn == nil {
		return nil, fmt.Errorf("a datagram uplink without a socket: %T", link.Conn)
	}
	d, err := l.adopt(conn, up)
	if err != nil {
		return nil, fmt.Errorf("the uplink's socket: %w", err)
	}
	up.socket = &datagrams{descriptor: d}
	return up, nil
}

// send sends messages to the region, without waiting.
func (up *upstream) send(msgs [][]byte) error {
	if up.socket == nil {
		up.stream.deliver(msgs)
		return nil
	}
	sent, err := up.socket.send(msgs)
	bytes := 0
	for _, msg := range msgs[:min(sent, len(msgs))] {
		bytes += len(msg)
	}
	up.user.countUp(sent, bytes)
	return err
}

// post sends one message at the end of the loop's turn.
func (up *upstream) post(msg []byte) {
	if up.socket == nil {
		up.stream.soon(msg)
		return
	}
	up.socket.post(msg, nil)
	up.user.countUp(1, len(msg))
}

// start begins to take what the region sends to the user. over is told why it ended, on the loop's thread or a reader's, unless the
// uplink was closed before.
func (up *upstream) start(over func(err error)) error {
	up.over = over
	if up.socket != nil {
		return up.socket.loop.watch(up.socket.descriptor)
	}
	return up.stream.start(up.read, over)
}

// read takes what a stream has brought.
func (up *upstream) read(buf *readBuffer, n int) error {
	up.sawPacket()
	buf.msgs = buf.msgs[:0]
	dropped := up.frames.dropped
	err := up.frames.split(buf.bytes[:n], time.Time{}, func(frame []byte) error {
		buf.msgs = append(buf.msgs, frame)
		return nil
	})
	if up.frames.dropped != dropped {
		up.server.metrics.invalid.WithLabelValues("region").Add(float64(up.frames.dropped - dropped))
	}
	up.user.fromRegion(buf.msgs)
	up.frames.recycle()
	clear(buf.msgs)
	return err
}

// ready implements pollable: datagrams are there, or an error is.
func (up *upstream) ready(bool, bool) {
	msgs, err := up.socket.loop.packets.receive(up.socket)
	switch {
	case len(msgs) > 0:
		up.failures = 0
		up.sawPacket()
		up.user.fromRegion(up.sound(msgs))
		return
	case err == nil || errors.Is(err, unix.EAGAIN) || errors.Is(err, net.ErrClosed):
		return
	}
	up.failures++
	refused := errors.Is(err, syscall.ECONNREFUSED)
	if refused {
		// Nobody listens there any more. The allocation is gone with whoever did; probes find out about the others.
		up.suspect()
	}
	if refused || up.failures == maxFailures {
		up.socket.ignore()
		up.over(err)
	}
}

// broke implements guest.
func (up *upstream) broke(defect error) {
	up.socket.ignore()
	up.user.regionLost(defect)
}

// sound keeps the valid messages.
func (up *upstream) sound(msgs [][]byte) [][]byte {
	kept := msgs[:0]
	for _, msg := range msgs {
		if msg = trimmed(msg); msg != nil {
			kept = append(kept, msg)
		}
	}
	if n := len(msgs) - len(kept); n > 0 {
		up.server.metrics.invalid.WithLabelValues("region").Add(float64(n))
	}
	return kept
}

// trimmed is the message in a datagram, if it is valid. ChannelData may be padded there too (RFC 8656 section 12.5).
func trimmed(datagram []byte) []byte {
	size, err := frameSize(datagram)
	if err != nil || size == 0 || size > len(datagram) || size < len(datagram)-3 {
		return nil
	}
	if datagram = datagram[:size]; !valid(datagram) {
		return nil
	}
	return datagram
}

// close ends the uplink.
func (up *upstream) close() {
	if up.stream != nil {
		up.stream.close()
	} else {
		up.socket.close()
	}
	_ = up.uplink.Close()
}

package relay

import (
	"errors"
	"fmt"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// maxFailures in a row end a datagram uplink. One alone is an ICMP error, which anybody on the way may cause.
const maxFailures = 100

// upstream is an uplink in use: datagrams in batches, or a stream with a queue of its own.
type upstream struct {
	*uplink
	server *Server
	user   upstreamUser
	socket *datagrams // nil: a stream
	stream *stream
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

// newUpstream takes an uplink over.
func newUpstream(s *Server, user upstreamUser, link *uplink) (*upstream, error) {
	up := &upstream{uplink: link, server: s, user: user}
	if !link.datagram {
		up.stream = newStream(link.Conn, s.config().Relay.Queue.MaxAge, s.metrics)
		up.stream.owner = link
		up.stream.relayed = user.countUp
		up.stream.lost = user.regionLost
		return up, nil
	}
	sc := socketOf(link.Conn)
	if sc == nil {
		return nil, fmt.Errorf("a datagram uplink without a socket: %T", link.Conn)
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil, fmt.Errorf("the uplink's socket: %w", err)
	}
	up.socket = &datagrams{raw: raw}
	return up, nil
}

// send sends messages to the region, without waiting.
func (up *upstream) send(msgs [][]byte) error {
	if up.socket == nil {
		up.stream.deliver(msgs)
		return nil
	}
	sent, err := up.socket.send(msgs, nil)
	bytes := 0
	for _, msg := range msgs[:min(sent, len(msgs))] {
		bytes += len(msg)
	}
	up.user.countUp(sent, bytes)
	return err
}

// receive takes what the region sends to the session until the uplink ends, and tells why it did.
func (up *upstream) receive() error {
	if up.socket != nil {
		return up.receiveDatagrams()
	}
	defer up.stream.wait()
	defer up.close()
	var reader frameReader
	defer reader.release()
	return up.stream.receive(func(buf *readBuffer, n int) error {
		up.sawPacket()
		buf.msgs = buf.msgs[:0]
		dropped := reader.dropped
		err := reader.split(buf.bytes[:n], time.Time{}, func(frame []byte) error {
			buf.msgs = append(buf.msgs, frame)
			return nil
		})
		if reader.dropped != dropped {
			up.server.metrics.invalid.WithLabelValues("region").Add(float64(reader.dropped - dropped))
		}
		up.user.fromRegion(buf.msgs)
		reader.recycle()
		clear(buf.msgs)
		return err
	})
}

// receiveDatagrams reads in batches; buffers are held only while there is something to read.
func (up *upstream) receiveDatagrams() error {
	var batch *packetBatch
	var msgs [][]byte
	var err error
	read := func(fd uintptr) bool {
		if batch == nil {
			batch = packetBatches.Get().(*packetBatch)
		}
		if msgs, err = batch.receive(fd); errors.Is(err, unix.EAGAIN) {
			packetBatches.Put(batch)
			batch = nil
			return false
		}
		return true
	}
	for failures := 0; failures < maxFailures; failures++ {
		// As with streams, what is read is worked on outside the callback: whoever closes the socket waits for its end.
		if lost := up.socket.raw.Read(read); lost != nil {
			return lost
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			// Nobody listens there any more. The allocation is gone with whoever did; probes find out about the others.
			up.suspect()
			packetBatches.Put(batch)
			return err
		}
		if len(msgs) > 0 {
			failures = 0
			up.sawPacket()
			up.user.fromRegion(up.sound(msgs))
		}
	}
	return err
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
	}
	_ = up.uplink.Close()
}

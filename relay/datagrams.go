package relay

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// datagrams is a UDP socket of a loop, written in batches: at once, or at the end of the turn.
type datagrams struct {
	*descriptor
	outbox *outbox // what was put off; nil: nothing
}

// send sends all of msgs as far as the socket takes them, never waiting, and tells how many went. to nil: the socket is connected.
func (d *datagrams) send(msgs [][]byte, to *destination) (int, error) {
	b := sendBatches.Get().(*sendBatch)
	defer sendBatches.Put(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	sent := 0
	var failed error
	for len(msgs) > 0 && !d.closed {
		n, err := b.send(d.fd, msgs, to)
		sent += n
		msgs = msgs[n:]
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			return sent, err // a datagram that the socket has no room for is lost, as datagrams are
		case err != nil:
			// An ICMP error of an earlier datagram, or one that this datagram itself causes (EMSGSIZE, EPERM): the next may go.
			failed = err
			msgs = msgs[1:]
		}
	}
	return sent, failed
}

// outbox holds copies of datagrams that are sent at the end of a turn, all in one system call.
type outbox struct {
	batch sendBatch
	bytes [outboxBytes]byte
	used  int
	msgs  [batchSize][]byte
	to    [batchSize]destination
	count int
}

const outboxBytes = 48 << 10

var outboxes = sync.Pool{New: func() any { return new(outbox) }}

// post sends a datagram at the end of the loop's turn. It is copied.
func (d *datagrams) post(msg []byte, to *destination) {
	d.mu.Lock()
	defer d.mu.Unlock()
	o := d.outbox
	if o != nil && (o.count == batchSize || o.used+len(msg) > outboxBytes) {
		o.send(d)
	}
	if o == nil {
		o = outboxes.Get().(*outbox)
		d.outbox = o
		d.loop.flushLater(d)
	}
	n := copy(o.bytes[o.used:], msg)
	o.msgs[o.count] = o.bytes[o.used : o.used+n : o.used+n]
	o.to[o.count] = *to
	o.used += n
	o.count++
}

// flush implements flusher.
func (d *datagrams) flush() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if o := d.outbox; o != nil {
		o.send(d)
		d.outbox = nil
		outboxes.Put(o)
	}
}

// send sends what is in the box. The caller has the lock of d.
func (o *outbox) send(d *datagrams) {
	for at := 0; at < o.count && !d.closed; {
		n, err := o.batch.sendEach(d.fd, o.msgs[at:o.count], o.to[at:o.count])
		at += n
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			at = o.count // lost, as datagrams are
		case err != nil:
			at++
		}
	}
	o.used, o.count = 0, 0
}

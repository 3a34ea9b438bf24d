package relay

import (
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

// datagrams is a UDP socket of a loop, written in batches: at once, or at the end of the turn.
type datagrams struct {
	*descriptor
	plain  bool    // each datagram is sent by itself
	outbox *outbox // what was put off; nil: nothing
}

// send sends all of msgs as far as the socket takes them, never waiting, and tells how many went. The socket is connected.
func (d *datagrams) send(msgs [][]byte) (int, error) {
	b := sendBatches.Get().(*sendBatch)
	defer sendBatches.Put(b)
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sendAll(b, msgs, nil)
}

// sendAll sends msgs to their destinations; none: the socket is connected. The caller has the lock.
func (d *datagrams) sendAll(b *sendBatch, msgs [][]byte, to []destination) (sent int, failed error) {
	for at := 0; at < len(msgs) && !d.closed; {
		rest := to
		if len(to) > 0 {
			rest = to[at:]
		}
		n, err := b.sendmmsg(d.fd, b.fill(msgs[at:], rest, d.plain))
		sent += n
		at += n
		switch {
		case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.ENOBUFS):
			return sent, err // a datagram that the socket has no room for is lost, as datagrams are
		case errors.Is(err, unix.ECONNREFUSED):
			failed = err // an earlier one was answered so
			at++
		case err != nil && b.runs[0] > 1:
			d.plain = true // a kernel or a device that cuts nothing up, or a path with shorter packets: one by one, then
		case err != nil:
			// An ICMP error of an earlier datagram, or one that this datagram itself causes (EMSGSIZE, EPERM): the next may go.
			failed = err
			at++
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
	// addressed: each has a destination.
	addressed bool
}

const outboxBytes = 48 << 10

var outboxes = sync.Pool{New: func() any { return new(outbox) }}

// post sends a datagram at the end of the loop's turn. It is copied. to nil: the socket is connected.
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
	if o.addressed = to != nil; o.addressed {
		o.to[o.count] = *to
	}
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

// broke implements guest: what was put off is lost, as datagrams are.
func (d *datagrams) broke(error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.outbox = nil
}

// send sends what is in the box. The caller has the lock of d.
func (o *outbox) send(d *datagrams) {
	var to []destination
	if o.addressed {
		to = o.to[:o.count]
	}
	_, _ = d.sendAll(&o.batch, o.msgs[:o.count], to) // what can't be sent is lost, as datagrams are
	o.used, o.count = 0, 0
}

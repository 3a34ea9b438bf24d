package relay

import (
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// batchSize is how many datagrams one system call takes. A burst of a video frame is about ten.
const batchSize = 32

// mmsghdr is struct mmsghdr of recvmmsg(2).
type mmsghdr struct {
	hdr unix.Msghdr
	n   uint32
}

// controlSize holds one IPV6_PKTINFO message.
const controlSize = 40

// packetBatch is what one recvmmsg returns. Its pointers lead into itself, so it is made once and pooled.
type packetBatch struct {
	hdr  [batchSize]mmsghdr
	iov  [batchSize]unix.Iovec
	buf  [batchSize][maxFrame + 1]byte // one more than may be: what fills it is too long
	msgs [batchSize][]byte
}

var packetBatches = sync.Pool{New: func() any {
	b := new(packetBatch)
	for i := range b.hdr {
		b.iov[i].Base = &b.buf[i][0]
		b.iov[i].SetLen(len(b.buf[i]))
		b.hdr[i].hdr.Iov = &b.iov[i]
		b.hdr[i].hdr.SetIovlen(1)
	}
	return b
}}

// receive reads what waits in a connected socket, without blocking. What is too long comes as nil.
func (b *packetBatch) receive(fd uintptr) ([][]byte, error) {
	n, err := recvmmsg(fd, b.hdr[:])
	for i := range n {
		b.msgs[i] = nil
		if size := int(b.hdr[i].n); size <= maxFrame {
			b.msgs[i] = b.buf[i][:size:size]
		}
	}
	return b.msgs[:n], err
}

// addressedBatch is a packetBatch of a listening socket: each datagram with its source and the address it came to.
type addressedBatch struct {
	packetBatch
	name    [batchSize]unix.RawSockaddrInet6
	control [batchSize][controlSize]byte
}

var addressedBatches = sync.Pool{New: func() any {
	b := new(addressedBatch)
	for i := range b.hdr {
		b.iov[i].Base = &b.buf[i][0]
		b.iov[i].SetLen(len(b.buf[i]))
		h := &b.hdr[i].hdr
		h.Iov = &b.iov[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.name[i]))
		h.Control = &b.control[i][0]
	}
	return b
}}

func (b *addressedBatch) receive(fd uintptr) ([][]byte, error) {
	for i := range b.hdr {
		b.hdr[i].hdr.Namelen = unix.SizeofSockaddrInet6
		b.hdr[i].hdr.SetControllen(controlSize)
	}
	return b.packetBatch.receive(fd)
}

func recvmmsg(fd uintptr, hdrs []mmsghdr) (int, error) {
	for {
		n, _, errno := unix.Syscall6(unix.SYS_RECVMMSG, fd, uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// sendBatch is the headers of one sendmmsg.
type sendBatch struct {
	hdr [batchSize]mmsghdr
	iov [batchSize]unix.Iovec
}

var sendBatches = sync.Pool{New: func() any {
	b := new(sendBatch)
	for i := range b.hdr {
		b.hdr[i].hdr.Iov = &b.iov[i]
		b.hdr[i].hdr.SetIovlen(1)
	}
	return b
}}

// destination is where an unconnected socket sends to, and from which of the machine's addresses.
type destination struct {
	name       unix.RawSockaddrInet6 // holds a RawSockaddrInet4 as well
	nameLen    uint32
	control    [controlSize]byte
	controlLen int
}

// send sends up to batchSize datagrams without blocking and tells how many went. to nil: the socket is connected.
func (b *sendBatch) send(fd uintptr, msgs [][]byte, to *destination) (int, error) {
	msgs = msgs[:min(len(msgs), batchSize)]
	for i, msg := range msgs {
		h := &b.hdr[i].hdr
		b.iov[i].Base = unsafe.SliceData(msg)
		b.iov[i].SetLen(len(msg))
		h.Name, h.Namelen, h.Control = nil, 0, nil
		h.SetControllen(0)
		if to != nil {
			h.Name, h.Namelen = (*byte)(unsafe.Pointer(&to.name)), to.nameLen
			if to.controlLen > 0 {
				h.Control = &to.control[0]
				h.SetControllen(to.controlLen)
			}
		}
	}
	for {
		n, _, errno := unix.Syscall6(unix.SYS_SENDMMSG, fd, uintptr(unsafe.Pointer(&b.hdr[0])), uintptr(len(msgs)), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

// datagrams is a UDP socket that is read and written in batches.
type datagrams struct {
	raw syscall.RawConn
}

// writes are what one sendAll keeps between calls of its callback, so that none of it is allocated anew.
type datagramWrite struct {
	batch *sendBatch
	msgs  [][]byte
	to    *destination
	sent  int
	err   error
	call  func(fd uintptr) bool
}

var datagramWrites = sync.Pool{New: func() any {
	w := new(datagramWrite)
	w.call = func(fd uintptr) bool {
		w.run(fd)
		return true // never wait: a datagram that the socket has no room for is lost, as datagrams are
	}
	return w
}}

func (w *datagramWrite) run(fd uintptr) {
	for len(w.msgs) > 0 {
		n, err := w.batch.send(fd, w.msgs, w.to)
		w.sent += n
		w.msgs = w.msgs[n:]
		switch {
		case err == unix.EAGAIN, err == unix.ENOBUFS:
			w.err = err
			return
		case err != nil:
			// An ICMP error of an earlier datagram, or one that this datagram itself causes (EMSGSIZE, EPERM): the next may go.
			w.err = err
			w.msgs = w.msgs[1:]
		}
	}
}

// send sends all of msgs as far as the socket takes them, never waiting, and tells how many went.
func (d *datagrams) send(msgs [][]byte, to *destination) (int, error) {
	w := datagramWrites.Get().(*datagramWrite)
	w.batch = sendBatches.Get().(*sendBatch)
	w.msgs, w.to, w.sent, w.err = msgs, to, 0, nil
	err := d.raw.Write(w.call)
	sent := w.sent
	if err == nil {
		err = w.err
	}
	sendBatches.Put(w.batch)
	w.batch, w.msgs, w.to = nil, nil, nil
	datagramWrites.Put(w)
	return sent, err
}

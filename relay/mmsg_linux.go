package relay

import (
	"net"
	"sync"
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

// packetBatch is what one recvmmsg returns. Its pointers lead into itself; a loop has one.
type packetBatch struct {
	hdr  [batchSize]mmsghdr
	iov  [batchSize]unix.Iovec
	buf  [batchSize][maxFrame + 1]byte // one more than may be: what fills it is too long
	msgs [batchSize][]byte
}

func newPacketBatch() *packetBatch {
	b := new(packetBatch)
	b.point()
	return b
}

func (b *packetBatch) point() {
	for i := range b.hdr {
		b.iov[i].Base = &b.buf[i][0]
		b.iov[i].SetLen(len(b.buf[i]))
		b.hdr[i].hdr.Iov = &b.iov[i]
		b.hdr[i].hdr.SetIovlen(1)
	}
}

// receive reads what waits in a connected socket, without blocking. What is too long comes as nil.
func (b *packetBatch) receive(d *datagrams) ([][]byte, error) {
	n, err := d.recvmmsg(b.hdr[:])
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

func newAddressedBatch() *addressedBatch {
	b := new(addressedBatch)
	b.point()
	for i := range b.hdr {
		h := &b.hdr[i].hdr
		h.Name = (*byte)(unsafe.Pointer(&b.name[i]))
		h.Control = &b.control[i][0]
	}
	return b
}

func (b *addressedBatch) receive(d *datagrams) ([][]byte, error) {
	for i := range b.hdr {
		b.hdr[i].hdr.Namelen = unix.SizeofSockaddrInet6
		b.hdr[i].hdr.SetControllen(controlSize)
	}
	return b.packetBatch.receive(d)
}

// recvmmsg is for the socket's loop.
func (d *datagrams) recvmmsg(hdrs []mmsghdr) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for {
		if d.closed {
			return 0, net.ErrClosed
		}
		n, _, errno := unix.RawSyscall6(unix.SYS_RECVMMSG, uintptr(d.fd), uintptr(unsafe.Pointer(&hdrs[0])), uintptr(len(hdrs)), unix.MSG_DONTWAIT, 0, 0)
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

var sendBatches = sync.Pool{New: func() any { return new(sendBatch) }}

// destination is where an unconnected socket sends to, and from which of the machine's addresses.
type destination struct {
	name       unix.RawSockaddrInet6 // holds a RawSockaddrInet4 as well
	nameLen    uint32
	control    [controlSize]byte
	controlLen int
}

// send sends up to batchSize datagrams without blocking and tells how many went. to nil: the socket is connected.
func (b *sendBatch) send(fd int, msgs [][]byte, to *destination) (int, error) {
	msgs = msgs[:min(len(msgs), batchSize)]
	for i, msg := range msgs {
		b.address(i, msg, to)
	}
	return b.sendmmsg(fd, len(msgs))
}

// sendEach sends each datagram to a destination of its own.
func (b *sendBatch) sendEach(fd int, msgs [][]byte, to []destination) (int, error) {
	for i, msg := range msgs {
		b.address(i, msg, &to[i])
	}
	return b.sendmmsg(fd, len(msgs))
}

// address fills in the header of one datagram.
func (b *sendBatch) address(i int, msg []byte, to *destination) {
	h := &b.hdr[i].hdr
	b.iov[i].Base = unsafe.SliceData(msg)
	b.iov[i].SetLen(len(msg))
	h.Iov, h.Name, h.Namelen, h.Control = &b.iov[i], nil, 0, nil
	h.SetIovlen(1)
	h.SetControllen(0)
	if to == nil {
		return
	}
	h.Name, h.Namelen = (*byte)(unsafe.Pointer(&to.name)), to.nameLen
	if to.controlLen > 0 {
		h.Control = &to.control[0]
		h.SetControllen(to.controlLen)
	}
}

func (b *sendBatch) sendmmsg(fd, count int) (int, error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdr[0])), uintptr(count), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			return int(n), nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

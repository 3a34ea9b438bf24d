package relay

import (
	"encoding/binary"
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

// sendBatch is the headers of one sendmmsg: one for each run of datagrams of one size that go the same way, which the kernel takes as
// one and cuts up where it leaves (UDP_SEGMENT).
type sendBatch struct {
	hdr     [batchSize]mmsghdr
	iov     [batchSize]unix.Iovec
	runs    [batchSize]int // datagrams of each header
	control [batchSize][controlSize + segmentSize]byte
}

const (
	// segmentSize is the room of one UDP_SEGMENT message.
	segmentSize = 24
	// maxRun bounds the bytes of a run: the longest datagram there is, less the headers.
	maxRun = 60 << 10
)

var sendBatches = sync.Pool{New: func() any { return new(sendBatch) }}

// destination is where an unconnected socket sends to, and from which of the machine's addresses.
type destination struct {
	name       unix.RawSockaddrInet6 // holds a RawSockaddrInet4 as well
	nameLen    uint32
	control    [controlSize]byte
	controlLen int
}

// fill makes headers of up to batchSize datagrams, and tells how many. to has one destination for each of them, or one for all, or
// none: the socket is connected. plain leaves each datagram alone.
func (b *sendBatch) fill(msgs [][]byte, to []destination, plain bool) (headers int) {
	msgs = msgs[:min(len(msgs), batchSize)]
	for i, msg := range msgs {
		b.iov[i].Base = unsafe.SliceData(msg)
		b.iov[i].SetLen(len(msg))
	}
	for at := 0; at < len(msgs); headers++ {
		n := 1
		if !plain {
			n = runLength(msgs[at:], to, at)
		}
		b.address(headers, at, n, len(msgs[at]), to)
		at += n
	}
	return headers
}

// runLength is how many of msgs can go as one: all as long as the first, but for the last, which may be shorter.
func runLength(msgs [][]byte, to []destination, at int) int {
	size, total, n := len(msgs[0]), 0, 0
	for n < len(msgs) && len(msgs[n]) <= size && len(msgs[n]) > 0 && total+len(msgs[n]) <= maxRun {
		if n > 0 && len(to) > 1 && to[at+n] != to[at] {
			break
		}
		total += len(msgs[n])
		n++
		if len(msgs[n-1]) < size {
			break
		}
	}
	return max(n, 1)
}

// address fills in header h for n datagrams from at on.
func (b *sendBatch) address(h, at, n, size int, to []destination) {
	hdr := &b.hdr[h].hdr
	hdr.Iov, hdr.Name, hdr.Namelen = &b.iov[at], nil, 0
	hdr.SetIovlen(n)
	b.runs[h] = n
	control := b.control[h][:0]
	if len(to) > 0 {
		d := &to[min(at, len(to)-1)]
		hdr.Name, hdr.Namelen = (*byte)(unsafe.Pointer(&d.name)), d.nameLen
		control = append(control, d.control[:d.controlLen]...)
	}
	if n > 1 {
		control = appendSegment(control, size)
	}
	hdr.Control = nil
	if len(control) > 0 {
		hdr.Control = &b.control[h][0]
	}
	hdr.SetControllen(len(control))
}

// appendSegment appends the message that says how long each datagram of a run is: a cmsghdr and a uint16.
func appendSegment(control []byte, size int) []byte {
	control = binary.NativeEndian.AppendUint64(control, uint64(unix.CmsgLen(2)))
	control = binary.NativeEndian.AppendUint32(control, unix.SOL_UDP)
	control = binary.NativeEndian.AppendUint32(control, unix.UDP_SEGMENT)
	control = binary.NativeEndian.AppendUint16(control, uint16(size))
	return append(control, make([]byte, 6)...)
}

// sendmmsg sends what fill has made, without blocking, and tells how many datagrams went.
func (b *sendBatch) sendmmsg(fd, headers int) (sent int, err error) {
	for {
		n, _, errno := unix.RawSyscall6(unix.SYS_SENDMMSG, uintptr(fd), uintptr(unsafe.Pointer(&b.hdr[0])), uintptr(headers), unix.MSG_DONTWAIT, 0, 0)
		switch errno {
		case 0:
			for _, run := range b.runs[:n] {
				sent += run
			}
			return sent, nil
		case unix.EINTR:
		default:
			return 0, errno
		}
	}
}

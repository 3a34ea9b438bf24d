package relay

import (
	"fmt"
	"net/netip"
	"unsafe"

	"golang.org/x/sys/unix"
)

// localAddress is one relayed address: a socket.
type localAddress struct {
	relay      *localRelay
	allocation *allocation
	socket     *datagrams
	announced  netip.AddrPort
	token      []byte // RESERVATION-TOKEN of the port behind it
}

func (r *localAddress) address() netip.AddrPort { return r.announced }

func (r *localAddress) reservation() []byte { return r.token }

func (r *localAddress) permit(peers []netip.AddrPort, _ uint16, then func(error)) {
	for _, peer := range peers {
		if err := r.judge(peer); err != nil {
			then(err)
			return
		}
	}
	then(nil)
}

func (r *localAddress) judge(peer netip.AddrPort) error {
	if other, known := r.relay.at(peer); other != nil {
		return nil
	} else if known {
		return &turnError{code: codeForbidden, why: fmt.Sprintf("%s is ours, and nobody's relayed address", peer)}
	}
	return r.relay.setup.Load().policy.judge(peer)
}

func (r *localAddress) send(peer netip.AddrPort, _ uint16, data []byte) {
	other, known := r.relay.at(peer)
	switch {
	case other != nil:
		buf := r.relay.buffers.get()
		*buf = append((*buf)[:headroom], data...)
		other.allocation.deliver(r.announced, *buf)
		r.relay.buffers.put(buf)
	case known || !mediaPort(peer.Port()):
		r.allocation.tuple.engine.metrics.refused("policy")
	default:
		var to destination
		to.aim(peer)
		r.socket.post(data, &to)
	}
}

// aim makes peer the destination of an unconnected socket.
func (d *destination) aim(peer netip.AddrPort) {
	d.controlLen = 0
	port := networkOrder(peer.Port())
	if peer.Addr().Is4() {
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(&d.name))
		*sa = unix.RawSockaddrInet4{Family: unix.AF_INET, Port: port, Addr: peer.Addr().As4()}
		d.nameLen = unix.SizeofSockaddrInet4
		return
	}
	d.name = unix.RawSockaddrInet6{Family: unix.AF_INET6, Port: port, Addr: peer.Addr().As16()}
	d.nameLen = unix.SizeofSockaddrInet6
}

// source reads the sender that recvmmsg has written.
func source(name *unix.RawSockaddrInet6) (netip.AddrPort, bool) {
	switch name.Family {
	case unix.AF_INET:
		sa := (*unix.RawSockaddrInet4)(unsafe.Pointer(name))
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), networkOrder(sa.Port)), true
	case unix.AF_INET6:
		return netip.AddrPortFrom(netip.AddrFrom16(name.Addr), networkOrder(name.Port)), true
	}
	return netip.AddrPort{}, false
}

// ready implements pollable: packets of peers are there. An error is one of a datagram sent before, reported late.
func (r *localAddress) ready(bool, bool) {
	b := r.socket.loop.relayed
	if n, err := b.receive(r.socket); err == nil {
		r.take(b, n)
	}
}

// broke implements guest.
func (r *localAddress) broke(defect error) { r.allocation.tuple.engine.lose(r.allocation, defect) }

func (r *localAddress) take(b *relayBatch, n int) {
	for i := range n {
		peer, ok := source(&b.name[i])
		size := int(b.hdr[i].n)
		if !ok || size > maxPeerPacket {
			r.allocation.tuple.engine.metrics.refused("too_long")
			continue
		}
		r.allocation.deliver(peer, b.buf[i][:headroom+size])
	}
}

func (r *localAddress) close() {
	r.relay.mu.Lock()
	delete(r.relay.live, r.announced)
	r.relay.mu.Unlock()
	r.socket.close()
}

// maxPeerPacket is the longest packet of a peer's that a client can be given in one message.
const maxPeerPacket = maxFrame - headroom - tailroom

// relayBatch is a packetBatch of a relayed address: each datagram with its source, and with headroom in front.
type relayBatch struct {
	hdr  [relayBatchSize]mmsghdr
	iov  [relayBatchSize]unix.Iovec
	name [relayBatchSize]unix.RawSockaddrInet6
	buf  [relayBatchSize][maxFrame]byte
}

// relayBatchSize is smaller than batchSize: what arrives here is one peer's, or a few.
const relayBatchSize = 16

func newRelayBatch() *relayBatch {
	b := new(relayBatch)
	for i := range b.hdr {
		room := b.buf[i][headroom : maxFrame-tailroom]
		b.iov[i].Base = &room[0]
		b.iov[i].SetLen(len(room))
		h := &b.hdr[i].hdr
		h.Iov = &b.iov[i]
		h.SetIovlen(1)
		h.Name = (*byte)(unsafe.Pointer(&b.name[i]))
	}
	return b
}

func (b *relayBatch) receive(d *datagrams) (int, error) {
	for i := range b.hdr {
		b.hdr[i].hdr.Namelen = unix.SizeofSockaddrInet6
		b.hdr[i].hdr.Flags = 0
	}
	n, err := d.recvmmsg(b.hdr[:])
	for i := range n {
		if b.hdr[i].hdr.Flags&unix.MSG_TRUNC != 0 {
			b.hdr[i].n = maxFrame // cut off: take will drop it
		}
	}
	return n, err
}

package relay

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"
)

// wantPacketInfo has the kernel tell the address that each datagram came to. On a socket of both families, IPV6_PKTINFO tells it
// for IPv4 too, as a mapped address, and takes it back in that form.
func wantPacketInfo(fd int) error {
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return err
	}
	if family == unix.AF_INET6 {
		return unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}
	return unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
}

// tuple is where datagram i came from and which address of ours it asked.
func (b *addressedBatch) tuple(i int) (tuple, bool) {
	name := &b.name[i]
	local, ok := b.local(i)
	switch name.Family {
	case unix.AF_INET: // a sockaddr_in: its address lies where flowinfo does
		var a [4]byte
		binary.NativeEndian.PutUint32(a[:], name.Flowinfo)
		return tuple{netip.AddrPortFrom(netip.AddrFrom4(a), networkOrder(name.Port)), local}, ok
	case unix.AF_INET6:
		return tuple{netip.AddrPortFrom(netip.AddrFrom16(name.Addr).Unmap(), networkOrder(name.Port)), local}, ok
	}
	return tuple{}, false
}

// networkOrder reads a number that lies in memory in network order.
func networkOrder(n uint16) uint16 {
	var b [2]byte
	binary.NativeEndian.PutUint16(b[:], n)
	return binary.BigEndian.Uint16(b[:])
}

// Where in_pktinfo and in6_pktinfo have what is of use here.
const (
	pktInfoSpecDst  = 4 // behind the interface's index: the local address, also of a broadcast
	pktInfo6Index   = 16
	pktInfoLen      = 12
	pktInfo6Len     = 20
	pktInfoIndexLen = 4
)

// local is the address of ours that datagram i asked. There is one control message at most: the one that wantPacketInfo ordered.
func (b *addressedBatch) local(i int) (netip.Addr, bool) {
	control := b.control[i][:b.hdr[i].hdr.Controllen]
	at := unix.CmsgLen(0)
	switch {
	case len(control) >= at+pktInfo6Len && b.controlIs(i, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO):
		return netip.AddrFrom16([16]byte(control[at:])).Unmap(), true
	case len(control) >= at+pktInfoLen && b.controlIs(i, unix.IPPROTO_IP, unix.IP_PKTINFO):
		return netip.AddrFrom4([4]byte(control[at+pktInfoSpecDst:])), true
	}
	return netip.Addr{}, false
}

// controlIs looks at level and type, the last two fields of a cmsghdr.
func (b *addressedBatch) controlIs(i, level, typ int) bool {
	head := b.control[i][:unix.SizeofCmsghdr]
	return int(binary.NativeEndian.Uint32(head[len(head)-8:])) == level && int(binary.NativeEndian.Uint32(head[len(head)-4:])) == typ
}

// back makes d the way back of datagram i: to its source, from the address that it asked. Which interface that takes is for the
// routes to say; only link-local addresses mean nothing without theirs.
func (d *destination) back(b *addressedBatch, i int) {
	d.name, d.nameLen = b.name[i], b.hdr[i].hdr.Namelen
	d.control, d.controlLen = b.control[i], int(b.hdr[i].hdr.Controllen)
	at := unix.CmsgLen(0)
	local, ok := b.local(i)
	switch {
	case !ok:
		d.controlLen = 0
	case b.controlIs(i, unix.IPPROTO_IP, unix.IP_PKTINFO):
		clear(d.control[at : at+pktInfoIndexLen])
	case !local.IsLinkLocalUnicast():
		clear(d.control[at+pktInfo6Index : at+pktInfo6Len])
	}
}

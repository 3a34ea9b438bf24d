package netpolicy

import (
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// ownMaxAge is how old the list of the machine's addresses may be: short enough that a moved virtual address is
// noticed, long enough that a flood of checks does not ask the kernel each time.
const ownMaxAge = 5 * time.Second

// own is the machine's addresses as they were read last.
type own struct {
	mu    sync.Mutex
	list  *ownList
	until time.Time
}

// ownList is one reading of the interfaces; it is never changed, only replaced.
type ownList struct {
	addrs     map[netip.Addr]bool
	broadcast map[netip.Addr]netip.Prefix // first and last address of each subnet
}

// read returns the list, reading it again when it is too old. A failed reading keeps the last good list; without any
// it is an error, and nothing may be reached: a gateway that doesn't know itself can't refuse itself.
func (o *own) read(source func() ([]netip.Prefix, error), now time.Time) (*ownList, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.list != nil && now.Before(o.until) && o.until.Sub(now) <= ownMaxAge { // the last: a clock that was set back
		return o.list, nil
	}
	prefixes, err := source()
	if err != nil && o.list == nil {
		return nil, fmt.Errorf("the machine's own addresses can't be read: %w", err)
	}
	if err == nil {
		o.list = newOwnList(prefixes)
	}
	o.until = now.Add(ownMaxAge)
	return o.list, nil
}

func newOwnList(prefixes []netip.Prefix) *ownList {
	l := &ownList{addrs: make(map[netip.Addr]bool), broadcast: make(map[netip.Addr]netip.Prefix)}
	for _, p := range prefixes {
		a := p.Addr().WithZone("").Unmap()
		l.addrs[a] = true
		// A /31 has no broadcast address (RFC 3021) and neither has a /32. The first address was the broadcast address of
		// older systems, and is still answered by some (RFC 1122 section 3.3.6).
		if a.Is4() && p.Bits() < 31 && !a.IsLoopback() {
			subnet := netip.PrefixFrom(a, p.Bits()).Masked()
			l.broadcast[subnet.Addr()] = subnet
			l.broadcast[lastOf(subnet)] = subnet
		}
	}
	return l
}

// lastOf is the highest address of an IPv4 prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().As4()
	for i := p.Bits(); i < 32; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	return netip.AddrFrom4(b)
}

// interfaces asks the system for the addresses of all interfaces, with their subnets.
func interfaces() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	prefixes := make([]netip.Prefix, 0, len(addrs))
	for _, a := range addrs {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(n.IP)
		if !ok {
			continue
		}
		ones, _ := n.Mask.Size()
		prefixes = append(prefixes, netip.PrefixFrom(addr.Unmap(), ones))
	}
	return prefixes, nil
}

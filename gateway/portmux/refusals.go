package portmux

import (
	"cmp"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hafen/gateway/netpolicy"
)

// Refusal sums up the connections of one network that Admit turned away, for the administrator to allow it or not.
type Refusal struct {
	Network     netip.Prefix // an IPv4 /24 or an IPv6 /48
	Count       uint64
	First, Last time.Time
}

// refusals are bounded: of more networks than maxRefusals, the one not heard of for longest goes.
type refusals struct {
	mu       sync.Mutex
	networks map[netip.Prefix]Refusal
}

const maxRefusals = 1024

func (r *refusals) add(a netip.Addr, now time.Time) {
	network := netpolicy.Network(a)
	if !network.IsValid() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.networks == nil {
		r.networks = make(map[netip.Prefix]Refusal)
	}
	of, known := r.networks[network]
	if !known {
		r.makeRoom()
		of = Refusal{Network: network, First: now}
	}
	of.Count++
	of.Last = now
	r.networks[network] = of
}

func (r *refusals) makeRoom() {
	if len(r.networks) < maxRefusals {
		return
	}
	var oldest Refusal
	for _, of := range r.networks {
		if !oldest.Network.IsValid() || of.Last.Before(oldest.Last) {
			oldest = of
		}
	}
	delete(r.networks, oldest.Network)
}

func (r *refusals) list() []Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]Refusal, 0, len(r.networks))
	for _, of := range r.networks {
		all = append(all, of)
	}
	slices.SortFunc(all, func(a, b Refusal) int {
		return cmp.Or(cmp.Compare(b.Count, a.Count), a.Network.Addr().Compare(b.Network.Addr()))
	})
	return all
}

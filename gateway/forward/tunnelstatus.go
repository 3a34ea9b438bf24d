package forward

import (
	"cmp"
	"slices"
	"time"
)

// Tunnel is a tunnel that carries bytes, as the status page shows it. One that is bridged is the relay's to show.
type Tunnel struct {
	// Client is the client's network; its address if log.full_addresses is set.
	Client string `json:"client"`
	Target string `json:"target"`
	// Service is "" for a target of forward.allow.
	Service string    `json:"service,omitempty"`
	Started time.Time `json:"started"`
	Up      int64     `json:"bytes_up"`
	Down    int64     `json:"bytes_down"`
}

// Tunnels lists the tunnels that carry bytes, the oldest first.
func (p *Proxy) Tunnels() []Tunnel {
	p.mu.Lock()
	list := make([]Tunnel, 0, len(p.tunnels))
	for t := range p.tunnels {
		if t.activity.begun() {
			list = append(list, Tunnel{
				Client: p.shown(t.from.Addr()), Target: t.target.String(), Service: t.verdict.service, Started: t.began, Up: t.up.Load(), Down: t.down.Load(),
			})
		}
	}
	p.mu.Unlock()
	slices.SortFunc(list, func(a, b Tunnel) int { return cmp.Or(a.Started.Compare(b.Started), cmp.Compare(a.Target, b.Target)) })
	return list
}

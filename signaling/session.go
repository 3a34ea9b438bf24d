package signaling

import (
	"slices"
	"time"
)

// Session is a WebSocket or a held long-poll, as the status page shows it.
type Session struct {
	// Kind is "websocket" or "long-poll".
	Kind string `json:"kind"`
	// Client is the client's network; its address if log.full_addresses is set.
	Client  string    `json:"client"`
	Host    string    `json:"host"`
	Service string    `json:"service"`
	Started time.Time `json:"started"`
	Up      int64     `json:"bytes_up"`
	Down    int64     `json:"bytes_down"`
}

// Sessions lists what is open, the oldest first. Requests count from Options.HeldAfter on.
func (p *Proxy) Sessions() []Session {
	p.mu.Lock()
	list := make([]Session, 0, len(p.sockets)+len(p.polls))
	for s := range p.sockets {
		list = append(list, Session{Kind: "websocket", Client: s.client, Host: s.to.host, Service: s.to.up.service, Started: s.started, Up: s.up.Load(), Down: s.down.Load()})
	}
	for e := range p.polls {
		list = append(list, Session{Kind: "long-poll", Client: p.shortClient(e.in), Host: e.to.host, Service: e.to.up.service, Started: e.started, Up: e.up.Load(), Down: e.down.Load()})
	}
	p.mu.Unlock()
	slices.SortFunc(list, func(a, b Session) int { return a.Started.Compare(b.Started) })
	return list
}

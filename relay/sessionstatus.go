package relay

import (
	"cmp"
	"slices"
	"time"
)

// SessionStatus is one client of the relay as the status page shows it.
type SessionStatus struct {
	// ID tells sessions apart while the gateway runs; it says nothing about the client.
	ID uint64 `json:"id"`
	// Client is the client's network; its address if log.full_addresses is set.
	Client string `json:"client"`
	Via    string `json:"via"`
	// State is pending, allocated or refused.
	State   string `json:"state"`
	Service string `json:"service,omitempty"`
	Region  string `json:"region,omitempty"`
	Rung    string `json:"rung,omitempty"`
	// Test: the client is a precall test's, on the gateway's own relay.
	Test    bool      `json:"test,omitempty"`
	Started time.Time `json:"started"`
	Age     float64   `json:"age_seconds"`

	BytesUp     uint64 `json:"bytes_up"`
	BytesDown   uint64 `json:"bytes_down"`
	PacketsUp   uint64 `json:"packets_up"`
	PacketsDown uint64 `json:"packets_down"`
	// QueueDelay is how long the oldest message waits, or what was sent last has waited, for the client's path.
	QueueDelay float64           `json:"queue_delay_ms"`
	Dropped    map[string]uint32 `json:"dropped,omitempty"`
}

// sessionStatus lists the sessions, oldest first.
func (s *Server) sessionStatus() []SessionStatus {
	list := s.table.all(nil)
	slices.SortFunc(list, func(a, b *session) int { return cmp.Compare(a.serial, b.serial) })
	out := make([]SessionStatus, 0, len(list))
	now := s.now()
	for _, ses := range list {
		out = append(out, ses.status(now))
	}
	return out
}

func (ses *session) status(now time.Time) SessionStatus {
	st := SessionStatus{
		ID: ses.serial, Client: ses.server.shown(ses.client.Addr.Addr()), Via: ses.client.Via,
		State: phase(ses.phase.Load()).String(), Service: ses.client.Service,
		Started: ses.started, Age: now.Sub(ses.started).Seconds(),
		BytesUp: ses.bytesUp.Load(), BytesDown: ses.bytesDown.Load(),
		PacketsUp: ses.packetsUp.Load(), PacketsDown: ses.packetsDown.Load(),
	}
	st.Region, st.Rung = ses.where(ses.up.Load())
	if t := ses.test.Load(); t != nil {
		st.Test = t.isTest()
	}
	if ses.stream != nil {
		delay := max(ses.stream.queued(), time.Duration(ses.stream.delay.Load()))
		st.QueueDelay = float64(delay.Microseconds()) / 1000
		st.Dropped = ses.stream.droppedKinds()
	}
	return st
}

// droppedKinds is what was dropped, by kind.
func (st *stream) droppedKinds() map[string]uint32 {
	var dropped map[string]uint32
	for k := range kinds {
		if n := st.drops[k].Load(); n > 0 {
			if dropped == nil {
				dropped = make(map[string]uint32)
			}
			dropped[k.String()] = n
		}
	}
	return dropped
}

func (ses *session) droppedTotal() uint64 {
	total := uint64(0)
	if ses.stream != nil {
		for k := range ses.stream.drops {
			total += uint64(ses.stream.drops[k].Load())
		}
	}
	return total
}

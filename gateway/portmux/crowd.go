package portmux

import (
	"cmp"
	"errors"
	"slices"
)

var errCrowdedOut = errors.New("limit reached: pending: others needed the room, and its client held the most")

// crowdedOut makes room where there are too many pending connections: it takes the oldest of those whose clients hold the most. A dozen
// machines that open connections and say nothing would keep everybody else out otherwise. So many are taken at once that looking for
// them is cheap for each. None, where no client has two: then the newcomer is the one too many. The caller holds mu, and puts them out.
func (m *Mux) crowdedOut() (victims []*Conn) {
	most := 0
	for _, l := range m.loads.clients {
		most = max(most, l.pending)
	}
	if most < 2 {
		return nil
	}
	for c := range m.conns {
		if c.pending && 2*m.loads.clients[c.key].pending > most {
			victims = append(victims, c)
		}
	}
	slices.SortFunc(victims, func(a, b *Conn) int { return cmp.Compare(a.id, b.id) })
	victims = victims[:min(len(victims), 1+m.loads.limits.Pending/crowdShare)]
	for _, c := range victims { // at once: they take their time to be gone
		c.pending = false
		m.loads.established(c)
	}
	return victims
}

// crowdShare is which part of the pending connections is put out at once.
const crowdShare = 32

// putOut closes connections underneath their TLS: a close_notify to each could take its time.
func (m *Mux) putOut(victims []*Conn) {
	m.mu.Lock()
	handed := make([]bool, len(victims))
	for i, c := range victims {
		handed[i] = c.handed
	}
	m.mu.Unlock()
	for i, c := range victims {
		if handed[i] {
			_ = c.wire.Close()
		} else {
			_ = c.wire.conn.Close() // the walk is under way: it notices, and ends the connection
		}
	}
}

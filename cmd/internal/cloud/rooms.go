package cloud

import (
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"time"
)

// Bounds of what strangers can make the hub keep.
const (
	maxRooms       = 2000
	maxCallers     = 2
	maxConsoles    = 20
	maxPatients    = 500
	maxMail        = 512     // messages waiting for one member
	maxMailBytes   = 1 << 20 // their bytes
	maxMessage     = 64 << 10
	maxLabelLength = 80
)

// Roles. Callers see each other; consoles see patients and patients consoles, but no patient sees another.
const (
	roleCaller  = "caller"
	roleConsole = "console"
	rolePatient = "patient"
)

var (
	errFull   = errors.New("the room is full")
	errGone   = errors.New("this session is over, join anew")
	errClosed = errors.New("the service is closing")
)

// message is one envelope to a member. Seq counts a member's messages without a gap, so that one who comes back by
// whatever transport says the last that it has and misses none.
type message struct {
	Seq  uint64 `json:"seq"`
	Type string `json:"type"` // welcome, joined, left, signal
	// You and Peers come with welcome.
	You   string `json:"you,omitempty"`
	Peers []peer `json:"peers,omitzero"`
	// Peer comes with joined and left, Reason with left: "bye" if it said so, "lost" if it fell silent.
	Peer   *peer  `json:"peer,omitempty"`
	Reason string `json:"reason,omitempty"`
	// From and Data come with signal; Data is the members' own affair.
	From string          `json:"from,omitempty"`
	Data json.RawMessage `json:"data,omitempty"`
}

// peer is what members see of each other.
type peer struct {
	ID    string    `json:"id"`
	Role  string    `json:"role"`
	Label string    `json:"name,omitempty"`
	Since time.Time `json:"since"`
}

// outgoing is a message of a member to another, or to all that it sees if To is empty. N counts a member's own
// messages from 1: one that comes again, because its answer was lost, is dropped.
type outgoing struct {
	N    uint64          `json:"n"`
	To   string          `json:"to,omitempty"`
	Data json.RawMessage `json:"data"`
}

// hub holds the rooms. A member is independent of how it is connected: a WebSocket, a poll, or for a while nothing.
type hub struct {
	grace time.Duration

	mu     sync.Mutex // guards all below, rooms and members included
	rooms  map[string]*room
	closed bool
}

type room struct {
	name    string
	members map[string]*member // by secret id
	count   int                // of all members ever: their public ids
}

type member struct {
	hub  *hub
	room *room
	id   string // secret: who knows it is this member
	peer peer

	mail      []message
	mailBytes int
	seq       uint64        // of the last message put in
	received  uint64        // N of the last message taken from it
	wake      chan struct{} // closed and replaced when there is something new to look at
	holder    int           // counts connections; the newest one reads the mail
	attached  bool
	lostAt    time.Time
	absence   *time.Timer
	gone      bool
}

func newHub(grace time.Duration) *hub {
	return &hub{grace: grace, rooms: map[string]*room{}}
}

// joinRequest names a member: its room, its secret id, and for a new one who it is.
type joinRequest struct {
	room, id, role, label string
	after                 uint64 // the last message it has; not 0: it has been here before
}

// join returns the member of that id, new if there is none.
func (h *hub) join(q joinRequest) (*member, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return nil, errClosed
	}
	r := h.rooms[q.room]
	if r != nil {
		if m := r.members[q.id]; m != nil {
			return m, nil
		}
	}
	if q.after > 0 {
		return nil, errGone
	}
	if r == nil {
		if len(h.rooms) >= maxRooms {
			return nil, errFull
		}
		r = &room{name: q.room, members: map[string]*member{}}
		h.rooms[q.room] = r
	}
	if !r.makePlace(q.role) {
		return nil, errFull
	}
	return r.add(h, q), nil
}

// add makes a member; the ones who see it hear of it.
func (r *room) add(h *hub, q joinRequest) *member {
	r.count++
	m := &member{hub: h, room: r, id: q.id, wake: make(chan struct{})}
	m.peer = peer{ID: "p" + strconv.Itoa(r.count), Role: q.role, Label: q.label, Since: time.Now()}
	m.absence = time.AfterFunc(h.grace, m.expire)
	welcome := message{Type: "welcome", You: m.peer.ID, Peers: []peer{}}
	for _, other := range r.members {
		if other.sees(m) {
			welcome.Peers = append(welcome.Peers, other.peer)
			other.put(message{Type: "joined", Peer: &m.peer})
		}
	}
	r.members[q.id] = m
	m.put(welcome)
	return m
}

// makePlace says whether one more of that role may come. A caller who reloaded the page may find itself still
// there: whoever has been without a connection the longest goes.
func (r *room) makePlace(role string) bool {
	limit := map[string]int{roleCaller: maxCallers, roleConsole: maxConsoles, rolePatient: maxPatients}[role]
	n := 0
	var lost *member
	for _, m := range r.members {
		if m.peer.Role != role {
			continue
		}
		n++
		if !m.attached && (lost == nil || m.lostAt.Before(lost.lostAt)) {
			lost = m
		}
	}
	if n < limit {
		return true
	}
	if lost == nil {
		return false
	}
	lost.remove("lost")
	return true
}

func (m *member) sees(other *member) bool {
	if m == other {
		return false
	}
	if m.peer.Role == roleCaller || other.peer.Role == roleCaller {
		return m.peer.Role == other.peer.Role
	}
	return m.peer.Role != other.peer.Role || m.peer.Role == roleConsole
}

// put adds to the member's mail. One who lets it overflow is not listening any more and is removed.
func (m *member) put(msg message) {
	m.seq++
	msg.Seq = m.seq
	m.mail = append(m.mail, msg)
	m.mailBytes += len(msg.Data)
	m.notify()
	if len(m.mail) > maxMail || m.mailBytes > maxMailBytes {
		m.remove("lost")
	}
}

func (m *member) notify() {
	close(m.wake)
	m.wake = make(chan struct{})
}

// remove takes the member out of its room and tells the others why.
func (m *member) remove(reason string) {
	if m.gone {
		return
	}
	m.gone = true
	m.absence.Stop()
	delete(m.room.members, m.id)
	if len(m.room.members) == 0 && m.hub.rooms[m.room.name] == m.room {
		delete(m.hub.rooms, m.room.name)
	}
	for _, other := range m.room.members {
		if other.sees(m) {
			other.put(message{Type: "left", Peer: &m.peer, Reason: reason})
		}
	}
	m.notify()
}

// expire removes a member that has been without a connection for the grace period.
func (m *member) expire() {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if !m.attached {
		m.remove("lost")
	}
}

// attach makes the caller the one who reads the mail; a connection that did so before is told to stop.
func (m *member) attach() (holder int) {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	m.holder++
	m.attached = true
	m.absence.Stop()
	m.notify()
	return m.holder
}

// detach tells that a connection ended. The member stays for the grace period.
func (m *member) detach(holder int) {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if m.holder != holder || m.gone || m.hub.closed {
		return
	}
	m.attached = false
	m.lostAt = time.Now()
	m.absence.Reset(m.hub.grace)
}

// take waits for messages after the one numbered `after`, which acknowledges all up to it. It returns nothing when
// ctx ends or a newer connection reads instead, and errGone when the member was removed.
func (m *member) take(ctx context.Context, holder int, after uint64) ([]message, error) {
	for {
		mail, wake, err := m.look(holder, after)
		if wake == nil {
			return mail, err
		}
		select {
		case <-wake:
		case <-ctx.Done():
			return nil, nil
		}
	}
}

// look returns what there is, or a channel that is closed when it is worth another look.
func (m *member) look(holder int, after uint64) ([]message, <-chan struct{}, error) {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	m.acknowledge(after)
	switch {
	case m.gone:
		return nil, nil, errGone
	case m.hub.closed:
		return nil, nil, errClosed
	case m.holder != holder:
		return nil, nil, nil
	}
	for i, msg := range m.mail {
		if msg.Seq > after {
			return append([]message(nil), m.mail[i:]...), nil, nil
		}
	}
	return nil, m.wake, nil
}

func (m *member) acknowledge(after uint64) {
	for len(m.mail) > 0 && m.mail[0].Seq <= after {
		m.mailBytes -= len(m.mail[0].Data)
		m.mail = m.mail[1:]
	}
}

// acknowledged is acknowledge for connections that hear of it beside reading.
func (m *member) acknowledged(after uint64) {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	m.acknowledge(after)
}

// send delivers a message of the member's to those it sees.
func (m *member) send(o outgoing) error {
	m.hub.mu.Lock()
	defer m.hub.mu.Unlock()
	if m.gone {
		return errGone
	}
	if o.N != 0 {
		if o.N <= m.received {
			return nil
		}
		m.received = o.N
	}
	for _, other := range m.room.members {
		if m.sees(other) && (o.To == "" || o.To == other.peer.ID) {
			other.put(message{Type: "signal", From: m.peer.ID, Data: o.Data})
		}
	}
	return nil
}

// leave removes the member of that id, who said goodbye.
func (h *hub) leave(room, id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if r := h.rooms[room]; r != nil && r.members[id] != nil {
		r.members[id].remove("bye")
	}
}

func (h *hub) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	for _, r := range h.rooms {
		for _, m := range r.members {
			m.absence.Stop()
			m.notify()
		}
	}
}

// population counts rooms and members.
func (h *hub) population() (rooms, members int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.rooms {
		members += len(r.members)
	}
	return len(h.rooms), members
}

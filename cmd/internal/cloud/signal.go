package cloud

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// Close codes of the signaling WebSocket: a handshake's HTTP status can't be read by a page.
const (
	closeFull websocket.StatusCode = 4409
	closeGone websocket.StatusCode = 4410
)

// bodyTimeout is for the few kilobytes that a poller posts.
const bodyTimeout = 15 * time.Second

// signalCounts are live connections by transport.
type signalCounts struct{ websockets, polls atomic.Int64 }

// signalServer is the two transports of the signaling. The same member may use now one, now the other.
type signalServer struct {
	hub       *hub
	refuse    bool
	origins   []string
	hold      time.Duration
	heartbeat time.Duration
	live      *sync.WaitGroup // hijacked connections, which http.Server forgets
	counts    signalCounts
}

// joinOf reads who asks from the query: room, id (secret, made by the client; a WebSocket may leave it out), role,
// name and after.
func joinOf(r *http.Request) (joinRequest, error) {
	q := r.URL.Query()
	j := joinRequest{room: q.Get("room"), id: q.Get("id"), role: q.Get("role"), label: cleanLabel(q.Get("name"))}
	if j.role == "" {
		j.role = roleCaller
	}
	if s := q.Get("after"); s != "" {
		n, err := strconv.ParseUint(s, 10, 64)
		if err != nil {
			return j, errors.New("after: not a number")
		}
		j.after = n
	}
	switch {
	case !plainWord(j.room):
		return j, errors.New("room: letters, digits and dashes, at most 64")
	case !plainWord(j.id) || len(j.id) < 16:
		return j, errors.New("id: 16 to 64 letters, digits and dashes")
	case j.role != roleCaller && j.role != roleConsole && j.role != rolePatient:
		return j, errors.New("role: caller, console or patient")
	}
	return j, nil
}

// cleanLabel keeps what can be shown on one line.
func cleanLabel(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, s)
	runes := []rune(strings.TrimSpace(s))
	return string(runes[:min(len(runes), maxLabelLength)])
}

// serveWebSocket: the server sends messages, and {"type":"tick"} now and then, which the client answers; that keeps
// middleboxes from forgetting the connection and tells both ends that it lives. The client sends
// {"after":N,"messages":[…]}; each is answered by {"type":"ack","n":N} when it has messages.
func (s *signalServer) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	if s.refuse {
		http.Error(w, "this service has its WebSockets switched off", http.StatusForbidden)
		return
	}
	if r.URL.Query().Get("id") == "" {
		q := r.URL.Query()
		q.Set("id", rand.Text())
		r.URL.RawQuery = q.Encode()
	}
	j, err := joinOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	s.live.Add(1) // before the connection is hijacked: until then Shutdown waits for it
	defer s.live.Done()
	ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: s.origins})
	if err != nil {
		return // Accept has answered
	}
	s.counts.websockets.Add(1)
	defer s.counts.websockets.Add(-1)
	defer func() { _ = ws.CloseNow() }()
	ws.SetReadLimit(2 * maxMessage)
	m, err := s.hub.join(j)
	if err != nil {
		_ = ws.Close(closeCode(err), err.Error())
		return
	}
	s.runWebSocket(r.Context(), ws, m, j.after)
}

func closeCode(err error) websocket.StatusCode {
	switch {
	case errors.Is(err, errFull):
		return closeFull
	case errors.Is(err, errGone):
		return closeGone
	}
	return websocket.StatusGoingAway
}

func (s *signalServer) runWebSocket(ctx context.Context, ws *websocket.Conn, m *member, after uint64) {
	holder := m.attach()
	defer m.detach(holder)
	ctx, cancel := context.WithCancel(ctx)
	if after > 0 { // it comes back, and nothing may be waiting for it: the page takes a socket that says nothing for one that is blocked
		_ = writeFrame(ctx, ws, map[string]string{"type": "tick"})
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		defer cancel()
		s.readWebSocket(ctx, ws, m)
	})
	err := s.writeWebSocket(ctx, ws, m, holder, after)
	_ = ws.Close(closeCode(err), "")
	cancel()
	reading.Wait()
}

// writeWebSocket delivers mail until the connection, the member or its turn to read ends.
func (s *signalServer) writeWebSocket(ctx context.Context, ws *websocket.Conn, m *member, holder int, after uint64) error {
	for {
		waiting, cancel := context.WithTimeout(ctx, s.heartbeat)
		mail, err := m.take(waiting, holder, after)
		silent := waiting.Err() != nil
		cancel()
		if err != nil {
			return err
		}
		if ctx.Err() != nil || (len(mail) == 0 && !silent) {
			return ctx.Err()
		}
		if len(mail) == 0 {
			if err := writeFrame(ctx, ws, map[string]string{"type": "tick"}); err != nil {
				return err
			}
		}
		for _, msg := range mail {
			if err := writeFrame(ctx, ws, msg); err != nil {
				return err
			}
			after = msg.Seq
		}
	}
}

// readWebSocket takes the client's frames. One that has answered no tick is gone.
func (s *signalServer) readWebSocket(ctx context.Context, ws *websocket.Conn, m *member) {
	for {
		var in struct {
			After    uint64     `json:"after"`
			Messages []outgoing `json:"messages"`
		}
		reading, cancel := context.WithTimeout(ctx, 3*s.heartbeat)
		err := wsjson.Read(reading, ws, &in)
		cancel()
		if err != nil {
			return
		}
		m.acknowledged(in.After)
		for _, o := range in.Messages {
			if m.send(o) != nil {
				return
			}
		}
		if n := len(in.Messages); n > 0 {
			if writeFrame(ctx, ws, map[string]any{"type": "ack", "n": in.Messages[n-1].N}) != nil {
				return
			}
		}
	}
}

func writeFrame(ctx context.Context, ws *websocket.Conn, v any) error {
	ctx, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	return wsjson.Write(ctx, ws, v)
}

// servePoll holds the request until there is a message after the one the client has, or `wait` seconds.
func (s *signalServer) servePoll(w http.ResponseWriter, r *http.Request) {
	j, err := joinOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	m, err := s.hub.join(j)
	if err != nil {
		refuseSignal(w, err)
		return
	}
	s.counts.polls.Add(1)
	defer s.counts.polls.Add(-1)
	holder := m.attach()
	defer m.detach(holder)
	ctx, cancel := context.WithTimeout(r.Context(), held(r.FormValue("wait"), s.hold))
	defer cancel()
	mail, err := m.take(ctx, holder, j.after)
	if err != nil {
		refuseSignal(w, err)
		return
	}
	if mail == nil {
		mail = []message{}
	}
	writeJSON(w, map[string]any{"messages": mail})
}

// held reads a number of seconds, no more than the longest.
func held(s string, longest time.Duration) time.Duration {
	n, err := strconv.ParseFloat(s, 64)
	if err != nil || n < 0 || n > longest.Seconds() {
		return longest
	}
	return time.Duration(n * float64(time.Second))
}

// serveSend takes a poller's messages: {"messages":[…]}.
func (s *signalServer) serveSend(w http.ResponseWriter, r *http.Request) {
	j, err := joinOf(r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	var in struct {
		Messages []outgoing `json:"messages"`
	}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 2*maxMessage)).Decode(&in); err != nil {
		http.Error(w, "messages: not JSON or too long", http.StatusBadRequest)
		return
	}
	j.after = 1 // only who is in the room sends
	m, err := s.hub.join(j)
	for i := 0; err == nil && i < len(in.Messages); i++ {
		err = m.send(in.Messages[i])
	}
	if err != nil {
		refuseSignal(w, err)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// serveLeave takes a goodbye, which pages send as they close.
func (s *signalServer) serveLeave(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query() // not the body, which nobody has bounded
	s.hub.leave(q.Get("room"), q.Get("id"))
	w.WriteHeader(http.StatusNoContent)
}

func refuseSignal(w http.ResponseWriter, err error) {
	code := http.StatusServiceUnavailable
	switch {
	case errors.Is(err, errFull):
		code = http.StatusConflict
	case errors.Is(err, errGone):
		code = http.StatusGone
	}
	http.Error(w, err.Error(), code)
}

// writeJSON answers with JSON that nobody may keep.
func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // the client may be gone
}

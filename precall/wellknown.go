package precall

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"sync"
	"time"

	"github.com/coder/websocket"

	"hafen/gateway/netpolicy"
	"hafen/gateway/page"
)

const (
	// MaxHold is the longest a request is held: a call service's long-poll takes up to 3 minutes.
	MaxHold = 180 * time.Second
	// An echo ends after so many messages, so large, and so long: enough for a test, useless for anything else.
	echoMessages = 200
	echoSize     = 4 << 10
	echoLife     = 60 * time.Second
)

// serveHere answers at once, with the name of this gateway: the page asks it under a call server's name, to learn whether that name
// leads here.
func (s *Server) serveHere(w http.ResponseWriter, r *http.Request) {
	s.allowOwn(w, r)
	page.Plain(w, http.StatusOK, s.opts.Name)
}

// allowOwn lets the gateway's own pages read an answer that was given under another name.
func (s *Server) allowOwn(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Origin")
	if len(s.ownOrigin(r)) > 0 {
		w.Header().Set("Access-Control-Allow-Origin", r.Header.Get("Origin"))
	}
}

// ownOrigin is the host of a request's origin, if that is one of the gateway's own pages.
func (s *Server) ownOrigin(r *http.Request) []string {
	u, err := url.Parse(r.Header.Get("Origin"))
	if err != nil || u.Scheme != "https" || u.Host == "" || !s.opts.Own(u.Hostname()) {
		return nil
	}
	return []string{u.Host}
}

// held knows the requests that are held, by the names that pages give them: a browser whose connection breaks asks once more without a word
// to the page.
type held struct {
	mu    sync.Mutex
	began map[heldName]time.Time
	swept time.Time // when the names were last looked through
}

type heldName struct {
	client netip.Prefix
	name   string
}

const (
	maxHeld = 8192
	// heldPace bounds how often all names are looked through: not for each request of whoever sends many.
	heldPace = time.Second
)

// again tells whether a request of that name has come before, and how long ago. Without a name, or without room for it, none has.
func (h *held) again(of netip.Addr, name string, now time.Time) (time.Duration, bool) {
	if name == "" || !runID.MatchString(name) {
		return 0, false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	key := heldName{netpolicy.Client(of), name}
	if began, known := h.began[key]; known {
		return now.Sub(began), true
	}
	if len(h.began) >= maxHeld/2 && now.Sub(h.swept) >= heldPace {
		h.swept = now
		maps.DeleteFunc(h.began, func(_ heldName, began time.Time) bool { return now.Sub(began) > 2*MaxHold })
	}
	if len(h.began) < maxHeld {
		h.began[key] = now
	}
	return 0, false
}

// serveHold answers only after ?s= seconds, like a long-poll on which nothing happens. Not one byte goes out before:
// what cuts silent requests is to show itself.
func (s *Server) serveHold(w http.ResponseWriter, r *http.Request) {
	s.allowOwn(w, r)
	seconds, err := strconv.Atoi(r.URL.Query().Get("s"))
	hold := time.Duration(seconds) * time.Second
	if err != nil || seconds < 1 || seconds > int(MaxHold/time.Second) {
		page.Plain(w, http.StatusBadRequest, fmt.Sprintf("s says for how many seconds to hold: 1 to %d.", int(MaxHold/time.Second)))
		return
	}
	if after, again := s.held.again(s.opts.Client(r), r.URL.Query().Get("n"), s.opts.Now()); again {
		page.Plain(w, http.StatusConflict, strconv.FormatFloat(after.Seconds(), 'f', 1, 64))
		return
	}
	leave, ok := s.holds.enter(s.opts.Client(r))
	if !ok {
		s.metrics.refused.WithLabelValues("holds").Inc()
		page.Plain(w, http.StatusTooManyRequests, "Too many requests are held already.")
		return
	}
	defer leave()
	// A server's write deadline counts from the request's head and would cut what is held on purpose.
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(hold + 15*time.Second))
	timer := time.NewTimer(hold)
	defer timer.Stop()
	select {
	case <-timer.C:
		page.Plain(w, http.StatusOK, fmt.Sprintf("held for %d s", seconds))
	case <-r.Context().Done():
	case <-s.ctx.Done():
		page.Plain(w, http.StatusServiceUnavailable, "The gateway is going down.")
	}
}

// serveEcho sends back what a WebSocket of the same origin says, within bounds.
func (s *Server) serveEcho(w http.ResponseWriter, r *http.Request) {
	leave, ok := s.sockets.enter(s.opts.Client(r))
	if !ok {
		s.metrics.refused.WithLabelValues("websockets").Inc()
		page.Plain(w, http.StatusTooManyRequests, "Too many WebSockets are open already.")
		return
	}
	defer leave()
	// Refuses other origins than the name asked and the gateway's own, answers errors itself.
	conn, err := websocket.Accept(w, r, &websocket.AcceptOptions{OriginPatterns: s.ownOrigin(r)})
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(echoSize)
	ctx, cancel := context.WithTimeout(s.ctx, echoLife)
	defer cancel()
	for range echoMessages {
		kind, data, err := conn.Read(ctx)
		if err != nil {
			return // closed, too large or too late: the library has told the peer
		}
		if err := conn.Write(ctx, kind, data); err != nil {
			return
		}
	}
	_ = conn.Close(websocket.StatusPolicyViolation, "enough")
}

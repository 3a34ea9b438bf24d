package status

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"hafen/gateway/page"
)

// maxStreams bounds the pages that are open at once; who comes later asks at intervals.
const maxStreams = 100

// streamPatience is how long a page may take to take in what it is told.
const streamPatience = 10 * time.Second

// live looks at the gateway every two seconds and tells everybody who watches; of what goes wrong in between it tells at once.
type live struct {
	history history

	mu      sync.Mutex
	last    Snapshot
	streams map[chan Snapshot]struct{}
}

// Run looks at the gateway until ctx ends. Without it the page has no history and asks for itself.
func (s *Server) Run(ctx context.Context) {
	ticker := time.NewTicker(lookPeriod)
	defer ticker.Stop()
	var told []string
	for n := 0; ; n++ {
		watched := s.live.watchers() > 0
		if watched && s.opts.Hurry != nil {
			s.opts.Hurry()
		}
		sample := n%int(samplePeriod/lookPeriod) == 0
		if sample || watched {
			snap := s.opts.Snapshot()
			if sample {
				s.live.history.add(snap)
			}
			if faults := snap.faultIDs(); sample || !slices.Equal(faults, told) {
				told = faults
				s.live.tell(snap)
			}
			if sample && s.opts.Observe != nil {
				s.opts.Observe(snap)
			}
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// faultIDs name what is wrong, the worst first.
func (s *Snapshot) faultIDs() []string {
	ids := make([]string, len(s.Faults))
	for i, f := range s.Faults {
		ids[i] = f.ID
	}
	return ids
}

func (l *live) watchers() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.streams)
}

// tell hands the snapshot to all streams. One that has not taken the last gets this one in its place.
func (l *live) tell(s Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = s
	for ch := range l.streams {
		select {
		case <-ch:
		default:
		}
		ch <- s // there is room for one, and nobody else sends
	}
}

// join makes a stream; nil when there are too many.
func (l *live) join() chan Snapshot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.streams) >= maxStreams {
		return nil
	}
	if l.streams == nil {
		l.streams = make(map[chan Snapshot]struct{})
	}
	ch := make(chan Snapshot, 1)
	if !l.last.Time.IsZero() {
		ch <- l.last
	}
	l.streams[ch] = struct{}{}
	return ch
}

func (l *live) leave(ch chan Snapshot) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.streams, ch)
}

// showLive streams snapshots as server-sent events: first the history of the charts, then one snapshot every two seconds
// and one when something goes wrong or is well again, for as long as the session lasts.
func (s *Server) showLive(w http.ResponseWriter, r *http.Request) {
	ch := s.live.join()
	if ch == nil {
		page.Plain(w, http.StatusServiceUnavailable, "Too many status pages are open.")
		return
	}
	defer s.live.leave(ch)
	lang := page.Language(r, s.phrases.languages())
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("X-Accel-Buffering", "no")
	if !send(w, "history", s.live.history.list()) {
		return
	}
	for {
		select {
		case snap := <-ch:
			if _, ok := s.user(r); !ok {
				_ = send(w, "over", nil) // logged out elsewhere, or the working day has ended
				return
			}
			if !send(w, "snapshot", snap.in(s.phrases, lang)) {
				return
			}
		case <-r.Context().Done():
			return
		}
	}
}

// send writes one event, and reports whether the reader took it in time.
func send(w http.ResponseWriter, event string, v any) bool {
	data, err := json.Marshal(v)
	if err != nil {
		return false
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "event: %s\ndata: %s\n\n", event, data)
	c := http.NewResponseController(w)
	_ = c.SetWriteDeadline(time.Now().Add(streamPatience)) // fails on a closed connection only
	if _, err := w.Write(b.Bytes()); err != nil {
		return false
	}
	return c.Flush() == nil
}

package precall

import (
	"errors"
	"io"
	"math"
	"net/http"
	"os"
	"strconv"
	"time"

	"hafen/gateway/page"
)

// A line is loaded for some seconds each way, so that its bandwidth and its queues show. It is enough to know that it carries many
// calls: more than maxLoadRate is not sent, and the page stops its own upload there as well.
const (
	maxLoadRate = 12_000_000 // bits a second
	maxLoad     = 10 * time.Second
	loadTick    = 20 * time.Millisecond
	window      = 250 * time.Millisecond
)

// arrivals counts bytes by the time at which they came.
type arrivals struct {
	first time.Time
	bytes []int64 // in windows since first
	last  time.Time
}

func (a *arrivals) add(n int, now time.Time) {
	if a.first.IsZero() {
		a.first = now
	}
	i := int(now.Sub(a.first) / window)
	if i < 0 || i > int(2*maxLoad/window) {
		return
	}
	for len(a.bytes) <= i {
		a.bytes = append(a.bytes, 0)
	}
	a.bytes[i] += int64(n)
	a.last = now
}

func (a *arrivals) sum() (n int64) {
	for _, b := range a.bytes {
		n += b
	}
	return n
}

// rates are the windows in kbit/s.
func (a *arrivals) rates() []float64 {
	out := make([]float64, len(a.bytes))
	for i, n := range a.bytes {
		out[i] = math.Round(float64(n) * 8 / window.Seconds() / 1000)
	}
	return out
}

// serveDown sends nothing in particular for ?s= seconds, paced.
func (s *Server) serveDown(w http.ResponseWriter, r *http.Request) {
	seconds, err := strconv.Atoi(r.URL.Query().Get("s"))
	if err != nil || seconds < 1 || seconds > int(maxLoad/time.Second) {
		page.Plain(w, http.StatusBadRequest, "s says for how many seconds to send: 1 to 10.")
		return
	}
	leave, ok := s.enterLoad(w, r)
	if !ok {
		return
	}
	defer leave()
	deadline := http.NewResponseController(w)
	_ = deadline.SetWriteDeadline(time.Now().Add(maxLoad + 5*time.Second))
	w.Header().Set("Content-Type", "application/octet-stream")
	s.pour(w, r, time.Duration(seconds)*time.Second)
}

// pour writes at maxLoadRate at most; a line that carries less holds the writes up by itself.
func (s *Server) pour(w http.ResponseWriter, r *http.Request, lasts time.Duration) {
	chunk := make([]byte, maxLoadRate/8*int(loadTick/time.Millisecond)/1000)
	tick, end := time.NewTicker(loadTick), time.NewTimer(lasts)
	defer tick.Stop()
	defer end.Stop()
	for {
		allowed := false
		known := s.runs.change(r.URL.Query().Get("run"), s.opts.Client(r), func(run *pageRun) {
			if allowed = run.down < maxRunBytes; allowed {
				run.down += int64(len(chunk))
			}
		})
		if !known || !allowed {
			return
		}
		if _, err := w.Write(chunk); err != nil {
			return
		}
		_ = http.NewResponseController(w).Flush()
		select {
		case <-tick.C:
		case <-end.C:
			return
		case <-r.Context().Done():
			return
		case <-s.ctx.Done():
			return
		}
	}
}

// serveUp reads what comes and counts it. The page ends it by hanging up: what a body that is cut off has brought is what counts.
func (s *Server) serveUp(w http.ResponseWriter, r *http.Request) {
	leave, ok := s.enterLoad(w, r)
	if !ok {
		return
	}
	defer leave()
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(maxLoad + 5*time.Second))
	id, from := r.URL.Query().Get("run"), s.opts.Client(r)
	s.runs.change(id, from, func(run *pageRun) { run.arrived = arrivals{} })
	buf := make([]byte, 32<<10)
	for s.ctx.Err() == nil {
		n, err := r.Body.Read(buf)
		allowed := false
		s.runs.change(id, from, func(run *pageRun) {
			run.up += int64(n)
			run.arrived.add(n, s.opts.Now())
			allowed = run.up < maxRunBytes && run.arrived.last.Sub(run.arrived.first) < maxLoad
		})
		switch {
		case errors.Is(err, io.EOF):
			w.WriteHeader(http.StatusNoContent)
			return
		case errors.Is(err, os.ErrDeadlineExceeded), err != nil, !allowed:
			w.Header().Set("Connection", "close")
			return
		}
	}
}

// enterLoad counts one load in, if the run is known and there is room.
func (s *Server) enterLoad(w http.ResponseWriter, r *http.Request) (leave func(), ok bool) {
	from := s.opts.Client(r)
	if !s.runs.change(r.URL.Query().Get("run"), from, func(*pageRun) {}) {
		noSuchRun(w)
		return nil, false
	}
	if leave, ok = s.loads.enter(from); !ok {
		s.tooMany(w, "loads")
	}
	return leave, ok
}

// arrivedAnswer is what of a run's upload arrived.
type arrivedAnswer struct {
	Every float64   `json:"every"`
	Rates []float64 `json:"rates"` // kbit/s
	Bytes int64     `json:"bytes"`
	MS    float64   `json:"ms"` // from the first of them to the last
}

// serveArrived answers GET /precall/load/arrived.
func (s *Server) serveArrived(w http.ResponseWriter, r *http.Request) {
	answer := arrivedAnswer{Every: window.Seconds(), Rates: []float64{}}
	if !s.runs.change(r.URL.Query().Get("run"), s.opts.Client(r), func(run *pageRun) {
		a := &run.arrived
		answer.Rates, answer.Bytes, answer.MS = a.rates(), a.sum(), ms(a.last.Sub(a.first))
	}) {
		noSuchRun(w)
		return
	}
	writeJSON(w, http.StatusOK, answer)
}

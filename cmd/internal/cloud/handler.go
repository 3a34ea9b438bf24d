package cloud

import (
	"crypto/rand"
	"net/http"
	"strings"
)

// handler is the whole call service.
func (c *Cloud) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", c.pages.show("index"))
	mux.HandleFunc("GET /new", newRoom)
	mux.HandleFunc("GET /enter", enterRoom)
	mux.HandleFunc("GET /r/{room}", c.pages.showRoom)
	mux.HandleFunc("GET /wait", c.pages.show("wait"))
	mux.HandleFunc("GET /console", c.pages.show("console"))
	mux.HandleFunc("GET /assets/{file}", c.pages.asset)
	mux.HandleFunc("GET /favicon.ico", c.pages.sign)

	mux.HandleFunc("GET /signal/ws", c.signal.serveWebSocket)
	mux.HandleFunc("GET /signal/poll", c.signal.servePoll)
	mux.HandleFunc("POST /signal/send", c.signal.serveSend)
	mux.HandleFunc("POST /signal/leave", c.signal.serveLeave)
	mux.HandleFunc("GET /ice", c.serveICE)
	mux.HandleFunc("GET /where", c.serveWhere)

	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("ok\n")) })
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, c.State()) })
	mux.HandleFunc("GET /echo", c.serveEcho)
	mux.HandleFunc("GET /hold", c.serveHold)
	mux.HandleFunc("GET /sse", c.serveEvents)
	mux.HandleFunc("POST /upload", c.serveUpload)
	mux.HandleFunc("GET /download", c.serveDownload)
	return secured(mux)
}

// secured adds the headers that every answer has. Pages load nothing from elsewhere and run no inline script.
func secured(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
			"img-src 'self' data:; media-src 'self' blob: mediastream:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'")
		h.Set("Permissions-Policy", "camera=(self), microphone=(self), autoplay=(self), geolocation=()")
		h.Set("Referrer-Policy", "no-referrer") // a room's name is its key
		h.Set("X-Content-Type-Options", "nosniff")
		next.ServeHTTP(w, r)
	})
}

// newRoom leads to a room that nobody can guess.
func newRoom(w http.ResponseWriter, r *http.Request) {
	s := strings.ToLower(rand.Text())
	w.Header().Set("Cache-Control", "no-store")
	http.Redirect(w, r, "/r/"+s[:4]+"-"+s[4:8]+"-"+s[8:12], http.StatusSeeOther)
}

// enterRoom leads to the room that somebody typed.
func enterRoom(w http.ResponseWriter, r *http.Request) {
	room := strings.TrimSpace(r.FormValue("room"))
	if !plainWord(room) {
		http.Redirect(w, r, "/", http.StatusSeeOther)
		return
	}
	http.Redirect(w, r, "/r/"+room, http.StatusSeeOther)
}

// State is what goes on, in numbers: for tests and for people who watch a laboratory.
type State struct {
	Rooms      int           `json:"rooms"`
	Members    int           `json:"members"`
	WebSockets int64         `json:"websockets"`
	LongPolls  int64         `json:"longpolls"`
	Regions    []RegionState `json:"regions"`
}

// RegionState is one relay's part of State.
type RegionState struct {
	Name        string   `json:"name"`
	URLs        []string `json:"urls"`
	Down        bool     `json:"down"`
	Allocations int      `json:"allocations"`
	FromClients uint64   `json:"bytes_from_clients"`
	ToClients   uint64   `json:"bytes_to_clients"`
}

// State is what goes on now; /state answers with it.
func (c *Cloud) State() State {
	state := State{
		WebSockets: c.signal.counts.websockets.Load(), LongPolls: c.signal.counts.polls.Load(), Regions: []RegionState{},
	}
	state.Rooms, state.Members = c.hub.population()
	for _, r := range c.regions {
		state.Regions = append(state.Regions, RegionState{
			r.opts.Name, r.URLs(), r.Down(), r.Allocations(), r.fromCl.Load(), r.toCl.Load(),
		})
	}
	return state
}

package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/pprof"
	"time"

	"hafen/precall"
)

// control is what the unix socket answers: for `hafen status`, `reload`, `drain` and `explain`, and for profiles. Who may open the socket may ask.
func (g *Gateway) control() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /api/v1/status", g.status.JSON())
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	mux.Handle("GET /status.txt", g.status.Text())
	mux.HandleFunc("GET /explain.txt", func(w http.ResponseWriter, r *http.Request) {
		rec, err := g.precall.Find(r.Context(), r.URL.Query().Get("code"))
		if err != nil && !errors.Is(err, precall.ErrNoRun) {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		if err != nil {
			http.Error(w, "no test has that code: they are kept for "+g.config().Precall.History.String(), http.StatusNotFound)
			return
		}
		g.precall.WriteText(w, rec, r.URL.Query().Get("lang"))
	})
	mux.HandleFunc("POST /reload", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Query().Get("follow") != "" && g.programChanged() {
			g.answerUpgrade(w, r)
			return
		}
		done, err := g.Reload(context.WithoutCancel(r.Context()))
		if err != nil {
			http.Error(w, err.Error(), http.StatusUnprocessableEntity)
			return
		}
		_ = json.NewEncoder(w).Encode(done)
	})
	mux.HandleFunc("POST /upgrade", g.answerUpgrade)
	mux.HandleFunc("POST /drain", func(w http.ResponseWriter, r *http.Request) {
		wait, err := time.ParseDuration(r.URL.Query().Get("wait"))
		if err != nil || wait < 0 {
			http.Error(w, "wait is no duration: write 1h or 30s", http.StatusBadRequest)
			return
		}
		sessions := g.live()
		g.Drain(wait)
		_ = json.NewEncoder(w).Encode(map[string]int{"sessions": sessions})
	})
	g.controlDrill(mux)
	mux.HandleFunc("GET /config", g.controlConfig)
	return mux
}

func (g *Gateway) answerUpgrade(w http.ResponseWriter, r *http.Request) {
	pid, err := g.Upgrade(context.WithoutCancel(r.Context()))
	if err != nil {
		http.Error(w, err.Error(), http.StatusUnprocessableEntity)
		return
	}
	_ = json.NewEncoder(w).Encode(map[string]int{"pid": pid})
}

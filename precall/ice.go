package precall

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"hafen/gateway/page"
)

// serveICE gives our own pages ICE servers with credentials of a few minutes.
func (s *Server) serveICE(w http.ResponseWriter, r *http.Request) {
	client := s.opts.Client(r)
	if !s.iceRate.allow(client) {
		s.tooMany(w, "ice")
		return
	}
	if s.opts.ICE == nil {
		writeJSON(w, http.StatusOK, map[string]any{"iceServers": []ICEServer{}})
		return
	}
	ctx, cancel := context.WithTimeout(r.Context(), 10*time.Second)
	defer cancel()
	servers, err := s.opts.ICE(ctx, client)
	if err != nil {
		s.opts.Log.Warn("no ICE servers for a test", "err", err)
		w.Header().Set("Retry-After", "10")
		page.Plain(w, http.StatusServiceUnavailable, "The gateway gives out no credentials at the moment.")
		return
	}
	if servers == nil {
		servers = []ICEServer{}
	}
	writeJSON(w, http.StatusOK, map[string]any{"iceServers": servers})
}

func (s *Server) tooMany(w http.ResponseWriter, what string) {
	s.metrics.refused.WithLabelValues(what).Inc()
	w.Header().Set("Retry-After", "10")
	page.Plain(w, http.StatusTooManyRequests, "Too many requests from your network. Please try again in a moment.")
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	page.Headers(w.Header())
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the reader may be gone
}

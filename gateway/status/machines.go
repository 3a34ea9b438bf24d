package status

import (
	"encoding/json"
	"net/http"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Health is what /livez and /readyz answer from.
type Health struct {
	// Draining: no new work is taken.
	Draining bool
	// Reachable: a call server or a region can be reached.
	Reachable bool
	// Complete: every service has a region that is up.
	Complete bool
}

// Machines is what listen.metrics serves: plain HTTP, no login, for whoever may reach that address.
func (s *Server) Machines() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.opts.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	mux.Handle("GET /livez", s.Healthz())
	mux.Handle("GET /readyz", s.Healthz())
	mux.Handle("GET /api/v1/status", s.JSON())
	return mux
}

// Healthz answers /livez and /readyz, for balancers and supervisors: 200, or 503 with one word why. They tell nothing else. With
// ?draining=404 a drain is 404: HAProxy then sends nothing new and leaves what goes on, while for 503 it takes the gateway for dead.
func (s *Server) Healthz() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		code, word := http.StatusOK, "ok"
		if r.URL.Path == "/readyz" {
			switch h := s.opts.Health(); {
			case h.Draining && r.URL.Query().Get("draining") == "404":
				code, word = http.StatusNotFound, "draining"
			case h.Draining:
				code, word = http.StatusServiceUnavailable, "draining"
			case !h.Reachable:
				code, word = http.StatusServiceUnavailable, "cloud unreachable"
			case !h.Complete && r.URL.Query().Get("strict") == "1":
				code, word = http.StatusServiceUnavailable, "a service has no region"
			}
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		w.WriteHeader(code)
		_, _ = w.Write([]byte(word + "\n"))
	})
}

// JSON answers with the snapshot: in English, since machines compare sentences, unless ?lang= asks for another language.
func (s *Server) JSON() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_ = json.NewEncoder(w).Encode(s.opts.Snapshot().in(s.phrases, r.URL.Query().Get("lang")))
	})
}

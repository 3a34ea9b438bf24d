package precall

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Gate is what a call page is to make of a run, by the gateway's mode.
type Gate struct {
	// Decision is open, warn or block.
	Decision string `json:"gate"`
	// Offer is what is left where a call with a picture is blocked: audio, telephone.
	Offer []string `json:"offer,omitempty"`
}

// Decisions of a Gate.
const (
	GateOpen  = "open"
	GateWarn  = "warn"
	GateBlock = "block"
)

// decide applies a mode. advisory never blocks; lenient blocks what can't work and warns of what works badly; strict blocks as
// well when the line carries less than a picture needs. Nobody is left without a way: where a picture is blocked, sound is
// offered if the run says that it would pass, and the telephone always.
func decide(mode string, r Result) Gate {
	blocked := r.Verdict == Fail || mode == "strict" && r.narrow()
	switch {
	case mode == "advisory":
		return Gate{Decision: GateOpen}
	case blocked && r.carriesSound():
		return Gate{Decision: GateBlock, Offer: []string{"audio", "telephone"}}
	case blocked:
		return Gate{Decision: GateBlock, Offer: []string{"telephone"}}
	case r.Verdict == Warn:
		return Gate{Decision: GateWarn}
	}
	return Gate{Decision: GateOpen}
}

// narrow reports whether a measured bandwidth is below that of a picture.
func (r Result) narrow() bool {
	return slices.ContainsFunc(r.Checks, func(c Judged) bool {
		return strings.HasPrefix(c.ID, "bandwidth-") && (c.Verdict == Warn || c.Verdict == Fail)
	}) || slices.ContainsFunc(r.Causes, func(f Finding) bool { return f.ID == "bandwidth-low" })
}

// carriesSound reports whether sound alone would pass: somebody can be heard, messages get through and so does a relay.
func (r Result) carriesSound() bool {
	heard, signals, relays := true, false, false
	for _, c := range r.Checks {
		switch c.ID {
		case "microphone":
			heard = c.Verdict != Fail
		case "call-server:websocket", "call-server:longpoll":
			signals = signals || works(c)
		case "relay:udp", "relay:tcp", "relay:tls":
			relays = relays || works(c)
		}
	}
	return heard && signals && relays
}

// verdictAnswer is what a call page gets for the long id of a run.
type verdictAnswer struct {
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	Verdict Verdict   `json:"verdict"`
	// Mode is the gateway's, and Gate what it makes of the run.
	Mode string `json:"mode"`
	Gate
	Causes []string `json:"causes"`
}

// serveVerdict answers /api/v1/precall/ID. The short code opens nothing here: it can be guessed.
func (s *Server) serveVerdict(w http.ResponseWriter, r *http.Request) {
	s.shareWithCallPages(w, r)
	if !s.readRate.allow(s.opts.Client(r)) {
		s.tooMany(w, "verdicts")
		return
	}
	id := r.PathValue("id")
	rec, err := Record{}, ErrNoRun
	if isID(id) {
		rec, err = s.store.ByID(r.Context(), id)
	}
	if err != nil {
		writeJSON(w, http.StatusNotFound, map[string]string{"error": ErrNoRun.Error()})
		return
	}
	writeJSON(w, http.StatusOK, verdictAnswer{
		ID: rec.ID, Time: rec.Time, Verdict: rec.Result.Verdict, Mode: s.settings.Load().mode, Gate: decide(s.settings.Load().mode, rec.Result), Causes: causeIDs(rec.Result),
	})
}

// shareWithCallPages lets the pages of the services read an answer (CORS), and no other site.
func (s *Server) shareWithCallPages(w http.ResponseWriter, r *http.Request) {
	w.Header().Add("Vary", "Origin")
	if origin := r.Header.Get("Origin"); origin != "" && s.opts.CallPage(origin) {
		w.Header().Set("Access-Control-Allow-Origin", origin)
	}
}

// servePreflight says that reading is all there is.
func (s *Server) servePreflight(w http.ResponseWriter, r *http.Request) {
	s.shareWithCallPages(w, r)
	w.Header().Set("Access-Control-Allow-Methods", "GET")
	w.Header().Set("Access-Control-Allow-Headers", "Accept, Content-Type")
	w.Header().Set("Access-Control-Max-Age", "600")
	w.WriteHeader(http.StatusNoContent)
}

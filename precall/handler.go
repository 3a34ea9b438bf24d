package precall

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"sync"
	"time"

	"hafen/gateway/netpolicy"
	"hafen/gateway/page"
)

// servePage shows the test. Nothing is measured until somebody presses the button, or the address says autorun. ?return= is the
// call page that sent somebody here: the result leads back to it, if it is one of a service's.
func (s *Server) servePage(w http.ResponseWriter, r *http.Request) {
	back := r.URL.Query().Get("return")
	if !s.returnsTo(back) {
		back = ""
	}
	s.page.Render(w, r, page.View{
		Title:   "title",
		Site:    s.opts.Site(s.opts.Client(r)),
		Styles:  []string{s.assets.URL("precall.css")},
		Modules: []string{s.assets.URL("app.js")},
		Data:    struct{ Return string }{back},
		Connect: s.connects(r.Context(), s.opts.Client(r)),
	})
}

// returnsTo reports whether an address is one of a service's pages.
func (s *Server) returnsTo(address string) bool {
	u, err := url.Parse(address)
	return err == nil && len(address) < 2000 && u.Host != "" && s.opts.CallPage(u.Scheme+"://"+u.Host)
}

// answer is what the page gets for its measurements: the report, and what it shows above it.
type answer struct {
	Report Report `json:"report"`
	// Sentence is the key of the sentence that sums it up.
	Sentence string `json:"sentence"`
	// Network is where the test was made: the client's network, shortened. Place says what that is: a site, which Site names, the
	// house, or outside of it.
	Network string `json:"network"`
	Place   string `json:"place"`
	Site    string `json:"site,omitempty"`
	Gate
}

// serveReport takes what the page measured, adds the gateway's half, judges and keeps it.
func (s *Server) serveReport(w http.ResponseWriter, r *http.Request) {
	from := s.opts.Client(r)
	if !s.reportsFrom(from).allow(from) {
		s.tooMany(w, "reports")
		return
	}
	m, status, err := readReport(w, r)
	if err != nil {
		s.metrics.refused.WithLabelValues("malformed").Inc()
		page.Plain(w, status, fmt.Sprintf("Refused: %v.", err))
		return
	}
	status = http.StatusOK
	now, lang := s.opts.Now(), page.Language(r, s.texts.Languages())
	g := s.gatewayHalf(r, m)
	m.Mapped = "" // it was compared
	g.ClockAhead = time.Duration((m.Clock - float64(now.UnixMilli())) * float64(time.Millisecond))
	rec := Record{ID: newID(), Time: now.UTC().Truncate(time.Second), Site: s.opts.SiteName(from), Network: netpolicy.Network(from), Lang: lang, Measurements: m, Gateway: g}
	rec.Result = Analyse(m, g, s.settings.Load().thresholds)
	if r.URL.Query().Get("keep") == "0" { // no consent: judged, told, forgotten
		rec.ID = ""
	} else if err := s.keep(r.Context(), &rec); err != nil {
		rec.ID, rec.Code, status = "", "", http.StatusInsufficientStorage // told all the same: the page shows it without a code
	}
	s.metrics.runs.WithLabelValues(string(rec.Result.Verdict)).Inc()
	s.opts.Log.Info("precall run", "code", rec.Code, "verdict", rec.Result.Verdict, "causes", causeIDs(rec.Result), "network", rec.Network, "conns", rec.Gateway.Seen.Connections)
	writeJSON(w, status, answer{
		Report: s.Report(rec, lang), Sentence: sentence(rec.Result), Network: rec.Network.String(), Place: rec.where(), Site: rec.Site,
		Gate: decide(s.settings.Load().mode, rec.Result),
	})
}

// reportsFrom is the limit of a client's reports. Those from outside have one of their own, so that they can't use up the house's.
func (s *Server) reportsFrom(client netip.Addr) *rateLimit {
	if s.opts.Guest(client) {
		return s.guestRate
	}
	return s.reportRate
}

// readReport reads the body within its bounds and says which status a fault deserves.
func readReport(w http.ResponseWriter, r *http.Request) (Measurements, int, error) {
	if ct := r.Header.Get("Content-Type"); ct != "application/json" {
		return Measurements{}, http.StatusUnsupportedMediaType, errors.New("a report is application/json")
	}
	deadline := http.NewResponseController(w)
	_ = deadline.SetReadDeadline(time.Now().Add(15 * time.Second))
	m, err := ReadMeasurements(http.MaxBytesReader(w, r.Body, MaxReport))
	if err == nil {
		// Only the body is in a hurry. After an error the deadline stays: net/http reads the rest of a body before it answers.
		_ = deadline.SetReadDeadline(time.Time{})
	}
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return m, http.StatusRequestEntityTooLarge, fmt.Errorf("a report has at most %d KiB", MaxReport>>10)
	case err != nil && !errors.Is(err, errMalformed):
		return m, http.StatusRequestTimeout, errors.New("the report did not arrive whole")
	}
	return m, http.StatusBadRequest, err
}

// gatewayHalf asks regions and call servers side by side: each may take its own time to find out.
func (s *Server) gatewayHalf(r *http.Request, m Measurements) Gateway {
	ctx, cancel := context.WithTimeout(r.Context(), 8*time.Second)
	defer cancel()
	now := s.settings.Load()
	g := Gateway{Name: now.name, SelfSigned: now.selfSigned, PAC: now.pac, Load: s.opts.Load(), Seen: s.opts.Seen(r)}
	g.Seen.Mapped = compare(s.opts.Client(r), m.Mapped)
	var wg sync.WaitGroup
	var defect any // beside, it would end the program; here it ends the request
	wg.Go(func() {
		defer func() { defect = recover() }()
		g.Regions = s.opts.Regions(ctx)
	})
	g.CallServers = s.opts.CallServers(ctx)
	wg.Wait()
	if defect != nil {
		panic(defect)
	}
	return g
}

// keep stores a run under a code that no other has.
func (s *Server) keep(ctx context.Context, rec *Record) (err error) {
	for range 10 {
		rec.Code = newCode()
		if err = s.store.Put(ctx, *rec); !errors.Is(err, ErrCodeTaken) {
			return err
		}
	}
	return err
}

func causeIDs(r Result) []string {
	ids := []string{}
	for _, f := range r.Causes {
		ids = append(ids, f.ID)
	}
	return ids
}

// sentence chooses the one sentence that sums a run up.
func sentence(r Result) string {
	switch {
	case r.Verdict == Pass && r.MediaProven:
		return "verdict.pass"
	case r.Verdict == Pass:
		return "verdict.ways"
	}
	return "verdict." + string(r.Verdict)
}

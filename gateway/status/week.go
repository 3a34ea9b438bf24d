package status

import (
	"net/http"
	"time"

	"hafen/gateway/page"
)

// Week is what the gateway did within the last seven days.
type Week struct {
	From, To time.Time
	// Sessions are media sessions of calls: an allocation each, so two or more a call.
	Sessions int
	Minutes  float64
	Failed   int // ended with another status word than ok
	Rungs    []WeekRow
	Days     []WeekRow
	Sites    []WeekSite
	// Worst is the site with the largest share of trouble, and why it is; empty: none had any.
	Worst, Why string
	Runs       int // precall tests
	Fails      int
	Changes    []AddressChange
}

// WeekRow is one line of a table of the week: a rung or a day.
type WeekRow struct {
	Name     string
	Sessions int
	Minutes  float64
	Failed   int
}

// WeekSite is one site's line.
type WeekSite struct {
	WeekRow
	Runs, Fails int
	Cause       string
}

// showWeek is the page to take into Monday's meeting.
func (s *Server) showWeek(w http.ResponseWriter, r *http.Request) {
	if s.opts.Week == nil {
		http.NotFound(w, r)
		return
	}
	s.pages["week"].Render(w, r, page.View{
		Title: "week.title", Site: s.opts.Site(r), Wide: true, Data: s.opts.Week(), Styles: []string{s.assets.URL("status.css")},
	})
}

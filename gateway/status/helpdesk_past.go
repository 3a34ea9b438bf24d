package status

import (
	"cmp"
	"encoding/csv"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"hafen/gateway/page"
)

// RunCount is how many precall runs of a day at a place came out alike.
type RunCount struct {
	Day     string // 2026-11-27
	Place   string // a site, or a shortened network where no site has it
	Verdict string
	Cause   string // the likeliest; "": none
	Runs    int
}

// Periods that the help desk may look back over, in days.
var periods = []int{7, 30, 90}

// pastDays is what the help desk's page shows of the past: each day as a bar, each place as a row.
type pastDays struct {
	Days    int
	Periods []int
	Bars    []pastDay
	Rows    []pastPlace
	Runs    int
	Recent  []Run
}

// pastDay is one day, in parts of a chart 100 high; Y grows downwards, good at the bottom.
type pastDay struct {
	X, Width                int
	OKY, OK, WarnY, Warn    int
	FailY, Fail             int
	Day                     string
	Good, Middling, Failing int
}

// pastPlace is one place. Trend is better, worse or same: the share of bad runs in the second half of the time against the first.
type pastPlace struct {
	Place                         string
	Runs, Good, Middling, Failing int
	Cause                         string // the most frequent
	Trend                         string

	causes      map[string]int
	early, late [2]int // bad, all
}

// maxRows bounds the table of places.
const maxRows = 50

// makeHistory sums counts up for the days until today.
func makeHistory(counts []RunCount, days int, today time.Time) pastDays {
	h := pastDays{Days: days, Periods: periods}
	byDay, byPlace := map[string]*pastDay{}, map[string]*pastPlace{}
	for i := range days {
		byDay[today.AddDate(0, 0, i+1-days).Format(time.DateOnly)] = &pastDay{}
	}
	half := today.AddDate(0, 0, 1-days/2).Format(time.DateOnly)
	for _, c := range counts {
		row := byPlace[c.Place]
		if row == nil {
			row = &pastPlace{Place: c.Place, causes: map[string]int{}}
			byPlace[c.Place] = row
		}
		row.add(c, c.Day >= half)
		if bar := byDay[c.Day]; bar != nil {
			add(c, &bar.Good, &bar.Middling, &bar.Failing)
		}
		h.Runs += c.Runs
	}
	h.Bars = drawBars(byDay, days, today)
	for _, row := range byPlace {
		row.close()
		h.Rows = append(h.Rows, *row)
	}
	slices.SortFunc(h.Rows, func(a, b pastPlace) int { return cmp.Or(cmp.Compare(b.Runs, a.Runs), cmp.Compare(a.Place, b.Place)) })
	h.Rows = h.Rows[:min(len(h.Rows), maxRows)]
	return h
}

func add(c RunCount, good, middling, failing *int) {
	switch c.Verdict {
	case "pass":
		*good += c.Runs
	case "warn":
		*middling += c.Runs
	case "fail":
		*failing += c.Runs
	}
}

func (r *pastPlace) add(c RunCount, late bool) {
	r.Runs += c.Runs
	add(c, &r.Good, &r.Middling, &r.Failing)
	if c.Cause != "" {
		r.causes[c.Cause] += c.Runs
	}
	part := &r.early
	if late {
		part = &r.late
	}
	part[1] += c.Runs
	if c.Verdict == "fail" {
		part[0] += c.Runs
	}
}

// close finds the most frequent cause and the trend; a change of less than a tenth is none.
func (r *pastPlace) close() {
	for _, id := range slices.Sorted(maps.Keys(r.causes)) {
		if r.Cause == "" || r.causes[id] > r.causes[r.Cause] {
			r.Cause = id
		}
	}
	r.Trend = "same"
	if r.early[1] == 0 || r.late[1] == 0 {
		return
	}
	switch change := float64(r.late[0])/float64(r.late[1]) - float64(r.early[0])/float64(r.early[1]); {
	case change > 0.1:
		r.Trend = "worse"
	case change < -0.1:
		r.Trend = "better"
	}
}

// drawBars lays the days out side by side, ten units each.
func drawBars(byDay map[string]*pastDay, days int, today time.Time) []pastDay {
	most := 1
	for _, b := range byDay {
		most = max(most, b.Good+b.Middling+b.Failing)
	}
	bars := make([]pastDay, 0, days)
	for i := range days {
		day := today.AddDate(0, 0, i+1-days).Format(time.DateOnly)
		b := *byDay[day]
		b.Day, b.X, b.Width = day, 10*i+1, 8
		b.OK, b.Warn, b.Fail = 100*b.Good/most, 100*b.Middling/most, 100*b.Failing/most
		b.OKY = 100 - b.OK
		b.WarnY = b.OKY - b.Warn
		b.FailY = b.WarnY - b.Fail
		bars = append(bars, b)
	}
	return bars
}

// ChartWidth is the width of the chart's view box.
func (h pastDays) ChartWidth() int { return 10 * h.Days }

// period reads ?days=; what is none of the periods is the middle one.
func period(r *http.Request) int {
	days, err := strconv.Atoi(r.URL.Query().Get("days"))
	if err != nil || !slices.Contains(periods, days) {
		return periods[1]
	}
	return days
}

// pastRuns gathers the history of the last days.
func (s *Server) pastRuns(r *http.Request) (*pastDays, error) {
	if s.opts.Helpdesk.History == nil {
		return nil, nil
	}
	days, now := period(r), s.opts.Now()
	counts, err := s.opts.Helpdesk.History(r.Context(), now.AddDate(0, 0, -days))
	if err != nil {
		return nil, err
	}
	h := makeHistory(counts, days, now)
	if s.opts.Helpdesk.Recent != nil {
		if h.Recent, err = s.opts.Helpdesk.Recent(r.Context(), 20); err != nil {
			return nil, err
		}
	}
	return &h, nil
}

// serveHistoryCSV is the history for a spreadsheet: one line for each day, place, verdict and cause.
func (s *Server) serveHistoryCSV(w http.ResponseWriter, r *http.Request) {
	if s.opts.Helpdesk.History == nil {
		page.Plain(w, http.StatusNotFound, "There is no history here.")
		return
	}
	counts, err := s.opts.Helpdesk.History(r.Context(), s.opts.Now().AddDate(0, 0, -period(r)))
	if err != nil {
		page.Plain(w, http.StatusServiceUnavailable, "The tests can't be read at the moment. The log of the gateway says why.")
		return
	}
	w.Header().Set("Content-Type", "text/csv; charset=utf-8")
	w.Header().Set("Content-Disposition", fmt.Sprintf(`attachment; filename="precall-%s.csv"`, s.opts.Now().Format(time.DateOnly)))
	out := csv.NewWriter(w)
	_ = out.Write([]string{"day", "place", "verdict", "cause", "runs"}) // the reader may be gone
	for _, c := range counts {
		_ = out.Write([]string{c.Day, harmless(c.Place), c.Verdict, c.Cause, strconv.Itoa(c.Runs)})
	}
	out.Flush()
}

// harmless keeps a spreadsheet from taking a place's name for a formula.
func harmless(s string) string {
	if s != "" && slices.Contains([]byte("=+-@\t\r"), s[0]) {
		return "'" + s
	}
	return s
}

package status

import (
	"cmp"
	"fmt"
	"io"
)

// Week is what calls there were within the last seven days, today among them.
type Week struct {
	Sessions int        `json:"sessions"`
	Minutes  float64    `json:"minutes"`
	Rungs    []WeekRung `json:"rungs"` // the most used first
	Days     []WeekDay  `json:"days"`  // the oldest first
	// Worst is the place whose precall tests failed most; nil: none did.
	Worst *WeekPlace `json:"worst,omitempty"`
}

// WeekRung counts the sessions that went over one transport towards the region.
type WeekRung struct {
	Rung     string  `json:"rung"`
	Sessions int     `json:"sessions"`
	Minutes  float64 `json:"minutes"`
}

// WeekDay counts the sessions that ended on a day.
type WeekDay struct {
	Day      string  `json:"day"` // 2026-11-27
	Sessions int     `json:"sessions"`
	Minutes  float64 `json:"minutes"`
}

// WeekPlace is a site, or a network where no site has it, and how its precall tests went.
type WeekPlace struct {
	Place  string `json:"place"`
	Runs   int    `json:"runs"`
	Failed int    `json:"failed"`
	Cause  string `json:"cause,omitempty"` // the most frequent
}

// Worse reports whether more of its tests failed, by share and then by number.
func (p *WeekPlace) Worse(than *WeekPlace) bool {
	return cmp.Or(p.Failed*than.Runs-than.Failed*p.Runs, p.Failed-than.Failed, cmp.Compare(than.Place, p.Place)) > 0
}

// writeWeek is the week on a line or two.
func writeWeek(out io.Writer, w *Week) {
	if w == nil || w.Sessions == 0 && w.Worst == nil {
		return
	}
	fmt.Fprintf(out, "\nlast 7 days: %d media sessions, %.0f minutes", w.Sessions, w.Minutes)
	for _, r := range w.Rungs {
		fmt.Fprintf(out, "; %s %d %%", r.Rung, 100*r.Sessions/max(1, w.Sessions))
	}
	fmt.Fprintln(out)
	if p := w.Worst; p != nil {
		fmt.Fprintf(out, "  worst site: %s, %d of %d precall tests failed, mostly %s\n", p.Place, p.Failed, p.Runs, p.Cause)
	}
}

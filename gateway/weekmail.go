package gateway

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"hafen/gateway/events"
	"hafen/gateway/status"
)

// weekMailHour is when, on a Monday, the mail about the week before goes out: before the day's first meeting.
const weekMailHour = 7

// mailWeek mails what the week before was like, once, on its Monday. A gateway that is down for all of the Monday sends none.
func (g *Gateway) mailWeek(ctx context.Context, now time.Time) error {
	c := g.config()
	if c.Events.Mail.Server == "" || !c.Events.Mail.Weekly || now.Weekday() != time.Monday || now.Hour() < weekMailHour || g.handover.isGone() {
		return nil
	}
	if g.ledger.claimed(now) {
		return nil
	}
	week, err := g.ledger.read(now.AddDate(0, 0, -1)) // first: a ledger that can't be read now may be read later today
	if err != nil {
		return err
	}
	if first, err := g.ledger.claim(now); err != nil || !first {
		return err
	}
	monday := time.Date(now.Year(), now.Month(), now.Day(), 0, 0, 0, 0, now.Location())
	week.Worst = g.worstPlace(ctx, monday)
	r := weekReport{Gateway: c.Name, Monday: monday, Week: week, Addresses: g.addresses.list(), Faults: g.snapshot().Faults}
	for _, in := range g.watch.events.Incidents() {
		if in.Opened.After(monday.AddDate(0, 0, -ledgerDays)) && in.Opened.Before(monday) {
			r.Incidents = append(r.Incidents, in)
		}
	}
	if g.started.After(monday.AddDate(0, 0, -ledgerDays)) {
		r.Started = g.started
	}
	g.watch.events.Tell(events.Report{ID: "week-" + monday.Format(time.DateOnly), Subject: r.subject(), Text: r.text()})
	return nil
}

// claim reports whether nobody has mailed the week before this Monday yet, and that it is done from now on: for the processes before and
// after an upgrade, and over restarts.
func (l *ledger) claim(monday time.Time) (bool, error) {
	if err := os.MkdirAll(l.dir, 0o750); err != nil {
		return false, err
	}
	f, err := os.OpenFile(l.mailedMark(monday), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o640)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, f.Close()
}

func (l *ledger) mailedMark(monday time.Time) string {
	return filepath.Join(l.dir, monday.Format(time.DateOnly)+".mailed")
}

// claimed reports whether somebody has mailed the week before this Monday.
func (l *ledger) claimed(monday time.Time) bool {
	_, err := os.Stat(l.mailedMark(monday))
	return err == nil
}

// weekReport is what the mail says.
type weekReport struct {
	Gateway   string
	Monday    time.Time // behind the week
	Week      *status.Week
	Incidents []events.Incident
	Started   time.Time // of this process, if within the week: incidents before that are not known
	Addresses []status.AddressChange
	Faults    []status.Fault // now
}

func (r weekReport) subject() string {
	return fmt.Sprintf("[weekly] %s: %d media sessions, %.0f minutes", r.Gateway, r.Week.Sessions, r.Week.Minutes)
}

func (r weekReport) text() string {
	var b strings.Builder
	w := r.Week
	fmt.Fprintf(&b, "%s, %s to %s\n\nMedia sessions: %d, %.0f minutes\n", r.Gateway,
		r.Monday.AddDate(0, 0, -ledgerDays).Format("Mon 2006-01-02"), r.Monday.AddDate(0, 0, -1).Format("Mon 2006-01-02"), w.Sessions, w.Minutes)
	for _, rung := range w.Rungs {
		fmt.Fprintf(&b, "  over %s: %d (%d %%), %.0f minutes\n", rung.Rung, rung.Sessions, 100*rung.Sessions/max(1, w.Sessions), rung.Minutes)
	}
	for _, d := range w.Days {
		day, _ := time.Parse(time.DateOnly, d.Day) // as the ledger wrote it
		fmt.Fprintf(&b, "  %s: %d, %.0f minutes\n", day.Format("Mon"), d.Sessions, d.Minutes)
	}
	b.WriteString("\nPrecall tests: ")
	if p := w.Worst; p != nil {
		fmt.Fprintf(&b, "worst site %s, %d of %d failed, mostly for %s (the manual's precall.md says what to do)\n", p.Place, p.Failed, p.Runs, p.Cause)
	} else {
		b.WriteString("none failed at any site with three tests or more\n")
	}
	r.writeIncidents(&b)
	if len(r.Addresses) > 0 {
		b.WriteString("\nAddresses that changed (a firewall that goes by address needs the new ones: hafen firewall --ticket):\n")
		for _, a := range r.Addresses {
			fmt.Fprintf(&b, "  %s\n", a.Words())
		}
	}
	b.WriteString("\nWrong now:\n")
	if len(r.Faults) == 0 {
		b.WriteString("  nothing\n")
	}
	for _, f := range r.Faults {
		fmt.Fprintf(&b, "  %s: %s %s\n", f.Level, f.Sentence, f.Advice)
	}
	fmt.Fprintf(&b, "\nStatus page: https://%s/status/\n", r.Gateway)
	return b.String()
}

func (r weekReport) writeIncidents(b *strings.Builder) {
	fmt.Fprintf(b, "Incidents: %d", len(r.Incidents))
	if !r.Started.IsZero() {
		fmt.Fprintf(b, " since the gateway's start on %s", r.Started.Format("Mon 2006-01-02 15:04"))
	}
	b.WriteString("\n")
	for _, in := range r.Incidents {
		lasted := "lasts"
		if !in.Ended.IsZero() {
			lasted = in.Ended.Sub(in.Opened).Round(time.Second).String()
		}
		fmt.Fprintf(b, "  %s, %s: %s\n", in.Opened.Format("Mon 15:04"), lasted, in.Conditions[0].Cause)
	}
}

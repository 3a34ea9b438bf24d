package precall

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"
)

// WriteText writes both sides of a run for a terminal: the verdict and what to do first, then what the page measured, then
// what the gateway saw.
func (s *Server) WriteText(w io.Writer, rec Record, lang string) {
	r := s.Report(rec, lang)
	fmt.Fprintf(w, "%s %s  %s, from %s\n", marks[r.Verdict], r.Code, rec.Time.Local().Format(time.DateTime), rec.Network)
	for _, c := range r.Causes {
		fmt.Fprintf(w, "\n%s (%.0f %%)\n  tell the caller: %s\n  change:          %s\n", c.ID, 100*c.Confidence, c.Advice.User, c.Advice.IT)
	}
	fmt.Fprint(w, "\nwhat the page measured\n")
	t := tabwriter.NewWriter(w, 2, 0, 2, ' ', 0)
	for _, c := range r.Checks {
		value := ""
		if c.Value != nil {
			value = fmt.Sprintf("%.4g %s", *c.Value, c.Unit)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\t%s\n", marks[c.Verdict], c.ID, c.Target, c.Level, value, c.Detail)
	}
	fmt.Fprint(t, "\nwhat the gateway saw at that moment\n")
	for _, g := range rec.Gateway.Regions {
		fmt.Fprintf(t, "  %s\tregion\t%s/%s\t%s\t%s\n", up(g.Up), g.Service, g.Name, millis(g.RTT), g.Why)
	}
	for _, c := range rec.Gateway.CallServers {
		fmt.Fprintf(t, "  %s\tcall server\t%s\t%s\t%s\n", up(c.Up), c.Host, millis(c.RTT), c.Why)
	}
	_ = t.Flush()
	fmt.Fprintf(w, "  client's clock ahead by %s; draining: %v; full: %v\n", rec.Gateway.ClockAhead.Round(time.Second), rec.Gateway.Load.Draining, rec.Gateway.Load.Full)
	if conns := rec.Gateway.Seen.Connections; len(conns) > 0 {
		fmt.Fprintf(w, "\nits connections in the log\n  journalctl -u hafen -o cat | grep -E '%s'\n", strings.Join(conns, "|"))
	}
}

// marks are verdicts as one character.
var marks = map[Verdict]string{Pass: "✓", Warn: "!", Fail: "✕", VerdictUnknown: "?", VerdictSkipped: "–"}

func up(ok bool) string {
	if ok {
		return marks[Pass]
	}
	return marks[Fail]
}

func millis(d time.Duration) string {
	if d <= 0 {
		return ""
	}
	return fmt.Sprintf("%.0f ms", float64(d)/float64(time.Millisecond))
}

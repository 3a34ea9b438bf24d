package status

import (
	"fmt"
	"io"
	"net/http"
	"text/tabwriter"
	"time"
)

// Text answers with the snapshot for a terminal: the verdict first, then what it rests on.
func (s *Server) Text() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		w.Header().Set("Cache-Control", "no-store")
		if s.opts.Hurry != nil {
			s.opts.Hurry() // whoever asks once asks again
		}
		WriteText(w, s.opts.Snapshot())
	})
}

// WriteText writes a snapshot for a terminal.
func WriteText(out io.Writer, s Snapshot) {
	fmt.Fprintf(out, "%s %s\n", sign(s.Verdict), s.Sentence)
	if s.Advice != "" {
		fmt.Fprintf(out, "  → %s\n", s.Advice)
	}
	writeFaults(out, s.Faults)
	fmt.Fprintf(out, "\n%s, hafen %s, up %s\n", s.Name, s.Version, s.Uptime.Round(time.Second))
	c := s.Counts
	fmt.Fprintf(out, "%d allocations, %d WebSockets, %d long-polls, %d tunnels, %d connections\n", c.Allocations, c.WebSockets, c.LongPolls, c.Tunnels, c.Connections)
	t := tabwriter.NewWriter(out, 2, 0, 2, ' ', 0)
	for _, svc := range s.Services {
		fmt.Fprintf(t, "\n%s\n", svc.Name)
		for _, r := range svc.Regions {
			mark := ""
			if r.Name == svc.Chosen {
				mark = "nearest"
			}
			fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", sign(upWord(r.Up)), r.Name, r.Rung, millis(r.RTTms), mark)
			for _, g := range r.Rungs {
				if g.Why != "" {
					fmt.Fprintf(t, "    \t%s\t%s\t\t%s\n", g.Name, g.State, g.Why)
				}
			}
		}
		for _, cs := range s.CallServers {
			if cs.Service == svc.Name {
				fmt.Fprintf(t, "  %s\t%s\t%s\t%s\t%s\n", sign(cs.State), cs.Host, cs.Probe, millis(cs.RTTms), cs.Why)
			}
		}
	}
	for _, cert := range s.Certificates {
		until := "not issued yet"
		if !cert.Expires.IsZero() {
			until = "until " + cert.Expires.Format(time.DateOnly)
		}
		fmt.Fprintf(t, "\ncertificate\t%v\t%s\t%s\n", cert.Names, until, cert.Source)
		if cert.Problem != "" {
			_ = t.Flush() // a sentence is no column
			fmt.Fprintf(out, "  → %s\n", cert.Problem)
		}
	}
	if len(s.Peers) > 0 {
		fmt.Fprintf(t, "\ngateways\n")
	}
	for _, p := range s.Peers {
		mark := ""
		if p.Self {
			mark = "this one"
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\t%d allocations\t%s\t%s\n", sign(p.Sign()), p.Host, p.Version, p.Counts.Allocations, mark, p.Words())
	}
	_ = t.Flush()
	writeWeek(out, s.Week)
	writeAddresses(out, s.Addresses)
	for _, r := range s.Refused {
		fmt.Fprintf(out, "\nrefused: %d connections from %s\n  → if these are clients of yours: %s\n", r.Count, r.Network, r.Write)
	}
}

// writeFaults tells what is wrong beside the worst, which is the verdict.
func writeFaults(out io.Writer, faults []Fault) {
	if len(faults) > 0 && faults[0].Works != "" {
		fmt.Fprintf(out, "  %s\n", faults[0].Works)
	}
	for _, f := range faults[min(1, len(faults)):] {
		fmt.Fprintf(out, "%s %s\n", sign(f.Level), f.Sentence)
		if f.Advice != "" {
			fmt.Fprintf(out, "  → %s\n", f.Advice)
		}
	}
}

// sign is a state as one character, never colour alone.
func sign(state string) string {
	switch state {
	case "ok", "up":
		return "✓"
	case "degraded", "warn", Warning:
		return "!"
	case "down", "fail", Critical:
		return "✕"
	}
	return "?"
}

func upWord(up bool) string {
	if up {
		return "up"
	}
	return "down"
}

func millis(ms float64) string {
	if ms <= 0 {
		return ""
	}
	return fmt.Sprintf("%.0f ms", ms)
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"strings"
)

// exitCode is an error that everything was said about already, with an exit code of its own.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit %d", int(e)) }

// The exit codes of a Nagios plug-in.
const (
	nagiosWarning  = exitCode(1)
	nagiosCritical = exitCode(2)
	nagiosUnknown  = exitCode(3)
)

// nagiosStatus is what the check reads of the gateway's status.
type nagiosStatus struct {
	Verdict  string
	Sentence string
	Counts   struct{ Connections, Allocations, WebSockets, LongPolls, Tunnels int }
	Limits   []struct {
		Key       string
		Used, Max int
	}
	Services []struct {
		Name    string
		Regions []struct{ Up, Use bool }
	}
}

// nagios prints one line with performance data, and answers with the exit code that Nagios and its like expect.
func nagios(ctx context.Context, w world, runDir string) error {
	body, err := control(ctx, runDir, http.MethodGet, "/api/v1/status", nil)
	var s nagiosStatus
	switch {
	case errors.Is(err, fs.ErrPermission):
		fmt.Fprintf(w.stdout, "HAFEN UNKNOWN: %s\n", unbarred(err.Error()+"; run the check as a member of the group hafen"))
		return nagiosUnknown
	case err != nil:
		fmt.Fprintf(w.stdout, "HAFEN CRITICAL: %s\n", unbarred(err.Error()))
		return nagiosCritical
	}
	if err := json.Unmarshal(body, &s); err != nil {
		fmt.Fprintf(w.stdout, "HAFEN UNKNOWN: the gateway's answer: %s\n", unbarred(err.Error()))
		return nagiosUnknown
	}
	text, code := s.line()
	fmt.Fprintln(w.stdout, text)
	if code != 0 {
		return code
	}
	return nil
}

// line is the plug-in's line: state, sentence, and behind the bar what can be drawn.
func (s nagiosStatus) line() (string, exitCode) {
	word, code := "UNKNOWN", nagiosUnknown
	switch s.Verdict {
	case "ok":
		word, code = "OK", 0
	case "degraded":
		word, code = "WARNING", nagiosWarning
	case "down":
		word, code = "CRITICAL", nagiosCritical
	}
	up, all := 0, 0
	for _, service := range s.Services {
		for _, r := range service.Regions {
			if r.Use {
				all++
			}
			if r.Use && r.Up {
				up++
			}
		}
	}
	most := ""
	for _, l := range s.Limits {
		if l.Key == "limits.allocations" {
			most = fmt.Sprintf(";%d;%d;0;%d", l.Max*8/10, l.Max*95/100, l.Max)
		}
	}
	return fmt.Sprintf("HAFEN %s: %s | allocations=%d%s websockets=%d longpolls=%d tunnels=%d connections=%d regions_up=%d;;;0;%d",
		word, unbarred(s.Sentence), s.Counts.Allocations, most, s.Counts.WebSockets, s.Counts.LongPolls, s.Counts.Tunnels, s.Counts.Connections, up, all), code
}

// unbarred keeps the bar for the performance data.
func unbarred(text string) string {
	return strings.NewReplacer("\n", " ", "|", "/").Replace(text)
}

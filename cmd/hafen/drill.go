package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"time"

	"hafen/gateway"
)

// drill cuts one region for new sessions for a while, and reports what browsers did.
func drill(ctx context.Context, w world, args []string) error {
	fs := flags(w, "drill")
	file := fs.String("config", "", "configuration `file` of the running gateway")
	dir := fs.String("run-dir", "", "its run `directory`")
	lasts := fs.Duration("for", 2*time.Minute, "how long; 15m at most")
	end := fs.Bool("end", false, "end a drill that runs")
	var target []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		target, args = append(target, args[0]), args[1:]
	}
	if err := parse(fs, args, 2); err != nil {
		return err
	}
	target = append(target, fs.Args()...)
	if len(target) != 2 || target[0] != "region" || !strings.Contains(target[1], "/") {
		return fmt.Errorf("drill: write hafen drill region SERVICE/REGION, as the configuration names them: %w", errUsage)
	}
	where, err := runDir(w, *dir, *file)
	if err != nil {
		return err
	}
	if *end {
		*lasts = 0
	}
	if _, err := control(ctx, where, http.MethodPost, "/drill", url.Values{"region": {target[1]}, "for": {lasts.String()}}); err != nil {
		return err
	}
	if *end {
		fmt.Fprintf(w.stdout, "✓ The drill of %s is over.\n", target[1])
		return nil
	}
	fmt.Fprintf(w.stdout, "New sessions keep away from %s for %v. Make a call now; Ctrl-C ends the drill.\n", target[1], *lasts)
	ctx, stop := signal.NotifyContext(ctx, os.Interrupt)
	defer stop()
	wait := time.NewTimer(*lasts)
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		ended := context.WithoutCancel(ctx)
		_, err = control(ended, where, http.MethodPost, "/drill", url.Values{"region": {target[1]}, "for": {"0s"}})
		ctx = ended
	}
	body, failed := control(ctx, where, http.MethodGet, "/drill", nil)
	if err := errors.Join(err, failed); err != nil {
		return err
	}
	var r gateway.DrillReport
	if err := json.Unmarshal(body, &r); err != nil {
		return fmt.Errorf("the gateway's answer: %w", err)
	}
	return writeDrill(w.stdout, r)
}

// writeDrill prints the verdict first.
func writeDrill(out io.Writer, r gateway.DrillReport) error {
	sessions := 0
	for _, row := range r.Went {
		sessions += row.Sessions
	}
	switch {
	case r.Failed > 0:
		fmt.Fprintf(out, "✕ %d clients found no way while %s/%s was cut, %d did.\n", r.Failed, r.Service, r.Region, sessions)
	case sessions == 0:
		fmt.Fprintf(out, "? Nobody made a call while %s/%s was cut: nothing is proven.\n", r.Service, r.Region)
	default:
		fmt.Fprintf(out, "✓ All %d new sessions found another way while %s/%s was cut.\n", sessions, r.Service, r.Region)
	}
	for _, row := range r.Went {
		fmt.Fprintf(out, "  %d went to %s over %s\n", row.Sessions, row.Region, row.Rung)
	}
	fmt.Fprintf(out, "  %d sessions that ran in %s stayed there\n", r.Stayed, r.Region)
	if r.Failed > 0 {
		return errSilent
	}
	return nil
}

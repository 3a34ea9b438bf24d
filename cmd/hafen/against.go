package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hafen/configs"
	"hafen/gateway"
	"hafen/gateway/forward"
)

// againstRunning says what would change if the running gateway took in this configuration: keys, hosts and rules, PAC answers, and
// the live calls that go on where they are although their region is gone.
func againstRunning(ctx context.Context, w world, next *configs.Config, dir string) error {
	body, err := control(ctx, cmp.Or(dir, next.RunDir), http.MethodGet, "/config", nil)
	if err != nil {
		return err
	}
	var now configs.Config
	if err := json.Unmarshal(body, &now); err != nil {
		return fmt.Errorf("the gateway's answer: %w", err)
	}
	shown, err := next.Hidden()
	if err != nil {
		return err
	}
	changes, err := configs.Diff(&now, shown)
	if err != nil {
		return err
	}
	if len(changes) == 0 {
		fmt.Fprintln(w.stdout, "✓ Nothing would change (whether a secret differs is not compared).")
		return nil
	}
	fmt.Fprintf(w.stdout, "! %d keys would change:\n", len(changes))
	for _, c := range changes {
		fmt.Fprintf(w.stdout, "  %s\n", c)
	}
	if err := ruleChanges(ctx, w.stdout, &now, next); err != nil {
		return err
	}
	writePACChanges(w.stdout, &now, next)
	return callsTouched(ctx, w.stdout, cmp.Or(dir, next.RunDir), next)
}

// ruleChanges are the firewall's rules that would have to come or go.
func ruleChanges(ctx context.Context, out io.Writer, now, next *configs.Config) error {
	sheets := make([]ruleSheet, 2)
	for i, c := range []*configs.Config{now, next} {
		names, err := gateway.NewNames(c)
		if err != nil {
			return err
		}
		sheets[i] = newSheet(c, &nameLookup{ctx: ctx, cfg: c, names: names}, time.Now())
	}
	fmt.Fprintln(out, "\nFirewall:")
	if err := writeSheetDiff(out, sheets[0], sheets[1]); err != nil && !errors.Is(err, errSilent) {
		return err
	}
	return nil
}

// writePACChanges compares what the PAC file answers for each service host.
func writePACChanges(out io.Writer, now, next *configs.Config) {
	hosts := make(map[string]bool)
	for _, c := range []*configs.Config{now, next} {
		for _, s := range c.Services {
			for _, h := range s.Hosts {
				hosts[strings.Replace(h, "*", "any", 1)] = true
			}
		}
	}
	var lines []string
	for host := range hosts {
		before, after := pacAnswer(now, host), pacAnswer(next, host)
		if before != after {
			lines = append(lines, fmt.Sprintf("  %s: %s → %s", host, before, after))
		}
	}
	if len(lines) == 0 {
		fmt.Fprintln(out, "\nThe PAC file answers as before.")
		return
	}
	slices.Sort(lines)
	fmt.Fprintf(out, "\nThe PAC file would answer otherwise (browsers know within pac.max_age, %s):\n%s\n", now.PAC.MaxAge, strings.Join(lines, "\n"))
}

// pacAnswer is what a PAC file of our own says for a host; with a parent, ours alone.
func pacAnswer(c *configs.Config, host string) string {
	text, err := forward.RenderPAC(forward.PACInput{Config: c, OmitHTTPS: c.TLS.Source == "self-signed"})
	if err != nil {
		return "no PAC file"
	}
	engine, err := newPACEngine(text, netip.Addr{})
	if err != nil {
		return err.Error()
	}
	answer, err := engine.find("https://" + host + "/")
	if err != nil {
		return err.Error()
	}
	return answer
}

// callsTouched counts live sessions in regions that the next configuration does not have.
func callsTouched(ctx context.Context, out io.Writer, runDir string, next *configs.Config) error {
	body, err := control(ctx, runDir, http.MethodGet, "/api/v1/status", nil)
	if err != nil {
		return err
	}
	var s struct {
		Counts   struct{ Allocations int }
		Sessions []struct{ Service, Region string }
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return fmt.Errorf("the gateway's answer: %w", err)
	}
	gone := make(map[string]int)
	for _, ses := range s.Sessions {
		if ses.Region != "" && !hasRegion(next, ses.Service, ses.Region) {
			gone[ses.Service+"/"+ses.Region]++
		}
	}
	fmt.Fprintf(out, "\n%d media sessions are live; a reload ends none of them.\n", s.Counts.Allocations)
	for region, n := range gone {
		fmt.Fprintf(out, "  %d of them are in %s, which would be gone: they stay there to their end.\n", n, region)
	}
	return nil
}

func hasRegion(c *configs.Config, service, region string) bool {
	s := c.ServiceNamed(service)
	return s != nil && slices.ContainsFunc(s.Regions, func(r configs.Region) bool { return r.Name == region })
}

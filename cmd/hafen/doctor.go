package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"

	"hafen/configs"
	"hafen/gateway"
	statuspage "hafen/gateway/status"
)

// doctorReport is what the doctor found; its JSON is for machines.
type doctorReport struct {
	Verdict gateway.Verdict   `json:"verdict"`
	Time    time.Time         `json:"time"`
	Version string            `json:"version"`
	Checks  []gateway.Finding `json:"checks"`
	// Rules are the lines of the firewall sheet, each with what came of trying it.
	Rules []triedRule `json:"firewall,omitempty"`
}

// triedRule is a line of the firewall sheet. Verdict is SKIP where nothing was tried.
type triedRule struct {
	Number  int             `json:"number"`
	Rule    string          `json:"rule"`
	Verdict gateway.Verdict `json:"verdict"`
}

// doctor says what works on this machine and towards the cloud, and what to do about the rest.
func doctor(ctx context.Context, w world, args []string) error {
	flagSet := flags(w, "doctor")
	file := flagSet.String("config", "", "configuration `file`")
	asJSON := flagSet.Bool("json", false, "for machines")
	patience := flagSet.Duration("patience", 75*time.Second, "give up after; long-polls are held for a minute")
	if err := parse(flagSet, args, 0); err != nil {
		return err
	}
	report, err := examine(ctx, w, *file, gateway.CheckupOptions{Patience: *patience})
	if err != nil {
		return err
	}
	if *asJSON {
		e := json.NewEncoder(w.stdout)
		e.SetIndent("", "  ")
		if err := e.Encode(report); err != nil {
			return err
		}
	} else {
		report.write(w.stdout)
	}
	if report.Verdict == gateway.Fail {
		return errSilent
	}
	return nil
}

// examine makes the report. A configuration with problems is a finding; no configuration at all is an error.
func examine(ctx context.Context, w world, file string, o gateway.CheckupOptions) (doctorReport, error) {
	name, err := findConfig(file)
	if err != nil {
		return doctorReport{}, err
	}
	report := doctorReport{Version: version, Time: time.Now().UTC().Truncate(time.Second)}
	cfg, err := configs.Load(name, w.stdin, w.environ)
	if err == nil {
		cfg, err = cfg.ByHand(w.environ)
	}
	var problems configs.Problems
	switch {
	case errors.As(err, &problems):
		for _, p := range problems {
			report.Checks = append(report.Checks, gateway.Finding{Area: "configuration", About: p.Key, Verdict: gateway.Fail, Detail: p.Problem, Todo: p.Write})
		}
		report.Checks = append(report.Checks, gateway.Finding{Area: "configuration", About: "all else", Verdict: gateway.Skip, Detail: "not tried: correct the configuration first"})
	case errors.Is(err, fs.ErrPermission):
		return report, fmt.Errorf("%w: run the doctor as root, or as the user that hafen runs as", err)
	case err != nil:
		return report, fmt.Errorf("read the configuration: %w", err)
	default:
		report.Checks = append(report.Checks, gateway.Finding{Area: "configuration", About: name, Verdict: gateway.Pass, Detail: fmt.Sprintf("%d services", len(cfg.Services))})
		here := askRunning(ctx, cfg.RunDir)
		report.Checks = append(report.Checks, versionFinding(here.Version))
		report.Checks = append(report.Checks, limitFindings(here.Faults)...)
		o.Config, o.Running = cfg, here.Version != ""
		found, err := gateway.Checkup(ctx, o)
		if err != nil {
			found = []gateway.Finding{{Area: "configuration", About: name, Verdict: gateway.Fail, Detail: err.Error()}}
		}
		report.Checks = append(report.Checks, found...)
		if names, err := gateway.NewNames(cfg); err == nil {
			sheet := newSheet(cfg, &nameLookup{ctx: ctx, cfg: cfg, names: names}, report.Time)
			report.Rules = triedRules(sheet, report.Checks)
		}
	}
	report.judge()
	return report, nil
}

// triedRules marks the lines of the sheet that a check has tried. One that got through is enough: another may have failed for
// another reason, and has its own line above.
func triedRules(sheet ruleSheet, checks []gateway.Finding) []triedRule {
	worth := []gateway.Verdict{gateway.Pass, gateway.Warn, gateway.Fail}
	best := make(map[string]gateway.Verdict)
	for _, f := range checks {
		at := slices.Index(worth, f.Verdict)
		if before, tried := best[f.Target]; at >= 0 && (!tried || at < slices.Index(worth, before)) {
			best[f.Target] = f.Verdict
		}
	}
	var all []triedRule
	for _, r := range sheet.Rules {
		t := triedRule{r.Number, fmt.Sprintf("%s from %s to %s", r.service(), r.From, r.To), gateway.Skip}
		if v, tried := best[r.target()]; tried && r.FromZone == zoneDMZ {
			t.Verdict = v
		}
		all = append(all, t)
	}
	return all
}

// sibling is what the gateway that runs here says of itself. Its version is "" if none runs, or this user may not ask it.
type sibling struct {
	Version string
	Faults  []statuspage.Fault
}

func askRunning(ctx context.Context, runDir string) (r sibling) {
	if body, err := control(ctx, runDir, http.MethodGet, "/api/v1/status", nil); err == nil {
		_ = json.Unmarshal(body, &r) // no answer of a gateway's: none runs
	}
	return r
}

// limitFindings are the limits that the running gateway has come to: nothing else here is known to it alone.
func limitFindings(faults []statuspage.Fault) []gateway.Finding {
	var all []gateway.Finding
	for _, f := range faults {
		if strings.HasPrefix(f.Kind, "limit-") {
			found := gateway.Finding{Area: "limits", About: "limits", Verdict: gateway.Warn, Detail: f.Sentence, Todo: f.Advice}
			if f.Level == statuspage.Critical {
				found.Verdict = gateway.Fail
			}
			all = append(all, found)
		}
	}
	return all
}

func versionFinding(running string) gateway.Finding {
	f := gateway.Finding{Area: "version", About: "hafen " + version, Verdict: gateway.Pass, Detail: fmt.Sprintf("%s, %s/%s; ", runtime.Version(), runtime.GOOS, runtime.GOARCH)}
	switch running {
	case "":
		f.Detail += "no gateway runs here, or this user may not ask it"
	case version:
		f.Detail += "it runs"
	default:
		f.Verdict, f.Detail, f.Todo = gateway.Warn, f.Detail+"the gateway that runs here is "+running, "restart it to take in this version"
	}
	return f
}

// judge takes the worst of the checks.
func (r *doctorReport) judge() {
	r.Verdict = gateway.Pass
	for _, v := range []gateway.Verdict{gateway.Warn, gateway.Fail} {
		if r.count(v) > 0 {
			r.Verdict = v
		}
	}
}

func (r *doctorReport) count(v gateway.Verdict) int {
	n := 0
	for _, f := range r.Checks {
		if f.Verdict == v {
			n++
		}
	}
	return n
}

// write prints the verdict first, then what must be done, then all the rest.
func (r *doctorReport) write(out io.Writer) {
	switch r.Verdict {
	case gateway.Fail:
		fmt.Fprintf(out, "✕ %d of %d checks failed, %d warn.\n\n", r.count(gateway.Fail), len(r.Checks), r.count(gateway.Warn))
	case gateway.Warn:
		fmt.Fprintf(out, "! It works, with %d warnings.\n\n", r.count(gateway.Warn))
	default:
		fmt.Fprintf(out, "✓ All is well.\n\n")
	}
	order := []gateway.Verdict{gateway.Fail, gateway.Warn, gateway.Pass, gateway.Skip}
	checks := slices.Clone(r.Checks)
	slices.SortStableFunc(checks, func(a, b gateway.Finding) int { return slices.Index(order, a.Verdict) - slices.Index(order, b.Verdict) })
	area, about := 0, 0
	for _, f := range checks {
		area, about = max(area, len(f.Area)), max(about, min(len(f.About), widestAbout))
	}
	for _, f := range checks {
		fmt.Fprintf(out, "%s  %-*s  %-*s  %s\n", f.Verdict, area, f.Area, about, f.About, f.Detail)
		if f.Todo != "" {
			fmt.Fprintf(out, "      %-*s  → %s\n", area, "", f.Todo)
		}
	}
	r.writeRules(out)
}

// writeRules marks the firewall sheet's lines.
func (r *doctorReport) writeRules(out io.Writer) {
	if len(r.Rules) == 0 {
		return
	}
	fmt.Fprintf(out, "\nThe lines of the firewall sheet (hafen firewall), as far as they can be tried from here:\n")
	words := map[gateway.Verdict]string{gateway.Pass: "tried, open", gateway.Warn: "tried, closed", gateway.Fail: "tried, closed", gateway.Skip: "not tried"}
	for _, t := range r.Rules {
		fmt.Fprintf(out, "%3d  %-13s  %s\n", t.Number, words[t.Verdict], t.Rule)
	}
}

// widestAbout keeps one long name from pushing all details off the screen.
const widestAbout = 44

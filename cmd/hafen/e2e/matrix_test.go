package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// The fault matrix: real faults, a real Chromium, and the cause that the precall test names first. `make precall-matrix` tries every
// row.
var (
	matrixAll  = flag.Bool("matrix", false, "try every row of the fault matrix")
	matrixRow  = flag.String("row", "", "try the rows of the fault matrix whose names match; third: every third row, others each day")
	matrixFine = flag.Int("fine", 20, "how often -matrix tries the row in which nothing is wrong")
)

// fault is one row: what is wrong, and what the test must say of it first.
type fault struct {
	name string
	want string // the cause; "" for none at all
	also string // the second fault's, which must be among the others
	// make brings it about in the laboratory of its group, and says how the page is to be opened.
	make func(t *testing.T, l *laboratory) visit
	// within is how long the page may take; 0: as long as it takes.
	within time.Duration
	// proven: media went through the cloud and back, and the page says so.
	proven bool
}

// visit is how a browser opens the page.
type visit struct {
	office *namespace
	flags  []string
	env    []string
	hold   int    // seconds; 0: 5
	denies string // a device's permission that is refused: camera, microphone
	// during is called when the run has begun.
	during func()
	// pid is told Chromium's process, and ends when stop is closed.
	pid func(pid int, stop <-chan struct{})
}

// group is a laboratory and the faults that are tried in it, side by side or one after the other.
type group struct {
	name   string
	stand  func(t testing.TB) *laboratory
	faults []fault
	// alone: the faults change the laboratory itself, and are tried one after the other.
	alone bool
}

// outcome is a row of the confusion matrix.
type outcome struct {
	Row, Want, Also string
	Verdict         string
	Causes          []string
	Right           bool
	// Busy: the page itself found that this machine had no time for it, and so said nothing of the line.
	Busy bool
	// Late: the page took longer than it may.
	Late   bool
	Took   time.Duration // the page's own, from the start to the result
	Report report        // for whoever wonders
}

func (o outcome) String() string {
	sign := "ok   "
	switch {
	case o.Right && o.Busy:
		sign = "busy "
	case !o.Right:
		sign = "WRONG"
	}
	want := o.Want
	if want == "" {
		want = "(none)"
	}
	if o.Also != "" {
		want += " + " + o.Also
	}
	if o.Late {
		sign += " late"
	}
	return fmt.Sprintf("%s  %-34s %-44s %-5s %4.0f s  %s", sign, o.Row, want, o.Verdict, o.Took.Seconds(), strings.Join(o.Causes, ", "))
}

// TestPrecallMatrix tries the rows, each in a try of its own if it went wrong: browsers on a busy machine wobble.
func TestPrecallMatrix(t *testing.T) {
	if !matrixOnly() {
		t.Skip("takes long: make precall-matrix, and a third of it in CI")
	}
	chosen := chosenFaults()
	for _, g := range matrixGroups() {
		var rows []fault
		for _, f := range g.faults {
			if chosen(g, f) {
				rows = append(rows, f)
			}
		}
		if len(rows) > 0 {
			t.Run(g.name, func(t *testing.T) { tries(t, 1, browsers, func(t *testing.T) { tryGroup(t, g, rows) }) })
		}
	}
}

// chosenFaults says which rows are tried: all, those that match, or every third.
func chosenFaults() func(group, fault) bool {
	if *matrixRow == "third" {
		row, day := 0, time.Now().YearDay()
		return func(group, fault) bool {
			row++
			return (row+day)%3 == 0
		}
	}
	if *matrixRow != "" {
		re := regexp.MustCompile(*matrixRow)
		return func(g group, f fault) bool { return re.MatchString(g.name + "/" + f.name) }
	}
	return func(group, fault) bool { return *matrixAll }
}

// tryGroup stands the laboratory up and tries the rows, two at a time where they do not meet: each mostly waits.
func tryGroup(t *testing.T, g group, rows []fault) {
	l := g.stand(t)
	var mu sync.Mutex
	var results []outcome
	t.Cleanup(func() {
		lines := make([]string, len(results))
		for i, r := range results {
			lines[i] = r.String()
		}
		slices.Sort(lines)
		t.Logf("confusion matrix, %s:\n%s", g.name, strings.Join(lines, "\n"))
	})
	for _, f := range rows {
		t.Run(f.name, func(t *testing.T) {
			v := f.make(t, l)
			if !g.alone {
				t.Parallel()
			}
			o := tryFault(t, l, f, v)
			mu.Lock()
			defer mu.Unlock()
			results = append(results, o)
		})
	}
}

// tryFault opens the page and holds what it says against what is wrong. A row that goes wrong is tried once more, and that is told:
// browsers on a busy machine wobble. Where nothing is wrong there is no second try, but of a machine that the page found too busy: then
// it has said so, and named nothing else.
func tryFault(t *testing.T, l *laboratory, f fault, v visit) (o outcome) {
	times, tries := 1, 2
	if *matrixAll && f.name == "all fine" {
		times = *matrixFine
	}
	if f.want == "" {
		tries = 1
	}
	busy := 0
	for range times {
		for try := 1; try <= tries; try++ {
			r := l.visit(t, v)
			o = judge(f, r)
			keepOutcome(t, o)
			if o.Right {
				t.Log(o)
				break
			}
			t.Logf("try %d: %s\n%s", try, o, r)
		}
		if !o.Right {
			t.Error(o)
			return o
		}
		if o.Busy {
			busy++
		}
	}
	if busy > 0 {
		t.Logf("%s: the machine was too busy in %d of %d runs", f.name, busy, times)
	}
	return o
}

// judge: the fault's cause comes first, a second fault's is among the others; where nothing is wrong nothing is named. Of a machine that
// the page measured to be too busy the page says that first; what it says of the line then must still be true.
func judge(f fault, r report) outcome {
	o := outcome{Row: f.name, Want: f.want, Also: f.also, Verdict: r.Verdict, Causes: r.causeIDs(), Took: r.took.Round(100 * time.Millisecond), Report: r}
	causes := o.Causes
	slow := r.check("camera") == "warn" && f.want == "" // the laboratory's camera is as fast as its machine
	if f.want != "cpu-limited" && (r.late() || slow) {
		o.Busy = true
		causes = slices.DeleteFunc(slices.Clone(causes), func(id string) bool { return id == "cpu-limited" })
	}
	switch {
	case r.ID == "": // the gateway took no report, and so has judged nothing
	case f.want == "":
		o.Right = len(causes) == 0 && (r.Verdict == "pass" || r.Verdict == "warn" && o.Busy)
	case len(causes) == 0:
		o.Right = o.Busy && slices.Contains(lineCauses, f.want) // nothing was said of a line that could not be measured
	case f.also == "":
		o.Right = causes[0] == f.want
	default:
		first := causes[0] == f.want || causes[0] == f.also
		o.Right = first && slices.Contains(causes, f.want) && slices.Contains(causes, f.also)
	}
	o.Late = f.within > 0 && r.took > f.within
	o.Right = o.Right && !o.Late && (!f.proven || r.proven())
	return o
}

// proven reports whether sound and picture went through the cloud's relay and back.
func (r report) proven() bool {
	return slices.ContainsFunc(r.Checks, func(c checked) bool { return c.ID == "relay:media" && c.Level == "media" && c.Verdict == "pass" })
}

// lineCauses are those that a page can't tell on a machine that has no time for it.
var lineCauses = []string{"loss-high", "latency-high", "jitter-high", "bandwidth-low", "bufferbloat"}

// late reports whether the page found its own clockwork too late to measure by.
func (r report) late() bool {
	v := r.check("cpu")
	return v == "warn" || v == "fail" || slices.Contains(r.causeIDs(), "cpu-limited")
}

// visit runs the test page to its end and returns its report.
func (l *laboratory) visit(t *testing.T, v visit) report {
	t.Helper()
	if v.hold == 0 {
		v.hold = 5
	}
	b := newBrowserEnv(t, v.office, l.ca, v.env, voiced(t, v.flags)...)
	defer b.proc.stop()
	b.denies(t, v.denies)
	page := b.open(t, fmt.Sprintf("https://%s/precall/?autorun=1&hold=%d", gatewayName, v.hold))
	if v.during != nil {
		v.during()
	}
	if v.pid != nil {
		stop := make(chan struct{})
		defer close(stop)
		go v.pid(b.proc.cmd.Process.Pid, stop)
	}
	waitForOr(t, "the precall test's end", time.Duration(v.hold)*time.Second+2*time.Minute, func() bool {
		return page.text("document.documentElement.dataset.precall") == "done"
	}, func() string { return page.text("document.body.innerText") })
	var r report
	must(t, page.eval("window.hafenReport", &r))
	var took float64
	must(t, page.eval("performance.getEntriesByName('precall').at(-1)?.duration ?? 0", &took))
	r.took = time.Duration(took * float64(time.Millisecond))
	return r
}

// denies refuses one device and grants the other, as a person or a policy does: not with Chromium's faked answers, which know both only.
func (b *browser) denies(t *testing.T, device string) {
	t.Helper()
	if device == "" {
		return
	}
	for _, name := range []string{"camera", "microphone"} {
		setting := map[bool]string{true: "denied", false: "granted"}[name == device]
		must(t, chromedp.Do(b.ctx, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
			params := map[string]any{"permission": map[string]any{"name": name}, "setting": setting, "origin": "https://" + gatewayName}
			return target.Call(ctx, "Browser.setPermission", params, nil)
		})))
	}
}

func (r report) causeIDs() (ids []string) {
	for _, c := range r.Causes {
		ids = append(ids, c.ID)
	}
	return ids
}

// keepOutcome adds a row to the file that MATRIX_OUT names, for whoever makes a table of several runs.
func keepOutcome(t testing.TB, o outcome) {
	name := os.Getenv("MATRIX_OUT")
	if name == "" {
		return
	}
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	must(t, err)
	defer func() { must(t, f.Close()) }()
	must(t, json.NewEncoder(f).Encode(o))
}

package gateway

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hafen/gateway/status"
	"hafen/relay"
)

// ledger keeps what media sessions there were, by day and way, for the view of the last seven days: no client, and no session of its
// own. Each minute what has ended is added to the day's file, so that the processes before and after an upgrade can both write; what
// is shown is read from the files.
type ledger struct {
	dir string
	now func() time.Time

	mu    sync.Mutex
	added map[ledgerKey]ledgerSum

	week atomic.Pointer[status.Week]
}

type ledgerKey struct{ Day, Rung string }

type ledgerSum struct {
	Sessions int     `json:"sessions"`
	Seconds  float64 `json:"seconds"`
}

// ledgerLine is one line of a day's file.
type ledgerLine struct {
	Rung string `json:"rung"`
	ledgerSum
}

const (
	ledgerPeriod = time.Minute
	ledgerDays   = 7
	// maxLedger bounds what is read of a day's file: a line a minute and rung is a hundredth of it.
	maxLedger = 16 << 20
)

func newLedger(dataDir string, now func() time.Time) *ledger {
	return &ledger{dir: filepath.Join(dataDir, "sessions"), now: now, added: make(map[ledgerKey]ledgerSum)}
}

// ended counts a session that has ended, on the day on which it did.
func (l *ledger) ended(e relay.End) {
	if !e.Won || e.Test {
		return
	}
	rung, _, _ := strings.Cut(e.Rung, ":") // udp:3478 is udp
	key := ledgerKey{l.now().Format(time.DateOnly), cmp.Or(rung, "local")}
	l.mu.Lock()
	defer l.mu.Unlock()
	sum := l.added[key]
	sum.Sessions++
	sum.Seconds += e.Took.Seconds()
	l.added[key] = sum
}

// save adds what has ended since the last time to the files. What can't be written is tried again with the next.
func (l *ledger) save() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.added) == 0 {
		return nil
	}
	if err := os.MkdirAll(l.dir, 0o750); err != nil {
		return err
	}
	for key, sum := range l.added {
		line, err := json.Marshal(ledgerLine{key.Rung, sum})
		if err == nil {
			err = appendLine(l.file(key.Day), line)
		}
		if err != nil {
			return err
		}
		delete(l.added, key)
	}
	return nil
}

func (l *ledger) file(day string) string { return filepath.Join(l.dir, day+".jsonl") }

// appendLine writes a line at once: then it stands whole among those of another process.
func appendLine(file string, line []byte) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o640)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}

// read sums up the seven days of which last is one.
func (l *ledger) read(last time.Time) (*status.Week, error) {
	w := &status.Week{}
	rungs := make(map[string]ledgerSum)
	for i := range ledgerDays {
		day := status.WeekDay{Day: last.AddDate(0, 0, 1+i-ledgerDays).Format(time.DateOnly)}
		lines, err := readLedger(l.file(day.Day))
		if err != nil {
			return nil, err
		}
		for _, line := range lines {
			day.Sessions, day.Minutes = day.Sessions+line.Sessions, day.Minutes+line.Seconds/60
			sum := rungs[line.Rung]
			rungs[line.Rung] = ledgerSum{sum.Sessions + line.Sessions, sum.Seconds + line.Seconds}
		}
		w.Days = append(w.Days, day)
		w.Sessions, w.Minutes = w.Sessions+day.Sessions, w.Minutes+day.Minutes
	}
	for rung, sum := range rungs {
		w.Rungs = append(w.Rungs, status.WeekRung{Rung: rung, Sessions: sum.Sessions, Minutes: sum.Seconds / 60})
	}
	slices.SortFunc(w.Rungs, func(a, b status.WeekRung) int { return cmp.Or(b.Sessions-a.Sessions, strings.Compare(a.Rung, b.Rung)) })
	return w, nil
}

// readLedger reads a day's file. A line that is none, as after a crash, is left out.
func readLedger(file string) (lines []ledgerLine, err error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	size := 0
	s := bufio.NewScanner(f)
	for s.Scan() && size < maxLedger {
		size += len(s.Bytes())
		var line ledgerLine
		if json.Unmarshal(s.Bytes(), &line) == nil && line.Rung != "" && line.Sessions >= 0 && line.Seconds >= 0 {
			lines = append(lines, line)
		}
	}
	return lines, s.Err()
}

// forget removes the files of days that no week needs any more: neither the page's nor, through its Monday, the mailed one.
func (l *ledger) forget() error {
	files, err := filepath.Glob(filepath.Join(l.dir, "*.*"))
	if err != nil {
		return err
	}
	first := l.now().AddDate(0, 0, -ledgerDays).Format(time.DateOnly)
	for _, file := range files {
		if day, _, _ := strings.Cut(filepath.Base(file), "."); day < first {
			err = errors.Join(err, os.Remove(file))
		}
	}
	return err
}

// keepWeek saves and sums up each minute until ctx ends; what ends after that is saved with Stop.
func (g *Gateway) keepWeek(ctx context.Context) {
	tick := time.NewTicker(ledgerPeriod)
	defer tick.Stop()
	for {
		g.sumWeek(ctx)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

func (g *Gateway) sumWeek(ctx context.Context) {
	now := g.opts.Now()
	err := g.ledger.save()
	week, also := g.ledger.read(now)
	if week != nil {
		week.Worst = g.worstPlace(ctx, now)
		g.ledger.week.Store(week)
	}
	if err := errors.Join(err, also, g.ledger.forget(), g.mailWeek(ctx, now)); err != nil && ctx.Err() == nil {
		g.log.Warn("what calls there were can't be kept", "area", "status", "err", err)
	}
}

// saveLast keeps what ended last, with the stop. What can't be kept is no reason for the stop to have failed: nothing else is lost.
func (g *Gateway) saveLast() {
	if err := g.ledger.save(); err != nil {
		g.log.Warn("the last minute's calls are not in the week's count: data_dir can't be written to", "area", "status", "err", err)
	}
}

// leastRuns is how many tests of a place tell anything about it.
const leastRuns = 3

// worstPlace is where most precall tests of the week before a moment failed, and their most frequent cause; nil: none failed, or too few were made.
func (g *Gateway) worstPlace(ctx context.Context, end time.Time) *status.WeekPlace {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	counts, err := g.runHistory(ctx, end.AddDate(0, 0, -ledgerDays))
	if err != nil {
		return nil // the store says itself that it is away
	}
	return worstOf(counts)
}

func worstOf(counts []status.RunCount) *status.WeekPlace {
	places := make(map[string]*status.WeekPlace)
	causes := make(map[string]map[string]int)
	for _, c := range counts {
		p := places[c.Place]
		if p == nil {
			p = &status.WeekPlace{Place: c.Place}
			places[c.Place], causes[c.Place] = p, make(map[string]int)
		}
		p.Runs += c.Runs
		if c.Verdict == "fail" {
			p.Failed += c.Runs
			causes[c.Place][c.Cause] += c.Runs
		}
	}
	var worst *status.WeekPlace
	for _, p := range places {
		for cause, n := range causes[p.Place] {
			if most := causes[p.Place][p.Cause]; n > most || n == most && cause < p.Cause {
				p.Cause = cause
			}
		}
		if p.Failed > 0 && p.Runs >= leastRuns && (worst == nil || p.Worse(worst)) {
			worst = p
		}
	}
	return worst
}

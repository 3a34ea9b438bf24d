package gateway

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"hafen/gateway/status"
	"hafen/relay"
)

// TestLedger: what has ended is summed up by day and way, over a restart and beside another process; precall tests and clients that won
// nothing do not count, half a line does no harm, and what is older than a week goes.
func TestLedger(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 20, 23, 0, 0, 0, time.Local)
	clock := func() time.Time { return now }
	old, young := newLedger(dir, clock), newLedger(dir, clock)
	old.ended(relay.End{Won: true, Rung: "tcp:3478", Took: time.Hour})
	save := func(ledgers ...*ledger) {
		t.Helper()
		for _, l := range ledgers {
			if err := l.save(); err != nil {
				t.Fatal(err)
			}
		}
	}
	save(old)
	now = now.AddDate(0, 0, 7)
	old.ended(relay.End{Won: true, Rung: "udp:3478", Took: 10 * time.Minute})
	young.ended(relay.End{Won: true, Rung: "udp:fra.example.net:3478", Took: 20 * time.Minute})
	young.ended(relay.End{Won: true, Rung: "udp:3478", Test: true, Took: time.Minute})
	young.ended(relay.End{Rung: "udp:3478", Status: "err_auth", Took: time.Minute})
	save(old, young)
	file, err := os.OpenFile(filepath.Join(dir, "sessions", "2026-11-27.jsonl"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = file.WriteString("{\"rung\":\"udp\",\"sess\n")
	_ = file.Close()
	now = now.AddDate(0, 0, 1)
	young.ended(relay.End{Won: true, Rung: "tls:443", Took: 30 * time.Minute})
	save(young, young) // the second time there is nothing to add
	last := newLedger(dir, clock)
	w, err := last.read(now)
	if err != nil {
		t.Fatal(err)
	}
	if err := last.forget(); err != nil {
		t.Fatal(err)
	}
	if w.Sessions != 3 || w.Minutes != 60 || len(w.Days) != 7 || w.Days[6] != (status.WeekDay{Day: "2026-11-28", Sessions: 1, Minutes: 30}) || w.Days[5].Sessions != 2 {
		t.Errorf("%+v", w)
	}
	if len(w.Rungs) != 2 || w.Rungs[0] != (status.WeekRung{Rung: "udp", Sessions: 2, Minutes: 30}) || w.Rungs[1].Rung != "tls" {
		t.Errorf("%+v", w.Rungs)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "sessions", "*")); len(left) != 2 {
		t.Errorf("files left: %v", left)
	}
}

// TestWorstPlace: the largest share of failed tests, not the largest number, and the cause that most of them had.
func TestWorstPlace(t *testing.T) {
	count := func(place, verdict, cause string, runs int) status.RunCount {
		return status.RunCount{Place: place, Verdict: verdict, Cause: cause, Runs: runs}
	}
	got := worstOf([]status.RunCount{
		count("Big", "pass", "", 900), count("Big", "fail", "camera-missing", 50),
		count("North", "pass", "", 4), count("North", "fail", "udp-blocked", 1), count("North", "fail", "websocket-blocked", 3), count("North", "warn", "udp-blocked", 9),
		count("One", "fail", "camera-missing", 1),
	})
	if want := (status.WeekPlace{Place: "North", Runs: 17, Failed: 4, Cause: "websocket-blocked"}); got == nil || *got != want {
		t.Errorf("%+v", got)
	}
	if got := worstOf([]status.RunCount{count("Big", "pass", "", 9)}); got != nil {
		t.Errorf("all is well, and yet %+v", got)
	}
}

package main

import (
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestRepeatsAreSummedUp: of the same failure a few lines are written, then one that says how many more there were; what goes well is
// written each time, and another failure too.
func TestRepeatsAreSummedUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out written
		h := newRepeats(slog.NewTextHandler(&out, nil))
		log := slog.New(h).With("area", "mux")
		for i := range 47 {
			log.Info("connection", "status", "err_policy", "client", "10.9.9.0/24", "in", i, "err", fmt.Errorf("read 10.9.9.7:%d: refused", 1000+i))
			log.Info("connection", "status", "ok", "client", "10.1.1.0/24", "in", i)
		}
		log.Info("connection", "status", "err_policy", "client", "10.8.8.0/24", "err", errors.New("refused"))
		log.Warn("call server failed a probe", "host", "call.example.net")
		count := func(words string) int { return strings.Count(out.String(), words) }
		if count("10.9.9.0") != freeRepeats || count("status=ok") != 47 || count("10.8.8.0") != 1 || count("call.example.net") != 1 {
			t.Errorf("%d, %d, %d, %d", count("10.9.9.0"), count("status=ok"), count("10.8.8.0"), count("call.example.net"))
		}
		time.Sleep(repeatsTime + time.Second)
		synctest.Wait()
		if !strings.Contains(out.String(), `msg="connection … 37 more in the last minute" area=mux status=err_policy client=10.9.9.0/24`) || count("repeats=37") != 1 {
			t.Error(out.String())
		}
		log.Info("connection", "status", "err_policy", "client", "10.9.9.0/24") // a minute later it is news again
		if count("10.9.9.0") != freeRepeats+2 {
			t.Error("the next minute's first line is not written")
		}
		h.tally.flush()
	})
}

// TestRepeatsAreToldAtTheEnd: what was counted is not lost when the program ends; what differs without end does not fill the memory.
func TestRepeatsAreToldAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var out written
		h := newRepeats(slog.NewTextHandler(&out, nil))
		log := slog.New(h)
		for i := range 2 * maxRepeats {
			log.Warn("odd", "host", fmt.Sprint("host-", i))
		}
		if len(h.tally.lines) != maxRepeats || strings.Count(out.String(), "\n") != 2*maxRepeats {
			t.Errorf("%d remembered, %d written", len(h.tally.lines), strings.Count(out.String(), "\n"))
		}
		for range 12 {
			log.Warn("odd", "host", "host-1")
		}
		h.tally.flush()
		if !strings.Contains(out.String(), "odd … 3 more in the last minute") {
			t.Error("the end says nothing")
		}
		time.Sleep(repeatsTime) // the timers of what was remembered
	})
}

// written is what was logged, by timers too.
type written struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

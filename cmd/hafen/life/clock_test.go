package life

import (
	"flag"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// clockMoves is make clock. It moves the clock of the whole machine: nobody else should be at work there.
var clockMoves = flag.Bool("clock", false, "move this machine's clock by hours and days, both ways, beside running calls")

// TestClockJumps: the time of day jumps, as it does when a machine that was wrong learns the time, or a sleeping virtual machine goes on.
// Calls, WebSockets and polls go on, new ones work, and nothing takes a processor for itself.
func TestClockJumps(t *testing.T) {
	if !*clockMoves {
		t.Skip("only with -clock: make clock moves the clock of the whole machine")
	}
	var moved time.Duration
	t.Cleanup(func() {
		if err := shiftClock(-moved); err != nil {
			t.Error(err)
		}
	})
	w := newWorld(t, nil)
	l := w.startLoad(20, 20, 10, 20)
	peer := echoPeer(w)
	for _, jump := range []time.Duration{2 * time.Hour, -2 * time.Hour, -2 * time.Hour, 2 * time.Hour, 40 * 24 * time.Hour, -40 * 24 * time.Hour} {
		before := w.metric("process_cpu_seconds_total")
		began := time.Now()
		if err := shiftClock(jump); err != nil {
			t.Fatalf("only root on a machine of its own can do this: %v", err)
		}
		moved += jump
		l.pause(5 * time.Second)
		for _, via := range []string{"tls", "udp"} {
			s, err := w.newStream(via, peer)
			if err != nil {
				t.Errorf("after a jump of %v: a call over %s: %v", jump, via, err)
				continue
			}
			l.pause(time.Second)
			s.giveBack()
		}
		took := time.Since(began)
		spent := w.metric("process_cpu_seconds_total") - before
		t.Logf("a jump of %v: %.2f s of processor in %.1f s", jump, spent, took.Seconds())
		if spent > took.Seconds() {
			t.Errorf("after a jump of %v it spins: %.1f s of processor in %.1f s", jump, spent, took.Seconds())
		}
		if w.metric(`hafen_relay_region_up{region="near",service="calls"}`) != 1 {
			t.Errorf("after a jump of %v the region is down", jump)
		}
	}
	l.end(time.Second)
}

// shiftClock moves the time of day. Go's own durations do not notice.
func shiftClock(by time.Duration) error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("read the clock: %w", err)
	}
	now.Sec += int64(by / time.Second)
	if err := unix.ClockSettime(unix.CLOCK_REALTIME, &now); err != nil {
		return fmt.Errorf("set the clock: %w", err)
	}
	return nil
}

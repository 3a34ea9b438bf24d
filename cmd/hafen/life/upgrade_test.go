package life

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"
)

// whole runs the tests at the size that the manual's figures are for.
var whole = flag.Bool("whole", false, "full size: 200 WebSockets, 200 long-polls, 50 streams, 100 new connections a second, 1,000 reloads")

// gapMost is the longest gap in media that is right. A crowded machine makes longer ones without anybody's doing; so the small test,
// which runs beside others, allows more.
func gapMost() time.Duration {
	if *whole {
		return 100 * time.Millisecond
	}
	return 2 * time.Second
}

// TestUpgrade: reloads and upgrades under load end nothing.
func TestUpgrade(t *testing.T) {
	w := newWorld(t, nil)
	sockets, polls, streams, rate, reloads, upgrades := 20, 20, 10, 20, 6, 2
	if *whole {
		sockets, polls, streams, rate, reloads, upgrades = 200, 200, 50, 100, 20, 3
	}
	l := w.startLoad(sockets, polls, streams, rate)
	for i := range reloads {
		w.configure(func(c string) string {
			return strings.Replace(c, "drain: 20s", fmt.Sprintf("drain: %dm\nlimits: {allocations: %d}", 10+i%2, 4000+i), 1)
		})
		if err := l.during(fmt.Sprint("reload ", i), w.reload); err != nil {
			t.Errorf("reload %d: %v", i, err)
		}
		if (i+1)%(reloads/upgrades) == 0 && (i+1)/(reloads/upgrades) <= upgrades {
			began := time.Now()
			if err := l.during("an upgrade", w.upgrade); err != nil {
				t.Fatalf("upgrade: %v\n%s", err, w.log)
			}
			t.Logf("handed over in %s to %d", time.Since(began).Round(time.Millisecond), w.pid)
		}
		l.pause(500 * time.Millisecond)
	}
	l.pause(2 * time.Second)
	if n := w.metric("hafen_build_elders"); n < 1 {
		t.Errorf("%v processes from before are left: who serves the sessions?", n)
	}
	l.end(gapMost())
	w.until("the processes from before to end", 30*time.Second, func() bool { return w.metric("hafen_build_elders") == 0 })
}

// TestUpgradeFails: a successor that can't start leaves everything as it was, and the old one says why.
func TestUpgradeFails(t *testing.T) {
	w := newWorld(t, nil)
	l := w.startLoad(3, 3, 4, 10)
	w.configure(func(c string) string { return c + "nonsense: 1\n" })
	if err := w.upgrade(); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("%v", err)
	}
	w.configure(func(c string) string {
		return strings.Replace(c, "listen: {", "tls: {source: files, files: [{cert: /nowhere.pem, key: /nowhere.key}]}\nlisten: {", 1)
	})
	if err := w.upgrade(); err == nil || !strings.Contains(err.Error(), "tls.files[0].cert") {
		t.Errorf("%v", err)
	}
	if !strings.Contains(w.log.String(), "not handed over, this process stays") {
		t.Errorf("the log does not say it: %s", w.log)
	}
	w.configure(nil)
	if err := w.upgrade(); err != nil {
		t.Errorf("after that a good one fails: %v", err)
	}
	l.pause(time.Second)
	l.end(gapMost())
}

// TestReloads: a thousand reloads, with a certificate made anew each time, drop nothing; bad ones change nothing (G-05).
func TestReloads(t *testing.T) {
	w := newWorld(t, nil)
	sockets, polls, streams, rate, reloads := 5, 5, 4, 10, 30
	if *whole {
		sockets, polls, streams, rate, reloads = 50, 50, 20, 50, 1000
	}
	l := w.startLoad(sockets, polls, streams, rate)
	var before stats
	good, bad := 0, 0
	for i := range reloads {
		if i == reloads/10 { // what is made once has been made
			before = w.stats()
		}
		w.configure(func(c string) string {
			if i%10 == 9 {
				return strings.Replace(c, "drain: 20s", "drain: soon", 1)
			}
			return strings.Replace(c, "name: "+ownName, fmt.Sprintf("name: %s\naliases: [a%d.gw.test]", ownName, i%2), 1) // another certificate
		})
		switch err := l.during(fmt.Sprint("reload ", i), w.reload); {
		case i%10 == 9 && (err == nil || !strings.Contains(err.Error(), "drain")):
			t.Fatalf("a bad configuration: %v", err)
		case i%10 == 9:
			bad++
		case err != nil:
			t.Fatalf("reload %d: %v", i, err)
		default:
			good++
		}
	}
	if ok, failed := w.metric(`hafen_config_reloads_total{result="ok"}`), w.metric(`hafen_config_reloads_total{result="failed"}`); int(ok) != good || int(failed) != bad {
		t.Errorf("%v and %v are counted, of %d good and %d bad", ok, failed, good, bad)
	}
	if w.metric("hafen_config_last_reload_successful") != 0 {
		t.Error("the last one was bad, and the metric does not say so")
	}
	after := w.stats()
	w.until("what reloads have left to end", 10*time.Second, func() bool {
		after = w.stats()
		return after.Goroutines <= before.Goroutines*1.1+20 && after.Files <= before.Files*1.1+20
	})
	t.Logf("%d reloads and %d refused: after the first %d %s, after all %s", good, bad, reloads/10, before, after)
	if after.Memory > before.Memory*1.25+(16<<20) {
		t.Errorf("memory grows: %s, then %s", before, after)
	}
	l.end(gapMost())
}

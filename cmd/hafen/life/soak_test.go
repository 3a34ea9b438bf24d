package life

import (
	"flag"
	"fmt"
	"strings"
	"testing"
	"time"
)

var soakFor = flag.Duration("soak", 0, "how long TestSoak lasts; 0: it is skipped")

// TestSoak: mixed load for a long time, with reloads, refused reloads, deaths of the region and precall reports. What the program uses
// stays flat, and nothing drops but what died with the region.
func TestSoak(t *testing.T) {
	if *soakFor == 0 {
		t.Skip("only with -soak: make soak")
	}
	w := newWorld(t, nil)
	l := w.startLoad(50, 50, 0, 20)
	region := w.cloud.Regions()[0]
	peer := echoPeer(w)
	warm := min(*soakFor/5, 2*time.Minute)
	var first, last stats
	var worst stats
	calls, reports, reloads, deaths := 0, 0, 0, 0
	began := time.Now()
	for round := 0; time.Since(began) < *soakFor; round++ {
		for _, via := range []string{"tls", "udp"} {
			s, err := w.newStream(via, peer)
			if err != nil {
				t.Errorf("a call: %v", err)
				continue
			}
			l.pause(time.Second)
			s.giveBack()
			calls++
		}
		w.configure(func(c string) string {
			return strings.Replace(c, "drain: 20s", fmt.Sprintf("drain: %ds", 20+round%2), 1)
		})
		if err := w.reload(); err != nil {
			t.Errorf("a reload: %v", err)
		}
		reloads++
		if _, err := w.report(); err != nil {
			t.Errorf("a report: %v", err)
		}
		reports++
		if round%5 == 4 {
			region.SetDown(true)
			l.pause(4 * time.Second)
			region.SetDown(false)
			w.until("the region to be back", 2*time.Minute, func() bool { return w.metric(`hafen_relay_region_up{region="near",service="calls"}`) == 1 })
			deaths++
		}
		now := w.stats()
		if first == (stats{}) && time.Since(began) > warm {
			first = now
		}
		worst = stats{max(worst.Goroutines, now.Goroutines), max(worst.Files, now.Files), max(worst.Memory, now.Memory)}
		last = now
		l.pause(time.Second)
	}
	t.Logf("%s: %d calls, %d reports, %d reloads, %d deaths of the region", time.Since(began).Round(time.Second), calls, reports, reloads, deaths)
	t.Logf("after the beginning %s; at the end %s; at most %s", first, last, worst)
	if last.Goroutines > first.Goroutines*1.2+20 || last.Files > first.Files*1.2+20 || last.Memory > first.Memory*1.25+(16<<20) {
		t.Error("it grows")
	}
	l.end(0)
}

package life

import (
	"crypto/tls"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"
)

// TestAbuse_J08: with 256 MiB to live in, 1,500 strangers who shake hands and then say nothing are borne: what it uses stays
// below that, the collector takes less than a quarter of the processor, and whoever was there before notices nothing.
func TestAbuse_J08(t *testing.T) {
	w := newWorld(t, nil, "env", "GOMEMLIMIT=200MiB", "GODEBUG=gctrace=1")
	l := w.startLoad(5, 2, 2, 20)
	var mu sync.Mutex
	var crowd []net.Conn
	var came sync.WaitGroup
	for i := range 10 {
		came.Go(func() {
			for range 150 {
				d := tls.Dialer{NetDialer: &net.Dialer{Timeout: 20 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 8, byte(1+i))}}, Config: tlsConfig(ownName)}
				if c, err := d.Dial("tcp", w.addr); err == nil {
					mu.Lock()
					crowd = append(crowd, c)
					mu.Unlock()
				}
			}
		})
	}
	came.Wait()
	most := w.stats().Memory
	for range 5 {
		l.pause(time.Second)
		most = max(most, w.stats().Memory)
	}
	if code, _ := w.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez answers %d", code)
	}
	for _, c := range crowd {
		_ = c.Close()
	}
	l.end(0)
	share := collector(w.log.String())
	t.Logf("%d strangers; at most %.1f MiB; %d %% of the processor for the collector", len(crowd), most/(1<<20), share)
	if len(crowd) < 1000 {
		t.Error("few strangers came in: little was tried")
	}
	if most > 256<<20 {
		t.Error("more memory than there is")
	}
	if share < 0 || share >= 25 {
		t.Error("the collector takes more than a quarter of the processor, or did not say")
	}
}

var collected = regexp.MustCompile(`(?m)^gc \d+ @[\d.]+s (\d+)%:`)

// collector is the share of the processor that collections have taken since the start, as the runtime says at each; -1: it did not.
func collector(log string) int {
	all := collected.FindAllStringSubmatch(log, -1)
	if len(all) == 0 {
		return -1
	}
	share, err := strconv.Atoi(all[len(all)-1][1])
	if err != nil {
		return -1
	}
	return share
}

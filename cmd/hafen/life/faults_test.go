package life

import (
	"crypto/tls"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

var kills = flag.Int("kills", 50, "how many times TestKills kills the program")

// TestKills: the program is killed at random moments while reports come in. Whatever was acknowledged is there afterwards, and so is
// the authority of the certificate.
func TestKills(t *testing.T) {
	w := newWorld(t, nil)
	authority := w.authority()
	var slowest time.Duration
	acknowledged := make(map[string]bool)
	for range *kills {
		for code := range w.reportUntilKilled(time.Duration(rand.IntN(300)) * time.Millisecond) {
			acknowledged[code] = true
		}
		began := time.Now()
		w.start()
		slowest = max(slowest, time.Since(began))
	}
	for code := range acknowledged {
		if out, err := w.command("explain", code); err != nil {
			t.Fatalf("the report %s was acknowledged and is not there: %v: %s", code, err, out)
		}
	}
	if again := w.authority(); again != authority {
		t.Errorf("another authority: %s, not %s", again, authority)
	}
	t.Logf("%d kills, %d acknowledged reports, all there; slowest start %s", *kills, len(acknowledged), slowest.Round(time.Millisecond))
	if len(acknowledged) == 0 {
		t.Error("no report was acknowledged: nothing was tried")
	}
	if strings.Contains(w.log.String(), "set aside") {
		t.Errorf("a store was set aside: %s", w.log)
	}
}

// reportUntilKilled sends reports, kills the program after a while, and returns the codes of those that were acknowledged.
func (w *world) reportUntilKilled(after time.Duration) map[string]bool {
	var mu sync.Mutex
	codes := make(map[string]bool)
	var senders sync.WaitGroup
	stop := make(chan struct{})
	for range 3 {
		senders.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if code, err := w.report(); err == nil {
					mu.Lock()
					codes[code] = true
					mu.Unlock()
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	time.Sleep(after)
	w.signal(syscall.SIGKILL)
	_ = w.cmd.Wait()
	close(stop)
	senders.Wait()
	return codes
}

// report sends what a page has measured, and returns the code that it was given.
func (w *world) report() (code string, err error) {
	run, err := w.keep(w.visitor("127.0.0.1"), `{"id":"rtt","result":"ok","value":3,"ms":1}`)
	return run.Code, err
}

// keptRun is how a run is found that the gateway has acknowledged.
type keptRun struct{ ID, Code string }

// keep sends a report with some checks from a browser.
func (w *world) keep(browser *http.Client, checks string) (keptRun, error) {
	body := fmt.Sprintf(`{"version":1,"clock":%d,"hold":45,"checks":[%s]}`, time.Now().UnixMilli(), checks)
	resp, err := browser.Post("https://"+ownName+"/precall/report", "application/json", strings.NewReader(body))
	if err != nil {
		return keptRun{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return keptRun{}, err
	}
	var answer struct{ Report keptRun }
	if err := json.Unmarshal(text, &answer); err != nil || resp.StatusCode != http.StatusOK || answer.Report.Code == "" {
		return keptRun{}, fmt.Errorf("%s: %.200s", resp.Status, text)
	}
	return answer.Report, nil
}

// authority is the key of the small authority that has signed the certificate in use: browsers were told to trust it, once.
func (w *world) authority() string {
	w.t.Helper()
	conn, err := w.dial(ownName)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	return fmt.Sprintf("%x", conn.(*tls.Conn).ConnectionState().PeerCertificates[0].AuthorityKeyId)
}

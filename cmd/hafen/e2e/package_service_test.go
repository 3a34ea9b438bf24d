package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// isReady waits until the gateway says so.
func (m *machine) isReady(l *laboratory) {
	m.t.Helper()
	waitForOr(m.t, "the gateway to be ready", 30*time.Second, func() bool { return l.metricsGet("/readyz?strict=1") != "" },
		func() string { return m.try("journalctl", "--no-pager", "-n", "100", "-u", "hafen") })
}

// isGreen wants the precall test to find nothing but, on a crowded machine, that this one is slow.
func (m *machine) isGreen(r report) {
	m.t.Helper()
	var not []string
	for _, c := range r.Checks {
		if c.Verdict != "pass" && c.Verdict != "skipped" {
			not = append(not, fmt.Sprintf("%s %s: %s (%s)", c.ID, c.Target, c.Verdict, c.Detail))
		}
	}
	m.t.Logf("verdict %s, causes %q, not passed: %q", r.Verdict, r.causes(), not)
	for _, c := range r.Causes {
		if !slices.Contains([]string{"cpu-limited", "bandwidth-low"}, c.ID) {
			m.t.Errorf("the precall test finds %s: %s", c.ID, r)
		}
	}
	if r.Verdict == "fail" {
		m.t.Errorf("the precall test fails: %s", r)
	}
}

// mainPID is the process that systemd takes for the gateway.
func (m *machine) mainPID() string {
	return m.try("systemctl", "show", "--value", "--property=MainPID", "hafen")
}

// configured edits the configuration and gives what it was.
func (m *machine) configured(change func(string) string) (before string) {
	m.t.Helper()
	before = m.read("/etc/hafen/hafen.yaml")
	must(m.t, os.WriteFile(filepath.Join(m.root, "etc/hafen/hafen.yaml"), []byte(change(before)), 0o640))
	return before
}

// reloads has systemd reload a good configuration and a bad one. The process stays the same.
func (m *machine) reloads(l *laboratory) {
	m.t.Helper()
	pid := m.mainPID()
	before := m.configured(func(c string) string { return strings.Replace(c, "level: debug", "level: info", 1) })
	m.run("systemctl", "reload", "hafen")
	if n := l.metric(`hafen_config_reloads_total{result="ok"}`); n != 1 {
		m.t.Errorf("%v reloads", n)
	}
	m.configured(func(c string) string { return c + "nonsense: 1\n" })
	if _, err := m.command(m.t.Context(), "systemctl", "reload", "hafen").CombinedOutput(); err == nil {
		m.t.Error("a bad configuration was reloaded")
	}
	if log := m.try("journalctl", "--no-pager", "-u", "hafen"); !strings.Contains(log, "key=nonsense") {
		m.t.Errorf("the journal does not name the key:\n%s", log)
	}
	m.configured(func(string) string { return before })
	m.run("systemctl", "reload", "hafen")
	if now := m.mainPID(); now != pid || m.try("systemctl", "is-active", "hafen") != "active" {
		m.t.Errorf("process %s became %s: %s", pid, now, m.try("systemctl", "status", "hafen"))
	}
}

// patience is how long a connection may wait for a gateway that is started anew, on a machine that has other things to do.
const patience = time.Minute

// knocking makes a new connection every 50 ms, as browsers would, until it is stopped; then it tells how it went.
type knocking struct {
	stop, done     chan struct{}
	tried, refused atomic.Int64
	slowest        time.Duration
	why            []string // of what was refused
}

func startKnocking(from *namespace) *knocking {
	k := &knocking{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(k.done)
		for {
			select {
			case <-k.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			began := time.Now()
			k.tried.Add(1)
			if body, code := get(from, "https://"+gatewayAddr+"/", gatewayName, patience); code != http.StatusOK {
				k.refused.Add(1)
				k.why = append(k.why, fmt.Sprintf("%d after %v: %.200s", code, time.Since(began), body))
			}
			k.slowest = max(k.slowest, time.Since(began))
		}
	}()
	return k
}

func (k *knocking) end(t testing.TB, while string) {
	t.Helper()
	close(k.stop)
	<-k.done
	t.Logf("%s: %d new connections, %d refused, the slowest answered after %v", while, k.tried.Load(), k.refused.Load(), k.slowest.Round(time.Millisecond))
	if k.refused.Load() > 0 {
		t.Errorf("%s: %d of %d new connections were refused: %s", while, k.refused.Load(), k.tried.Load(), strings.Join(k.why, "; "))
	}
}

// upgrades lets dpkg put another program in place while a call goes on. The service goes over to it by ExecReload: systemd has another
// main process, and the old one serves the call to its end.
func (m *machine) upgrades(l *laboratory, ward *namespace, what string, dpkg ...string) {
	m.t.Helper()
	old := m.mainPID()
	calls := []*smallCall{l.smallCall(m.t, ward, "tls", 20*time.Second), l.smallCall(m.t, ward, "udp", 20*time.Second)}
	knocks := startKnocking(ward)
	m.run(append([]string{"dpkg"}, dpkg...)...)
	waitForOr(m.t, "another main process", 30*time.Second, func() bool { return m.mainPID() != old },
		func() string { return m.try("journalctl", "--no-pager", "-n", "50", "-u", "hafen") })
	m.isReady(l)
	time.Sleep(time.Second) // so that the call has something after it
	knocks.end(m.t, what)
	for _, call := range calls {
		for _, end := range call.ends {
			got := end.got.Load()
			waitFor(m.t, "packets after it", 5*time.Second, func() bool { return end.got.Load() > got+10 })
			m.t.Logf("%s: a call went on, %d packets, at most %v apart", what, end.got.Load(), time.Duration(end.worst.Load()).Round(time.Millisecond))
		}
	}
	if state := m.try("systemctl", "is-active", "hafen"); state != "active" || m.try("systemctl", "show", "--value", "--property=NRestarts", "hafen") != "0" {
		m.t.Errorf("%s: %s", what, m.try("systemctl", "status", "hafen"))
	}
	if m.try("cat", "/proc/"+old+"/comm") != "hafen" {
		m.t.Errorf("process %s, which has the calls, is gone", old)
	}
	for _, call := range calls {
		call.close()
	}
}

// elders waits until the processes from before have served their last: a browser's idle connections stay for two minutes.
func (m *machine) elders(l *laboratory) {
	m.t.Helper()
	waitForOr(m.t, "the processes from before to end", 4*time.Minute, func() bool { return l.metric("hafen_build_elders") == 0 },
		func() string { return m.try("systemctl", "status", "hafen") })
	if left := m.try("sh", "-c", "grep -lx hafen /proc/[0-9]*/comm"); left != "/proc/"+m.mainPID()+"/comm" {
		m.t.Errorf("not one process is left but %s", left)
	}
}

// crashes kills the process. systemd keeps its sockets meanwhile, and connections wait in them.
func (m *machine) crashes(l *laboratory, ward *namespace) {
	m.t.Helper()
	old := m.mainPID()
	knocks := startKnocking(ward)
	m.run("sh", "-c", "kill -KILL "+old)
	waitFor(m.t, "another main process", 30*time.Second, func() bool { pid := m.mainPID(); return pid != old && pid != "0" })
	m.isReady(l)
	knocks.end(m.t, "killed")
}

// hangs stops the process as a stuck one would: systemd misses its sign of life and starts it anew.
func (m *machine) hangs(l *laboratory) {
	m.t.Helper()
	old := m.mainPID()
	m.run("sh", "-c", "kill -STOP "+old)
	began := time.Now()
	waitForOr(m.t, "systemd to start another process", 90*time.Second, func() bool { pid := m.mainPID(); return pid != old && pid != "0" },
		func() string { return m.try("systemctl", "status", "hafen") })
	m.isReady(l)
	m.t.Logf("a process that hangs was found out and another one ready after %v", time.Since(began).Round(100*time.Millisecond))
	if log := m.try("journalctl", "--no-pager", "-u", "hafen"); !strings.Contains(log, "Watchdog timeout") || !strings.Contains(log, "goroutine ") {
		m.t.Error("the journal does not say where it hung")
	}
}

// isActivated lets systemd hold port 443, and start the gateway for the first connection. Then it hands over, and is stopped, and the
// port stays open.
func (m *machine) isActivated(l *laboratory, ward *namespace) {
	m.t.Helper()
	m.run("systemctl", "stop", "hafen")
	m.run("systemctl", "start", "hafen.socket")
	if state := m.try("systemctl", "is-active", "hafen"); state == "active" {
		m.t.Fatalf("the gateway is %s", state)
	}
	began := time.Now()
	if body, code := get(ward, "https://"+gatewayAddr+"/", gatewayName, patience); code != http.StatusOK {
		m.t.Fatalf("the first connection: %d %s\n%s", code, body, m.try("journalctl", "--no-pager", "-n", "50", "-u", "hafen"))
	}
	m.t.Logf("the connection that started the gateway was answered after %v", time.Since(began).Round(time.Millisecond))
	m.isReady(l)
	old := m.mainPID()
	call := l.smallCall(m.t, ward, "tls", 20*time.Second)
	knocks := startKnocking(ward)
	m.run("sh", "-ec", "cp /usr/bin/hafen /usr/bin/hafen.new && mv /usr/bin/hafen.new /usr/bin/hafen && systemctl reload hafen")
	waitFor(m.t, "another main process", 30*time.Second, func() bool { return m.mainPID() != old })
	got := call.ends[0].got.Load()
	waitFor(m.t, "packets after it", 5*time.Second, func() bool { return call.ends[0].got.Load() > got+10 })
	call.close()
	waitFor(m.t, "the old process to end", time.Minute, func() bool { return m.try("cat", "/proc/"+old+"/comm") == "" })
	m.run("systemctl", "restart", "hafen")
	m.isReady(l)
	knocks.end(m.t, "activated by its socket, handed over, restarted")
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	m.run("systemctl", "stop", "hafen.service")
	conn, err := ward.dial(ctx, "tcp", gatewayAddr+":443")
	if err != nil {
		m.t.Errorf("with the gateway stopped port 443 is closed: %v", err)
		return
	}
	_ = conn.Close()
}

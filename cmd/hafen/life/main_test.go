package life

import (
	"cmp"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hafen/cmd/internal/canary"
	"hafen/cmd/internal/cloud"
)

// program is the program under test.
var program string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hafen-life")
	if err != nil {
		fmt.Fprintln(os.Stderr, "life:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "hafen")
	if out, err := exec.Command("go", "build", "-o", program, "hafen/cmd/hafen").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "life: build: %v\n%s", err, out)
		return 1
	}
	// Processes that are left behind by one they were started from come to us, not to process 1.
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
	return secrets.End(os.Stdout, m.Run(), canary.Whole())
}

const (
	ownName  = "gw.test"
	callName = "calls.gw.test" // a name of the house's own, routed to the service
)

// world is the running program with a call service behind it.
type world struct {
	t     testing.TB
	dir   string
	cloud *cloud.Cloud
	addr  string // of the one port, TCP and UDP
	admin string // of listen.metrics
	log   *output
	echo  netip.AddrPort // a peer that sends back what comes, where a test has one

	program string     // under test
	inherit []*os.File // what the first process finds open, from 3 on

	mu  sync.Mutex
	cmd *exec.Cmd
	pid int // of the process that serves now
}

// output is what the processes write, all of it.
type output struct {
	mu   sync.Mutex
	text strings.Builder
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// newWorld starts it. change edits the configuration; wrap, if any, is a command that the program is run by.
func newWorld(t testing.TB, change func(string) string, wrap ...string) *world {
	t.Helper()
	w := layWorld(t, program, change)
	w.start(wrap...)
	t.Cleanup(w.end)
	return w
}

// layWorld stands up all but the program, which is binary.
func layWorld(t testing.TB, binary string, change func(string) string) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), log: &output{}, program: binary}
	w.startCloud()
	w.addr, w.admin = freeAddr(t), freeAddr(t)
	w.configure(change)
	return w
}

// bindSocket binds the one port as systemd does, and returns the command that the program is run by then: systemd says whose the
// sockets are by the process's number, which is known only to the process itself.
func (w *world) bindSocket() (wrap []string) {
	w.t.Helper()
	ln, err := net.Listen("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	file, err := ln.(*net.TCPListener).File()
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = file.Close() })
	w.inherit = []*os.File{file}
	return []string{"sh", "-c", `LISTEN_PID=$$ LISTEN_FDS=1 exec "$@"`, "sh"}
}

func (w *world) startCloud() {
	w.t.Helper()
	loopback := []string{"127.0.0.1:0"}
	var err error
	w.cloud, err = cloud.New(cloud.Options{
		Listen: "127.0.0.1:0", Secret: cloudSecret, Hold: 10 * time.Minute,
		Regions: []cloud.RegionOptions{{Name: "near", UDP: loopback, TCP: loopback, PublicIP: netip.MustParseAddr("127.0.0.1")}},
		Peers:   []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
	if err == nil {
		err = w.cloud.Start()
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = w.cloud.Close() })
}

// freeAddr is an address that nobody listens on, neither for connections nor for packets. Its port is below those that the kernel
// gives to clients: the program is started anew at the same address, and nobody must have got it meanwhile.
func freeAddr(t testing.TB) string {
	t.Helper()
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 12_000+rand.IntN(20_000))
		ln, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		_ = ln.Close()
		pc, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		_ = pc.Close()
		return addr
	}
	t.Fatal("no port is free")
	return ""
}

func (w *world) file() string { return filepath.Join(w.dir, "hafen.yaml") }

// configure writes the configuration.
func (w *world) configure(change func(string) string) {
	w.t.Helper()
	text := fmt.Sprintf(`name: %s
clients: [127.0.0.0/8]
listen: {https: ["%s"], turn_udp: ["%s"], metrics: "%s"}
services:
  - name: calls
    hosts: [call.example.net]
    private_networks: [127.0.0.0/8]
    regions: [{name: near, urls: ["%s"]}]
    probes: {https: /healthz}
signaling: {routes: [{host: %s, path: /, upstream: "http://%s", service: calls}]}
pac: {otherwise: DIRECT}
drain: 20s
log: {level: warn, format: text}
data_dir: %s
run_dir: %s
`, ownName, w.addr, w.addr, w.admin, strings.Join(w.cloud.Regions()[0].URLs(), `", "`), callName, w.cloud.Addr(), w.dir, w.dir)
	if change != nil {
		text = change(text)
	}
	text = w.filled(text)
	if err := os.WriteFile(w.file()+".new", []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(w.file()+".new", w.file()); err != nil {
		w.t.Fatal(err)
	}
}

// start runs the program, by the command wrap if there is one, and waits until it is ready.
func (w *world) start(wrap ...string) {
	w.t.Helper()
	if refused := w.tryStart(wrap...); refused != "" {
		w.t.Fatalf("the program has ended: %s", refused)
	}
}

// tryStart does the same, and returns what the program says where it ends instead.
func (w *world) tryStart(wrap ...string) (refused string) {
	w.t.Helper()
	args := append(append([]string{}, wrap...), w.program, "serve", "--config", w.file())
	w.cmd = exec.Command(args[0], args[1:]...)
	w.cmd.Stdout, w.cmd.Stderr, w.cmd.ExtraFiles = w.log, w.log, w.inherit
	w.cmd.WaitDelay = 100 * time.Millisecond
	said := len(w.log.String())
	if err := w.cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.mu.Lock()
	w.pid = w.cmd.Process.Pid
	w.mu.Unlock()
	ended := false
	w.until("the gateway to be ready", 30*time.Second, func() bool {
		var info unix.Siginfo
		_ = unix.Waitid(unix.P_PID, w.pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		ended = info.Signo != 0
		code, _ := w.get("/readyz")
		return code == http.StatusOK || ended
	})
	if !ended {
		w.look()
		return ""
	}
	return cmp.Or(fmt.Sprint(w.cmd.Wait()), "it has ended") + ": " + w.log.String()[said:]
}

// until waits for something.
func (w *world) until(what string, limit time.Duration, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(limit); !is(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("%s: waited %s for it in vain\n%s", what, limit, w.log)
		}
	}
}

// get asks the machines' listener.
func (w *world) get(path string) (int, string) {
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + w.admin + path)
	if err != nil {
		return 0, err.Error()
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	searchAnswer(w.t, path, resp.Header, string(body))
	return resp.StatusCode, string(body)
}

// metric reads one number; -1: there is none.
func (w *world) metric(name string) float64 {
	_, body := w.get("/metrics")
	for line := range strings.Lines(body) {
		var v float64
		if rest, ok := strings.CutPrefix(line, name+" "); ok {
			if _, err := fmt.Sscan(rest, &v); err == nil {
				return v
			}
		}
	}
	return -1
}

// command runs one of the program's commands against the running one.
func (w *world) command(args ...string) (string, error) {
	return ours(w.t, w.program, append(args, "--run-dir", w.dir)...)
}

// reload has the configuration read again.
func (w *world) reload() error {
	if out, err := w.command("reload"); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// upgrade hands over to a new process.
func (w *world) upgrade() error {
	out, err := w.command("reload", "--upgrade")
	if err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	if !w.takePID(out) {
		return fmt.Errorf("%q", out)
	}
	w.look()
	return nil
}

// takePID reads who has taken over.
func (w *world) takePID(said string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := fmt.Sscanf(said, "handed over to process %d", &w.pid)
	return err == nil
}

func (w *world) signal(s syscall.Signal) {
	w.mu.Lock()
	defer w.mu.Unlock()
	_ = syscall.Kill(w.pid, s)
}

// end ends all of it, waits for all processes that the first one has led to, and searches what they have said.
func (w *world) end() {
	w.look()
	defer func() { secrets.Search(w.t, "the gateway's output", w.log.String()) }()
	w.signal(syscall.SIGTERM)
	time.AfterFunc(300*time.Millisecond, func() { w.signal(syscall.SIGTERM) }) // now
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = w.cmd.Wait()
		if w.pid != w.cmd.Process.Pid {
			_, _ = syscall.Wait4(w.pid, nil, 0, nil)
		}
	}()
	select {
	case <-done:
	case <-time.After(15 * time.Second):
		_ = syscall.Kill(w.pid, syscall.SIGKILL)
		_ = w.cmd.Process.Kill()
		w.t.Errorf("the program does not end\n%s", w.log)
	}
}

// stats are what the program uses.
type stats struct {
	Goroutines, Files, Memory float64
}

func (w *world) stats() stats {
	return stats{w.metric("go_goroutines"), w.metric("process_open_fds"), w.metric("process_resident_memory_bytes")}
}

func (s stats) String() string {
	return fmt.Sprintf("%.0f goroutines, %.0f descriptors, %.1f MiB", s.Goroutines, s.Files, s.Memory/(1<<20))
}

// tlsConfig is a client's. Whose certificate it is does not matter here.
func tlsConfig(name string) *tls.Config {
	return &tls.Config{InsecureSkipVerify: true, ServerName: name} //nolint:gosec // it changes with each certificate that is made anew
}

// dial connects to the one port.
func (w *world) dial(name string) (net.Conn, error) {
	return tls.DialWithDialer(&net.Dialer{Timeout: 10 * time.Second}, "tcp", w.addr, tlsConfig(name))
}

package life

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// TestAbuse_J01: SIGTERM with sessions: /readyz says so at once, new work is refused, what lives goes on until the drain's end.
func TestAbuse_J01(t *testing.T) {
	w := newWorld(t, nil)
	l := w.startLoad(10, 0, 4, 0)
	w.signal(syscall.SIGTERM)
	w.until("/readyz to answer 503", 2*time.Second, func() bool { code, _ := w.get("/readyz"); return code == http.StatusServiceUnavailable })
	if code, _ := w.get("/livez"); code != http.StatusOK {
		t.Errorf("/livez answers %d: a gateway that drains lives", code)
	}
	if err := l.ask("https://" + callName + "/healthz"); err == nil || !strings.Contains(err.Error(), "503") {
		t.Errorf("new work: %v", err)
	}
	before := l.said.Load()
	l.pause(2 * time.Second)
	if l.said.Load() == before {
		t.Error("the WebSockets that live are silent")
	}
	l.end(0)
	began := time.Now()
	w.signal(syscall.SIGTERM) // allocations are left: nobody gave them back
	if err := w.cmd.Wait(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("the second SIGTERM took %s", took)
	}
}

// TestAbuse_J01Limit: the drain ends with the last session, and at its limit in any case.
func TestAbuse_J01Limit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		leave bool // the session ends by itself
		drain string
		least time.Duration
	}{{"last session", true, "1m", 0}, {"limit", false, "2s", 1500 * time.Millisecond}} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, func(c string) string { return strings.Replace(c, "drain: 20s", "drain: "+tt.drain, 1) })
			l := &load{w: w}
			l.ctx, l.cancel = context.WithCancel(t.Context())
			ws, err := l.open()
			if err != nil {
				t.Fatal(err)
			}
			began := time.Now()
			w.signal(syscall.SIGTERM)
			if tt.leave {
				time.Sleep(200 * time.Millisecond)
				_ = ws.Close(websocket.StatusNormalClosure, "")
			}
			if err := w.cmd.Wait(); err != nil {
				t.Errorf("it ends with %v", err)
			}
			if took := time.Since(began); took < tt.least || took > 20*time.Second {
				t.Errorf("it took %s", took)
			}
		})
	}
}

// TestAbuse_J03: after kill -9 it takes connections again at once, and clients allocate again.
func TestAbuse_J03(t *testing.T) {
	w := newWorld(t, nil)
	peer := echoPeer(w)
	s, err := w.newStream("tls", peer)
	if err != nil {
		t.Fatal(err)
	}
	defer s.close()
	w.signal(syscall.SIGKILL)
	_ = w.cmd.Wait()
	began := time.Now()
	w.start()
	t.Logf("ready %s after the start", time.Since(began).Round(time.Millisecond))
	again, err := w.newStream("tls", peer)
	if err != nil {
		t.Fatal(err)
	}
	defer again.close()
	t.Logf("allocated again %s after the start", time.Since(began).Round(time.Millisecond))
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
}

// TestAbuse_J07: out of descriptors it refuses what is new, serves what it has, answers machines, and recovers (E-07).
func TestAbuse_J07(t *testing.T) {
	w := newWorld(t, nil, "prlimit", "--nofile=256:256")
	l := w.startLoad(5, 0, 2, 0)
	var crowd []net.Conn
	defer func() {
		for _, c := range crowd {
			_ = c.Close()
		}
	}()
	for range 400 {
		c, err := net.DialTimeout("tcp", w.addr, time.Second)
		if err != nil {
			break
		}
		crowd = append(crowd, c)
	}
	said := l.said.Load()
	l.pause(2 * time.Second)
	if l.said.Load() == said {
		t.Error("the WebSockets that live are silent during the storm")
	}
	for _, path := range []string{"/livez", "/metrics"} {
		if code, body := w.get(path); code != http.StatusOK {
			t.Errorf("%s during the storm: %d %.100s", path, code, body)
		}
	}
	for _, c := range crowd {
		_ = c.Close()
	}
	crowd = nil
	w.until("new connections to be served again", 10*time.Second, func() bool { return l.visit() == nil })
	l.end(0)
}

// TestAbuse_J11: an address that is taken is named, with what to do; nothing else stays bound.
func TestAbuse_J11(t *testing.T) {
	w := newWorld(t, nil)
	dir := t.TempDir()
	other := freeAddr(t)
	text, err := os.ReadFile(w.file())
	if err != nil {
		t.Fatal(err)
	}
	for key, change := range map[string]func(string) string{
		"listen.https":   func(c string) string { return strings.Replace(c, `metrics: "`+w.admin, `metrics: "`+other, 1) },
		"listen.metrics": func(c string) string { return strings.ReplaceAll(c, w.addr, other) },
	} {
		file := filepath.Join(dir, key+".yaml")
		c := change(strings.NewReplacer("data_dir: "+w.dir, "data_dir: "+dir, "run_dir: "+w.dir, "run_dir: "+dir).Replace(string(text)))
		if err := os.WriteFile(file, []byte(c), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := ours(t, program, "serve", "--config", file)
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 1 || !strings.Contains(out, key+": can't listen at") || !strings.Contains(out, "another program listens there already") {
			t.Errorf("%s: %v: %s", key, err, out)
		}
		if conn, err := net.DialTimeout("tcp", other, time.Second); err == nil {
			_ = conn.Close()
			t.Errorf("%s: something listens at %s all the same", key, other)
		}
	}
}

// TestAbuse_J02Follow: `hafen reload --follow` reloads while the program on the disk is the one that runs, and else hands over.
func TestAbuse_J02Follow(t *testing.T) {
	mine := filepath.Join(t.TempDir(), "hafen")
	copyFile(t, program, mine)
	w := layWorld(t, mine, nil)
	w.start()
	t.Cleanup(w.end)
	if out, err := w.command("reload", "--follow"); err != nil || strings.TrimSpace(out) != "reloaded" {
		t.Fatalf("%v: %s", err, out)
	}
	copyFile(t, program, mine)
	out, err := w.command("reload", "--follow")
	if err != nil || !w.takePID(out) {
		t.Fatalf("%v: %s", err, out)
	}
	if code, _ := w.get("/livez"); code != http.StatusOK {
		t.Errorf("the successor answers %d", code)
	}
}

// copyFile puts a copy in the place of what is there, as packages are installed.
func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to+".new", os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(out, in)
	if err := errors.Join(err, out.Close(), os.Rename(to+".new", to)); err != nil {
		t.Fatal(err)
	}
}

// TestServiceManager: what systemd is told, and the sockets that it holds (socket activation, and its store after a crash).
func TestServiceManager(t *testing.T) {
	dir := t.TempDir()
	manager, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer manager.Close()
	t.Setenv("NOTIFY_SOCKET", filepath.Join(dir, "notify"))
	t.Setenv("WATCHDOG_USEC", strconv.Itoa(300_000))
	heard := make(chan string, 100)
	go func() {
		buf := make([]byte, 4096)
		for {
			oob := make([]byte, 128)
			n, rights, _, _, err := manager.ReadMsgUnix(buf, oob)
			if err != nil {
				return
			}
			text := string(buf[:n])
			if rights > 0 {
				text += "\nwith a descriptor"
			}
			heard <- text
		}
	}()
	await := func(what string) string {
		t.Helper()
		for limit := time.After(20 * time.Second); ; {
			select {
			case text := <-heard:
				if strings.Contains(text, what) {
					return text
				}
			case <-limit:
				t.Fatalf("systemd is not told %s", what)
			}
		}
	}
	w := newWorld(t, nil)
	if text := await("FDSTORE=1"); !strings.Contains(text, "FDNAME=listen.https@") || !strings.Contains(text, "with a descriptor") {
		t.Errorf("%q", text)
	}
	if text := await("READY=1"); !strings.Contains(text, fmt.Sprintf("MAINPID=%d", w.pid)) {
		t.Errorf("%q", text)
	}
	await("WATCHDOG=1")
	if err := w.reload(); err != nil {
		t.Error(err)
	}
	await("RELOADING=1\nMONOTONIC_USEC=")
	await("READY=1")
	first := w.pid
	if err := w.upgrade(); err != nil {
		t.Fatal(err)
	}
	if text := await("MAINPID="); text != fmt.Sprintf("MAINPID=%d", w.pid) || w.pid == first {
		t.Errorf("%q, for %d after %d", text, w.pid, first)
	}
	await("WATCHDOG=1")
	w.signal(syscall.SIGTERM)
	await("STOPPING=1")
}

// TestRestartsUnderKnocks: where systemd holds the socket, `systemctl restart` of a gateway without calls refuses nobody: what is under way is
// answered, and what comes meanwhile waits for the next process.
func TestRestartsUnderKnocks(t *testing.T) {
	w := layWorld(t, program, nil)
	activated := w.bindSocket()
	w.start(activated...)
	t.Cleanup(w.end)
	stop := make(chan struct{})
	var knockers sync.WaitGroup
	var answered, refused atomic.Int64
	for range 4 {
		knockers.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
				}
				if err := w.knock(); err != nil {
					refused.Add(1)
					t.Error(err)
				} else {
					answered.Add(1)
				}
			}
		})
	}
	const restarts = 10
	for range restarts {
		time.Sleep(200 * time.Millisecond)
		w.signal(syscall.SIGTERM)
		if err := w.cmd.Wait(); err != nil {
			t.Errorf("it ended with %v", err)
		}
		w.start(activated...)
	}
	close(stop)
	knockers.Wait()
	t.Logf("%d restarts, %d connections answered, %d refused", restarts, answered.Load(), refused.Load())
}

// knock asks for a page on a connection of its own.
func (w *world) knock() error {
	conn, err := w.dial(ownName)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", ownName); err != nil {
		return err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	_, err = io.Copy(io.Discard, resp.Body)
	return err
}

// TestActivation: a socket that systemd has bound is taken, and what has come to it before the start is served.
func TestActivation(t *testing.T) {
	w := layWorld(t, program, nil)
	activated := w.bindSocket()
	early, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer early.Close()
	w.start(activated...)
	t.Cleanup(w.end)
	fmt.Fprintf(early, "GET /livez HTTP/1.1\r\nHost: %s\r\n\r\n", ownName)
	_ = early.SetReadDeadline(time.Now().Add(10 * time.Second))
	resp, err := http.ReadResponse(bufio.NewReader(early), nil)
	if err != nil {
		t.Fatalf("who came before the start: %v", err)
	}
	_ = resp.Body.Close()
}

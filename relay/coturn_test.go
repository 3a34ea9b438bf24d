package relay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// needs skips the test when a program of Debian's coturn is not there; in CI that is an error.
func needs(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err == nil {
		return path
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is needed: apt-get install coturn", program)
	}
	t.Skipf("skipped: no %s (apt-get install coturn)", program)
	return ""
}

// newCoturn starts Debian's coturn as a region on loopback, and gives its URLs.
func newCoturn(t *testing.T) map[string]string {
	t.Helper()
	turnserver := needs(t, "turnserver")
	port := freePort(t)
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, turnserver, "-n", "--no-cli", "--no-tls", "--no-dtls", "-L", "127.0.0.1", "-E", "127.0.0.1",
		"--listening-port", strconv.Itoa(port), "--allow-loopback-peers", "--lt-cred-mech", "--user", pionUser+":"+pionPassword,
		"--realm", pionRealm, "--pidfile", filepath.Join(dir, "pid"), "--log-file", filepath.Join(dir, "log"), "--simple-log",
		"--userdb", filepath.Join(dir, "db"), "--no-multicast-peers")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	addr := fmt.Sprintf("127.0.0.1:%d", port)
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if answersBinding("tcp", addr) && answersBinding("udp", addr) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("coturn does not listen: %s", out.String())
		}
	}
	return map[string]string{
		"udp": fmt.Sprintf("turn:region.test:%d?transport=udp", port),
		"tcp": fmt.Sprintf("turn:region.test:%d?transport=tcp", port),
	}
}

// answersBinding asks a STUN server whether it is there: of its two sockets coturn opens one before the other.
func answersBinding(network, addr string) bool {
	conn, err := net.Dial(network, addr)
	if err != nil {
		return false
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	if _, err := conn.Write(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw); err != nil {
		return false
	}
	n, _ := conn.Read(make([]byte, 1500))
	return n > 0
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

var lostPackets = regexp.MustCompile(`start_mclient: tot_send_msgs=(\d+), tot_recv_msgs=(\d+)\n(?:.*\n)*?.*Total lost packets (\d+)`)

// coturn's own load client through the bridge to coturn: nothing is lost, and nothing is left. Its runs are mostly waiting, so they
// run side by side.
func TestBridgeTurnutils(t *testing.T) {
	t.Parallel()
	uclient := needs(t, "turnutils_uclient")
	urls := newCoturn(t)
	var wg sync.WaitGroup
	for _, rung := range []string{"udp", "tcp"} {
		h := newHouse(t, []string{urls[rung]}, nil)
		for _, run := range []struct {
			via   string
			addr  net.Addr
			flags []string
		}{{"tls", h.tls.Addr(), []string{"-t", "-S"}}, {"tcp", h.tcp.Addr(), []string{"-t"}}, {"udp", h.udp.LocalAddr(), nil}} {
			_, port, _ := net.SplitHostPort(run.addr.String())
			wg.Go(func() {
				out, lost := runUclient(uclient, port, run.flags)
				if lost != nil {
					t.Errorf("%s over %s: %v\n%s\n%s", run.via, rung, lost, out, h.log.String())
				}
			})
		}
	}
	wg.Wait()
}

// runUclient has two pairs of clients send to each other; the error says what was lost.
func runUclient(uclient, port string, flags []string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	args := append(flags, "-u", pionUser, "-w", pionPassword, "-y", "-c", "-m", "4", "-n", "25", "-l", "200", "-z", "5", "-p", port, "127.0.0.1")
	out, err := exec.CommandContext(ctx, uclient, args...).CombinedOutput()
	m := lostPackets.FindSubmatch(out)
	switch {
	case err != nil:
		return out, err
	case m == nil:
		return out, errors.New("no result")
	case string(m[3]) != "0" || string(m[1]) == "0" || string(m[1]) != string(m[2]):
		return out, fmt.Errorf("sent %s, received %s, lost %s", m[1], m[2], m[3])
	}
	return out, nil
}

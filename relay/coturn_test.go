package relay

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"
	"time"
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
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
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

// coturn's own load client through the bridge to coturn: nothing is lost, and nothing is left.
func TestBridgeTurnutils(t *testing.T) {
	uclient := needs(t, "turnutils_uclient")
	urls := newCoturn(t)
	for _, rung := range []string{"udp", "tcp"} {
		for via, flags := range map[string][]string{"tls": {"-t", "-S"}, "tcp": {"-t"}, "udp": nil} {
			t.Run(via+" over "+rung, func(t *testing.T) {
				t.Parallel()
				h := newHouse(t, []string{urls[rung]}, nil)
				port := h.udpAddr().Port
				switch via {
				case "tls":
					port = h.tls.Addr().(*net.TCPAddr).Port
				case "tcp":
					port = h.tcp.Addr().(*net.TCPAddr).Port
				}
				ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
				defer cancel()
				args := append(flags, "-u", pionUser, "-w", pionPassword, "-y", "-c", "-m", "4", "-n", "50", "-l", "200", "-z", "5",
					"-p", strconv.Itoa(port), "127.0.0.1")
				out, err := exec.CommandContext(ctx, uclient, args...).CombinedOutput()
				m := lostPackets.FindSubmatch(out)
				if err != nil || m == nil {
					t.Fatalf("%v\n%s\n%s", err, out, h.log.String())
				}
				if string(m[3]) != "0" || string(m[1]) == "0" || string(m[1]) != string(m[2]) {
					t.Errorf("sent %s, received %s, lost %s\n%s\n%s", m[1], m[2], m[3], out, h.log.String())
				}
				if via != "udp" { // over UDP it leaves two allocations behind that it never used
					h.until("every allocation's end", func() bool { return h.Live() == 0 })
				}
			})
		}
	}
}

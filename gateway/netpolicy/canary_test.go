//go:build linux

package netpolicy

import (
	"context"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// inCanaryNet tells the test binary that it runs in the namespace.
const inCanaryNet = "HAFEN_TEST_CANARY_NET"

// TestNoCanaryIsHit runs TestCanaries in a network namespace of its own, where every address there is leads to this
// machine: whatever the dialer lets through really arrives somewhere, and no byte leaves.
func TestNoCanaryIsHit(t *testing.T) {
	if os.Getenv(inCanaryNet) != "" {
		t.Skip("this is the inside")
	}
	skip := t.Skip
	if os.Getenv("CI") == "true" {
		skip = t.Fatal
	}
	if os.Geteuid() != 0 {
		skip("a network namespace needs root")
	}
	if _, err := exec.LookPath("ip"); err != nil {
		skip("iproute2 is not installed")
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestCanaries$", "-test.v")
	cmd.Env = append(os.Environ(), inCanaryNet+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: TestCanaries") {
		t.Errorf("%v\n%s", err, out)
	}
}

// TestCanaries dials every kind of forbidden address, as it is and through a name.
func TestCanaries(t *testing.T) {
	if os.Getenv(inCanaryNet) == "" {
		t.Skip("only inside the namespace of TestNoCanaryIsHit")
	}
	for _, args := range []string{"link set lo up", "route add local 0.0.0.0/0 dev lo", "-6 route add local ::/0 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v %s", args, err, out)
		}
	}
	port, canary := listen(t, "[::]:0")
	var current []netip.Addr
	d := &Dialer{Policy: testPolicy(), ConnectTimeout: time.Second}
	d.Lookup = func(context.Context, string) ([]netip.Addr, error) { return current, nil }
	reachable := 0
	for _, text := range strings.Fields(forbidden) {
		current = addrs(text)
		for _, host := range []string{text, "name.test"} {
			for _, network := range []string{"tcp", "udp"} {
				if c, err := d.DialContext(t.Context(), network, hostPort(host, port), Scope{}); err == nil {
					_ = c.Close()
					t.Errorf("%s, %s as %s: let through", text, network, host)
				}
			}
		}
		if n := canary.Load(); n != 0 {
			t.Fatalf("the canary was hit at %s", text)
		}
	}
	// Controls: the canary does stand at these addresses, and what may be reached reaches it.
	plain := &net.Dialer{Timeout: time.Second}
	for _, text := range strings.Fields(forbidden) {
		if c, err := plain.Dial("tcp", hostPort(text, port)); err == nil {
			_ = c.Close()
			reachable++
		}
	}
	if reachable < len(strings.Fields(forbidden))*2/3 {
		t.Errorf("only %d of the addresses lead to the canary", reachable)
	}
	for _, text := range strings.Fields("8.8.8.8 2606:4700::1111 64:ff9b::8.8.8.8 10.1.2.3") {
		c, err := d.DialContext(t.Context(), "tcp", hostPort(text, port), scope("10.0.0.0/8"))
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		_ = c.Close()
	}
}

// forbidden is one address of each kind, or more, of abuse.md group A.
const forbidden = `127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 ::7f00:1 ::ffff:0:127.0.0.1 0.0.0.0 :: ::ffff:0.0.0.0 0.1.2.3
	10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 ::ffff:10.1.2.3 ::10.1.2.3 169.254.169.254 ::ffff:169.254.169.254 fd00:ec2::254 169.254.170.2
	100.100.100.200 192.0.0.192 168.63.129.16 fec0::1 fc00::1 fdff:: 2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1 64:ff9b::7f00:1 64:ff9b::a01:203
	64:ff9b:1::7f00:1 64:ff9b:1:abcd::a01:203 64:ff9b:1:abcd:7f:0:100:0 2001:0:4136:e378:8000:63bf:80ff:fffe 2001:0:4136:e378:8000:63bf:f5fe:fdfc
	2606:4700::5efe:10.1.2.3 2606:4700::200:5efe:127.0.0.1 fd00::5efe:8.8.8.8 224.0.0.1 239.255.255.250 ff02::1 ff05::2 255.255.255.255 240.0.0.1
	10.20.30.255 185.9.9.127 100.64.0.1 192.0.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1 5f00::1 100::1
	10.20.30.40 185.9.9.66 185.1.2.3 2a01:db8:77::1 2a01:db8:5::7 4000::1`

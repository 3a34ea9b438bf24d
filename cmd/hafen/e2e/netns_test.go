package e2e

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// namespace is one host of the laboratory, with names of its own in /etc/netns/NAME/hosts.
type namespace struct {
	t    testing.TB
	name string // as ip netns knows it
	addr string // its first address, without the prefix length
	link string // the router's end of its line
}

// network is a router with hosts behind it: every namespace reaches every other through core, nothing reaches out.
type network struct {
	t      testing.TB
	prefix string
	core   *namespace
	subnet int
}

// networks counts them: namespaces have names of their own, so that several laboratories may stand at once.
var networks atomic.Int32

func newNetwork(t testing.TB) *network {
	n := &network{t: t, prefix: fmt.Sprintf("hf%dx%d-", os.Getpid()%100000, networks.Add(1))}
	n.core = n.namespace("core")
	n.core.run(t, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	return n
}

// namespace makes an empty namespace and removes it when the test ends.
func (n *network) namespace(short string) *namespace {
	n.t.Helper()
	ns := &namespace{t: n.t, name: n.prefix + short}
	mustRun(n.t, "ip", "netns", "add", ns.name)
	n.t.Cleanup(func() {
		_ = exec.Command("ip", "netns", "del", ns.name).Run()
		_ = os.RemoveAll(filepath.Join("/etc/netns", ns.name))
	})
	ns.run(n.t, "ip", "link", "set", "lo", "up")
	return ns
}

// host makes a namespace behind the router, on a network of its own: 10.SUBNET.0.0/24, the host being .2 and extra
// last octets as asked.
func (n *network) host(short string, extra ...int) *namespace {
	n.t.Helper()
	ns := n.namespace(short)
	n.subnet++
	base := fmt.Sprintf("10.%d.%d.", 10*((n.subnet-1)%25+1), (n.subnet-1)/25)
	link := fmt.Sprintf("v%s%d", strings.TrimSuffix(strings.TrimPrefix(n.prefix, "hf"), "-"), n.subnet)
	mustRun(n.t, "ip", "-n", n.core.name, "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", ns.name)
	mustRun(n.t, "ip", "-n", n.core.name, "addr", "add", base+"1/24", "dev", link)
	mustRun(n.t, "ip", "-n", n.core.name, "link", "set", link, "up")
	for _, last := range append([]int{2}, extra...) {
		ns.run(n.t, "ip", "addr", "add", fmt.Sprintf("%s%d/24", base, last), "dev", "eth0")
	}
	ns.run(n.t, "ip", "link", "set", "eth0", "up")
	ns.run(n.t, "ip", "route", "add", "default", "via", base+"1")
	ns.addr, ns.link = base+"2", link
	return ns
}

// names gives the namespace its hosts file and a name server of its own that answers from the same names: with a
// default route Chromium asks DNS as well, and waits for it.
func (ns *namespace) names(t testing.TB, hosts map[string]string) {
	t.Helper()
	dir := filepath.Join("/etc/netns", ns.name)
	var b strings.Builder
	b.WriteString("127.0.0.1 localhost\n")
	for name, addr := range hosts {
		fmt.Fprintf(&b, "%s %s\n", addr, name)
	}
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "hosts"), []byte(b.String()), 0o644))
	must(t, os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver 127.0.0.1\n"), 0o644))
	ns.start(t, "dnsmasq", "dnsmasq", "--keep-in-foreground", "--no-resolv", "--no-hosts", "--conf-file=/dev/null", "--user=root",
		"--pid-file=", "--bind-interfaces", "--listen-address=127.0.0.1", "--addn-hosts="+filepath.Join(dir, "hosts"), "--local=/#/")
}

// onlyTo closes the namespace: nothing leaves it but what the rules accept. A rule is an nftables match.
func (ns *namespace) onlyTo(t testing.TB, rules ...string) {
	t.Helper()
	var b strings.Builder
	b.WriteString("flush ruleset\ntable inet fw {\n chain output { type filter hook output priority 0; policy drop;\n")
	b.WriteString("  oif lo accept\n  ct state established,related accept\n")
	for _, r := range rules {
		fmt.Fprintf(&b, "  %s accept\n", r)
	}
	b.WriteString(" }\n chain input { type filter hook input priority 0; policy drop;\n  iif lo accept\n  ct state established,related accept\n }\n}\n")
	ns.nft(t, b.String())
}

func (ns *namespace) nft(t testing.TB, rules string) {
	t.Helper()
	cmd := exec.Command("ip", "netns", "exec", ns.name, "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(rules)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft in %s: %v\n%s\n%s", ns.name, err, out, rules)
	}
}

// command prepares a command that runs inside the namespace.
func (ns *namespace) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", ns.name, name}, args...)...)
}

func (ns *namespace) run(t testing.TB, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := ns.command(ctx, name, args...).CombinedOutput()
	if name == hafenBinary {
		secrets.Search(t, "hafen "+args[0], string(out))
	}
	if err != nil {
		t.Fatalf("%s: %s %s: %v\n%s", ns.name, name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// process is a program that runs until the test ends; its output is shown when the test fails. If it is ours, it is searched for secrets.
type process struct {
	t    testing.TB
	name string
	cmd  *exec.Cmd
	out  *logBuffer
	done chan struct{}
	err  error
}

// start runs a program inside the namespace until the test ends.
func (ns *namespace) start(t testing.TB, label, name string, args ...string) *process {
	t.Helper()
	return ns.startEnv(t, label, nil, name, args...)
}

func (ns *namespace) startEnv(t testing.TB, label string, env []string, name string, args ...string) *process {
	t.Helper()
	p := &process{t: t, name: label + " in " + ns.name, cmd: ns.command(context.Background(), name, args...), out: &logBuffer{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.SysProcAttr = &unix.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig follows the thread that started the child: keep it until the child ends.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(p.done)
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
		}
	}()
	must(t, <-started)
	t.Cleanup(func() {
		p.stop()
		if name == hafenBinary {
			made(t, args[len(args)-1])
			secrets.Search(t, "the output of "+p.name, p.out.String())
		}
		if t.Failed() {
			t.Logf("--- %s (%s):\n%s", label, ns.name, p.out.tail(8000))
		}
	})
	return p
}

// look searches the command line and the environment of a program of ours, and of what it has started, if it runs.
func (p *process) look() {
	select {
	case <-p.done:
	default:
		if slices.Contains(p.cmd.Args, hafenBinary) {
			secrets.Process(p.t, p.name, p.cmd.Process.Pid)
		}
	}
}

// stop asks the program to end, and after five seconds makes it.
func (p *process) stop() {
	p.look()
	_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		_ = unix.Kill(-p.cmd.Process.Pid, unix.SIGKILL)
		<-p.done
	}
}

// dial connects from inside the namespace.
func (ns *namespace) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var conn net.Conn
	err := ns.do(func() (err error) {
		conn, err = (&net.Dialer{FallbackDelay: -1}).DialContext(ctx, network, addr)
		return err
	})
	return conn, err
}

// listen listens inside the namespace.
func (ns *namespace) listen(network, addr string) (net.Listener, error) {
	var ln net.Listener
	err := ns.do(func() (err error) {
		ln, err = net.Listen(network, addr)
		return err
	})
	return ln, err
}

// do runs f on a thread that is inside the namespace. The thread ends with f: it is never given back to the others.
func (ns *namespace) do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		fd, err := unix.Open("/run/netns/"+ns.name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = unix.Close(fd) }()
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// waitFor polls until ok, or fails the test with what was waited for.
func waitFor(t testing.TB, what string, within time.Duration, ok func() bool) {
	t.Helper()
	waitForOr(t, what, within, ok, func() string { return "" })
}

// waitForOr is waitFor that also says how things stood at the end.
func waitForOr(t testing.TB, what string, within time.Duration, ok func() bool, state func() string) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		if ok() {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited %v for %s %s", within, what, state())
		}
	}
}

// waitTCP waits until something listens at addr, seen from inside the namespace.
func (ns *namespace) waitTCP(t testing.TB, addr string) {
	t.Helper()
	waitFor(t, addr+" in "+ns.name, 15*time.Second, func() bool {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		conn, err := ns.dial(ctx, "tcp", addr)
		if err != nil {
			return false
		}
		_ = conn.Close()
		return true
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func mustRun(t testing.TB, name string, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out.String())
	}
	return out.String()
}

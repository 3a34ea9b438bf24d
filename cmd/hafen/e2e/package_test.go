package e2e

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

var (
	debian   = flag.String("debian", "", "a Debian root with systemd, in which the package is installed")
	packages = flag.String("packages", "", "the folder with the deb")
)

// machine is a Debian in a container, booted by its own systemd, in the place of the gateway.
type machine struct {
	t      testing.TB
	root   string
	leader string // the process id of its systemd, as this machine sees it
}

// TestPackage installs the deb in a Debian of its own, starts the service, has a browser run the precall test, changes it in every way
// that the manual has, and removes it. `make package-test` gives it the root and the package.
func TestPackage(t *testing.T) {
	if *debian == "" {
		t.Skip("make package-test prepares what this needs")
	}
	l := newCloud(t)
	m := bootMachine(t, l.dmz)
	deb := m.packageFile()
	t.Logf("in a container of systemd-nspawn, with its own %s as process 1", strings.SplitN(m.try("systemctl", "--version"), "\n", 2)[0])
	whole, start := time.Now(), time.Now()
	step := func(what string) {
		t.Logf("%-70s %5.1f s", what, time.Since(start).Seconds())
		start = time.Now()
	}

	out := m.run("dpkg", "--install", deb)
	if !strings.Contains(out, "write name, tls and services") || m.try("systemctl", "is-enabled", "hafen") != "enabled" {
		t.Errorf("after the install:\n%s\n%s", out, m.try("systemctl", "status", "hafen"))
	}
	m.run("hafen", "version")
	step("installed, enabled, not started: there is no configuration yet")

	m.configure(l)
	m.run("hafen", "check") // by hand, root finds the credentials where the service gets them from
	m.run("systemctl", "start", "hafen")
	m.isReady(l)
	m.isConfined()
	step("checked by hand, started by systemd; the process is confined")

	ward := l.open("ward")
	m.isGreen(l.precall(t, ward))
	step("a browser's precall test is green")
	m.reloads(l)
	step("reloaded by systemctl; a bad configuration is refused")

	before := m.read("/etc/hafen/hafen.yaml")
	m.upgrades(l, ward, "upgraded", "--force-confdef", "--install", m.newer(deb))
	step("upgraded under a call: handed over, the configuration is kept")
	m.upgrades(l, ward, "rolled back", "--force-confdef", "--force-downgrade", "--install", deb)
	step("rolled back under a call: handed over")
	m.searched() // it is the second successor
	m.elders(l)
	step("the processes from before have ended by themselves")
	m.crashes(l, ward)
	step("killed, and started anew by systemd; nobody was refused")
	m.hangs(l)
	step("stopped, and started anew by systemd's watchdog")
	m.isActivated(l, ward)
	step("started by a connection to its socket; handed over; port 443 stays open")
	if m.read("/etc/hafen/hafen.yaml") != before {
		t.Error("the configuration is another one")
	}

	m.run("journalctl", "--no-pager", "-u", "hafen") // what the machine answers is searched for secrets

	m.run("dpkg", "--remove", "hafen")
	if got := m.try("systemctl", "is-active", "hafen"); got == "active" || m.try("sh", "-c", "command -v hafen") != "" || m.read("/etc/hafen/hafen.yaml") != before {
		t.Errorf("after the removal: %s", got)
	}
	step("removed: the configuration stays")
	m.run("dpkg", "--purge", "hafen")
	for _, path := range []string{"/etc/hafen/hafen.yaml", "/var/lib/hafen", "/usr/share/doc/hafen"} {
		if _, err := os.Stat(filepath.Join(m.root, path)); err == nil {
			t.Errorf("%s is there after the purge", path)
		}
	}
	step("purged: nothing is left")
	start = whole
	step("all of it")
}

// bootMachine boots a throw-away copy of the root (an overlay over it) in the namespace of a host of the laboratory.
func bootMachine(t testing.TB, in *namespace) *machine {
	t.Helper()
	dir, err := os.MkdirTemp("", "hafen-machine-") // not on an overlay itself
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	mustRun(t, "mount", "-t", "tmpfs", "tmpfs", dir)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", dir).Run() })
	m := &machine{t: t, root: filepath.Join(dir, "root")}
	for _, d := range []string{"upper", "work", "root"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o755))
	}
	mustRun(t, "mount", "-t", "overlay", "overlay", "-o", fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", *debian, dir, dir), m.root)
	t.Cleanup(func() { _ = exec.Command("umount", "-l", m.root).Run() })
	for _, file := range []string{"hosts", "resolv.conf"} {
		data, err := os.ReadFile(filepath.Join("/etc/netns", in.name, file))
		must(t, err)
		must(t, os.WriteFile(filepath.Join(m.root, "etc", file), data, 0o644))
	}
	cmd := exec.Command("systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--console=pipe",
		"--directory="+m.root, "--network-namespace-path=/run/netns/"+in.name)
	out := &logBuffer{}
	cmd.Stdout, cmd.Stderr = out, out
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = exec.Command("kill", "-KILL", m.leader).Run() // its init: all in it ends
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("the machine's console:\n%s", out.String())
		}
	})
	waitForOr(t, "the machine to have booted", time.Minute, func() bool {
		pid, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid))
		m.leader = strings.TrimSpace(string(pid))
		state := m.try("systemctl", "is-system-running")
		return err == nil && m.leader != "" && (state == "running" || state == "degraded")
	}, out.String)
	return m
}

// command prepares a command inside the machine.
func (m *machine) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--target", m.leader, "--all", "--wdns=/", "--", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive"}, args...)...)
}

// run runs a command that must succeed.
func (m *machine) run(args ...string) string {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	out, err := m.command(ctx, args...).CombinedOutput()
	secrets.Search(m.t, strings.Join(args, " "), string(out))
	if err != nil {
		m.t.Fatalf("%s: %v\n%s\n%s", strings.Join(args, " "), err, out, m.try("journalctl", "--no-pager", "-n", "50"))
	}
	return string(out)
}

// try runs a command and gives what it prints, whatever comes of it.
func (m *machine) try(args ...string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	out, _ := m.command(ctx, args...).Output()
	secrets.Search(m.t, strings.Join(args, " "), string(out))
	return strings.TrimSpace(string(out))
}

func (m *machine) read(path string) string {
	data, _ := os.ReadFile(filepath.Join(m.root, path))
	return string(data)
}

// packageFile puts the deb of this machine's architecture into the machine.
func (m *machine) packageFile() string {
	m.t.Helper()
	found, err := filepath.Glob(filepath.Join(*packages, "hafen_*_amd64.deb"))
	if err != nil || len(found) != 1 {
		m.t.Fatalf("not one deb for amd64 in %s: %v %v", *packages, found, err)
	}
	data, err := os.ReadFile(found[0])
	must(m.t, err)
	must(m.t, os.WriteFile(filepath.Join(m.root, "root", "hafen.deb"), data, 0o644))
	return "/root/hafen.deb"
}

// newer makes the same package with a higher version and another default configuration, which must not replace the administrator's.
func (m *machine) newer(deb string) string {
	m.t.Helper()
	m.run("sh", "-ec", `cd /root && dpkg-deb -R `+deb+` newer && sed -i 's/^Version: .*/Version: 999/' newer/DEBIAN/control &&
		echo '# a newer default' >> newer/etc/hafen/hafen.yaml && rm -f newer/DEBIAN/md5sums && dpkg-deb -Zgzip -z1 -b newer newer.deb`)
	return "/root/newer.deb"
}

// configure does what install.md says: the certificate and its key, the secret as a credential of the service, the file.
func (m *machine) configure(l *laboratory) {
	m.t.Helper()
	cert, key := l.ca.issue(m.t, gatewayName, callName, gatewayAddr)
	put := func(from, to string, mode os.FileMode) {
		data, err := os.ReadFile(from)
		must(m.t, err)
		must(m.t, os.WriteFile(filepath.Join(m.root, to), data, mode))
	}
	put(cert, "etc/hafen/gw.crt", 0o644)
	put(key, "etc/hafen/secrets/gw.key", 0o600)
	put(l.ca.file, "etc/hafen/cloud-ca.pem", 0o644)
	cfg := strings.Replace(oneCallServer(l.gatewayConfig()), "drain: 2s", "drain: 10m", 1)
	for from, to := range map[string]string{
		cert: "/etc/hafen/gw.crt", key: "/run/credentials/hafen.service/secrets_gw.key", l.ca.file: "/etc/hafen/cloud-ca.pem",
		filepath.Join(l.dir, "data"): "/var/lib/hafen", filepath.Join(l.dir, "run"): "/run/hafen",
	} {
		cfg = strings.ReplaceAll(cfg, from, to)
	}
	must(m.t, os.WriteFile(filepath.Join(m.root, "etc/hafen/hafen.yaml"), []byte(cfg), 0o640))
}

// searched has the machine tell the process's command line and environment: what it answers is searched for secrets.
func (m *machine) searched() {
	m.t.Helper()
	m.run("cat", "/proc/"+m.mainPID()+"/cmdline", "/proc/"+m.mainPID()+"/environ")
}

// isConfined looks at the running process: its user, its one capability, its filter of system calls, what it may write; and has systemd
// judge the unit.
func (m *machine) isConfined() {
	m.t.Helper()
	said := strings.Split(m.run("systemd-analyze", "security", "--no-pager", "--threshold=15", "hafen.service"), "\n") // fails above 1.5
	m.t.Log(strings.TrimSpace(said[len(said)-2]))
	pid := m.try("systemctl", "show", "--value", "--property=MainPID", "hafen")
	status := m.read("/proc/" + pid + "/status")
	if status == "" {
		status = m.try("cat", "/proc/"+pid+"/status")
	}
	for _, line := range []string{"CapEff:\t0000000000000400", "CapBnd:\t0000000000000400", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, line) {
			m.t.Errorf("the process lacks %q:\n%s", line, status)
		}
	}
	const nice = 16 // behind the program's name (proc(5))
	if _, numbers, _ := strings.Cut(m.try("cat", "/proc/"+pid+"/stat"), ") "); len(strings.Fields(numbers)) <= nice || strings.Fields(numbers)[nice] != "-10" {
		m.t.Errorf("its priority is not the unit's: %s", numbers)
	}
	if user := m.try("stat", "-c", "%U", "/proc/"+pid); user != "hafen" {
		m.t.Errorf("it runs as %q", user)
	}
	if got := m.try("nsenter", "--target", pid, "--mount", "--", "sh", "-c", "touch /etc/x /usr/x /root/x 2>&1; echo end"); strings.Count(got, "Read-only") < 2 {
		m.t.Errorf("what it sees can be written to: %s", got)
	}
}

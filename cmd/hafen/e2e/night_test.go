package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hafen/gateway/status"
)

var nightPassword = secrets.Make("the password of the status page")

const (
	// shownMost is how long a fault may take to be on the page that somebody looks at.
	shownMost = 5 * time.Second
	// nightCalls are the calls without browsers that go on beside the browsers' own.
	nightCalls = 12
)

// TestNight: at three in the morning one thing after the other breaks, while calls are under way: the status page that is open in a Chromium
// of the IT department shows each, with what to do, and `hafen doctor` names it. Then it is mended, and the page says that too.
func TestNight(t *testing.T) { longScenario(t, threeInTheMorning) }

// breakdown is one thing that breaks.
type breakdown struct {
	kind string
	// page and doctor are words that have to be there.
	page, doctor string
	// happen brings it about, mend takes it back.
	happen, mend func()
}

func threeInTheMorning(t *testing.T) {
	n := newNight(t)
	n.waitWell()
	for _, b := range n.breakdowns() {
		b.happen()
		began := time.Now()
		n.shown(b, began)
		n.named(b)
		b.mend()
		mended := time.Now()
		n.waitGone(b)
		t.Logf("%-18s the page says so %v after it was mended", "", time.Since(mended).Round(100*time.Millisecond))
		n.cut = n.cut || b.kind == "region-down"
		n.callsAlive(b)
	}
	mediaFlows(t, n.ends[:]...)
}

// night is the laboratory with every way out of the gateway open, the company's Squid among them, and people who call.
type night struct {
	*laboratory
	t     *testing.T
	squid *squid
	ward  *namespace
	page  *tab
	calls []*smallCall
	ends  [2]*tab
	cut   bool // frankfurt has been cut, and its calls with it
}

func newNight(t *testing.T) *night {
	n := &night{t: t}
	hash := hashed(t, nightPassword)
	sc := &scene{regions: []relay{frankfurt, london}}
	sc.between = func(l *laboratory) {
		n.squid = startSquid(t, l, sc.cloudNames())
		sc.names = sc.cloudNames()
		sc.names[proxyName] = n.squid.ns.addr
		sc.more = fmt.Sprintf("egress: {proxy: %q}\nlimits: {allocations: %d, allocations_per_client: 1000, allocations_per_user: 1000}\nadmin: {users: [{name: anna, password_hash: %q}]}\n",
			n.squid.url("http", proxyPasswordInURL, 3128), allocationsAtNight, hash)
		// A disk of its own for what the gateway keeps.
		disk := filepath.Join(l.dir, "data")
		must(t, os.MkdirAll(disk, 0o700))
		must(t, unix.Mount("tmpfs", disk, "tmpfs", 0, "size=600m"))
		t.Cleanup(func() { _ = unix.Unmount(disk, unix.MNT_DETACH) })
	}
	n.laboratory = sc.standUp(t)
	for _, region := range []string{"frankfurt", "london"} {
		n.waitRungs(region, "udp:3478", "udp:443", "tcp:3478", "tls:443", "proxy:443")
	}
	n.waitCallServer()
	n.ward = n.office("ward", throughGateway, onlyGateway)
	n.ends[0], n.ends[1] = n.call(t, n.ward, "https://"+callName+"/r/night?join=1&relay=1&video=small")
	for range nightCalls {
		n.calls = append(n.calls, n.smallCall(t, n.ward, "tls", newCallMost))
	}
	n.page = newBrowser(t, n.office("it", throughGateway, onlyGateway), n.ca).open(t, "https://"+gatewayName+"/status/?lang=en")
	must(t, n.page.eval(fmt.Sprintf(`(document.getElementById('name').value = 'anna', document.getElementById('password').value = %q, document.querySelector('form').requestSubmit())`, nightPassword), nil))
	waitFor(t, "the status page behind the login", 20*time.Second, func() bool { return n.page.text("document.getElementById('verdict')?.className") != "" })
	return n
}

// allocationsAtNight is the limit: the calls under way are far from it.
const allocationsAtNight = 60

func (n *night) breakdowns() []breakdown {
	ballast := filepath.Join(n.dir, "data", "ballast")
	configuration := n.squid.log("squid.conf")
	hangUp := func() { must(n.t, n.squid.proc.cmd.Process.Signal(unix.SIGHUP)) }
	var crowd []*caller
	return []breakdown{
		{
			kind: "disk", page: "The disk of data_dir is nearly full", doctor: "MiB are free",
			happen: func() { must(n.t, allocateFile(ballast, 300<<20)) }, mend: func() { must(n.t, os.Remove(ballast)) },
		},
		{
			kind: "certificate-ends", page: "The certificate for " + gatewayName, doctor: "days",
			happen: func() {
				n.ca.issueFor(n.t, 80*24*time.Hour, 5*24*time.Hour, gatewayName, callName, gatewayAddr, gatewayAddr6)
			},
			mend: func() { n.ca.issue(n.t, gatewayName, callName, gatewayAddr, gatewayAddr6) },
		},
		{
			kind: "limit-reached", page: "limits.allocations is reached", doctor: "limits.allocations is reached",
			happen: func() { crowd = n.fill() }, mend: func() {
				for _, c := range crowd {
					c.end()
				}
			},
		},
		{
			kind: "company-proxy", page: "The company proxy does not let the gateway through", doctor: "proxy",
			happen: func() {
				n.squid.write(n.t, "squid.conf", strings.Replace(configuration, "http_access allow CONNECT known\n", "", 1))
				hangUp()
			},
			mend: func() { n.squid.write(n.t, "squid.conf", configuration); hangUp() },
		},
		{
			kind: "region-down", page: "frankfurt of calls can't be reached", doctor: "frankfurt",
			happen: func() { n.silence(n.t, frankfurt) }, mend: func() { n.cloud.nft(n.t, "flush ruleset") },
		},
		{
			kind: "call-server-down", page: "The gateway does not get through to " + callName, doctor: callName,
			happen: func() { n.service("STOP") }, mend: func() { n.service("CONT") },
		},
	}
}

// allocateFile makes a file that takes room.
func allocateFile(name string, size int64) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	return unix.Fallocate(int(f.Fd()), 0, 0, size)
}

// service sends a signal to the call service: stopped, it takes connections and answers nothing.
func (n *night) service(signal string) {
	mustRun(n.t, "pkill", "-"+signal, "-f", "--", "cloud --config "+filepath.Join(n.dir, "cloud.yaml"))
}

// fill takes allocations until the gateway gives no more.
func (n *night) fill() (all []*caller) {
	for {
		ctx, cancel := context.WithTimeout(n.t.Context(), 5*time.Second)
		c, err := n.newCaller(ctx, n.ward, "tls", gatewayAddr)
		cancel()
		if err != nil {
			return all
		}
		n.t.Cleanup(c.end)
		if all = append(all, c); len(all) > allocationsAtNight {
			n.t.Fatalf("%d allocations, the limit is %d", len(all), allocationsAtNight)
		}
	}
}

// faults is what the page says is wrong: the verdict, its advice and the list.
func (n *night) faults() string {
	return n.page.text("['sentence', 'advice', 'works', 'faultlist'].map((id) => document.getElementById(id)).filter((e) => !e.hidden).map((e) => e.innerText).join('\\n')")
}

// shown waits until the page has the fault, and what to do about it.
func (n *night) shown(b breakdown, began time.Time) {
	n.t.Helper()
	waitForOr(n.t, b.kind+" on the page", 6*shownMost, func() bool { return strings.Contains(n.faults(), b.page) }, n.faults)
	took := time.Since(began)
	var fault status.Fault
	waitFor(n.t, b.kind+" in the status", shownMost, func() bool {
		for _, f := range n.snapshot().Faults {
			if f.Kind == b.kind {
				fault = f
			}
		}
		return fault.Kind != ""
	})
	if page := n.faults(); fault.Advice == "" || !strings.Contains(page, strings.ReplaceAll(fault.Advice, "`", "")) {
		n.t.Errorf("%s: the page says nothing of what to do (%q):\n%s", b.kind, fault.Advice, page)
	}
	n.t.Logf("%-18s on the page after %v: %s → %s", b.kind, took.Round(10*time.Millisecond), fault.Sentence, fault.Advice)
	within(n.t, b.kind+" on the page", took, shownMost)
}

// named runs the doctor beside the gateway.
func (n *night) named(b breakdown) {
	n.t.Helper()
	out, _ := ours(n.t, n.dmz, "doctor", "--config", filepath.Join(n.dir, "hafen.yaml"), "--patience", "8s")
	lines := strings.Split(out, "\n")
	for i, line := range lines[:len(lines)-1] {
		bad := strings.HasPrefix(line, "FAIL") || strings.HasPrefix(line, "WARN")
		if bad && strings.Contains(line, b.doctor) && strings.Contains(lines[i+1], "→") {
			n.t.Logf("%-18s doctor: %s %s", "", strings.TrimSpace(line), strings.TrimSpace(lines[i+1]))
			return
		}
	}
	n.t.Errorf("doctor does not name %s (%q):\n%s", b.kind, b.doctor, out)
}

func (n *night) waitWell() {
	n.t.Helper()
	waitForOr(n.t, "a page without faults", 30*time.Second, func() bool { return strings.Contains(n.faults(), "All ways are open") }, n.faults)
}

func (n *night) waitGone(b breakdown) {
	n.t.Helper()
	waitForOr(n.t, b.kind+" to be gone from the page", time.Minute, func() bool { return !strings.Contains(n.faults(), b.page) }, n.faults)
}

// callsAlive checks that the calls go on, but for those whose region was cut.
func (n *night) callsAlive(b breakdown) {
	n.t.Helper()
	for i, c := range n.calls {
		if n.cut && (c.ends[0].at(frankfurt) || c.ends[1].at(frankfurt)) {
			continue
		}
		for _, end := range c.ends {
			before := end.got.Load()
			waitFor(n.t, fmt.Sprintf("packets of call %d after %s", i, b.kind), shownMost, func() bool { return end.got.Load() > before })
		}
	}
}

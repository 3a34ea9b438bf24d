package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// failoverMost is generous for what takes two or three seconds on a machine that has time.
const failoverMost = 30 * time.Second

// twoGateways starts two under the names that the example files have.
func (l *laboratory) twoGateways(t testing.TB, change func(string) string) (a, b *gatewayAt) {
	t.Helper()
	second := l.net.host("dmz2")
	names := map[string]string{callName: cloudAddr, plainName: plainAddr, fraName: fraAddr, lonName: lonAddr}
	second.names(t, names)
	a = &gatewayAt{name: "gw-a.hospital.example", host: l.dmz, dir: filepath.Join(l.dir, "a")}
	b = &gatewayAt{name: otherGatewayName, host: second, dir: filepath.Join(l.dir, "b")}
	for _, g := range []*gatewayAt{a, b} {
		l.startOneOf(t, g, change)
	}
	return a, b
}

// frontAnswers asks for the front page of the gateways' common name at an address.
func frontAnswers(from *namespace, addr string) bool {
	_, code := get(from, "https://"+addr+"/", gatewayName)
	return code == http.StatusOK
}

func (g *gatewayAt) kill(t testing.TB) {
	g.proc.look()
	must(t, unix.Kill(-g.proc.cmd.Process.Pid, unix.SIGKILL))
}

// common gives both gateways the name that leads to the balancer or the virtual address.
func common(cfg string) string { return cfg + "aliases: [" + gatewayName + "]\n" }

// TestHABalancer runs packaging/haproxy/haproxy.cfg as it is: the gateways see the client's own address, one that drains keeps its call,
// and one that is killed is left out.
func TestHABalancer(t *testing.T) {
	if !*ha {
		t.Skip("make ha-test")
	}
	l := newCloud(t)
	balancer := l.net.host("lb")
	a, b := l.twoGateways(t, func(cfg string) string {
		cfg = strings.Replace(common(cfg), "listen:\n", "listen:\n  metrics: \":9443\"\n  proxy_protocol_from: ["+balancer.addr+"/32]\n", 1)
		return strings.Replace(cfg, "level: debug", "full_addresses: true, level: debug", 1)
	})
	balancer.names(t, map[string]string{a.name: a.host.addr, b.name: b.host.addr})
	file, err := filepath.Abs("../../../packaging/haproxy/haproxy.cfg")
	must(t, err)
	balancer.start(t, "haproxy", "haproxy", "-db", "-f", file)
	balancer.waitTCP(t, "127.0.0.1:443")
	ward := l.office("ward", map[string]string{gatewayName: balancer.addr}, "ip daddr "+balancer.addr+" tcp dport 443")
	waitFor(t, "an answer through HAProxy", failoverMost, func() bool { return frontAnswers(ward, balancer.addr) })
	used := a
	saw := func(g *gatewayAt) bool { return strings.Contains(g.proc.out.String(), "client="+ward.addr) }
	waitFor(t, "the client's own address in a log", failoverMost, func() bool {
		if saw(b) {
			used = b
		}
		return saw(a) || saw(b)
	})
	other := map[*gatewayAt]*gatewayAt{a: b, b: a}[used]
	call, err := l.trySmallCall(ward, "tls", balancer.addr, failoverMost)
	must(t, err)
	defer call.close()
	used.host.run(t, hafenBinary, "drain", "--wait", "5m", "--run-dir", filepath.Join(used.dir, "run"))
	waitFor(t, "new connections to go to the other", failoverMost, func() bool { return frontAnswers(ward, balancer.addr) && saw(other) })
	time.Sleep(4 * time.Second) // longer than HAProxy takes to find a server dead
	for _, end := range call.ends {
		got := end.got.Load()
		waitFor(t, "packets of a call at a gateway that drains", 5*time.Second, func() bool { return end.got.Load() > got+10 })
	}
	used.kill(t)
	cut := time.Now()
	<-call.ends[0].ended
	t.Logf("%s killed: its call was ended after %v", used.name, time.Since(cut).Round(time.Millisecond))
	waitFor(t, "an answer of the other", failoverMost, func() bool { return frontAnswers(ward, balancer.addr) })
	t.Logf("%s killed: HAProxy's next answer after %v", used.name, time.Since(cut).Round(100*time.Millisecond))
}

// TestHAVirtualAddress runs packaging/keepalived/keepalived.conf, but for interface and address: the address moves when the gateway
// that has it is killed.
func TestHAVirtualAddress(t *testing.T) {
	if !*ha {
		t.Skip("make ha-test")
	}
	const virtual = "10.99.0.10"
	l := newCloud(t)
	a, b := l.twoGateways(t, common)
	l.net.core.run(t, "ip", "link", "add", "segment", "type", "bridge")
	l.net.core.run(t, "ip", "addr", "add", "10.99.0.1/24", "dev", "segment")
	l.net.core.run(t, "ip", "link", "set", "segment", "up")
	text, err := os.ReadFile("../../../packaging/keepalived/keepalived.conf")
	must(t, err)
	for i, g := range []*gatewayAt{a, b} {
		link := fmt.Sprint("seg", i)
		l.net.core.run(t, "ip", "link", "add", link, "type", "veth", "peer", "name", "eth1", "netns", g.host.name)
		l.net.core.run(t, "ip", "link", "set", link, "master", "segment", "up")
		g.host.run(t, "ip", "addr", "add", fmt.Sprintf("10.99.0.%d/24", i+2), "dev", "eth1")
		g.host.run(t, "ip", "link", "set", "eth1", "up")
		conf := strings.NewReplacer("interface eth0", "interface eth1", "192.0.2.10/24", virtual+"/24", "priority 150", fmt.Sprint("priority ", 150-50*i)).Replace(string(text))
		file := filepath.Join(g.dir, "keepalived.conf")
		must(t, os.WriteFile(file, []byte(conf), 0o644))
		must(t, os.Chmod(g.dir, 0o755))
		g.host.start(t, "keepalived "+g.name, "keepalived", "--dont-fork", "--log-console", "--vrrp", "--use-file="+file,
			"--pid="+filepath.Join(g.dir, "keepalived.pid"), "--vrrp_pid="+filepath.Join(g.dir, "vrrp.pid"))
	}
	has := func(g *gatewayAt) bool {
		return strings.Contains(g.host.run(t, "ip", "-4", "addr", "show", "eth1"), virtual)
	}
	ward := l.office("ward", map[string]string{gatewayName: virtual}, "ip daddr "+virtual+" tcp dport 443")
	waitFor(t, "the first to have the address", failoverMost, func() bool { return has(a) && !has(b) })
	waitFor(t, "an answer at it", failoverMost, func() bool { return frontAnswers(ward, virtual) })
	a.kill(t)
	cut := time.Now()
	waitFor(t, "an answer of the other", failoverMost, func() bool { return frontAnswers(ward, virtual) })
	t.Logf("%s killed: the address answers again after %v", a.name, time.Since(cut).Round(100*time.Millisecond))
	if has(a) || !has(b) {
		t.Error("the address did not move")
	}
}

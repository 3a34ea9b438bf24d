package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"hafen/gateway/status"
)

// The third region, and where the company's proxy has its name.
const (
	nycName   = "nyc.relay.example"
	nycAddr   = "10.20.0.13"
	proxyName = "proxy.hospital.example"
)

// long is for what takes most of a minute or more: waiting until a way out is trusted again, or a region taken back.
var long = flag.Bool("long", false, "run the scenarios that take longer than 40 s as well")

// relay is one region of a scene: a coturn in the cloud, or an impostor that the test starts itself.
type relay struct {
	region, name, addr string
	impostor           bool
}

var (
	frankfurt = relay{region: "frankfurt", name: fraName, addr: fraAddr}
	london    = relay{region: "london", name: lonName, addr: lonAddr}
	newYork   = relay{region: "newyork", name: nycName, addr: nycAddr}
)

// scene is a laboratory that is not the usual one: with other regions, every rung of the uplink ladder, or a company's
// proxy between the gateway and the cloud.
type scene struct {
	regions []relay
	// lists are the ICE URLs of the gateway that the call service hands out; empty: TURN over TLS.
	lists []string
	// cloudAddr is the call service's address; empty: the usual one.
	cloudAddr string
	// names is what the gateway can resolve; empty: the cloud.
	names map[string]string
	// six gives the gateway and the cloud IPv6 addresses beside the others.
	six bool
	// mode is the relay's; empty: bridge. In the others the gateway knows the secret of the cloud, so that the call
	// service's credentials are good at either.
	mode string
	// more is what the gateway's configuration has besides.
	more string
	// between is called when all but the gateway stands.
	between func(l *laboratory)
}

// standUp builds the scene, the gateway included.
func (sc *scene) standUp(t testing.TB) *laboratory {
	t.Helper()
	l := &laboratory{t: t, dir: t.TempDir(), net: newNetwork(t)}
	l.ca = newAuthority(t, l.dir)
	host := l.net.host
	if sc.six {
		host = l.net.host6
	}
	l.dmz = host("dmz")
	l.cloud = host("cloud", 3, 11, 12, 13)
	if sc.cloudAddr == "" {
		sc.cloudAddr = cloudAddr
	}
	if sc.between != nil {
		sc.between(l)
	}
	if sc.names == nil {
		sc.names = sc.cloudNames()
	}
	l.dmz.names(t, sc.names)
	for _, r := range sc.regions {
		if !r.impostor {
			startCoturn(t, l.cloud, l.ca, r.name, r.addr)
		}
	}
	sc.startCallService(l)
	l.bootGateway(sc.config(l))
	return l
}

// cloudNames are the names of the call service and its relays.
func (sc *scene) cloudNames() map[string]string {
	names := map[string]string{callName: sc.cloudAddr}
	for _, r := range sc.regions {
		names[r.name] = r.addr
	}
	return names
}

// ladderURLs are a relay's URLs for every rung.
func ladderURLs(name string) []string {
	return []string{
		"turn:" + name + ":3478?transport=udp", "turn:" + name + ":443?transport=udp",
		"turn:" + name + ":3478?transport=tcp", "turns:" + name + ":443?transport=tcp",
	}
}

func (sc *scene) startCallService(l *laboratory) {
	l.t.Helper()
	lists := sc.lists
	if lists == nil {
		lists = []string{"turns:" + gatewayName + ":443?transport=tcp"}
	}
	cert, key := l.ca.issue(l.t, callName+".cloud", callName)
	var b strings.Builder
	fmt.Fprintf(&b, "listen: %q\ntls: {cert: %s, key: %s}\nsecret: %s\nrealm: cloud.example\ngateway: [%s]\nregions:\n",
		hostPort(sc.cloudAddr, 443), cert, key, relaySecret, quoted(lists))
	for _, r := range sc.regions {
		fmt.Fprintf(&b, "  - {name: %s, address: %q, urls: [%s]}\n", r.region, r.addr, quoted(ladderURLs(r.name)))
	}
	file := filepath.Join(l.dir, "cloud.yaml")
	must(l.t, os.WriteFile(file, []byte(b.String()), 0o644))
	l.cloud.start(l.t, "call service", hafenBinary, "cloud", "--config", file)
	l.cloud.waitTCP(l.t, hostPort(sc.cloudAddr, 443))
}

// config is the gateway's configuration: what the usual one says, with this scene's regions.
func (sc *scene) config(l *laboratory) string {
	cert, key := l.ca.issue(l.t, gatewayName, callName, gatewayAddr, gatewayAddr6)
	var regions strings.Builder
	for _, r := range sc.regions {
		fmt.Fprintf(&regions, "      - name: %s\n        urls: [%s]\n", r.region, quoted(ladderURLs(r.name)))
	}
	more, credentials := sc.more, ""
	if sc.mode != "" && sc.mode != "bridge" {
		file := filepath.Join(l.dir, "turn.secret")
		must(l.t, os.WriteFile(file, []byte(relaySecret+"\n"), 0o600))
		credentials = fmt.Sprintf("    turn_credentials: {secret_file: %s}\n", file)
		more += fmt.Sprintf("relay: {mode: %s}\n", sc.mode)
	}
	return fmt.Sprintf(`name: %s
listen: {https: [":443"], turn_udp: [":443"]}
tls: {source: files, files: [{cert: %s, key: %s}]}
services:
  - name: calls
    hosts: [%s]
    ca_file: %s
    private_networks: [10.20.0.0/24, 10.30.0.0/24, "fd00:20::/64"]
    regions:
%s%s    probes: {https: /healthz}
pac: {otherwise: DIRECT}
drain: 2s
log: {level: debug, format: text}
data_dir: %s
run_dir: %s
%s`, gatewayName, cert, key, callName, l.ca.file, regions.String(), credentials, filepath.Join(l.dir, "data"), filepath.Join(l.dir, "run"), more)
}

func quoted(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf("%q", s))
	}
	return strings.Join(out, ", ")
}

func hostPort(host string, port int) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return fmt.Sprintf("%s:%d", host, port)
}

// bootGateway starts the gateway, or another one in its place; it need not reach anything.
func (l *laboratory) bootGateway(cfg string, env ...string) {
	l.t.Helper()
	if l.gateway != nil {
		l.gateway.stop()
	}
	file := filepath.Join(l.dir, "hafen.yaml")
	must(l.t, os.WriteFile(file, []byte(l.filled(cfg)), 0o644))
	for _, d := range []string{"data", "run"} {
		must(l.t, os.MkdirAll(filepath.Join(l.dir, d), 0o700))
	}
	l.gateway = l.dmz.startEnv(l.t, "gateway", env, hafenBinary, "serve", "--config", file)
	l.dmz.waitTCP(l.t, "127.0.0.1:9443")
}

// snapshot is what the gateway says of itself.
func (l *laboratory) snapshot() status.Snapshot {
	var s status.Snapshot
	_ = json.Unmarshal([]byte(l.metricsGet("/api/v1/status")), &s)
	if len(s.Services) == 0 {
		s.Services = make([]status.Service, 1)
	}
	return s
}

// waitChosen waits until new sessions go to a region.
func (l *laboratory) waitChosen(region string, within time.Duration) {
	l.t.Helper()
	waitForOr(l.t, "region "+region+" to be chosen", within, func() bool { return l.snapshot().Services[0].Chosen == region },
		func() string { return fmt.Sprintf("%+v", l.snapshot().Services) })
}

// rungOf finds a rung of a region in what the gateway says; its state is empty when it is not there.
func rungOf(s status.Snapshot, region, rung string) status.Rung {
	for _, r := range s.Services[0].Regions {
		for _, g := range r.Rungs {
			if r.Name == region && g.Name == rung {
				return g
			}
		}
	}
	return status.Rung{}
}

// waitRungs waits until rungs of a region work: after a start new calls take whichever answers first.
func (l *laboratory) waitRungs(region string, rungs ...string) {
	l.t.Helper()
	for _, rung := range rungs {
		waitForOr(l.t, region+" "+rung+" to be up", 20*time.Second, func() bool { return rungOf(l.snapshot(), region, rung).State == "up" },
			func() string { return fmt.Sprintf("%+v", l.snapshot().Services) })
	}
}

// within checks a time against the issue's bound. On a machine whose processors have long queues it says more about them:
// then it is printed, and held against thrice the bound.
func within(t testing.TB, what string, took, most time.Duration) {
	t.Helper()
	load := loadPerCPU()
	switch {
	case took <= most:
	case load > crowded && took <= 3*most:
		t.Logf("%s: %v, more than %v, with %.1f processes waiting for each processor", what, took, most, load)
	default:
		t.Errorf("%s: %v, want %v at most (load %.1f for each processor)", what, took, most, load)
	}
}

// unhurried is how long something is waited for that is to come: longer where the processors have long queues. What is not to come is waited
// for shortly in any case.
func unhurried(d time.Duration) time.Duration {
	if d < 2*time.Second {
		return d
	}
	return time.Duration(float64(d) * min(max(loadPerCPU(), 1), 4))
}

// crowded is the load of the last minute, for each processor, from which on times of browsers mean little.
const crowded = 2.0

func loadPerCPU() float64 {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return 0
	}
	var load float64
	_, _ = fmt.Sscan(string(b), &load)
	return load / float64(runtime.NumCPU())
}

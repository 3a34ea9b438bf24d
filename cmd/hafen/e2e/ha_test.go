package e2e

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hafen/gateway/status"
)

var ha = flag.Bool("ha", false, "run the scenarios with two gateways and a PostgreSQL")

const (
	otherGatewayName = "gw-b.hospital.example"
	databaseName     = "db.hospital.example"
	// signalingMost is the issue's bound for signaling to be back after a gateway was killed.
	signalingMost = 5 * time.Second
)

// databasePassword is in a file beside the configuration.
var databasePassword = secrets.Make("the database's password")

// gatewayAt is one of several gateways.
type gatewayAt struct {
	name string
	host *namespace
	dir  string
	proc *process
}

// TestHA has two gateways in one PAC file and one PostgreSQL behind both. The one that a call goes through is killed with SIGKILL:
// signaling and the call come back through the other. Each shows the other's precall runs and the list of both; without the
// database calls go on.
func TestHA(t *testing.T) {
	if !*ha {
		t.Skip("make ha-test")
	}
	l := newCloud(t)
	db, stopDatabase := l.startDatabase(t)
	second := l.net.host("dmz2")
	names := map[string]string{callName: cloudAddr, plainName: plainAddr, fraName: fraAddr, lonName: lonAddr, databaseName: db}
	second.names(t, names)
	l.dmz.names(t, names)
	gateways := []*gatewayAt{{name: gatewayName, host: l.dmz, dir: filepath.Join(l.dir, "a")}, {name: otherGatewayName, host: second, dir: filepath.Join(l.dir, "b")}}
	for _, g := range gateways {
		pass := filepath.Join(g.dir, "pgpass")
		must(t, os.MkdirAll(g.dir, 0o700))
		must(t, os.WriteFile(pass, fmt.Appendf(nil, "%s:5432:postgres:hafen:%s\n", databaseName, databasePassword), 0o600))
		l.startOneOf(t, g, func(cfg string) string {
			if g.name != gatewayName {
				cfg = common(cfg) // new clients ask for the usual name, whichever gateway is left
			}
			cfg = strings.Replace(cfg, "pac: {otherwise: DIRECT}", fmt.Sprintf("pac: {otherwise: DIRECT, gateways: [%s, %s]}", gatewayName, otherGatewayName), 1)
			return cfg + fmt.Sprintf("store: postgres://hafen@%s/postgres?sslmode=verify-full&sslrootcert=%s&passfile=%s\n", databaseName, l.ca.file, pass)
		})
	}
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, otherGatewayName: second.addr},
		"ip daddr { "+gatewayAddr+", "+second.addr+" } tcp dport 443")
	for _, g := range gateways {
		waitFor(t, g.name+" to see both", 30*time.Second, func() bool { return len(g.snapshot().Peers) == 2 })
	}

	// A run that one has kept is found by the other.
	r := l.precall(t, ward)
	out := second.run(t, hafenBinary, "explain", "--run-dir", filepath.Join(gateways[1].dir, "run"), r.Code)
	if !strings.Contains(out, r.Code) {
		t.Errorf("the other gateway does not know the run %s:\n%s", r.Code, out)
	}

	pac, code := get(ward, "https://"+gatewayAddr+"/proxy.pac", "")
	first := regexp.MustCompile(`HTTPS ([a-z.-]+):443`).FindAllStringSubmatch(pac, -1)
	if code != http.StatusOK || len(first) < 2 || first[0][1] == first[1][1] {
		t.Fatalf("the PAC file does not name two gateways: %d %s", code, pac)
	}
	killed := gateways[slices.IndexFunc(gateways, func(g *gatewayAt) bool { return g.name == first[0][1] })]
	left := gateways[slices.IndexFunc(gateways, func(g *gatewayAt) bool { return g.name == first[1][1] })]
	a, b := l.call(t, ward, "https://"+plainName+"/r/ha?join=1&relay=1&video=small&transport=tls", pacFlag(pac))
	for _, p := range []*tab{a, b} {
		p.record(t)
		p.watchSignaling(t)
	}
	if n := killed.snapshot().Counts.Tunnels; n < 4 {
		t.Errorf("the call does not go through the PAC's first gateway: %d tunnels", n)
	}
	time.Sleep(time.Second) // so that the recorders have something before the gap
	killed.proc.look()
	cut := time.Now()
	must(t, unix.Kill(-killed.proc.cmd.Process.Pid, unix.SIGKILL))
	for name, p := range map[string]*tab{"one": a, "other": b} {
		within(t, "signaling at "+name, p.signalingBack(t, cut), signalingMost)
	}
	took := mediaIsBack(t, cut, map[string]*tab{"one": a, "other": b})
	t.Logf("%s killed: signaling %v and %v, media %v after; ICE restarts %v and %v", killed.name, a.signalingBack(t, cut), b.signalingBack(t, cut), took, a.stats().Restarts, b.stats().Restarts)
	waitForOr(t, left.name+" to miss the other", time.Minute, func() bool {
		return slices.ContainsFunc(left.snapshot().Peers, func(p status.Peer) bool { return p.Missing && !p.Self })
	}, func() string { return fmt.Sprintf("%+v", left.snapshot().Peers) })

	// The database goes as well: what runs goes on, and new clients are let in.
	stopDatabase()
	waitForOr(t, "the event", 40*time.Second, func() bool {
		return slices.ContainsFunc(left.snapshot().Events, func(e status.Event) bool { return e.Kind == "database-away" })
	}, func() string { return fmt.Sprintf("%+v", left.snapshot().Events) })
	mediaFlows(t, a, b)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := l.newCaller(ctx, ward, "tls", left.host.addr)
	if err != nil {
		t.Fatalf("no allocation without the database: %v", err)
	}
	c.end()
}

// startDatabase runs a PostgreSQL that wants TLS and a password, on a host of its own.
func (l *laboratory) startDatabase(t testing.TB) (addr string, stop func()) {
	t.Helper()
	bins, _ := filepath.Glob("/usr/lib/postgresql/*/bin")
	if len(bins) == 0 {
		t.Fatal("no PostgreSQL: .ci/deps installs it")
	}
	ns := l.net.host("db")
	dir, err := os.MkdirTemp("/tmp", "hafen-ha-db-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	cert, key := l.ca.issue(t, databaseName, databaseName)
	mustRun(t, "cp", cert, filepath.Join(dir, "server.crt"))
	mustRun(t, "cp", key, filepath.Join(dir, "server.key"))
	must(t, os.WriteFile(filepath.Join(dir, "password"), []byte(databasePassword), 0o600))
	mustRun(t, "chmod", "600", filepath.Join(dir, "server.key"))
	mustRun(t, "chown", "-R", "postgres:", dir)
	as := []string{"--reuid", "postgres", "--regid", "postgres", "--init-groups"}
	data := filepath.Join(dir, "data")
	mustRun(t, "setpriv", append(as, bins[0]+"/initdb", "-D", data, "-U", "hafen", "--auth", "scram-sha-256", "--pwfile", filepath.Join(dir, "password"), "--no-sync")...)
	must(t, os.WriteFile(filepath.Join(data, "pg_hba.conf"), []byte("hostssl all hafen 0.0.0.0/0 scram-sha-256\n"), 0o600))
	mustRun(t, "chown", "postgres:", filepath.Join(data, "pg_hba.conf"))
	p := ns.start(t, "postgresql", "setpriv", append(as, bins[0]+"/postgres", "-D", data, "-k", dir, "-c", "listen_addresses=*", "-c", "fsync=off", "-c", "ssl=on",
		"-c", "ssl_cert_file="+filepath.Join(dir, "server.crt"), "-c", "ssl_key_file="+filepath.Join(dir, "server.key"))...)
	ns.waitTCP(t, "127.0.0.1:5432")
	return ns.addr, p.stop
}

// startOneOf starts one of several gateways with the laboratory's configuration, changed.
func (l *laboratory) startOneOf(t testing.TB, g *gatewayAt, change func(string) string) {
	t.Helper()
	for _, d := range []string{"data", "run"} {
		must(t, os.MkdirAll(filepath.Join(g.dir, d), 0o700))
	}
	usualCert, usualKey := l.ca.issue(t, gatewayName, callName, gatewayAddr)
	cert, key := l.ca.issue(t, g.name, gatewayName, callName, g.host.addr)
	cfg := l.gatewayConfig()
	for from, to := range map[string]string{
		"name: " + gatewayName + "\n": "name: " + g.name + "\n", usualCert: cert, usualKey: key,
		filepath.Join(l.dir, "data"): filepath.Join(g.dir, "data"), filepath.Join(l.dir, "run"): filepath.Join(g.dir, "run"),
	} {
		cfg = strings.ReplaceAll(cfg, from, to)
	}
	cfg = change(cfg)
	file := filepath.Join(g.dir, "hafen.yaml")
	must(t, os.WriteFile(file, []byte(l.filled(cfg)), 0o600))
	g.proc = g.host.start(t, "gateway "+g.name, hafenBinary, "serve", "--config", file)
	g.host.waitTCP(t, "127.0.0.1:9443")
	waitFor(t, g.name+" to be ready", 30*time.Second, func() bool {
		_, code := get(g.host, "http://127.0.0.1:9443/readyz?strict=1", "")
		return code == http.StatusOK
	})
}

// snapshot is what this gateway says of itself and of the others.
func (g *gatewayAt) snapshot() status.Snapshot {
	var s status.Snapshot
	if body, code := get(g.host, "http://127.0.0.1:9443/api/v1/status", ""); code == http.StatusOK {
		_ = json.Unmarshal([]byte(body), &s)
	}
	return s
}

// watchSignaling notes when something came from the call service: the first message of each WebSocket that the page opens from now on,
// and each answer to a request of its long-poll.
func (p *tab) watchSignaling(t testing.TB) {
	t.Helper()
	var ok bool
	if err := p.eval(`(() => {
  const [Socket, ask] = [window.WebSocket, window.fetch];
  window.heard = [];
  window.WebSocket = class extends Socket {
    constructor(...words) {
      super(...words);
      this.addEventListener('message', () => window.heard.push(Date.now()), { once: true });
    }
  };
  window.fetch = async (...words) => {
    const answer = await ask(...words);
    if (answer.ok && String(words[0]).includes('/signal/')) window.heard.push(Date.now());
    return answer;
  };
  return true;
})()`, &ok); err != nil || !ok {
		t.Fatalf("signaling can't be watched: %v", err)
	}
}

// signalingBack is the time from the cut to the first word of the call service.
func (p *tab) signalingBack(t testing.TB, cut time.Time) time.Duration {
	t.Helper()
	var back time.Duration
	waitFor(t, "signaling to be back", callTimeout, func() bool {
		var heard []float64
		_ = p.eval("window.heard", &heard)
		at := float64(cut.UnixMilli())
		i := slices.IndexFunc(heard, func(ms float64) bool { return ms > at })
		if i >= 0 {
			back = time.Duration(heard[i]-at) * time.Millisecond
		}
		return i >= 0
	})
	return back
}

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestAbuse_Doors: what is not for everybody opens for nobody else: clients outside the client networks (B-21), names that are none
// (C-14), pages behind the login (F-01, F-02), metrics and profiles (F-14).
func TestAbuse_Doors(t *testing.T) {
	t.Parallel()
	hash := hashOf(t, "correct horse battery")
	a := newAbuse(t, func(cfg string) string {
		return cfg + "admin: {users: [{name: admin, password_hash: \"" + hash + "\"}]}\n"
	})
	t.Run("B-21", a.outsiders)
	t.Run("C-14", a.hostTricks)
	t.Run("F-01", a.lockedPages)
	t.Run("F-02", a.adminByDetour)
	t.Run("F-05", a.expensiveLogins)
	t.Run("F-11", a.reports)
	t.Run("E-09", a.silentMany)
	a.alive(t)
}

// hashOf is what hafen passwd makes of a password.
func hashOf(t testing.TB, password string) string {
	t.Helper()
	cmd := exec.Command(hafenBinary, "passwd")
	cmd.Stdin = strings.NewReader(secrets.Add("a password", password) + "\n")
	out, err := cmd.CombinedOutput()
	must(t, err)
	secrets.Search(t, "hafen passwd", string(out))
	hash := strings.TrimSpace(string(out))
	must(t, secrets.Hash("a password's hash", hash))
	return hash
}

// outsiders get one sentence and nothing else, whatever they ask and however.
func (a *abuse) outsiders(t *testing.T) {
	var first string
	for _, path := range []string{"/", "/status/", "/precall/", "/api/v1/ice", "/proxy.pac", "/metrics", "/nowhere", "/.well-known/hafen/hold?s=1"} {
		for _, host := range []string{gatewayName, callName, gatewayAddr, "evil.com"} {
			for name, conn := range map[string]net.Conn{
				"tls": a.tls(t, a.outside, gatewayName), "plain": a.tcp(t, a.outside, gatewayAddr+":443"), "proxy": a.tcp(t, a.outside, gatewayAddr+":3128"),
			} {
				_, _ = io.WriteString(conn, "GET "+path+" HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
				b, _ := answers(conn, 3*time.Second)
				_, body, _ := strings.Cut(string(b), "\r\n\r\n")
				if code(string(b)) != "403" || !strings.Contains(body, outsideAddr) {
					t.Errorf("%s %s of %s: %q", name, path, host, b)
				}
				if first == "" {
					first = body
				}
				if body != first {
					t.Errorf("%s %s of %s: another body than the first:\n%s\n%s", name, path, host, body, first)
				}
				_ = conn.Close()
			}
		}
	}
	for name, conn := range map[string]net.Conn{"tls": a.tls(t, a.outside, gatewayName), "plain": a.tcp(t, a.outside, gatewayAddr+":443")} {
		if got := a.connect(t, conn, "good."+passSuffix+":443"); !strings.Contains(got, " 403 ") {
			t.Errorf("CONNECT over %s: %q", name, got)
		}
	}
	for name, conn := range map[string]net.Conn{"tls": a.tls(t, a.outside, gatewayName), "plain": a.tcp(t, a.outside, gatewayAddr+":443")} {
		_, _ = conn.Write(stunMessage(typeBinding))
		if b := closes(t, conn, 3*time.Second); len(b) > 0 {
			t.Errorf("STUN over %s was answered", name)
		}
	}
	udp := a.udp(t, a.outside)
	_, _ = udp.Write(stunMessage(typeBinding))
	_, _ = udp.Write(stunMessage(typeAllocate, udpTransport))
	if b, _ := answers(udp, time.Second); len(b) > 0 {
		t.Errorf("STUN over UDP was answered: %x", b)
	}
	raw := a.tcp(t, a.outside, gatewayAddr+":443")
	_, _ = raw.Write(clientHello(t, "good."+passSuffix)) // SNI passthrough
	if b := closes(t, raw, 3*time.Second); len(b) > 7 {
		t.Errorf("passthrough answered %d bytes", len(b))
	}
}

// hostTricks name hosts that are none, or two, over TLS for another.
func (a *abuse) hostTricks(t *testing.T) {
	for _, c := range []struct{ sni, head, want string }{
		{gatewayName, "Host: evil.com", "421"},
		{gatewayName, "Host: 127.0.0.1:9443", "404|200|421"},
		{gatewayName, "Host: localhost:9443", "421"},
		{gatewayName, "Host: " + gatewayName + "\r\nHost: evil.com", "400"},
		{gatewayName, "X-Nothing: 1", "400"},
		{gatewayName, "Host: ", "400|421"},
		{gatewayName, "Host: " + callName, "421"},
		{"good." + sigSuffix, "Host: " + callName, "421"},
		{"good." + sigSuffix, "Host: evil.com", "421"},
		{gatewayName, "Host: " + strings.ToUpper(gatewayName) + ".", "200"},
		{gatewayName, "Host: " + gatewayName + ":9999", "200|421"},
		{gatewayName, "Host: " + gatewayName + "@evil.com", "400|421"},
		{gatewayName, "Host: evil.com\r\nX-Forwarded-Host: " + gatewayName, "421"},
		{"good." + sigSuffix, "Host: good." + sigSuffix, "200"},
		{"good." + sigSuffix, "Host: GOOD." + strings.ToUpper(sigSuffix) + ":443", "200"},
	} {
		conn := a.tls(t, a.inside, c.sni, "http/1.1")
		got := exchange(t, conn, "GET / HTTP/1.1\r\n"+c.head+"\r\nConnection: close\r\n\r\n")
		if !strings.Contains("|"+c.want+"|", "|"+code(got)+"|") {
			t.Errorf("%q in TLS for %s: %q, want %s", c.head, c.sni, statusLine(got), c.want)
		}
	}
}

// lockedPages walks every route without a session, with a made-up one, by every method and spelling.
func (a *abuse) lockedPages(t *testing.T) {
	for _, path := range []string{
		"/status/api/snapshot", "/status//api/snapshot", "//status/api/snapshot", "/status/%61pi/snapshot", "/status%2fapi%2fsnapshot", "/STATUS/API/SNAPSHOT",
		"/status/api/snapshot/", "/status/./api/snapshot", "/x/../status/api/snapshot", "/status/logout", "/status/api/", "/status/api/sessions",
		"/metrics", "/api/v1/status", "/debug/pprof/", "/debug/pprof/heap", "/debug/vars", "/drain", "/status.txt", "/api/v1/precall/", "/api/v1/precall/1",
	} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "OPTIONS"} {
			for _, cookie := range []string{"", "hafen_session=AAAAAAAAAAAAAAAAAAAAAAAAAA"} {
				conn := a.tls(t, a.inside, gatewayName, "http/1.1")
				got := exchange(t, conn, method+" "+path+" HTTP/1.1\r\nHost: "+gatewayName+"\r\nCookie: "+cookie+"\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
				for _, word := range []string{"sessions", "goroutine", "hafen_", "allocations\"", "uptime"} {
					if strings.Contains(got, word) {
						t.Errorf("%s %s tells of %s:\n%s", method, path, word, got)
					}
				}
				if c := code(got); c == "200" || c == "" || c[0] == '5' {
					t.Errorf("%s %s: %q", method, path, statusLine(got))
				}
			}
		}
	}
}

// adminByDetour looks for the machines' listener through the gateway itself.
func (a *abuse) adminByDetour(t *testing.T) {
	for _, target := range []string{"127.0.0.1:9443", "localhost:9443", gatewayAddr + ":9443", gatewayName + ":9443", gatewayName + ":443", "self." + passSuffix + ":443", fraName + ":9443"} {
		if got := a.connect(t, a.tls(t, a.inside, gatewayName), target); strings.Contains(got, " 200 ") {
			t.Errorf("CONNECT %s: %q", target, got)
		}
	}
	if conn, err := a.inside.dial(t.Context(), "tcp", gatewayAddr+":9443"); err == nil {
		_ = conn.Close()
		t.Error("the machines' listener answers from inside")
	}
}

// expensiveLogins: fifty at once with long passwords hold nobody up, and take no more memory than two hashes.
func (a *abuse) expensiveLogins(t *testing.T) {
	before := a.load()
	long := strings.Repeat("p", 1<<20)
	var wg sync.WaitGroup
	for i := range 50 {
		password := long
		if i%2 == 0 {
			password = long[:128]
		}
		conn := a.tls(t, a.inside, gatewayName, "http/1.1")
		wg.Go(func() {
			body := "name=admin&password=" + password
			_, _ = fmt.Fprintf(conn, "POST /status/login HTTP/1.1\r\nHost: %s\r\nContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s",
				gatewayName, len(body), body)
			b, _ := answers(conn, time.Minute)
			c := code(string(b))
			if len(password) > 128 && c != "413" && len(b) > 0 || len(password) <= 128 && c != "401" && c != "429" && c != "503" {
				t.Errorf("a password of %d bytes: %q", len(password), statusLine(string(b)))
			}
		})
	}
	began := time.Now()
	if a.metricsGet("/livez") == "" || time.Since(began) > 10*time.Second {
		t.Errorf("/livez took %v meanwhile", time.Since(began))
	}
	wg.Wait()
	if grown := a.load().memory - before.memory; grown > 200<<20 {
		t.Errorf("memory grew by %.0f MiB", grown/(1<<20))
	}
}

// silentMany are more connections than may be pending in all, from clients of which each keeps within its own bound: somebody else is
// served all the same.
func (a *abuse) silentMany(t *testing.T) {
	before := a.metric(`hafen_mux_refused_total{reason="pending"}`)
	var silent []net.Conn
	defer func() {
		for _, c := range silent {
			_ = c.Close()
		}
	}()
	must(t, a.inside.do(func() error {
		for host := range 13 {
			d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 30, 0, byte(4+host))}}
			for range 180 {
				c, err := d.Dial("tcp", gatewayAddr+":443")
				if err != nil {
					return err
				}
				silent = append(silent, c)
			}
		}
		return nil
	}))
	for i := range 20 {
		if said, err := a.askOnce(pageAndTunnel[i%2]); err != nil || code(said) != "200" {
			t.Errorf("beside %d silent connections: %q %v", len(silent), said, err)
		}
	}
	if n := a.metric(`hafen_mux_refused_total{reason="pending"}`) - before; n == 0 {
		t.Error("none of them had to make room: nothing was tried")
	} else {
		t.Logf("%v of %d silent connections made room", n, len(silent))
	}
}

// reports are what nobody's browser sends.
func (a *abuse) reports(t *testing.T) {
	deep := strings.Repeat(`{"checks":[`, 5000)
	keys := "{"
	for i := range 8000 {
		keys += fmt.Sprintf(`"k%d":1,`, i)
	}
	refused := map[string]int{}
	for name, body := range map[string]string{
		"10 MB": `{"x":"` + strings.Repeat("y", 10<<20) + `"}`, "deep": deep, "keys": keys + `"z":1}`, "wrong types": `{"version":"one","clock":[]}`,
		"negative": `{"clock":-1e400}`, "NaN": `{"clock":NaN}`, "nothing": "", "null": "null", "list": "[]", "number": "7", "half": `{"clock":`, "two": `{}{}`,
		"not UTF-8": "{\"\xff\xfe\":1}",
	} {
		conn := a.tls(t, a.inside, gatewayName, "http/1.1")
		_, _ = fmt.Fprintf(conn, "POST /precall/report HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", gatewayName, len(body), body)
		got, _ := answers(conn, 5*time.Second)
		switch c := code(string(got)); c {
		case "400", "413", "429":
			refused[c]++
		default:
			t.Errorf("%s: %q", name, statusLine(string(got)))
		}
	}
	t.Logf("refused with %v", refused)
	limited := 0
	for range 120 { // credentials for a test are rationed
		if _, status := get(a.inside, "https://"+gatewayAddr+"/api/v1/ice", gatewayName); status == http.StatusTooManyRequests {
			limited++
		}
	}
	if limited == 0 {
		t.Error("120 credentials in a row, and none was refused")
	}
	t.Logf("%d of 120 requests for credentials were refused", limited)
}

// TestAbuse_G03 puts a secret into each place that the other laboratories leave empty, makes the program talk about it, refuse it, and die
// of a fault. What it says is searched here as everywhere.
func TestAbuse_G03(t *testing.T) {
	t.Parallel()
	a := layAbuse(t)
	password := secrets.Make("the password of the status page")
	inFile := func(name, format string) string {
		path := filepath.Join(a.dir, name)
		must(t, os.WriteFile(path, fmt.Appendf(nil, format+"\n", secrets.Make("what is in "+name)), 0o600))
		return path
	}
	closed := callName + ":81" // nobody listens there
	a.run(strings.NewReplacer(
		"    probes:", "    turn_credentials: {secret_file: "+inFile("turn_secret", "%s")+"}\n    probes:",
		"pac: {otherwise: DIRECT}", fmt.Sprintf("pac: {parent: \"http://%s/%s.pac\"}", closed, secrets.Make("the path of the parent's PAC file")),
	).Replace(a.config()) + fmt.Sprintf(`admin: {users: [{name: admin, password_hash: %q}]}
egress: {proxy: "http://someone:%s@10.20.0.2:3128", no_proxy: [%q, %q, "*.%s", "*.%s"]}
events: {webhook: "https://%s/hooks/%s"}
store: "postgres://hafen:%s@%s/hafen?sslmode=require"
`, hashOf(t, password), secrets.Make("the proxy's password"), callName, fraName, passSuffix, sigSuffix, closed, secrets.Make("the webhook's path"), secrets.Make("the database's password"), closed))
	for _, path := range []string{"/metrics", "/api/v1/status", "/readyz"} {
		a.metricsGet(path)
	}
	for _, path := range []string{"/", "/status/", "/precall/", "/proxy.pac", "/nowhere", "/api/v1/ice"} {
		get(a.inside, "https://"+gatewayAddr+path, gatewayName)
	}
	a.logsIn(t, password)
	a.connect(t, a.tls(t, a.inside, gatewayName), "none.pass.example:443")
	config, bundle := filepath.Join(a.dir, "hafen.yaml"), filepath.Join(a.dir, "bundle.tar.gz")
	for _, args := range [][]string{
		{"config", "show"}, {"check"}, {"status"}, {"doctor", "--patience", "2s"}, {"firewall"}, {"support-bundle", "--out", bundle, "--patience", "5s"},
	} {
		_, _ = ours(t, a.dmz, append(args, "--config", config)...)
	}
	secrets.Archive(t, "the support bundle", bundle)
	a.otherConfigurations(t, inFile)
	waitFor(t, "an incident to be told", 40*time.Second, func() bool { return strings.Contains(a.gateway.out.String(), "incident not delivered") })
	a.gateway.look()
	// It dies of a fault, on a machine that keeps cores: there is none, and what it prints then is part of the log.
	must(t, unix.Prlimit(a.gateway.cmd.Process.Pid, unix.RLIMIT_CORE, &unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}, nil))
	must(t, a.gateway.cmd.Process.Signal(unix.SIGABRT))
	<-a.gateway.done
	if ended, ok := a.gateway.cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || ended.CoreDump() || ended.Signaled() {
		t.Errorf("it died with a core: %v", a.gateway.cmd.ProcessState)
	}
	log := a.gateway.out.String()
	for _, word := range []string{"SIGABRT", "connection", "incident not delivered", "area=store", "company's PAC"} {
		if !strings.Contains(log, word) {
			t.Errorf("the log does not speak of %q: nothing to be searched", word)
		}
	}
	b, err := os.ReadFile(config)
	must(t, err)
	alone, _, _ := strings.Cut(string(b), "store: ") // with a database the order waits for it
	a.run(orderedByACME(alone, a.ca.file, inFile("eab.3", "%s"), inFile("tsig.3", "%s")))
	waitFor(t, "an order to fail", 20*time.Second, func() bool { return strings.Contains(a.gateway.out.String(), "no certificate from the authority") })
}

// logsIn wants a cookie for the password.
func (a *abuse) logsIn(t *testing.T, password string) {
	t.Helper()
	body := "name=admin&password=" + password
	answer := exchange(t, a.tls(t, a.inside, gatewayName, "http/1.1"), fmt.Sprintf("POST /status/login HTTP/1.1\r\nHost: %s\r\n"+
		"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s", gatewayName, len(body), body))
	if code(answer) != "303" || !cookies.MatchString(answer) {
		t.Errorf("the control, a right password: %q", statusLine(answer))
	}
}

// orderedByACME has the certificate ordered from an authority that is none.
func orderedByACME(cfg, roots, eab, tsig string) string {
	files := "source: files\n  files: [" + between(cfg, "files: [", "\n")
	return strings.Replace(cfg, files, fmt.Sprintf("source: acme\n  acme: {directory: \"https://%s:81/\", ca_file: %s, eab_key_id: kid, eab_key_file: %s, dns: {server: \"10.20.0.2:53\", zone: acme.example, key_name: hafen, key_file: %s}}",
		cloudAddr, roots, eab, tsig), 1)
}

// otherConfigurations are taken or refused with every secret in them.
func (a *abuse) otherConfigurations(t *testing.T, inFile func(name, format string) string) {
	b, err := os.ReadFile(filepath.Join(a.dir, "hafen.yaml"))
	must(t, err)
	good := string(b)
	acme := func(eab, tsig string) string { return orderedByACME(good, a.ca.file, eab, tsig) }
	for name, c := range map[string]struct {
		text  string
		taken bool
	}{
		"acme":            {acme(inFile("eab", "%s"), inFile("tsig", "%s")), true},
		"spoiled EAB":     {acme(inFile("eab.spoiled", "no base64: %s!"), inFile("tsig.2", "%s")), true}, // the authority will say so
		"spoiled TSIG":    {acme(inFile("eab.2", "%s"), inFile("tsig.spoiled", "key \"x\" { secret %s! };")), false},
		"bad type":        {strings.Replace(good, "egress: {proxy: ", "egress: {proxy: [1, 2], x: ", 1), false},
		"bad url":         {strings.Replace(good, "http://someone:", "ftp://some one:", 1), false},
		"no port":         {strings.Replace(good, "@10.20.0.2:3128", "@10.20.0.2:99999", 1), false},
		"bad YAML":        {good + "\t: [", false},
		"hash twice":      {strings.Replace(good, "password_hash: \"", "password_hash: \"x", 1), false},
		"in a list":       {strings.Replace(good, "egress: {proxy: ", "egress: {no_proxy: ", 1), false},
		"open database":   {strings.Replace(good, "sslmode=require", "sslmode=disable", 1), false},
		"no database":     {strings.Replace(good, "store: \"postgres:", "store: \"mysql:", 1), false},
		"no hook":         {strings.Replace(good, "webhook: \"https:", "webhook: \"gopher:", 1), false},
		"no PAC":          {strings.Replace(good, "parent: \"http:", "parent: \"file:", 1), false},
		"secret for file": {strings.Replace(good, "turn_credentials: {secret_file: ", "turn_credentials: {secret_file: "+secrets.Make("a secret where a file belongs"), 1), false},
	} {
		path := filepath.Join(a.dir, "other.yaml")
		must(t, os.WriteFile(path, []byte(c.text), 0o600))
		out, err := ours(t, a.dmz, "check", "--config", path)
		if c.text == good || (err == nil) != c.taken {
			t.Errorf("%s: %v\n%s", name, err, secrets.Hide(out))
		}
		_, _ = ours(t, a.dmz, "doctor", "--config", path, "--patience", "1s")
	}
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

// TestAbuse_J01: SIGTERM refuses what is new and lets go on what runs; a second one ends at once. J-11 and D-15: what can't
// start says why in one sentence.
func TestAbuse_J01(t *testing.T) {
	t.Parallel()
	a := newAbuse(t)
	conn := a.tls(t, a.inside, gatewayName)
	c := newTURN(conn, false)
	if code, err := c.allocate(); code != 0 || err != nil {
		t.Fatalf("allocate: %d %v", code, err)
	}
	tunnel := a.tls(t, a.inside, gatewayName)
	_, _ = io.WriteString(tunnel, "CONNECT good."+passSuffix+":443 HTTP/1.1\r\nHost: good."+passSuffix+":443\r\n\r\n"+string(clientHello(t, "good."+passSuffix)))
	if b, _ := answers(tunnel, 2*time.Second); !strings.Contains(string(b), " 200 ") {
		t.Fatalf("tunnel: %q", b)
	}
	pid := a.gateway.cmd.Process.Pid
	must(t, unix.Kill(-pid, unix.SIGTERM))
	waitFor(t, "/readyz to say 503", 2*time.Second, func() bool {
		_, status := get(a.dmz, "http://127.0.0.1:9443/readyz", "")
		return status == http.StatusServiceUnavailable
	})
	if _, status := get(a.dmz, "http://127.0.0.1:9443/livez", ""); status != http.StatusOK {
		t.Errorf("/livez while draining: %d", status)
	}
	if body, status := get(a.inside, "https://"+gatewayAddr+"/", gatewayName); status != http.StatusServiceUnavailable {
		t.Errorf("a new request while draining: %d %s", status, body)
	}
	late := a.tls(t, a.inside, gatewayName)
	_, _ = late.Write(stunMessage(typeAllocate, udpTransport))
	if b := closes(t, late, 3*time.Second); len(b) > 0 {
		t.Errorf("a new TURN client while draining got %x", b)
	}
	for range 3 { // what runs goes on
		time.Sleep(300 * time.Millisecond)
		binds(t, conn, false)
	}
	if b, closed := answers(tunnel, 300*time.Millisecond); closed {
		t.Errorf("the tunnel was closed: %q", b)
	}
	began := time.Now()
	must(t, unix.Kill(-pid, unix.SIGTERM))
	select {
	case <-a.gateway.done:
		t.Logf("ended %v after the second signal, %v", time.Since(began).Round(time.Millisecond), a.gateway.err)
		if a.gateway.err != nil {
			t.Errorf("exit: %v", a.gateway.err)
		}
	case <-time.After(5 * time.Second):
		t.Error("the second SIGTERM does not end it")
	}
	t.Run("J-11", a.cannotStart)
}

func (a *abuse) cannotStart(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(a.dir, "hafen.yaml"))
	must(t, err)
	good := string(b)
	cert, key := between(good, "{cert: ", ","), between(good, "key: ", "}")
	_, otherKey := a.ca.issue(t, "other.example")
	broken := filepath.Join(a.dir, "broken.pem")
	must(t, os.WriteFile(broken, []byte("-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"), 0o600))
	open := filepath.Join(a.dir, "open.key")
	k, err := os.ReadFile(key)
	must(t, err)
	must(t, os.WriteFile(open, k, 0o644))
	must(t, os.Chmod(open, 0o644))
	busy, err := a.dmz.listen("tcp", gatewayAddr+":3129")
	must(t, err)
	defer func() { _ = busy.Close() }()
	for name, c := range map[string]struct{ old, new, says string }{
		"port taken":          {":3128", ":3129", "listen.proxy"},
		"key of another":      {"key: " + key, "key: " + otherKey, "key"},
		"key broken":          {"key: " + key, "key: " + broken, broken},
		"key readable by all": {"key: " + key, "key: " + open, "everybody"},
		"key missing":         {"key: " + key, "key: /nowhere.key", "tls.files[0].key"},
		"cert missing":        {"cert: " + cert, "cert: /nowhere.crt", "tls.files[0].cert"},
		"unknown key":         {"clients:", "cilents:", "clients"},
		"unmasked network":    {"clients: [10.30.0.0/24]", "clients: [10.30.0.1/24]", "clients"},
		"everybody":           {"clients: [10.30.0.0/24]", "clients: [0.0.0.0/0]", "clients_any"},
		"everybody, halved":   {"clients: [10.30.0.0/24]", "clients: [0.0.0.0/1, 128.0.0.0/1]", "clients_any"},
		"no clients":          {"clients: [10.30.0.0/24]", "clients: []", "clients"},
		"port 0":              {gatewayAddr + ":3128", gatewayAddr + ":0", "listen.proxy"},
		"port 65536":          {gatewayAddr + ":3128", gatewayAddr + ":65536", "listen.proxy"},
		"duplicate key":       {"pac: ", "name: twice.example\npac: ", "name"},
		"no such address":     {gatewayAddr + ":3128", "192.0.2.7:3128", "listen.proxy"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(good, c.old) {
				t.Fatalf("the configuration has no %q", c.old)
			}
			path := filepath.Join(a.dir, "bad.yaml")
			must(t, os.WriteFile(path, []byte(strings.Replace(good, c.old, c.new, 1)), 0o600))
			p := a.dmz.start(t, name, hafenBinary, "serve", "--config", path)
			select {
			case <-p.done:
			case <-time.After(8 * time.Second):
				t.Fatal("it runs")
			}
			out := p.out.String()
			if p.err == nil || !strings.Contains(out, c.says) || strings.Contains(out, "goroutine ") || len(out) > 1500 {
				t.Errorf("exit %v, said:\n%s", p.err, out)
			}
		})
	}
}

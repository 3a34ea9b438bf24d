package page_test

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	cdplog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"hafen/configs"
	"hafen/gateway/page"
	"hafen/gateway/status"
	"hafen/precall"
)

// All pages of the gateway are looked at here, with a real browser: the policy that forbids inline scripts and anything
// from elsewhere is the same for all of them, and so is this test.

// chromium is the browser; without one the test is skipped, or fails where CI says that everything has to be there.
func chromium(t *testing.T) context.Context {
	t.Helper()
	path, err := exec.LookPath("chromium")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no chromium, and CI=true: install Debian's chromium")
		}
		t.Skip("skipped: no chromium on this machine (Debian: apt-get install chromium)")
	}
	opts := append(slices.Clone(chromedp.DefaultExecAllocatorOptions[:]),
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.DisableGPU, chromedp.UserDataDir(t.TempDir()),
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("use-fake-device-for-media-stream", true), chromedp.Flag("use-fake-ui-for-media-stream", true),
		chromedp.Flag("autoplay-policy", "no-user-gesture-required"), chromedp.WSURLReadTimeout(60*time.Second))
	alloc, cancel := chromedp.NewExecAllocator(context.Background(), opts...)
	t.Cleanup(cancel)
	ctx, cancel := chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("chromium: %v", err)
	}
	return ctx
}

// tab is one page, and what it complained about.
type tab struct {
	t    *testing.T
	ctx  context.Context
	host string

	mu       sync.Mutex
	problems []string
}

func open(t *testing.T, browser context.Context, base string) *tab {
	t.Helper()
	u, err := url.Parse(base)
	must(t, err)
	p := &tab{t: t, host: u.Host}
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithListener(p.listen))
	t.Cleanup(cancel)
	p.ctx = ctx
	must(t, chromedp.Do(ctx))
	_, err = chromedp.Call(ctx, network.Enable, network.EnableParams{})
	must(t, err)
	return p
}

// listen notes console errors, exceptions, violations of the policy (they are log entries) and requests to elsewhere.
func (p *tab) listen(ev any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	note := func(format string, args ...any) { p.problems = append(p.problems, fmt.Sprintf(format, args...)) }
	switch ev := ev.(type) {
	case *runtime.EventConsoleAPICalled:
		if ev.Type == "error" || ev.Type == "warning" {
			note("console %s: %+v", ev.Type, ev.Args)
		}
	case *runtime.EventExceptionThrown:
		note("exception: %s %+v", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
	case *cdplog.EventEntryAdded:
		if ev.Entry.Level == "error" || ev.Entry.Level == "warning" {
			note("%s: %s %s", ev.Entry.Source, ev.Entry.Text, ev.Entry.URL)
		}
	case *network.EventRequestWillBeSent:
		if u, err := url.Parse(ev.Request.URL); err != nil || u.Host != p.host && u.Scheme != "blob" {
			note("asks elsewhere: %s", ev.Request.URL)
		}
	}
}

// clean fails the test when the page complained, but for what matches one of the patterns.
func (p *tab) clean(allowed ...string) {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, problem := range p.problems {
		if !slices.ContainsFunc(allowed, func(a string) bool { return regexp.MustCompile(a).MatchString(problem) }) {
			p.t.Error(problem)
		}
	}
	p.problems = nil
}

func (p *tab) navigate(address string) {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	must(p.t, chromedp.Do(ctx, chromedp.Navigate(address)))
}

// text evaluates an expression, awaiting a promise.
func (p *tab) text(expr string) string {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	s, err := chromedp.Run(ctx, chromedp.Evaluate[string]("(async () => String(await ("+expr+")))()", chromedp.EvalAwaitPromise))
	must(p.t, err)
	return s
}

func (p *tab) waitFor(what string, limit time.Duration, expr string) {
	p.t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if p.text(expr) == "true" {
			return
		}
	}
	p.t.Fatalf("%s: not within %v", what, limit)
}

// look sets window and colours; with PAGE_SHOTS=DIR it leaves a picture there for a person to look at.
func (p *tab) look(name string, width int64, scheme string) {
	p.t.Helper()
	height := int64(900)
	if width < 500 {
		height = 844
	}
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	must(p.t, chromedp.Do(ctx, chromedp.EmulateViewport(width, height)))
	_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
		Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}},
	})
	must(p.t, err)
	if over := p.text("document.documentElement.scrollWidth - innerWidth"); strings.TrimLeft(over, "-0123456789") != "" || over[0] != '-' && over != "0" {
		p.t.Errorf("%s at %d: %s pixels too wide", name, width, over)
	}
	dir := os.Getenv("PAGE_SHOTS")
	if dir == "" {
		return
	}
	picture := chromedp.FullScreenshot(100)
	if p.text("document.documentElement.scrollHeight <= innerHeight") == "true" {
		picture = chromedp.CaptureScreenshot() // of a short page in Arabic the other cuts a part off
	}
	png, err := chromedp.Run(ctx, picture)
	must(p.t, err)
	must(p.t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, scheme)), png, 0o600))
}

// everyLook is a phone and a desk, by day and by night.
func (p *tab) everyLook(name string) {
	p.t.Helper()
	for _, width := range []int64{390, 1440} {
		for _, scheme := range []string{"light", "dark"} {
			p.look(name, width, scheme)
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// gatewayPages puts the pages together as the gateway does.
func gatewayPages(t *testing.T, ice func(context.Context, netip.Addr) ([]precall.ICEServer, error), drain ...func(time.Duration, string)) string {
	t.Helper()
	site := page.Site{Name: "Klinikum am Stadthafen, Haus Süd", Help: "IT-Service, Telefon 4711"}
	front, err := page.Front(func(*http.Request) page.Site { return site })
	must(t, err)
	test, err := precall.New(precall.Options{
		Name: "gw.hospital.example", ICE: ice, Site: func(netip.Addr) page.Site { return site },
		Regions: func(context.Context) []precall.Region {
			return []precall.Region{
				{Service: "calls", Name: "frankfurt", Up: true, RTT: 12 * time.Millisecond},
				{Service: "calls", Name: "dublin", Up: true, RTT: 31 * time.Millisecond},
			}
		},
		CallServers: func(context.Context) []precall.CallServer {
			return []precall.CallServer{{Service: "calls", Host: "call.example.net", Up: true, RTT: 15 * time.Millisecond, Level: precall.LevelService}}
		},
	})
	must(t, err)
	t.Cleanup(func() { must(t, test.Close()) })
	mux := http.NewServeMux()
	mux.Handle("/", front)
	mux.Handle(page.AssetPath, page.Assets())
	mux.Handle("/precall/", test)
	mux.Handle("/api/v1/", test)
	mux.Handle("/.well-known/hafen/", test)
	mux.Handle("/status/", statusPage(t, drain...))
	srv := httptest.NewServer(mux)
	t.Cleanup(func() { srv.CloseClientConnections(); srv.Close() })
	return strings.Replace(srv.URL, "127.0.0.1", "localhost", 1) // a secure context
}

func statusPage(t *testing.T, drain ...func(time.Duration, string)) http.Handler {
	t.Helper()
	drain = append(drain, func(time.Duration, string) {})
	hash, err := status.HashPassword("a good long password")
	must(t, err)
	cfg := configs.Default()
	cfg.Admin.Users = []configs.AdminUser{{Name: "anna", PasswordHash: hash, Role: "admin"}, {Name: "paul", PasswordHash: hash, Role: "helpdesk"}}
	s, err := status.New(status.Options{
		Config: cfg, Snapshot: badNight, Drain: drain[0], Effective: cfg.Show,
		Health: func() status.Health { return status.Health{Reachable: true, Complete: true} },
		Helpdesk: status.Helpdesk{
			Find: foundRun,
			History: func(context.Context, time.Time) ([]status.RunCount, error) {
				day := time.Now().Format(time.DateOnly)
				return []status.RunCount{
					{Day: day, Place: "Clinic North", Verdict: "pass", Runs: 12},
					{Day: day, Place: "Clinic North", Verdict: "warn", Cause: "udp-blocked", Runs: 3},
					{Day: day, Place: "10.44.7.0/24", Verdict: "fail", Cause: "websocket-blocked", Runs: 2},
				}, nil
			},
			Recent: func(context.Context, int) ([]status.Run, error) {
				return []status.Run{{Time: time.Now(), Code: "K7QF-2M", Verdict: "fail", Cause: "websocket-blocked"}, {Time: time.Now(), Code: "0B3X-9T", Verdict: "pass"}}, nil
			},
		},
	})
	must(t, err)
	t.Cleanup(func() { must(t, s.Close()) })
	return s
}

// badNight is a gateway of which most that can go wrong has: the page in its longest form.
func badNight() status.Snapshot {
	now := time.Now()
	rung := func(name, state, why string) status.Rung {
		return status.Rung{Name: name, State: state, RTTms: 12.3, Why: why}
	}
	s := status.Snapshot{
		Time: now, Name: "gw.hospital.example", Version: "test", Uptime: 50 * time.Hour,
		Counts: status.Counts{Connections: 1234, Allocations: 3900, WebSockets: 210, LongPolls: 14, Tunnels: 3, BytesUp: 1 << 40, BytesDown: 1 << 41},
		Services: []status.Service{
			{Name: "calls", Chosen: "frankfurt", Regions: []status.Region{
				{Name: "frankfurt", Up: true, Use: true, RTTms: 12.3, Rung: "udp:3478", Rungs: []status.Rung{rung("udp:3478", "up", ""), rung("tls:443", "unknown", "")}},
				{Name: "dublin", Use: true, Rungs: []status.Rung{rung("udp:dub.relay.with-a-long-name.example.net:3478", "down", "no answer for 2s"), rung("tls:443", "down", "resolve dub.relay.example.net: DNS knows no address of this name (`hosts:` can give it one)")}},
			}},
			{Name: "interpreters", Regions: []status.Region{{Name: "zurich", Use: true, Rungs: []status.Rung{rung("udp:3478", "down", "connection refused")}}}},
		},
		CallServers: []status.CallServer{
			{Service: "calls", Host: "call.example.net", Probe: "HTTPS", State: "up", RTTms: 21},
			{Service: "calls", Host: "call.example.net", Probe: "WebSocket", State: "down", Why: "It answered 200: its path is another one, or something on the way takes the upgrade out."},
			{Service: "interpreters", Host: "video.interpreters-with-a-very-long-name.hospital.example.org", Probe: "HTTPS", State: "unknown"},
		},
		Certificates: []status.Certificate{
			{Names: []string{"gw.hospital.example", "calls.hospital.example"}, Issuer: "Hospital Issuing CA 3", Begins: now.AddDate(-1, 0, 0), Expires: now.AddDate(0, 0, 3), Source: "files", Trusted: true, Problem: "tls.files[0].cert: /etc/hafen/gw.crt is empty"},
			{Names: []string{"pac.hospital.example"}, Source: "acme"},
		},
		Sessions: []status.Session{
			{Kind: "TURN tls", Client: "10.20.3.0/24", Service: "calls", Region: "frankfurt", Rung: "udp:3478", RTTms: 12, QueueMS: 81, Dropped: 1234, Age: 10 * time.Minute},
			{Kind: "websocket", Client: "2001:db8:1234::/48", Service: "calls", Target: "call.example.net", Age: 3 * time.Hour},
		},
		Refused:   []status.Refused{{Network: "10.9.9.0/24", Count: 1234, Last: now, Write: "clients: [10.0.0.0/9, 10.9.9.0/24]"}},
		Limits:    []status.Limit{{Key: "limits.allocations", Used: 3900, Max: 4000}, {Key: "limits.connections_per_client", Used: 40, Max: 40, PerClient: true, Refused: 12}},
		SelfTests: []status.SelfTest{{Kind: "disk", State: "warn", Sentence: "The disk of data_dir is nearly full: 312 MiB are free.", Advice: "Make room below /var/lib/hafen: certificates, reports and the audit log can't be kept on a full disk.", Works: "Calls are not affected."}, {Kind: "audit-log", State: "skipped", Sentence: "There is no audit log."}},
		Events: []status.Event{
			{Time: now, Kind: "incident", Sentence: "No relay of interpreters can be reached: calls have no sound and no picture.", Advice: "Let this machine reach the relays over UDP 3478, or at least TCP 443."},
			{Time: now, Kind: "rung_down", About: "calls/dublin", Sentence: "udp:3478: no answer for 2s"},
		},
		Runs: []status.Run{{Time: now, Code: "K7QF-2M", Verdict: "fail", Cause: "websocket-blocked"}},
		Peers: []status.Peer{
			{Host: "gw1", Self: true, Version: "test", Verdict: "down", Sentence: "No relay of interpreters can be reached: calls have no sound and no picture.", Uptime: 50 * time.Hour},
			{Host: "gw2", Version: "test", Verdict: "ok", Missing: true, Silent: 3 * time.Minute},
		},
		Week: &status.Week{
			Sessions: 1240, Minutes: 31_000, Rungs: []status.WeekRung{{Rung: "udp", Sessions: 1100, Minutes: 28_000}, {Rung: "tls", Sessions: 140, Minutes: 3000}},
			Days:  []status.WeekDay{{Day: "2026-11-27", Sessions: 640, Minutes: 16_000}, {Day: "2026-11-28", Sessions: 600, Minutes: 15_000}},
			Worst: &status.WeekPlace{Place: "Praxis Dr. Meyer-Landrut", Runs: 14, Failed: 6, Cause: "websocket-blocked"},
		},
		Addresses: []status.AddressChange{
			{Name: "call.example.net", Came: []string{"198.51.100.9", "2001:db8:77::9"}, Went: []string{"192.0.2.1"}, Since: now.AddDate(0, 0, -2)},
			{Name: "video.interpreters-with-a-very-long-name.hospital.example.org", Went: []string{"203.0.113.70"}, Since: now.AddDate(0, 0, -5)},
		},
		Sites: []status.Site{{Name: "Klinikum am Stadthafen, Haus Süd", Clients: 312, Fetched: 300, Through: 280, Direct: 12, Failed: 4}},
	}
	s.Judge()
	return s
}

// foundRun is what the help desk finds.
func foundRun(_ context.Context, code, _ string) (status.FoundRun, error) {
	if code != "K7QF-2M" {
		return status.FoundRun{}, status.ErrNoRun
	}
	return status.FoundRun{
		Code: code, Time: time.Now(), Verdict: "fail", Place: "Tested from Clinic North, network 10.20.3.0/24", Sentence: "A call would not work like this.",
		Causes: []status.FoundCause{{Title: "The network stops WebSockets", Percent: 95, IT: "Allow WebSocket from 10.20.3.0/24 to gw.hospital.example TCP 443, both directions."}},
		Caller: []string{"So würde ein Gespräch nicht klappen.", "Bitte geben Sie den Code Ihrem Helpdesk: Im Netz muss eine Regel geändert werden."}, CallerLang: "de",
		Ticket:  "A call would not work like this.\nCode for the help desk: K7QF-2M\n\n1. The network stops WebSockets (websocket-blocked, 95 % sure)",
		Page:    []status.FoundCheck{{Verdict: "fail", Word: "bad", Name: "WebSocket", Detail: "Closed before anything came back."}, {Verdict: "pass", Word: "good", Name: "Round trip", Value: "9 ms"}},
		Gateway: []status.FoundCheck{{Verdict: "pass", Word: "good", Name: "Relay", Target: "calls/frankfurt", Value: "12 ms"}, {Verdict: "skipped", Word: "not tested", Name: "Clock"}},
	}, nil
}

func TestChromiumFrontDoorAndStatus(t *testing.T) {
	browser := chromium(t)
	base := gatewayPages(t, nil)
	p := open(t, browser, base)
	for _, lang := range []string{"en", "de"} {
		p.navigate(base + "/?lang=" + lang)
		if got := p.text("document.documentElement.lang"); got != lang {
			t.Errorf("the page is in %q", got)
		}
		p.everyLook("front-" + lang)
	}
	if got := p.text("document.querySelector('.button').getAttribute('href')"); got != "/precall/" {
		t.Errorf("the first button leads to %s", got)
	}
	p.navigate(base + "/status/")
	p.waitFor("the login", 10*time.Second, "!!document.querySelector('input[type=password]')")
	p.clean()
}

// report is what machines read of a run.
type report struct {
	Version int
	ID      string
	Code    string
	Verdict string
	Checks  []struct{ ID, Target, Level, Verdict, Detail string }
	Causes  []struct {
		ID         string
		Confidence float64
		Advice     struct{ User, IT string }
	}
}

func (r report) verdict(id string) string {
	for _, c := range r.Checks {
		if c.ID == id {
			return c.Verdict
		}
	}
	return "not there"
}

// run runs the test by itself with a short hold and gives its report.
func (p *tab) run(address string) report {
	p.t.Helper()
	p.navigate(address)
	p.waitFor("the end of the test", 80*time.Second, "document.documentElement.dataset.precall === 'done'")
	var r report
	must(p.t, json.Unmarshal([]byte(p.text("JSON.stringify(window.hafenReport)")), &r))
	if got := p.text("[document.documentElement.dataset.verdict, document.documentElement.dataset.code].join(' ')"); got != r.Verdict+" "+r.Code {
		p.t.Errorf("the attributes say %q, the report %s %s", got, r.Verdict, r.Code)
	}
	return r
}

// TestChromiumPrecallWithoutRelay: the gateway names a relay that is not there. Everything else works.
func TestChromiumPrecallWithoutRelay(t *testing.T) {
	browser := chromium(t)
	base := gatewayPages(t, func(context.Context, netip.Addr) ([]precall.ICEServer, error) {
		return []precall.ICEServer{{
			URLs:     []string{"turn:localhost:1?transport=tcp", "turns:localhost:1?transport=tcp"},
			Username: "test", Credential: "test",
		}}, nil
	})
	p := open(t, browser, base)
	p.navigate(base + "/precall/?lang=de")
	p.everyLook("precall-intro-de")
	p.text("document.getElementById('start').click()")
	p.waitFor("a run", 10*time.Second, "document.documentElement.dataset.precall === 'running'")
	p.text("document.getElementById('cancel').click()")
	p.waitFor("the beginning again", 10*time.Second, "!document.getElementById('intro').hidden && document.documentElement.dataset.precall === undefined")
	if said := p.text("document.getElementById('cancelled').textContent"); said == "" {
		t.Error("nothing says that the test was cancelled")
	}
	p.everyLook("precall-cancelled-de")
	p.text("document.getElementById('start').click()")
	p.waitFor("another run", 10*time.Second, "document.documentElement.dataset.precall === 'running' && document.getElementById('progress').value < 50")
	p.text("document.getElementById('cancel').click()")
	p.waitFor("the beginning once more", 10*time.Second, "!document.getElementById('intro').hidden && document.documentElement.dataset.precall === undefined")
	p.navigate(base + "/precall/?lang=en") // what the cancelled run still had to say has been said by now
	p.clean("WebSocket is closed before the connection is established")
	p.carried(map[string]string{
		"[]": "undefined", "[800]": "800", "[0,0,300,300,300,300,300,300,300,300,300,300]": "300",
		"[9000,9000,9000,9000,300,300,300,300,300,300,300,300]":        "300",  // a policer's bucket, then its rate
		"[0,0,0,0,6000,6000,6000,6000,0,0,0,6000,6000,6000,6000,6000]": "6000", // a page that was late to read
	})
	r := p.run(base + "/precall/?autorun=1&hold=5&lang=en")
	if r.Version != 1 || r.Verdict != "fail" || len(r.ID) != 32 || len(r.Code) != 7 {
		t.Errorf("%+v", r)
	}
	if len(r.Causes) == 0 || r.Causes[0].ID != "turn-tls-blocked" || !strings.Contains(r.Causes[0].Advice.IT, "gw.hospital.example") {
		t.Errorf("causes: %+v", r.Causes)
	}
	for id, want := range map[string]string{
		"browser": "pass", "secure-context": "pass", "microphone": "warn", // Chromium's beep is as loud as can be
		"call-server:websocket": "pass", "call-server:longpoll": "pass",
		"relay:udp": "skipped", "relay:tls": "fail", "relay:tcp": "fail", "gateway:regions": "pass", "gateway:call-servers": "pass", "clock": "pass",
	} {
		if got := r.verdict(id); got != want {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
	}
	p.text("document.querySelectorAll('#result details').forEach((d) => { d.open = true })")
	p.everyLook("precall-fail-en")
	p.clean()
}

// carried holds what the page makes of the rates of a line's quarters of a second against what it carries.
func (p *tab) carried(of map[string]string) {
	p.t.Helper()
	for rates, want := range of {
		got := p.text("import(document.querySelector('script[type=module]').src.replace('app.js', 'load.js')).then((load) => String(load.carried(" + rates + ")))")
		if got != want {
			p.t.Errorf("rates %s: the line carries %s, want %s", rates, got, want)
		}
	}
}

// coturn runs Debian's coturn on loopback and gives its port: a relay that works, where the gateway's own is not at hand.
func coturn(t *testing.T) int {
	t.Helper()
	path, err := exec.LookPath("turnserver")
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no coturn, and CI=true: install Debian's coturn")
		}
		t.Skip("skipped: no coturn on this machine (Debian: apt-get install coturn)")
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	port := ln.Addr().(*net.TCPAddr).Port
	must(t, ln.Close())
	dir := t.TempDir()
	cmd := exec.Command(path, "-n", "--log-file=stdout", "--no-cli", "--no-tls", "--no-dtls", "--no-rfc5780", "--allow-loopback-peers",
		"--listening-ip=127.0.0.1", "--relay-ip=127.0.0.1", fmt.Sprint("--listening-port=", port), "--lt-cred-mech", "--user=test:test",
		"--realm=test", "--pidfile="+filepath.Join(dir, "pid"), "--userdb="+filepath.Join(dir, "db"))
	must(t, cmd.Start())
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for range 100 {
		if conn, err := net.Dial("tcp", fmt.Sprint("127.0.0.1:", port)); err == nil {
			_ = conn.Close()
			return port
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatal("coturn does not listen")
	return 0
}

// TestChromiumPrecallThroughARelay: everything works. Sound and picture go around the relay and are measured.
func TestChromiumPrecallThroughARelay(t *testing.T) {
	browser := chromium(t)
	port := coturn(t)
	base := gatewayPages(t, func(context.Context, netip.Addr) ([]precall.ICEServer, error) {
		return []precall.ICEServer{{
			URLs:     []string{fmt.Sprintf("turn:127.0.0.1:%d?transport=udp", port), fmt.Sprintf("turn:127.0.0.1:%d?transport=tcp", port)},
			Username: "test", Credential: "test",
		}}, nil
	})
	p := open(t, browser, base)
	p.navigate(base + "/precall/?autorun=1&hold=5&lang=de")
	p.waitFor("sound and picture", 40*time.Second, "document.querySelectorAll('#steps li').length > 8")
	p.everyLook("precall-run-de")
	// Another microphone while the test runs is opened and measured in the place of the first.
	p.navigate(base + "/precall/?autorun=1&hold=9&lang=de")
	p.waitFor("a choice of microphones", 40*time.Second, "document.getElementById('pick-microphone').options.length > 1")
	p.text("(() => { const pick = document.getElementById('pick-microphone'); pick.selectedIndex = pick.options.length - 1; pick.dispatchEvent(new Event('change')); })()")
	var changed report
	p.waitFor("the end of the test", 80*time.Second, "document.documentElement.dataset.precall === 'done'")
	must(t, json.Unmarshal([]byte(p.text("JSON.stringify(window.hafenReport)")), &changed))
	if got := changed.verdict("microphone"); got != "warn" || changed.verdict("relay:media") != "pass" {
		t.Errorf("after another microphone was chosen: %s, media %s", got, changed.verdict("relay:media"))
	}
	r := p.run(base + "/precall/?autorun=1&hold=5&lang=de")
	for _, id := range []string{"relay:udp", "relay:tcp", "relay:media", "call-server:websocket", "call-server:longpoll"} {
		if got := r.verdict(id); got != "pass" {
			t.Errorf("%s: %s", id, got)
		}
	}
	if got := r.verdict("rtt"); got != "pass" {
		t.Errorf("rtt: %s", got)
	}
	// How good sound and picture were depends on how busy this machine is; that there was no reason to fail does not.
	if r.Verdict == "fail" || r.verdict("relay:tls") != "skipped" {
		t.Errorf("%+v", r)
	}
	p.text("document.querySelectorAll('#result details').forEach((d) => { d.open = true })")
	p.everyLook("precall-pass-de")
	p.clean()
}

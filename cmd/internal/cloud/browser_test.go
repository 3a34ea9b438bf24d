package cloud

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
)

// startBrowser runs headless Chromium with fake devices. Without one the test is skipped, or fails where CI=true.
func startBrowser(t *testing.T, more ...chromedp.ExecAllocatorOption) context.Context {
	t.Helper()
	if testing.Short() {
		t.Skip("skipped: -short leaves the browser out")
	}
	path := findChromium()
	if path == "" {
		if os.Getenv("CI") == "true" {
			t.Fatal("no Chromium: install the package chromium")
		}
		t.Skip("skipped: no Chromium here (Debian's package chromium)")
	}
	flags := append([]chromedp.ExecAllocatorOption{
		chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.NoFirstRun, chromedp.NoDefaultBrowserCheck,
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-background-networking", true), chromedp.Flag("disable-component-update", true),
		chromedp.Flag("disable-sync", true), chromedp.Flag("mute-audio", true), chromedp.Flag("lang", "en"),
		chromedp.Flag("use-fake-device-for-media-stream", true), chromedp.Flag("use-fake-ui-for-media-stream", true),
	}, more...)
	allocator, cancel := chromedp.NewExecAllocator(t.Context(), flags...)
	browser, _ := chromedp.NewContext(allocator)
	if err := chromedp.Do(browser); err != nil {
		t.Fatalf("starting %s: %v", path, err)
	}
	t.Cleanup(func() {
		_ = chromedp.Cancel(browser)
		cancel()
	})
	return browser
}

func findChromium() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	return ""
}

// tab is one page of the browser.
type tab struct {
	t   *testing.T
	ctx context.Context
}

func openTab(t *testing.T, browser context.Context, url string) *tab {
	t.Helper()
	ctx, cancel := chromedp.NewContext(browser, chromedp.WithListener(func(e any) {
		if x, ok := e.(*runtime.EventExceptionThrown); ok {
			t.Errorf("%s: %s %s", url, x.ExceptionDetails.Text, thrown(x.ExceptionDetails))
		}
	}))
	t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.Navigate(url)); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
	return &tab{t, ctx}
}

func thrown(d *runtime.ExceptionDetails) string {
	if d.Exception == nil {
		return ""
	}
	return d.Exception.Description
}

// eval evaluates an expression, a promise too.
func (b *tab) eval(expression string, result any) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 20*time.Second)
	defer cancel()
	value, err := chromedp.Run(ctx, chromedp.Evaluate[[]byte](expression, chromedp.EvalAwaitPromise))
	if err == nil && result != nil {
		err = json.Unmarshal(value, result)
	}
	if err != nil {
		b.t.Fatalf("%s: %v", expression, err)
	}
}

// until waits for an expression to become true.
func (b *tab) until(expression string) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var done bool
		b.eval("Boolean("+expression+")", &done)
		if done {
			return
		}
		if time.Now().After(deadline) {
			var state json.RawMessage
			b.eval("({...document.documentElement.dataset, history: window.call?.history, errors: window.call?.errors})", &state)
			b.t.Fatalf("waited in vain for %s: %s", expression, state)
		}
	}
}

type callStats struct {
	State               string
	Signaling           string
	FramesDecoded       int
	AudioPacketsReceive int `json:"audioPacketsReceived"`
	Region              string
	Via                 string
	Restarts            int
	Pair                struct {
		Local struct {
			CandidateType string
			RelayProtocol string
			URL           string
		}
	}
}

func (b *tab) stats() callStats {
	b.t.Helper()
	var s callStats
	b.eval("call.stats()", &s)
	return s
}

// mediaFlows waits until picture and sound have come on.
func (b *tab) mediaFlows() callStats {
	b.t.Helper()
	before := b.stats()
	b.untilStats(fmt.Sprintf("s.framesDecoded > %d && s.audioPacketsReceived > %d",
		before.FramesDecoded+5, before.AudioPacketsReceive+20))
	return b.stats()
}

// untilStats is until for what call.stats() resolves with.
func (b *tab) untilStats(condition string) {
	b.t.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		var done bool
		b.eval("call.stats().then(s => Boolean("+condition+"))", &done)
		if done {
			return
		}
		if time.Now().After(deadline) {
			b.t.Fatalf("waited in vain for %s: %+v", condition, b.stats())
		}
	}
}

// localhost is the cloud's URL by the name that browsers take for secure.
func localhost(c *Cloud) string {
	_, port, _ := strings.Cut(c.Addr().String(), ":")
	return "http://localhost:" + port
}

// Two pages make a call: relayed and over WebSocket, then directly and over long-polls since WebSockets are refused.
func TestCallInBrowser(t *testing.T) {
	t.Parallel()
	browser := startBrowser(t)
	regions := []RegionOptions{
		{Name: "near", Label: "Near", UDP: []string{"127.0.0.1:0"}, TCP: []string{"127.0.0.1:0"}, Delay: 2 * time.Millisecond},
		{Name: "far", Label: "Far", UDP: []string{"127.0.0.1:0"}, Delay: 60 * time.Millisecond},
	}
	for _, c := range []struct {
		name, query, signaling, kind, protocol, region string
		refuse                                         bool
	}{
		{"relayed over UDP", "relay=1&region=far", "websocket", "relay", "udp", "far", false},
		{"relayed over TCP", "relay=1&transport=tcp", "websocket", "relay", "tcp", "near", false},
		{"direct, WebSocket refused", "", "longpoll", "", "", "", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			service := startCloud(t, Options{Regions: regions, RefuseWebSocket: c.refuse})
			url := localhost(service) + "/r/harbour?join=1&video=small&" + c.query
			a := openTab(t, browser, url)
			a.until("call.state === 'waiting'")
			b := openTab(t, browser, url)
			for _, side := range []*tab{a, b} {
				side.until("document.documentElement.dataset.state === 'connected'")
				s := side.mediaFlows()
				if s.Signaling != c.signaling || (c.kind == "relay") != (s.Pair.Local.CandidateType == "relay") {
					t.Errorf("%+v", s)
				}
				if s.Pair.Local.RelayProtocol != c.protocol || s.Region != c.region || s.Restarts != 0 {
					t.Errorf("%+v", s)
				}
			}
			b.eval("call.hangup()", nil)
			a.until("call.state === 'waiting'")
		})
	}
}

// The region in use is cut off: the page restarts ICE, and media comes back through the other one.
func TestICERestartInBrowser(t *testing.T) {
	t.Parallel()
	browser := startBrowser(t)
	c := startCloud(t, Options{ForceRelay: true, Regions: []RegionOptions{
		{Name: "one", TCP: []string{"127.0.0.1:0"}}, {Name: "two", TCP: []string{"127.0.0.1:0"}, Delay: 40 * time.Millisecond},
	}})
	url := localhost(c) + "/r/harbour?join=1&video=small"
	a, b := openTab(t, browser, url), openTab(t, browser, url)
	a.until("call.state === 'connected'")
	a.mediaFlows()
	used := c.Region(a.stats().Region)
	if used == nil {
		t.Fatalf("no region: %+v", a.stats())
	}
	used.SetDown(true)
	for _, side := range []*tab{a, b} {
		side.untilStats(fmt.Sprintf("s.state === 'connected' && s.region && s.region !== %q", used.Name()))
		side.mediaFlows()
	}
	if n := a.stats().Restarts + b.stats().Restarts; n == 0 || n > 6 {
		t.Errorf("%d restarts", n)
	}
}

// A patient arrives while the console polls; the console rings and calls, the patient's page follows.
func TestWaitingRoomInBrowser(t *testing.T) {
	t.Parallel()
	browser := startBrowser(t)
	c := startCloud(t, Options{})
	desk := openTab(t, browser, localhost(c)+"/console?longpoll=1")
	desk.until("desk.signaling === 'longpoll'")
	patient := openTab(t, browser, localhost(c)+"/wait?name=Anna+Berg&join=1&fake=1&video=small")
	patient.until("patient.consoles === 1")
	desk.until("desk.patients.length === 1 && document.documentElement.dataset.rung === '1'")
	var arrival struct {
		Name  string
		Since time.Time
		Shown int64
	}
	desk.eval("desk.arrivals[0]", &arrival)
	if late := time.UnixMilli(arrival.Shown).Sub(arrival.Since); arrival.Name != "Anna Berg" || late > 3*time.Second {
		t.Errorf("%+v, %v late", arrival, late)
	}
	desk.eval("window.open = () => true; document.querySelector('#patients button').click()", nil)
	patient.until("location.pathname.startsWith('/r/') && window.call?.state === 'waiting'")
	desk.until("desk.patients.length === 0")
}

// A page whose camera is denied says in one clear sentence what to do, and can still join.
func TestDeniedInBrowser(t *testing.T) {
	t.Parallel()
	browser := startBrowser(t, chromedp.Flag("use-fake-ui-for-media-stream", false), chromedp.Flag("deny-permission-prompts", true))
	c := startCloud(t, Options{})
	a := openTab(t, browser, localhost(c)+"/r/harbour")
	a.until("call.state === 'ready' && call.media === 'denied'")
	var notice string
	a.eval("document.getElementById('devices').textContent", &notice)
	if !strings.Contains(notice, "address bar") {
		t.Errorf("it says %q", notice)
	}
	a.eval("document.getElementById('join').click()", nil)
	a.until("call.state === 'waiting'")
}

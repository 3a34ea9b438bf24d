package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// firefox is a headless Firefox inside a namespace, spoken to in WebDriver BiDi over its WebSocket.
type firefox struct {
	t    testing.TB
	conn *websocket.Conn
	id   int
	tab  string // the browsing context
}

// firefoxPatience is for one command: the first page that a busy machine's Firefox opens may take a minute and a half.
const firefoxPatience = 2 * time.Minute

var bidi = regexp.MustCompile(`WebDriver BiDi listening on ws://(\S+)`)

// firefoxPrefs are what makes it run without a person, and PAC its one way out.
const firefoxPrefs = `user_pref("network.proxy.type", 2);
user_pref("network.proxy.autoconfig_url", %q);
user_pref("media.navigator.streams.fake", true);
user_pref("media.navigator.permission.disabled", true);
user_pref("media.autoplay.default", 0);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("app.update.enabled", false);
`

func newFirefox(t testing.TB, ns *namespace, ca *authority, pac string) *firefox {
	t.Helper()
	profile := t.TempDir()
	must(t, os.WriteFile(filepath.Join(profile, "user.js"), []byte(fmt.Sprintf(firefoxPrefs, strings.TrimPrefix(pacFlag(pac), "--proxy-pac-url="))), 0o600))
	mustRun(t, "certutil", "-d", "sql:"+profile, "-N", "--empty-password")
	mustRun(t, "certutil", "-d", "sql:"+profile, "-A", "-t", "C,,", "-n", "lab", "-i", ca.file)
	p := ns.startEnv(t, "firefox", []string{"HOME=" + profile, "MOZ_HEADLESS=1"}, "firefox-esr", "--headless", "--no-remote", "--profile", profile, "--remote-debugging-port", "0", "about:blank")
	var addr string
	waitFor(t, "Firefox's BiDi", 90*time.Second, func() bool {
		if m := bidi.FindStringSubmatch(p.out.String()); m != nil {
			addr = m[1]
		}
		return addr != ""
	})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "ws://"+addr+"/session", &websocket.DialOptions{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: ns.dial}}})
	must(t, err)
	conn.SetReadLimit(16 << 20)
	t.Cleanup(func() { _ = conn.CloseNow() })
	f := &firefox{t: t, conn: conn}
	f.call("session.new", map[string]any{"capabilities": map[string]any{}}, nil)
	var tree struct {
		Contexts []struct{ Context string } `json:"contexts"`
	}
	f.call("browsingContext.getTree", map[string]any{}, &tree)
	f.tab = tree.Contexts[0].Context
	return f
}

// call sends a command and waits for its answer; events are of no interest.
func (f *firefox) call(method string, params map[string]any, result any) {
	f.t.Helper()
	must(f.t, f.try(method, params, result))
}

func (f *firefox) try(method string, params map[string]any, result any) error {
	f.id++
	ctx, cancel := context.WithTimeout(f.t.Context(), firefoxPatience)
	defer cancel()
	b, err := json.Marshal(map[string]any{"id": f.id, "method": method, "params": params})
	if err != nil {
		return err
	}
	if err := f.conn.Write(ctx, websocket.MessageText, b); err != nil {
		return err
	}
	for {
		_, b, err := f.conn.Read(ctx)
		if err != nil {
			return err
		}
		var answer struct {
			ID      int             `json:"id"`
			Error   string          `json:"error"`
			Message string          `json:"message"`
			Result  json.RawMessage `json:"result"`
		}
		if err := json.Unmarshal(b, &answer); err != nil {
			return err
		}
		switch {
		case answer.ID != f.id:
			continue
		case answer.Error != "":
			return fmt.Errorf("%s: %s: %s", method, answer.Error, answer.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(answer.Result, result)
	}
}

func (f *firefox) open(address string) {
	f.t.Helper()
	f.call("browsingContext.navigate", map[string]any{"context": f.tab, "url": address, "wait": "interactive"}, nil)
}

func (f *firefox) stats() (s callStats) {
	var answer struct {
		Result struct{ Value string } `json:"result"`
	}
	err := f.try("script.evaluate", map[string]any{
		"expression": "(async () => JSON.stringify(window.call ? await window.call.stats() : {}))()", "awaitPromise": true,
		"target": map[string]any{"context": f.tab},
	}, &answer)
	if err == nil {
		_ = json.Unmarshal([]byte(answer.Result.Value), &s)
	}
	return s
}

// TestFirefoxThroughPAC: Firefox and Chromium in one call, both with nothing but the PAC file; TURN over TCP is bridged.
func TestFirefoxThroughPAC(t *testing.T) {
	needFirefox(t)
	longScenario(t, firefoxThroughPAC)
}

func needFirefox(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("firefox-esr"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("no firefox-esr (make deps installs it on Debian)")
		}
		t.Skip("no firefox-esr (make deps installs it on Debian)")
	}
}

// TestFirefoxModes: Firefox and Chromium in one call, with credentials of the gateway's own, in the modes in which it checks them.
func TestFirefoxModes(t *testing.T) {
	needFirefox(t)
	longScenario(t, firefoxModes)
}

func firefoxModes(t *testing.T) {
	l := modesLaboratory(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	var fox *firefox
	var chromium *tab
	for mode, relays := range map[string]string{"terminate": fraAddr + " " + lonAddr, "local": relayAddr} {
		l.runMode(mode, l.askedAtURL)
		address := "https://" + callName + "/r/" + mode + "?join=1&relay=1&video=small&transport=tls"
		if fox == nil {
			fox = newFirefox(t, ward, l.ca, "function FindProxyForURL() { return 'DIRECT'; }")
			chromium = newBrowser(t, ward, l.ca).tab(t)
		}
		fox.open(address)
		must(t, chromium.navigate(address))
		mediaFlows(t, chromium)
		fox.mediaFlows()
		if at := chromium.relayedAddress(); !strings.Contains(relays, at) || at == "" {
			t.Errorf("%s: Chromium's media is relayed from %q, want %s", mode, at, relays)
		}
		if now := fox.stats(); now.Pair.Local.RelayProtocol != "tls" {
			t.Errorf("%s: Firefox's media goes over %q, want tls", mode, now.Pair.Local.RelayProtocol)
		}
		if n := l.metric("hafen_relay_allocations"); n < 2 {
			t.Errorf("%s: the gateway counts %v allocations, want 2 at least", mode, n)
		}
		fox.open("about:blank")
		must(t, chromium.navigate("about:blank"))
	}
}

// mediaFlows waits until the page decodes video frames and receives audio, more than it had.
func (f *firefox) mediaFlows() {
	f.t.Helper()
	before, now := f.stats(), callStats{}
	waitForOr(f.t, "media in Firefox", callTimeout, func() bool {
		now = f.stats()
		return now.FramesDecoded > before.FramesDecoded+10 && now.PacketsReceived > before.PacketsReceived+20
	}, func() string { return fmt.Sprintf("before %+v, now %+v", before, now) })
}

func firefoxThroughPAC(t *testing.T) {
	l := newLaboratory(t)
	count := l.countRelayPackets(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	pac := l.pacWith(t, wayTLS.entry)
	const address = "https://" + plainName + "/r/fx?join=1&relay=1&video=small&transport=tcp"
	fox := newFirefox(t, ward, l.ca, pac)
	fox.open(address)
	chromium := newBrowser(t, ward, l.ca, pacFlag(pac)).open(t, address)
	mediaFlows(t, chromium)
	udp := count("udp")
	fox.mediaFlows()
	now := fox.stats()
	if now.Signaling != "websocket" || now.Pair.Local.RelayProtocol != "tcp" {
		t.Errorf("Firefox: signaling %q, media over %q: want websocket and tcp", now.Signaling, now.Pair.Local.RelayProtocol)
	}
	if n := count("udp") - udp; n < 20 {
		t.Errorf("only %v UDP packets to the relays while media flowed", n)
	}
}

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/remote"
)

// browser is a headless Chromium inside a namespace, with fake camera and microphone and the laboratory's root trusted.
type browser struct {
	proc *process
	ctx  context.Context // the browser's own; tabs hang below it
	log  *logBuffer      // what the pages print
}

var devtools = regexp.MustCompile(`DevTools listening on (ws://\S+)`)

// browserFlags are the switches that let Chromium run headless as root on a machine without a network of its own.
var browserFlags = []string{
	"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
	"--disable-component-update", "--disable-sync", "--disable-extensions", "--disable-default-apps", "--mute-audio",
	"--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream", "--autoplay-policy=no-user-gesture-required",
	"--remote-debugging-port=0", "--password-store=basic", "--window-size=1000,800",
	"--disable-features=Translate,OptimizationHints,MediaRouter,DialMediaRouteProvider",
}

// newBrowser starts Chromium in the namespace; extra are further switches.
func newBrowser(t testing.TB, ns *namespace, ca *authority, extra ...string) *browser {
	t.Helper()
	return newBrowserEnv(t, ns, ca, nil, extra...)
}

// newBrowserEnv is newBrowser with an environment besides. A switch that begins with "!" is left out.
func newBrowserEnv(t testing.TB, ns *namespace, ca *authority, env []string, extra ...string) *browser {
	t.Helper()
	home := t.TempDir()
	trust(t, home, ca)
	args := append(append([]string{}, browserFlags...), "--user-data-dir="+filepath.Join(home, "profile"))
	args = slices.DeleteFunc(append(args, extra...), func(s string) bool {
		return strings.HasPrefix(s, "!") || slices.Contains(extra, "!"+s)
	})
	args = append(args, "about:blank")
	b := &browser{log: &logBuffer{}}
	b.proc = ns.startEnv(t, "chromium", append([]string{"HOME=" + home, "XDG_CONFIG_HOME=" + home, "XDG_CACHE_HOME=" + home}, env...), "chromium", args...)
	var ws string
	waitFor(t, "Chromium's DevTools", 60*time.Second, func() bool {
		if m := devtools.FindStringSubmatch(b.proc.out.String()); m != nil {
			ws = m[1]
		}
		return ws != ""
	})
	u, err := url.Parse(ws)
	must(t, err)
	u.Host = forwardInto(t, ns, u.Host)
	alloc, cancel := remote.NewAllocator(context.Background(), u.String(), remote.NoModifyURL)
	t.Cleanup(cancel)
	b.ctx, cancel = chromedp.NewContext(alloc)
	t.Cleanup(cancel)
	must(t, chromedp.Do(b.ctx))
	return b
}

// trust puts the laboratory's root into the NSS database: TURN over TLS asks that, and no switch.
func trust(t testing.TB, home string, ca *authority) {
	t.Helper()
	db := filepath.Join(home, ".pki", "nssdb")
	must(t, os.MkdirAll(db, 0o700))
	mustRun(t, "certutil", "-d", "sql:"+db, "-N", "--empty-password")
	mustRun(t, "certutil", "-d", "sql:"+db, "-A", "-t", "C,,", "-n", "lab", "-i", ca.file)
}

// forwardInto listens on loopback out here and connects each connection to addr inside the namespace.
func forwardInto(t testing.TB, ns *namespace, addr string) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			out, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = out.Close() }()
				in, err := ns.dial(context.Background(), "tcp", addr)
				if err != nil {
					return
				}
				defer func() { _ = in.Close() }()
				go func() { _, _ = io.Copy(in, out); _ = in.Close() }()
				_, _ = io.Copy(out, in)
			}()
		}
	}()
	return ln.Addr().String()
}

// tab is one page of a browser.
type tab struct {
	t   testing.TB
	ctx context.Context
	log *logBuffer
}

// open opens a page in a tab of its own.
func (b *browser) open(t testing.TB, address string) *tab {
	t.Helper()
	p := b.tab(t)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(200 * time.Millisecond) {
		err := p.navigate(address)
		if err == nil {
			return p
		}
		// An interface that has just been made is still settling: Chromium breaks off what it had begun. People press reload.
		if !strings.Contains(err.Error(), "net::ERR_NETWORK_CHANGED") || time.Now().After(deadline) {
			t.Fatalf("open %s: %v", address, err)
		}
	}
}

// tab opens an empty tab.
func (b *browser) tab(t testing.TB) *tab {
	t.Helper()
	p := &tab{t: t, log: &logBuffer{}}
	ctx, cancel := chromedp.NewContext(b.ctx, chromedp.WithListener(func(ev any) {
		switch ev := ev.(type) {
		case *runtime.EventConsoleAPICalled:
			for _, a := range ev.Args {
				_, _ = fmt.Fprintf(p.log, "%s: %s\n", ev.Type, string(a.Value))
			}
		case *runtime.EventExceptionThrown:
			_, _ = fmt.Fprintf(p.log, "exception: %s %v\n", ev.ExceptionDetails.Text, ev.ExceptionDetails.Exception)
		}
	}))
	p.ctx = ctx
	must(t, chromedp.Do(ctx))
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("--- page console:\n%s", p.log.tail(4000))
		}
		cancel()
	})
	return p
}

func (p *tab) navigate(address string) error {
	ctx, cancel := context.WithTimeout(p.ctx, 45*time.Second)
	defer cancel()
	return chromedp.Do(ctx, chromedp.Navigate(address))
}

// eval evaluates a JavaScript expression (a promise is awaited) into out.
func (p *tab) eval(expr string, out any) error {
	ctx, cancel := context.WithTimeout(p.ctx, 30*time.Second)
	defer cancel()
	wrapped := "(async () => JSON.stringify(await (" + expr + ")) ?? '')()"
	raw, err := chromedp.Run(ctx, chromedp.Evaluate[string](wrapped, chromedp.EvalAwaitPromise))
	if err != nil {
		return err
	}
	if raw == "" {
		return nil
	}
	return json.Unmarshal([]byte(raw), out)
}

// text evaluates an expression to a string; errors read as "".
func (p *tab) text(expr string) string {
	var s string
	if err := p.eval("String("+expr+")", &s); err != nil {
		return ""
	}
	return s
}

// pacFlag is the switch that gives Chromium a PAC file as its only configuration.
func pacFlag(pac string) string {
	return "--proxy-pac-url=data:application/x-ns-proxy-autoconfig;base64," + base64.StdEncoding.EncodeToString([]byte(pac))
}

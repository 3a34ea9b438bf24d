package cloud

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/chromedp"
)

// axe runs axe-core on what the tab shows now: a phone by night, a desk by day. With PAGE_SHOTS=DIR it leaves pictures there.
func (b *tab) axe(source, name string) {
	b.t.Helper()
	for _, l := range []struct {
		width  int64
		scheme string
	}{{390, "dark"}, {1440, "light"}} {
		if err := chromedp.Do(b.ctx, chromedp.EmulateViewport(l.width, 900)); err != nil {
			b.t.Fatal(err)
		}
		scheme := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: l.scheme}}
		if _, err := chromedp.Call(b.ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: scheme}); err != nil {
			b.t.Fatal(err)
		}
		b.eval("typeof axe === 'undefined' ? (() => { "+source+"\n; return true; })() : true", nil)
		var found string
		b.eval(`axe.run(document, { resultTypes: ['violations'] }).then((result) => result.violations.map((v) =>
			v.id + ': ' + v.help + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join(' | ')).join('\n'))`, &found)
		if found != "" {
			b.t.Errorf("%s, %s, %d px:\n%s", name, l.scheme, l.width, found)
		}
		if dir := os.Getenv("PAGE_SHOTS"); dir != "" {
			png, err := chromedp.Run(b.ctx, chromedp.FullScreenshot(100))
			if err != nil {
				b.t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, name+"-"+l.scheme+".png"), png, 0o600); err != nil {
				b.t.Fatal(err)
			}
		}
	}
}

// TestAxe: axe-core finds nothing on the call pages, before, in and after a call, and in the waiting room.
func TestAxe(t *testing.T) {
	path := os.Getenv("AXE")
	if path == "" {
		t.Skip("skipped: AXE names no axe.min.js: run make axe")
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	source := string(data)
	browser := startBrowser(t)
	c := startCloud(t, Options{})
	base := localhost(c)
	openTab(t, browser, base+"/").axe(source, "call-index")
	openTab(t, browser, base+"/r/harbour").axe(source, "call-before")
	a := openTab(t, browser, base+"/r/harbour?join=1&video=small")
	a.until("call.state === 'waiting'")
	a.axe(source, "call-waiting")
	b := openTab(t, browser, base+"/r/harbour?join=1&video=small")
	b.until("document.documentElement.dataset.state === 'connected'")
	b.axe(source, "call-connected")
	b.eval("call.hangup()", nil)
	b.axe(source, "call-ended")
	desk := openTab(t, browser, base+"/console")
	desk.axe(source, "console-empty")
	patient := openTab(t, browser, base+"/wait?name=Anna+Berg&join=1&fake=1&video=small")
	patient.until("patient.consoles === 1")
	patient.axe(source, "wait")
	desk.until("desk.patients.length === 1")
	desk.axe(source, "console-ringing")
}

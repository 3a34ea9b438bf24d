package page_test

import (
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
)

// press sends keys to whatever has the focus.
func (p *tab) press(keys string) {
	p.t.Helper()
	must(p.t, chromedp.Do(p.ctx, chromedp.KeyEvent(keys)))
}

// tabTo presses Tab until the focus is on what a selector names, and judges on the way that the focus can be seen.
func (p *tab) tabTo(selector string) {
	p.t.Helper()
	for range 80 {
		p.press("\t")
		where := p.text(`(() => { const e = document.activeElement, s = getComputedStyle(e), box = e.getBoundingClientRect();
			if (e === document.body) return 'outside';
			const seen = s.outlineStyle !== 'none' && parseFloat(s.outlineWidth) >= 2;
			const there = box.width > 0 && box.bottom > 0 && box.top < innerHeight;
			return (seen ? '' : 'no outline: ') + (there ? '' : 'out of sight: ') + (seen && there ? (e.matches(` + "`" + selector + "`" + `) ? 'here' : '') : e.outerHTML.slice(0, 200)); })()`)
		switch {
		case where == "here":
			return
		case where != "" && where != "outside":
			p.t.Errorf("on the way to %s: %s", selector, where)
		}
	}
	p.t.Fatalf("no Tab leads to %s", selector)
}

// logIn types a name and a password into the login.
func (p *tab) logIn(base, name string) {
	p.t.Helper()
	p.navigate(base + "/status/?lang=en")
	p.tabTo("#name")
	p.press(name)
	p.tabTo("#password")
	p.press("a good long password\r")
	p.waitFor("what is behind the login", 20*time.Second, "!document.getElementById('password')")
}

// TestChromiumStatusByKeyboard: login, the sessions' table, the configuration and the drain with Tab, Enter and the arrows alone; the focus
// can be seen all the way.
func TestChromiumStatusByKeyboard(t *testing.T) {
	browser := chromium(t)
	drained := make(chan time.Duration, 1)
	base := gatewayPages(t, nil, func(wait time.Duration, _ string) { drained <- wait })
	p := open(t, browser, base)
	p.logIn(base, "anna")
	p.waitFor("the first snapshot", 20*time.Second, "document.querySelectorAll('#events li').length > 1")
	p.tabTo(`a[href="/status/config"]`)
	p.press("\r")
	p.waitFor("the configuration", 20*time.Second, "location.pathname === '/status/config'")
	p.tabTo(`a[href="/status/"]`)
	p.press("\r")
	p.waitFor("the page again", 20*time.Second, "document.querySelectorAll('#events li').length > 1")
	p.tabTo(".chart svg")
	p.tabTo(".scroll:has(#sessions)")
	p.tabTo("#draincard summary")
	p.press("\r")
	p.tabTo("#wait")
	p.press("8") // chooses 8 h
	p.tabTo("#draincard button")
	p.press("\r")
	select {
	case wait := <-drained:
		if wait != 8*time.Hour {
			t.Errorf("drains for %s", wait)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("the drain button did nothing")
	}
	p.clean()
}

// TestChromiumHelpdesk: the help desk's own login finds a run by its code, and gets nothing else of the gateway.
func TestChromiumHelpdesk(t *testing.T) {
	browser := chromium(t)
	base := gatewayPages(t, nil)
	p := open(t, browser, base)
	p.logIn(base, "paul")
	if at := p.text("location.pathname"); at != "/status/helpdesk/" {
		t.Errorf("the help desk is led to %s", at)
	}
	p.tabTo("[name=code]")
	p.press("K7QF-2M\r")
	p.waitFor("the finding", 20*time.Second, "document.body?.innerText.includes('The network stops WebSockets')")
	for _, width := range []int64{390, 1440} {
		p.look("helpdesk-own", width, "light")
	}
	if links := p.text("[...document.querySelectorAll('a')].map((a) => a.getAttribute('href')).join(' ')"); strings.Contains(links, "config") {
		t.Errorf("links: %s", links)
	}
	for path, want := range map[string]int{
		"/status/config": http.StatusForbidden, "/status/api/snapshot": http.StatusForbidden, "/status/api/live": http.StatusForbidden, "/status/api/config": http.StatusNotFound,
	} {
		got := p.text("(async () => { const r = await fetch('" + path + "'); const told = await r.text(); return r.status + (told.includes('gw.hospital.example') ? ' tells' : ''); })()")
		if got != strconv.Itoa(want) {
			t.Errorf("%s: %s", path, got)
		}
	}
	p.clean("403", "404")
}

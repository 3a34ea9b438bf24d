package page_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"hafen/precall"
)

// axeSource is axe-core, which `make axe` fetches; without it the states are looked at, but not judged.
func axeSource(t *testing.T) string {
	t.Helper()
	path := os.Getenv("AXE")
	if path == "" {
		t.Skip("skipped: AXE names no axe.min.js: run make axe")
	}
	source, err := os.ReadFile(path)
	must(t, err)
	return string(source)
}

// axe runs axe-core on what the tab shows now and reports each finding.
func (p *tab) axe(source, name string) {
	p.t.Helper()
	if p.text("typeof axe") == "undefined" {
		p.text("(() => { " + source + " })()")
	}
	// A phone by night, a desk at 200 %, a desk by day.
	for _, l := range []struct {
		width  int64
		scheme string
	}{{390, "dark"}, {720, "dark"}, {1440, "light"}} {
		p.look(name, l.width, l.scheme)
		found := p.text(`(async () => {
			const result = await axe.run(document, { resultTypes: ['violations'] });
			return result.violations.map((v) => v.id + ': ' + v.help + ': ' + v.nodes.map((n) => n.html + ' ' + n.failureSummary).join(' | ')).join('\n');
		})()`)
		if found != "" {
			p.t.Errorf("%s, %s, %d px:\n%s", name, l.scheme, l.width, found)
		}
	}
}

// showResult puts the result of a run in place, as the page does at the end of one.
func (p *tab) showResult(answer []byte, before string) {
	p.t.Helper()
	p.text(`(async () => {
		const at = (name) => document.querySelector('script[type=module]').src.replace('app.js', name);
		const { showResult, sayUnsent } = await import(at('result.js'));
		const answer = ` + string(answer) + `;` + before + `
		showResult(answer);
		for (const id of ['intro', 'run', 'result']) document.getElementById(id).hidden = id !== 'result';
		document.querySelectorAll('#result details').forEach((d) => { d.open = true; });
	})()`)
}

// states are runs whose results look different.
func states() map[string]precall.Measurements {
	v := func(f float64) *float64 { return &f }
	ok := func(id, target string, value *float64) precall.Measured {
		return precall.Measured{ID: id, Target: target, Result: precall.OK, Value: value, MS: 120}
	}
	bad := func(id, target, word string) precall.Measured {
		return precall.Measured{ID: id, Target: target, Result: precall.Failed, Error: word, MS: 5000}
	}
	device := []precall.Measured{
		ok("secure-context", "", nil),
		{ID: "browser", Result: precall.OK, Detail: "Chromium 156"},
		ok("camera", "", v(30)), ok("microphone", "", v(-21)),
		ok("call-server:websocket", "", v(14)), ok("call-server:longpoll", "", v(45)), ok("cpu", "", v(4)),
	}
	udp, tls := "turn:gw.hospital.example:443?transport=udp", "turns:gw.hospital.example:443?transport=tcp"
	line := []precall.Measured{ok("rtt", "", v(9.4)), ok("jitter", "", v(3)), ok("loss", "", v(0)), ok("bandwidth-up", "", v(2400)), ok("bandwidth-down", "", v(3100))}
	series := []precall.Series{{ID: "rtt", Every: 0.5}, {ID: "bitrate-up", Every: 0.5}, {ID: "bitrate-down", Every: 0.5}}
	for i := range 24 {
		series[0].Values = append(series[0].Values, 9+float64(i*7%11))
		series[1].Values = append(series[1].Values, min(2400, 300+float64(i)*150))
		series[2].Values = append(series[2].Values, min(3100, 300+float64(i)*210))
	}
	run := func(checks ...[]precall.Measured) precall.Measurements {
		m := precall.Measurements{Version: 1, Clock: float64(time.Now().UnixMilli()), Hold: 45, Series: series}
		for _, c := range checks {
			m.Checks = append(m.Checks, c...)
		}
		return m
	}
	return map[string]precall.Measurements{
		"pass": run(device, line, []precall.Measured{ok("relay:udp", udp, v(60)), ok("relay:tls", tls, v(80)), ok("relay:media", udp, v(1500))}),
		"warn": run(device, line, []precall.Measured{bad("relay:udp", udp, "unreached"), ok("relay:tls", tls, v(80)), ok("relay:media", tls, v(1500))}),
		"fail": run(device[:2], []precall.Measured{
			bad("camera", "", "missing"), bad("microphone", "", "denied"), bad("call-server:websocket", "", "closed"),
			{ID: "call-server:longpoll", Result: precall.Failed, Error: "cut", Value: v(20), MS: 20000},
			bad("relay:udp", udp, "unreached"), bad("relay:tls", tls, "unreached"),
		}),
	}
}

// judged sends a run in and gives the answer that the page would get.
func judged(t *testing.T, base, lang, query string, m precall.Measurements) []byte {
	t.Helper()
	body, err := json.Marshal(m)
	must(t, err)
	resp, err := http.Post(base+"/precall/report?lang="+lang+query, "application/json", bytes.NewReader(body))
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	answer, err := io.ReadAll(resp.Body)
	must(t, err)
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%d %s", resp.StatusCode, answer)
	}
	return answer
}

// TestAxe: axe-core finds nothing on any of the gateway's pages in any state, by day and by night, from a phone to a desk.
func TestAxe(t *testing.T) {
	source := axeSource(t)
	browser := chromium(t)
	base := gatewayPages(t, nil)
	for _, lang := range []string{"en", "de", "ar"} {
		p := open(t, browser, base)
		p.navigate(base + "/?lang=" + lang)
		p.axe(source, "front-"+lang)
		p.text("document.querySelector('.languages details')?.setAttribute('open', '')")
		p.axe(source, "front-languages-"+lang)
		p.navigate(base + "/nothing?lang=" + lang)
		p.axe(source, "missing-"+lang)
		p.navigate(base + "/precall/?lang=" + lang)
		p.axe(source, "precall-intro-"+lang)
		for name, m := range states() {
			p.showResult(judged(t, base, lang, "", m), "")
			p.axe(source, "precall-"+name+"-"+lang)
		}
		p.showResult(judged(t, base, lang, "&keep=0", states()["warn"]), "answer.gate = 'block'; answer.offer = ['audio', 'telephone'];")
		p.axe(source, "precall-unkept-"+lang)
		p.showResult([]byte("sayUnsent([{ id: 'camera', result: 'ok', value: 30, ms: 5 }], new Error('HTTP 503'))"), "")
		p.axe(source, "precall-unsent-"+lang)
		p.navigate(base + "/precall/?autorun=1&hold=9&lang=" + lang)
		p.waitFor("a run under way", 20*time.Second, "document.querySelectorAll('#steps li').length > 3")
		p.axe(source, "precall-run-"+lang)
		p.text("document.getElementById('cancel').click()")
		p.waitFor("the beginning again", 10*time.Second, "!document.getElementById('intro').hidden")
		p.axe(source, "precall-cancelled-"+lang)
	}
	p := open(t, browser, base)
	for _, lang := range []string{"en", "de"} {
		p.statusStates(source, base, lang)
	}
}

func (p *tab) login(password string) {
	p.t.Helper()
	p.text(fmt.Sprintf(`(() => { document.getElementById('name').value = 'anna'; document.getElementById('password').value = %q; document.querySelector('main form').submit(); })()`, password))
}

func (p *tab) statusLogin(base string) {
	p.t.Helper()
	p.navigate(base + "/status/")
	p.login("a good long password")
	p.waitFor("the status page", 20*time.Second, "!document.getElementById('password')")
}

// statusStates looks at the login, the status page and the help desk's.
func (p *tab) statusStates(source, base, lang string) {
	p.t.Helper()
	p.navigate(base + "/status/?lang=" + lang)
	p.axe(source, "login-"+lang)
	p.login("wrong")
	p.waitFor("the refusal", 20*time.Second, "!!document.querySelector('[role=alert]')")
	p.axe(source, "login-wrong-"+lang)
	p.statusLogin(base)
	p.waitFor("the first snapshot", 20*time.Second, "document.querySelectorAll('#events li').length > 1")
	p.axe(source, "status-"+lang)
	p.navigate(base + "/status/config?lang=" + lang)
	p.axe(source, "config-"+lang)
	for name, query := range map[string]string{"empty": "", "none": "?code=AAAA-AA", "found": "?code=K7QF-2M"} {
		p.navigate(base + "/status/helpdesk/" + query)
		p.axe(source, "helpdesk-"+name+"-"+lang)
	}
	must(p.t, chromedp.Do(p.ctx, chromedp.Navigate("about:blank")))
	p.navigate(base + "/status/helpdesk/")
	if !strings.Contains(p.text("location.pathname"), "helpdesk") {
		p.t.Error("logged out on the way")
	}
	p.text(`document.querySelector('form[action="/status/logout"]').submit()`)
	p.waitFor("the login again", 20*time.Second, "!!document.getElementById('password')")
}

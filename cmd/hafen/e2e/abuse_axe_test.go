package e2e

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// TestAbuse_F16: axe-core finds nothing serious on any page that the running program gives to a browser: before, during and after a
// precall test, before and after a login, and where there is no page. What the pages look like in states that are hard to bring about is
// tried in gateway/page (TestAxe).
func TestAbuse_F16(t *testing.T) {
	path := os.Getenv("AXE")
	if path == "" {
		t.Skip("skipped: AXE names no axe.min.js: run make axe")
	}
	axe, err := os.ReadFile(path)
	must(t, err)
	const password = "correct horse battery"
	a := newAbuse(t, func(cfg string) string {
		return cfg + "admin: {users: [{name: admin, password_hash: \"" + hashOf(t, password) + "\"}], networks: [10.30.0.0/24]}\n"
	})
	b := newBrowser(t, a.inside, a.ca, "--host-resolver-rules=MAP "+gatewayName+" "+gatewayAddr)
	looked := 0
	look := func(p *tab, name string) {
		t.Helper()
		if p.text("typeof axe") == "undefined" {
			_ = p.eval("(() => { "+string(axe)+" })()", nil)
		}
		var found struct {
			Passes  int
			Serious []string
		}
		must(t, p.eval(`axe.run(document).then((r) => ({passes: r.passes.length, serious: r.violations.filter((v) => v.impact === 'serious' || v.impact === 'critical').map((v) => v.id + ': ' + v.help + ': ' + v.nodes.map((n) => n.html).join(' | '))}))`, &found))
		if found.Passes == 0 {
			t.Errorf("%s: axe-core has looked at nothing", name)
		}
		for _, s := range found.Serious {
			t.Errorf("%s: %s", name, s)
		}
		looked++
	}
	base := "https://" + gatewayName
	for _, lang := range []string{"en", "de", "ar"} {
		for _, page := range []string{"/", "/precall/", "/nothing", "/status/"} {
			p := b.open(t, base+page+"?lang="+lang)
			look(p, page+" "+lang)
		}
	}
	p := b.open(t, base+"/precall/?autorun=1&hold=3&lang=de")
	waitFor(t, "a run under way", 20*time.Second, func() bool { return p.text("document.querySelectorAll('#steps li').length > 3") == "true" })
	look(p, "a precall test under way")
	waitFor(t, "the precall test's end", 2*time.Minute, func() bool { return p.text("document.documentElement.dataset.precall") == "done" })
	_ = p.eval("document.querySelectorAll('#result details').forEach((d) => { d.open = true; })", nil)
	look(p, "its result")

	p = b.open(t, base+"/status/")
	login := func(with string) {
		_ = p.eval(fmt.Sprintf(`(() => { document.getElementById('name').value = 'admin'; document.getElementById('password').value = %q; document.querySelector('main form').submit(); })()`, with), nil)
	}
	login("wrong")
	waitFor(t, "the refusal", 20*time.Second, func() bool { return p.text("!!document.querySelector('[role=alert]')") == "true" })
	look(p, "a login refused")
	time.Sleep(time.Second) // logins come at one a second
	login(password)
	waitFor(t, "the status page", 20*time.Second, func() bool {
		return p.text("!document.getElementById('password') && document.querySelectorAll('#events li').length > 0") == "true"
	})
	look(p, "the status page")
	for _, page := range []string{"/status/config", "/status/helpdesk/", "/status/helpdesk/?code=AAAA-AA"} {
		if err := p.navigate(base + page); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(p.text("document.title"), "404") || p.text("!!document.getElementById('password')") == "true" {
			t.Fatalf("%s is not shown: %s", page, p.text("document.title"))
		}
		look(p, page)
	}
	t.Logf("%d pages, nothing serious", looked)
}

package status

import (
	"context"
	"net/http"
	"strings"
	"testing"
	"time"

	"hafen/configs"
	"hafen/gateway/page"
)

func paul(t *testing.T) configs.AdminUser {
	t.Helper()
	u := anna(t)
	u.Name, u.Role = "paul", roleHelpdesk
	return u
}

// foundRun is what the gateway tells of one run.
func foundRun(_ context.Context, code, lang string) (FoundRun, error) {
	if code != "k7qf 2m" {
		return FoundRun{}, ErrNoRun
	}
	return FoundRun{
		Code: "K7QF-2M", Time: time.Date(2026, 11, 1, 7, 58, 0, 0, time.UTC), Verdict: "fail", Place: "10.1.2.0/24", Sentence: "A call would not work like this. " + lang,
		Causes: []FoundCause{{Title: "The network stops <b>WebSockets</b>", IT: "Allow WebSocket to gw.example TCP 443.", Percent: 95}},
		Caller: []string{"So würde ein Gespräch nicht klappen."}, CallerLang: "de", Ticket: "Code: K7QF-2M\nAllow it.",
		Page:    []FoundCheck{{Verdict: "fail", Word: "bad", Name: "WebSocket", Detail: "Closed."}},
		Gateway: []FoundCheck{{Verdict: "pass", Word: "good", Name: "Relay", Target: "calls/fra", Value: "12 ms"}},
	}, nil
}

func TestHelpdeskFindsARun(t *testing.T) {
	w := newWorld(t, anna(t), paul(t))
	w.status.opts.Helpdesk.Find = foundRun
	if code, body, _ := w.do(t, "GET", "/status/helpdesk/?code=k7qf+2m", nil); code != 200 || !strings.Contains(body, `name="password"`) {
		t.Fatalf("without a session: %d %s", code, body)
	}
	code, body, _ := w.do(t, "POST", "/status/login", loginForm("paul", password))
	if code != 200 || !strings.Contains(body, `name="code"`) || strings.Contains(body, "Status page") {
		t.Fatalf("the help desk is led elsewhere: %d %s", code, body)
	}
	code, body, _ = w.do(t, "GET", "/status/helpdesk/?code=k7qf+2m", nil)
	for _, want := range []string{
		"K7QF-2M", `<blockquote id="tell" lang="de"`, "So würde ein Gespräch nicht klappen.", "Allow WebSocket to gw.example TCP 443.",
		"stops &lt;b&gt;WebSockets", "calls/fra", "12 ms", "10.1.2.0/24",
	} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("%d, without %q", code, want)
		}
	}
	if code, body, _ := w.do(t, "GET", "/status/helpdesk/?code=AAAA-AA", nil); code != http.StatusNotFound || !strings.Contains(body, `role="alert"`) {
		t.Errorf("an unknown code: %d %s", code, body)
	}
}

func TestHelpdeskSeesNoConfiguration(t *testing.T) {
	w := newWorld(t, anna(t), paul(t))
	w.do(t, "POST", "/status/login", loginForm("paul", password))
	if code, body, _ := w.do(t, "GET", "/status/api/snapshot", nil); code != http.StatusForbidden || strings.Contains(body, "gw.example") {
		t.Errorf("the snapshot answers the help desk %d %s", code, body)
	}
	if code, body, _ := w.do(t, "GET", "/status/", nil); code != 200 || strings.Contains(body, `id="sentence"`) {
		t.Errorf("the status page answers the help desk %d %s", code, body)
	}
	w.do(t, "POST", "/status/logout", nil)
	w.do(t, "POST", "/status/login", loginForm("anna", password))
	if code, body, _ := w.do(t, "GET", "/status/helpdesk/", nil); code != 200 || !strings.Contains(body, `href="/status/"`) {
		t.Errorf("an admin at the help desk's page: %d %s", code, body)
	}
}

func TestHelpdeskTexts(t *testing.T) {
	h, err := newHelpdesk()
	if err != nil {
		t.Fatal(err)
	}
	used, err := page.KeysIn(web, "web/helpdesk/*.html")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range h.texts.Problems(append(used, "find.none", "find.failed")) { // chosen in Go
		t.Error(p)
	}
}

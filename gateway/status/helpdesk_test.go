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

func TestPastDays(t *testing.T) {
	today := time.Date(2026, 11, 7, 9, 0, 0, 0, time.UTC)
	h := makeHistory([]RunCount{
		{Day: "2026-11-01", Place: "North", Verdict: "pass", Runs: 4},
		{Day: "2026-11-07", Place: "North", Verdict: "fail", Cause: "udp-blocked", Runs: 3},
		{Day: "2026-11-07", Place: "North", Verdict: "fail", Cause: "longpoll-cut", Runs: 1},
		{Day: "2026-11-02", Place: "South", Verdict: "fail", Cause: "loss-high", Runs: 2},
		{Day: "2026-11-07", Place: "South", Verdict: "warn", Cause: "loss-high", Runs: 1},
	}, 7, today)
	if h.Runs != 11 || len(h.Bars) != 7 || h.Bars[0].Day != "2026-11-01" || h.Bars[6].Fail != 80 || h.Bars[6].Warn != 20 || h.Bars[6].FailY != 0 {
		t.Errorf("%d runs, bars %+v", h.Runs, h.Bars)
	}
	if r := h.Rows[0]; r.Place != "North" || r.Runs != 8 || r.Good != 4 || r.Failing != 4 || r.Cause != "udp-blocked" || r.Trend != "worse" {
		t.Errorf("%+v", r)
	}
	if r := h.Rows[1]; r.Place != "South" || r.Middling != 1 || r.Trend != "better" {
		t.Errorf("%+v", r)
	}
}

func TestPastDaysAreShownAndSaved(t *testing.T) {
	w := newWorld(t, paul(t))
	w.status.opts.Helpdesk.History = func(context.Context, time.Time) ([]RunCount, error) {
		return []RunCount{{Day: "2026-11-01", Place: "=cmd|' /C calc'!A0", Verdict: "fail", Cause: "udp-blocked", Runs: 7}}, nil
	}
	w.status.opts.Helpdesk.Recent = func(context.Context, int) ([]Run, error) {
		return []Run{{Code: "K7QF-2M", Verdict: "fail", Cause: "udp-blocked", Time: w.now}}, nil
	}
	if code, _, _ := w.do(t, "GET", "/status/helpdesk/history.csv", nil); code != http.StatusUnauthorized {
		t.Errorf("without a session: %d", code)
	}
	w.do(t, "POST", "/status/login", loginForm("paul", password))
	code, body, _ := w.do(t, "GET", "/status/helpdesk/?days=7", nil)
	for _, want := range []string{"udp-blocked", "?code=K7QF-2M", "2026-11-01: 0 good", "history.csv?days=7"} {
		if code != 200 || !strings.Contains(body, want) {
			t.Errorf("%d, without %q", code, want)
		}
	}
	code, body, header := w.do(t, "GET", "/status/helpdesk/history.csv?days=7", nil)
	if code != 200 || header.Get("Content-Type") != "text/csv; charset=utf-8" || !strings.Contains(body, "2026-11-01,'=cmd|' /C calc'!A0,fail,udp-blocked,7\n") {
		t.Errorf("%d %s", code, body)
	}
}

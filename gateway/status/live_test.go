package status

import (
	"bufio"
	"context"
	"encoding/json"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

// event is one server-sent event.
type event struct{ name, data string }

// stream opens the live stream of a page in a language, and gives its events.
func (w *world) stream(t *testing.T, lang string) <-chan event {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, w.URL+"/status/api/live?lang="+lang, nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = res.Body.Close() })
	if res.StatusCode != http.StatusOK || res.Header.Get("Content-Type") != "text/event-stream" {
		t.Fatalf("%s %s", res.Status, res.Header.Get("Content-Type"))
	}
	events := make(chan event)
	go func() {
		defer close(events)
		var ev event
		for lines := bufio.NewScanner(res.Body); lines.Scan(); {
			name, value, _ := strings.Cut(lines.Text(), ": ")
			switch name {
			case "event":
				ev.name = value
			case "data":
				ev.data = value
			case "":
				select {
				case events <- ev:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return events
}

func next(t *testing.T, events <-chan event, name string) event {
	t.Helper()
	for {
		select {
		case ev, ok := <-events:
			if !ok {
				t.Fatalf("the stream ended before %s", name)
			}
			if ev.name == name {
				return ev
			}
		case <-time.After(30 * time.Second):
			t.Fatalf("no %s", name)
		}
	}
}

// TestLive: an open page is told the history, then each snapshot in its language, until the session is over.
func TestLive(t *testing.T) {
	w := newWorld(t, anna(t))
	w.do(t, "POST", "/status/login", loginForm("anna", password))
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); w.status.Run(ctx) }()
	defer func() { stop(); <-done }()
	events := w.stream(t, "de")
	next(t, events, "history")
	var s Snapshot
	if err := json.Unmarshal([]byte(next(t, events, "snapshot").data), &s); err != nil || s.Sentence != "Alle Wege sind offen." || len(s.Services) != 1 {
		t.Errorf("%+v, %v", s, err)
	}
	w.do(t, "POST", "/status/logout", url.Values{"token": {w.token(t)}})
	next(t, events, "over")
}

func TestStreamsAreBounded(t *testing.T) {
	var l live
	for range maxStreams {
		if l.join() == nil {
			t.Fatal("refused too early")
		}
	}
	if l.join() != nil {
		t.Error("one too many")
	}
}

func TestHistory(t *testing.T) {
	var h history
	at := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	for i := range maxSamples + 10 {
		h.add(Snapshot{
			Time: at.Add(time.Duration(i) * samplePeriod), Counts: Counts{BytesUp: uint64(i) * 1000, BytesDown: uint64(i) * 2000}, Sessions: []Session{{QueueMS: 3}, {QueueMS: 8}},
			Services: []Service{{Name: "calls", Regions: []Region{{Name: "fra", Up: i%2 == 0, RTTms: 12, Rungs: []Rung{{Name: "udp", State: "up"}}}}}},
		})
	}
	all := h.list()
	last := all[len(all)-1]
	if len(all) != maxSamples || last.Up != 4000 || last.Down != 8000 || last.QueueMS != 8 || last.Rungs["calls/fra/udp"] != "up" {
		t.Errorf("%d samples, last %+v", len(all), last)
	}
	if _, up := last.RTT["calls/fra"]; up {
		t.Error("a region that is down has a round trip")
	}
	if bitRate(5, 3, 1) != 0 {
		t.Error("a counter that began anew gives a rate")
	}
}

// TestDrainButton: only an administrator's own page can press it.
func TestDrainButton(t *testing.T) {
	w := newWorld(t, anna(t), paul(t))
	var waits []time.Duration
	var deeds []Deed
	w.status.opts.Drain = func(wait time.Duration, user string) { waits = append(waits, wait) }
	w.status.opts.Audit = func(d Deed) { deeds = append(deeds, d) }
	drain := func(form url.Values, h ...string) int {
		code, _, _ := w.do(t, "POST", "/status/drain", form, h...)
		return code
	}
	if code := drain(url.Values{"wait": {"1h"}}); code != http.StatusUnauthorized {
		t.Errorf("without a session: %d", code)
	}
	w.do(t, "POST", "/status/login", loginForm("anna", password))
	token := w.token(t)
	for name, code := range map[string]int{
		"no token":       drain(url.Values{"wait": {"1h"}}),
		"a wrong token":  drain(url.Values{"wait": {"1h"}, "token": {strings.ToLower(token)}}),
		"foreign site":   drain(url.Values{"wait": {"1h"}, "token": {token}}, "Sec-Fetch-Site", "cross-site"),
		"foreign origin": drain(url.Values{"wait": {"1h"}, "token": {token}}, "Origin", "https://evil.example"),
		"as JSON":        drain(nil, "Content-Type", "text/plain"),
	} {
		if code != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", name, code)
		}
	}
	if code := drain(url.Values{"wait": {"forever"}, "token": {token}}); code != http.StatusBadRequest {
		t.Errorf("a wait that is none: %d", code)
	}
	if len(waits) != 0 {
		t.Fatal("it was drained")
	}
	if code := drain(url.Values{"wait": {"15m"}, "token": {token}}); code != http.StatusOK || len(waits) != 1 || waits[0] != 15*time.Minute {
		t.Errorf("the button: %d, %v", code, waits)
	}
	if d := deeds[len(deeds)-1]; d.Kind != "drain" || d.User != "anna" || d.Client != w.from {
		t.Errorf("the auditor reads %+v", d)
	}
	w.do(t, "POST", "/status/login", loginForm("paul", password))
	if code := drain(url.Values{"wait": {"1h"}, "token": {token}}); code != http.StatusForbidden {
		t.Errorf("the help desk: %d", code)
	}
}

// TestAuditKnowsNoTypedNames: what is typed into the wrong field may be a password.
func TestAuditKnowsNoTypedNames(t *testing.T) {
	w := newWorld(t, anna(t))
	var deeds []Deed
	w.status.opts.Audit = func(d Deed) { deeds = append(deeds, d) }
	w.do(t, "POST", "/status/login", loginForm("my secret sentence", "x"))
	w.do(t, "POST", "/status/login", loginForm("anna", password))
	if len(deeds) != 2 || deeds[0].User != "unknown" || deeds[0].Status != "err_auth" || deeds[1].User != "anna" || deeds[1].Status != "ok" {
		t.Errorf("%+v", deeds)
	}
}

// TestPages: the configuration is behind the login, in both languages.
func TestPages(t *testing.T) {
	w := newWorld(t, anna(t))
	w.status.opts.Effective = func() ([]byte, error) { return []byte("name: gw.example\nsecret: '***'\n"), nil }
	w.do(t, "POST", "/status/login", loginForm("anna", password))
	for path, want := range map[string][]string{
		"/status/config?lang=en": {"name: gw.example", "Effective configuration", "***"},
		"/status/config?lang=de": {"Wirksame Konfiguration"},
	} {
		code, body, _ := w.do(t, "GET", path, nil)
		for _, text := range want {
			if code != 200 || !strings.Contains(body, text) {
				t.Errorf("%s: %d, without %q", path, code, text)
			}
		}
	}
}

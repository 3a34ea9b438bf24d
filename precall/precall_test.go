package precall

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"hafen/gateway/page"
)

func TestARunFromReportToVerdict(t *testing.T) {
	registry := prometheus.NewPedanticRegistry()
	now := time.Date(2026, 11, 5, 9, 30, 0, 0, time.UTC)
	s, srv := serve(t, Options{
		Name: "gw.example", Mode: "strict", Registry: registry, Now: func() time.Time { return now },
		Regions:     func(context.Context) []Region { return healthy().Regions },
		CallServers: func(context.Context) []CallServer { return healthy().CallServers },
		Client:      func(*http.Request) netip.Addr { return netip.MustParseAddr("10.2.3.4") },
	})
	m := allFine().with(fails("relay:udp", "unreached"))
	m.Clock = float64(now.Add(2 * time.Second).UnixMilli())
	resp, body := post(t, srv, m)
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("%s %s", resp.Status, body)
	}
	var a answer
	must(t, json.Unmarshal(body, &a))
	r := a.Report
	if r.Verdict != Warn || a.Sentence != "verdict.warn" || a.Network != "10.2.3.0/24" || r.Version != 1 || !r.Time.Equal(now) {
		t.Errorf("%+v", a)
	}
	if len(r.Causes) != 1 || r.Causes[0].ID != "udp-blocked" || !strings.Contains(r.Causes[0].Advice.IT, "UDP 443 from 10.2.3.0/24 to gw.example") {
		t.Errorf("causes: %+v", r.Causes)
	}
	if !regexp.MustCompile(`^[0-9A-HJKMNP-TV-Z]{4}-[0-9A-HJKMNP-TV-Z]{2}$`).MatchString(r.Code) || !isID(r.ID) {
		t.Errorf("code %q, id %q", r.Code, r.ID)
	}
	ids := map[string]bool{}
	for _, c := range r.Checks {
		ids[c.ID] = true
		if c.Level == "" {
			t.Errorf("%s has no level", c.ID)
		}
	}
	for _, want := range []string{"gateway:regions", "gateway:call-servers", "clock", "relay:media"} {
		if !ids[want] {
			t.Errorf("no %s among the checks", want)
		}
	}
	verdictOf(t, srv, r)
	if rec, err := s.Find(t.Context(), strings.ToLower(strings.ReplaceAll(r.Code, "-", " "))); err != nil || rec.ID != r.ID {
		t.Errorf("by the code as it is said: %v", err)
	}
	if n := testutil.ToFloat64(s.metrics.runs.WithLabelValues("warn")); n != 1 {
		t.Errorf("runs counted: %v", n)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Error(problems, err)
	}
}

// verdictOf asks for the verdict by the long id, and sees that nothing else opens it.
func verdictOf(t *testing.T, srv *httptest.Server, r Report) {
	t.Helper()
	resp, body := ask(t, http.MethodGet, srv.URL+"/api/v1/precall/"+r.ID, "", nil)
	var v verdictAnswer
	must(t, json.Unmarshal(body, &v))
	if resp.StatusCode != http.StatusOK || v.Verdict != r.Verdict || v.Mode != "strict" || len(v.Causes) != 1 {
		t.Errorf("%s %s", resp.Status, body)
	}
	for _, id := range []string{r.Code, strings.ToUpper(r.ID), r.ID[:31], strings.Repeat("0", 32), "..", r.ID + "/x"} {
		if resp, _ := ask(t, http.MethodGet, srv.URL+"/api/v1/precall/"+id, "", nil); resp.StatusCode == http.StatusOK {
			t.Errorf("%s opened a run", id)
		}
	}
}

func TestGerman(t *testing.T) {
	_, srv := serve(t, Options{Name: "gw.example"})
	body, err := json.Marshal(allFine().with(Measured{ID: "loss", Result: OK, Value: value(2.5)}))
	must(t, err)
	_, answer := ask(t, http.MethodPost, srv.URL+"/precall/report", "application/json", body, "Accept-Language", "de")
	if !strings.Contains(string(answer), "2,5 % der Pakete") {
		t.Errorf("%s", answer)
	}
}

func TestForeignOriginsDoNotReport(t *testing.T) {
	_, srv := serve(t, Options{})
	body, err := json.Marshal(allFine())
	must(t, err)
	for _, header := range [][]string{{"Origin", "https://evil.example"}, {"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "null"}} {
		resp, _ := ask(t, http.MethodPost, srv.URL+"/precall/report", "application/json", body, header...)
		if resp.StatusCode != http.StatusForbidden {
			t.Errorf("%v: %s", header, resp.Status)
		}
	}
}

func TestAbuse_F11_ReportsAreRationed(t *testing.T) {
	_, srv := serve(t, Options{})
	got := map[int]int{}
	for range 100 {
		resp, _ := ask(t, http.MethodPost, srv.URL+"/precall/report", "application/json", []byte("{}"))
		got[resp.StatusCode]++
	}
	if got[400] < 25 || got[429] < 25 {
		t.Errorf("answers: %v", got)
	}
}

func TestICE(t *testing.T) {
	var asked netip.Addr
	var problem error
	_, srv := serve(t, Options{ICE: func(_ context.Context, client netip.Addr) ([]ICEServer, error) {
		asked = client
		return []ICEServer{{URLs: []string{"turns:gw:443?transport=tcp"}, Username: "u", Credential: "c"}}, problem
	}})
	resp, body := ask(t, http.MethodGet, srv.URL+"/api/v1/ice", "", nil)
	want := `{"iceServers":[{"urls":["turns:gw:443?transport=tcp"],"username":"u","credential":"c"}]}` + "\n"
	if string(body) != want || resp.Header.Get("Cache-Control") != "no-store" || !asked.IsLoopback() {
		t.Errorf("%s %s %v", resp.Status, body, asked)
	}
	problem = errors.New("secret reason")
	resp, body = ask(t, http.MethodGet, srv.URL+"/api/v1/ice", "", nil)
	if resp.StatusCode != http.StatusServiceUnavailable || strings.Contains(string(body), "secret") {
		t.Errorf("%s %s", resp.Status, body)
	}
	limited := false
	for range 200 {
		resp, _ = ask(t, http.MethodGet, srv.URL+"/api/v1/ice", "", nil)
		limited = limited || resp.StatusCode == http.StatusTooManyRequests
	}
	if !limited {
		t.Error("200 requests at once were all answered")
	}
	if resp, _ = ask(t, http.MethodPost, srv.URL+"/api/v1/ice", "", nil); resp.StatusCode != http.StatusMethodNotAllowed {
		t.Error(resp.Status)
	}
}

func TestICEWithoutRelay(t *testing.T) {
	s, err := New(Options{})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	srv := httptest.NewServer(s.ICE())
	defer srv.Close()
	if _, body := ask(t, http.MethodGet, srv.URL, "", nil); string(body) != "{\"iceServers\":[]}\n" {
		t.Errorf("%s", body)
	}
}

func TestPageAndHeaders(t *testing.T) {
	s, srv := serve(t, Options{Site: func(netip.Addr) page.Site { return page.Site{Name: "Klinik", Help: "4711"} }})
	want := http.Header{}
	page.Headers(want)
	for _, path := range []string{"/precall/", "/precall/nothing", "/api/v1/ice", "/api/v1/precall/x", "/.well-known/hafen/hold", "/.well-known/hafen/x", "/elsewhere"} {
		resp, _ := ask(t, http.MethodGet, srv.URL+path, "", nil)
		for name := range want {
			if got := resp.Header.Get(name); got != want.Get(name) {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
	_, body := ask(t, http.MethodGet, srv.URL+"/precall/", "", nil, "Accept-Language", "de")
	for _, part := range []string{`<html lang="de"`, "Test starten", "Klinik", "4711", s.assets.URL("app.js"), s.assets.URL("precall.css")} {
		if !strings.Contains(string(body), part) {
			t.Errorf("no %q in the page", part)
		}
	}
	if found := regexp.MustCompile(`<script[^>]*>[^<]|<style|\sstyle=|\son[a-z]+=`).Find(body); found != nil {
		t.Errorf("the page holds %q", found)
	}
	for _, file := range []string{"app.js", "run.js", "relays.js", "precall.css"} {
		if resp, _ := ask(t, http.MethodGet, srv.URL+s.assets.URL(file), "", nil); resp.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", file, resp.Status)
		}
	}
}

func TestMessagesAreWhole(t *testing.T) {
	texts, err := page.LoadTexts(web, "web/messages.*.json")
	must(t, err)
	used, err := page.KeysIn(web, "web/*.html", "web/*.js")
	must(t, err)
	used = append(used, "title", "note.self-signed", "note.or-proxy", "note.tcp-only", "verdict.ways.note", "verdict.unsent", "verdict.unsent.note",
		"cause.udp-blocked.user.fail", "cause.websocket-blocked.user.fail", "direction.up", "direction.down", "direction.both", "gate.warn", "gate.block")
	for _, id := range []string{"dns-failed", "proxy-auth-required", "captive-portal", "relay-credentials-rejected"} {
		used = append(used, "cause."+id+".user.gateway", "cause."+id+".it.gateway")
	}
	for _, word := range []string{
		"onward", "busy", "enough", "not-needed", "only-the-gateway-knows", "through-gateway", "way-routed", "way-passthrough", "way-connect", "way-asked", "way-refused",
		"way-direct", "intercepted", "unjudged", "same-address", "different-addresses",
	} {
		used = append(used, "error."+word)
	}
	for _, v := range []string{"pass", "ways", "warn", "fail"} {
		used = append(used, "verdict."+v)
	}
	for _, c := range causes() {
		used = append(used, "cause."+c.id+".title", "cause."+c.id+".user", "cause."+c.id+".it")
	}
	for _, word := range errorWords {
		used = append(used, "error."+word)
	}
	for _, l := range []Level{LevelMedia, LevelService, LevelPath, LevelGateway, LevelDevice} {
		used = append(used, "level."+string(l))
	}
	for _, v := range []Verdict{Pass, Warn, Fail, VerdictUnknown, VerdictSkipped} {
		used = append(used, "word."+string(v))
	}
	for _, id := range []string{
		"browser", "secure-context", "camera", "microphone", "speaker", "echo", "cpu", "call-server:https", "call-server:websocket",
		"call-server:longpoll", "relay:udp", "relay:tcp", "relay:tls", "relay:media", "rtt", "jitter", "loss", "bandwidth-up", "bandwidth-down",
		"latency-under-load", "mos", "udp-vs-tcp", "ipv6", "nat", "proxy", "interception", "gateway:regions", "gateway:call-servers", "clock",
	} {
		used = append(used, "check."+id)
	}
	for _, g := range []string{"device", "signaling", "relay", "quality", "network", "gateway"} {
		used = append(used, "group."+g)
	}
	for _, step := range []string{"prepare", "devices", "signaling", "relays", "media", "bandwidth", "hold", "waiting", "analysis"} {
		used = append(used, "step."+step)
	}
	for _, p := range texts.Problems(used) {
		t.Error(p)
	}
}

// TestAdviceIsFilledIn writes out every cause in every language and looks for holes.
func TestAdviceIsFilledIn(t *testing.T) {
	s, err := New(Options{SelfSigned: true})
	must(t, err)
	defer func() { must(t, s.Close()) }()
	g := healthy()
	g.SelfSigned, g.ClockAhead = true, time.Hour
	g.CallServers[0].Up, g.Regions[0].Up = false, false
	down := gatewayWith(allRegionsDown)
	bad := allFine().with(fails("call-server:websocket", "network")).with(Measured{ID: "call-server:longpoll", Result: Failed, Error: "cut", Value: value(20)}).
		with(Measured{ID: "loss", Result: OK, Value: value(7)}).with(Measured{ID: "jitter", Result: OK, Value: value(70)}).
		with(Measured{ID: "rtt", Result: OK, Value: value(900)}).with(Measured{ID: "microphone", Result: OK, Value: value(-99)}).
		with(Measured{ID: "relay:media", Result: OK, Value: value(100), Error: "bandwidth"}).with(fails("camera", "denied"))
	seen := map[string]bool{}
	for _, run := range []struct {
		m Measurements
		g Gateway
	}{{bad, g}, {noRelay("unreached"), g}, {noRelay("quota"), down}, {noRelay("credentials"), g}} {
		rec := Record{Measurements: run.m, Gateway: run.g, Result: Analyse(run.m, run.g, thresholds()), Network: netip.MustParsePrefix("10.2.0.0/24")}
		for _, lang := range s.texts.Languages() {
			for _, c := range s.Report(rec, lang).Causes {
				seen[c.ID] = true
				for _, text := range []string{c.Advice.User, c.Advice.IT} {
					if text == "" || strings.ContainsAny(text, "{}") || strings.HasPrefix(text, "cause.") || strings.Contains(text, "%!") {
						t.Errorf("%s in %s: %q", c.ID, lang, text)
					}
				}
			}
			for _, c := range s.Report(rec, lang).Checks {
				if strings.ContainsAny(c.Detail, "{}") {
					t.Errorf("%s in %s: %q", c.ID, lang, c.Detail)
				}
			}
		}
	}
	if len(seen) < 14 {
		t.Errorf("only %d causes were written out", len(seen))
	}
}

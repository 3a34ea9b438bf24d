package precall

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
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

func TestHold(t *testing.T) {
	_, srv := serve(t, Options{})
	start := time.Now()
	resp, body := ask(t, http.MethodGet, srv.URL+"/.well-known/hafen/hold?s=1", "", nil)
	if took := time.Since(start); resp.StatusCode != http.StatusOK || took < time.Second || !strings.Contains(string(body), "1 s") {
		t.Errorf("%s %s after %v", resp.Status, body, took)
	}
	for _, s := range []string{"", "0", "-1", "181", "1.5", "1e2", "x", "99999999999999999999"} {
		if resp, _ := ask(t, http.MethodGet, srv.URL+"/.well-known/hafen/hold?s="+s, "", nil); resp.StatusCode != http.StatusBadRequest {
			t.Errorf("s=%s: %s", s, resp.Status)
		}
	}
}

// TestHoldAskedForTwice: a browser whose connection broke asks again by itself, and learns how long the first one lasted. Names are each
// client's own, and there are never too many of them.
func TestHoldAskedForTwice(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	s, srv := serve(t, Options{Now: func() time.Time { return now }})
	path := srv.URL + "/.well-known/hafen/hold?s=1&n="
	if resp, _ := ask(t, http.MethodGet, path+"abc", "", nil); resp.StatusCode != http.StatusOK {
		t.Errorf("the first: %s", resp.Status)
	}
	now = now.Add(20300 * time.Millisecond)
	if resp, body := ask(t, http.MethodGet, path+"abc", "", nil); resp.StatusCode != http.StatusConflict || string(body) != "20.3\n" {
		t.Errorf("the second: %s %q", resp.Status, body)
	}
	for _, name := range []string{"", "%3Cb%3E", strings.Repeat("x", 65)} {
		if _, again := s.held.again(somebody, name, now); again {
			t.Errorf("%q is a name", name)
		}
	}
	for i := range 2 * maxHeld {
		if _, again := s.held.again(somebody, strconv.Itoa(i), now); again {
			t.Fatalf("%d has come before", i)
		}
	}
	if _, again := s.held.again(netip.MustParseAddr("192.0.2.8"), "1", now); again || len(s.held.began) > maxHeld {
		t.Errorf("another client's name is known: %v; %d names", again, len(s.held.began))
	}
	now = now.Add(2*MaxHold + time.Second)
	if _, again := s.held.again(somebody, "new", now); again || len(s.held.began) != 1 {
		t.Errorf("%d names after their time", len(s.held.began))
	}
}

func TestHoldsAreBoundedAndEndWithClose(t *testing.T) {
	s, srv := serve(t, Options{})
	s.holds = newGauge(2, 3)
	answers := make(chan int)
	hold := func(ctx context.Context) {
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/.well-known/hafen/hold?s=180", nil)
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			answers <- 0
			return
		}
		_ = resp.Body.Close()
		answers <- resp.StatusCode
	}
	for range 3 {
		go hold(context.Background())
	}
	if got := <-answers; got != http.StatusTooManyRequests {
		t.Fatalf("the third of a client: %d", got)
	}
	must(t, s.Close())
	for range 2 {
		if got := <-answers; got != http.StatusServiceUnavailable {
			t.Errorf("held while closing: %d", got)
		}
	}
	if s.holds.count() != 0 || len(s.holds.clients) != 0 {
		t.Error("a hold is still counted")
	}
}

func TestAHoldThatTheClientLeavesIsGone(t *testing.T) {
	s, srv := serve(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		req, _ := http.NewRequestWithContext(ctx, http.MethodGet, srv.URL+"/.well-known/hafen/hold?s=180", nil)
		if resp, err := http.DefaultTransport.RoundTrip(req); err == nil {
			_ = resp.Body.Close()
		}
	}()
	waitFor(t, func() bool { return s.holds.count() == 1 })
	cancel()
	<-done
	waitFor(t, func() bool { return s.holds.count() == 0 })
}

func waitFor(t *testing.T, is func() bool) {
	t.Helper()
	for range 1000 {
		if is() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	t.Fatal("it did not come to that")
}

func TestEcho(t *testing.T) {
	s, srv := serve(t, Options{})
	url := strings.Replace(srv.URL, "http", "ws", 1) + "/.well-known/hafen/ws"
	conn, resp, err := websocket.Dial(t.Context(), url, nil)
	must(t, err)
	if resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatal(resp.Status)
	}
	for _, text := range []string{"ahoy", strings.Repeat("x", echoSize)} {
		must(t, conn.Write(t.Context(), websocket.MessageText, []byte(text)))
		kind, data, err := conn.Read(t.Context())
		if err != nil || kind != websocket.MessageText || string(data) != text {
			t.Fatalf("%.20q came back as %.20q, %v", text, data, err)
		}
	}
	must(t, conn.Write(t.Context(), websocket.MessageText, []byte(strings.Repeat("x", echoSize+1))))
	if _, _, err = conn.Read(t.Context()); websocket.CloseStatus(err) != websocket.StatusMessageTooBig {
		t.Errorf("too large: %v", err)
	}
	waitFor(t, func() bool { return s.sockets.count() == 0 })
}

func TestEchoHasEnoughOfIt(t *testing.T) {
	_, srv := serve(t, Options{})
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(srv.URL, "http", "ws", 1)+"/.well-known/hafen/ws", nil)
	must(t, err)
	for i := range echoMessages + 1 {
		if err = conn.Write(t.Context(), websocket.MessageText, []byte("x")); err == nil {
			_, _, err = conn.Read(t.Context())
		}
		if (err != nil) != (i == echoMessages) {
			t.Fatalf("message %d: %v", i, err)
		}
	}
	if websocket.CloseStatus(err) != websocket.StatusPolicyViolation {
		t.Error(err)
	}
}

func TestAbuse_C09_EchoForForeignOrigins(t *testing.T) {
	_, srv := serve(t, Options{})
	for _, origin := range []string{"https://evil.example", "null", srv.URL + ".evil.example"} {
		_, resp, err := websocket.Dial(t.Context(), strings.Replace(srv.URL, "http", "ws", 1)+"/.well-known/hafen/ws",
			&websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
		if err == nil || resp == nil || resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s: %v %v", origin, resp, err)
		}
	}
}

func TestCloseEndsEchoes(t *testing.T) {
	s, srv := serve(t, Options{})
	conn, _, err := websocket.Dial(t.Context(), strings.Replace(srv.URL, "http", "ws", 1)+"/.well-known/hafen/ws", nil)
	must(t, err)
	defer func() { _ = conn.CloseNow() }()
	waitFor(t, func() bool { return s.sockets.count() == 1 })
	must(t, s.Close())
	if _, _, err := conn.Read(t.Context()); err == nil {
		t.Error("the echo lives on")
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

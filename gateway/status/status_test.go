package status

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/netpolicy"
	"hafen/gateway/page"
)

const password = "a harbour at a glance"

// world is a status server with a clock of its own behind a real HTTP server.
type world struct {
	*httptest.Server
	status *Server
	client *http.Client
	now    time.Time
	from   netip.Addr
	health Health
}

func newWorld(t *testing.T, users ...configs.AdminUser) *world {
	t.Helper()
	cfg := configs.Default()
	cfg.Admin.Users = users
	w := &world{now: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC), from: netip.MustParseAddr("10.1.2.3"), health: Health{Reachable: true, Complete: true}}
	var err error
	w.status, err = New(Options{
		Config: cfg, Gatherer: prometheus.NewRegistry(), Now: func() time.Time { return w.now },
		Client: func(*http.Request) netip.Addr { return w.from }, Health: func() Health { return w.health },
		Snapshot: func() Snapshot {
			return Snapshot{Verdict: "ok", Sentence: "All ways are open.", Name: "gw.example", Services: []Service{{Name: "calls", Chosen: "fra", Regions: []Region{{Name: "fra", Up: true, RTTms: 12}}}}}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Server = httptest.NewServer(w.status)
	t.Cleanup(w.Close)
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.client = &http.Client{Jar: jar}
	return w
}

func (w *world) do(t *testing.T, method, path string, form url.Values, header ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, w.URL+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	res, err := w.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(body), res.Header
}

var tokenField = regexp.MustCompile(`name="token" value="([A-Z0-9]+)"`)

// token is what the page's forms carry.
func (w *world) token(t *testing.T) string {
	t.Helper()
	_, body, _ := w.do(t, "GET", "/status/", nil)
	found := tokenField.FindStringSubmatch(body)
	if found == nil {
		t.Fatalf("the page has no form's token: %.300s", body)
	}
	return found[1]
}

// passwordHash is made once: it costs 64 MiB and a moment.
var passwordHash = sync.OnceValues(func() (string, error) { return HashPassword(password) })

func anna(t *testing.T) configs.AdminUser {
	t.Helper()
	hash, err := passwordHash()
	if err != nil {
		t.Fatal(err)
	}
	return configs.AdminUser{Name: "anna", PasswordHash: hash, Role: "admin"}
}

func loginForm(name, pass string) url.Values {
	return url.Values{"name": {name}, "password": {pass}}
}

func TestLoginOpensThePage(t *testing.T) {
	w := newWorld(t, anna(t))
	if code, _, _ := w.do(t, "GET", "/status/api/snapshot", nil); code != http.StatusUnauthorized {
		t.Errorf("without a session the snapshot answers %d", code)
	}
	if code, body, _ := w.do(t, "POST", "/status/login", loginForm("anna", password)); code != 200 || !strings.Contains(body, `id="sentence"`) {
		t.Fatalf("login: %d %s", code, body)
	}
	code, body, header := w.do(t, "GET", "/status/api/snapshot", nil)
	var s Snapshot
	if err := json.Unmarshal([]byte(body), &s); code != 200 || err != nil || s.Name != "gw.example" {
		t.Errorf("snapshot: %d %v %s", code, err, body)
	}
	want := make(http.Header)
	page.Headers(want)
	for k := range want {
		if header.Get(k) != want.Get(k) {
			t.Errorf("%s: %q, want %q", k, header.Get(k), want.Get(k))
		}
	}
	if code, _, _ := w.do(t, "POST", "/status/logout", nil); code != http.StatusForbidden {
		t.Errorf("a logout without the form's token: %d", code)
	}
	if code, body, _ := w.do(t, "POST", "/status/logout", url.Values{"token": {w.token(t)}}); code != 200 || !strings.Contains(body, `name="password"`) {
		t.Errorf("logout: %d", code)
	}
	if code, _, _ := w.do(t, "GET", "/status/api/snapshot", nil); code != http.StatusUnauthorized {
		t.Errorf("after the logout the snapshot answers %d", code)
	}
}

func TestSessionEnds(t *testing.T) {
	for name, after := range map[string]time.Duration{"idle": sessionIdle + time.Minute, "a day": sessionLife + time.Minute} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, anna(t))
			w.do(t, "POST", "/status/login", loginForm("anna", password))
			w.now = w.now.Add(after)
			if code, _, _ := w.do(t, "GET", "/status/api/snapshot", nil); code != http.StatusUnauthorized {
				t.Errorf("the snapshot answers %d", code)
			}
		})
	}
}

// TestRoutesWithoutSession walks every route by every odd spelling: no data without a login (abuse case F-01).
func TestRoutesWithoutSession(t *testing.T) {
	w := newWorld(t, anna(t))
	for _, path := range []string{"/status/api/live", "/status/config", "/status/drain", "/status/api/snapshot", "/status/api/snapshot/", "//status/api/snapshot", "/status//api/snapshot", "/status/api%2fsnapshot", "/STATUS/api/snapshot", "/status/logout", "/status/api/"} {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "OPTIONS"} {
			for _, cookie := range []string{"", sessionCookie + "=", sessionCookie + "=AAAAAAAAAAAAAAAAAAAAAAAAAA"} {
				code, body, _ := w.do(t, method, path, nil, "Cookie", cookie)
				if code < 300 || strings.Contains(body, "gw.example") {
					t.Errorf("%s %s with cookie %q: %d %.60s", method, path, cookie, code, body)
				}
			}
		}
	}
}

func TestForeignPagesCantPost(t *testing.T) {
	w := newWorld(t, anna(t))
	w.do(t, "POST", "/status/login", loginForm("anna", password))
	for name, h := range map[string][]string{
		"cross-site": {"Sec-Fetch-Site", "cross-site"}, "same-site": {"Sec-Fetch-Site", "same-site"}, "origin": {"Origin", "https://evil.example"},
	} {
		if code, _, _ := w.do(t, "POST", "/status/logout", url.Values{}, h...); code != http.StatusForbidden {
			t.Errorf("%s: %d, want 403", name, code)
		}
	}
	if code, _, _ := w.do(t, "GET", "/status/api/snapshot", nil); code != 200 {
		t.Errorf("the session is gone: %d", code)
	}
}

// TestLockOut: five tries are free, then an address waits, longer each time; others and the right address go on (F-04).
func TestLockOut(t *testing.T) {
	l := newLogins([]configs.AdminUser{anna(t)}, nil)
	now := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	l.now = func() time.Time { return now }
	attacker, other := netip.MustParseAddr("10.6.6.6"), netip.MustParseAddr("10.1.2.3")
	for i := range freeTries {
		if _, _, result := l.login(attacker, "anna", "wrong"); result != loginWrong {
			t.Fatalf("try %d: %v", i, result)
		}
	}
	if _, wait, result := l.login(attacker, "anna", password); result != loginLocked || wait != firstLock {
		t.Errorf("after five wrong ones: %v, wait %v", result, wait)
	}
	if _, _, result := l.login(other, "anna", password); result != loginOK {
		t.Errorf("another address is locked out too: %v", result)
	}
	now = now.Add(firstLock)
	if _, wait, result := l.login(attacker, "nobody", "wrong"); result != loginWrong || wait != 2*firstLock {
		t.Errorf("the sixth: %v, wait %v", result, wait)
	}
	now = now.Add(2 * firstLock)
	if _, _, result := l.login(attacker, "anna", password); result != loginOK {
		t.Errorf("the right password after the wait: %v", result)
	}
}

// TestManyAddressesGuess: a hundred addresses with one wrong password each get no further than one a second.
func TestManyAddressesGuess(t *testing.T) {
	l := newLogins(nil, nil)
	now := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	l.now = func() time.Time { return now }
	for i := range globalTries {
		l.wrong(netpolicy.Client(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)})))
	}
	if _, _, result := l.login(netip.MustParseAddr("10.0.2.1"), "anna", "wrong"); result != loginBusy {
		t.Errorf("the next address: %v, want busy", result)
	}
	now = now.Add(time.Second)
	if _, _, result := l.login(netip.MustParseAddr("10.0.2.1"), "anna", "wrong"); result != loginWrong {
		t.Errorf("a second later: %v, want wrong", result)
	}
}

func TestLocksAreBounded(t *testing.T) {
	l := newLogins(nil, time.Now)
	for i := range maxLocks + 100 {
		l.wrong(netpolicy.Client(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)})))
	}
	if n := len(l.locks); n > maxLocks {
		t.Errorf("%d locks kept, want %d at most", n, maxLocks)
	}
}

func TestPasswords(t *testing.T) {
	if _, err := HashPassword("short"); err == nil {
		t.Error("a short password got a hash")
	}
	if _, err := HashPassword(strings.Repeat("x", maxPassword+1)); err == nil {
		t.Error("a long password got a hash")
	}
	hash, err := HashPassword(password)
	if err != nil || !VerifyPassword(hash, password) || VerifyPassword(hash, password+"x") {
		t.Errorf("hash %s, err %v", hash, err)
	}
	for _, bad := range []string{"", "plain", "$argon2i$v=19$m=65536,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", "$argon2id$v=19$m=99999999,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2hoYXNoaGFzaA", strings.Replace(hash, "t=3", "t=0", 1)} {
		if VerifyPassword(bad, password) {
			t.Errorf("%q fits", bad)
		}
	}
}

func TestWithoutUsersThePageSaysHow(t *testing.T) {
	w := newWorld(t)
	if _, body, _ := w.do(t, "GET", "/status/", nil); !strings.Contains(body, "hafen passwd") {
		t.Error("the page does not name hafen passwd")
	}
	if code, _, _ := w.do(t, "POST", "/status/login", loginForm("", "")); code != http.StatusUnauthorized {
		t.Errorf("an empty login: %d", code)
	}
}

func TestOnlyAdminNetworks(t *testing.T) {
	w := newWorld(t, anna(t))
	w.from = netip.MustParseAddr("203.0.113.7")
	if code, body, _ := w.do(t, "GET", "/status/", nil); code != http.StatusNotFound || strings.Contains(body, "password") {
		t.Errorf("from outside: %d", code)
	}
}

func TestHealth(t *testing.T) {
	w := newWorld(t)
	srv := httptest.NewServer(w.status.Machines())
	defer srv.Close()
	for name, tc := range map[string]struct {
		health      Health
		path        string
		code        int
		containment string
	}{
		"live while draining":   {Health{Draining: true}, "/livez", 200, "ok"},
		"ready":                 {Health{Reachable: true}, "/readyz", 200, "ok"},
		"draining":              {Health{Draining: true, Reachable: true}, "/readyz", 503, "draining"},
		"draining, for HAProxy": {Health{Draining: true, Reachable: true}, "/readyz?draining=404", 404, "draining"},
		"dead, for HAProxy":     {Health{}, "/readyz?draining=404", 503, "unreachable"},
		"nothing reachable":     {Health{}, "/readyz", 503, "unreachable"},
		"strict and incomplete": {Health{Reachable: true}, "/readyz?strict=1", 503, "no region"},
		"strict and complete":   {Health{Reachable: true, Complete: true}, "/readyz?strict=1", 200, "ok"},
	} {
		w.health = tc.health
		res, err := http.Get(srv.URL + tc.path)
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if res.StatusCode != tc.code || !strings.Contains(string(body), tc.containment) {
			t.Errorf("%s: %d %s", name, res.StatusCode, body)
		}
	}
}

func TestWriteText(t *testing.T) {
	var b strings.Builder
	WriteText(&b, Snapshot{
		Verdict: "degraded", Sentence: "One of two regions is down.", Advice: "Calls go on through fra.", Name: "gw.example", Version: "1",
		Services: []Service{{Name: "calls", Chosen: "fra", Regions: []Region{{Name: "fra", Up: true, RTTms: 12.3, Rung: "udp"}, {Name: "lon", Rungs: []Rung{{Name: "udp", State: "down", Why: "no answer"}}}}}},
		Certificates: []Certificate{
			{Names: []string{"gw.example"}, Expires: time.Date(2027, 2, 3, 0, 0, 0, 0, time.UTC), Source: "acme", Problem: "the authority can't reach port 443"},
			{Names: []string{"pac.example"}, Source: "acme"},
		},
		Refused: []Refused{{Network: "10.9.9.0/24", Count: 3, Write: "clients: [10.9.9.0/24]"}},
	})
	for _, want := range []string{
		"! One of two regions is down.\n  → Calls go on through fra.\n", "fra  udp", "12 ms", "nearest", "no answer", "✕", "no answer", "clients: [10.9.9.0/24]",
		"[gw.example]  until 2027-02-03  acme\n  → the authority can't reach port 443\n", "[pac.example]  not issued yet  acme\n",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}

func TestTexts(t *testing.T) {
	texts, err := page.LoadTexts(web, "web/messages.*.json")
	if err != nil {
		t.Fatal(err)
	}
	used, err := page.KeysIn(web, "web/*.html", "web/*.js")
	if err != nil {
		t.Fatal(err)
	}
	used = append(used, "login.wrong", "login.locked", "login.busy", "login.title", "nobody.title", "status.title", "config.title") // from Go
	for _, p := range texts.Problems(used) {
		t.Error(p)
	}
}

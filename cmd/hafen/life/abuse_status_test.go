package life

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hafen/gateway/page"
)

// visitor is a browser without a login, from an address of its own.
func (w *world) visitor(from string) *http.Client {
	return &http.Client{
		Timeout:       20 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: tlsConfig(ownName), DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}).DialContext(ctx, "tcp", w.addr)
		}},
	}
}

// ask sends one request; header is name and value, one after the other.
func ask(t testing.TB, c *http.Client, method, path string, form url.Values, header ...string) (code int, body string, h http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, "https://"+ownName+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	searchAnswer(t, req.URL.Path, resp.Header, string(text))
	return resp.StatusCode, string(text), resp.Header
}

func credentials(name, password string) url.Values {
	return url.Values{"name": {name}, "password": {password}}
}

// TestAbuse_F03: no default password, no empty one, and nobody can make himself the first user.
func TestAbuse_F03(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(text string) string { return text + "admin: {users: []}\n" })
	c := w.visitor("127.0.0.1")
	if code, body, _ := ask(t, c, "GET", "/status/", nil); code != http.StatusOK || !strings.Contains(body, "hafen passwd") {
		t.Errorf("without users the page says %d %.200s", code, body)
	}
	for _, form := range []url.Values{credentials("", ""), credentials("admin", "admin"), credentials("admin", ""), credentials("root", "hafen"), credentials("hafen", "hafen")} {
		if code, _, h := ask(t, c, "POST", "/status/login", form); code < 400 || h.Get("Set-Cookie") != "" {
			t.Errorf("%v: %d %v", form, code, h)
		}
	}
	for _, path := range []string{"/status/setup", "/status/register", "/status/users", "/status/api/users", "/status/passwd"} {
		for _, method := range []string{"GET", "POST", "PUT"} {
			if code, _, _ := ask(t, c, method, path, credentials("mallory", "a long enough password")); code < 400 {
				t.Errorf("%s %s: %d", method, path, code)
			}
		}
	}
}

// TestAbuse_F04: a hundred wrong passwords from one address get five tries, whatever it says to be forwarded for; the right password
// from elsewhere gets in, and the console too. An unknown name takes as long as a known one.
func TestAbuse_F04(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withUser(t))
	attacker := w.visitor("127.0.0.66")
	codes := make(map[int]int)
	took := make(map[string]time.Duration)
	for i := range 100 {
		name := []string{"anna", "nobody"}[i%2]
		began := time.Now()
		code, _, _ := ask(t, attacker, "POST", "/status/login", credentials(name, fmt.Sprint("wrong ", i)), "X-Forwarded-For", fmt.Sprint("10.0.0.", i), "X-Real-IP", "10.0.0.1")
		codes[code]++
		if code == http.StatusUnauthorized {
			took[name] = max(took[name], time.Since(began))
		}
	}
	if codes[http.StatusUnauthorized] != 5 || codes[http.StatusTooManyRequests] != 95 {
		t.Errorf("answers to a hundred wrong passwords: %v", codes)
	}
	t.Logf("known name %s, unknown name %s", took["anna"].Round(time.Millisecond), took["nobody"].Round(time.Millisecond))
	if took["nobody"] < 10*time.Millisecond {
		t.Error("an unknown name is answered at once: it was not hashed")
	}
	if code, _, _ := ask(t, attacker, "POST", "/status/login", credentials("anna", nightPassword)); code != http.StatusTooManyRequests {
		t.Errorf("the attacker's right password: %d", code)
	}
	if code, _, h := ask(t, w.visitor("127.0.0.1"), "POST", "/status/login", credentials("anna", nightPassword)); code != http.StatusSeeOther || !strings.Contains(h.Get("Set-Cookie"), "HttpOnly; Secure; SameSite=Strict") {
		t.Errorf("the administrator: %d %v", code, h)
	}
	if out, err := w.command("status"); err != nil {
		t.Errorf("the console: %v %s", err, out)
	}
	var tried atomic.Int64
	var guessers sync.WaitGroup
	began := time.Now()
	for i := range 40 { // from as many addresses at once: all together get no more than a few tries, and one more each second
		guessers.Go(func() {
			if code, _, _ := ask(t, w.visitor(fmt.Sprint("127.0.2.", i+1)), "POST", "/status/login", credentials("anna", "wrong")); code != http.StatusServiceUnavailable {
				tried.Add(1)
			}
		})
	}
	guessers.Wait()
	t.Logf("forty addresses: %d tries in %s", tried.Load(), time.Since(began).Round(time.Millisecond))
	if most := 20 + int64(time.Since(began)/time.Second) + 1; tried.Load() > most {
		t.Errorf("%d tries, %d are allowed", tried.Load(), most)
	}
}

// TestAbuse_F06: what foreign pages can send changes nothing, with a session at hand.
func TestAbuse_F06(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withUser(t))
	c := w.visitor("127.0.0.1")
	_, _, h := ask(t, c, "POST", "/status/login", credentials("anna", nightPassword))
	cookie, _, _ := strings.Cut(h.Get("Set-Cookie"), ";")
	if code, _, _ := ask(t, c, "GET", "/status/api/snapshot", nil, "Cookie", cookie); code != http.StatusOK {
		t.Fatalf("no session: %d", code)
	}
	_, body, _ := ask(t, c, "GET", "/status/", nil, "Cookie", cookie)
	_, rest, _ := strings.Cut(body, `name="token" value="`)
	token, _, _ := strings.Cut(rest, `"`)
	if len(token) < 20 {
		t.Fatalf("no token in the page: %.300s", body)
	}
	for name, tt := range map[string]struct {
		token  string
		header []string
	}{
		"cross-site form":    {token, []string{"Sec-Fetch-Site", "cross-site"}},
		"same-site name":     {token, []string{"Sec-Fetch-Site", "same-site", "Origin", "https://other." + ownName}},
		"foreign origin":     {token, []string{"Origin", "https://evil.example"}},
		"opaque origin":      {token, []string{"Origin", "null"}},
		"JSON as text":       {"", []string{"Content-Type", "text/plain", "Sec-Fetch-Site", "cross-site"}},
		"no origin, no page": {"", nil},
		"another's token":    {"AAAAAAAAAAAAAAAAAAAAAAAAAA", []string{"Sec-Fetch-Site", "same-origin"}},
	} {
		for _, path := range []string{"/status/drain", "/status/logout"} {
			code, _, _ := ask(t, c, "POST", path, url.Values{"wait": {"0s"}, "token": {tt.token}}, append(tt.header, "Cookie", cookie)...)
			if code != http.StatusForbidden {
				t.Errorf("%s: %s: %d, want 403", name, path, code)
			}
		}
	}
	if code, _ := w.get("/readyz"); code != http.StatusOK {
		t.Errorf("it drains: %d", code)
	}
	if code, _, _ := ask(t, c, "GET", "/status/api/snapshot", nil, "Cookie", cookie); code != http.StatusOK {
		t.Errorf("logged out by a foreign page: %d", code)
	}
}

// TestAbuse_F09: every page of the running gateway carries the same headers.
func TestAbuse_F09(t *testing.T) {
	t.Parallel()
	w := newWorld(t, withUser(t))
	c := w.visitor("127.0.0.1")
	want := make(http.Header)
	page.Headers(want)
	for _, path := range []string{"/", "/precall/", "/status/", "/status/helpdesk/", "/status/config", "/status/api/snapshot", "/nothing", "/proxy.pac.bak"} {
		_, _, got := ask(t, c, "GET", path, nil, "Accept", "text/html")
		for name, values := range want {
			have := got.Values(name)
			if name == "Content-Security-Policy" && path == "/precall/" { // it may connect to the call servers
				if len(have) != 1 || !strings.HasPrefix(have[0], "default-src 'none'; script-src 'self'; style-src 'self';") || !strings.Contains(have[0], "frame-ancestors 'none'") {
					t.Errorf("%s: %q", path, have)
				}
				continue
			}
			if !slices.Equal(have, values) {
				t.Errorf("%s: %s is %q, want %q", path, name, have, values)
			}
		}
	}
}

// TestAbuse_F13: odd methods, hosts, paths and names make no new series.
func TestAbuse_F13(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	series := func() int {
		_, body := w.get("/metrics")
		n := 0
		for line := range strings.Lines(body) {
			if !strings.HasPrefix(line, "#") {
				n++
			}
		}
		return n
	}
	odd := func(from, to int) {
		for i := from; i < to; i++ {
			conn, err := w.dial(ownName)
			if err != nil {
				t.Fatal(err)
			}
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			switch i % 3 {
			case 0:
				_, _ = fmt.Fprintf(conn, "ODD%d /path%d HTTP/1.1\r\nHost: host%d.example\r\nX-User: user%d\r\nConnection: close\r\n\r\n", i, i, i, i)
			case 1:
				_, _ = fmt.Fprintf(conn, "CONNECT host%d.example:443 HTTP/1.1\r\nHost: host%d.example:443\r\n\r\n", i, i)
			case 2:
				_, _ = fmt.Fprintf(conn, "GET /status/%d HTTP/1.1\r\nHost: %s\r\nUser-Agent: agent %d\r\nConnection: close\r\n\r\n", i, ownName, i)
			}
			_, _ = io.Copy(io.Discard, io.LimitReader(conn, 100))
			_ = conn.Close()
		}
	}
	odd(0, 150)
	before := series()
	odd(150, 900)
	after := series()
	t.Logf("%d series after 150 odd requests, %d after 900", before, after)
	if after > before+10 || after >= 500 {
		t.Errorf("series: %d, then %d", before, after)
	}
}

// TestExplainLeadsToTheLog: the code of a precall test leads to the lines of its connections.
func TestExplainLeadsToTheLog(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(text string) string { return strings.Replace(text, "level: warn", "level: info", 1) })
	code, err := w.report()
	if err != nil {
		t.Fatal(err)
	}
	out, err := w.command("explain", code)
	_, rest, found := strings.Cut(out, "grep -E '")
	names, _, _ := strings.Cut(rest, "'")
	if err != nil || !found || names == "" {
		t.Fatalf("%v\n%s", err, out)
	}
	for name := range strings.SplitSeq(names, "|") {
		w.until("the line of connection "+name, 20*time.Second, func() bool { return strings.Contains(w.log.String(), "msg=connection area=mux conn="+name+" ") })
	}
	if !strings.Contains(w.log.String(), "code="+code) {
		t.Error("the log has no line of the test itself")
	}
}

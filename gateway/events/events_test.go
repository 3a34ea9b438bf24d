package events

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// clock is a time that a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func newClock() *clock { return &clock{now: time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)} }

var (
	region = Condition{ID: "region-down:calls/lon", Kind: "region-down", Cause: "lon of calls can't be reached; calls go through fra.", Todo: "open UDP 3478 to lon", Works: "Calls go on.", Manual: "alerts.md#region-down"}
	server = Condition{ID: "call-server-down:a", Kind: "call-server-down", Critical: true, Cause: "The gateway does not get through to a.", Todo: "Let it.", Works: "Running calls."}
	disk   = Condition{ID: "disk", Kind: "disk", Cause: "The disk of data_dir is nearly full: 299 MiB are free.", Todo: "Make room."}
	full   = Condition{ID: "disk", Kind: "disk", Critical: true, Cause: "The disk of data_dir is full: 29 MiB are free.", Todo: "Make room."}
	other  = Condition{ID: "region-down:calls/ams", Kind: "region-down", Cause: "ams of calls can't be reached."}
)

// watch observes every two seconds for a while.
func (n *Notifier) watch(c *clock, d time.Duration, conditions ...Condition) {
	for range d / (2 * time.Second) {
		n.Observe(conditions, Touched{Sites: []string{"Clinic North"}, Calls: 7})
		c.add(2 * time.Second)
	}
}

func TestIncidents(t *testing.T) {
	for name, tc := range map[string]struct {
		story func(n *Notifier, c *clock)
		want  []string // the kinds of the incidents, ! behind those that are over
	}{
		"a blink":  {func(n *Notifier, c *clock) { n.watch(c, 6*time.Second, region); n.watch(c, 2*time.Minute) }, nil},
		"it lasts": {func(n *Notifier, c *clock) { n.watch(c, 20*time.Second, region) }, []string{"region-down"}},
		"it ends":  {func(n *Notifier, c *clock) { n.watch(c, 20*time.Second, region); n.watch(c, 2*time.Minute) }, []string{"region-down!"}},
		"it comes back at once": {func(n *Notifier, c *clock) {
			n.watch(c, 20*time.Second, region)
			n.watch(c, 30*time.Second)
			n.watch(c, time.Hour, region)
		}, []string{"region-down"}},
		"it becomes critical": {func(n *Notifier, c *clock) {
			n.watch(c, 20*time.Second, disk)
			n.watch(c, 20*time.Second, full)
			n.watch(c, 2*time.Minute, disk)
			n.watch(c, 2*time.Minute)
		}, []string{"disk!", "disk critical!"}},
		"it is critical for a while": {func(n *Notifier, c *clock) {
			n.watch(c, 20*time.Second, disk)
			n.watch(c, 5*time.Minute, full)
			n.watch(c, 20*time.Second, disk)
		}, []string{"disk", "disk critical"}},
		"it comes back later": {func(n *Notifier, c *clock) {
			n.watch(c, 20*time.Second, region)
			n.watch(c, 2*time.Minute)
			n.watch(c, time.Hour, region)
		}, []string{"region-down!", "region-down"}},
		"one cause, two faults": {func(n *Notifier, c *clock) { n.watch(c, time.Minute, region, server) }, []string{"call-server-down"}},
		"a second one joins": {func(n *Notifier, c *clock) {
			n.watch(c, 20*time.Second, region)
			n.watch(c, time.Minute, region, other)
		}, []string{"region-down"}},
		"a worse one stands apart": {func(n *Notifier, c *clock) {
			n.watch(c, 20*time.Second, region)
			n.watch(c, time.Minute, region, server)
		}, []string{"region-down", "call-server-down"}},
		"much later": {func(n *Notifier, c *clock) { n.watch(c, 5*time.Minute, region); n.watch(c, time.Minute, region, other) }, []string{"region-down", "region-down"}},
		"flapping": {func(n *Notifier, c *clock) {
			for range 100 {
				n.watch(c, 4*time.Second, region)
				n.watch(c, 4*time.Second)
			}
		}, []string{"region-down"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := newClock()
			n := New(Options{Now: c.Now})
			tc.story(n, c)
			var got []string
			for _, in := range n.Incidents() {
				kind := in.Conditions[0].Kind
				if kind == disk.Kind && in.Conditions[0].Critical {
					kind += " critical"
				}
				if !in.Ended.IsZero() {
					kind += "!"
				}
				got = append(got, kind)
			}
			if strings.Join(got, " ") != strings.Join(tc.want, " ") {
				t.Errorf("%v, want %v", got, tc.want)
			}
			if len(n.outbox.waiting) != len(tc.want) {
				t.Errorf("%d messages for %d incidents", len(n.outbox.waiting), len(tc.want))
			}
		})
	}
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	c := newClock()
	n := New(Options{Now: c.Now})
	for range 3 * maxIncidents {
		n.watch(c, 20*time.Second, region)
		n.watch(c, 2*time.Minute)
	}
	if len(n.incidents) > maxIncidents || len(n.outbox.waiting) > maxWaiting || len(n.seen) > 1 {
		t.Errorf("%d incidents, %d messages, %d sightings", len(n.incidents), len(n.outbox.waiting), len(n.seen))
	}
}

func dial(ctx context.Context, network, addr string) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, network, addr)
}

// run delivers in the background until the test ends.
func (n *Notifier) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done })
}

// TestWebhook: it is told once, after two tries that failed, and says all that an incident is.
func TestWebhook(t *testing.T) {
	got := make(chan map[string]any, 10)
	var tries atomic.Int32
	hook := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if tries.Add(1) < 3 {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		var m map[string]any
		if err := json.NewDecoder(r.Body).Decode(&m); err != nil || r.Header.Get("Content-Type") != "application/json" || r.URL.Path != "/secret" {
			t.Error(err, r.Header, r.URL)
		}
		got <- m
	}))
	defer hook.Close()
	c := newClock()
	n := New(Options{Ways: Ways{Gateway: "gw.example", Webhook: hook.URL + "/secret"}, Dial: dial, Now: c.Now, Pause: time.Millisecond})
	n.run(t)
	n.watch(c, time.Minute, server, region)
	m := <-got
	for key, want := range map[string]any{
		"gateway": "gw.example", "level": "critical", "kind": "call-server-down", "cause": server.Cause, "what_to_do": server.Todo, "still_works": server.Works, "live_calls": 7.0,
	} {
		if m[key] != want {
			t.Errorf("%s is %v, want %v", key, m[key], want)
		}
	}
	if text, _ := m["text"].(string); !strings.Contains(text, "Clinic North") || !strings.Contains(text, "Also: lon of calls") {
		t.Errorf("text: %v", m["text"])
	}
	if sites, _ := m["sites"].([]any); len(sites) != 1 {
		t.Errorf("sites: %v", m["sites"])
	}
	select {
	case m := <-got:
		t.Errorf("told twice: %v", m)
	case <-time.After(200 * time.Millisecond):
	}
}

// TestErrorsKeepTheSecret: a webhook's URL is its password.
func TestErrorsKeepTheSecret(t *testing.T) {
	refuse := func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("refused") }
	n := New(Options{Ways: Ways{Webhook: "https://hooks.example/services/canary-secret"}, Dial: refuse})
	if err := n.post(t.Context(), message{}); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
	n.Use(Ways{Webhook: "http://bad host/canary-secret"})
	if err := n.post(t.Context(), message{}); err == nil || strings.Contains(err.Error(), "canary") {
		t.Errorf("%v", err)
	}
}

// smtpServer takes one mail and gives what it was told.
func smtpServer(t *testing.T) (addr string, letters <-chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	out := make(chan string, 1)
	go func() {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		say := func(line string) { _, _ = io.WriteString(conn, line+"\r\n") }
		say("220 mail.example")
		in := bufio.NewReader(conn)
		var letter strings.Builder
		for data := false; ; {
			line, err := in.ReadString('\n')
			switch {
			case err != nil:
				return
			case data && line == ".\r\n":
				data = false
				say("250 taken")
				out <- letter.String()
			case data:
				letter.WriteString(line)
			case strings.HasPrefix(line, "DATA"):
				data = true
				say("354 go on")
			case strings.HasPrefix(line, "QUIT"):
				say("221 bye")
				return
			default:
				say("250 fine")
			}
		}
	}()
	return ln.Addr().String(), out
}

func TestMail(t *testing.T) {
	addr, letters := smtpServer(t)
	c := newClock()
	n := New(Options{Ways: Ways{Gateway: "gw.example", MailServer: addr, From: "hafen@gw.example", To: []string{"it@example.org", "nacht@example.org"}}, Dial: dial, Now: c.Now})
	n.run(t)
	umlaut := server
	umlaut.Cause = "Kein Weg zu Köln."
	n.watch(c, time.Minute, umlaut)
	m, err := mail.ReadMessage(strings.NewReader(<-letters))
	if err != nil {
		t.Fatal(err)
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(m.Header.Get("Subject"))
	if err != nil || subject != "[critical] gw.example: Kein Weg zu Köln." {
		t.Errorf("subject %q, %v", subject, err)
	}
	text, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, m.Body))
	if err != nil || !strings.Contains(string(text), "What to do: Let it.") || !strings.Contains(string(text), "Live calls: 7") {
		t.Errorf("%s, %v", text, err)
	}
	if _, failure, _ := n.Delivery(); failure != "" {
		t.Errorf("delivery: %s", failure)
	}
}

// TestReportGoesByMailOnly: a look back is no incident; without a mail server it is nothing.
func TestReportGoesByMailOnly(t *testing.T) {
	addr, letters := smtpServer(t)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the webhook was told") }))
	t.Cleanup(hook.Close)
	n := New(Options{Ways: Ways{Gateway: "gw.example", Webhook: hook.URL, MailServer: addr, From: "hafen@gw.example", To: []string{"it@example.org"}}, Dial: dial})
	n.run(t)
	n.Tell(Report{ID: "week-1", Subject: "[weekly] gw.example", Text: "It was calm.\n"})
	m, err := mail.ReadMessage(strings.NewReader(<-letters))
	if err != nil || m.Header.Get("Subject") != "[weekly] gw.example" || m.Header.Get("Message-Id") != "<week-1@gw.example>" {
		t.Errorf("%v, %v", m, err)
	}
	if len(n.Incidents()) > 0 {
		t.Error("a report is an incident")
	}
	n.Use(Ways{Webhook: hook.URL})
	n.Tell(Report{ID: "week-2", Subject: "[weekly] gw.example"})
	if _, _, waiting := n.Delivery(); waiting > 0 {
		t.Error("a report waits for a mail server that is not there")
	}
}

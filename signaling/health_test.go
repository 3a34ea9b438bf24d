package signaling

import (
	"bufio"
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hafen/configs"
)

// clock is a prober's: pauses end when the test says so.
type clock struct {
	mu     sync.Mutex
	pauses []time.Duration
	wake   chan time.Time
}

func (c *clock) after(d time.Duration) <-chan time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pauses = append(c.pauses, d)
	return c.wake
}

func (c *clock) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.pauses)
}

func probed(t *testing.T, probes configs.Probes, call http.HandlerFunc) (*rig, *clock) {
	t.Helper()
	c := &clock{wake: make(chan time.Time)}
	r := newRig(t, call, settings{
		config:  func(cfg *configs.Config) { cfg.Services[0].Probes = probes },
		options: func(o *Options) { o.After = c.after },
	})
	return r, c
}

// The prober asks at once and then in intervals around 30 s; what it learns is in Status, in the metrics, and once in the log.
func TestProber(t *testing.T) {
	var broken atomic.Bool
	r, c := probed(t, configs.Probes{HTTPS: "/health?x", CallServers: []string{"a.wild.example"}}, func(w http.ResponseWriter, req *http.Request) {
		if req.RequestURI != "/health?x" || req.Header.Get("User-Agent") != "hafen-probe" {
			t.Errorf("asked for %s by %s", req.RequestURI, req.Header.Get("User-Agent"))
		}
		if broken.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})
	before := r.p.Status().CallServers
	if len(before) != 2 || before[0].Host != "a.wild.example" || before[1].Host != host || before[1].HTTPS.State != CheckUnknown || before[1].WebSocket.State != CheckOff || before[1].Up {
		t.Fatalf("%+v", before)
	}
	_ = r.p.Start(t.Context())
	eventually(t, "both were asked", func() bool { return c.count() == 2 })
	now := r.p.Status().CallServers
	if s := now[1]; !s.Up || s.HTTPS.State != CheckOK || s.HTTPS.RTT <= 0 || s.HTTPS.At.IsZero() || s.Service != "calls" {
		t.Errorf("%+v", s)
	}
	// The certificate is for another name: verified, so it fails.
	if s := now[0]; s.Up || s.HTTPS.State != CheckFailed || s.HTTPS.Status != statusUpstream || !strings.Contains(s.HTTPS.Why, "certificate") {
		t.Errorf("%+v", s)
	}
	if up := r.metric("hafen_signaling_call_server_up", host); up != 1 {
		t.Errorf("up is %v", up)
	}
	broken.Store(true)
	for round := range 2 {
		c.wake <- time.Now()
		c.wake <- time.Now()
		eventually(t, "both were asked again", func() bool { return c.count() == 4+2*round })
	}
	if s := r.p.Status().CallServers[1]; s.Up || s.HTTPS.Why != "It answered 503." || r.metric("hafen_signaling_call_server_up", host) != 0 {
		t.Errorf("%+v", s)
	}
	broken.Store(false)
	c.wake <- time.Now()
	c.wake <- time.Now()
	eventually(t, "it is up again", func() bool { return r.p.Status().CallServers[1].Up })
	if n := r.log.count("call server failed a probe"); n != 2 || r.log.count("call server is back") != 1 {
		t.Errorf("a change is a line:\n%s", r.log)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, pause := range c.pauses {
		if pause < 24*time.Second || pause > 36*time.Second {
			t.Errorf("a pause of %s", pause)
		}
	}
}

func TestProbeWebSocket(t *testing.T) {
	answers := func(code int) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
	}
	closed := make(chan string, 1)
	for _, tt := range []struct {
		name  string
		call  http.HandlerFunc
		state string
		why   string
	}{
		{"opens", upgraded(func(conn *tls.Conn, br *bufio.Reader) {
			_, _ = io.WriteString(conn, switched)
			all, _ := io.ReadAll(br)
			closed <- string(all)
		}), CheckOK, "A WebSocket was opened."},
		{"400", answers(400), CheckOK, "It answered 400"},
		{"401", answers(401), CheckOK, "It answered 401"},
		{"403", answers(403), CheckOK, "It answered 403"},
		{"404", answers(404), CheckFailed, "It answered 404"},
		{"upgrade taken out", answers(200), CheckFailed, "takes the upgrade out"},
		{"breaks off", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, CheckFailed, "It broke off the connection"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, c := probed(t, configs.Probes{WebSocket: "/ws"}, func(w http.ResponseWriter, req *http.Request) {
				if refused := checkUpgrade(req, ""); refused != nil || !isUpgrade(req) || req.Header.Get("Origin") != "https://example.com" {
					t.Errorf("the probe is no handshake: %v", req.Header)
				}
				tt.call(w, req)
			})
			_ = r.p.Start(t.Context())
			eventually(t, "it was asked", func() bool { return c.count() == 1 })
			if s := r.p.Status().CallServers[0]; s.WebSocket.State != tt.state || !strings.Contains(s.WebSocket.Why, tt.why) || s.Up != (tt.state == CheckOK) || s.HTTPS.State != CheckOff {
				t.Errorf("%+v", s)
			}
		})
	}
	if frame := <-closed; frame != "\x88\x82\x00\x00\x00\x00\x03\xe8" {
		t.Errorf("the goodbye is %x", frame)
	}
}

func TestProbeLongPoll(t *testing.T) {
	for _, tt := range []struct {
		name  string
		call  http.HandlerFunc
		state string
		why   string
	}{
		{"held", func(_ http.ResponseWriter, req *http.Request) { <-req.Context().Done() }, CheckOK, "It was held for 300ms."},
		{"answered", hello, CheckOK, "It answered 200."},
		{"refused", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNotFound) }, CheckFailed, "It answered 404 instead of holding."},
		{"cut", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, CheckFailed, "It was held for 0s before."},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, c := probed(t, configs.Probes{LongPoll: "/poll"}, tt.call)
			r.p.setup.Load().prober.hold = 300 * time.Millisecond
			_ = r.p.Start(t.Context())
			eventually(t, "it was asked", func() bool { return c.count() == 1 })
			if s := r.p.Status().CallServers[0]; s.LongPoll.State != tt.state || !strings.Contains(s.LongPoll.Why, tt.why) {
				t.Errorf("%+v", s)
			}
		})
	}
}

// A prober that is stopped in the middle of a probe says nothing about the call server.
func TestProberStops(t *testing.T) {
	began := make(chan struct{})
	r, _ := probed(t, configs.Probes{LongPoll: "/poll"}, func(_ http.ResponseWriter, req *http.Request) {
		close(began)
		<-req.Context().Done()
	})
	_ = r.p.Start(t.Context())
	<-began
	_ = r.p.Close()
	if s := r.p.Status().CallServers[0]; s.LongPoll.State != CheckUnknown || r.log.count("failed") > 0 {
		t.Errorf("%+v\n%s", s, r.log)
	}
	_ = r.p.Start(t.Context()) // too late, and harmless
}

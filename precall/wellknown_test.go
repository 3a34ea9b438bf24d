package precall

import (
	"context"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

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

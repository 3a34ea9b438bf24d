package precall

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"testing"

	"go.uber.org/goleak"

	"hafen/configs"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(keeperDir); dir != "" {
		keepUntilKilled(dir)
	}
	goleak.VerifyTestMain(m)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// serve runs the test behind a real server.
func serve(t *testing.T, o Options) (*Server, *httptest.Server) {
	t.Helper()
	s, err := New(o)
	must(t, err)
	srv := httptest.NewServer(s)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		must(t, s.Close())
		srv.Close()
	})
	return s, srv
}

// ask sends one request and gives the answer with its body.
func ask(t *testing.T, method, url, contentType string, body []byte, header ...string) (*http.Response, []byte) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, url, bytes.NewReader(body))
	must(t, err)
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.(*http.Transport).RoundTrip(req)
	must(t, err)
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	must(t, err)
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
	return resp, data
}

func post(t *testing.T, srv *httptest.Server, m Measurements) (*http.Response, []byte) {
	t.Helper()
	body, err := json.Marshal(m)
	must(t, err)
	return ask(t, http.MethodPost, srv.URL+"/precall/report", "application/json", body)
}

func value(v float64) *float64 { return &v }

// allFine is what a page measures where nothing is wrong.
func allFine() Measurements {
	return Measurements{Version: 1, Clock: 1, Hold: 45, Checks: []Measured{
		{ID: "secure-context", Result: OK},
		{ID: "browser", Result: OK, Detail: "Chromium 156"},
		{ID: "camera", Result: OK, Value: value(30)},
		{ID: "microphone", Result: OK, Value: value(-20)},
		{ID: "call-server:websocket", Result: OK, Value: value(12)},
		{ID: "call-server:longpoll", Result: OK, Value: value(45)},
		{ID: "relay:udp", Target: "turn:gw.example:443", Result: OK, Value: value(80)},
		{ID: "relay:tcp", Target: "turn:gw.example:443?transport=tcp", Result: OK, Value: value(90)},
		{ID: "relay:tls", Target: "turns:gw.example:443?transport=tcp", Result: OK, Value: value(120)},
		{ID: "relay:media", Target: "turn:gw.example:443", Result: OK, Value: value(1500)},
		{ID: "rtt", Result: OK, Value: value(9)},
		{ID: "jitter", Result: OK, Value: value(4)},
		{ID: "loss", Result: OK, Value: value(0)},
	}}
}

// with replaces the check of an id, or of an id and target.
func (m Measurements) with(c Measured) Measurements {
	var out []Measured
	done := false
	for _, old := range m.Checks {
		if old.ID == c.ID && (c.Target == "" || c.Target == old.Target) {
			c.Target, done = old.Target, true
			out = append(out, c)
			continue
		}
		out = append(out, old)
	}
	if !done {
		out = append(out, c)
	}
	m.Checks = out
	return m
}

// without takes the checks of some ids away.
func (m Measurements) without(ids ...string) Measurements {
	var out []Measured
	for _, c := range m.Checks {
		keep := true
		for _, id := range ids {
			keep = keep && c.ID != id
		}
		if keep {
			out = append(out, c)
		}
	}
	m.Checks = out
	return m
}

func fails(id, word string) Measured { return Measured{ID: id, Result: Failed, Error: word} }

func thresholds() Thresholds { return Thresholds(configs.DefaultThresholds()) }

// field reads a text out of an answer.
func field(t *testing.T, body []byte, path ...string) string {
	t.Helper()
	var v any
	must(t, json.Unmarshal(body, &v))
	for _, name := range path {
		object, _ := v.(map[string]any)
		v = object[name]
	}
	text, _ := v.(string)
	return text
}

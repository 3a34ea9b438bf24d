package precall

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newRun asks for a plan, and gives the name of the run.
func newRun(t *testing.T, srv *httptest.Server) string {
	t.Helper()
	_, body := ask(t, http.MethodGet, srv.URL+"/precall/plan", "", nil)
	return field(t, body, "run")
}

func TestArrivals(t *testing.T) {
	var a arrivals
	at := func(after time.Duration) time.Time { return time.Unix(1_800_000_000, 0).Add(after) }
	if a.sum() != 0 || len(a.rates()) != 0 {
		t.Error("something has arrived before anything came")
	}
	for _, came := range []struct {
		after time.Duration
		bytes int
	}{{0, 1000}, {249 * time.Millisecond, 1000}, {250 * time.Millisecond, 500}, {900 * time.Millisecond, 250}, {-time.Second, 9}, {time.Hour, 9}} {
		a.add(came.bytes, at(came.after))
	}
	if want := []float64{64, 16, 0, 8}; !slices.Equal(a.rates(), want) {
		t.Errorf("rates %v, want %v", a.rates(), want)
	}
	if a.sum() != 2750 || a.last.Sub(a.first) != 900*time.Millisecond {
		t.Errorf("%d bytes in %v", a.sum(), a.last.Sub(a.first))
	}
}

// TestUploadIsCounted: what came is told; the next upload of the run is counted anew.
func TestUploadIsCounted(t *testing.T) {
	var now atomic.Int64
	_, srv := serve(t, Options{Now: func() time.Time { return time.Unix(1_800_000_000, now.Add(int64(time.Millisecond))) }})
	run := newRun(t, srv)
	for _, size := range []int{300_000, 4_000} {
		resp, body := ask(t, http.MethodPost, srv.URL+"/precall/load?run="+run, "", make([]byte, size))
		if resp.StatusCode != http.StatusNoContent {
			t.Fatalf("%s %s", resp.Status, body)
		}
		_, body = ask(t, http.MethodGet, srv.URL+"/precall/load/arrived?run="+run, "", nil)
		var got arrivedAnswer
		must(t, json.Unmarshal(body, &got))
		if got.Bytes != int64(size) || got.Every != window.Seconds() || got.MS <= 0 {
			t.Errorf("%d bytes: %s", size, body)
		}
	}
}

// TestDownloadIsPaced: never more than a wide line's worth, and only for as long as was asked.
func TestDownloadIsPaced(t *testing.T) {
	_, srv := serve(t, Options{})
	resp, body := ask(t, http.MethodGet, srv.URL+"/precall/load?s=1&run="+newRun(t, srv), "", nil)
	if most := maxLoadRate / 8 * 11 / 10; resp.StatusCode != http.StatusOK || len(body) == 0 || len(body) > most {
		t.Errorf("%s, %d bytes, at most %d", resp.Status, len(body), most)
	}
}

// TestRunsCarryNoMore: a run that has used up what it may carry gets nothing any more, and what it sends is not read on.
func TestRunsCarryNoMore(t *testing.T) {
	s, srv := serve(t, Options{})
	run := newRun(t, srv)
	for _, r := range s.runs.all {
		r.down, r.up = maxRunBytes, maxRunBytes
	}
	if _, body := ask(t, http.MethodGet, srv.URL+"/precall/load?s=10&run="+run, "", nil); len(body) != 0 {
		t.Errorf("%d bytes more", len(body))
	}
	// It is not read to its end: the connection breaks, or an answer comes early.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, srv.URL+"/precall/load?run="+run, endless{})
	must(t, err)
	if resp, err := http.DefaultClient.Do(req); err == nil {
		_ = resp.Body.Close()
	}
	if got := s.runs.all[run].up; got > maxRunBytes+64<<10 {
		t.Errorf("%d bytes were read", got-maxRunBytes)
	}
}

// endless is a body without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// TestAbuse_LoadsThatAreNone: without a run, of another's, with nonsense in it, or too many at once.
func TestAbuse_LoadsThatAreNone(t *testing.T) {
	s, srv := serve(t, Options{})
	run := newRun(t, srv)
	for path, want := range map[string]int{
		"/precall/load?s=1": 404, "/precall/load?s=1&run=none": 404, "/precall/load?s=0&run=" + run: 400, "/precall/load?s=11&run=" + run: 400,
		"/precall/load?s=x&run=" + run: 400, "/precall/load?run=" + run: 400, "/precall/load?s=-1&run=" + run: 400,
		"/precall/load/arrived": 404, "/precall/load/arrived?run=none": 404, "/precall/load/arrived?run=" + run: 200,
		"/precall/load?s=1&run=" + strings.Repeat("x", 4000): 404,
	} {
		if resp, body := ask(t, http.MethodGet, srv.URL+path, "", nil); resp.StatusCode != want {
			t.Errorf("%.60s: %s %s", path, resp.Status, body)
		}
	}
	if resp, _ := ask(t, http.MethodPost, srv.URL+"/precall/load?run=none", "", []byte("x")); resp.StatusCode != 404 {
		t.Errorf("an upload without a run: %s", resp.Status)
	}
	s.loads = newGauge(1, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	slow, err := http.NewRequestWithContext(ctx, http.MethodPost, srv.URL+"/precall/load?run="+run, io.MultiReader(bytes.NewReader([]byte("x")), waiting{ctx}))
	must(t, err)
	slowDone := make(chan struct{})
	go func() {
		defer close(slowDone)
		if resp, err := http.DefaultClient.Do(slow); err == nil {
			_ = resp.Body.Close()
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, body := ask(t, http.MethodGet, srv.URL+"/precall/load/arrived?run="+run, "", nil); strings.Contains(string(body), `"bytes":1,`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the upload never began")
		}
	}
	if resp, _ := ask(t, http.MethodGet, fmt.Sprintf("%s/precall/load?s=1&run=%s", srv.URL, run), "", nil); resp.StatusCode != http.StatusTooManyRequests {
		t.Errorf("a second load at once: %s", resp.Status)
	}
	cancel()
	<-slowDone
	http.DefaultClient.CloseIdleConnections()
}

// waiting is a body that says nothing until its context ends.
type waiting struct{ ctx context.Context }

func (w waiting) Read([]byte) (int, error) {
	<-w.ctx.Done()
	return 0, w.ctx.Err()
}

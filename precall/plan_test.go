package precall

import (
	"context"
	"encoding/json"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
	"time"
)

var somebody = netip.MustParseAddr("192.0.2.7")

// TestPlanIsBounded: a service with many hosts makes no page that never ends, and lists are lists even where they are empty.
func TestPlanIsBounded(t *testing.T) {
	var many Plan
	for i := range 40 {
		many.CallServers = append(many.CallServers, Asked{Host: "h" + strconv.Itoa(i) + ".example"})
		many.Relays = append(many.Relays, WayURL{URL: "turn:r" + strconv.Itoa(i) + ".example"})
	}
	for name, test := range map[string]struct {
		plan           Plan
		servers, relay int
	}{"many": {many, maxAsked, maxWays}, "none": {Plan{}, 0, 0}} {
		t.Run(name, func(t *testing.T) {
			_, srv := serve(t, Options{Name: "gw.example", Plan: func(context.Context, netip.Addr) Plan { return test.plan }})
			resp, body := ask(t, http.MethodGet, srv.URL+"/precall/plan", "", nil)
			var got Plan
			must(t, json.Unmarshal(body, &got))
			if resp.StatusCode != http.StatusOK || got.CallServers == nil || len(got.CallServers) != test.servers || got.Relays == nil || len(got.Relays) != test.relay {
				t.Errorf("%s %s", resp.Status, body)
			}
			if got.Run == "" || got.Gateway != "gw.example" || got.Cloud != nil {
				t.Errorf("run %q, gateway %q, cloud %v", got.Run, got.Gateway, got.Cloud)
			}
		})
	}
}

// TestPlansAreLimited: who asks for ever is told to wait.
func TestPlansAreLimited(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	_, srv := serve(t, Options{Now: func() time.Time { return now }})
	for i := range 61 {
		want := http.StatusOK
		if i == 60 {
			want = http.StatusTooManyRequests
		}
		if resp, _ := ask(t, http.MethodGet, srv.URL+"/precall/plan", "", nil); resp.StatusCode != want {
			t.Fatalf("plan %d: %s", i, resp.Status)
		}
	}
}

// TestRunsAreForgotten: after their time, and the eldest first when there are too many.
func TestRunsAreForgotten(t *testing.T) {
	r, now := newRuns(), time.Unix(1_800_000_000, 0)
	known := func(id string) bool { return r.change(id, somebody, func(*pageRun) {}) }
	old := r.begin(somebody, now)
	if !known(old) || known("") || known("elsewhere") {
		t.Fatal("a run is not found by its name, or another is")
	}
	if r.change(old, netip.MustParseAddr("192.0.2.8"), func(*pageRun) {}) {
		t.Error("another client uses the run")
	}
	if !known(r.begin(somebody, now.Add(runLife))) || !known(old) {
		t.Error("forgotten at the end of its life, not after it")
	}
	r.begin(somebody, now.Add(runLife+time.Second))
	if known(old) {
		t.Error("not forgotten after its life")
	}
	r, now = newRuns(), now.Add(time.Hour)
	eldest := r.begin(somebody, now)
	for range maxRuns {
		now = now.Add(time.Millisecond)
		r.begin(somebody, now)
	}
	if len(r.all) != maxRuns || known(eldest) {
		t.Errorf("%d runs, the eldest known: %v", len(r.all), known(eldest))
	}
}

// TestRunsOfOneHouse: an IPv6 client may come by another address of its network each time.
func TestRunsOfOneHouse(t *testing.T) {
	r := newRuns()
	id := r.begin(netip.MustParseAddr("2001:db8::1"), time.Unix(1_800_000_000, 0))
	for addr, want := range map[string]bool{"2001:db8::2": true, "2001:db8:0:1::1": false, "192.0.2.7": false} {
		if got := r.change(id, netip.MustParseAddr(addr), func(*pageRun) {}); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
}

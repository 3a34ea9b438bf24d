package status

import (
	"os"
	"strings"
	"testing"
	"time"
)

func TestJudge(t *testing.T) {
	now := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	good := Certificate{Names: []string{"gw.example"}, Expires: now.AddDate(0, 2, 0), Trusted: true}
	up, down := Region{Name: "fra", Up: true, Use: true}, Region{Name: "lon", Use: true, Rungs: []Rung{{Name: "udp", State: "down", Why: "no answer"}}}
	calls := func(r ...Region) []Service { return []Service{{Name: "calls", Chosen: "fra", Regions: r}} }
	for name, tc := range map[string]struct {
		s                         Snapshot
		verdict, sentence, advice string
	}{
		"all well":          {Snapshot{Services: calls(up), Certificates: []Certificate{good}}, "ok", "All ways are open", ""},
		"one region down":   {Snapshot{Services: calls(up, down)}, "degraded", "lon of calls can't be reached; calls go through fra", "no answer"},
		"no region":         {Snapshot{Services: calls(down)}, "down", "No relay of calls", "udp: no answer"},
		"certificate ended": {Snapshot{Services: calls(up), Certificates: []Certificate{{Names: []string{"gw.example"}, Expires: now.Add(-time.Hour), Problem: "renewal failed"}}}, "down", "no valid certificate for gw.example", "renewal failed"},
		"certificate ends":  {Snapshot{Services: calls(up), Certificates: []Certificate{{Names: []string{"gw.example"}, Expires: now.Add(50 * time.Hour), Trusted: true}}}, "degraded", "ends in 2 days", "Renew"},
		"draining":          {Snapshot{Draining: true, Services: calls(up)}, "degraded", "draining", ""},
		"call server down":  {Snapshot{Services: calls(up), CallServers: []CallServer{{Host: "call.example", Probe: "WebSocket", State: "down", Why: "No answer."}}}, "down", "does not get through to call.example (WebSocket)", "TCP 443"},
		"self-signed":       {Snapshot{Services: calls(up), Certificates: []Certificate{{Names: []string{"gw.example"}, Expires: good.Expires}}}, "degraded", "root is installed", "hafen ca"},
	} {
		t.Run(name, func(t *testing.T) {
			tc.s.Time = now
			tc.s.Judge()
			if tc.s.Verdict != tc.verdict || !strings.Contains(tc.s.Sentence, tc.sentence) || !strings.Contains(tc.s.Advice, tc.advice) {
				t.Errorf("%s: %q, %q", tc.s.Verdict, tc.s.Sentence, tc.s.Advice)
			}
		})
	}
}

// TestManualHasEachFault: an alert that leads to a page that is not there helps nobody at three in the morning.
func TestManualHasEachFault(t *testing.T) {
	manual, err := os.ReadFile("../../packaging/doc/alerts.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{
		"no-region", "region-down", "call-server-down", "call-server-check", "certificate-ended", "certificate-ends", "certificate-not-taken", "limit-reached", "limit-near",
		"disk", "precall-store", "company-proxy", "dns", "pac-parent", "audit-log", "event-delivery", "draining", "untrusted", "drill",
	} {
		if !strings.Contains(string(manual), "\n## "+kind+"\n") {
			t.Errorf("alerts.md has no section %s", kind)
		}
	}
}

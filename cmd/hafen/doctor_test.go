package main

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

	"hafen/configs"
	"hafen/gateway"
)

// TestDoctorNamesProblemsOfTheConfiguration: what `hafen check` says is a finding each, and the rest is not guessed at.
func TestDoctorNamesProblemsOfTheConfiguration(t *testing.T) {
	code, stdout, stderr := hafen(t, "name: gw.hospital.example\nlistn: {https: [':443']}\n", "doctor", "--config", "-", "--json")
	var r doctorReport
	if err := json.Unmarshal([]byte(stdout), &r); err != nil {
		t.Fatalf("%v: %s %s", err, stdout, stderr)
	}
	if code != exitFailed || r.Verdict != gateway.Fail || len(r.Checks) < 3 {
		t.Errorf("exit %d, %+v", code, r)
	}
	if first := r.Checks[0]; first.Area != "configuration" || first.Todo == "" {
		t.Errorf("%+v", first)
	}
}

const doctorFile = `name: gw.hospital.example
listen: {https: ["ADDR"], metrics: ""}
data_dir: DIR/data
run_dir: DIR/run
services:
  - name: calls
    hosts: ["*.hospital.test"]
    private_networks: [127.0.0.0/8]
    regions: [{name: fra, urls: ["turn:127.0.0.1:9?transport=udp"]}]
`

// TestDoctorSaysTheWorstFirst: verdict, then what failed with what to do, then the rest; exit code 1.
func TestDoctorSaysTheWorstFirst(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0") // a port that is free, as soon as it is closed
	if err != nil {
		t.Fatal(err)
	}
	_ = ln.Close()
	file := strings.NewReplacer("DIR", t.TempDir(), "ADDR", ln.Addr().String()).Replace(doctorFile)
	code, stdout, stderr := hafen(t, file, "doctor", "--config", "-", "--patience", "10s")
	lines := strings.Split(stdout, "\n")
	if code != exitFailed || len(lines) < 8 || !strings.HasPrefix(lines[0], "✕ ") || !strings.HasPrefix(lines[2], "FAIL") {
		t.Fatalf("exit %d\n%s%s", code, stdout, stderr)
	}
	if !strings.Contains(stdout, "calls/fra") || !strings.Contains(stdout, "→ open UDP 9 from this machine to 127.0.0.1") {
		t.Errorf("the dead region is not named with its rule:\n%s", stdout)
	}
	if strings.Index(stdout, "SKIP") < strings.Index(stdout, "PASS") {
		t.Errorf("what was not asked comes last:\n%s", stdout)
	}
}

// TestDoctorMarksTheSheet: the lines of the firewall sheet say which of them were tried, and how that went.
func TestDoctorMarksTheSheet(t *testing.T) {
	sheet := newSheet(fwConfig(func(c *configs.Config) {
		c.Admin.Listen, c.Events.Webhook = ":8443", "https://chat.hospital.example/hooks/secret"
	}), fakeLookup{}, sheetTime)
	rules := triedRules(sheet, []gateway.Finding{
		{Verdict: gateway.Fail, Target: "TCP call.example.net:443"},
		{Verdict: gateway.Pass, Target: "TCP call.example.net:443"},
		{Verdict: gateway.Warn, Target: "UDP fra.example.net:3478"},
		{Verdict: gateway.Pass, Target: "TCP chat.hospital.example:443"},
		{Verdict: gateway.Pass},
	})
	want := map[string]gateway.Verdict{"to call.example.net": gateway.Pass, "UDP 3478": gateway.Warn, "to chat.hospital.example": gateway.Pass, "UDP 123": gateway.Skip, "TCP 8443": gateway.Skip}
	for _, r := range rules {
		for words, verdict := range want {
			if strings.Contains(r.Rule, words) {
				delete(want, words)
				if r.Verdict != verdict {
					t.Errorf("%s: %s, want %s", r.Rule, r.Verdict, verdict)
				}
			}
		}
		if strings.Contains(r.Rule, "secret") {
			t.Error(r.Rule)
		}
	}
	if len(rules) != len(sheet.Rules) || len(want) > 0 {
		t.Errorf("%d rules of %d, not found: %v", len(rules), len(sheet.Rules), want)
	}
	var out strings.Builder
	(&doctorReport{Rules: rules}).writeRules(&out)
	if !strings.Contains(out.String(), "tried, open    TCP 443") || !strings.Contains(out.String(), "tried, closed  UDP 3478") || !strings.Contains(out.String(), "not tried") {
		t.Error(out.String())
	}
}

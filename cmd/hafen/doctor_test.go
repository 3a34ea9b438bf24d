package main

import (
	"encoding/json"
	"net"
	"strings"
	"testing"

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

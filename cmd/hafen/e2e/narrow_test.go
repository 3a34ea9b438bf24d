package e2e

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A call over a path that carries a third of it stays audible. This is the small form of what the program cmd/internal/bench/relay prints
// with "-part narrow"; its bounds are loose, since the machine may be busy. Without the queue audio is seconds late and a fifth of it lost.
func TestCallOnANarrowPath(t *testing.T) {
	onlyWithCalls(t)
	system, err := os.ReadFile("/proc/sys/net/ipv4/tcp_congestion_control")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	program, result := filepath.Join(dir, "bench"), filepath.Join(dir, "result.json")
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	if out, err := exec.CommandContext(ctx, "go", "build", "-o", program, "hafen/cmd/internal/bench/relay").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	congestion := strings.TrimSpace(string(system))
	out, err := exec.CommandContext(ctx, program, "-hafen", hafenBinary, "-part", "narrow", "-servers", "hafen", "-rounds", "1", "-seconds", "6",
		"-loads", "shaped 600 "+congestion+",policed 600 "+congestion, "-json", result).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	text, err := os.ReadFile(result)
	if err != nil {
		t.Fatal(err)
	}
	var runs []struct {
		What string
		Call struct {
			P50      float64 `json:"audio_ms_p50"`
			P95      float64 `json:"audio_ms_p95"`
			Lost     float64 `json:"audio_lost_percent"`
			Complete float64 `json:"video_complete_percent"`
			Used     float64 `json:"path_used_percent"`
		}
	}
	if err := json.Unmarshal(text, &runs); err != nil {
		t.Fatal(err)
	}
	if len(runs) != 2 {
		t.Fatalf("%d runs of 2:\n%s", len(runs), out)
	}
	for _, r := range runs {
		t.Logf("%s: %+v", r.What, r.Call)
		if r.Call.P50 > 400 || r.Call.P95 > 700 || r.Call.Lost > 10 || r.Call.Complete < 99 || r.Call.Used < 40 {
			t.Errorf("%s: %+v", r.What, r.Call)
		}
	}
}

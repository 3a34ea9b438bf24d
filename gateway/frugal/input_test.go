package frugal

import (
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestInput: one that spins fails its test, one that waits does not.
func TestInput(t *testing.T) {
	if os.Getenv("FRUGAL_SPINS") != "" {
		defer Input(t)()
		for began := processor(t); processor(t)-began < mostTime+100*time.Millisecond; {
		}
		return
	}
	func() {
		defer Input(t)()
		time.Sleep(mostTime + 100*time.Millisecond)
	}()
	cmd := exec.Command(os.Args[0], "-test.run=^TestInput$")
	cmd.Env = append(os.Environ(), "FRUGAL_SPINS=1")
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "of processor time") {
		t.Errorf("an input that spins passed: %v\n%s", err, out)
	}
}

package e2e

import (
	"bytes"
	"flag"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"hafen/cmd/internal/canary"
)

// longScenario is a scenario that runs with -long only.
func longScenario(t *testing.T, run func(t *testing.T)) {
	t.Helper()
	if !*long && os.Getenv(scenarioChild) == "" {
		t.Skip("takes long: run with -long, or make long")
	}
	scenario(t, run)
}

var calls = flag.Bool("calls", false, "the calls that make test leaves to make calls")

// callScenario is a scenario that runs with -calls only: one more way of making a call, for which make test has no time.
func callScenario(t *testing.T, run func(t *testing.T)) {
	t.Helper()
	onlyWithCalls(t)
	scenario(t, run)
}

func onlyWithCalls(t *testing.T) {
	t.Helper()
	if !*calls && os.Getenv(scenarioChild) == "" {
		t.Skip("a further way of making a call: run with -calls, or make calls")
	}
}

// scenarioChild is set in the process that runs a scenario for scenario's parent.
const scenarioChild = "HAFEN_E2E_SCENARIO"

// scenario runs a test that drives browsers, and once more when it failed, saying so: browsers on a busy machine wobble.
// Each try is a process of its own, so that nothing of the first one is left for the second, and scenarios run beside each other:
// they mostly wait.
func scenario(t *testing.T, run func(t *testing.T)) {
	t.Helper()
	tries(t, 2, browsers, run)
}

// scenarioWithout is scenario without browsers: it waits for none.
func scenarioWithout(t *testing.T, run func(t *testing.T)) {
	t.Helper()
	tries(t, 2, nil, run)
}

// tries runs a test in a process of its own, so often until it passes. The flags of this package go along. It waits for its turn in a queue,
// if there is one.
func tries(t *testing.T, most int, turn chan struct{}, run func(t *testing.T)) {
	t.Helper()
	if os.Getenv(scenarioChild) == t.Name() {
		run(t)
		return
	}
	if !matrixOnly() { // its groups have two browsers each already, and four are more than this machine can carry without lying about the line
		t.Parallel()
	}
	if turn != nil {
		turn <- struct{}{}
		defer func() { <-turn }()
	}
	for try := 1; ; try++ {
		args := []string{"-test.run=^" + t.Name() + "$", "-test.v", "-test.timeout=" + scenarioTimeout().String(), "-test.parallel=2"}
		flag.Visit(func(f *flag.Flag) {
			if !strings.HasPrefix(f.Name, "test.") {
				args = append(args, "-"+f.Name+"="+f.Value.String())
			}
		})
		cmd := exec.Command(os.Args[0], args...)
		cmd.Env = append(os.Environ(), scenarioChild+"="+t.Name(), binaryVariable+"="+hafenBinary)
		out, err := cmd.CombinedOutput()
		secrets.Join(out)
		switch {
		case err == nil:
			t.Logf("%s", lastLines(string(out), 2000))
			return
		case try >= most || canary.Leaked(out): // a secret that comes out now and then has come out
			t.Fatalf("failed: %v\n%s\n%s", err, complaints(out), lastLines(string(out), 20000))
		}
		t.Logf("RETRIED, the first try failed: %v\n%s\n%s", err, complaints(out), lastLines(string(out), 6000))
	}
}

// matrixOnly: somebody asked for the fault matrix, or for rows of it.
func matrixOnly() bool { return *matrixAll || *matrixRow != "" }

// scenarioTimeout: the whole matrix takes longer than any scenario.
func scenarioTimeout() time.Duration {
	if matrixOnly() {
		return time.Hour
	}
	return 5 * time.Minute
}

var complaint = regexp.MustCompile(`(?m)^\s+[a-z_]+_test\.go:\d+: .*$`)

// complaints are what the test itself said: programs' outputs behind it may be long.
func complaints(out []byte) string {
	return string(bytes.Join(complaint.FindAll(out, 20), []byte("\n")))
}

// browsers bounds how many scenarios run at once: each has two Chromiums, and the machine two cores.
var browsers = make(chan struct{}, 2)

// lastLines is the end of a text.
func lastLines(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

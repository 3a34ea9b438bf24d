package main

import (
	"strings"
	"testing"

	"hafen/configs"
	"hafen/gateway"
)

// running starts a gateway whose call service can't be reached, and returns its configuration.
func runningGateway(t *testing.T, change func(*configs.Config)) *configs.Config {
	t.Helper()
	file := strings.NewReplacer("DIR", t.TempDir(), `"ADDR"`, `"127.0.0.1:1"`).Replace(doctorFile)
	cfg, err := configs.Load("-", strings.NewReader(file), nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg.Listen = configs.Listen{HTTPS: []string{"127.0.0.1:0"}, Metrics: "127.0.0.1:0"}
	if change != nil {
		change(cfg)
	}
	g, err := gateway.New(gateway.Options{Config: cfg, Version: version})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = g.Stop(t.Context()) })
	for _, a := range g.Addrs()[1:] {
		cfg.Listen.Metrics = a.String() // the only other TCP port
		break
	}
	return cfg
}

// TestNagios asks a gateway that runs, and one that does not.
func TestNagios(t *testing.T) {
	cfg := runningGateway(t, nil)
	code, stdout, stderr := hafen(t, "", "status", "--nagios", "--run-dir", cfg.RunDir)
	if code < 1 || code > 2 || !strings.HasPrefix(stdout, "HAFEN ") || !strings.Contains(stdout, "| allocations=0;3200;3800;0;4000") || strings.Count(stdout, "\n") != 1 {
		t.Errorf("exit %d, %q, %q", code, stdout, stderr)
	}
	code, stdout, _ = hafen(t, "", "status", "--nagios", "--run-dir", t.TempDir())
	if code != 2 || !strings.HasPrefix(stdout, "HAFEN CRITICAL: no running gateway answers") {
		t.Errorf("exit %d, %q", code, stdout)
	}
}

func TestNagiosLine(t *testing.T) {
	for verdict, want := range map[string]struct {
		word string
		code exitCode
	}{"ok": {"OK", 0}, "degraded": {"WARNING", 1}, "down": {"CRITICAL", 2}, "": {"UNKNOWN", 3}} {
		line, code := nagiosStatus{Verdict: verdict, Sentence: "a | b\nc"}.line()
		if code != want.code || !strings.HasPrefix(line, "HAFEN "+want.word+": a / b c | ") {
			t.Errorf("%q: %q, %d", verdict, line, code)
		}
	}
}

package main

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var metricName = regexp.MustCompile(`\bhafen_(?:mux|tls|relay|signaling|forward|precall|config|build)_[a-z_]+`)

// metricsInSource are the names that the program registers, by what the sources say: a counter with labels shows up in /metrics
// only with its first event.
func metricsInSource(t *testing.T) map[string]bool {
	t.Helper()
	names := make(map[string]bool)
	quoted := regexp.MustCompile(`"(` + metricName.String() + `)"`)
	for _, room := range []string{"gateway", "relay", "signaling", "precall"} {
		err := filepath.WalkDir("../../"+room, func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			for _, m := range quoted.FindAllStringSubmatch(string(text), -1) {
				names[m[1]] = true
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(names) < 30 {
		t.Fatalf("only %d metrics found in the sources: %v", len(names), names)
	}
	return names
}

// TestMetricsOfManual: the manual, the alerts and the board name metrics that exist, and the manual names all of them.
func TestMetricsOfManual(t *testing.T) {
	exist := metricsInSource(t)
	for _, file := range []string{"doc/status.md", "doc/troubleshooting.md", "doc/certificates.md", "doc/pac.md", "doc/modes.md", "prometheus/alerts.yml", "grafana/board.json"} {
		text, err := os.ReadFile("../../packaging/" + file)
		if err != nil {
			t.Fatal(err)
		}
		named := make(map[string]bool)
		for _, name := range metricName.FindAllString(string(text), -1) {
			for _, suffix := range []string{"_bucket", "_sum", "_count"} { // of a histogram
				if base := strings.TrimSuffix(name, suffix); exist[base] {
					name = base
				}
			}
			named[name] = true
			if !exist[name] {
				t.Errorf("packaging/%s names %s, which the program does not have", file, name)
			}
		}
		if file != "doc/status.md" {
			continue
		}
		for name := range exist {
			if !named[name] {
				t.Errorf("packaging/doc/status.md lacks %s: write a row for it", name)
			}
		}
	}
}

// TestAlertRules has Prometheus itself read the rules, and run their own tests.
func TestAlertRules(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		const missing = "promtool is not here (Debian package prometheus)"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip(missing)
	}
	for _, args := range [][]string{{"check", "rules", "alerts.yml"}, {"test", "rules", "alerts_test.yml"}} {
		cmd := exec.CommandContext(t.Context(), promtool, args...)
		cmd.Dir = "../../packaging/prometheus"
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
}

// TestAlertsLinkTheManual: every alert leads to a section that exists, and is shown to fire by a test of its own.
func TestAlertsLinkTheManual(t *testing.T) {
	read := func(file string) string {
		text, err := os.ReadFile("../../packaging/" + file)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	rules, tests, manual := read("prometheus/alerts.yml"), read("prometheus/alerts_test.yml"), read("doc/alerts.md")
	links := regexp.MustCompile(`runbook: "?/usr/share/doc/hafen/alerts\.md#([a-z-]+|\{\{ \$labels\.kind \}\})"?\n`).FindAllStringSubmatch(rules, -1)
	alerts := regexp.MustCompile(`- alert: (\w+)`).FindAllStringSubmatch(rules, -1)
	if len(alerts) == 0 || len(alerts) != len(links) {
		t.Fatalf("%d alerts, %d links to the manual", len(alerts), len(links))
	}
	for i, l := range links {
		if alert := alerts[i][1]; !regexp.MustCompile(`alertname: ` + alert + `\n +exp_alerts:`).MatchString(tests) {
			t.Errorf("no test shows that %s fires", alert)
		} else if !strings.Contains(manual, "`"+alert+"`") {
			t.Errorf("alerts.md does not name %s", alert)
		}
		if !strings.HasPrefix(l[1], "{") && !strings.Contains(manual, "\n## "+l[1]+"\n") {
			t.Errorf("alerts.md has no section %s", l[1])
		}
	}
}

// TestManualLinks: pages and pictures that the manual points to exist.
func TestManualLinks(t *testing.T) {
	pages, err := filepath.Glob("../../packaging/doc/*.md")
	if err != nil || len(pages) < 12 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	link := regexp.MustCompile(`\]\(([a-z./]+)\)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s points to %s: %v", filepath.Base(page), m[1], err)
			}
		}
	}
}

// TestManualCommands: every command and flag that the manual tells people to type exists.
func TestManualCommands(t *testing.T) {
	pages, err := filepath.Glob("../../packaging/doc/*.md")
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile("(?m)(?:^ {4}|`)hafen ([a-z-]+)([^`\n#|>]*)")
	flagName := regexp.MustCompile(`--([a-z-]+)`)
	typed := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range line.FindAllStringSubmatch(string(text), -1) {
			typed++
			if !strings.Contains(usage, "\n  hafen "+m[1]+" ") && m[1] != "version" {
				t.Errorf("%s: there is no hafen %s", filepath.Base(page), m[1])
				continue
			}
			_, help, _ := hafen(t, "", m[1], "-h")
			for _, f := range flagName.FindAllStringSubmatch(m[2], -1) {
				if !strings.Contains(help, "-"+f[1]) {
					t.Errorf("%s: hafen %s has no --%s:\n%s", filepath.Base(page), m[1], f[1], help)
				}
			}
		}
	}
	if typed < 40 {
		t.Errorf("only %d commands found in the manual", typed)
	}
}

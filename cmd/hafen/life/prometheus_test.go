package life

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// prometheus is Debian's, with our rules, scraping the running gateway.
type prometheus struct {
	t    *testing.T
	addr string
	log  *output
}

func newPrometheus(t *testing.T, target string) *prometheus {
	t.Helper()
	path, err := exec.LookPath("prometheus")
	if err != nil {
		const missing = "no prometheus on this machine (Debian package prometheus)"
		if os.Getenv("CI") == "true" {
			t.Fatal(missing)
		}
		t.Skip("skipped: " + missing)
	}
	rules, err := filepath.Abs("../../../packaging/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	config := fmt.Sprintf("global: {scrape_interval: 1s, evaluation_interval: 1s}\nrule_files: [%q]\nscrape_configs: [{job_name: hafen, static_configs: [{targets: [%q]}]}]\n", rules, target)
	if err := os.WriteFile(filepath.Join(dir, "prometheus.yml"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	p := &prometheus{t: t, addr: freeAddr(t), log: &output{}}
	cmd := exec.Command(path, "--config.file="+filepath.Join(dir, "prometheus.yml"), "--storage.tsdb.path="+filepath.Join(dir, "data"), "--web.listen-address="+p.addr)
	cmd.Stdout, cmd.Stderr = p.log, p.log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return p
}

// ask reads what its API answers into answer; false while it does not.
func (p *prometheus) ask(path string, answer any) bool {
	client := http.Client{Timeout: 5 * time.Second}
	resp, err := client.Get("http://" + p.addr + "/api/v1/" + path)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	return err == nil && resp.StatusCode == http.StatusOK && json.Unmarshal(body, answer) == nil
}

// has reports whether an expression has a result.
func (p *prometheus) has(expr string) bool {
	var answer struct{ Data struct{ Result []any } }
	return p.ask("query?query="+url.QueryEscape(expr), &answer) && len(answer.Data.Result) > 0
}

// answers reports whether an expression can be evaluated: what has not happened yet has no series, which is no error.
func (p *prometheus) answers(expr string) bool {
	var answer struct{ Status string }
	return p.ask("query?query="+url.QueryEscape(expr), &answer) && answer.Status == "success"
}

// boardQueries are those of the Grafana board, as Grafana asks them: its variables filled in.
func boardQueries(t *testing.T) (all []string) {
	t.Helper()
	data, err := os.ReadFile("../../../packaging/grafana/board.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	for _, panel := range board.Panels {
		for _, target := range panel.Targets {
			all = append(all, strings.NewReplacer("$instance", ".*", "$__rate_interval", "1m").Replace(target.Expr))
		}
	}
	if len(all) < 20 {
		t.Fatalf("%d queries", len(all))
	}
	return all
}

// alerts reports whether an alert of that name is on its way or fires.
func (p *prometheus) alerts(name string) bool {
	var answer struct {
		Data struct {
			Alerts []struct{ Labels map[string]string }
		}
	}
	if !p.ask("alerts", &answer) {
		return false
	}
	for _, a := range answer.Data.Alerts {
		if a.Labels["alertname"] == name {
			return true
		}
	}
	return false
}

// TestPrometheus: a real one scrapes the running gateway with our rules in place; a region dies, and the alert is there.
func TestPrometheus(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	p := newPrometheus(t, w.admin)
	w.until("a scrape", time.Minute, func() bool { return p.has(`up{job="hafen"} == 1`) && p.has("hafen_build_info") })
	w.until("the region's metric", time.Minute, func() bool { return p.has("hafen_relay_region_up == 1") })
	if conn, err := w.dial(ownName); err != nil {
		t.Fatal(err)
	} else {
		_ = conn.Close() // now there has been a connection
	}
	for _, metric := range []string{"hafen_mux_connections_total", "hafen_tls_certificate_expiry_seconds", "hafen_relay_region_rtt_seconds", "hafen_build_faults", "process_open_fds"} {
		w.until(metric, time.Minute, func() bool { return p.has(metric) })
	}
	for _, expr := range boardQueries(t) {
		shows := p.has
		if strings.Contains(expr, "hafen_mux_refused_total") {
			shows = p.answers // nobody was refused
		}
		w.until("the board's "+expr, time.Minute, func() bool { return shows(expr) })
	}
	if p.alerts("HafenNoRegion") || p.alerts("HafenDown") {
		t.Error("an alert for nothing")
	}
	w.cloud.Region("near").SetDown(true)
	began := time.Now()
	w.until("the alert", time.Minute, func() bool { return p.alerts("HafenNoRegion") })
	t.Logf("HafenNoRegion is pending %s after the region died", time.Since(began).Round(time.Millisecond))
}

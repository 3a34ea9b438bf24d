package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"flag"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// external is make external: tools that other people wrote to find fault with servers, each held against the running program.
var external = flag.String("external", "", "run the external tools; the value is the folder with h2spec in it")

// TestExternal: testssl.sh, h2spec, slowhttptest, nmap and coturn's own test client with its negative options, in the laboratory.
func TestExternal(t *testing.T) {
	if *external == "" {
		t.Skip("only with -external: make external installs the tools and runs them")
	}
	for _, tool := range []string{"testssl", "slowhttptest", "nmap", "turnutils_uclient", filepath.Join(*external, "h2spec")} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v; make external installs it", err)
		}
	}
	a := newAbuse(t)
	a.inside.names(t, map[string]string{gatewayName: gatewayAddr, "good." + sigSuffix: gatewayAddr, callName: gatewayAddr})
	call := a.startCall(t)
	t.Run("nmap", a.nmap)
	t.Run("slowhttptest", a.slowHTTP)
	t.Run("h2spec", a.h2spec)
	t.Run("turnutils", a.turnutilsNegative)
	call.check(t)
	t.Run("testssl", a.testssl) // last: it asks for hours of handshakes in minutes, and a call beside it measures the machine
	a.alive(t)
	a.idle(t)
}

// tool runs a program of Debian's inside the office.
func (a *abuse) tool(t *testing.T, within time.Duration, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	out, err := a.inside.command(ctx, name, args...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%s did not end within %v:\n%s", name, within, lastLines(string(out), 3000))
	}
	if err != nil {
		t.Logf("%s: %v", name, err) // its findings are read, not its exit code
	}
	return string(out)
}

// nmap finds the documented ports open, and no other of the 65,535.
func (a *abuse) nmap(t *testing.T) {
	out := a.tool(t, 3*time.Minute, "nmap", "-sT", "-Pn", "-n", "-p-", "-T5", "--min-rate", "5000", gatewayAddr)
	var open []string
	for _, m := range regexp.MustCompile(`(?m)^(\d+/tcp)\s+open\s`).FindAllStringSubmatch(out, -1) {
		open = append(open, m[1])
	}
	if want := []string{"443/tcp", "3128/tcp"}; !slices.Equal(open, want) {
		t.Errorf("open: %v, want %v\n%s", open, want, lastLines(out, 2000))
	}
}

// slowHTTP holds heads, bodies, ranges and answers up, five hundred at a time; the page answers others meanwhile. Whether it answers the
// tool's own probe says nothing: that comes from the address that has more connections than one client may (limits.pending_per_client).
func (a *abuse) slowHTTP(t *testing.T) {
	for name, args := range map[string][]string{
		"heads":  {"-H", "-u", "https://" + gatewayName + "/"},
		"bodies": {"-B", "-u", "https://" + gatewayName + "/status/login"},
		"ranges": {"-R", "-u", "https://" + gatewayName + "/precall/"},
		"reads":  {"-X", "-k", "3", "-u", "https://" + gatewayName + "/precall/"},
	} {
		stop := a.bystander()
		out := a.tool(t, 2*time.Minute, "slowhttptest", append(args, "-c", "500", "-r", "200", "-i", "3", "-l", "20", "-p", "3")...)
		took, failed := stop()
		if plain := regexp.MustCompile(`\x1b\[[0-9;]*[A-Za-z]`).ReplaceAllString(out, ""); !strings.Contains(plain, "service available:") {
			t.Errorf("%s: the tool did not run:\n%s", name, lastLines(plain, 1500))
		}
		if failed > 0 || len(took) < 20 || percentile(took, 95) > time.Second {
			t.Errorf("%s: somebody else got %d answers, in %v at the 95th percentile, and %d times none", name, len(took), percentile(took, 95), failed)
		}
		t.Logf("%s: somebody else got %d answers, 95 of 100 within %v", name, len(took), percentile(took, 95))
		if _, status := get(a.inside, "https://"+gatewayAddr+"/livez", gatewayName); status != http.StatusOK {
			t.Errorf("%s: /livez answers %d afterwards", name, status)
		}
	}
}

// bystander asks for the precall page from an address of its own, ten times a second on a new connection, until stop, which tells how long
// each answer took and how often there was none.
func (a *abuse) bystander() (stop func() (took []time.Duration, failed int)) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true, ServerName: gatewayName},
		DialContext: func(ctx context.Context, network, addr string) (conn net.Conn, err error) {
			failed := a.inside.do(func() error {
				conn, err = (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 30, 0, 15)}}).DialContext(ctx, network, addr)
				return err
			})
			return conn, failed
		},
	}}
	ctx, cancel := context.WithCancel(context.Background())
	over := make(chan struct{})
	var list []time.Duration
	var none int
	go func() {
		defer close(over)
		for ; ctx.Err() == nil; time.Sleep(100 * time.Millisecond) {
			began := time.Now()
			res, err := client.Get("https://" + gatewayAddr + "/precall/")
			if err == nil {
				_, err = io.Copy(io.Discard, res.Body)
				_ = res.Body.Close()
			}
			if err != nil || res.StatusCode != http.StatusOK {
				none++
				continue
			}
			list = append(list, time.Since(began))
		}
	}()
	return func() ([]time.Duration, int) {
		cancel()
		<-over
		return list, none
	}
}

// h2spec holds HTTP/2 against its RFCs. What Go's own server does otherwise stands in a list, which must be exact: a case that
// passes has no place there any more.
func (a *abuse) h2spec(t *testing.T) {
	report := filepath.Join(t.TempDir(), "h2spec.xml")
	a.tool(t, 4*time.Minute, filepath.Join(*external, "h2spec"), "-h", "good."+sigSuffix, "-p", "443", "-t", "-k", "-o", "3", "-j", report)
	b, err := os.ReadFile(report)
	must(t, err)
	failed := failedCases(string(b))
	known := lines(t, "testdata/h2spec-known")
	for _, f := range failed {
		if !slices.Contains(known, f) {
			t.Errorf("fails, and is not known to: %s", f)
		}
	}
	for _, k := range known {
		if !slices.Contains(failed, k) {
			t.Errorf("known to fail, but passes: %s", k)
		}
	}
	t.Logf("%d cases, %d fail as Go's own server does", strings.Count(string(b), "<testcase "), len(failed))
}

var testcase = regexp.MustCompile(`(?s)<testcase package="([^"]*)" classname="([^"]*)"[^>]*?(?:/>|>(.*?)</testcase>)`)

// failedCases are the cases of a report in JUnit's form that did not pass.
func failedCases(report string) []string {
	var failed []string
	for _, m := range testcase.FindAllStringSubmatch(report, -1) {
		if strings.Contains(m[3], "<failure") || strings.Contains(m[3], "<error") {
			failed = append(failed, m[1]+": "+m[2])
		}
	}
	return failed
}

// lines are those of a file that are not empty and no comment.
func lines(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	must(t, err)
	defer func() { _ = f.Close() }()
	var all []string
	for s := bufio.NewScanner(f); s.Scan(); {
		if line := strings.TrimSpace(s.Text()); line != "" && !strings.HasPrefix(line, "#") {
			all = append(all, line)
		}
	}
	return all
}

// turnutilsNegative is coturn's test client with every option that makes it behave badly, over each transport. Whether it gets
// through is its own affair: the gateway must live and hold nothing afterwards; that it does not spin is seen when the call is over.
func (a *abuse) turnutilsNegative(t *testing.T) {
	base := a.load()
	for _, transport := range [][]string{{}, {"-t"}, {"-t", "-S"}} {
		for _, bad := range []string{"-N", "-R", "-O", "-I", "-G", "-B", "-M", "-D", "-g", "-Z", "-T", "-x"} {
			args := append([]string{"15", "turnutils_uclient", bad, "-u", "tester", "-W", relaySecret, "-n", "5", "-m", "3", "-c", "-y", "-p", "443"}, transport...)
			cmd := a.inside.command(t.Context(), "timeout", append(args, gatewayAddr)...)
			_ = cmd.Run()
			a.alive(t)
		}
	}
	a.backTo(t, base, time.Minute)
}

// finding is one line of testssl's report.
type finding struct{ ID, Severity, Finding string }

// testssl finds nothing of severity LOW or above, with a certificate of the company's authority.
func (a *abuse) testssl(t *testing.T) {
	report := filepath.Join(t.TempDir(), "testssl.json")
	out := a.tool(t, 14*time.Minute, "testssl", "--quiet", "--color", "0", "--warnings", "batch", "--nodns", "none", "--ip", gatewayAddr,
		"--add-ca", a.ca.file, "--jsonfile", report, gatewayName+":443")
	b, err := os.ReadFile(report)
	if err != nil {
		t.Fatalf("%v\n%s", err, lastLines(out, 3000))
	}
	var all []finding
	must(t, json.Unmarshal(b, &all))
	if len(all) < 50 {
		t.Fatalf("testssl came to %d findings only:\n%s", len(all), lastLines(out, 3000))
	}
	known := lines(t, "testdata/testssl-known")
	for _, f := range all {
		if slices.Contains([]string{"LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL"}, f.Severity) && !slices.Contains(known, f.ID) {
			t.Errorf("%s: %s: %s", f.Severity, f.ID, f.Finding)
		}
	}
	t.Logf("%d findings", len(all))
}

package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The certificate authority of the laboratory is pebble, in the cloud.
const (
	authorityName = "acme.authority.example" // the gateway's name servers alone know it
	authorityAddr = cloudAddr + ":14000"
	validity      = 30 * time.Second
)

// TestAbuse_D13: the gateway orders its certificate from an authority, which looks at port 443, and renews it in time while 500
// connections are open: none is dropped, every new handshake is good, and shows the new certificate soon after it has come. D-14: then the
// authority is gone. The old certificate goes on being shown, and the gateway asks for another one now and then, not all the time.
func TestAbuse_D13(t *testing.T) {
	if !*abuseAll {
		t.Skip("takes a minute and a half, with 500 connections: run with -abuse, or make abuse; gateway/certs tries the same with pebble and a few")
	}
	t.Parallel()
	a := layAbuse(t)
	pebble := a.startPebble(t)
	a.dns.set(authorityName, cloudAddr)
	cfg := a.config()
	files := "  source: files\n  files: [" + between(cfg, "  files: [", "]") + "]\n"
	a.run(strings.Replace(cfg, files, fmt.Sprintf("  source: acme\n  acme: {directory: \"https://%s:14000/dir\", ca_file: %s, email: it@hospital.example}\n", authorityName, a.ca.file), 1))
	roots := x509.NewCertPool()
	text, status := get(a.cloud, "https://127.0.0.1:15000/roots/0", "")
	if status != http.StatusOK || !roots.AppendCertsFromPEM([]byte(text)) {
		t.Fatalf("pebble's root: %d %s", status, text)
	}
	good := &tls.Config{ServerName: gatewayName, RootCAs: roots}
	// shown is the serial number that a new connection sees; an error, unless a browser would trust it.
	shown := func() (string, error) {
		conn, err := a.inside.dial(t.Context(), "tcp", gatewayAddr+":443")
		if err != nil {
			return "", err
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		c := tls.Client(conn, good)
		if err := c.Handshake(); err != nil {
			return "", err
		}
		return c.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
	}
	waitForOr(t, "the first certificate", 40*time.Second, func() bool { _, err := shown(); return err == nil }, func() string { return a.metricsGet("/api/v1/status") })

	visitors := a.visit(t, good, 500)
	var serials []string
	expiry := func() float64 { return a.metric("hafen_tls_certificate_expiry_seconds{name=\"" + gatewayName) }
	renewed := time.Time{} // when there was a new one that nobody had seen
	var slowest time.Duration
	last := expiry()
	for end := time.Now().Add(90 * time.Second); len(serials) < 3 && time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if now := expiry(); now > last+1 {
			renewed, last = time.Now(), now
		} else {
			last = now
		}
		serial, err := shown()
		if err != nil {
			t.Fatalf("a new connection while a certificate is renewed: %v", err)
		}
		if len(serials) == 0 || serials[len(serials)-1] != serial {
			serials = append(serials, serial)
			if len(serials) > 1 && !renewed.IsZero() {
				slowest = max(slowest, time.Since(renewed))
			}
			renewed = time.Time{}
		} else if !renewed.IsZero() && time.Since(renewed) > 5*time.Second {
			t.Fatalf("a certificate has come, and after 5 s new connections still see the one before")
		}
	}
	if len(serials) < 3 {
		t.Fatalf("in 90 s %d certificates of %v each were seen", len(serials), validity)
	}
	visitors.end()
	t.Logf("%d renewals beside %d connections: %d requests, %d dropped; the new one was shown after %v at most", len(serials)-1, 500, visitors.answered.Load(), visitors.dropped.Load(), slowest.Round(time.Millisecond))
	if n := visitors.dropped.Load(); n > 0 {
		t.Errorf("%d of 500 connections were dropped: %v", n, visitors.why.Load())
	}
	if visitors.answered.Load() < 500 {
		t.Error("the connections said nothing: nothing was tried")
	}
	t.Run("D-14", func(t *testing.T) { a.authorityGone(t, pebble, serials[len(serials)-1]) })
}

// authorityGone: who listens in the authority's place counts how often it is asked.
func (a *abuse) authorityGone(t *testing.T, pebble *process, last string) {
	must(t, unix.Kill(-pebble.cmd.Process.Pid, unix.SIGKILL))
	<-pebble.done
	ln, err := a.cloud.listen("tcp", authorityAddr)
	must(t, err)
	defer func() { _ = ln.Close() }()
	var asked atomic.Int32
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			asked.Add(1)
			_ = c.Close()
		}
	}()
	for end := time.Now().Add(validity + 5*time.Second); time.Now().Before(end); time.Sleep(250 * time.Millisecond) {
		conn := a.tls(t, a.inside, gatewayName)
		if got := conn.ConnectionState().PeerCertificates[0].SerialNumber.String(); got != last {
			t.Fatalf("another certificate is shown: %s, not %s", got, last)
		}
		_ = conn.Close()
	}
	n := asked.Load()
	t.Logf("an authority that does not answer was asked %d times in %v", n, validity+5*time.Second)
	if n == 0 || n > 12 {
		t.Errorf("asked %d times in %v: once and again is meant", n, validity+5*time.Second)
	}
	if left := a.metric("hafen_tls_certificate_expiry_seconds"); left > 0 {
		t.Errorf("the metric says that %v s are left", left)
	}
	if body, status := get(a.inside, "https://"+gatewayAddr+"/livez", gatewayName); status != http.StatusOK {
		t.Errorf("/livez: %d %s", status, body)
	}
	if snapshot := a.metricsGet("/api/v1/status"); !strings.Contains(snapshot, "certificate") {
		t.Errorf("the status says nothing of it: %s", snapshot)
	}
}

// startPebble runs it in the cloud, with a name server of its own that knows the gateway's name.
func (a *abuse) startPebble(t *testing.T) *process {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../../.ci/tools/go.mod", "-n", "pebble")
	var said bytes.Buffer
	build.Stderr = &said
	binary, err := build.Output()
	if err != nil {
		t.Fatalf("pebble can't be built: %v: %s", err, &said)
	}
	startNameServer(t, a.cloud).set(gatewayName, gatewayAddr)
	cert, key := a.ca.issue(t, authorityName)
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": authorityAddr, "managementListenAddress": "127.0.0.1:15000", "certificate": cert, "privateKey": key,
		"httpPort": 80, "tlsPort": 443, "keyAlgorithm": "ecdsa", "retryAfter": map[string]int{"authz": 1, "order": 1},
		"profiles": map[string]any{"default": map[string]any{"description": "short", "validityPeriod": int(validity.Seconds())}},
	}})
	must(t, err)
	file := filepath.Join(a.dir, "pebble.json")
	must(t, os.WriteFile(file, config, 0o600))
	// Half of the nonces are refused, and it takes its time to look at port 443.
	p := a.cloud.startEnv(t, "pebble", []string{"PEBBLE_VA_SLEEPTIME=2", "PEBBLE_WFE_NONCEREJECT=50"}, strings.TrimSpace(string(binary)), "-config", file, "-dnsserver", "127.0.0.1:53")
	a.cloud.waitTCP(t, authorityAddr)
	return p
}

// visitors are connections that stay, each with a request every two seconds.
type visitors struct {
	answered, dropped atomic.Int64
	why               atomic.Value
	stop              chan struct{}
	all               sync.WaitGroup
}

func (a *abuse) visit(t *testing.T, config *tls.Config, n int) *visitors {
	t.Helper()
	v := &visitors{stop: make(chan struct{})}
	conns := make([]*tls.Conn, n)
	must(t, a.inside.do(func() error {
		for i := range conns {
			d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: net.IPv4(10, 30, 0, byte(3+i%10))}}
			raw, err := d.DialContext(context.Background(), "tcp", gatewayAddr+":443")
			if err != nil {
				return err
			}
			conns[i] = tls.Client(raw, config)
			if err := conns[i].Handshake(); err != nil {
				return err
			}
		}
		return nil
	}))
	for _, c := range conns {
		v.all.Go(func() {
			defer func() { _ = c.Close() }()
			if err := v.talk(c); err != nil {
				v.dropped.Add(1)
				v.why.Store(err.Error())
			}
		})
	}
	return v
}

func (v *visitors) talk(c *tls.Conn) error {
	in := bufio.NewReader(c)
	tick := time.NewTicker(2 * time.Second)
	defer tick.Stop()
	for {
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		if _, err := fmt.Fprintf(c, "GET /livez HTTP/1.1\r\nHost: %s\r\n\r\n", gatewayName); err != nil {
			return err
		}
		res, err := http.ReadResponse(in, nil)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, res.Body)
		if res.StatusCode != http.StatusOK || res.Close {
			return fmt.Errorf("%s", res.Status)
		}
		v.answered.Add(1)
		select {
		case <-v.stop:
			return nil
		case <-tick.C:
		}
	}
}

func (v *visitors) end() {
	close(v.stop)
	v.all.Wait()
}

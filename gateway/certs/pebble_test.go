package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
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
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// pebble is a real ACME authority, made for tests, on loopback. It looks at names through a DNS of the test's own that
// knows every name as 127.0.0.1.
type pebble struct {
	directory, caFile string
	management        string
	tlsPort, httpPort string // where it looks for challenges
	client            *http.Client
	cmd               *exec.Cmd
	stop              func()
	mu                sync.Mutex
	output            bytes.Buffer
}

type pebbleOptions struct {
	validity time.Duration
	dns      string            // the resolver it asks; "": one that knows every name as 127.0.0.1
	eab      map[string]string // key id to base64url key; none: no account is asked for
}

// pebbleBinary builds it, pinned in .ci/tools. Where that can't be done the test is skipped, but not in CI.
func pebbleBinary(t *testing.T) string {
	t.Helper()
	build := exec.CommandContext(t.Context(), "go", "tool", "-modfile=../../.ci/tools/go.mod", "-n", "pebble")
	var said bytes.Buffer // beside the path: what go downloads the first time
	build.Stderr = &said
	out, err := build.Output()
	if err == nil {
		return strings.TrimSpace(string(out))
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("pebble can't be built: %v: %s", err, &said)
	}
	t.Skipf("pebble can't be built: %v: %s", err, &said)
	return ""
}

// oneAuthority is held by the test that has an authority: certmagic keeps open challenges by name for the whole process, and two
// gateways with the same name, at two authorities, would answer each other's.
var oneAuthority sync.Mutex

// authorityName is a name of pebble's that no name server knows.
const authorityName = "authority.nowhere.example"

func startPebble(t *testing.T, o pebbleOptions) *pebble {
	t.Helper()
	oneAuthority.Lock()
	t.Cleanup(oneAuthority.Unlock)
	binary, dir := pebbleBinary(t), t.TempDir()
	var none *issuer
	root := none.issue(t, authorityTemplate("Pebble's own"))
	template := serverTemplate("localhost")
	template.DNSNames = append(template.DNSNames, authorityName)
	template.IPAddresses = []net.IP{net.IPv4(127, 0, 0, 1)}
	server := root.issue(t, template)
	p := &pebble{
		caFile: write(t, dir, "ca.pem", root.pem(), 0o644), tlsPort: freePort(t), httpPort: freePort(t),
		client: &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
			TLSClientConfig: &tls.Config{RootCAs: pool(root.cert)}, DisableKeepAlives: true,
		}},
	}
	listen, manage := "127.0.0.1:"+freePort(t), "127.0.0.1:"+freePort(t)
	p.directory, p.management = "https://"+listen+"/dir", "https://"+manage
	config, err := json.Marshal(map[string]any{"pebble": map[string]any{
		"listenAddress": listen, "managementListenAddress": manage,
		"certificate": write(t, dir, "cert.pem", server.pem(), 0o644), "privateKey": write(t, dir, "key.pem", server.keyPEM(t), 0o600),
		"httpPort": number(p.httpPort), "tlsPort": number(p.tlsPort), "keyAlgorithm": "ecdsa",
		"retryAfter":                     map[string]int{"authz": 1, "order": 1},
		"externalAccountBindingRequired": o.eab != nil, "externalAccountMACKeys": o.eab,
		"profiles": map[string]any{"default": map[string]any{"description": "x", "validityPeriod": int(o.validity.Seconds())}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	if o.dns == "" {
		o.dns = everyNameIsHere(t)
	}
	p.cmd = exec.Command(binary, "-config", write(t, dir, "pebble.json", string(config), 0o600), "-dnsserver", o.dns)
	p.cmd.Env = append(os.Environ(), "PEBBLE_VA_NOSLEEP=1", "PEBBLE_WFE_NONCEREJECT=10")
	p.cmd.Stdout, p.cmd.Stderr = p, p
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.stop = sync.OnceFunc(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
	t.Cleanup(func() {
		p.stop()
		if t.Failed() {
			p.mu.Lock()
			defer p.mu.Unlock()
			t.Logf("pebble said:\n%s", p.output.String())
		}
	})
	eventually(t, 10*time.Second, "pebble answers", func() bool {
		_, err := p.get(p.directory)
		return err == nil
	})
	return p
}

func (p *pebble) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.output.Write(b)
}

func (p *pebble) get(url string) ([]byte, error) {
	resp, err := p.client.Get(url)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// roots are those that pebble's certificates chain to.
func (p *pebble) roots(t *testing.T) *x509.CertPool {
	t.Helper()
	text, err := p.get(p.management + "/roots/0")
	roots := x509.NewCertPool()
	if err != nil || !roots.AppendCertsFromPEM(text) {
		t.Fatalf("%s, %v", text, err)
	}
	return roots
}

func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

func number(port string) (n int) {
	_, _ = fmt.Sscan(port, &n)
	return n
}

// everyNameIsHere is a DNS server, over TCP as pebble asks.
func everyNameIsHere(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			_ = answerOne(c)
			_ = c.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String()
}

// answerOne reads one query, with its length in front (RFC 1035 section 4.2.2).
func answerOne(c net.Conn) error {
	var length [2]byte
	if _, err := io.ReadFull(c, length[:]); err != nil {
		return err
	}
	query := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return err
	}
	answer, err := answerDNS(query)
	if err != nil {
		return err
	}
	_, err = c.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...))
	return err
}

func answerDNS(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) == 0 {
		return nil, fmt.Errorf("no question: %w", err)
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	return m.Pack()
}

// serveTLS is the gateway's port 443 as far as certificates go.
func serveTLS(t *testing.T, s *Store, port string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:"+port, &tls.Config{GetCertificate: s.Certificate, NextProtos: []string{"http/1.1", acmeProtocol}})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Add(1)
			go func() {
				defer wg.Done()
				defer c.Close()
				_ = c.SetDeadline(time.Now().Add(5 * time.Second))
				_ = c.(*tls.Conn).Handshake()
			}()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
}

// acmeFiles counts what is stored, to see that nothing is ordered or stored for strangers.
func acmeFiles(t *testing.T, dataDir string) (names []string) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(dataDir, "acme", "certificates"), func(path string, d os.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".crt") {
			names = append(names, strings.TrimSuffix(filepath.Base(path), ".crt"))
		}
		return nil
	})
	return names
}

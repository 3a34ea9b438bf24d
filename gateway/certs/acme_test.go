package certs

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
)

// TestAbuse_D13_D14 issues by TLS-ALPN-01 through the store's own port, renews a short-lived certificate in time, and goes
// on with the old one when the authority is down, over a restart too.
func TestAbuse_D13_D14(t *testing.T) {
	t.Parallel()
	const validity = 10 * time.Second
	p := startPebble(t, pebbleOptions{validity: validity})
	conf := baseConfig(t, "acme")
	conf.Aliases = []string{"node1.hospital.example"}
	conf.TLS.ACME = configs.ACME{Directory: p.directory, CAFile: p.caFile, Email: "it@hospital.example"}
	registry := prometheus.NewPedanticRegistry()
	logged := &lines{}
	s := newStore(t, Options{Config: conf, Registry: registry, Log: slog.New(slog.NewTextHandler(logged, nil))})
	if _, err := s.Certificate(clientHello(ownName)); !errors.Is(err, errNotIssuedYet) {
		t.Errorf("before the start: %v", err)
	}
	serveTLS(t, s, p.tlsPort)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	roots := p.roots(t)
	var first, renewed *x509.Certificate
	see := func(name string) *x509.Certificate {
		c, err := handshake(t, s, &tls.Config{ServerName: name, RootCAs: roots})
		if err != nil {
			return nil
		}
		return c
	}
	eventually(t, 15*time.Second, "both names have certificates", func() bool {
		first = see(ownName)
		return first != nil && see("node1.hospital.example") != nil
	})
	if v := expiry(t, registry, ownName); v <= 0 || v > validity.Seconds() {
		t.Errorf("expires in %v s", v)
	}
	for try := 0; ; try++ {
		gap := false // a moment without a valid certificate
		eventually(t, 2*validity, "there is a new serial", func() bool {
			renewed = see(ownName)
			gap = gap || renewed == nil
			return renewed != nil && renewed.SerialNumber.Cmp(first.SerialNumber) != 0
		})
		if !gap {
			break
		}
		if try > 0 {
			t.Fatalf("the old one expired before the new one came: %+v", s.Status())
		}
		t.Log("renewed too late; the machine may have been busy: once more")
		first = renewed
	}

	p.stop()
	eventually(t, 2*validity, "the authority is found down", func() bool {
		for _, i := range s.Status() {
			if i.Name == ownName && strings.Contains(i.Problem, "connection refused") {
				return true
			}
		}
		return false
	})
	if got, err := s.Certificate(clientHello(ownName)); err != nil || got.Leaf.NotAfter.Before(renewed.NotAfter) {
		t.Errorf("the old one does not go on: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	again := newStore(t, Options{Config: conf})
	if err := again.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 5*time.Second, "a restart finds it in data_dir", func() bool {
		got, err := again.Certificate(clientHello(ownName))
		return err == nil && !got.Leaf.NotAfter.Before(renewed.NotAfter)
	})
	private(t, conf.DataDir)
	logged.check(t)
}

// lines collects what is logged, by certmagic's workers until they have ended.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// check: what the administrator reads at level info is ours, and few lines.
func (l *lines) check(t *testing.T) {
	t.Helper()
	text := l.String()
	if !strings.Contains(text, "certificate issued") || !strings.Contains(text, "asked again later") {
		t.Errorf("logged:\n%s", text)
	}
	if n := strings.Count(text, "\n"); n > 60 {
		t.Errorf("%d lines:\n%s", n, text)
	}
	if strings.Contains(text, "PRIVATE KEY") || strings.Contains(text, "ERROR") {
		t.Errorf("logged:\n%s", text)
	}
}

// private: nobody else reads what is stored. Lock files hold a time and no more.
func private(t *testing.T, dir string) {
	t.Helper()
	_ = filepath.WalkDir(filepath.Join(dir, "acme"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Error(err)
			return nil
		}
		if info, err := d.Info(); err == nil && filepath.Ext(path) != ".lock" && info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s: mode %v", path, info.Mode())
		}
		return nil
	})
}

// TestExternalAccount: an authority that asks for an account gets it, over HTTP-01 when TLS can't be reached; without the key
// there is no certificate and a reason.
func TestExternalAccount(t *testing.T) {
	t.Parallel()
	key := base64.RawURLEncoding.EncodeToString([]byte("0123456789abcdef0123456789abcdef"))
	p := startPebble(t, pebbleOptions{validity: time.Hour, eab: map[string]string{"kid-1": key}})
	conf := baseConfig(t, "acme")
	conf.TLS.ACME = configs.ACME{Directory: p.directory, CAFile: p.caFile, Email: "a@hospital.example"}
	without := newStore(t, Options{Config: conf})
	if err := without.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 15*time.Second, "the refusal is known", func() bool {
		return strings.Contains(without.Status()[0].Problem, "externalAccountRequired")
	})
	if _, err := without.Certificate(clientHello(ownName)); err == nil || !strings.Contains(err.Error(), "externalAccountRequired") {
		t.Errorf("handshake says %v", err)
	}
	_ = without.Close()

	conf.DataDir = t.TempDir()
	conf.TLS.ACME.Email = "b@hospital.example"
	conf.TLS.ACME.EABKeyID, conf.TLS.ACME.EABKeyFile = "kid-1", write(t, conf.DataDir, "eab", key+"\n", 0o600)
	with := newStore(t, Options{Config: conf, HTTP01: true})
	l, err := net.Listen("tcp", "127.0.0.1:"+p.httpPort)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Server{Handler: with.HTTPChallenge(), ReadHeaderTimeout: 5 * time.Second}
	served := make(chan error)
	go func() { served <- web.Serve(l) }()
	defer func() {
		_ = web.Close()
		<-served
	}()
	if err := with.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 20*time.Second, "there is a certificate", func() bool {
		_, err := with.Certificate(clientHello(ownName))
		return err == nil
	})
	if st := with.Status()[0]; st.Problem != "" || st.Expires.IsZero() || !strings.Contains(st.Issuer, "Pebble") {
		t.Errorf("%+v", st)
	}
	if got := acmeFiles(t, conf.DataDir); !slices.Equal(got, []string{ownName}) {
		t.Errorf("stored: %v", got)
	}
}

func clientHello(name string, protos ...string) *tls.ClientHelloInfo {
	near, far := net.Pipe()
	_, _ = near.Close(), far.Close()
	return &tls.ClientHelloInfo{
		ServerName: name, SupportedProtos: protos, SupportedVersions: []uint16{tls.VersionTLS13},
		SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}, Conn: near,
	}
}

// TestNeverOnDemand (D-05): names of strangers cause no order, no file, and an error that says so; an authority that is down
// does not keep the gateway from starting.
func TestNeverOnDemand(t *testing.T) {
	t.Parallel()
	conf := baseConfig(t, "acme")
	conf.TLS.ACME = configs.ACME{Directory: "https://127.0.0.1:" + freePort(t) + "/dir"}
	s := newStore(t, Options{Config: conf})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"evil.example", "x." + ownName, strings.Repeat("a.", 150) + "example"} {
		if s.HasName(name) {
			t.Errorf("HasName(%q)", name)
		}
		for _, protos := range [][]string{nil, {acmeProtocol}} {
			if _, err := s.Certificate(clientHello(name, protos...)); !errors.Is(err, ErrNoName) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
	for _, name := range []string{"", ownName, "GW.hospital.example", "10.0.0.1"} {
		if _, err := s.Certificate(clientHello(name)); !s.HasName(name) || !errors.Is(err, errNotIssuedYet) {
			t.Errorf("%q: %v", name, err)
		}
	}
	if _, err := s.Certificate(clientHello(ownName, acmeProtocol)); !errors.Is(err, errNoChallenge) {
		t.Errorf("a challenge that nobody opened: %v", err)
	}
	for _, host := range []string{ownName, "evil.example", ""} {
		w := httptest.NewRecorder()
		r := httptest.NewRequest(http.MethodGet, "/.well-known/acme-challenge/abc", nil)
		r.Host = host
		s.HTTPChallenge().ServeHTTP(w, r)
		if w.Code != http.StatusNotFound || strings.Contains(w.Body.String(), "abc") {
			t.Errorf("%q: %d %q", host, w.Code, w.Body)
		}
	}
	if s.Root() != nil || s.Reload() != nil {
		t.Error("an ACME store has no root, and nothing to reload")
	}
	eventually(t, 10*time.Second, "the authority is found down", func() bool { return strings.Contains(s.Status()[0].Problem, "refused") })
	if got := acmeFiles(t, conf.DataDir); len(got) > 0 {
		t.Errorf("stored: %v", got)
	}
}

// TestACMEMistakes are told before anything starts.
func TestACMEMistakes(t *testing.T) {
	dir := t.TempDir()
	for name, c := range map[string]struct {
		acme configs.ACME
		says []string
	}{
		"no such CA file":  {configs.ACME{CAFile: "/nowhere"}, []string{"tls.acme.ca_file: ", "does not exist"}},
		"no CA in it":      {configs.ACME{CAFile: write(t, dir, "a", "x", 0o644)}, []string{"tls.acme.ca_file: ", "no certificate"}},
		"half an account":  {configs.ACME{EABKeyID: "a"}, []string{"tls.acme.eab_key_id: ", "belong together"}},
		"key open to all":  {configs.ACME{EABKeyID: "a", EABKeyFile: write(t, dir, "b", "x", 0o644)}, []string{"tls.acme.eab_key_file: ", "mode 0644"}},
		"no key there":     {configs.ACME{EABKeyID: "a", EABKeyFile: "/nowhere"}, []string{"tls.acme.eab_key_file: ", "can't be read"}},
		"DNS, no key":      {configs.ACME{DNS: configs.ACMEDNS{Server: "ns:53"}}, []string{"tls.acme.dns.key_file: "}},
		"CA can't be read": {configs.ACME{CAFile: dir}, []string{"tls.acme.ca_file: ", "can't be read"}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := baseConfig(t, "acme")
			conf.TLS.ACME = c.acme
			_, err := New(Options{Config: conf})
			oneLine(t, err, c.says...)
		})
	}
	conf := baseConfig(t, "lets-encrypt")
	_, err := New(Options{Config: conf})
	oneLine(t, err, "tls.source: ", "lets-encrypt")
	if _, err := os.Stat(filepath.Join(conf.DataDir, "self-signed")); !errors.Is(err, fs.ErrNotExist) {
		t.Error("an authority was made for a source that is unknown")
	}
}

package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"software.sslmate.com/src/go-pkcs12"

	"hafen/configs"
	"hafen/gateway/frugal"
)

// house is a company's own authority: root, intermediate, and a server certificate.
type house struct{ root, middle, server *issuer }

func newHouse(t *testing.T, names ...string) house {
	t.Helper()
	var none *issuer
	root := none.issue(t, authorityTemplate("House Root"))
	middle := root.issue(t, authorityTemplate("House Issuing CA"))
	return house{root, middle, middle.issue(t, serverTemplate(names...))}
}

// TestAbuse_D15 is everything that may be wrong with the files: one plain sentence each, at the start and at a reload,
// and the old certificate stays.
func TestAbuse_D15(t *testing.T) {
	h := newHouse(t, ownName)
	other := newHouse(t, ownName)
	chain := h.server.pem() + h.middle.pem()
	key := h.server.keyPEM(t)
	now := time.Now()
	expired, early, noSAN, forClients := serverTemplate(ownName), serverTemplate(ownName), serverTemplate(ownName), serverTemplate(ownName)
	expired.NotBefore, expired.NotAfter = now.Add(-48*time.Hour), now.Add(-time.Hour)
	early.NotBefore, early.NotAfter = now.Add(time.Hour), now.Add(48*time.Hour)
	noSAN.DNSNames = nil
	forClients.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	with := func(template *x509.Certificate) (string, string) {
		i := h.middle.issue(t, template)
		return i.pem() + h.middle.pem(), i.keyPEM(t)
	}
	expiredPEM, expiredKey := with(expired)
	earlyPEM, earlyKey := with(early)
	noSANPEM, noSANKey := with(noSAN)
	clientPEM, clientKey := with(forClients)
	wrongPEM, wrongKey := with(serverTemplate("www.hospital.example"))
	encrypted := "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMAA=\n-----END ENCRYPTED PRIVATE KEY-----\n"

	for _, c := range []struct {
		name, cert, key string
		mode            os.FileMode
		says            []string
	}{
		{"key open to all", chain, key, 0o644, []string{"tls.files[0].key: ", "open to everybody", "mode 0644", "chmod 0600"}},
		{"key of another", chain, other.server.keyPEM(t), 0o600, []string{"tls.files[0].cert: ", "belongs to another certificate"}},
		{"expired", expiredPEM, expiredKey, 0o600, []string{"expired on "}},
		{"not yet valid", earlyPEM, earlyKey, 0o600, []string{"valid only from", "clock"}},
		{"wrong name", wrongPEM, wrongKey, 0o600, []string{"tls.files: ", "no certificate covers " + ownName, "www.hospital.example"}},
		{"no names", noSANPEM, noSANKey, 0o600, []string{"subject alternative names"}},
		{"for clients", clientPEM, clientKey, 0o600, []string{"serverAuth"}},
		{"encrypted key", chain, encrypted, 0o600, []string{"tls.files[0].key: ", "encrypted", "openssl pkey"}},
		{"damaged key", chain, "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n", 0o600, []string{"tls.files[0].key: ", "damaged"}},
		{"no key in it", chain, h.root.pem(), 0o600, []string{"tls.files[0].key: ", "no private key"}},
		{"no certificate in it", key, key, 0o600, []string{"tls.files[0].cert: ", "no certificate"}},
		{"damaged certificate", "-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n", key, 0o600, []string{"certificate 1 can't be read"}},
		{"empty", "", key, 0o600, []string{"is empty"}},
		{"empty key", chain, "\n", 0o600, []string{"tls.files[0].key: ", "is empty"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			conf, dir := baseConfig(t, "files"), t.TempDir()
			f := configs.TLSFile{Cert: write(t, dir, "cert.pem", c.cert, 0o644), Key: write(t, dir, "key.pem", c.key, c.mode)}
			conf.TLS.Files = []configs.TLSFile{f}
			_, err := New(Options{Config: conf})
			oneLine(t, err, c.says...)

			write(t, dir, "cert.pem", chain, 0o644)
			write(t, dir, "key.pem", key, 0o600)
			s := newStore(t, Options{Config: conf})
			write(t, dir, "cert.pem", c.cert, 0o644)
			write(t, dir, "key.pem", c.key, c.mode)
			oneLine(t, s.Reload(), c.says...)
			if got, err := handshake(t, s, &tls.Config{ServerName: ownName, RootCAs: pool(h.root.cert)}); err != nil || !got.Equal(h.server.cert) {
				t.Errorf("the old one does not go on: %v", err)
			}
			if st := s.Status(); len(st) != 1 || st[0].Problem == "" {
				t.Errorf("status: %+v", st)
			}
		})
	}
	t.Run("not there", func(t *testing.T) {
		conf := baseConfig(t, "files")
		conf.TLS.Files = []configs.TLSFile{{Cert: "/nowhere/cert.pem", Key: "/nowhere/key.pem"}}
		_, err := New(Options{Config: conf})
		oneLine(t, err, "tls.files[0].cert: ", "does not exist")
		conf.TLS.Files[0].Cert = write(t, t.TempDir(), "cert.pem", chain, 0o644)
		_, err = New(Options{Config: conf})
		oneLine(t, err, "tls.files[0].key: ", "does not exist")
	})
}

// TestIssuerMissing: what may be a company's root that issues directly is served, with a warning that names the issuer.
func TestIssuerMissing(t *testing.T) {
	h, other := newHouse(t, ownName), newHouse(t, ownName)
	for name, chain := range map[string]string{"alone": h.server.pem(), "with a stranger": h.server.pem() + other.middle.pem()} {
		t.Run(name, func(t *testing.T) {
			conf, dir := baseConfig(t, "files"), t.TempDir()
			conf.TLS.Files = []configs.TLSFile{{Cert: write(t, dir, "c", chain, 0o644), Key: write(t, dir, "k", h.server.keyPEM(t), 0o600)}}
			s := newStore(t, Options{Config: conf})
			if w := strings.Join(s.Warnings(), " "); !strings.Contains(w, "CN=House Issuing CA") || !strings.Contains(w, "append it") {
				t.Errorf("warnings %q", w)
			}
			if _, err := handshake(t, s, &tls.Config{ServerName: ownName, RootCAs: pool(h.middle.cert)}); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestOrderRepaired: a chain in the wrong order, with its root and a stranger in it, is served in the right one.
func TestOrderRepaired(t *testing.T) {
	h, other := newHouse(t, ownName), newHouse(t, ownName)
	for name, c := range map[string]struct {
		pem      string
		repaired bool
	}{
		"right":            {h.server.pem() + h.middle.pem(), false},
		"with root":        {h.server.pem() + h.middle.pem() + h.root.pem(), false},
		"with a stranger":  {h.server.pem() + other.root.pem() + h.middle.pem(), false},
		"reversed":         {h.root.pem() + h.middle.pem() + h.server.pem(), true},
		"issuer first":     {h.middle.pem() + h.server.pem(), true},
		"twice, reversed":  {h.middle.pem() + h.server.pem() + h.middle.pem() + h.server.pem(), true},
		"text around them": {"subject=x\n" + h.server.pem() + "issuer=y\n" + h.middle.pem(), false},
	} {
		t.Run(name, func(t *testing.T) {
			conf, dir := baseConfig(t, "files"), t.TempDir()
			conf.TLS.Files = []configs.TLSFile{{Cert: write(t, dir, "c", c.pem, 0o644), Key: write(t, dir, "k", h.server.keyPEM(t), 0o640)}}
			s := newStore(t, Options{Config: conf})
			if _, err := handshake(t, s, &tls.Config{ServerName: ownName, RootCAs: pool(h.root.cert)}); err != nil {
				t.Error(err)
			}
			if n := len(s.current.Load().certificates[0].Certificate); n != 2 {
				t.Errorf("%d certificates are sent", n)
			}
			if warned := strings.Contains(strings.Join(s.Warnings(), " "), "wrong order"); warned != c.repaired {
				t.Errorf("warnings %q", s.Warnings())
			}
		})
	}
}

// TestKindsOfFiles: PKCS#12, one file with both, a root that issues directly, one that is self-signed.
func TestKindsOfFiles(t *testing.T) {
	h := newHouse(t, ownName)
	dir := t.TempDir()
	p12 := func(e *pkcs12.Encoder) string {
		data, err := e.Encode(h.server.key, h.server.cert, []*x509.Certificate{h.middle.cert, h.root.cert}, "s3cret")
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	direct := h.root.issue(t, serverTemplate(ownName))
	var none *issuer
	alone := none.issue(t, serverTemplate(ownName))
	password := write(t, dir, "password", "s3cret\n", 0o600)
	for name, c := range map[string]struct {
		file configs.TLSFile
		root *x509.Certificate
	}{
		"PKCS#12":               {configs.TLSFile{Cert: write(t, dir, "a.p12", p12(pkcs12.Modern2023), 0o600), PasswordFile: password}, h.root.cert},
		"PKCS#12 of old":        {configs.TLSFile{Cert: write(t, dir, "a.pfx", p12(pkcs12.LegacyRC2), 0o600), PasswordFile: password}, h.root.cert},
		"PKCS#12 by content":    {configs.TLSFile{Cert: write(t, dir, "a.bin", p12(pkcs12.Modern2023), 0o600), PasswordFile: password}, h.root.cert},
		"both in one":           {configs.TLSFile{Cert: write(t, dir, "both", h.server.keyPEM(t)+h.server.pem()+h.middle.pem(), 0o600)}, h.root.cert},
		"issued by the root":    {configs.TLSFile{Cert: write(t, dir, "d", direct.pem()+h.root.pem(), 0o644), Key: write(t, dir, "dk", direct.keyPEM(t), 0o600)}, h.root.cert},
		"signed by its own key": {configs.TLSFile{Cert: write(t, dir, "s", alone.pem(), 0o644), Key: write(t, dir, "sk", alone.keyPEM(t), 0o600)}, alone.cert},
	} {
		t.Run(name, func(t *testing.T) {
			conf := baseConfig(t, "files")
			conf.TLS.Files = []configs.TLSFile{c.file}
			s := newStore(t, Options{Config: conf})
			if _, err := handshake(t, s, &tls.Config{ServerName: ownName, RootCAs: pool(c.root)}); err != nil {
				t.Error(err)
			}
		})
	}
	for name, c := range map[string]struct {
		file configs.TLSFile
		says []string
	}{
		"wrong password": {configs.TLSFile{Cert: write(t, dir, "b.p12", p12(pkcs12.Modern2023), 0o600), PasswordFile: write(t, dir, "wrong", "other", 0o600)}, []string{".password_file: ", "does not open"}},
		"no password":    {configs.TLSFile{Cert: write(t, dir, "b.p12", p12(pkcs12.Modern2023), 0o600)}, []string{"does not open"}},
		"open to all":    {configs.TLSFile{Cert: write(t, dir, "c.p12", p12(pkcs12.Modern2023), 0o644), PasswordFile: password}, []string{"tls.files[0].cert: ", "mode 0644"}},
		"damaged":        {configs.TLSFile{Cert: write(t, dir, "d.p12", "0junk", 0o600), PasswordFile: password}, []string{"no usable PKCS#12"}},
		"password gone":  {configs.TLSFile{Cert: write(t, dir, "b.p12", p12(pkcs12.Modern2023), 0o600), PasswordFile: "/nowhere"}, []string{".password_file: ", "can't be read"}},
	} {
		t.Run(name, func(t *testing.T) {
			conf := baseConfig(t, "files")
			conf.TLS.Files = []configs.TLSFile{c.file}
			_, err := New(Options{Config: conf})
			oneLine(t, err, c.says...)
			if strings.Contains(err.Error(), "s3cret") || strings.Contains(err.Error(), "other") {
				t.Errorf("the password is in %q", err)
			}
		})
	}
}

// TestAbuse_D05 is which certificate a name gets, several files and a wildcard among them.
func TestAbuse_D05(t *testing.T) {
	own, wild, exact := newHouse(t, ownName), newHouse(t, "*.calls.hospital.example"), newHouse(t, "video.calls.hospital.example")
	conf, dir := baseConfig(t, "files"), t.TempDir()
	conf.Aliases = []string{"node1.hospital.example"}
	for i, h := range []house{own, wild, exact} {
		n := string(rune('a' + i))
		conf.TLS.Files = append(conf.TLS.Files, configs.TLSFile{
			Cert: write(t, dir, n, h.server.pem()+h.middle.pem(), 0o644), Key: write(t, dir, n+"k", h.server.keyPEM(t), 0o600),
		})
	}
	s := newStore(t, Options{Config: conf})
	for _, c := range []struct {
		sni  string
		want *issuer
	}{
		{"", own.server},
		{ownName, own.server},
		{"GW.Hospital.Example", own.server},
		{"10.0.0.1", own.server},
		{"2001:db8::1", own.server},
		{"video.calls.hospital.example", exact.server},
		{"other.calls.hospital.example", wild.server},
		{"a.b.calls.hospital.example", nil},
		{"calls.hospital.example", nil},
		{"hospital.example", nil},
		{"node1.hospital.example", nil},
		{strings.Repeat("a.", 200) + "example", nil},
		{"..", nil},
	} {
		hello := &tls.ClientHelloInfo{ServerName: c.sni, SupportedVersions: []uint16{tls.VersionTLS13}, SignatureSchemes: []tls.SignatureScheme{tls.ECDSAWithP256AndSHA256}}
		got, err := s.Certificate(hello)
		if has := s.HasName(c.sni); has != (c.want != nil) {
			t.Errorf("%q: HasName %v", c.sni, has)
		}
		if c.want == nil {
			var status interface{ Status() string }
			if !errors.Is(err, ErrNoName) || !errors.As(err, &status) || status.Status() != "err_policy" {
				t.Errorf("%q: %v", c.sni, err)
			}
			continue
		}
		if err != nil || !got.Leaf.Equal(c.want.cert) {
			t.Errorf("%q: another certificate, %v", c.sni, err)
		}
	}
	if w := s.Warnings(); len(w) != 1 || !strings.Contains(w[0], "node1.hospital.example") {
		t.Errorf("warnings %q", w)
	}
}

// TestReload: a renewed file is noticed and served on new handshakes; the metric follows.
func TestReload(t *testing.T) {
	h := newHouse(t, ownName)
	conf, dir := baseConfig(t, "files"), t.TempDir()
	conf.TLS.Files = []configs.TLSFile{{Cert: write(t, dir, "c", h.server.pem()+h.middle.pem(), 0o644), Key: write(t, dir, "k", h.server.keyPEM(t), 0o600)}}
	registry := prometheus.NewPedanticRegistry()
	s := newStore(t, Options{Config: conf, Registry: registry, watch: 10 * time.Millisecond})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	day := 24 * time.Hour.Seconds()
	if v := expiry(t, registry, ownName); v > day || v < day-600 {
		t.Errorf("expires in %v s", v)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v %v", problems, err)
	}
	template := serverTemplate(ownName)
	template.NotBefore, template.NotAfter = time.Now().Add(-time.Hour), time.Now().Add(100*time.Hour)
	renewed := h.middle.issue(t, template)
	serves := func(i *issuer) func() bool {
		return func() bool {
			got, err := handshake(t, s, &tls.Config{ServerName: ownName, RootCAs: pool(h.root.cert)})
			return err == nil && got.Equal(i.cert)
		}
	}
	write(t, dir, "c", renewed.pem()+h.middle.pem(), 0o644) // for a moment the key is another's
	eventually(t, 5*time.Second, "the mismatch is seen", func() bool { return s.Status()[0].Problem != "" })
	if !serves(h.server)() {
		t.Error("the old one does not go on")
	}
	write(t, dir, "k", renewed.keyPEM(t), 0o600)
	eventually(t, 5*time.Second, "the new one is served", serves(renewed))
	if v := expiry(t, registry, ownName); v < 99*3600 || s.Status()[0].Problem != "" {
		t.Errorf("expires in %v s, %+v", v, s.Status())
	}
}

func expiry(t *testing.T, g prometheus.Gatherer, name string) float64 {
	t.Helper()
	families, err := g.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "hafen_tls_certificate_expiry_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			if m.GetLabel()[0].GetValue() == name {
				return m.GetGauge().GetValue()
			}
		}
	}
	t.Fatalf("no metric for %s", name)
	return 0
}

// FuzzFiles feeds what is in the files: an error or a certificate, never a panic.
func FuzzFiles(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"), []byte("-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n"))
	f.Add([]byte("0\x82"), []byte("x"))
	f.Fuzz(func(t *testing.T, cert, key []byte) {
		defer frugal.Input(t)()
		certs, err := parseCertificates(cert)
		if (err == nil) == (len(certs) == 0) {
			t.Fatalf("%d certificates, %v", len(certs), err)
		}
		signer, err := parseKey(key)
		if (err == nil) == (signer == nil) {
			t.Fatalf("key %v, %v", signer != nil, err)
		}
		if len(certs) > 0 && signer != nil {
			_, _, _ = arrange(certs, signer, time.Now())
		}
	})
}

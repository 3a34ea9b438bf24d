package certs

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hafen/configs"
)

func rootOf(t *testing.T, s *Store) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode(s.Root())
	if block == nil || len(rest) > 0 || strings.Contains(string(s.Root()), "PRIVATE") {
		t.Fatalf("Root() = %q", s.Root())
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestSelfSigned is the whole of a small authority: what the certificate covers, and what the root can't do.
func TestSelfSigned(t *testing.T) {
	conf := baseConfig(t, "self-signed")
	conf.Aliases = []string{"node1.hospital.example"}
	conf.Services = []configs.Service{{Name: "calls", GatewayName: "turn.hospital.example", Hosts: []string{"call.example.net"}}}
	conf.Signaling.Routes = []configs.Route{{Host: "video.hospital.example", Service: "calls"}, {Host: "call.example.net"}}
	conf.Addresses.Public = []netip.Addr{netip.MustParseAddr("203.0.113.7")}
	own := []netip.Addr{netip.MustParseAddr("10.1.2.3"), netip.MustParseAddr("2001:db8::1"), netip.MustParseAddr("fe80::1")}
	s := newStore(t, Options{Config: conf, Addresses: own})
	root := rootOf(t, s)
	for _, name := range []string{
		ownName, "node1.hospital.example", "turn.hospital.example", "video.hospital.example",
		"10.1.2.3", "2001:db8::1", "203.0.113.7", "127.0.0.1", "::1",
	} {
		leaf, err := handshake(t, s, &tls.Config{ServerName: name, RootCAs: pool(root)})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if life := leaf.NotAfter.Sub(leaf.NotBefore); life > 90*24*time.Hour {
			t.Errorf("lives %v", life)
		}
	}
	for _, name := range []string{"call.example.net", "fe80::1"} {
		if _, err := handshake(t, s, &tls.Config{ServerName: name, RootCAs: pool(root)}); err == nil {
			t.Errorf("%s is covered", name)
		}
	}
	path := filepath.Join(conf.DataDir, "self-signed", "root.pem")
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	a, err := readAuthority(path)
	if err != nil {
		t.Fatal(err)
	}
	stolen := issuer{a.cert, a.key}
	for name, template := range map[string]*x509.Certificate{
		"another name":      serverTemplate("bank.example"),
		"the call service":  serverTemplate("call.example.net"),
		"the whole company": serverTemplate("hospital.example"),
		"a person":          {EmailAddresses: []string{"a@b.example"}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}},
	} {
		forged := stolen.issue(t, template)
		if _, err := forged.cert.Verify(x509.VerifyOptions{Roots: pool(root), KeyUsages: template.ExtKeyUsage}); err == nil {
			t.Errorf("a stolen root can sign for %s", name)
		}
	}
	middle := stolen.issue(t, authorityTemplate("a further authority"))
	if _, err := middle.issue(t, serverTemplate(ownName)).cert.Verify(x509.VerifyOptions{
		Roots: pool(root), Intermediates: pool(middle.cert),
	}); err == nil {
		t.Error("the root can make further authorities")
	}
}

// TestRootStays over restarts, also when several start at once; each start has a certificate of its own.
func TestRootStays(t *testing.T) {
	conf := baseConfig(t, "self-signed")
	roots, leaves := make([][]byte, 6), make([]string, 6)
	var wg sync.WaitGroup
	for i := range roots {
		wg.Add(1)
		go func() {
			defer wg.Done()
			s, err := New(Options{Config: conf})
			if err != nil {
				t.Error(err)
				return
			}
			roots[i], leaves[i] = s.Root(), s.Status()[0].Serial
			_ = s.Close()
		}()
	}
	wg.Wait()
	for i := 1; i < len(roots); i++ {
		if !bytes.Equal(roots[0], roots[i]) {
			t.Error("another root")
		}
		if leaves[0] == leaves[i] {
			t.Error("the same certificate")
		}
	}
	left, err := os.ReadDir(filepath.Join(conf.DataDir, "self-signed"))
	if err != nil || len(left) != 1 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestNewRoot: made when the old one can't sign for a new name, or is about to expire; said, and the old one kept.
func TestNewRoot(t *testing.T) {
	conf := baseConfig(t, "self-signed")
	now := time.Now()
	addresses := []netip.Addr{netip.MustParseAddr("10.1.2.3")}
	options := Options{Config: conf, Addresses: addresses, Now: func() time.Time { return now }}
	first := newStore(t, options)

	conf.Aliases = []string{"www." + ownName} // beneath the old name: the old root is good for it
	if s := newStore(t, options); !bytes.Equal(s.Root(), first.Root()) || len(s.Warnings()) != 0 || !s.HasName("www."+ownName) {
		t.Errorf("a new root for a name that the old one covers; %q", s.Warnings())
	}
	conf.Aliases = []string{"wpad.hospital.example"}
	second := newStore(t, options)
	if bytes.Equal(second.Root(), first.Root()) {
		t.Error("the old root for a name it can't sign for")
	}
	if w := strings.Join(second.Warnings(), " "); !strings.Contains(w, "wpad.hospital.example") || !strings.Contains(w, "hafen ca") {
		t.Errorf("warnings %q", w)
	}
	if _, err := handshake(t, second, &tls.Config{ServerName: "wpad.hospital.example", RootCAs: pool(rootOf(t, second))}); err != nil {
		t.Error(err)
	}
	files, err := os.ReadDir(filepath.Join(conf.DataDir, "self-signed"))
	if err != nil || len(files) != 2 {
		t.Errorf("%v, %v: the old root is gone", files, err)
	}

	options.Addresses = append(addresses, netip.MustParseAddr("10.9.9.9")) // an address alone is no reason
	third := newStore(t, options)
	if !bytes.Equal(third.Root(), second.Root()) || third.HasName("x") || !strings.Contains(strings.Join(third.Warnings(), " "), "10.9.9.9") {
		t.Errorf("for a new address: %q", third.Warnings())
	}
	if _, err := handshake(t, third, &tls.Config{ServerName: "10.9.9.9", RootCAs: pool(rootOf(t, third))}); err == nil {
		t.Error("the root signs for an address outside of its constraint")
	}

	now = now.Add(rootLife - rootSpare + time.Hour)
	fourth := newStore(t, options)
	if bytes.Equal(fourth.Root(), third.Root()) || !strings.Contains(fourth.Warnings()[0], "expires on") {
		t.Errorf("an old root near its end: %q", fourth.Warnings())
	}
}

// TestLeafRemade before it expires, without a restart.
func TestLeafRemade(t *testing.T) {
	var mu sync.Mutex
	now := time.Now()
	clock := func() time.Time { mu.Lock(); defer mu.Unlock(); return now }
	s := newStore(t, Options{Config: baseConfig(t, "self-signed"), Now: clock, watch: 5 * time.Millisecond})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	serial, root := s.Status()[0].Serial, s.Root()
	time.Sleep(50 * time.Millisecond)
	if s.Status()[0].Serial != serial {
		t.Error("remade for no reason")
	}
	mu.Lock()
	now = now.Add(61 * 24 * time.Hour)
	mu.Unlock()
	eventually(t, 5*time.Second, "there is a new certificate", func() bool { return s.Status()[0].Serial != serial })
	if !bytes.Equal(root, s.Root()) || s.Status()[0].Expires.Before(clock().Add(80*24*time.Hour)) {
		t.Errorf("%+v", s.Status())
	}
}

// TestBadAuthority: what can be wrong with its file and folder is one sentence.
func TestBadAuthority(t *testing.T) {
	conf := baseConfig(t, "self-signed")
	newStore(t, Options{Config: conf})
	dir := filepath.Join(conf.DataDir, "self-signed")
	path := filepath.Join(dir, "root.pem")
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := newHouse(t, ownName)
	for _, c := range []struct {
		text string
		mode os.FileMode
		says string
	}{
		{string(good), 0o644, "open to everybody"},
		{"junk", 0o600, "no certificate"},
		{other.root.pem(), 0o600, "no private key"},
		{other.root.pem() + other.server.keyPEM(t), 0o600, "do not belong together"},
	} {
		write(t, dir, "root.pem", c.text, c.mode)
		_, err := New(Options{Config: conf})
		oneLine(t, err, "tls.source self-signed: ", path, c.says)
	}
	conf.DataDir = write(t, t.TempDir(), "file", "x", 0o600)
	_, err = New(Options{Config: conf})
	oneLine(t, err, "tls.source self-signed: ", conf.DataDir)
}

// TestNoNames: a gateway known by its address alone gets a root that can sign for no name at all.
func TestNoNames(t *testing.T) {
	conf := baseConfig(t, "self-signed")
	conf.Name = "127.0.0.1"
	s := newStore(t, Options{Config: conf})
	root := rootOf(t, s)
	if _, err := handshake(t, s, &tls.Config{ServerName: "127.0.0.1", RootCAs: pool(root)}); err != nil {
		t.Error(err)
	}
	a, err := readAuthority(filepath.Join(conf.DataDir, "self-signed", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	stolen := issuer{a.cert, a.key}
	if _, err := stolen.issue(t, serverTemplate("bank.example")).cert.Verify(x509.VerifyOptions{Roots: pool(root)}); err == nil {
		t.Error("it can sign for any name")
	}
}

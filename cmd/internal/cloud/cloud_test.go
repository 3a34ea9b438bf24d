package cloud

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// startCloud runs a cloud until the test ends.
func startCloud(t *testing.T, o Options) *Cloud {
	t.Helper()
	if o.Listen == "" {
		o.Listen = "127.0.0.1:0"
	}
	c, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		http.DefaultClient.CloseIdleConnections()
	})
	return c
}

// everyTransport is a region on loopback that listens on all three.
func everyTransport(name string) RegionOptions {
	return RegionOptions{
		Name: name, UDP: []string{"127.0.0.1:0"}, TCP: []string{"127.0.0.1:0"}, TLS: []string{"127.0.0.1:0"},
	}
}

// testTLS is a certificate for 127.0.0.1 and localhost, and a client configuration that trusts it.
func testTLS(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(cert)
	server = &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return server, &tls.Config{RootCAs: roots, ServerName: "localhost"}
}

// get fetches a page and returns its status and body.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r.StatusCode, string(b)
}

func getJSON(t *testing.T, url string, v any) {
	t.Helper()
	code, body := get(t, url)
	if code != http.StatusOK {
		t.Fatalf("%s: %d %s", url, code, body)
	}
	if err := json.Unmarshal([]byte(body), v); err != nil {
		t.Fatalf("%s: %v", url, err)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Options{
		"a region without a name":  {Regions: []RegionOptions{{UDP: []string{"127.0.0.1:0"}}}},
		"a region without a way":   {Regions: []RegionOptions{{Name: "a"}}},
		"two regions of one name":  {Regions: []RegionOptions{everyUDP("a"), everyUDP("a")}},
		"TLS without certificate":  {Regions: []RegionOptions{everyTransport("a")}},
		"external with listeners":  {Regions: []RegionOptions{{Name: "a", UDP: []string{":0"}, URLs: []string{"turn:b"}}}},
		"gateway only but no such": {GatewayOnly: true},
	} {
		if _, err := New(o); err == nil {
			t.Errorf("%s was accepted", name)
		}
	}
}

func everyUDP(name string) RegionOptions {
	return RegionOptions{Name: name, UDP: []string{"127.0.0.1:0"}}
}

func TestStartLeavesNothingBoundAfterAnError(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := free.LocalAddr().String()
	_ = free.Close()
	c, err := New(Options{Listen: taken.Addr().String(), Regions: []RegionOptions{{Name: "a", UDP: []string{addr}}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err == nil || !strings.Contains(err.Error(), "call service") {
		t.Fatalf("start on a taken port: %v", err)
	}
	again, err := net.ListenPacket("udp", addr)
	if err != nil {
		t.Fatalf("the region's socket is still bound: %v", err)
	}
	_ = again.Close()
}

func TestPeersThatRelaysMaySendTo(t *testing.T) {
	c, err := New(Options{
		Regions: []RegionOptions{{Name: "a", UDP: []string{"127.0.0.1:0"}}},
		Peers:   []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16")},
	})
	if err != nil {
		t.Fatal(err)
	}
	for addr, want := range map[string]bool{
		"127.0.0.1": true, "127.0.0.2": false, "192.0.2.77": true, "10.9.1.1": true, "10.8.1.1": false,
		"::ffff:127.0.0.1": true, "::ffff:10.8.1.1": false, "169.254.169.254": false, "100.100.100.200": false,
		"224.0.0.1": false, "0.0.0.0": false, "255.255.255.255": false, "::1": false, "fd00:ec2::254": false,
	} {
		if got := c.peerAllowed(netip.MustParseAddr(addr)); got != want {
			t.Errorf("%s: allowed is %v", addr, got)
		}
	}
}

func TestProbes(t *testing.T) {
	c := startCloud(t, Options{Hold: 2 * time.Second})
	url := strings.TrimSuffix(c.URL(), "/")
	if code, body := get(t, url+"/healthz"); code != http.StatusOK || body != "ok\n" {
		t.Errorf("healthz: %d %q", code, body)
	}
	began := time.Now()
	if code, _ := get(t, url+"/hold?s=0.3"); code != http.StatusOK || time.Since(began) < 300*time.Millisecond {
		t.Errorf("hold: %d after %v", code, time.Since(began))
	}
	if code, body := get(t, url+"/sse?every=1&n=3"); code != http.StatusOK || strings.Count(body, "data:") != 3 {
		t.Errorf("sse: %d %q", code, body)
	}
	if _, body := get(t, url+"/download?bytes=70000"); len(body) != 70000 {
		t.Errorf("download: %d bytes", len(body))
	}
	r, err := http.Post(url+"/upload", "application/octet-stream", strings.NewReader(strings.Repeat("x", 100_000)))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var answer struct {
		Bytes  int64
		SHA256 string
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.Bytes != 100_000 || len(answer.SHA256) != 64 {
		t.Errorf("upload: %+v %v", answer, err)
	}
}

func TestCloseAnswersWhatIsHeld(t *testing.T) {
	c, err := New(Options{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	done := make(chan struct{})
	go func() {
		defer close(done)
		q, _ := http.NewRequestWithContext(ctx, http.MethodGet, c.URL()+"hold?s=180", nil)
		if r, err := http.DefaultClient.Do(q); err == nil {
			_ = r.Body.Close()
		}
	}()
	time.Sleep(100 * time.Millisecond)
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	<-done
	http.DefaultClient.CloseIdleConnections()
	if ctx.Err() != nil {
		t.Error("the held request outlived Close")
	}
}

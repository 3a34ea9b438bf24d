package portmux

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is for things that happen at once, on a machine that may be busy.
const patience = 10 * time.Second

var bindingRequest = append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42}, "transaction!"...)

// testMux is a Mux on a real socket whose owners answer with what they are.
type testMux struct {
	*Mux
	addr     string
	roots    *x509.CertPool
	registry *prometheus.Registry

	mu    sync.Mutex
	ended []End
}

// start runs a mux; change may alter its options. Names of gw.test and call.test are terminated, *.pass.test passed through.
func start(t *testing.T, change func(*Options)) *testMux {
	t.Helper()
	cert, roots := makeCertificate(t, "gw.test", "call.test")
	get := func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }
	own := ServerConfig(get, "http/1.1", "stun.turn", acmeProtocol)
	routed := ServerConfig(get, "h2", "http/1.1")
	tm := &testMux{roots: roots, registry: prometheus.NewRegistry()}
	o := Options{
		Hello: func(h *tls.ClientHelloInfo) Route {
			switch {
			case h.ServerName == "call.test":
				return Route{Config: routed}
			case h.ServerName == "" || h.ServerName == "gw.test" || net.ParseIP(h.ServerName) != nil:
				return Route{Config: own}
			}
			return Route{}
		},
		STUN:     answer("STUN"),
		HTTP:     answer("HTTP"),
		TLSConn:  func(_ *tls.Conn, c *Conn) { answer("H2")(c) },
		Registry: tm.registry,
		Observe:  tm.observe,
	}
	if change != nil {
		change(&o)
	}
	tm.Mux = New(o)
	tm.addr = tm.serve(t, tm.Serve)
	t.Cleanup(func() {
		if err := tm.Close(); err != nil {
			t.Error(err)
		}
	})
	return tm
}

// serve runs one more listener.
func (tm *testMux) serve(t *testing.T, serve func(net.Listener) error) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- serve(l) }()
	t.Cleanup(func() {
		_ = tm.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	return l.Addr().String()
}

func (tm *testMux) observe(e End) {
	tm.mu.Lock()
	defer tm.mu.Unlock()
	tm.ended = append(tm.ended, e)
}

// end waits until a connection has ended, and takes its record.
func (tm *testMux) end(t *testing.T) End {
	t.Helper()
	var e End
	eventually(t, "a connection has ended", func() bool {
		tm.mu.Lock()
		defer tm.mu.Unlock()
		if len(tm.ended) == 0 {
			return false
		}
		e, tm.ended = tm.ended[0], tm.ended[1:]
		return true
	})
	return e
}

func (tm *testMux) counted(t *testing.T, name string, labels ...string) float64 {
	t.Helper()
	families, err := tm.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	var sum float64
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		for _, m := range f.GetMetric() {
			text := m.String()
			match := true
			for _, l := range labels {
				match = match && strings.Contains(text, `"`+l+`"`)
			}
			if match {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	return sum
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("in vain waited that %s", what)
}

// answer is an owner that writes its name, then all that it reads up to the client's end, and closes.
func answer(name string) func(*Conn) {
	return func(c *Conn) {
		defer c.Close()
		c.Established()
		if _, err := c.Write([]byte(name + ":")); err != nil {
			return
		}
		_, _ = io.Copy(c, struct{ io.Reader }{c})
	}
}

// dial connects and bounds everything by a deadline.
func dial(t *testing.T, addr string) *net.TCPConn {
	t.Helper()
	return dialFrom(t, addr, "")
}

// dialFrom is dial for one client of several; "": any address.
func dialFrom(t *testing.T, addr, from string) *net.TCPConn {
	t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}
	c, err := d.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

func (tm *testMux) client(change func(*tls.Config)) *tls.Config {
	c := &tls.Config{RootCAs: tm.roots, ServerName: "gw.test"}
	if change != nil {
		change(c)
	}
	return c
}

// say sends everything, ends its direction and reads to the end.
func say(t *testing.T, c interface {
	io.ReadWriter
	CloseWrite() error
}, text string,
) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write: %v", err)
	}
	if err := c.CloseWrite(); err != nil {
		t.Fatalf("half-close: %v", err)
	}
	got, err := io.ReadAll(c)
	if err != nil {
		t.Fatalf("read: %v (after %q)", err, got)
	}
	return string(got)
}

// readEnd tells what came until the end; a reset is an end too.
func readEnd(t *testing.T, c net.Conn) []byte {
	t.Helper()
	b, err := io.ReadAll(c)
	var op *net.OpError
	if err != nil && (!errors.As(err, &op) || op.Timeout()) {
		t.Fatalf("waited for the end: %v", err)
	}
	return b
}

func makeCertificate(t testing.TB, names ...string) (*tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, roots
}

func TestMetricsAreWellFormed(t *testing.T) {
	tm := start(t, nil)
	problems, err := testutil.GatherAndLint(tm.registry)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
}

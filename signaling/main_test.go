package signaling

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"go.uber.org/goleak"

	"hafen/configs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// host is the name in the certificate of httptest's servers.
const host = "example.com"

// rig is a call server, a Proxy before it, and an http.Server before that, all with real sockets.
type rig struct {
	t        *testing.T
	p        *Proxy
	registry *prometheus.Registry
	log      *lines
	upstream *httptest.Server
	front    *httptest.Server
	// arrived counts the requests that the call server got.
	arrived atomic.Int64
}

// settings change a rig before it is made.
type settings struct {
	options  func(*Options)
	config   func(*configs.Config)
	front    func(*http.Server)
	upstream func(*httptest.Server)
	upH2     bool
}

func newRig(t *testing.T, call http.HandlerFunc, with settings) *rig {
	t.Helper()
	r := &rig{t: t, registry: prometheus.NewRegistry(), log: new(lines)}
	r.upstream = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r.arrived.Add(1)
		call(w, req)
	}))
	r.upstream.EnableHTTP2 = with.upH2
	r.upstream.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	if with.upstream != nil {
		with.upstream(r.upstream)
	}
	r.upstream.StartTLS()
	t.Cleanup(r.upstream.Close)
	options := Options{
		Config: &configs.Config{Services: []configs.Service{{Name: "calls", Hosts: []string{host, "*.wild.example"}, CAFile: r.caFile()}}},
		Dial: func(ctx context.Context, network, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.upstream.Listener.Addr().String())
		},
		Registry: r.registry,
		Log:      slog.New(slog.NewTextHandler(r.log, nil)),
	}
	if with.config != nil {
		with.config(options.Config)
	}
	if with.options != nil {
		with.options(&options)
	}
	var err error
	if r.p, err = New(options); err != nil {
		t.Fatal(err)
	}
	r.front = httptest.NewUnstartedServer(r.p)
	r.front.EnableHTTP2 = true
	r.front.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug)
	if with.front != nil {
		with.front(r.front.Config)
	}
	r.front.StartTLS()
	t.Cleanup(func() {
		if err := r.p.Close(); err != nil {
			t.Error(err)
		}
		r.front.CloseClientConnections()
		r.front.Close()
	})
	return r
}

func (r *rig) caFile() string {
	path := filepath.Join(r.t.TempDir(), "ca.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.upstream.Certificate().Raw})
	if err := os.WriteFile(path, text, 0o600); err != nil {
		r.t.Fatal(err)
	}
	return path
}

// client speaks to the gateway under any name, over HTTP/1.1 or h2.
func (r *rig) client(h2 bool) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(r.front.Certificate())
	transport := &http.Transport{
		DialContext: func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, r.front.Listener.Addr().String())
		},
		TLSClientConfig:    &tls.Config{RootCAs: roots, ServerName: host},
		ForceAttemptHTTP2:  h2,
		DisableCompression: true,
	}
	if !h2 {
		transport.TLSClientConfig.NextProtos = []string{"http/1.1"}
	}
	r.t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// dial opens a bare TLS connection to the gateway for what no HTTP client would send.
func (r *rig) dial() *tls.Conn {
	r.t.Helper()
	conn, err := tls.Dial("tcp", r.front.Listener.Addr().String(), &tls.Config{ServerName: host, InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
	if err != nil {
		r.t.Fatal(err)
	}
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *rig) get(url string, h2 bool) (*http.Response, string) {
	r.t.Helper()
	res, err := r.client(h2).Get(url)
	if err != nil {
		r.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return res, string(body)
}

// metric is the sum of a metric's values, of those with the label value if one is given.
func (r *rig) metric(name string, label ...string) float64 {
	r.t.Helper()
	families, err := r.registry.Gather()
	if err != nil {
		r.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (len(label) == 0 || labelled(m, label[0])) {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

func labelled(m *dto.Metric, value string) bool {
	for _, l := range m.GetLabel() {
		if l.GetValue() == value {
			return true
		}
	}
	return false
}

// eventually waits for something that happens soon.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for until := time.Now().Add(10 * time.Second); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
		if is() {
			return
		}
	}
	t.Fatalf("never: %s", what)
}

// ended waits for one more end with a status.
func (r *rig) ended(status string) {
	r.t.Helper()
	eventually(r.t, "a request ends", func() bool { return r.metric("hafen_signaling_requests_total") >= 1 })
	if r.metric("hafen_signaling_requests_total", status) != 1 {
		r.t.Errorf("it did not end with %s: %s", status, r.log)
	}
	if all := r.metric("hafen_signaling_requests_total"); all != 1 {
		r.t.Errorf("%v requests ended, want 1; log:\n%s", all, r.log)
	}
}

// lines is a log.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

func (l *lines) count(part string) int { return strings.Count(l.String(), part) }

// send writes text and reads one answer.
func send(t *testing.T, conn net.Conn, text string) (*http.Response, *bufio.Reader, error) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		return nil, nil, err
	}
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	return res, br, err
}

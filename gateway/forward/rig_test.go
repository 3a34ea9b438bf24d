package forward

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"hafen/configs"
)

// rig is a proxy behind a real http.Server, on a plain and on a TLS listener, with targets on loopback.
type rig struct {
	t      *testing.T
	proxy  *Proxy
	config *configs.Config
	plain  string // addresses
	secure string
	roots  *x509.CertPool

	mu     sync.Mutex
	routes map[string]string // target → address on loopback
	dials  []string
	log    syncBuffer
}

type syncBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t *testing.T, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, config: testConfig(), routes: make(map[string]string)}
	o := Options{
		Config: r.config, Dial: r.dial, Registry: prometheus.NewRegistry(), Log: slog.New(slog.NewTextHandler(&r.log, nil)),
		FirstBytesTimeout: 2 * time.Second,
	}
	if change != nil {
		change(&o)
	}
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	r.proxy = p
	cert, roots := certificate(t, "gw.hospital.example", "call.example")
	r.roots = roots
	r.plain = r.serve(nil)
	r.secure = r.serve(&tls.Config{Certificates: []tls.Certificate{cert}, NextProtos: []string{"http/1.1"}})
	t.Cleanup(func() { _ = p.Close() })
	return r
}

func (r *rig) serve(config *tls.Config) string {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	addr := ln.Addr().String()
	if config != nil {
		ln = tls.NewListener(ln, config)
	}
	srv := &http.Server{
		Handler: r.proxy, ReadHeaderTimeout: 5 * time.Second, ErrorLog: slog.NewLogLogger(slog.DiscardHandler, 0),
		DisableGeneralOptionsHandler: true, // else OPTIONS * never reaches a handler
	}
	go func() { _ = srv.Serve(ln) }()
	r.t.Cleanup(func() { _ = srv.Close() })
	return addr
}

func (r *rig) dial(ctx context.Context, host string, port uint16, _ string) (net.Conn, error) {
	target := fmt.Sprintf("%s:%d", host, port)
	r.mu.Lock()
	r.dials = append(r.dials, target)
	addr, ok := r.routes[target]
	r.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("no route to %s", target)
	}
	return (&net.Dialer{}).DialContext(ctx, "tcp", addr)
}

func (r *rig) dialled() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.dials...)
}

// target starts a server that a target's name leads to.
func (r *rig) target(name string, serve func(net.Conn)) {
	r.t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = ln.Close() })
	r.mu.Lock()
	r.routes[name] = ln.Addr().String()
	r.mu.Unlock()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
}

// echo sends back what it gets, and ends when the client has ended.
func echo(c net.Conn) { _, _ = io.Copy(c, c) }

// dialPlain and dialSecure connect a client.
func (r *rig) dialPlain() net.Conn {
	r.t.Helper()
	c, err := net.Dial("tcp", r.plain)
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (r *rig) dialSecure() net.Conn {
	r.t.Helper()
	c, err := tls.Dial("tcp", r.secure, &tls.Config{RootCAs: r.roots, ServerName: "gw.hospital.example"})
	if err != nil {
		r.t.Fatal(err)
	}
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// connect asks for a target and reads the answer's head. The reader has what came behind it.
func connect(t *testing.T, c net.Conn, target string) (*http.Response, *bufio.Reader) {
	t.Helper()
	_, err := fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", target, target)
	if err != nil {
		t.Fatal(err)
	}
	br := bufio.NewReader(c)
	return readHead(t, br), br
}

func readHead(t *testing.T, br *bufio.Reader) *http.Response {
	t.Helper()
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	if err != nil {
		t.Fatalf("no answer: %v", err)
	}
	return resp
}

// exchange sends bytes as they are and returns everything until the proxy closes.
func exchange(t *testing.T, c net.Conn, text string) string {
	t.Helper()
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatal(err)
	}
	all, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("the connection did not end in order: %v", err)
	}
	return string(all)
}

// throughBuffer is a client's connection whose first bytes are in a reader.
type throughBuffer struct {
	net.Conn
	br *bufio.Reader
}

func (c throughBuffer) Read(p []byte) (int, error) { return c.br.Read(p) }

func (r *rig) connects(word string) float64 {
	return testutil.ToFloat64(r.proxy.metrics.connects.WithLabelValues(word))
}

// eventually waits for something that another goroutine is about to do.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Errorf("not in time: %s", what)
}

// certificate makes one for these names that is its own root.
func certificate(t *testing.T, names ...string) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: names, IsCA: true, BasicConstraintsValid: true,
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
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, roots
}

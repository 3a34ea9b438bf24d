package main

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// The names and addresses of the little world in which is measured. All addresses are this namespace's loopback.
const (
	gatewayName = "gw.bench.example"
	callName    = "call.bench.example" // the gateway and HAProxy have a certificate for it and lead to callAddr
	echoName    = "echo.bench.example" // CONNECT leads to echoAddr
	passName    = "pass.bench.example" // the gateway has no certificate for it: passed through to passAddr

	callAddr    = "127.0.0.2:8080"
	echoAddr    = "127.0.0.3:443"
	passAddr    = "127.0.0.4:443"
	gatewayAddr = "127.0.0.1:8443"
	haproxyAddr = "127.0.0.1:8444"
	squidAddr   = "127.0.0.1:8445"
)

// world is what stands behind the proxies: a call server, and servers that send back what they get.
type world struct {
	dir, cert, key string
	roots          *x509.CertPool
	desk           *desk
	closers        []io.Closer
}

func newWorld(dir string) (*world, error) {
	w := &world{dir: dir, desk: &desk{}}
	if err := w.certificate(); err != nil {
		return nil, err
	}
	call, err := w.listen(callAddr)
	if err != nil {
		return nil, err
	}
	server := &http.Server{Handler: w.desk, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(call) }()
	w.closers = append(w.closers, server)
	echo, err := w.listen(echoAddr)
	if err != nil {
		return nil, err
	}
	go serveEcho(echo)
	pass, err := w.listen(passAddr)
	if err != nil {
		return nil, err
	}
	cert, err := tls.LoadX509KeyPair(w.cert, w.key)
	if err != nil {
		return nil, err
	}
	go serveEcho(tls.NewListener(pass, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS13}))
	return w, nil
}

func (w *world) listen(addr string) (net.Listener, error) {
	ln, err := net.Listen("tcp", addr)
	if err == nil {
		w.closers = append(w.closers, ln)
	}
	return ln, err
}

func (w *world) close() {
	for _, c := range w.closers {
		_ = c.Close()
	}
}

// certificate makes the one that all three programs show.
func (w *world) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: gatewayName}, DNSNames: []string{gatewayName, callName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER})
	w.cert, w.key = filepath.Join(w.dir, "cert.pem"), filepath.Join(w.dir, "key.pem")
	for name, text := range map[string][]byte{w.cert: certPEM, w.key: keyPEM, w.cert + ".both": append(certPEM, keyPEM...)} {
		if err := os.WriteFile(name, text, 0o640); err != nil {
			return err
		}
	}
	w.roots = x509.NewCertPool()
	w.roots.AppendCertsFromPEM(certPEM)
	return nil
}

// serveEcho sends back what comes.
func serveEcho(ln net.Listener) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go echo(conn, conn)
	}
}

// echo copies through a small buffer until there is much to copy: thousands of idle ones must fit beside the load.
func echo(conn net.Conn, from io.Reader) {
	defer func() { _ = conn.Close() }()
	small := make([]byte, 512)
	buf := small
	for {
		n, err := from.Read(buf)
		if n > 0 {
			if _, err := conn.Write(buf[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if n == len(small) {
			buf = make([]byte, 64<<10)
		}
	}
}

// desk is the call server: /ws is a WebSocket that sends back each byte, as if they were frames; /poll is held until release.
type desk struct {
	mu      sync.Mutex
	held    int
	arrival chan struct{}
}

func (d *desk) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/ws":
		d.webSocket(w)
	case "/poll":
		d.poll(w, r)
	}
}

func (d *desk) webSocket(w http.ResponseWriter) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
	go echo(conn, unbuffered(buffered.Reader, conn))
}

// unbuffered forgets a reader's buffer, which is empty when the client waits for the answer.
func unbuffered(br *bufio.Reader, conn net.Conn) io.Reader {
	if br.Buffered() > 0 {
		return br
	}
	return conn
}

func (d *desk) poll(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	if d.arrival == nil {
		d.arrival = make(chan struct{})
	}
	arrival := d.arrival
	d.held++
	d.mu.Unlock()
	select {
	case <-arrival:
	case <-r.Context().Done():
	}
	d.mu.Lock()
	d.held--
	d.mu.Unlock()
	_, _ = io.WriteString(w, "arrived")
}

// holding tells how many polls are held.
func (d *desk) holding() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.held
}

// release answers all that are held.
func (d *desk) release() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.arrival != nil {
		close(d.arrival)
		d.arrival = nil
	}
}

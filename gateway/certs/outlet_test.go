package certs

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hafen/configs"
)

// TestACMEDialsAsTheGateway: the authority has a name that only the gateway's own way of dialling knows, so nothing of an order goes by
// another.
func TestACMEDialsAsTheGateway(t *testing.T) {
	t.Parallel()
	p := startPebble(t, pebbleOptions{validity: time.Hour})
	directory, err := url.Parse(p.directory)
	if err != nil {
		t.Fatal(err)
	}
	here := directory.Host
	directory.Host = authorityName + ":14000"
	conf := baseConfig(t, "acme")
	conf.TLS.ACME = configs.ACME{Directory: directory.String(), CAFile: p.caFile, Email: "it@hospital.example"}
	var dialled atomic.Int32
	s := newStore(t, Options{Config: conf, DialAuthority: func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != authorityName+":14000" {
			t.Errorf("%s is dialled", addr)
		}
		if dialled.Add(1) == 1 {
			return nil, errors.New("the first is refused,\r\nfor a reason")
		}
		return (&net.Dialer{}).DialContext(ctx, network, here)
	}})
	serveTLS(t, s, p.tlsPort)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	eventually(t, 30*time.Second, "there is a certificate", func() bool {
		_, err := s.Certificate(clientHello(ownName))
		return err == nil
	})
	if n := dialled.Load(); n < 2 {
		t.Errorf("%d connections to the authority", n)
	}
}

// TestOutlet: it serves its own client, and nobody else.
func TestOutlet(t *testing.T) {
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "an authority") }))
	defer server.Close()
	refusal := errors.New("resolve ca.example:\nnothing of that name")
	o, err := newOutlet(func(ctx context.Context, network, addr string) (net.Conn, error) {
		if addr != "ca.example:443" {
			return nil, refusal
		}
		return (&net.Dialer{}).DialContext(ctx, network, server.Listener.Addr().String())
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = o.Close() }()
	ask := func(address string, proxy func(*http.Request) (*url.URL, error)) (string, error) {
		config := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
		config.VerifyConnection, config.InsecureSkipVerify = nil, true
		transport := &http.Transport{Proxy: proxy, TLSClientConfig: config}
		defer transport.CloseIdleConnections()
		res, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Get(address)
		if err != nil {
			return "", err
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
	if got, err := ask("https://ca.example/", o.proxy); err != nil || got != "an authority" {
		t.Errorf("%q %v", got, err)
	}
	if _, err := ask("https://other.example/", o.proxy); err == nil || !strings.Contains(err.Error(), "resolve ca.example: nothing of that name") {
		t.Errorf("a refusal reads %v", err)
	} else if strings.Contains(err.Error(), o.user.String()) {
		t.Errorf("the key is in %v", err)
	}
	stranger := func(u *url.Userinfo) func(*http.Request) (*url.URL, error) {
		return func(*http.Request) (*url.URL, error) {
			return &url.URL{Scheme: "http", Host: o.Addr().String(), User: u}, nil
		}
	}
	for name, proxy := range map[string]func(*http.Request) (*url.URL, error){
		"no key": stranger(nil), "another key": stranger(url.UserPassword("acme", "AAAAAAAAAAAAAAAAAAAAAAAAAA")),
	} {
		if got, err := ask("https://ca.example/", proxy); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
	for _, first := range []string{"GET http://ca.example/ HTTP/1.1\r\nHost: ca.example\r\n\r\n", "\x16\x03\x01\x00\x05hello", "CONNECT ca.example:443 HTTP/1.1\r\nX: " + strings.Repeat("x", 9000) + "\r\n\r\n"} {
		c, err := net.Dial("tcp", o.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(c, first)
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := c.Read(make([]byte, 100)); n > 0 || err == nil {
			t.Errorf("%.20q was answered", first)
		}
		_ = c.Close()
	}
	// So many silent ones, and no more.
	var silent []net.Conn
	for range outletConns + 1 {
		c, err := net.Dial("tcp", o.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		silent = append(silent, c)
	}
	last := silent[outletConns]
	_ = last.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := last.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !strings.Contains(err.Error(), "reset") {
		t.Errorf("one too many: %v", err)
	}
	began := time.Now()
	_ = o.Close()
	if took := time.Since(began); took > outletHead/2 {
		t.Errorf("closing took %v", took)
	}
}

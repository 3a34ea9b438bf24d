package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"go.uber.org/goleak"

	"hafen/configs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	ownName  = "gw.hospital.example"
	callHost = "call.cloud.example"
)

// world is a gateway on loopback with a call server and a region behind it.
type world struct {
	t       *testing.T
	gateway *Gateway
	addr    string // of the one port
	roots   *x509.CertPool
	log     *written
}

// newWorld starts a gateway; change edits its configuration first.
func newWorld(t *testing.T, change ...func(*configs.Config)) *world {
	t.Helper()
	w := &world{t: t, log: &written{}, roots: x509.NewCertPool()}
	cfg := configs.Default()
	cfg.Name = ownName
	cfg.Listen = configs.Listen{HTTPS: []string{"127.0.0.1:0"}, Metrics: "127.0.0.1:0"}
	cfg.DataDir, cfg.RunDir = t.TempDir(), t.TempDir()
	cfg.PAC.Otherwise = "DIRECT"
	cfg.Services = []configs.Service{service("calls", newRegion(t), callHost)}
	for _, f := range change {
		f(cfg)
	}
	var err error
	w.gateway, err = New(Options{Config: cfg, Log: slog.New(slog.NewTextHandler(w.log, nil)), Version: "test"})
	if err != nil {
		t.Fatal(err)
	}
	if err := w.gateway.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.gateway.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	w.addr = w.gateway.Addrs()[0].String()
	w.roots.AppendCertsFromPEM(w.gateway.certs().Root())
	return w
}

// service is a call service on loopback.
func service(name string, region *region, hosts ...string) configs.Service {
	return configs.Service{
		Name: name, Hosts: hosts, Choose: "nearest", PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Regions: []configs.Region{{Name: name + "-region", URLs: []string{region.url()}, Use: true}},
	}
}

// region answers Binding requests, challenges Allocates, and keeps what it gets of them.
type region struct {
	conn   *net.UDPConn
	got    chan []byte // Allocates of clients, as this file makes them
	signed chan []byte // Allocates with a MESSAGE-INTEGRITY: the gateway's own probes
}

func newRegion(t *testing.T) *region {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	r := &region{conn: conn, got: make(chan []byte, 64), signed: make(chan []byte, 64)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.answer()
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return r
}

const regionRealm, regionNonce = "cloud.example", "a-nonce-of-the-region"

func (r *region) answer() {
	buf := make([]byte, 2048)
	for {
		n, from, err := r.conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		msg := &stun.Message{Raw: bytes.Clone(buf[:n])}
		if msg.Decode() != nil {
			continue
		}
		switch {
		case msg.Type == stun.BindingRequest:
			_, _ = r.conn.WriteToUDPAddrPort(bindingSuccess(msg.Raw, from), from)
		case msg.Contains(stun.AttrMessageIntegrity):
			keep(r.signed, msg.Raw)
		case bytes.Equal(msg.TransactionID[:], stunRequest(0x0003)[8:]):
			keep(r.got, msg.Raw)
		default:
			refusal, err := stun.Build(msg, stun.NewType(msg.Type.Method, stun.ClassErrorResponse), stun.CodeUnauthorized,
				stun.NewRealm(regionRealm), stun.NewNonce(regionNonce))
			if err == nil {
				_, _ = r.conn.WriteToUDPAddrPort(refusal.Raw, from)
			}
		}
	}
}

// keep does not wait: what a test does not look at is dropped.
func keep(to chan []byte, msg []byte) {
	select {
	case to <- msg:
	default:
	}
}

func (r *region) url() string { return fmt.Sprintf("turn:%s?transport=udp", r.conn.LocalAddr()) }

// stunRequest is a request without attributes (RFC 8489 section 5).
func stunRequest(method uint16) []byte {
	m := make([]byte, 20)
	binary.BigEndian.PutUint16(m, method)
	binary.BigEndian.PutUint32(m[4:], 0x2112A442)
	copy(m[8:], "transaction!")
	return m
}

func bindingSuccess(req []byte, from netip.AddrPort) []byte {
	m := bytes.Clone(req[:20])
	binary.BigEndian.PutUint16(m, 0x0101)
	attr := []byte{0x00, 0x20, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0} // XOR-MAPPED-ADDRESS, IPv4
	binary.BigEndian.PutUint16(attr[6:], from.Port()^0x2112)
	a := from.Addr().Unmap().As4()
	binary.BigEndian.PutUint32(attr[8:], binary.BigEndian.Uint32(a[:])^0x2112A442)
	binary.BigEndian.PutUint16(m[2:], uint16(len(attr)))
	return append(m, attr...)
}

// dial connects to the one port, in TLS with a name, or plainly without.
func (w *world) dial(name string) net.Conn {
	w.t.Helper()
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if name == "" {
		return conn
	}
	secure := tls.Client(conn, &tls.Config{ServerName: name, RootCAs: w.roots, NextProtos: []string{"http/1.1"}})
	if err := secure.Handshake(); err != nil {
		w.t.Fatalf("handshake for %s: %v", name, err)
	}
	return secure
}

// ask sends a request line by line and reads the answer.
func (w *world) ask(conn net.Conn, head string) (int, string) {
	w.t.Helper()
	if _, err := io.WriteString(conn, strings.ReplaceAll(head, "\n", "\r\n")+"\r\n\r\n"); err != nil {
		w.t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatalf("%q: %v", head, err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return res.StatusCode, string(body)
}

// metrics asks the machines' listener.
func (w *world) machines(path string) (int, string) {
	w.t.Helper()
	res, err := http.Get("http://" + w.gateway.Addrs()[1].String() + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer func() { _ = res.Body.Close() }()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	http.DefaultClient.CloseIdleConnections()
	return res.StatusCode, string(body)
}

// until polls for what comes a moment later.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited 10 s for %s\n%s", what, w.log)
		}
	}
}

// TestWalk is the table of who knocks on the one port.
func TestWalk(t *testing.T) {
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "call server: %s %s", r.Host, r.URL.Path)
	}))
	defer upstream.Close()
	w := newWorld(t, func(c *configs.Config) {
		c.Signaling.Routes = []configs.Route{{Host: callHost, Path: "/", Upstream: upstream.URL, Service: "calls"}}
	})
	for name, tc := range map[string]struct {
		sni, head string
		code      int
		body      string
	}{
		"front door":          {ownName, "GET / HTTP/1.1\nHost: " + ownName, 200, "<h1>"},
		"by address":          {ownName, "GET / HTTP/1.1\nHost: 127.0.0.1", 200, "<h1>"},
		"precall":             {ownName, "GET /precall/ HTTP/1.1\nHost: " + ownName, 200, "<h1"},
		"status":              {ownName, "GET /status/ HTTP/1.1\nHost: " + ownName, 200, "hafen passwd"},
		"PAC file":            {ownName, "GET /proxy.pac HTTP/1.1\nHost: " + ownName, 200, "FindProxyForURL"},
		"unknown host":        {ownName, "GET / HTTP/1.1\nHost: evil.example", 421, "no host of that name"},
		"metrics are not":     {ownName, "GET /metrics HTTP/1.1\nHost: " + ownName, 404, ""},
		"CONNECT elsewhere":   {ownName, "CONNECT evil.example:443 HTTP/1.1\nHost: evil.example:443", 403, "evil.example"},
		"CONNECT to ourself":  {ownName, "CONNECT " + ownName + ":443 HTTP/1.1\nHost: " + ownName + ":443", 403, ""},
		"plain HTTP":          {"", "GET /precall/ HTTP/1.1\nHost: " + ownName, 302, ""},
		"plain CONNECT":       {"", "CONNECT evil.example:443 HTTP/1.1\nHost: evil.example:443", 403, "evil.example"},
		"livez":               {ownName, "GET /livez HTTP/1.1\nHost: " + ownName, 200, "ok"},
		"GET of a proxy":      {ownName, "GET http://" + callHost + "/ HTTP/1.1\nHost: " + callHost, 405, ""},
		"OPTIONS *":           {ownName, "OPTIONS * HTTP/1.1\nHost: evil.example", 421, ""},
		"routed, other's SNI": {ownName, "GET / HTTP/1.1\nHost: " + callHost, 421, ""},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := w.ask(w.dial(tc.sni), tc.head)
			if code != tc.code || !strings.Contains(body, tc.body) {
				t.Errorf("%d %.200s, want %d %q", code, body, tc.code, tc.body)
			}
		})
	}
}

// TestUnknownName: a name that is nobody's gets alert 112, unrecognized_name, and no certificate.
func TestUnknownName(t *testing.T) {
	w := newWorld(t)
	conn, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	err = tls.Client(conn, &tls.Config{ServerName: "evil.example", InsecureSkipVerify: true}).Handshake()
	if err == nil || !strings.Contains(err.Error(), "unrecognized name") {
		t.Errorf("%v, want alert 112", err)
	}
}

// TestGarbage: what is no protocol of ours is closed without a byte, and counted.
func TestGarbage(t *testing.T) {
	w := newWorld(t)
	for _, first := range []string{"SSH-2.0-x\r\n", "\x03\x00\x00\x13\x0e\xe0\x00\x00", "\x80\x2e\x01\x00\x02\x00\x15\x00", "\x40\x00\x00\x10aaaabbbb", "\xff\xff\xff\xff\xff\xff\xff\xff"} {
		conn := w.dial("")
		if _, err := io.WriteString(conn, first); err != nil {
			t.Fatal(err)
		}
		if answer, _ := io.ReadAll(conn); len(answer) > 0 {
			t.Errorf("%q is answered %q", first, answer)
		}
	}
	w.until("five refused protocols in the metrics", func() bool {
		_, body := w.machines("/metrics")
		return strings.Contains(body, `hafen_mux_ended_total{status="err_protocol"} 5`)
	})
}

// TestBinding: STUN on the same port, plain and inside TLS, a byte at a time, is answered with the client's own address.
func TestBinding(t *testing.T) {
	w := newWorld(t)
	for _, name := range []string{"", ownName} {
		conn := w.dial(name)
		req := stunRequest(0x0001)
		for i := range req {
			if _, err := conn.Write(req[i : i+1]); err != nil {
				t.Fatal(err)
			}
		}
		answer := make([]byte, 32)
		if _, err := io.ReadFull(conn, answer); err != nil {
			t.Fatalf("SNI %q: %v", name, err)
		}
		from, _ := addrPort(conn.LocalAddr())
		if want := bindingSuccess(req, from); !bytes.Equal(answer, want) {
			t.Errorf("SNI %q: % x, want % x", name, answer, want)
		}
	}
}

// TestTwoServices: each service has relays and a secret of its own. A client's TURN goes to the relays of the service whose gateway
// name it asked for, and to no other's; and what the gateway signs towards a relay, it signs with that service's secret.
func TestTwoServices(t *testing.T) {
	regions := map[string]*region{"north": newRegion(t), "south": newRegion(t)}
	secrets := map[string]string{"north": "the secret of the north", "south": "another one, of the south"}
	w := newWorld(t, func(c *configs.Config) {
		c.Services = nil
		for _, name := range []string{"north", "south"} {
			s := service(name, regions[name], "call."+name+".example")
			s.TURNCredentials.SecretFile = filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(s.TURNCredentials.SecretFile, []byte(secrets[name]+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			c.Services = append(c.Services, s)
		}
		c.Services[1].GatewayName = "south-gw.hospital.example"
	})
	w.until("both regions to be up", func() bool {
		code, _ := w.machines("/readyz?strict=1")
		return code == 200
	})
	for name, sni := range map[string]string{"north": ownName, "south": "south-gw.hospital.example"} {
		conn := w.dial(sni)
		allocate := stunRequest(0x0003)
		if _, err := conn.Write(allocate); err != nil {
			t.Fatal(err)
		}
		select {
		case got := <-regions[name].got:
			if !bytes.Equal(got[:20], allocate) {
				t.Errorf("%s: the region got % x", name, got)
			}
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: the region got nothing\n%s", name, w.log)
		}
		for other, r := range regions {
			if other != name && len(r.got) > 0 {
				t.Errorf("an Allocate for %s came to %s", name, other)
			}
		}
		_ = conn.Close()
		for _, r := range regions { // retransmissions of the same Allocate
			for len(r.got) > 0 {
				<-r.got
			}
		}
	}
	for name, r := range regions {
		select {
		case msg := <-r.signed:
			for of, secret := range secrets {
				if got, want := signedWith(msg, secret), of == name; got != want {
					t.Errorf("what came to %s is signed with the secret of %s: %v", name, of, got)
				}
			}
		case <-time.After(10 * time.Second):
			t.Errorf("%s: the region got no signed probe\n%s", name, w.log)
		}
	}
}

// signedWith reports whether a message carries a time-limited user name and a MESSAGE-INTEGRITY of the password that the secret
// gives it.
func signedWith(raw []byte, secret string) bool {
	msg := &stun.Message{Raw: bytes.Clone(raw)}
	var user stun.Username
	if msg.Decode() != nil || user.GetFrom(msg) != nil {
		return false
	}
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(user))
	password := base64.StdEncoding.EncodeToString(mac.Sum(nil))
	return stun.NewLongTermIntegrity(user.String(), regionRealm, password).Check(msg) == nil
}

// TestNotAClient: whoever is outside the client networks gets one sentence with the address that we saw, whatever is asked
// for; health is for everybody.
func TestNotAClient(t *testing.T) {
	w := newWorld(t, func(c *configs.Config) {
		c.Clients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Site.Help = "0123 456"
	})
	for _, head := range []string{"GET / HTTP/1.1\nHost: " + ownName, "GET /proxy.pac HTTP/1.1\nHost: " + ownName, "CONNECT " + callHost + ":443 HTTP/1.1\nHost: " + callHost + ":443"} {
		code, body := w.ask(w.dial(ownName), head)
		if code != 403 || !strings.Contains(body, "127.0.0.1") || !strings.Contains(body, "0123 456") {
			t.Errorf("%s: %d %s", head, code, body)
		}
	}
	if code, _ := w.ask(w.dial(ownName), "GET /livez HTTP/1.1\nHost: "+ownName); code != 200 {
		t.Errorf("livez: %d", code)
	}
	conn := w.dial("")
	_, _ = conn.Write(stunRequest(0x0001))
	if answer, _ := io.ReadAll(conn); len(answer) > 0 {
		t.Errorf("STUN from outside is answered % x", answer)
	}
	_, body := w.machines("/api/v1/status")
	if !strings.Contains(body, `"network":"127.0.0.0/24"`) {
		t.Errorf("the status names no refused network: %s", body)
	}
}

// TestDrain: readyz says so at once, new connections are turned away, a live session goes on to its end, and then all is over.
func TestDrain(t *testing.T) {
	hold := make(chan struct{})
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		<-hold
		_, _ = io.WriteString(w, "held to the end")
	}))
	defer upstream.Close()
	w := newWorld(t, func(c *configs.Config) {
		c.Signaling.Routes = []configs.Route{{Host: ownName + ".calls", Path: "/", Upstream: upstream.URL, Service: "calls"}}
		c.Aliases = nil
	})
	conn := w.dial(ownName + ".calls")
	if _, err := fmt.Fprintf(conn, "GET /poll HTTP/1.1\r\nHost: %s.calls\r\n\r\n", ownName); err != nil {
		t.Fatal(err)
	}
	w.until("the poll to be held", func() bool { return w.gateway.live() == 1 })
	w.gateway.Drain(time.Minute)
	if code, body := w.machines("/readyz"); code != 503 || !strings.Contains(body, "draining") {
		t.Errorf("readyz: %d %s", code, body)
	}
	if code, body := w.ask(w.dial(ownName), "GET / HTTP/1.1\nHost: "+ownName); code != 503 || !strings.Contains(body, "restarted") {
		t.Errorf("a new connection: %d %s", code, body)
	}
	select {
	case <-w.gateway.Drained():
		t.Error("drained with a live session")
	default:
	}
	close(hold)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "held to the end" {
		t.Errorf("the poll: %q", body)
	}
	_ = res.Body.Close()
	select {
	case <-w.gateway.Drained():
	case <-time.After(5 * time.Second):
		t.Error("not drained after the last session's end")
	}
}

// TestBindErrors: a port in use gets one plain sentence that names the key, and nothing stays bound.
func TestBindErrors(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	first := free.Addr().String()
	_ = free.Close()
	cfg := configs.Default()
	cfg.Name = ownName
	cfg.DataDir, cfg.RunDir = t.TempDir(), t.TempDir()
	cfg.Listen = configs.Listen{HTTPS: []string{first}, Metrics: taken.Addr().String()}
	g, err := New(Options{Config: cfg})
	if err != nil {
		t.Fatal(err)
	}
	err = g.Start(t.Context())
	if err == nil || !strings.HasPrefix(err.Error(), "listen.metrics: can't listen at "+taken.Addr().String()) || !strings.Contains(err.Error(), "another program") {
		t.Errorf("%v", err)
	}
	again, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatalf("listen.https stays bound: %v", err)
	}
	_ = again.Close()
}

// TestRedirect: plain HTTP on the one port leads to the same port in TLS.
func TestRedirect(t *testing.T) {
	w := newWorld(t)
	conn := w.dial("")
	_, _ = fmt.Fprintf(conn, "GET /precall/?x=1 HTTP/1.1\r\nHost: %s\r\n\r\n", ownName)
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	_ = res.Body.Close()
	_, port, _ := net.SplitHostPort(w.addr)
	if got, want := res.Header.Get("Location"), "https://"+net.JoinHostPort(ownName, port)+"/precall/?x=1"; got != want {
		t.Errorf("Location %q, want %q", got, want)
	}
}

// TestDrainWaitsForPassthrough: a connection that is passed through unread is a live session too.
func TestDrainWaitsForPassthrough(t *testing.T) {
	upstream := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "still here") }))
	defer upstream.Close()
	to, _ := addrPort(upstream.Listener.Addr())
	w := newWorld(t, func(c *configs.Config) {
		c.Hosts = []configs.Host{{Host: "relay.cloud.example", IP: to.Addr()}}
		c.Services[0].Regions = append(c.Services[0].Regions, configs.Region{Name: "tls", URLs: []string{fmt.Sprintf("turns:relay.cloud.example:%d?transport=tcp", to.Port())}, Use: true})
	})
	raw, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = raw.Close() }()
	conn := tls.Client(raw, &tls.Config{ServerName: "relay.cloud.example", InsecureSkipVerify: true})
	if err := conn.Handshake(); err != nil {
		t.Fatal(err)
	}
	w.gateway.Drain(time.Minute)
	select {
	case <-w.gateway.Drained():
		t.Fatal("drained with a connection passing through")
	case <-time.After(500 * time.Millisecond):
	}
	if code, body := w.ask(conn, "GET / HTTP/1.1\nHost: relay.cloud.example\nConnection: close"); code != 200 || body != "still here" {
		t.Errorf("%d %s", code, body)
	}
	_ = conn.Close()
	select {
	case <-w.gateway.Drained():
	case <-time.After(5 * time.Second):
		t.Error("not drained after the last connection's end")
	}
}

// written is what was logged, by whatever runs beside the test.
type written struct {
	mu   sync.Mutex
	text strings.Builder
}

func (w *written) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.Write(b)
}

func (w *written) String() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

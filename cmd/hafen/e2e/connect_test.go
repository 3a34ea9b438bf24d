package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

const (
	shopName       = "shop.cloud.example"   // a call server that does all that call servers do
	routedShopName = "routed.cloud.example" // the same; the gateway holds a certificate for it
	shopAddr       = "10.20.0.4"
)

// longHold makes the long-poll as long as real ones are held: see holdFor.
const longHold = "HAFEN_E2E_LONGPOLL"

// holdFor is how long the long-poll of the matrix is held.
func holdFor() time.Duration {
	if os.Getenv(longHold) != "" {
		return 185 * time.Second
	}
	return 33 * time.Second // longer than a connection may take to say what it is
}

// shop is that call server. What comes in pieces waits for the test to have seen the piece before.
type shop struct {
	next map[string]chan struct{} // by the way that the request came
}

func (l *laboratory) startShop(t testing.TB) *shop {
	t.Helper()
	l.cloud.run(t, "ip", "addr", "add", shopAddr+"/24", "dev", "eth0")
	certFile, keyFile := l.ca.issue(t, shopName, routedShopName)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	ln, err := l.cloud.listen("tcp", shopAddr+":443")
	must(t, err)
	s := &shop{next: make(map[string]chan struct{})}
	for way := range everyWay() {
		s.next[way] = make(chan struct{}, 1)
	}
	server := &http.Server{Handler: s.routes(), ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{cert}})) }()
	t.Cleanup(func() { _ = server.Close() })
	return s
}

func (s *shop) routes() http.Handler {
	mux := http.NewServeMux()
	say := func(w http.ResponseWriter, text string) {
		_, _ = io.WriteString(w, text)
		_ = http.NewResponseController(w).Flush()
	}
	mux.HandleFunc("/page", func(w http.ResponseWriter, _ *http.Request) { say(w, "<title>shop</title>") })
	mux.HandleFunc("POST /fetch", func(w http.ResponseWriter, r *http.Request) { _, _ = io.Copy(w, r.Body) })
	mux.HandleFunc("PUT /upload", func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		_, _ = io.Copy(sum, r.Body)
		say(w, hex.EncodeToString(sum.Sum(nil)))
	})
	mux.HandleFunc("/events", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			say(w, fmt.Sprintf("data: %d\n\n", i))
			<-s.next[r.FormValue("way")]
		}
	})
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(holdFor()):
			say(w, "news")
		case <-r.Context().Done():
		}
	})
	mux.HandleFunc("/late", func(w http.ResponseWriter, _ *http.Request) {
		time.Sleep(12 * time.Second) // longer than a connection may take to say what it is
		say(w, "late")
	})
	mux.HandleFunc("/dies", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "100")
		say(w, "half")
		panic(http.ErrAbortHandler)
	})
	mux.HandleFunc("/resets", func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_ = conn.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0)
		_ = conn.(*tls.Conn).NetConn().Close()
	})
	mux.HandleFunc("/ws", func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		for {
			kind, b, err := c.Read(r.Context())
			if err != nil || c.Write(r.Context(), kind, b) != nil {
				return
			}
		}
	})
	return mux
}

// wayThere is one way from an office to a call server.
type wayThere struct {
	host  string // of the call server
	names map[string]string
	proxy string // "": none
	rule  string
}

// everyWay is all that there are.
func everyWay() map[string]wayThere {
	proxied := map[string]string{gatewayName: gatewayAddr}
	return map[string]wayThere{
		"connect":     {host: shopName, names: proxied, proxy: "https://" + gatewayName + ":443", rule: onlyGateway},
		"plain":       {host: shopName, names: proxied, proxy: "http://" + gatewayName + ":3128", rule: "ip daddr " + gatewayAddr + " tcp dport 3128"},
		"passthrough": {host: shopName, names: map[string]string{shopName: gatewayAddr}, rule: onlyGateway},
		"route":       {host: routedShopName, names: map[string]string{routedShopName: gatewayAddr}, rule: onlyGateway},
	}
}

// TestEveryWay is the matrix of what call servers do: through CONNECT in TLS and in plain HTTP, past the gateway by SNI, and through a route.
// All at once, for most of it is waiting.
func TestEveryWay(t *testing.T) {
	t.Parallel()
	l := newLaboratory(t, func(cfg string) string {
		cfg = strings.Replace(cfg, "{https: /healthz}", "{call_servers: ["+callName+"], https: /healthz, websocket: /echo, longpoll: \"/hold?s=10\"}", 1)
		return strings.Replace(cfg, plainName+"]", plainName+", "+shopName+", "+routedShopName+"]", 1) +
			fmt.Sprintf("hosts: [{host: %s, ip: %s}, {host: %s, ip: %s}]\n", shopName, shopAddr, routedShopName, shopAddr)
	})
	l.withRoute(t, routedShopName, "{host: "+routedShopName+"}")
	m := &matrix{laboratory: l, shop: l.startShop(t), upload: filepath.Join(l.dir, "upload")}
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	must(t, os.WriteFile(m.upload, body, 0o644))
	sum := sha256.Sum256(body)
	m.sum = hex.EncodeToString(sum[:])
	together(t, func(run func(string, func(*testing.T))) {
		for name, way := range everyWay() {
			ward := l.office(name, way.names, way.rule)
			run(name, func(t *testing.T) { m.try(t, name, way, ward) })
		}
	})
	waitForMetric(t, l, "hafen_forward_tunnels", 0)
	if n := l.metric(`hafen_forward_connects_total{status="ok"}`); n < 20 {
		t.Errorf("the gateway counts %v CONNECTs that went well, want 20 at least", n)
	}
	waitForOr(t, "three probes of the call server to come through", 30*time.Second, func() bool {
		up := 0
		for _, s := range l.snapshot().CallServers {
			if s.Host == callName && s.State == "up" {
				up++
			}
		}
		return up == 3
	}, func() string { return fmt.Sprintf("%+v", l.snapshot().CallServers) })
	if n := l.metric(`hafen_signaling_requests_total`); n < 10 {
		t.Errorf("the gateway counts %v requests on its route, want 10 at least", n)
	}
}

// matrix is the laboratory with the call server that does everything.
type matrix struct {
	*laboratory
	shop        *shop
	upload, sum string // a file, and its hash
}

// try asks for everything on one way.
func (m *matrix) try(t *testing.T, name string, way wayThere, ward *namespace) {
	curl := func(path string, args ...string) *exec.Cmd {
		args = append([]string{"-sS", "--max-time", "240", "--no-buffer", "--cacert", m.ca.file, "--proxy-cacert", m.ca.file}, args...)
		if way.proxy != "" {
			args = append(args, "--proxy", way.proxy)
		}
		return ward.command(t.Context(), "curl", append(args, "https://"+way.host+path)...)
	}
	resets, resetsExit := "", 56
	if name == "route" { // the gateway says what has happened
		resets, resetsExit = way.host+" broke off the connection before it answered (err_upstream).\n", 0
	}
	together(t, func(run func(string, func(*testing.T))) {
		for _, row := range []struct {
			path string
			args []string
			want string
			exit int // curl's; other than 0 it may be any that is not
		}{
			{"/page", nil, "<title>shop</title>", 0},
			{"/page", []string{"--http1.1"}, "<title>shop</title>", 0},
			{"/fetch", []string{"-H", "Content-Type: application/json", "-d", `{"a":1}`}, `{"a":1}`, 0},
			{"/upload", []string{"-T", m.upload}, m.sum, 0},
			{"/hold", nil, "news", 0},
			{"/hold", []string{"--http1.1"}, "news", 0},
			{"/late", nil, "late", 0},
			{"/dies", nil, "half", 18},
			{"/dies", []string{"--http1.1"}, "half", 18},
			{"/resets", []string{"--http1.1"}, resets, resetsExit},
		} {
			run(strings.Join(append([]string{row.path[1:]}, row.args[:min(len(row.args), 1)]...), ""), func(t *testing.T) {
				out, err := curl(row.path, row.args...).Output()
				var exit *exec.ExitError
				code := 0
				if errors.As(err, &exit) {
					code = exit.ExitCode()
				}
				if string(out) != row.want || (code == 0) != (row.exit == 0) {
					t.Errorf("%q, curl's exit %d; want %q, %d", out, code, row.want, row.exit)
				}
			})
		}
		run("events", func(t *testing.T) { m.shop.events(t, name, curl("/events?way="+name)) })
		run("ws", func(t *testing.T) { m.echoWebSocket(t, ward, way) })
	})
}

// events reads server-sent events, each of which is sent only when the one before has been read.
func (s *shop) events(t *testing.T, way string, curl *exec.Cmd) {
	t.Helper()
	pipe, err := curl.StdoutPipe()
	must(t, err)
	must(t, curl.Start())
	lines := bufio.NewScanner(pipe)
	for i := range 3 {
		for lines.Scan() && lines.Text() == "" {
		}
		if want := fmt.Sprintf("data: %d", i); lines.Text() != want {
			t.Errorf("%q, want %q", lines.Text(), want)
		}
		s.next[way] <- struct{}{}
	}
	must(t, curl.Wait())
}

// echoWebSocket sends messages small and large, and waits for each.
func (l *laboratory) echoWebSocket(t *testing.T, ward *namespace, way wayThere) {
	t.Helper()
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(l.ca.file)
	must(t, err)
	roots.AppendCertsFromPEM(pem)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			host, port, err := net.SplitHostPort(addr)
			must(t, err)
			return ward.dial(ctx, network, way.names[host]+":"+port)
		},
	}
	if way.proxy != "" {
		via, err := url.Parse(way.proxy)
		must(t, err)
		transport.Proxy = http.ProxyURL(via)
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "wss://"+way.host+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
	must(t, err)
	defer func() { _ = c.CloseNow() }()
	for _, size := range []int{1, 100, 30_000} {
		sent := bytes.Repeat([]byte("w"), size)
		must(t, c.Write(ctx, websocket.MessageText, sent))
		_, got, err := c.Read(ctx)
		must(t, err)
		if !bytes.Equal(got, sent) {
			t.Errorf("%d bytes came back as %d", len(sent), len(got))
		}
	}
	must(t, c.Close(websocket.StatusNormalClosure, ""))
}

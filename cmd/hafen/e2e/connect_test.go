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
	shopName = "shop.cloud.example" // a call server that does all that call servers do
	shopAddr = "10.20.0.4"
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
	next chan struct{}
}

func (l *laboratory) startShop(t testing.TB) *shop {
	t.Helper()
	l.cloud.run(t, "ip", "addr", "add", shopAddr+"/24", "dev", "eth0")
	certFile, keyFile := l.ca.issue(t, shopName)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	ln, err := l.cloud.listen("tcp", shopAddr+":443")
	must(t, err)
	s := &shop{next: make(chan struct{}, 1)}
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
	mux.HandleFunc("/events", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/event-stream")
		for i := range 3 {
			say(w, fmt.Sprintf("data: %d\n\n", i))
			<-s.next
		}
	})
	mux.HandleFunc("/hold", func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(holdFor()):
			say(w, "news")
		case <-r.Context().Done():
		}
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

// TestThroughCONNECT is the matrix of what call servers do, through CONNECT in TLS and in plain HTTP.
func TestThroughCONNECT(t *testing.T) {
	var s *shop
	l := newLaboratory(t, func(cfg string) string {
		return strings.Replace(cfg, plainName+"]", plainName+", "+shopName+"]", 1) + fmt.Sprintf("hosts: [{host: %s, ip: %s}]\n", shopName, shopAddr)
	})
	s = l.startShop(t)
	file := filepath.Join(l.dir, "upload")
	body := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	must(t, os.WriteFile(file, body, 0o644))
	sum := sha256.Sum256(body)
	ran := 0.0
	for name, way := range map[string]struct{ proxy, rule string }{
		"TLS":   {"https://" + gatewayName + ":443", onlyGateway},
		"plain": {"http://" + gatewayName + ":3128", "ip daddr " + gatewayAddr + " tcp dport 3128"},
	} {
		ward := l.office("ward"+strings.ToLower(name), map[string]string{gatewayName: gatewayAddr}, way.rule)
		curl := func(path string, args ...string) *exec.Cmd {
			args = append([]string{"-sS", "--max-time", "240", "--no-buffer", "--cacert", l.ca.file, "--proxy-cacert", l.ca.file, "--proxy", way.proxy}, args...)
			return ward.command(t.Context(), "curl", append(args, "https://"+shopName+path)...)
		}
		for _, row := range []struct {
			path string
			args []string
			want string
			exit int // curl's
		}{
			{"/page", nil, "<title>shop</title>", 0},
			{"/page", []string{"--http1.1"}, "<title>shop</title>", 0},
			{"/fetch", []string{"-H", "Content-Type: application/json", "-d", `{"a":1}`}, `{"a":1}`, 0},
			{"/upload", []string{"-T", file}, hex.EncodeToString(sum[:]), 0},
			{"/hold", nil, "news", 0},
			{"/dies", nil, "half", 18},
			{"/resets", []string{"--http1.1"}, "", 56},
		} {
			t.Run(name+row.path, func(t *testing.T) {
				ran++
				out, err := curl(row.path, row.args...).Output()
				var exit *exec.ExitError
				code := 0
				if errors.As(err, &exit) {
					code = exit.ExitCode()
				}
				if string(out) != row.want || code != row.exit && !(row.exit != 0 && code != 0) {
					t.Errorf("%q, curl's exit %d; want %q, %d", out, code, row.want, row.exit)
				}
			})
		}
		t.Run(name+"/events", func(t *testing.T) { ran++; s.events(t, curl("/events")) })
		t.Run(name+"/ws", func(t *testing.T) { ran++; l.echoWebSocket(t, ward, way.proxy) })
	}
	if n := l.metric(`hafen_forward_connects_total{status="ok"}`); n < ran {
		t.Errorf("the gateway counts %v CONNECTs that went well, want %v at least", n, ran)
	}
	waitForMetric(t, l, "hafen_forward_tunnels", 0)
}

// events reads server-sent events, each of which is sent only when the one before has been read.
func (s *shop) events(t *testing.T, curl *exec.Cmd) {
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
		s.next <- struct{}{}
	}
	must(t, curl.Wait())
}

// echoWebSocket sends messages small and large through the proxy, and waits for each.
func (l *laboratory) echoWebSocket(t *testing.T, ward *namespace, proxy string) {
	t.Helper()
	roots := x509.NewCertPool()
	pem, err := os.ReadFile(l.ca.file)
	must(t, err)
	roots.AppendCertsFromPEM(pem)
	via, err := url.Parse(proxy)
	must(t, err)
	transport := &http.Transport{
		Proxy: http.ProxyURL(via), TLSClientConfig: &tls.Config{RootCAs: roots},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return ward.dial(ctx, network, strings.Replace(addr, gatewayName, gatewayAddr, 1))
		},
	}
	defer transport.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	c, _, err := websocket.Dial(ctx, "wss://"+shopName+"/ws", &websocket.DialOptions{HTTPClient: &http.Client{Transport: transport}})
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

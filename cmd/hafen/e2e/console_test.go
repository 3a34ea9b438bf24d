package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// A console is open all day and shows who arrives. Firewalls forget connections on which nothing moves: usual ones after 5 or 30 minutes, here
// after 20 seconds, while the console waits for 50. What keeps its connections in their memory is the gateway, for the console of this test and
// its call server send nothing of their own, not even TCP keep-alives.
const (
	firewallMemory = 20 * time.Second
	consoleSilence = 50 * time.Second
	arrivalDelay   = time.Second // how late an arrival may show
)

// desk is a call server that says nothing until somebody arrives.
type desk struct {
	mu      sync.Mutex
	arrival chan struct{} // closed when somebody arrives
	polls   []time.Time   // when they came
	ended   []time.Time   // when they were answered
}

// hold is how long a poll is held: longer than the firewall remembers.
const hold = firewallMemory + 2*time.Second

func startDesk(t testing.TB, l *laboratory) *desk {
	t.Helper()
	d := &desk{arrival: make(chan struct{})}
	certFile, keyFile := l.ca.issue(t, callName+".desk", callName)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	var ln net.Listener
	must(t, l.cloud.do(func() (err error) {
		ln, err = (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", cloudAddr+":8443")
		return err
	}))
	mux := http.NewServeMux()
	mux.HandleFunc("/desk/ws", d.serveWebSocket)
	mux.HandleFunc("/desk/poll", d.servePoll)
	server := &http.Server{Handler: mux, TLSConfig: &tls.Config{Certificates: []tls.Certificate{cert}}, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = server.ServeTLS(ln, "", "") }()
	t.Cleanup(func() { _ = server.Close() })
	return d
}

func (d *desk) serveWebSocket(w http.ResponseWriter, r *http.Request) {
	conn, err := websocket.Accept(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = conn.CloseNow() }()
	ctx := conn.CloseRead(context.Background()) // answers pings, sends none
	select {
	case <-d.arrival:
		_ = conn.Write(ctx, websocket.MessageText, []byte("arrived"))
		<-ctx.Done()
	case <-ctx.Done():
	}
}

func (d *desk) servePoll(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.polls = append(d.polls, time.Now())
	d.mu.Unlock()
	answer := "nobody"
	select {
	case <-d.arrival:
		answer = "arrived"
	case <-time.After(hold):
	case <-r.Context().Done():
		return
	}
	d.mu.Lock()
	d.ended = append(d.ended, time.Now())
	d.mu.Unlock()
	_, _ = io.WriteString(w, answer)
}

// consoleClient speaks to the gateway from inside of an office under the call server's name.
func consoleClient(t testing.TB, l *laboratory, office *namespace, addr string) *http.Client {
	roots := x509.NewCertPool()
	roots.AddCert(l.ca.cert)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: callName, NextProtos: []string{"http/1.1"}},
		DialContext: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
			err = office.do(func() (err error) {
				conn, err = (&net.Dialer{FallbackDelay: -1, KeepAlive: -1}).DialContext(ctx, network, addr)
				return err
			})
			return conn, err
		},
	}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// watchSocket tells over a WebSocket when an arrival showed.
func watchSocket(t testing.TB, client *http.Client) <-chan time.Time {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	conn, res, err := websocket.Dial(ctx, "wss://"+callName+"/desk/ws", &websocket.DialOptions{HTTPClient: client})
	if err != nil {
		t.Fatalf("the console's WebSocket: %v %v", err, res)
	}
	t.Cleanup(func() { _ = conn.CloseNow() })
	shown := make(chan time.Time, 1)
	go func() {
		if _, _, err := conn.Read(ctx); err == nil {
			shown <- time.Now()
		}
	}()
	return shown
}

// watchPolls tells over long-polls when an arrival showed.
func watchPolls(t testing.TB, client *http.Client) <-chan time.Time {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	shown := make(chan time.Time, 1)
	go func() {
		for ctx.Err() == nil {
			req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+callName+"/desk/poll", nil)
			if err != nil {
				return
			}
			res, err := client.Do(req)
			if err != nil {
				continue
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err == nil && string(body) == "arrived" {
				shown <- time.Now()
				return
			}
		}
	}()
	return shown
}

func TestConsoleAllDay(t *testing.T) { scenarioWithout(t, consoleAllDay) }

func consoleAllDay(t *testing.T) {
	l := newLaboratory(t, func(cfg string) string {
		return cfg + "signaling: {keepalive: 5s, routes: [{host: " + callName + "}, {host: " + callName + ", path: /desk, upstream: \"https://" + callName + ":8443\"}]}\n"
	})
	d := startDesk(t, l)
	ward := l.office("ward", nil, onlyGateway, "ip daddr "+gatewayAddr+" tcp dport 9998")
	forgetful(t, l, ward)
	control := neglected(t, l, ward)
	proxied := forgetfulRelay(t, l)
	shown := map[string]<-chan time.Time{
		"the WebSocket":                          watchSocket(t, consoleClient(t, l, ward, gatewayAddr+":443")),
		"the long-poll":                          watchPolls(t, consoleClient(t, l, ward, gatewayAddr+":443")),
		"the WebSocket behind a forgetful proxy": watchSocket(t, consoleClient(t, l, l.dmz, proxied)),
	}
	time.Sleep(consoleSilence)
	arrived := time.Now()
	close(d.arrival)
	for what, showed := range shown {
		select {
		case at := <-showed:
			if late := at.Sub(arrived); late > arrivalDelay {
				t.Errorf("the arrival showed on %s after %v", what, late)
			}
		case <-time.After(5 * arrivalDelay):
			t.Errorf("the arrival never showed on %s", what)
		}
	}
	d.noGap(t)
	if control(t) {
		t.Error("the firewall remembers a connection that nobody keeps alive: this test shows nothing")
	}
}

// neglected opens a connection past the firewall that nobody keeps alive, and tells later whether bytes from the far end still arrive.
func neglected(t testing.TB, l *laboratory, office *namespace) (arrives func(testing.TB) bool) {
	t.Helper()
	var ln net.Listener
	var near net.Conn
	must(t, l.dmz.do(func() (err error) {
		ln, err = (&net.ListenConfig{KeepAlive: -1}).Listen(context.Background(), "tcp", gatewayAddr+":9998")
		return err
	}))
	t.Cleanup(func() { _ = ln.Close() })
	must(t, office.do(func() (err error) {
		near, err = (&net.Dialer{FallbackDelay: -1, KeepAlive: -1}).Dial("tcp", ln.Addr().String())
		return err
	}))
	t.Cleanup(func() { _ = near.Close() })
	far, err := ln.Accept()
	must(t, err)
	t.Cleanup(func() { _ = far.Close() })
	return func(t testing.TB) bool {
		_, err := far.Write([]byte("arrived"))
		must(t, err)
		_ = near.SetReadDeadline(time.Now().Add(2 * arrivalDelay))
		_, err = near.Read(make([]byte, 1))
		return err == nil
	}
}

// noGap checks that a poll followed the one before it at once, and that none was cut: else the answer of a poll is missing.
func (d *desk) noGap(t testing.TB) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	if want := int(consoleSilence/hold) + 1; len(d.polls) != want || len(d.ended) != want {
		t.Fatalf("%d polls came and %d were answered, want %d", len(d.polls), len(d.ended), want)
	}
	for i := range d.polls[1:] {
		if gap := d.polls[i+1].Sub(d.ended[i]); gap > arrivalDelay {
			t.Errorf("between two polls the console was away for %v", gap)
		}
	}
}

// forgetful makes the router in the middle a firewall that forgets the office's connections.
func forgetful(t testing.TB, l *laboratory, office *namespace) {
	t.Helper()
	core := l.net.core
	core.nft(t, `table inet forgetful {
 chain forward { type filter hook forward priority 0;
  ip saddr != `+office.addr+` ip daddr != `+office.addr+` accept
  ct state established accept
  tcp flags & (syn | ack) == syn ct state new accept
  drop
 }
}`)
	core.run(t, "sysctl", "-qw", "net.netfilter.nf_conntrack_tcp_loose=0", "net.netfilter.nf_conntrack_tcp_timeout_established=20")
}

// forgetfulRelay is a box that counts nothing but what connections carry, and cuts those that are silent for long. It stands beside the gateway.
func forgetfulRelay(t testing.TB, l *laboratory) string {
	t.Helper()
	ln, err := l.dmz.listen("tcp", gatewayAddr+":9999")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := l.dmz.dial(context.Background(), "tcp", gatewayAddr+":443")
			if err != nil {
				_ = in.Close()
				continue
			}
			go carry(in, out)
			go carry(out, in)
		}
	}()
	return ln.Addr().String()
}

// carry copies until nothing has moved for a while in this direction.
func carry(to, from net.Conn) {
	defer func() { _, _ = to.Close(), from.Close() }()
	buf := make([]byte, 4<<10)
	for {
		_ = from.SetReadDeadline(time.Now().Add(firewallMemory / 2))
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

package relay

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v2"
	"github.com/pion/turn/v4"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// house is a Server that listens on loopback: TLS, TCP and UDP.
type house struct {
	*Server
	t        *testing.T
	reg      *prometheus.Registry
	ca       *testCA
	tcp, tls net.Listener
	udp      *net.UDPConn

	mu   sync.Mutex
	ends []error
	wg   sync.WaitGroup
	log  lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newHouse makes a gateway's relay to one region with the given URLs; change may edit the options.
func newHouse(t *testing.T, urls []string, change func(*Options)) *house {
	t.Helper()
	h := &house{t: t, reg: prometheus.NewRegistry(), ca: newTestCA(t, "house")}
	config := &configs.Config{
		Name:    "gw.house.test",
		Clients: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		Relay:   configs.Relay{Mode: "bridge", Rungs: []string{"udp", "tcp", "tls"}, DSCP: "AF41"},
		Limits:  configs.Limits{AllocationsPerClient: 1000, Allocations: 4000, PendingPerClient: 200},
		Services: []configs.Service{{
			Name: "calls", Choose: "nearest", CAFile: h.ca.file, Regions: []configs.Region{{Name: "near", URLs: urls, Use: true}},
			PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		}},
	}
	opts := Options{
		Config: config, Registry: h.reg, Log: slog.New(slog.NewTextHandler(&h.log, nil)),
		Dialer: &netpolicy.Dialer{Policy: &netpolicy.Policy{}, Hosts: map[string][]netip.Addr{
			"region.test": {netip.MustParseAddr("127.0.0.1")},
		}},
	}
	if change != nil {
		change(&opts)
	}
	var err error
	if h.Server, err = New(opts); err != nil {
		t.Fatal(err)
	}
	if err := h.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.close)
	h.listen()
	return h
}

func (h *house) listen() {
	h.t.Helper()
	var err error
	if h.tcp, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		h.t.Fatal(err)
	}
	if h.tls, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		h.t.Fatal(err)
	}
	h.udp = listenUDP(h.t, "0.0.0.0:0")
	cert := h.ca.issue(h.t, "gw.house.test")
	h.wg.Add(3)
	go h.accept(h.tcp, nil)
	go h.accept(h.tls, &tls.Config{Certificates: []tls.Certificate{cert}})
	go func() { defer h.wg.Done(); _ = h.ServePacket(context.Background(), h.udp) }()
}

func (h *house) accept(l net.Listener, config *tls.Config) {
	defer h.wg.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		h.wg.Add(1)
		go func() {
			defer h.wg.Done()
			c := Client{Addr: conn.RemoteAddr().(*net.TCPAddr).AddrPort(), Local: conn.LocalAddr(), Via: "tcp"}
			if config != nil {
				c.Via = "tls"
				conn = tls.Server(&wire{Conn: conn}, config)
				if conn.(*tls.Conn).Handshake() != nil {
					_ = conn.Close()
					return
				}
			}
			end := h.ServeStream(conn, nil, c)
			h.mu.Lock()
			h.ends = append(h.ends, end)
			h.mu.Unlock()
		}()
	}
}

func (h *house) close() {
	_ = h.tcp.Close()
	_ = h.tls.Close()
	_ = h.Close()
	h.wg.Wait()
	if n := h.table.len(); n > 0 {
		h.t.Errorf("%d sessions are left", n)
	}
	if n := h.Live(); n != 0 {
		h.t.Errorf("%d allocations are left", n)
	}
	if h.table.taken != 0 || len(h.table.places) != 0 {
		h.t.Errorf("%d places are still taken, by %d clients", h.table.taken, len(h.table.places))
	}
}

// end is how the i-th stream ended, waited for.
func (h *house) end(i int) error {
	h.t.Helper()
	h.until("a session's end", func() bool { h.mu.Lock(); defer h.mu.Unlock(); return len(h.ends) > i })
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ends[i]
}

func (h *house) until(what string, done func() bool) {
	h.t.Helper()
	for end := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			h.t.Fatalf("%s: waited in vain; %+v", what, h.Status())
		}
	}
}

// metric is the sum of a metric over the series with these label values.
func (h *house) metric(name string, labels ...string) float64 {
	h.t.Helper()
	families, err := h.reg.Gather()
	if err != nil {
		h.t.Fatal(err)
	}
	sum := 0.0
	for _, f := range families {
		for _, m := range f.Metric {
			if f.GetName() == name && hasLabels(m, labels) {
				sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return sum
}

func hasLabels(m *dto.Metric, values []string) bool {
	have := map[string]bool{}
	for _, l := range m.Label {
		have[l.GetValue()] = true
	}
	for _, v := range values {
		if !have[v] {
			return false
		}
	}
	return true
}

// dial connects as a client: "tcp", "tls" or "udp".
func (h *house) dial(via string) net.Conn {
	h.t.Helper()
	var conn net.Conn
	var err error
	switch via {
	case "tcp":
		conn, err = net.Dial("tcp", h.tcp.Addr().String())
	case "tls":
		pool := &tls.Config{InsecureSkipVerify: true} // whose certificate it is, is another package's test
		conn, err = tls.Dial("tcp", h.tls.Addr().String(), pool)
	case "udp":
		conn, err = net.Dial("udp", h.udpAddr().String())
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func (h *house) udpAddr() *net.UDPAddr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: h.udp.LocalAddr().(*net.UDPAddr).Port}
}

// rawTURN speaks TURN by hand over a client's connection.
type rawTURN struct {
	t      *testing.T
	conn   net.Conn
	stream bool
	frames frameReader
	got    [][]byte
}

func (h *house) raw(via string) *rawTURN {
	h.t.Helper()
	return &rawTURN{t: h.t, conn: h.dial(via), stream: via != "udp"}
}

func (c *rawTURN) send(msgs ...[]byte) {
	c.t.Helper()
	for _, m := range msgs {
		if c.stream {
			m = appendPadded(nil, m)
		}
		if _, err := c.conn.Write(m); err != nil {
			c.t.Fatal(err)
		}
	}
}

// next is the next message; an error when the connection ends.
func (c *rawTURN) next() ([]byte, error) {
	buf := make([]byte, 1<<16)
	for len(c.got) == 0 {
		n, err := c.conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if !c.stream {
			return buf[:n], nil
		}
		if err := c.frames.split(buf[:n], time.Time{}, func(f []byte) error {
			c.got = append(c.got, bytes.Clone(f))
			return nil
		}); err != nil {
			return nil, err
		}
	}
	m := c.got[0]
	c.got = c.got[1:]
	return m, nil
}

func (c *rawTURN) want() []byte {
	c.t.Helper()
	m, err := c.next()
	if err != nil {
		c.t.Fatal(err)
	}
	return m
}

func (c *rawTURN) answer() *stun.Message {
	c.t.Helper()
	m := &stun.Message{Raw: c.want()}
	if err := m.Decode(); err != nil {
		c.t.Fatal(err)
	}
	return m
}

// silent fails when something arrives within a moment.
func (c *rawTURN) silent() {
	c.t.Helper()
	_ = c.conn.SetReadDeadline(time.Now().Add(150 * time.Millisecond))
	if m, err := c.next(); err == nil {
		c.t.Errorf("an answer, where silence was due: %x", m)
	}
	_ = c.conn.SetReadDeadline(time.Now().Add(20 * time.Second))
}

// closed waits for the connection's end.
func (c *rawTURN) closed() {
	c.t.Helper()
	for {
		if _, err := c.next(); err != nil {
			if ne, ok := err.(net.Error); ok && ne.Timeout() {
				c.t.Error("the connection stays open")
			}
			return
		}
	}
}

const (
	pionUser, pionPassword = "someone", "a password"
	pionRealm              = "region.test"
)

// newPionRegion is pion/turn as a region on loopback, over UDP, TCP and TLS.
func newPionRegion(t *testing.T, ca *testCA) (urls map[string]string) {
	t.Helper()
	udp := listenUDP(t, "127.0.0.1:0")
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	secure, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relays := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	all := func(net.Addr, net.IP) bool { return true }
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	config := turn.ServerConfig{
		Realm: pionRealm, LoggerFactory: quiet,
		AuthHandler: func(user, realm string, _ net.Addr) ([]byte, bool) {
			return turn.GenerateAuthKey(pionUser, realm, pionPassword), user == pionUser
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: udp, RelayAddressGenerator: relays, PermissionHandler: all}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: tcp, RelayAddressGenerator: relays, PermissionHandler: all}},
	}
	if ca != nil {
		l := tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "region.test")}})
		config.ListenerConfigs = append(config.ListenerConfigs,
			turn.ListenerConfig{Listener: tcpAddressed{l}, RelayAddressGenerator: relays, PermissionHandler: all})
	} else {
		_ = secure.Close()
	}
	server, err := turn.NewServer(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return map[string]string{
		"udp": fmt.Sprintf("turn:region.test:%d?transport=udp", udp.LocalAddr().(*net.UDPAddr).Port),
		"tcp": fmt.Sprintf("turn:region.test:%d?transport=tcp", tcp.Addr().(*net.TCPAddr).Port),
		"tls": fmt.Sprintf("turns:region.test:%d?transport=tcp", secure.Addr().(*net.TCPAddr).Port),
	}
}

// tcpAddressed is a TLS listener; its connections tell *net.TCPAddr already.
type tcpAddressed struct{ net.Listener }

// pionClient is pion's client, which has allocated through the house.
func (h *house) pionClient(via, user, password string) (*turn.Client, net.PacketConn) {
	h.t.Helper()
	var packets net.PacketConn
	var server string
	if via == "udp" {
		packets = listenUDP(h.t, "127.0.0.1:0")
		server = h.udpAddr().String()
	} else {
		conn := h.dial(via)
		_ = conn.SetDeadline(time.Time{})
		packets = turn.NewSTUNConn(conn)
		server = conn.RemoteAddr().String()
	}
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: server, TURNServerAddr: server, Conn: packets, Username: user, Password: password, LoggerFactory: quiet,
	})
	if err != nil {
		h.t.Fatal(err)
	}
	h.t.Cleanup(func() { client.Close(); _ = packets.Close() })
	if err := client.Listen(); err != nil {
		h.t.Fatal(err)
	}
	relayed, err := client.Allocate()
	if err != nil {
		h.t.Fatalf("over %s: %v; log:\n%s", via, err, h.log.String())
	}
	h.t.Cleanup(func() { _ = relayed.Close() })
	return client, relayed
}

// newEcho is a peer that sends back what it gets.
func newEcho(t *testing.T) net.Addr {
	t.Helper()
	conn := listenUDP(t, "127.0.0.1:0")
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 2048)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(buf[:n], from)
		}
	}()
	t.Cleanup(func() { _ = conn.Close(); <-done })
	return conn.LocalAddr()
}

// exchange sends n messages to a peer that echoes, a few at a time, and counts what comes back whole.
func exchange(t *testing.T, relayed net.PacketConn, peer net.Addr, n int) {
	t.Helper()
	buf := make([]byte, 2048)
	for i := range n {
		msg := fmt.Appendf(nil, "%06d", i)
		msg = append(msg, bytes.Repeat([]byte{byte(i)}, 1+i*37%1100)...)
		if _, err := relayed.WriteTo(msg, peer); err != nil {
			t.Fatal(err)
		}
		_ = relayed.SetReadDeadline(time.Now().Add(10 * time.Second))
		k, from, err := relayed.ReadFrom(buf)
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		if !bytes.Equal(buf[:k], msg) || from.String() != peer.String() {
			t.Fatalf("message %d came back from %v as %d bytes", i, from, k)
		}
	}
}

var _ io.Writer = (*lockedBuffer)(nil)

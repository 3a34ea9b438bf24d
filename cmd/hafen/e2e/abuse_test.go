package e2e

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The abuse suite attacks the running program from outside: raw sockets in namespaces of the laboratory's. Its cases carry
// the ids of the list that they are from (A-28 and so on), so that a result can be looked up.
//
// With -abuse the long tables are tried in full: go test ./cmd/hafen/e2e -run '^TestAbuse' -abuse
var abuseAll = flag.Bool("abuse", false, "run the long tables of the abuse suite in full")

// Names under which the abuse suite's name server answers with whatever address the name's first label spells.
const (
	passSuffix = "pass.example" // the gateway holds no certificate: SNI passthrough
	sigSuffix  = "sig.example"  // the gateway holds one: signaling
)

// The hosts of the abuse suite, in the order in which the network makes them.
const (
	insideAddr   = "10.30.0.2"
	outsideAddr  = "10.40.0.2"
	balancerAddr = "10.50.0.2"
)

// abuse is a gateway with a region and a call server behind it, a client inside, one outside, and canaries wherever the gateway
// must not go.
type abuse struct {
	*laboratory
	inside, outside, balancer *namespace
	dns                       *nameServer
	canary                    *canaries
}

// newAbuse stands it up. change edits the configuration.
func newAbuse(t *testing.T, change ...func(string) string) *abuse {
	t.Helper()
	a := layAbuse(t)
	cfg := a.config()
	for _, f := range change {
		cfg = f(cfg)
	}
	a.run(cfg)
	return a
}

// layAbuse stands up all but the gateway.
func layAbuse(t *testing.T) *abuse {
	t.Helper()
	a := &abuse{laboratory: &laboratory{t: t, dir: t.TempDir(), net: newNetwork(t)}}
	a.ca = newAuthority(t, a.dir)
	a.dmz = a.net.host("dmz")
	a.cloud = a.net.host("cloud", 3, 11)
	a.inside = a.net.host("inside", 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16)
	a.outside = a.net.host("outside")
	a.balancer = a.net.host("balancer")
	a.canary = newCanaries(t, a.net, a.dmz)
	a.dns = startNameServer(t, a.dmz)
	a.fra = startCoturn(t, a.cloud, a.ca, fraName, fraAddr)
	t.Cleanup(func() { _ = unix.Kill(-a.fra.cmd.Process.Pid, unix.SIGKILL) }) // it takes its time to end by itself
	a.startUpstream()
	return a
}

func (a *abuse) config() string {
	cert, key := a.ca.issue(a.t, gatewayName, callName, "*."+sigSuffix, gatewayAddr)
	return fmt.Sprintf(`name: %s
clients: [10.30.0.0/24]
listen:
  https: ["%s:443"]
  turn_udp: ["%s:443"]
  proxy: ["%s:3128"]
  metrics: 127.0.0.1:9443
  proxy_protocol_from: [10.50.0.0/24]
tls:
  source: files
  files: [{cert: %s, key: %s}]
dns: {servers: ["127.0.0.1:53"]}
services:
  - name: calls
    hosts: [%s, "*.%s", "*.%s"]
    ca_file: %s
    private_networks: [10.20.0.0/24]
    probes: {call_servers: [%s], https: /}
    regions:
      - name: frankfurt
        urls: ["turn:%s:3478?transport=udp", "turns:%s:443?transport=tcp"]
pac: {otherwise: DIRECT}
drain: 20s
log: {level: debug, format: text}
data_dir: %s
run_dir: %s
`, gatewayName, gatewayAddr, gatewayAddr, gatewayAddr, cert, key, callName, passSuffix, sigSuffix, a.ca.file, callName, fraName, fraName,
		filepath.Join(a.dir, "data"), filepath.Join(a.dir, "run"))
}

// run starts the program and waits until it has a region.
func (a *abuse) run(cfg string) {
	a.t.Helper()
	file := filepath.Join(a.dir, "hafen.yaml")
	must(a.t, os.WriteFile(file, []byte(a.filled(cfg)), 0o644))
	a.gateway = a.dmz.start(a.t, "gateway", hafenBinary, "serve", "--config", file)
	a.dmz.waitTCP(a.t, "127.0.0.1:9443")
	waitFor(a.t, "a region", 20*time.Second, func() bool { return a.metric(`hafen_relay_region_up{region="frankfurt"`) == 1 })
}

// startUpstream runs a call server that says how it was asked.
func (a *abuse) startUpstream() {
	a.t.Helper()
	cert, key := a.ca.issue(a.t, callName+".up", callName, "*."+passSuffix, "*."+sigSuffix)
	pair, err := tls.LoadX509KeyPair(cert, key)
	must(a.t, err)
	ln, err := a.cloud.listen("tcp", cloudAddr+":443")
	must(a.t, err)
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "upstream %s", r.URL.Path)
	})}
	go func() { _ = srv.Serve(tls.NewListener(ln, &tls.Config{Certificates: []tls.Certificate{pair}})) }()
	a.t.Cleanup(func() { _ = srv.Close() })
}

// load is what the program holds.
type load struct{ goroutines, descriptors, memory, processor float64 }

func (a *abuse) load() load {
	return load{
		a.metric("go_goroutines "), a.metric("process_open_fds "), a.metric("process_resident_memory_bytes "),
		a.metric("process_cpu_seconds_total "),
	}
}

// backTo waits until the program holds no more than it did before an attack: no goroutine, no descriptor stays behind. The
// few that probes come and go with are allowed for.
func (a *abuse) backTo(t testing.TB, base load, within time.Duration) {
	t.Helper()
	const probes = 12
	var now load
	waitForOr(t, "goroutines and descriptors to be back", within, func() bool {
		now = a.load()
		return now.goroutines > 0 && now.goroutines <= base.goroutines+probes && now.descriptors <= base.descriptors+probes
	}, func() string { return fmt.Sprintf("base %+v, now %+v", base, now) })
}

// idle checks that the program does not spin: over two seconds it takes little of a core.
func (a *abuse) idle(t testing.TB) {
	t.Helper()
	var spent float64
	for range 3 { // a probe or the collector may fall into one window, a spin falls into all
		before := a.load().processor
		time.Sleep(2 * time.Second)
		if spent = (a.load().processor - before) / 2; spent < 0.05 {
			return
		}
	}
	t.Errorf("the program takes %.0f %% of a core with nothing to do", 100*spent)
}

// alive checks that the program still runs and answers.
func (a *abuse) alive(t testing.TB) {
	t.Helper()
	if a.metricsGet("/livez") == "" {
		t.Fatalf("the program does not answer any more:\n%s", a.gateway.out.tail(4000))
	}
	if out := a.gateway.out.String(); strings.Contains(out, "panic") {
		t.Fatalf("a panic:\n%s", out[strings.Index(out, "panic"):min(len(out), strings.Index(out, "panic")+4000)])
	}
}

// way is one way to the gateway's front door.
type way struct {
	name string
	open func(t testing.TB) net.Conn
}

// ways are TLS, plain TCP, and a CONNECT tunnel to the region: all of which end at the relay when STUN follows.
func (a *abuse) ways() []way {
	return []way{
		{"tls", func(t testing.TB) net.Conn { return a.tls(t, a.inside, gatewayName) }},
		{"tcp", func(t testing.TB) net.Conn { return a.tcp(t, a.inside, gatewayAddr+":443") }},
		{"connect", func(t testing.TB) net.Conn {
			conn := a.tls(t, a.inside, gatewayName)
			fmt.Fprintf(conn, "CONNECT %s:3478 HTTP/1.1\r\nHost: %s:3478\r\n\r\n", fraName, fraName)
			head := make([]byte, len("HTTP/1.1 200 Connection established\r\n\r\n"))
			if _, err := io.ReadFull(conn, head); err != nil || !bytes.Contains(head, []byte(" 200 ")) {
				t.Fatalf("CONNECT: %v %q", err, head)
			}
			return conn
		}},
	}
}

// tcp connects from a namespace. The connection is closed at the test's end and has a deadline.
func (a *abuse) tcp(t testing.TB, from *namespace, addr string) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	conn, err := from.dial(ctx, "tcp", addr)
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	return conn
}

// tls connects to the gateway's port and shakes hands, asking for name.
func (a *abuse) tls(t testing.TB, from *namespace, name string, alpn ...string) *tls.Conn {
	t.Helper()
	conn := tls.Client(a.tcp(t, from, gatewayAddr+":443"), &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: alpn})
	must(t, conn.Handshake())
	return conn
}

// udp opens a socket towards the gateway's UDP port.
func (a *abuse) udp(t testing.TB, from *namespace) net.Conn {
	t.Helper()
	conn, err := from.dial(context.Background(), "udp", gatewayAddr+":443")
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// answers reads what comes until the other end closes or nothing has come for patience.
func answers(conn net.Conn, patience time.Duration) (b []byte, closed bool) {
	buf := make([]byte, 64<<10)
	for {
		_ = conn.SetReadDeadline(time.Now().Add(unhurried(patience)))
		n, err := conn.Read(buf)
		b = append(b, buf[:n]...)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			return b, false
		}
		if err != nil {
			return b, true
		}
	}
}

// closes checks that the other end closes within a time, and returns what it has said before.
func closes(t testing.TB, conn net.Conn, within time.Duration) []byte {
	t.Helper()
	b, closed := answers(conn, within)
	if !closed {
		t.Errorf("still open after %v, having said %q", within, b)
	}
	secrets.Search(t, "what was said before the end", string(b))
	return b
}

// exchange writes raw bytes and returns all that is answered until the connection is closed.
func exchange(t testing.TB, conn net.Conn, request string) string {
	t.Helper()
	_, _ = io.WriteString(conn, request)
	b, _ := answers(conn, 5*time.Second)
	searchAnswer(t, pathOf(request), string(b))
	return string(b)
}

// statusLine is the first line of an HTTP answer.
func statusLine(answer string) string {
	line, _, _ := strings.Cut(answer, "\r\n")
	return line
}

// canaries count who arrives where the gateway must not go.
type canaries struct {
	mu   sync.Mutex
	hits map[netip.Addr]int
}

// canaryPorts are where they stand, over TCP and UDP.
var canaryPorts = []int{22, 80, 443, 3478, 5349}

// newCanaries makes a host to which all addresses lead that are not the laboratory's, and puts canaries there and at the dmz's loopback.
func newCanaries(t testing.TB, n *network, dmz *namespace) *canaries {
	t.Helper()
	c := &canaries{hits: make(map[netip.Addr]int)}
	aviary := n.namespace("aviary")
	mustRun(t, "ip", "-n", dmz.name, "link", "add", "can0", "type", "veth", "peer", "name", "eth9", "netns", aviary.name)
	for _, cmd := range []struct {
		ns   *namespace
		args string
	}{
		{dmz, "link set can0 up"},
		{aviary, "link set eth9 up"},
		{dmz, "addr add 198.18.255.1/30 dev can0"},
		{aviary, "addr add 198.18.255.2/30 dev eth9"},
		{dmz, "-6 addr add 2001:db8:ffff::1/64 dev can0 nodad"},
		{aviary, "-6 addr add 2001:db8:ffff::2/64 dev eth9 nodad"},
		{dmz, "route add 10.20.0.0/24 via 10.10.0.1"},
		{dmz, "route add 10.30.0.0/24 via 10.10.0.1"},
		{dmz, "route add 10.40.0.0/24 via 10.10.0.1"},
		{dmz, "route add 10.50.0.0/24 via 10.10.0.1"},
		{dmz, "route del default"},
		{dmz, "route add default via 198.18.255.2"},
		{dmz, "-6 route add default via 2001:db8:ffff::2"},
		{aviary, "route add local 0.0.0.0/0 dev lo"},
		{aviary, "-6 route add local ::/0 dev lo table main"}, // IPv6 asks table local first: answers would never leave,
		{aviary, "route add 10.10.0.2/32 via 198.18.255.1"},
	} {
		cmd.ns.run(t, "ip", strings.Fields(cmd.args)...)
	}
	for _, port := range canaryPorts {
		c.stand(t, aviary, fmt.Sprintf("[::]:%d", port))
		for _, addr := range []string{"127.0.0.1", "127.255.255.254", "[::1]"} {
			c.stand(t, dmz, fmt.Sprintf("%s:%d", addr, port))
		}
	}
	return c
}

// stand puts a canary at an address, for TCP and UDP.
func (c *canaries) stand(t testing.TB, ns *namespace, addr string) {
	t.Helper()
	ln, err := ns.listen("tcp", addr)
	must(t, err)
	pc, err := ns.listenPacket(addr)
	must(t, err)
	t.Cleanup(func() { _, _ = ln.Close(), pc.Close() })
	raw, err := pc.SyscallConn()
	must(t, err)
	must(t, raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_PKTINFO, 1)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1)
	}))
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.hit(netip.MustParseAddrPort(conn.LocalAddr().String()).Addr())
			_ = conn.Close()
		}
	}()
	go func() {
		buf, oob := make([]byte, 2048), make([]byte, 256)
		for {
			_, n, _, _, err := pc.ReadMsgUDPAddrPort(buf, oob)
			if err != nil {
				return
			}
			c.hit(packetInfo(oob[:n]))
		}
	}()
}

// packetInfo is the address that a datagram was sent to.
func packetInfo(oob []byte) netip.Addr {
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return netip.Addr{}
	}
	for _, m := range msgs {
		switch {
		case m.Header.Level == unix.IPPROTO_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			return netip.AddrFrom4([4]byte(m.Data[8:12]))
		case m.Header.Level == unix.IPPROTO_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 16:
			return netip.AddrFrom16([16]byte(m.Data[:16]))
		}
	}
	return netip.Addr{}
}

func (c *canaries) hit(a netip.Addr) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hits[a.Unmap()]++
}

// take returns the hits since the last call.
func (c *canaries) take() map[netip.Addr]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	hits := c.hits
	c.hits = make(map[netip.Addr]int)
	return hits
}

// listenPacket opens a UDP socket inside the namespace.
func (ns *namespace) listenPacket(addr string) (*net.UDPConn, error) {
	var pc net.PacketConn
	err := ns.do(func() (err error) {
		pc, err = net.ListenPacket("udp", addr)
		return err
	})
	if err != nil {
		return nil, err
	}
	return pc.(*net.UDPConn), nil
}

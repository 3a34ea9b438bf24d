package relay

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// standin is a region on loopback: STUN over UDP, TCP and TLS, as slow, silent or rude as a test wants it.
type standin struct {
	t      *testing.T
	host   string
	udp    *net.UDPConn
	tcp    net.Listener
	tls    net.Listener
	delay  time.Duration
	silent atomic.Bool  // reads and says nothing
	page   atomic.Bool  // answers streams with a web page
	asked  atomic.Int64 // requests over UDP
	accept atomic.Int64 // streams accepted

	mu    sync.Mutex
	reply func(*stun.Message) *stun.Message // to anything but Binding; nil: none
	conns map[net.Conn]bool
	wg    sync.WaitGroup
}

// newStandin listens on three ports of a loopback address.
func newStandin(t *testing.T, host, ip string, delay time.Duration, ca *testCA) *standin {
	t.Helper()
	s := &standin{t: t, host: host, delay: delay, conns: make(map[net.Conn]bool)}
	var err error
	if s.udp, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(ip), 0))); err != nil {
		t.Fatal(err)
	}
	if s.tcp, err = net.Listen("tcp", net.JoinHostPort(ip, "0")); err != nil {
		t.Fatal(err)
	}
	if s.tls, err = net.Listen("tcp", net.JoinHostPort(ip, "0")); err != nil {
		t.Fatal(err)
	}
	s.wg.Add(3)
	go s.serveUDP(s.udp)
	go s.serveStreams(s.tcp)
	go s.serveStreams(tls.NewListener(s.tls, &tls.Config{Certificates: []tls.Certificate{ca.issue(t, host)}}))
	t.Cleanup(s.close)
	return s
}

func (s *standin) close() {
	_ = s.udp.Close()
	_ = s.tcp.Close()
	_ = s.tls.Close()
	s.mu.Lock()
	for c := range s.conns {
		_ = c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *standin) url(kind string) string {
	switch kind {
	case "udp":
		return fmt.Sprintf("turn:%s:%d?transport=udp", s.host, s.udp.LocalAddr().(*net.UDPAddr).Port)
	case "tcp":
		return fmt.Sprintf("turn:%s:%d?transport=tcp", s.host, s.tcp.Addr().(*net.TCPAddr).Port)
	}
	return fmt.Sprintf("turns:%s:%d?transport=tcp", s.host, s.tls.Addr().(*net.TCPAddr).Port)
}

func (s *standin) urls(kinds ...string) []string {
	var list []string
	for _, k := range kinds {
		list = append(list, s.url(k))
	}
	return list
}

func (s *standin) serveUDP(conn *net.UDPConn) {
	defer s.wg.Done()
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		s.asked.Add(1)
		if resp := s.respond(buf[:n], from); resp != nil {
			time.AfterFunc(s.delay, func() { _, _ = conn.WriteToUDPAddrPort(resp, from) })
		}
	}
}

func (s *standin) serveStreams(l net.Listener) {
	defer s.wg.Done()
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		s.accept.Add(1)
		s.mu.Lock()
		s.conns[conn] = true
		s.mu.Unlock()
		s.wg.Add(1)
		go s.serveStream(conn)
	}
}

func (s *standin) serveStream(conn net.Conn) {
	defer s.wg.Done()
	defer func() {
		_ = conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	from := conn.RemoteAddr().(*net.TCPAddr).AddrPort()
	c := &conversation{conn: conn}
	for {
		raw, err := c.frame()
		if err != nil {
			return
		}
		if s.page.Load() {
			_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n<h1>Please log in</h1>")
			return
		}
		resp := s.respond(raw, from)
		if resp == nil {
			continue
		}
		time.Sleep(s.delay)
		if _, err := conn.Write(resp); err != nil {
			return
		}
	}
}

func (s *standin) respond(raw []byte, from netip.AddrPort) []byte {
	req, err := parseAnswer(raw)
	if err != nil || s.silent.Load() {
		return nil
	}
	if req.Type == stun.BindingRequest {
		return stun.MustBuild(req, stun.BindingSuccess,
			&stun.XORMappedAddress{IP: from.Addr().AsSlice(), Port: int(from.Port())}).Raw
	}
	s.mu.Lock()
	reply := s.reply
	s.mu.Unlock()
	if reply == nil {
		return nil
	}
	if m := reply(req); m != nil {
		return m.Raw
	}
	return nil
}

// refuse has every Allocate answered with an error.
func (s *standin) refuse(code stun.ErrorCode) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reply = func(req *stun.Message) *stun.Message {
		return stun.MustBuild(req, stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), code)
	}
}

// testCA is a certificate authority of a test.
type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	file string
}

func newTestCA(t *testing.T, name string) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	ca := &testCA{key: key, file: filepath.Join(t.TempDir(), "ca.pem")}
	if ca.cert, err = x509.ParseCertificate(der); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(ca.file, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600); err != nil {
		t.Fatal(err)
	}
	return ca
}

func (ca *testCA) issue(t *testing.T, host string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: host}, DNSNames: []string{host},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// outside is a way out under test.
type outside struct {
	*regions
	t      *testing.T
	clock  time.Time
	config *configs.Config
	dialer *netpolicy.Dialer
	reg    *prometheus.Registry
	mu     sync.Mutex
	names  map[string][]netip.Addr
}

// newOutside makes a way out to regions that are named by their URLs. Names resolve to what names says; change may
// edit the configuration. It is not started: a test either starts it, or drives it by its own clock.
func newOutside(t *testing.T, ca *testCA, list []configs.Region, names map[string]string, change func(*outside)) *outside {
	t.Helper()
	o := &outside{t: t, clock: time.Now(), names: make(map[string][]netip.Addr), reg: prometheus.NewRegistry()}
	for host, ip := range names {
		o.setName(host, ip)
	}
	o.config = &configs.Config{
		Relay: configs.Relay{Rungs: []string{"udp", "tcp", "tls", "proxy"}, DSCP: "AF41"},
		Services: []configs.Service{{
			Name: "calls", Choose: "nearest", Regions: list,
			PrivateNetworks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")},
		}},
	}
	if ca != nil {
		o.config.Services[0].CAFile = ca.file
	}
	o.dialer = &netpolicy.Dialer{Policy: &netpolicy.Policy{}, Lookup: o.lookup, Now: o.now}
	if change != nil {
		change(o)
	}
	var err error
	o.regions, err = buildRegions(regionsOptions{
		Config: o.config, Dialer: o.dialer, Registry: o.reg, Log: slog.New(slog.DiscardHandler),
		Now: o.now, Jitter: func() float64 { return 1 },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.regions.close)
	return o
}

func (o *outside) setName(host string, ips ...string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.names[host] = nil
	for _, ip := range ips {
		o.names[host] = append(o.names[host], netip.MustParseAddr(ip))
	}
}

func (o *outside) lookup(_ context.Context, name string) ([]netip.Addr, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if addrs := o.names[name]; len(addrs) > 0 {
		return addrs, nil
	}
	return nil, &net.DNSError{Err: "no such host", Name: name, IsNotFound: true}
}

// now is the driven clock, until live lets it run.
func (o *outside) now() time.Time {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.clock.IsZero() {
		return time.Now()
	}
	return o.clock
}

// live starts the way out on the real clock.
func (o *outside) live() {
	o.t.Helper()
	o.mu.Lock()
	o.clock = time.Time{}
	o.mu.Unlock()
	if err := o.start(context.Background()); err != nil {
		o.t.Fatal(err)
	}
}

// drive lets d pass on the test's clock: everything that is due is done, and waited for, before the clock moves on.
// Relays must answer or refuse at once: a silent one costs real seconds.
func (o *outside) drive(d time.Duration) {
	o.t.Helper()
	for end := o.now().Add(d); o.now().Before(end); {
		wake, dead := o.look()
		for _, u := range dead {
			u.die()
		}
		o.wg.Wait()
		select {
		case <-o.kick: // a finding: look again before time passes
			wake = 0
		default:
		}
		o.mu.Lock()
		o.clock = o.clock.Add(min(max(wake, time.Millisecond), 250*time.Millisecond))
		o.mu.Unlock()
	}
}

// until waits for something on the real clock.
func (o *outside) until(what string, most time.Duration, done func() bool) {
	o.t.Helper()
	for end := time.Now().Add(most); !done(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			o.t.Fatalf("%s: not within %v: %+v", what, most, o.status())
		}
	}
}

// region is the status of a region.
func (o *outside) region(name string) RegionStatus {
	o.t.Helper()
	for _, st := range o.status() {
		if st.Name == name {
			return st
		}
	}
	o.t.Fatalf("no region %s", name)
	return RegionStatus{}
}

// rungOf is the status of a region's rung of a kind.
func (o *outside) rungOf(name, kind string) RungStatus {
	o.t.Helper()
	for _, st := range o.region(name).Rungs {
		if st.Kind == kind {
			return st
		}
	}
	o.t.Fatalf("no rung %s of %s", kind, name)
	return RungStatus{}
}

func (o *outside) chosen() string {
	for _, st := range o.status() {
		if st.Chosen {
			return st.Name
		}
	}
	return ""
}

// opened opens an uplink, which the test's end closes.
func (o *outside) opened(askedHost string, client string) *uplink {
	o.t.Helper()
	addr, _ := netip.ParseAddr(client)
	u, err := o.open(context.Background(), "", askedHost, addr)
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() { _ = u.Close() })
	return u
}

func (o *outside) kinds() []string {
	var kinds []string
	for _, ev := range o.events.list() {
		kinds = append(kinds, ev.Kind)
	}
	return kinds
}

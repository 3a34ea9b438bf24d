package gateway

import (
	"bufio"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hafen/configs"
)

// reloadable is a world whose configuration can be changed while it runs.
type reloadable struct {
	*world
	next atomic.Pointer[configs.Config]
	err  atomic.Pointer[error]
}

func newReloadable(t *testing.T, change ...func(*configs.Config)) *reloadable {
	r := &reloadable{world: newWorld(t, change...)}
	r.gateway.opts.Load = func() (*configs.Config, error) {
		if err := r.err.Load(); err != nil {
			return nil, *err
		}
		return r.next.Load(), nil
	}
	return r
}

// with reloads the configuration in use, changed.
func (r *reloadable) with(change func(*configs.Config)) error {
	c := *r.gateway.config()
	change(&c)
	r.next.Store(&c)
	_, err := r.gateway.Reload(r.t.Context())
	return err
}

func (r *reloadable) dialTLS(name string) *tls.Conn {
	r.t.Helper()
	conn, err := tls.Dial("tcp", r.addr, &tls.Config{RootCAs: r.roots, ServerName: name})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { conn.Close() })
	return conn
}

// ask sends a request on a connection that stays open, and tells the answer's code.
func ask(t *testing.T, conn net.Conn, br *bufio.Reader, host, path string) int {
	t.Helper()
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, host)
	resp, err := http.ReadResponse(br, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	_, _ = io.Copy(io.Discard, resp.Body)
	return resp.StatusCode
}

// TestReloadRefused: what is wrong with a configuration changes nothing, whoever finds it.
func TestReloadRefused(t *testing.T) {
	r := newReloadable(t)
	conn := r.dialTLS(ownName)
	br := bufio.NewReader(conn)
	before := r.gateway.now.Load()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	bad := error(configs.Problems{{Key: "relay.mode", Problem: "is not one of them", Write: "bridge"}})
	for name, change := range map[string]func(*configs.Config){
		"a problem": func(*configs.Config) { r.err.Store(&bad) },
		"an address that is taken": func(c *configs.Config) {
			c.Listen.HTTP = []string{taken.Addr().String()}
		},
		"a certificate that is not there": func(c *configs.Config) {
			c.TLS = configs.TLS{Source: "files", Files: []configs.TLSFile{{Cert: "/nowhere/c.pem", Key: "/nowhere/k.pem"}}}
		},
		"roots that are not there": func(c *configs.Config) {
			c.Services = append([]configs.Service(nil), c.Services...)
			c.Services[0].CAFile = "/nowhere/ca.pem"
		},
		"a PAC file that is not there": func(c *configs.Config) { c.PAC = configs.PAC{ParentFile: "/nowhere/proxy.pac"} },
	} {
		r.err.Store(nil)
		if err := r.with(change); err == nil {
			t.Errorf("%s: it was taken", name)
		}
		if r.gateway.now.Load() != before {
			t.Errorf("%s: another generation is in place", name)
		}
		if code := ask(t, conn, br, ownName, "/livez"); code != 200 {
			t.Errorf("%s: /livez answers %d on a connection from before", name, code)
		}
	}
	r.err.Store(nil)
	if n := r.gateway.readings().value("hafen_config_reloads_total", "failed"); n != 5 {
		t.Errorf("%v failed reloads are counted", n)
	}
	if text := r.log.String(); !strings.Contains(text, "key=relay.mode") {
		t.Errorf("the log names no key: %s", text)
	}
}

// TestReloadRemovesHost: a host that goes is refused at once, also on a connection that stands; a new one is served at once.
func TestReloadRemovesHost(t *testing.T) {
	r := newReloadable(t)
	if !r.gateway.signaling.Routed(callHost) {
		t.Fatal("the host is not routed at first")
	}
	conn := r.dialTLS(ownName)
	br := bufio.NewReader(conn)
	if err := r.with(func(c *configs.Config) {
		c.Services = append([]configs.Service(nil), c.Services...)
		c.Services[0].Hosts = []string{"other.example.net"}
	}); err != nil {
		t.Fatal(err)
	}
	if code := ask(t, conn, br, callHost, "/"); code != http.StatusMisdirectedRequest {
		t.Errorf("the host that is gone answers %d", code)
	}
	if !r.gateway.signaling.Routed("other.example.net") || r.gateway.signaling.Routed(callHost) {
		t.Error("the routes are not those of the new configuration")
	}
	if h := r.gateway.hello(&tls.ClientHelloInfo{ServerName: callHost}); h.Refuse == nil {
		t.Errorf("TLS for the host that is gone: %+v", h)
	}
}

// TestReloadRemovesClients: who is no client any more is refused, on a connection that stands too, and health stays for all.
func TestReloadRemovesClients(t *testing.T) {
	r := newReloadable(t)
	conn := r.dialTLS(ownName)
	br := bufio.NewReader(conn)
	if code := ask(t, conn, br, ownName, "/"); code != 200 {
		t.Fatalf("a client gets %d", code)
	}
	if err := r.with(func(c *configs.Config) { c.Clients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")} }); err != nil {
		t.Fatal(err)
	}
	if code := ask(t, conn, br, ownName, "/"); code != http.StatusForbidden {
		t.Errorf("the client that is one no more gets %d", code)
	}
	if r.gateway.admit(netip.MustParseAddr("127.0.0.1")) == nil || r.gateway.admit(netip.MustParseAddr("10.1.2.3")) != nil {
		t.Error("the networks are not those of the new configuration")
	}
}

// TestReloadListens: addresses are bound and let go as the configuration says, and one that stays is not touched.
func TestReloadListens(t *testing.T) {
	r := newReloadable(t)
	https := r.gateway.sockets[0]
	free := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	at := free()
	if err := r.with(func(c *configs.Config) { c.Listen.Proxy = []string{at} }); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", at)
	if err != nil {
		t.Fatalf("what was added is not listened on: %v", err)
	}
	defer conn.Close()
	_, port, _ := net.SplitHostPort(at)
	if err := r.with(func(c *configs.Config) { c.Listen.Proxy = []string{"0.0.0.0:" + port} }); err != nil {
		t.Fatalf("from one address to all: %v", err)
	}
	if conn, err = net.Dial("tcp", at); err != nil {
		t.Fatalf("after the move: %v", err)
	}
	defer conn.Close()
	if err := r.with(func(c *configs.Config) { c.Listen.Proxy = nil }); err != nil {
		t.Fatal(err)
	}
	if _, err := net.DialTimeout("tcp", at, time.Second); err == nil {
		t.Error("what was taken away is listened on")
	}
	if r.gateway.sockets[0] != https || len(r.gateway.Addrs()) != 2 {
		t.Errorf("%v", r.gateway.Addrs())
	}
	if code := ask(t, conn, bufio.NewReader(conn), ownName, "/"); code != http.StatusMethodNotAllowed && code != http.StatusBadRequest && code != http.StatusForbidden {
		t.Errorf("a connection that came by an address which is gone answers %d", code)
	}
}

// TestReloadKeepsKnowledge: what is known about regions that stay is kept; nothing that counts goes backwards or double.
func TestReloadKeepsKnowledge(t *testing.T) {
	r := newReloadable(t)
	up := func() bool {
		st := r.gateway.relay.RegionStatus()
		return len(st) > 0 && st[0].State == "up"
	}
	for end := time.Now().Add(10 * time.Second); !up(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the region does not come up")
		}
	}
	since := r.gateway.relay.RegionStatus()[0].Rungs[0].Since
	events := len(r.gateway.relay.RegionEvents())
	for i, change := range []func(*configs.Config){
		func(*configs.Config) {},
		func(c *configs.Config) { c.Limits.Allocations++ },
		func(c *configs.Config) {
			second := c.Services[0].Regions[0]
			second.Name = "second"
			c.Services = append([]configs.Service(nil), c.Services...)
			c.Services[0].Regions = append(append([]configs.Region(nil), c.Services[0].Regions...), second)
		},
	} {
		if err := r.with(change); err != nil {
			t.Fatal(err)
		}
		if st := r.gateway.relay.RegionStatus()[0]; st.State != "up" || !st.Chosen && i < 2 || // the second one is at the same address, and may be nearer by a hair
			!st.Rungs[0].Since.Equal(since) {
			t.Errorf("after reload %d: %+v", i, st)
		}
	}
	if n := len(r.gateway.relay.RegionStatus()); n != 2 {
		t.Errorf("%d regions", n)
	}
	for _, ev := range r.gateway.relay.RegionEvents()[events:] {
		if ev.Region != "second" && ev.Kind != "region_chosen" {
			t.Errorf("a reload made an event: %+v", ev)
		}
	}
	if n := r.gateway.readings().value("hafen_config_reloads_total", "ok"); n != 3 {
		t.Errorf("%v reloads are counted", n)
	}
}

// TestReloadKeeps: a key that can't change under what runs is named, and stays.
func TestReloadKeeps(t *testing.T) {
	r := newReloadable(t)
	c := *r.gateway.config()
	c.Relay.Mode, c.DataDir = "local", t.TempDir()
	r.next.Store(&c)
	done, err := r.gateway.Reload(t.Context())
	if err != nil || strings.Join(done.Kept, " ") != "data_dir relay.mode" {
		t.Errorf("%v, %v", done, err)
	}
	if r.gateway.config().Relay.Mode != "bridge" {
		t.Error("the mode has changed")
	}
	r.gateway.opts.Load = nil
	if _, err := r.gateway.Reload(t.Context()); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("without a file: %v", err)
	}
}

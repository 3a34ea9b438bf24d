package netpolicy

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// listen starts a TCP server that says its own name to whoever connects, and counts them.
func listen(t *testing.T, addr string) (port uint16, hits *atomic.Int64) {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Skipf("can't listen at %s: %v", addr, err)
	}
	hits = new(atomic.Int64)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			hits.Add(1)
			_, _ = io.WriteString(c, addr)
			_ = c.Close()
		}
	}()
	return uint16(ln.Addr().(*net.TCPAddr).Port), hits
}

func hostPort(host string, port uint16) string {
	return net.JoinHostPort(host, strconv.Itoa(int(port)))
}

// TestAbuse_B07: a resolver that answers well at the check and badly afterwards. There is no afterwards: one question,
// and the address that was judged is the one that is dialled.
func TestAbuse_B07(t *testing.T) {
	port, good := listen(t, "127.0.0.2:0")
	_, canary := listen(t, hostPort("127.0.0.3", port))
	n := 0
	d := &Dialer{Policy: testPolicy()}
	d.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		n++
		if n%2 == 1 {
			return addrs("127.0.0.2"), nil
		}
		return addrs("127.0.0.3"), nil
	}
	const tries = 10_000
	for i := range tries {
		c, err := d.DialContext(t.Context(), "tcp", hostPort("rebind.test", port), scope("127.0.0.2/32"))
		if i%2 == 1 {
			if err == nil || statusOf(t, err) != StatusPolicy {
				t.Fatalf("the bad answer: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if got := c.RemoteAddr().String(); got != hostPort("127.0.0.2", port) {
			t.Fatalf("dialled %s", got)
		}
		_, _ = io.ReadAll(c)
		_ = c.Close()
	}
	if n != tries {
		t.Errorf("%d questions for %d dials", n, tries)
	}
	if good.Load() == 0 || canary.Load() != 0 {
		t.Errorf("the good server was hit %d times, the canary %d times", good.Load(), canary.Load())
	}
}

func TestAbuse_B07_WithARealResolver(t *testing.T) {
	port, good := listen(t, "127.0.0.2:0")
	_, canary := listen(t, hostPort("127.0.0.3", port))
	var n atomic.Int64
	stub := newDNSStub(t, func(string) answer {
		if n.Add(1)%3 == 0 {
			return answer{addrs: addrs("127.0.0.3")}
		}
		return answer{addrs: addrs("127.0.0.2", "127.0.0.3")}
	})
	d := &Dialer{Policy: testPolicy(), Servers: []string{stub.addr}}
	for range 100 {
		if c, err := d.DialContext(t.Context(), "tcp", hostPort("rebind.test", port), scope("127.0.0.2/32")); err == nil {
			_, _ = io.ReadAll(c)
			_ = c.Close()
		}
	}
	if good.Load() == 0 || canary.Load() != 0 {
		t.Errorf("the good server was hit %d times, the canary %d times", good.Load(), canary.Load())
	}
}

func TestControlJudgesOnceMore(t *testing.T) {
	port, canary := listen(t, "127.0.0.1:0")
	d := &Dialer{Policy: testPolicy()}
	ap := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
	if _, err := d.dialOne(t.Context(), "tcp", ap, Scope{}); err == nil || wordOf(err) != StatusPolicy {
		t.Errorf("an unjudged address: %v", err)
	}
	if canary.Load() != 0 {
		t.Error("the canary was hit")
	}
}

func TestDialTriesTheNextAddress(t *testing.T) {
	port, hits := listen(t, "127.0.0.2:0")
	d := &Dialer{Policy: testPolicy(), Lookup: lookupTable(map[string][]netip.Addr{
		"call.test": addrs("127.0.0.9", "127.0.0.2"), // nobody listens at the first
		"dead.test": addrs("127.0.0.9", "127.0.0.8"),
		"v6.test":   addrs("::1"),
	})}
	c, err := d.DialContext(t.Context(), "tcp", hostPort("call.test", port), scope("127.0.0.0/8"))
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := c.(*net.TCPConn); !ok {
		t.Errorf("got a %T, which can't be spliced", c)
	}
	_, _ = io.ReadAll(c)
	_ = c.Close()
	_, err = d.DialContext(t.Context(), "tcp", hostPort("dead.test", port), scope("127.0.0.0/8"))
	if err == nil || statusOf(t, err) != StatusDial || !strings.Contains(err.Error(), "127.0.0.9") {
		t.Errorf("the error should be that of the first address: %v", err)
	}
	_, err = d.DialContext(t.Context(), "tcp4", hostPort("v6.test", port), scope("::1/128"))
	if err == nil || statusOf(t, err) != StatusDial {
		t.Errorf("no IPv4 address: %v", err)
	}
	if hits.Load() == 0 {
		t.Error("no positive control")
	}
}

func TestDialBothFamilies(t *testing.T) {
	port, hits := listen(t, "[::1]:0")
	d := &Dialer{
		Policy: testPolicy(), Source: addrs("::1", "127.0.0.77"),
		Hosts: map[string][]netip.Addr{"both.test": addrs("127.0.0.9", "::1")},
	}
	c, err := d.DialContext(t.Context(), "tcp", hostPort("both.test", port), scope("127.0.0.0/8", "::1/128"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().String(); got != "::1" {
		t.Errorf("dialled from %s", got)
	}
	_, _ = io.ReadAll(c)
	_ = c.Close()
	if hits.Load() != 1 {
		t.Errorf("%d hits", hits.Load())
	}
	port4, _ := listen(t, "127.0.0.2:0")
	c, err = d.DialContext(t.Context(), "tcp", hostPort("127.0.0.2", port4), scope("127.0.0.0/8"))
	if err != nil {
		t.Fatal(err)
	}
	if got := c.LocalAddr().(*net.TCPAddr).AddrPort().Addr().String(); got != "127.0.0.77" {
		t.Errorf("dialled from %s", got)
	}
	_ = c.Close()
}

func TestDialUDPIsConnected(t *testing.T) {
	pc, err := net.ListenPacket("udp", "127.0.0.2:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pc.Close()
	d := &Dialer{Policy: testPolicy(), Source: addrs("127.0.0.78")}
	c, err := d.DialContext(t.Context(), "udp", pc.LocalAddr().String(), scope("127.0.0.0/8"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, ok := c.(*net.UDPConn); !ok || c.RemoteAddr() == nil {
		t.Fatalf("got a %T", c)
	}
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 16)
	n, from, err := pc.ReadFrom(buf)
	if err != nil || string(buf[:n]) != "hello" || !strings.HasPrefix(from.String(), "127.0.0.78:") {
		t.Errorf("%q from %v, %v", buf[:n], from, err)
	}
}

func TestTargetsThatAreNone(t *testing.T) {
	d := &Dialer{Policy: testPolicy()}
	for _, addr := range []string{"", "1.2.3.4", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:65536", "1.2.3.4:https", "1.2.3.4:+443", "1.2.3.4:-1", "a:b:c"} {
		if _, err := d.DialContext(t.Context(), "tcp", addr, everywhere); err == nil || statusOf(t, err) != StatusPolicy {
			t.Errorf("%q: %v", addr, err)
		}
		if _, err := d.DialVia(t.Context(), "tcp", addr, everywhere); err == nil || statusOf(t, err) != StatusPolicy {
			t.Errorf("DialVia %q: %v", addr, err)
		}
	}
}

func TestDialEndsWithItsContext(t *testing.T) {
	d := &Dialer{Policy: testPolicy(), Lookup: func(ctx context.Context, _ string) ([]netip.Addr, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := d.DialContext(ctx, "tcp", "call.test:443", Scope{}); err == nil || statusOf(t, err) != StatusTimeout {
		t.Errorf("%v", err)
	}
}

func TestInterleave(t *testing.T) {
	var in []netip.AddrPort
	for _, a := range addrs("::1", "::2", "::3", "1.0.0.1", "1.0.0.2") {
		in = append(in, netip.AddrPortFrom(a, 1))
	}
	var got []string
	for _, ap := range interleave(in) {
		got = append(got, ap.Addr().String())
	}
	if want := "::1 1.0.0.1 ::2 1.0.0.2 ::3"; strings.Join(got, " ") != want {
		t.Errorf("%s, want %s", strings.Join(got, " "), want)
	}
}

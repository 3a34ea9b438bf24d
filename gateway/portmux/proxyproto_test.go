package portmux

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/pires/go-proxyproto"

	"hafen/gateway/frugal"
)

// TestAbuse_E05 is the PROXY protocol from a balancer that is trusted, or not.
func TestAbuse_E05(t *testing.T) {
	v2 := func(change func(*proxyproto.Header)) string {
		h := proxyproto.HeaderProxyFromAddrs(2, &net.TCPAddr{IP: net.ParseIP("10.9.8.7"), Port: 4711}, &net.TCPAddr{IP: net.ParseIP("10.0.0.2"), Port: 443})
		if change != nil {
			change(h)
		}
		b, err := h.Format()
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	tlv := v2(func(h *proxyproto.Header) {
		if err := h.SetTLVs([]proxyproto.TLV{{Type: proxyproto.PP2_TYPE_UNIQUE_ID, Value: []byte("id")}}); err != nil {
			t.Fatal(err)
		}
	})
	badTLV := []byte(tlv)
	badTLV[len(badTLV)-3] = 200 // longer than the header
	v1 := "PROXY TCP4 10.9.8.7 10.0.0.2 4711 443\r\n"
	const get = "GET /"
	for _, c := range []struct {
		name, header string
		client       string // "": refused
	}{
		{"v1", v1, "10.9.8.7:4711"},
		{"v1 of IPv6", "PROXY TCP6 2001:db8::1 2001:db8::2 4711 443\r\n", "[2001:db8::1]:4711"},
		{"v1 unknown", "PROXY UNKNOWN\r\n", "own"},
		{"v2", v2(nil), "10.9.8.7:4711"},
		{"v2 with TLV", tlv, "10.9.8.7:4711"},
		{"v2 local, a health check", v2(func(h *proxyproto.Header) { h.Command = proxyproto.LOCAL }), "own"},
		{"v2 of UDP", v2(func(h *proxyproto.Header) {
			h.TransportProtocol = proxyproto.UDPv4
			h.SourceAddr, h.DestinationAddr = &net.UDPAddr{IP: net.IPv4(10, 9, 8, 7)}, &net.UDPAddr{IP: net.IPv4(10, 9, 8, 8)}
		}), ""},
		{"v2 with bad TLV length", string(badTLV), ""},
		{"v2 longer than any", "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff", ""},
		{"twice", v1 + v1, ""},
		{"missing", "", ""},
		{"v1 without end", "PROXY TCP4 " + strings.Repeat("1", 120), ""},
		{"v1 with a bad address", "PROXY TCP4 10.9.8.777 10.0.0.2 4711 443\r\n", ""},
	} {
		for _, size := range []int{0, 1} {
			t.Run(c.name, func(t *testing.T) {
				var judged netip.Addr
				tm := start(t, func(o *Options) {
					o.TrustedProxy = func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.1") }
					o.Admit = func(a netip.Addr) error { judged = a; return nil }
				})
				conn := dial(t, tm.addr)
				slow := &slowConn{TCPConn: conn, size: size}
				_, _ = slow.Write([]byte(c.header + get)) // refused ones may be reset under way
				_ = conn.CloseWrite()
				got := string(readEnd(t, conn))
				e := tm.end(t)
				if c.client == "" {
					if got != "" || e.Status != "err_protocol" || e.Protocol != ProxyHeader && c.name != "twice" {
						t.Errorf("answered %q, ended as %+v", got, e)
					}
					return
				}
				want := c.client
				if want == "own" {
					want = conn.LocalAddr().String()
				}
				if got != "HTTP:"+get || e.Client.String() != want || judged != e.Client.Addr() {
					t.Errorf("answered %q, judged %v, client %v, want %v", got, judged, e.Client, want)
				}
			})
		}
	}
}

// TestProxyHeaderCountsTheClient: limits are the client's, not the balancer's, and its health checks are no error.
func TestProxyHeaderCountsTheClient(t *testing.T) {
	tm := start(t, func(o *Options) {
		o.TrustedProxy = func(netip.Addr) bool { return true }
		o.Limits = Limits{ConnectionsPerClient: 1}
	})
	_ = dial(t, tm.addr).Close()
	if e := tm.end(t); e.Protocol != Silent || e.Status != "ok" {
		t.Errorf("health check ended as %+v", e)
	}
	served := func(client string) bool {
		c := dial(t, tm.addr)
		_, _ = c.Write([]byte("PROXY TCP4 " + client + " 10.0.0.2 4711 443\r\nGET /"))
		n, _ := c.Read(make([]byte, 1))
		return n == 1
	}
	if got := []bool{served("10.0.0.7"), served("10.0.0.8"), served("10.0.0.7")}; !slices.Equal(got, []bool{true, true, false}) {
		t.Errorf("served %v", got)
	}
}

func FuzzProxyHeader(f *testing.F) {
	f.Add([]byte("PROXY TCP4 10.9.8.7 10.0.0.2 4711 443\r\nGET /"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c\x0a\x09\x08\x07\x0a\x00\x00\x02\x12\x67\x01\xbbGET /"))
	f.Add([]byte("\r\n\r\n\x00\r\nQUIT\n\x20\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		defer frugal.Input(t)()
		conn := &bytesConn{in: b}
		c := &Conn{}
		c.wire = wire{conn: conn, owner: c}
		if err := c.readProxyHeader(); err != nil {
			return
		}
		read := len(b) - len(conn.in)
		if read > proxyV2Prefix+proxyV2Max || !bytes.HasPrefix(b, []byte("PROXY ")) && !bytes.HasPrefix(b, proxyproto.SIGV2) {
			t.Fatalf("believed %q", b[:read])
		}
		if c.wire.client.IsValid() && c.wire.remote.(*net.TCPAddr).AddrPort() != c.wire.client {
			t.Fatalf("%v is not %v", c.wire.remote, c.wire.client)
		}
	})
}

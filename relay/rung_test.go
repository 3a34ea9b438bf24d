package relay

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

func TestNewRungs(t *testing.T) {
	all := []string{"udp", "tcp", "tls", "proxy"}
	proxy, err := netpolicy.NewProxy("http://proxy.example:3128", "", []string{"near.example.net"})
	if err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name    string
		urls    []string
		allowed []string
		proxy   *netpolicy.Proxy
		want    []string
	}{
		{"the whole ladder, given upside down", []string{
			"turns:r.example.net:443?transport=tcp", "turn:r.example.net:3478?transport=tcp",
			"turn:r.example.net:443?transport=udp", "turn:r.example.net:3478?transport=udp",
		}, all, proxy, []string{"udp:3478", "udp:443", "tcp:3478", "tls:443", "proxy:443"}},
		{"without a proxy", []string{"turns:r.example.net:443"}, all, nil, []string{"tls:443"}},
		{"no_proxy", []string{"turns:near.example.net:443"}, all, proxy, []string{"tls:443"}},
		{"defaults of RFC 7065", []string{"turn:r.example.net", "turns:r.example.net"}, all, nil, []string{"udp:3478", "tls:5349"}},
		{"twins", []string{"turn:r.example.net", "turn:R.example.net:3478?transport=udp"}, all, nil, []string{"udp:3478"}},
		{"relay.rungs", []string{"turn:r.example.net", "turns:r.example.net:443"}, []string{"tls"}, proxy, []string{"tls:443"}},
		{"two hosts", []string{"turn:b.example.net", "turn:a.example.net"}, all, nil, []string{"udp:b.example.net:3478", "udp:a.example.net:3478"}},
		{"nothing left", []string{"turn:r.example.net"}, []string{"tls"}, nil, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			region := configs.Region{URLs: tt.urls}
			var got []string
			for _, rg := range newRungs(&region2, region.Relays(), tt.allowed, tt.proxy) {
				got = append(got, rg.name)
			}
			if !slices.Equal(got, tt.want) {
				t.Errorf("%v, want %v", got, tt.want)
			}
		})
	}
}

var region2 region

func TestSpreadFamilies(t *testing.T) {
	list := func(texts ...string) (addrs []netip.AddrPort) {
		for _, s := range texts {
			addrs = append(addrs, netip.AddrPortFrom(netip.MustParseAddr(s), 1))
		}
		return addrs
	}
	tests := []struct{ from, want []netip.AddrPort }{
		{nil, nil},
		{list("192.0.2.1", "192.0.2.2"), list("192.0.2.1", "192.0.2.2")},
		{
			list("2001:db8::1", "2001:db8::2", "2001:db8::3", "192.0.2.1", "192.0.2.2", "192.0.2.3"),
			list("2001:db8::1", "2001:db8::2", "192.0.2.1", "192.0.2.2"),
		},
		{
			list("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "2001:db8::1"),
			list("192.0.2.1", "192.0.2.2", "2001:db8::1"),
		},
	}
	for _, tt := range tests {
		if got := spreadFamilies(tt.from, 4); !slices.Equal(got, tt.want) {
			t.Errorf("%v of %v, want %v", got, tt.from, tt.want)
		}
	}
}

func TestRungExplains(t *testing.T) {
	rg := &rung{kind: rungTLS, host: "one.test", port: 443}
	tests := []struct {
		err  error
		want string
	}{
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, "connection refused"},
		{&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, "connection reset"},
		{&net.OpError{Op: "write", Err: os.NewSyscallError("write", syscall.EPERM)}, "forbidden by a firewall on this machine"},
		{&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ENETUNREACH)}, "no route there"},
		{fmt.Errorf("dial: %w", context.DeadlineExceeded), "no answer"},
		{os.ErrDeadlineExceeded, "no answer"},
		{fmt.Errorf("handshake: %w", tls.AlertError(40)), "broke off the TLS handshake"},
		{tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, "not TLS"},
		{&netpolicy.Refusal{Addr: netip.MustParseAddrPort("10.0.0.1:443"), Reason: "a private address"}, "a private address"},
		{errClosedByRegion, "closed without an answer"},
	}
	for _, tt := range tests {
		if got := rg.explain(tt.err); !strings.Contains(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
}

// Whatever answers in a region's place is not the region, and the reason says what it is.
func TestRungImpostors(t *testing.T) {
	ca, company := newTestCA(t, "test authority"), newTestCA(t, "Company TLS Inspection")
	tests := []struct {
		name string
		ca   *testCA
		kind string
		host string
		page bool
		want []string
	}{
		{"intercepted", company, "tls", "one.test", false, []string{"intercepted", "Company TLS Inspection", "ca_file"}},
		{"another host's certificate", ca, "tls", "other.test", false, []string{"not valid", "test authority", "other.test"}},
		{"a web page inside TLS", ca, "tls", "one.test", true, []string{"HTTP/1.1 200 OK", "block page"}},
		{"a web page", ca, "tcp", "one.test", true, []string{"HTTP/1.1 200 OK", "block page"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			one := newStandin(t, tt.host, "127.0.31.1", 0, tt.ca)
			one.page.Store(tt.page)
			url := strings.Replace(one.url(tt.kind), tt.host, "one.test", 1)
			o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: []string{url}, Use: true}},
				map[string]string{"one.test": "127.0.31.1"}, nil)
			o.drive(5 * time.Second)
			st := o.region("one")
			if st.State != "down" {
				t.Fatalf("healthy: %+v", st)
			}
			for _, w := range tt.want {
				if !strings.Contains(st.Reason, w) {
					t.Errorf("the reason does not say %q: %s", w, st.Reason)
				}
			}
			if _, err := o.open(t.Context(), "", "", clientAddr); err == nil {
				t.Error("an uplink to an impostor")
			}
		})
	}
}

// Plain garbage where TLS should be.
func TestRungNoTLS(t *testing.T) {
	ca := newTestCA(t, "test authority")
	l, err := net.Listen("tcp", "127.0.32.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "SSH-2.0-OpenSSH_9.2p1\r\n")
			_ = conn.Close()
		}
	}()
	url := fmt.Sprintf("turns:one.test:%d?transport=tcp", l.Addr().(*net.TCPAddr).Port)
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: []string{url}, Use: true}},
		map[string]string{"one.test": "127.0.32.1"}, nil)
	o.drive(2 * time.Second)
	if st := o.region("one"); st.State != "down" || !strings.Contains(st.Reason, "not TLS") {
		t.Errorf("%+v", st)
	}
}

// companyProxy is an HTTP proxy that asks for a password.
type companyProxy struct {
	net.Listener
	schemes  []string
	connects atomic.Int64
}

func newCompanyProxy(t *testing.T, to string, schemes ...string) *companyProxy {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.33.9:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	p := &companyProxy{Listener: l, schemes: schemes}
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go p.serve(conn, to)
		}
	}()
	return p
}

func (p *companyProxy) serve(conn net.Conn, to string) {
	defer conn.Close()
	br := bufio.NewReader(conn)
	req, err := http.ReadRequest(br)
	if err != nil {
		return
	}
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte("gateway:s3cret"))
	if req.Method != http.MethodConnect || req.Header.Get("Proxy-Authorization") != want || !slices.Contains(p.schemes, "Basic") {
		_, _ = io.WriteString(conn, "HTTP/1.1 407 Proxy Authentication Required\r\n")
		for _, s := range p.schemes {
			_, _ = io.WriteString(conn, "Proxy-Authenticate: "+s+"\r\n")
		}
		_, _ = io.WriteString(conn, "Content-Length: 0\r\n\r\n")
		return
	}
	p.connects.Add(1)
	upstream, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer upstream.Close()
	_, _ = io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		_, _ = io.Copy(upstream, br)
		_ = upstream.Close()
	}()
	_, _ = io.Copy(conn, upstream)
}

func TestRungThroughTheCompanyProxy(t *testing.T) {
	ca := newTestCA(t, "test authority")
	tests := []struct {
		name    string
		schemes []string
		url     string
		up      bool
		want    string
	}{
		{"Basic", []string{"Basic"}, "http://gateway:s3cret@", true, ""},
		{"no Basic", []string{"Negotiate", "NTLM"}, "http://gateway:s3cret@", false, "NTLM"},
		{"wrong password", []string{"Basic"}, "http://gateway:wrong@", false, "password"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			one := newStandin(t, "one.test", "127.0.33.1", 0, ca)
			proxy := newCompanyProxy(t, one.tls.Addr().String(), tt.schemes...)
			// Nobody but the proxy knows the name, and nobody but the proxy gets out.
			o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls("udp", "tls"), Use: true}}, nil, func(o *outside) {
				p, err := netpolicy.NewProxy(tt.url+proxy.Addr().String(), "", nil)
				if err != nil {
					t.Fatal(err)
				}
				o.dialer.Proxy = p
			})
			o.drive(3 * time.Second)
			rg := o.rungOf("one", "proxy")
			if (rg.State == "up") != tt.up || !strings.Contains(rg.Reason, tt.want) || strings.Contains(rg.Reason, "s3cret") {
				t.Fatalf("%+v", rg)
			}
			if !tt.up {
				return
			}
			u := o.opened("", "")
			if !strings.HasPrefix(u.rung, "proxy:") || u.datagram {
				t.Fatalf("uplink over %s", u.rung)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			if _, err := (&conversation{conn: u}).binding(ctx, false); err != nil {
				t.Errorf("nothing comes through the proxy: %v", err)
			}
			if o.region("one").Rung != rg.Name || proxy.connects.Load() < 2 {
				t.Errorf("%+v, %d CONNECTs", o.region("one"), proxy.connects.Load())
			}
		})
	}
}

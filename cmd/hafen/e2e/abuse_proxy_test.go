package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"
)

// forbiddenAddresses is one of each kind that nothing may be sent to: special-purpose ranges, cloud metadata, and IPv4 in each form
// that IPv6 has for it.
var forbiddenAddresses = strings.Fields(`127.0.0.1 127.255.255.254 ::1 ::ffff:127.0.0.1 ::7f00:1 ::ffff:0:127.0.0.1 0.0.0.0 :: ::ffff:0.0.0.0 0.1.2.3
	10.0.0.1 172.16.0.1 172.31.255.255 192.168.1.1 ::ffff:10.1.2.3 ::10.1.2.3 169.254.169.254 ::ffff:169.254.169.254 fd00:ec2::254 169.254.170.2
	100.100.100.200 192.0.0.192 168.63.129.16 fec0::1 fc00::1 fdff:: 2002:7f00:1::1 2002:a00:1::1 2002:a9fe:a9fe::1 64:ff9b::7f00:1 64:ff9b::a01:203
	64:ff9b:1::7f00:1 64:ff9b:1:abcd::a01:203 64:ff9b:1:abcd:7f:0:100:0 2001:0:4136:e378:8000:63bf:80ff:fffe 2001:0:4136:e378:8000:63bf:f5fe:fdfc
	2606:4700::5efe:10.1.2.3 2606:4700::200:5efe:127.0.0.1 fd00::5efe:8.8.8.8 224.0.0.1 239.255.255.250 ff02::1 ff05::2 255.255.255.255 240.0.0.1
	100.64.0.1 192.0.2.1 192.88.99.1 198.18.0.1 198.51.100.1 203.0.113.1 2001:db8::1 3fff::1 5f00::1 100::1 198.18.255.1 10.10.0.2`)

// allowedAddresses are public ones, which the service's names may well have: the canary there is the positive control.
var allowedAddresses = strings.Fields("8.8.8.8 185.9.9.9 2606:4700::1111")

// entrance is a way to make the gateway dial a name.
type entrance struct {
	name, suffix string
	try          func(t testing.TB, a *abuse, host string) string
}

var entrances = []entrance{
	{"CONNECT in TLS", passSuffix, func(t testing.TB, a *abuse, host string) string {
		return a.connect(t, a.tls(t, a.inside, gatewayName), host+":443")
	}},
	{"CONNECT in clear on 443", passSuffix, func(t testing.TB, a *abuse, host string) string {
		return a.connect(t, a.tcp(t, a.inside, gatewayAddr+":443"), host+":443")
	}},
	{"CONNECT on the proxy port", passSuffix, func(t testing.TB, a *abuse, host string) string {
		return a.connect(t, a.tcp(t, a.inside, gatewayAddr+":3128"), host+":443")
	}},
	{"SNI passthrough", passSuffix, func(t testing.TB, a *abuse, host string) string {
		conn := tls.Client(a.tcp(t, a.inside, gatewayAddr+":443"), &tls.Config{ServerName: host, InsecureSkipVerify: true})
		return fmt.Sprint(conn.Handshake())
	}},
	{"signaling", sigSuffix, func(t testing.TB, a *abuse, host string) string {
		conn := a.tls(t, a.inside, host, "http/1.1")
		return ask(conn, "GET / HTTP/1.1\r\nHost: "+host+"\r\nConnection: close\r\n\r\n")
	}},
	{"signaling, WebSocket", sigSuffix, func(t testing.TB, a *abuse, host string) string {
		conn := a.tls(t, a.inside, host, "http/1.1")
		return ask(conn, "GET / HTTP/1.1\r\nHost: "+host+"\r\nOrigin: https://"+host+
			"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	}},
}

// connect sends a CONNECT and returns the first line of the answer. When it is 200 the connection is left open, for the dial is done.
func (a *abuse) connect(t testing.TB, conn net.Conn, target string) string {
	t.Helper()
	answer := ask(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
	secrets.Search(t, "the answer to a CONNECT", answer)
	return answer
}

// ask sends a request, reads the beginning of the answer, and leaves.
func ask(conn net.Conn, request string) string {
	_ = conn.SetDeadline(time.Now().Add(8 * time.Second))
	_, _ = io.WriteString(conn, request)
	buf := make([]byte, 2048)
	n, _ := conn.Read(buf)
	_ = conn.Close()
	return statusLine(string(buf[:n]))
}

// tryAll makes the gateway dial each name, several at a time.
func (a *abuse) tryAll(t testing.TB, e entrance, hosts []string) {
	t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 8)
	for _, host := range hosts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			e.try(t, a, host)
		})
	}
	wg.Wait()
}

// TestAbuse_B06 makes the gateway dial names that resolve to where it must not go, by every entrance there is: no
// canary is hit. B-01 and B-07 are among it: addresses themselves, and names that change their mind.
func TestAbuse_B06(t *testing.T) {
	t.Parallel()
	a := newAbuse(t, func(cfg string) string { // regions that resolve inside: what probes dial
		var b strings.Builder
		for i, text := range forbiddenAddresses {
			fmt.Fprintf(&b, "      - {name: r%d, urls: [\"turn:%s:3478?transport=udp\", \"turns:%s:5349?transport=tcp\"]}\n", i,
				spell("x", netip.MustParseAddr(text), passSuffix), spell("x", netip.MustParseAddr(text), passSuffix))
		}
		return strings.Replace(cfg, "pac:", b.String()+"pac:", 1)
	})
	for _, e := range entrances {
		t.Run(e.name, func(t *testing.T) {
			kinds := []string{"x", "r", "r"} // r changes with each question
			if *abuseAll {
				kinds = []string{"x", "m", "r", "r", "r", "r", "r", "r", "r", "r"}
			}
			for _, kind := range kinds {
				var hosts []string
				for _, text := range forbiddenAddresses {
					hosts = append(hosts, spell(kind, netip.MustParseAddr(text), e.suffix))
				}
				a.tryAll(t, e, hosts)
			}
			a.noCanary(t)
			for _, text := range allowedAddresses {
				answer := e.try(t, a, spell("x", netip.MustParseAddr(text), e.suffix))
				waitForOr(t, "the control at "+text, 3*time.Second, func() bool { return a.canary.take()[netip.MustParseAddr(text)] > 0 },
					func() string { return answer })
			}
		})
	}
	t.Run("B-01", func(t *testing.T) {
		for _, text := range forbiddenAddresses {
			addr := netip.MustParseAddr(text)
			for _, port := range canaryPorts {
				target := netip.AddrPortFrom(addr, uint16(port)).String()
				got := a.connect(t, a.tls(t, a.inside, gatewayName), target)
				if !strings.Contains(got, " 403 ") && !strings.Contains(got, " 400 ") {
					t.Errorf("CONNECT %s: %q", target, got)
				}
			}
		}
		a.noCanary(t)
	})
	if refused := a.metric(`hafen_forward_connects_total{status="err_policy"}`); refused < float64(3*len(forbiddenAddresses)) {
		t.Errorf("only %v CONNECTs were refused for policy", refused)
	}
	a.alive(t)
}

// noCanary checks that nobody arrived where nobody may. What is on its way gets a moment.
func (a *abuse) noCanary(t testing.TB) {
	t.Helper()
	time.Sleep(300 * time.Millisecond)
	if hits := a.canary.take(); len(hits) > 0 {
		t.Errorf("canaries were hit: %v", hits)
	}
}

// TestAbuse_Targets is what a CONNECT may name, and how (B-03 to B-05, B-10 to B-16, B-18).
func TestAbuse_Targets(t *testing.T) {
	t.Parallel()
	a := newAbuse(t)
	hello := clientHello(t, "good."+passSuffix)
	connect := func(target string) string { return "CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n\r\n" }
	long := strings.Repeat("a", 64)
	cases := []struct{ id, request, want string }{
		{"B-01 127.1", connect("127.1:443"), "403|400"},
		{"B-01 integer", connect("2130706433:443"), "403|400"},
		{"B-01 hex", connect("0x7f.1:443"), "403|400"},
		{"B-01 octal", connect("0177.0.0.1:443"), "403|400"},
		{"B-01 zone", connect("[fe80::1%25lo]:443"), "403|400"},
		{"B-03 address of an allowed host", connect(cloudAddr + ":443"), "403"},
		{"B-03 address of a relay", connect(fraAddr + ":3478"), "403"},
		{"B-04 22", connect("good." + passSuffix + ":22"), "403"},
		{"B-04 80", connect("good." + passSuffix + ":80"), "403"},
		{"B-04 8443", connect("good." + passSuffix + ":8443"), "403"},
		{"B-04 0", connect("good." + passSuffix + ":0"), "400"},
		{"B-04 65536", connect("good." + passSuffix + ":65536"), "400"},
		{"B-04 65979", connect("good." + passSuffix + ":65979"), "400"},
		{"B-04 0443", connect("good." + passSuffix + ":0443"), "400"},
		{"B-04 +443", connect("good." + passSuffix + ":+443"), "400"},
		{"B-04 https", connect("good." + passSuffix + ":https"), "400"},
		{"B-04 empty", connect("good." + passSuffix + ":"), "400"},
		{"B-04 none", connect("good." + passSuffix), "400"},
		{"B-04 relay 22", connect(fraName + ":22"), "403"},
		{"B-05 other", connect("evil.com:443"), "403"},
		{"B-05 suffix", connect(callName + ".evil.com:443"), "403"},
		{"B-05 prefix", connect("x" + callName + ":443"), "403"},
		{"B-05 bare suffix", connect(passSuffix + ":443"), "403"},
		{"B-05 escaped", connect("call.cloud%2eexample:443"), "400"},
		{"B-05 star", connect("*." + passSuffix + ":443"), "400"},
		{"B-05 homograph", connect("xn--cll-8cd.cloud.example:443"), "400|403"},
		{"B-05 raw homograph", connect("c\u0430ll.cloud.example:443"), "400"},
		{"B-05 kelvin", connect("\u212a." + passSuffix + ":443"), "400"},
		{"B-05 long label", connect(long + "." + passSuffix + ":443"), "400"},
		{"B-05 long name", connect(strings.Repeat("a.", 126) + passSuffix + ":443"), "400"},
		{"B-05 userinfo", connect(callName + "@evil.com:443"), "400"},
		{"B-05 slash", connect("evil.com/" + callName + ":443"), "400"},
		{"B-05 empty label", connect("a.." + passSuffix + ":443"), "400"},
		{"B-05 two dots", connect(callName + "..:443"), "400"},
		{"B-12 absolute GET", "GET http://" + callName + "/ HTTP/1.1\r\nHost: " + callName + "\r\n\r\n", "405|403|400|421"},
		{"B-12 absolute https", "GET https://" + callName + "/ HTTP/1.1\r\nHost: " + callName + "\r\n\r\n", "405|403|400|421"},
		{"B-12 absolute to metadata", "GET http://169.254.169.254/latest HTTP/1.1\r\nHost: 169.254.169.254\r\n\r\n", "405|403|400|421"},
		{"B-12 ftp", "GET ftp://" + callName + "/ HTTP/1.1\r\nHost: " + callName + "\r\n\r\n", "405|403|400|421"},
		{"B-12 OPTIONS *", "OPTIONS * HTTP/1.1\r\nHost: " + gatewayName + "\r\n\r\n", "200|405|403|400|404"},
		{"B-12 TRACE", "TRACE / HTTP/1.1\r\nHost: " + gatewayName + "\r\n\r\n", "405|403|400|404"},
		{"B-10 other Host", "CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: evil.com\r\n\r\n", "400|200"},
		{"B-10 two Hosts", "CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: evil.com\r\nHost: good." + passSuffix + "\r\n\r\n", "400"},
		{"B-13 own name", connect(gatewayName + ":443"), "403|508"},
		{"B-13 resolves to us", connect("self." + passSuffix + ":443"), "403|502|508"},
		{"B-13 Via", "CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: good." + passSuffix + ":443\r\nVia: 1.1 " + gatewayName + "\r\n\r\n", "403|508"},
		{"B-13 CDN-Loop", "CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: good." + passSuffix + ":443\r\nCDN-Loop: " + gatewayName + "\r\n\r\n", "403|508"},
		{"body", "CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: good." + passSuffix + ":443\r\nContent-Length: 5\r\n\r\nhello", "400"},
		{"chunked", "CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: good." + passSuffix + ":443\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", "400"},
		{"path", "CONNECT /etc/passwd HTTP/1.1\r\nHost: x\r\n\r\n", "400"},
		{"absolute", "CONNECT http://good." + passSuffix + ":443/ HTTP/1.1\r\nHost: good." + passSuffix + "\r\n\r\n", "400"},
		{"control", connect("good." + passSuffix + ":443"), "200"},
		{"control, upper case, dot", connect("GOOD." + strings.ToUpper(passSuffix) + ".:443"), "200"},
		{"B-15", connect("evil.com:443") + "GET /livez HTTP/1.1\r\nHost: " + gatewayName + "\r\n\r\n", "403"},
		{"B-15 flood", connect("evil.com:443") + strings.Repeat("GET /livez HTTP/1.1\r\nHost: "+gatewayName+"\r\n\r\n", 3000), "403"},
	}
	together(t, func(run func(string, func(*testing.T))) {
		for _, c := range cases {
			run(c.id, func(t *testing.T) {
				for name, conn := range map[string]net.Conn{"tls": a.tls(t, a.inside, gatewayName, "http/1.1"), "3128": a.tcp(t, a.inside, gatewayAddr+":3128")} {
					if strings.HasPrefix(c.id, "control") {
						if got := a.connect(t, conn, strings.Fields(c.request)[1]); !strings.Contains(got, " 200 ") {
							t.Errorf("%s: %q", name, got)
						}
						continue
					}
					_, _ = io.WriteString(conn, c.request)
					b, closed := answers(conn, 2*time.Second)
					got := string(b)
					if code := code(got); code == "" || !strings.Contains("|"+c.want+"|", "|"+code+"|") {
						t.Errorf("%s: want %s, got %q", name, c.want, statusLine(got))
					}
					if n := strings.Count(got, "HTTP/1.1 "); n != 1 {
						t.Errorf("%s: %d answers:\n%s", name, n, got)
					}
					if !closed && code(got) != "200" && strings.HasPrefix(c.request, "CONNECT") {
						t.Errorf("%s: left open after %q", name, statusLine(got))
					}
					_ = conn.Close()
				}
			})
		}
	})
	a.noCanary(t)
	t.Run("B-16", func(t *testing.T) { // the ClientHello in the segment of the CONNECT
		for _, conn := range []net.Conn{a.tls(t, a.inside, gatewayName), a.tcp(t, a.inside, gatewayAddr+":3128")} {
			_, _ = io.WriteString(conn, connect("good."+passSuffix+":443")+string(hello))
			b, _ := answers(conn, 2*time.Second)
			_, inside, _ := strings.Cut(string(b), "\r\n\r\n")
			if code(string(b)) != "200" || !strings.HasPrefix(inside, "\x16\x03\x03") {
				t.Errorf("no ServerHello through the tunnel: %q", b[:min(len(b), 80)])
			}
		}
	})
	t.Run("B-11", func(t *testing.T) {
		for name, first := range map[string]string{
			"another name": string(clientHello(t, "evil.com")), "no name": string(clientHello(t, "")),
			"SSH": "SSH-2.0-OpenSSH_9.2\r\n", "HTTP": "GET / HTTP/1.1\r\nHost: x\r\n\r\n", "zeros": strings.Repeat("\x00", 600),
			"SSLv2": "\x80\x2e\x01\x00\x02", "broken hello": "\x16\x03\x01\x00\x05\x01\xff\xff\xff\xff",
		} {
			conn := a.tls(t, a.inside, gatewayName)
			_, _ = io.WriteString(conn, connect("good."+passSuffix+":443")+first)
			b, closed := answers(conn, 3*time.Second)
			_, inside, _ := strings.Cut(string(b), "\r\n\r\n")
			if !closed || strings.HasPrefix(inside, "\x16") || strings.HasPrefix(inside, "HTTP/1") {
				t.Errorf("%s passed: closed %v, inside %q", name, closed, inside)
			}
		}
	})
	t.Run("B-18", func(t *testing.T) {
		conn := a.tls(t, a.inside, "good."+sigSuffix, "h2")
		if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
			t.Fatalf("no h2 on a routed name but %q", p)
		}
		status, err := h2Connect(conn, callName+":443")
		if err == nil && status == "200" {
			t.Errorf("CONNECT over h2: %s", status)
		}
		t.Logf("CONNECT over h2: %q %v", status, err)
	})
	a.alive(t)
}

// code is the status code of an HTTP/1 answer, "" if it is none.
func code(answer string) string {
	if f := strings.Fields(statusLine(answer)); len(f) > 1 && strings.HasPrefix(f[0], "HTTP/1") {
		return f[1]
	}
	return ""
}

// clientHello is one as Go's TLS writes it, asking for a name.
func clientHello(t testing.TB, name string) []byte {
	t.Helper()
	client, server := net.Pipe()
	defer func() { _ = server.Close() }()
	go func() {
		_ = tls.Client(client, &tls.Config{ServerName: name, InsecureSkipVerify: true}).Handshake()
	}()
	buf := make([]byte, 8<<10)
	_ = server.SetDeadline(time.Now().Add(5 * time.Second))
	n, err := server.Read(buf)
	must(t, err)
	return buf[:n]
}

package e2e

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/dop251/goja"
)

// TestAbuse_Ways is what goes wrong on the two ways to a call server behind the gateway's back: DNS, the call server itself, and clients that
// do not behave once they are connected.
func TestAbuse_Ways(t *testing.T) {
	t.Parallel()
	a := newAbuse(t, func(cfg string) string {
		return cfg + "signaling: {routes: [{host: \"*." + sigSuffix + "\"}, {host: " + callName + "}, {host: " + iceName + ", rewrite_ice_servers: [/**]}]}\n"
	})
	up := a.startOddUpstream(t)
	slow := a.slowBody(t)
	base := a.load()
	t.Run("B-08", a.oddNames)
	t.Run("B-19", func(t *testing.T) { a.halfCloses(t, up) })
	t.Run("B-23", func(t *testing.T) { a.resets(t, up) })
	t.Run("B-24", a.pacFile)
	t.Run("C-09", func(t *testing.T) { a.origins(t, up) })
	t.Run("C-10", func(t *testing.T) { a.oddFrames(t, up) })
	t.Run("C-19", func(t *testing.T) { a.heldPolls(t, up) })
	t.Run("C-22", func(t *testing.T) { a.leaks(t, up) })
	t.Run("C-23", func(t *testing.T) { a.caches(t, up) })
	t.Run("C-24", func(t *testing.T) { a.retries(t, up) })
	t.Run("C-18", func(t *testing.T) {
		if got := <-slow; code(got) != "408" {
			t.Errorf("a request whose body comes by a byte a second is answered %q", got)
		}
	})
	a.noCanary(t)
	a.alive(t)
	const pool = 128 // connections to a call server that wait for the next request
	base.goroutines, base.descriptors = base.goroutines+2*pool, base.descriptors+pool
	a.backTo(t, base, 20*time.Second)
}

// slowBody sends a request of which a byte comes each second, and tells how it was answered: half a minute of waiting is too much.
func (a *abuse) slowBody(t *testing.T) <-chan string {
	t.Helper()
	conn := a.tls(t, a.inside, callName, "http/1.1")
	_ = conn.SetDeadline(time.Now().Add(2 * time.Minute))
	_, err := io.WriteString(conn, "POST /slow HTTP/1.1\r\nHost: "+callName+"\r\nContent-Length: 5000\r\n\r\n")
	must(t, err)
	go func() {
		for {
			time.Sleep(time.Second)
			if _, err := conn.Write([]byte("x")); err != nil {
				return
			}
		}
	}()
	answered := make(chan string, 1)
	go func() {
		buf := make([]byte, 4096)
		n, _ := conn.Read(buf)
		answered <- string(buf[:n])
	}()
	return answered
}

// oddNames are names whose resolution is odd. Each ends in time, and a name that comes back is back soon.
func (a *abuse) oddNames(t *testing.T) {
	const bound = 12 * time.Second // the gateway's own is 5 s
	cloud := netip.MustParseAddr(cloudAddr)
	together(t, func(run func(string, func(*testing.T))) {
		for _, c := range []struct{ what, name, want string }{
			{"an alias elsewhere", spell("c", cloud, passSuffix), "200"},
			{"an alias of what is forbidden", spell("c", netip.MustParseAddr("169.254.169.254"), passSuffix), "502"},
			{"ten aliases", spell("d", cloud, passSuffix), "200"},
			{"ten aliases of what is forbidden", spell("d", netip.MustParseAddr("127.0.0.1"), passSuffix), "502"},
			{"1,000 addresses", spell("w", cloud, passSuffix), "200"},
			{"1,000 forbidden addresses", spell("w", netip.MustParseAddr("10.9.9.9"), passSuffix), "502"},
			{"NXDOMAIN", "none." + passSuffix, "502"},
			{"SERVFAIL", "servfail." + passSuffix, "502"},
			{"silence", "silent." + passSuffix, "504"},
		} {
			run(c.what, func(t *testing.T) {
				began := time.Now()
				got := a.connectTo(t, c.name+":443")
				if took := time.Since(began); !strings.Contains(got, " "+c.want+" ") || took > bound {
					t.Errorf("%q after %v, want %s", got, took, c.want)
				}
				if c.want != "502" || c.what == "silence" {
					return
				}
				began = time.Now()
				if got := a.connectTo(t, c.name+":443"); !strings.Contains(got, " 502 ") || time.Since(began) > bound/2 {
					t.Errorf("once more: %q after %v", got, time.Since(began))
				}
			})
		}
	})
	a.dns.set("none."+passSuffix, cloudAddr)
	waitFor(t, "a name that is back", bound, func() bool { return strings.Contains(a.connectTo(t, "none."+passSuffix+":443"), " 200 ") })
}

// connectTo asks for a tunnel and leaves.
func (a *abuse) connectTo(t testing.TB, target string) string {
	t.Helper()
	conn := a.tcp(t, a.inside, gatewayAddr+":3128")
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n")
	head, _ := readHead(conn)
	return statusLine(head)
}

// tunnelTo opens a tunnel, says hello in it, and returns it.
func (a *abuse) tunnelTo(t testing.TB, name string) net.Conn {
	t.Helper()
	conn := a.tcp(t, a.inside, gatewayAddr+":3128")
	_, _ = io.WriteString(conn, "CONNECT "+name+":443 HTTP/1.1\r\nHost: "+name+":443\r\n\r\n")
	if head, err := readHead(conn); err != nil || code(head) != "200" {
		t.Fatalf("CONNECT: %q %v", head, err)
	}
	_, err := conn.Write(clientHello(t, name))
	must(t, err)
	return conn
}

// halfCloses: either side may say that it is done, and the other goes on; a tunnel of which one end has gone is given back. That a
// silent tunnel ends is proven with a clock of the test's own in gateway/forward (TestIdleLimit): its limits are 10 minutes and an hour.
func (a *abuse) halfCloses(t *testing.T, up *oddUpstream) {
	tunnels := a.metric("hafen_forward_tunnels")
	ended := make(chan string, 1)
	up.doesRaw(func(conn net.Conn) { // waits for the client's end, and only then speaks
		_, err := io.Copy(io.Discard, conn)
		ended <- fmt.Sprint(err)
		_, _ = io.WriteString(conn, "after your end")
	})
	conn := a.tunnelTo(t, passName)
	must(t, conn.(*net.TCPConn).CloseWrite())
	if b, closed := answers(conn, 5*time.Second); string(b) != "after your end" || !closed {
		t.Errorf("behind the client's FIN came %q, closed %v", b, closed)
	}
	if got := <-ended; got != "<nil>" {
		t.Errorf("the call server saw %s, not the client's FIN", got)
	}
	heard := make(chan string, 1)
	up.doesRaw(func(conn net.Conn) { // is done at once, and listens
		_ = conn.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(conn)
		heard <- string(b[max(0, len(b)-4):])
	})
	conn = a.tunnelTo(t, passName)
	if _, err := conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("the call server's FIN shows as %v", err)
	}
	for _, piece := range []string{"some", "more"} {
		time.Sleep(200 * time.Millisecond) // long after the FIN
		_, err := io.WriteString(conn, piece)
		must(t, err)
	}
	must(t, conn.(*net.TCPConn).CloseWrite())
	if got := <-heard; got != "more" {
		t.Errorf("behind its own FIN the call server heard %q", got)
	}
	up.doesRaw(func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
	conn = a.tunnelTo(t, passName)
	must(t, conn.(*net.TCPConn).SetLinger(0))
	_ = conn.Close()
	waitFor(t, "the tunnels to be given back", 5*time.Second, func() bool { return a.metric("hafen_forward_tunnels") <= tunnels })
}

// resets: a call server breaks off after each byte of its hello. The client is told by the end of its connection, and nothing stays behind.
func (a *abuse) resets(t *testing.T, up *oddUpstream) {
	var serverHello bytes.Buffer
	client, server := net.Pipe()
	go func() { _ = tls.Server(server, up.config).Handshake() }()
	_, err := client.Write(clientHello(t, oddName))
	must(t, err)
	_, err = io.CopyN(&serverHello, client, 1000)
	must(t, err)
	_ = client.Close()
	base := a.load()
	step := 25
	if *abuseAll {
		step = 1
	}
	for k := 0; k <= serverHello.Len(); k += step {
		up.doesRaw(func(conn net.Conn) {
			_, _ = conn.Read(make([]byte, 8<<10))
			_, _ = conn.Write(serverHello.Bytes()[:k])
			_ = conn.(*net.TCPConn).SetLinger(0)
		})
		conn := a.tunnelTo(t, passName)
		if b, closed := answers(conn, 5*time.Second); !closed || !bytes.HasPrefix(serverHello.Bytes(), b) {
			t.Errorf("reset after %d bytes: the tunnel gave %d bytes, closed %v", k, len(b), closed)
		}
		raw := a.tcp(t, a.inside, gatewayAddr+":443")
		_, _ = raw.Write(clientHello(t, passName))
		if _, closed := answers(raw, 5*time.Second); !closed {
			t.Errorf("reset after %d bytes: the passthrough is still open", k)
		}
		routed := a.tls(t, a.inside, oddName, "http/1.1")
		if got := exchange(t, routed, "GET / HTTP/1.1\r\nHost: "+oddName+"\r\nConnection: close\r\n\r\n"); code(got) != "502" {
			t.Errorf("reset after %d bytes: the routed request is answered %q", k, got)
		}
	}
	if n := a.metric(`hafen_signaling_requests_total{status="err_upstream"}`); n < 2 {
		t.Errorf("%v requests are counted as failed by their call server", n)
	}
	a.backTo(t, base, 10*time.Second)
}

// pacFile is the same bytes for a client whatever it says, and sends where CONNECT goes.
func (a *abuse) pacFile(t *testing.T) {
	get := func(target, host string, headers ...string) string {
		conn := a.tls(t, a.inside, gatewayName, "http/1.1")
		return exchange(t, conn, "GET "+target+" HTTP/1.1\r\nHost: "+host+"\r\n"+strings.Join(append(headers, ""), "\r\n")+"Connection: close\r\n\r\n")
	}
	head, file, _ := strings.Cut(get("/proxy.pac", gatewayName), "\r\n\r\n")
	for _, want := range []string{"HTTP/1.1 200", "Content-Type: application/x-ns-proxy-autoconfig", "X-Content-Type-Options: nosniff", "Cache-Control: private, max-age=300"} {
		if !strings.Contains(head, want) {
			t.Errorf("the head lacks %q:\n%s", want, head)
		}
	}
	const evil = "EVIL\"};alert(1);//"
	for name, got := range map[string]string{
		"again": get("/proxy.pac", gatewayName), "wpad": get("/wpad.dat", gatewayName), "an address": get("/proxy.pac", gatewayAddr),
		"a query": get("/proxy.pac?a=%22%7D;alert(1)//", gatewayName), "a huge query": get("/proxy.pac?"+strings.Repeat("a", 8<<10), gatewayName),
		"a port": get("/proxy.pac", gatewayName+":443"), "claims": get("/proxy.pac", gatewayName, "X-Forwarded-Host: "+evil, "X-Forwarded-For: 10.9.9.9", "Forwarded: host=evil", "User-Agent: "+evil),
	} {
		if _, body, _ := strings.Cut(got, "\r\n\r\n"); body != file {
			t.Errorf("with %s the file is another: %q", name, got[:min(len(got), 300)])
		}
	}
	if got := get("/proxy.pac", evil); strings.Contains(got, "EVIL") || code(got) == "200" {
		t.Errorf("a Host that is JavaScript: %q", got[:min(len(got), 300)])
	}
	if got := get("/proxy.pac?"+strings.Repeat("a", 1<<20), gatewayName); code(got) == "200" {
		t.Errorf("a query of 1 MiB: %q", statusLine(got))
	}
	vm := goja.New()
	_, err := vm.RunString(file)
	must(t, err)
	find, _ := goja.AssertFunction(vm.Get("FindProxyForURL"))
	asked := 0
	for _, host := range []string{callName, "x." + passSuffix, "x.y." + sigSuffix, fraName, gatewayName, "evil.com", callName + ".evil.com", passSuffix, "x" + callName, "127.0.0.1", "10.20.0.2", "localhost", "constructor"} {
		for _, port := range []string{":443", ":3478", ":80", ":8443"} {
			for _, scheme := range []string{"https", "http"} {
				asked++
				answer, err := find(goja.Undefined(), vm.ToValue(scheme+"://"+host+port+"/x"), vm.ToValue(host))
				must(t, err)
				ours := strings.HasPrefix(answer.String(), "HTTPS "+gatewayName)
				if want := strings.Contains(a.connectTo(t, host+port), " 200 ") && host != gatewayName; ours != want && !unresolved(host) {
					t.Errorf("%s://%s%s: %q, but CONNECT allows it: %v", scheme, host, port, answer, want)
				}
				if !ours && answer.String() != "DIRECT" {
					t.Errorf("%s://%s%s: %q", scheme, host, port, answer)
				}
			}
		}
	}
	t.Logf("%d addresses asked", asked)
}

// unresolved names may be asked for, but lead nowhere here.
func unresolved(host string) bool { return strings.HasPrefix(host, "x.") }

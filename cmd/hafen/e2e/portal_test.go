package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// portal is a captive portal: whatever is asked, on whatever port, the answer is a page that wants somebody to log in.
type portal struct {
	ns  *namespace
	tls *tls.Config // with a certificate that nobody trusts
}

const portalPage = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 23\r\nConnection: keep-alive\r\n\r\n<h1>Please log in!</h1>"

// startPortal listens where a relay would, and on 3128 as a proxy that says 200 to every CONNECT and answers itself.
func startPortal(t testing.TB, l *laboratory, names ...string) *portal {
	t.Helper()
	certFile, keyFile := newAuthority(t, t.TempDir()).issue(t, names...)
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	must(t, err)
	p := &portal{ns: l.net.host("portal"), tls: &tls.Config{Certificates: []tls.Certificate{cert}}}
	for port, serve := range map[int]func(net.Conn){3478: p.page, 443: p.securePage, 3128: p.proxy} {
		ln, err := p.ns.listen("tcp", hostPort(p.ns.addr, port))
		must(t, err)
		t.Cleanup(func() { _ = ln.Close() })
		go p.accept(ln, serve)
	}
	for _, port := range []int{3478, 443} {
		var conn net.PacketConn
		must(t, p.ns.do(func() (err error) {
			conn, err = net.ListenPacket("udp", hostPort(p.ns.addr, port))
			return err
		}))
		t.Cleanup(func() { _ = conn.Close() })
		go echo(conn)
	}
	return p
}

func (p *portal) accept(ln net.Listener, serve func(net.Conn)) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = conn.Close() }()
			_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
			serve(conn)
		}()
	}
}

// page answers everything that comes with the page.
func (p *portal) page(conn net.Conn) {
	buf := make([]byte, 4096)
	for {
		if _, err := conn.Read(buf); err != nil {
			return
		}
		if _, err := io.WriteString(conn, portalPage); err != nil {
			return
		}
	}
}

func (p *portal) securePage(conn net.Conn) { p.page(tls.Server(conn, p.tls)) }

// proxy says 200 to whatever request comes, and then either speaks TLS in the target's name or sends the page.
func (p *portal) proxy(conn net.Conn) {
	r := bufio.NewReader(conn)
	req, err := http.ReadRequest(r)
	if err != nil {
		return
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	if strings.HasPrefix(req.Host, lonName) {
		p.securePage(&bufferedConn{Conn: conn, r: r})
		return
	}
	p.page(&bufferedConn{Conn: conn, r: r})
}

// echo sends every datagram back to where it came from.
func echo(conn net.PacketConn) {
	buf := make([]byte, 2048)
	for {
		n, from, err := conn.ReadFrom(buf)
		if err != nil {
			return
		}
		_, _ = conn.WriteTo(buf[:n], from)
	}
}

// TestPortal: what answers 200 to everything is never a healthy region, neither on the way to one nor as a proxy. When
// nothing else is left, clients are refused at once and the status says which rung failed where.
func TestPortal(t *testing.T) { scenarioWithout(t, onlyPortals) }

func onlyPortals(t *testing.T) {
	fake := relay{region: "london", name: lonName, addr: "10.30.0.2", impostor: true}
	sc := &scene{regions: []relay{fake, frankfurt}}
	sc.between = func(l *laboratory) {
		p := startPortal(t, l, lonName, fraName)
		sc.names = sc.cloudNames()
		sc.names[proxyName] = p.ns.addr
		sc.more = fmt.Sprintf("egress: {proxy: \"http://%s:3128\", no_proxy: [%s]}\n", proxyName, callName)
	}
	l := sc.standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	l.waitRungs("frankfurt", "udp:3478")
	l.waitChosen("frankfurt", 20*time.Second)
	impostors := map[string][]string{"london": {"udp:3478", "udp:443", "tcp:3478", "tls:443", "proxy:443"}, "frankfurt": {"proxy:443"}}
	for region, rungs := range impostors {
		for _, rung := range rungs {
			waitForOr(t, region+" "+rung+" to be found down", 20*time.Second, func() bool { return rungOf(l.snapshot(), region, rung).State == "down" },
				func() string { return fmt.Sprintf("%+v", l.snapshot().Services) })
			t.Logf("%s %s: %s", region, rung, rungOf(l.snapshot(), region, rung).Why)
		}
	}
	if c := l.smallCall(t, ward, "tls", newCallMost); c.relayedAt() != frankfurt.addr {
		t.Errorf("the call is relayed at %s", c.relayedAt())
	}

	l.companyFirewall(t, "udp:3478", "udp:443", "tcp:3478", "tcp:443")
	waitForOr(t, "every region to be down", 20*time.Second, func() bool {
		s := l.snapshot()
		return rungOf(s, "frankfurt", "tls:443").State == "down" && rungOf(s, "frankfurt", "udp:3478").State == "down" && s.Services[0].Chosen == ""
	}, func() string { return fmt.Sprintf("%+v", l.snapshot().Services) })
	for _, r := range l.snapshot().Services[0].Regions {
		for _, rung := range r.Rungs {
			t.Logf("%s %s: %s: %s", r.Name, rung.Name, rung.State, rung.Why)
		}
	}
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	_, err := l.newCaller(ctx, ward, "tls", gatewayAddr)
	t.Logf("without any region a client was refused after %v: %v", time.Since(began).Round(time.Millisecond), err)
	if err == nil || ctx.Err() != nil {
		t.Errorf("an allocation without any region: %v, want a refusal at once", err)
	}
	for region, rungs := range impostors {
		for _, rung := range rungs {
			if got := rungOf(l.snapshot(), region, rung); got.State != "down" || got.Why == "" {
				t.Errorf("%s %s: %+v, want down and why", region, rung, got)
			}
		}
	}
	for _, line := range strings.Split(l.gateway.out.String(), "\n") {
		if strings.Contains(line, "rung_up") && strings.Contains(line, "london") || strings.Contains(line, "region_up") && strings.Contains(line, "london") {
			t.Errorf("the portal was taken for a region: %s", line)
		}
	}
}

package e2e

import (
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// callTimeout is for a call to connect and to show frames, on a machine that may be busy.
const callTimeout = 45 * time.Second

// call opens the room in two browsers of an office and waits until media flows both ways.
func (l *laboratory) call(t testing.TB, office *namespace, address string, flags ...string) (a, b *tab) {
	t.Helper()
	first, second := newBrowser(t, office, l.ca, flags...), newBrowser(t, office, l.ca, flags...)
	a, b = first.open(t, address), second.open(t, address)
	mediaFlows(t, a, b)
	return a, b
}

// TestCallOnly443 is scenario A: nothing is open but TCP 443 to the gateway, which knows no TURN secret.
func TestCallOnly443(t *testing.T) { scenario(t, callOnly443) }

func callOnly443(t *testing.T) {
	l := newLaboratory(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	a, b := l.call(t, ward, "https://"+callName+"/r/a?join=1&relay=1&video=small")
	for _, p := range []*tab{a, b} {
		s := p.stats()
		if s.Signaling != "websocket" {
			t.Errorf("signaling went over %q, want a WebSocket", s.Signaling)
		}
		if s.Pair.Local.RelayProtocol != "tls" || !strings.Contains(s.Pair.Local.URL, gatewayName) {
			t.Errorf("media goes over %s to %s, want TLS to the gateway", s.Pair.Local.RelayProtocol, s.Pair.Local.URL)
		}
	}
	if n := l.metric("hafen_relay_allocations"); n < 2 {
		t.Errorf("the gateway counts %v allocations, want 2 at least", n)
	}
	if n := l.metric("hafen_signaling_websockets"); n < 2 {
		t.Errorf("the gateway counts %v WebSockets, want 2 at least", n)
	}
	l.noSecret(t)
}

// noSecret checks that the gateway is not told where the relays' secret is: what it says is searched in any case.
func (l *laboratory) noSecret(t testing.TB) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(l.dir, "hafen.yaml"))
	must(t, err)
	if strings.Contains(string(file), relaySecret) || strings.Contains(string(file), "turn_credentials") {
		t.Error("the gateway's configuration holds the relays' secret")
	}
}

// TestCallThroughPAC is scenario B: browsers know nothing but the PAC file; page, WebSocket and TURN over TLS to the
// relay's own name go through CONNECT, and nothing else does.
func TestCallThroughPAC(t *testing.T) { scenario(t, callThroughPAC) }

func callThroughPAC(t *testing.T) {
	l := newLaboratory(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	pac, status := get(ward, "https://"+gatewayAddr+"/proxy.pac", "")
	if status != 200 || !strings.Contains(pac, "HTTPS "+gatewayName+":443") {
		t.Fatalf("the PAC file: %d %s", status, pac)
	}
	a, b := l.call(t, ward, "https://"+plainName+"/r/b?join=1&relay=1&video=small&transport=tls", pacFlag(pac))
	for _, p := range []*tab{a, b} {
		if s := p.stats(); s.Signaling != "websocket" || s.Pair.Local.RelayProtocol != "tls" {
			t.Errorf("signaling %q, media over %q: want websocket and tls", s.Signaling, s.Pair.Local.RelayProtocol)
		}
	}
	if n := l.metric("hafen_forward_tunnels"); n < 4 {
		t.Errorf("the gateway counts %v tunnels, want the WebSockets and the relays: 4 at least", n)
	}
	out, err := ward.command(t.Context(), "curl", "-sS", "--max-time", "10", "--proxy-cacert", l.ca.file, "--proxy", "https://"+gatewayName+":443",
		"https://"+otherName+"/").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "403") {
		t.Errorf("CONNECT to an unrelated host: %v %s, want 403", err, out)
	}
}

// TestCallLongPoll is scenario C: a middlebox strips Upgrade from every request; the call connects over long-poll.
func TestCallLongPoll(t *testing.T) { scenario(t, callLongPoll) }

func callLongPoll(t *testing.T) {
	l := newLaboratory(t)
	company := l.net.host("company")
	(&middlebox{gateway: gatewayAddr + ":443", stripUpgrade: true}).start(t, company, company.addr+":443", l.ca, callName)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: company.addr}, onlyGateway,
		"ip daddr "+company.addr+" tcp dport 443")
	a, b := l.call(t, ward, "https://"+callName+"/r/c?join=1&relay=1&video=small")
	for _, p := range []*tab{a, b} {
		if s := p.stats(); s.Signaling != "longpoll" {
			t.Errorf("signaling went over %q, want longpoll", s.Signaling)
		}
	}
}

// TestSNIPassthrough is scenario D: internal DNS answers the gateway's address for a call server for which the gateway
// holds no certificate; the page loads with the cloud's own.
func TestSNIPassthrough(t *testing.T) { scenario(t, sNIPassthrough) }

func sNIPassthrough(t *testing.T) {
	l := newLaboratory(t)
	ward := l.office("ward", map[string]string{plainName: gatewayAddr}, onlyGateway)
	raw, err := ward.dial(t.Context(), "tcp", gatewayAddr+":443")
	must(t, err)
	conn := tls.Client(raw, &tls.Config{ServerName: plainName, InsecureSkipVerify: true})
	defer func() { _ = conn.Close() }()
	must(t, conn.Handshake())
	file, err := os.ReadFile(filepath.Join(l.dir, plainName+".cloud.crt"))
	must(t, err)
	block, _ := pem.Decode(file)
	if got := conn.ConnectionState().PeerCertificates[0].Raw; string(got) != string(block.Bytes) {
		t.Error("the certificate is not the cloud's own")
	}
	page := newBrowser(t, ward, l.ca).open(t, "https://"+plainName+"/")
	if title := page.text("document.title"); title == "" {
		t.Error("the page has no title")
	}
}

// TestRegionCut is scenario E: of three regions at different distances the one in use, the nearest, falls silent, nothing
// is closed. One browser is on TURN over TLS, the other over TCP. The gateway closes both, their page's ICE restart brings
// the call back; new calls land on the next nearest.
func TestRegionCut(t *testing.T) {
	scenario(t, func(t *testing.T) { regionCut(t, "bridge") })
}

// TestRegionCutTerminate: the same where the gateway itself holds the allocations at the cloud.
func TestRegionCutTerminate(t *testing.T) {
	longScenario(t, func(t *testing.T) { regionCut(t, "terminate") })
}

func regionCut(t *testing.T, mode string) {
	sc := distances(t, map[relay]time.Duration{london: 10 * time.Millisecond, frankfurt: 30 * time.Millisecond, newYork: 80 * time.Millisecond})
	sc.lists = []string{"turns:" + gatewayName + ":443?transport=tcp", "turn:" + gatewayName + ":443?transport=tcp"}
	sc.mode = mode
	l := sc.standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	l.waitNearest(london)
	room := "https://" + callName + "/r/e?join=1&relay=1&video=small&transport="
	a := newBrowser(t, ward, l.ca).open(t, room+"tls")
	b := newBrowser(t, ward, l.ca).open(t, room+"tcp")
	mediaFlows(t, a, b)
	if via := a.stats().Pair.Local.RelayProtocol + " " + b.stats().Pair.Local.RelayProtocol; via != "tls tcp" {
		t.Errorf("the browsers' media goes over %q, want tls and tcp", via)
	}
	a.record(t)
	b.record(t)
	time.Sleep(time.Second) // so that the recorders have something before the gap
	cut := l.silence(t, london)
	took := mediaIsBack(t, cut, map[string]*tab{"the TLS client": a, "the TCP client": b})
	t.Logf("%s cut: audio and video flow again both ways after %v; restarts: %v and %v", london.region, took, a.stats().Restarts, b.stats().Restarts)
	within(t, "media's return", took, cutMost)
	if c := l.smallCall(t, ward, "tls", newCallMost); c.relayedAt() != frankfurt.addr {
		t.Errorf("a new call landed on %s, want %s", c.relayedAt(), frankfurt.addr)
	}
}

// cutMost is the bound for media to flow again after a region fell silent.
const cutMost = 4 * time.Second

// silence drops every packet of a region, both ways.
func (l *laboratory) silence(t testing.TB, r relay) time.Time {
	t.Helper()
	l.cloud.nft(t, fmt.Sprintf(`table inet cut {
 chain in { type filter hook input priority 0; ip daddr %s drop; }
 chain out { type filter hook output priority 0; ip saddr %s drop; }
}`, r.addr, r.addr))
	return time.Now()
}

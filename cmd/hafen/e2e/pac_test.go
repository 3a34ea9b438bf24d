package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/fetch"
	"github.com/chromedp/chromedp"
)

// wayIn is how an office's browsers reach the gateway's CONNECT: what the PAC file says, and the one port that is open.
type wayIn struct {
	entry string // of the PAC file
	rule  string
	flags []string
}

var (
	wayTLS   = wayIn{entry: "HTTPS " + gatewayName + ":443", rule: onlyGateway}
	wayPlain = wayIn{entry: "PROXY " + gatewayName + ":3128", rule: "ip daddr " + gatewayAddr + " tcp dport 3128"}
	// wayManaged is the policy of offices that want no address of a PC to show: UDP without a proxy is off.
	wayManaged = wayIn{entry: wayTLS.entry, rule: onlyGateway, flags: []string{"--force-webrtc-ip-handling-policy=disable_non_proxied_udp"}}
)

// TestTURNThroughPAC: a call service that knows nothing of the gateway, browsers that know nothing but its PAC file,
// and TURN over TCP. The gateway bridges it: towards the cloud it is UDP.
func TestTURNThroughPAC(t *testing.T) { callScenario(t, turnThroughPAC) }

func turnThroughPAC(t *testing.T) {
	l := newLaboratory(t)
	count := l.countRelayPackets(t)
	for i, way := range []wayIn{wayTLS, wayPlain, wayManaged} {
		ward := l.office(fmt.Sprintf("ward%d", i), map[string]string{gatewayName: gatewayAddr}, way.rule)
		address := fmt.Sprintf("https://%s/r/pac%d?join=1&relay=1&video=small&transport=tcp", plainName, i)
		a, b := l.call(t, ward, address, append(way.flags, pacFlag(l.pacWith(t, way.entry)))...)
		for _, p := range []*tab{a, b} {
			if s := p.stats(); s.Signaling != "websocket" || s.Pair.Local.RelayProtocol != "tcp" {
				t.Errorf("%s: signaling %q, media over %q: want websocket and tcp", way.entry, s.Signaling, s.Pair.Local.RelayProtocol)
			}
		}
		l.bridgedOverUDP(t, way, count, a, b)
		must(t, a.navigate("about:blank"))
		must(t, b.navigate("about:blank"))
	}
}

// bridgedOverUDP measures while media flows: packets arrive at the relays' UDP port and none of TURN at their TCP ports,
// and the gateway knows the sessions as its own.
func (l *laboratory) bridgedOverUDP(t *testing.T, way wayIn, count func(kind string) float64, pages ...*tab) {
	t.Helper()
	udp, tcp := count("udp"), count("tcp")
	began := time.Now()
	mediaFlows(t, pages...)
	udp, tcp = count("udp")-udp, count("tcp")-tcp
	t.Logf("%s %v: in %v, %v UDP packets to the relays and %v of TCP", way.entry, way.flags, time.Since(began).Round(time.Millisecond), udp, tcp)
	if udp < 100 {
		t.Errorf("%s: only %v UDP packets came to the relays while media flowed", way.entry, udp)
	}
	if tcp > udp/10 { // the gateway tries its lower rungs now and then
		t.Errorf("%s: %v TCP packets came to the relays beside %v of UDP", way.entry, tcp, udp)
	}
	var status struct {
		Sessions []struct{ Kind, Rung string } `json:"sessions"`
	}
	must(t, json.Unmarshal([]byte(l.metricsGet("/api/v1/status")), &status))
	bridged := 0
	for _, s := range status.Sessions {
		if s.Kind == "TURN connect" && strings.HasPrefix(s.Rung, "udp") {
			bridged++
		}
	}
	if bridged < len(pages) {
		t.Errorf("%s: the gateway shows %d bridged sessions: %+v", way.entry, bridged, status.Sessions)
	}
}

// pacWith fetches the PAC file and leaves of the gateway's entries the one.
func (l *laboratory) pacWith(t testing.TB, entry string) string {
	t.Helper()
	pac, status := get(l.dmz, "https://"+gatewayAddr+"/proxy.pac", "")
	all := regexp.MustCompile(`var gateways = "([^"]*)"`).FindStringSubmatch(pac)
	if status != 200 || all == nil || !strings.Contains(all[1], entry) {
		t.Fatalf("the PAC file has no %s: %d %s", entry, status, pac)
	}
	return strings.Replace(pac, all[1], entry, 1)
}

// countRelayPackets counts what comes from the gateway to the relays' TURN ports.
func (l *laboratory) countRelayPackets(t testing.TB) func(kind string) float64 {
	t.Helper()
	relays := "ip saddr " + gatewayAddr + " ip daddr { " + fraAddr + ", " + lonAddr + " }"
	l.cloud.nft(t, fmt.Sprintf(`table inet seen {
 counter n_udp {}
 counter n_tcp {}
 chain in { type filter hook input priority -10; %s udp dport 3478 counter name n_udp; %s tcp dport { 443, 3478 } counter name n_tcp; }
}`, relays, relays))
	packets := regexp.MustCompile(`packets (\d+)`)
	return func(kind string) float64 {
		var n float64
		if m := packets.FindStringSubmatch(l.cloud.run(t, "nft", "list", "counter", "inet", "seen", "n_"+kind)); m != nil {
			_, err := fmt.Sscan(m[1], &n)
			must(t, err)
		}
		return n
	}
}

// TestCallWithPassword: CONNECT asks for a password, and the rest of the web goes as the company's own PAC file says. The
// page is loaded with the password; the WebSocket and TURN use what the browser then has.
func TestCallWithPassword(t *testing.T) { callScenario(t, callWithPassword) }

func callWithPassword(t *testing.T) {
	password := secrets.Make("the ward's password")
	hash := hashOf(t, password)
	l := newLaboratory(t, func(cfg string) string {
		return strings.Replace(cfg, "pac: {otherwise: DIRECT}", fmt.Sprintf("pac: {parent: %q}\nforward: {auth: basic, users: [{name: ward, password_hash: '%s'}]}",
			"http://"+cloudAddr+":8081/corp.pac", hash), 1)
	})
	l.startCompanyPAC(t)
	var pac string
	waitFor(t, "the company's PAC file behind ours", 45*time.Second, func() bool {
		text, status := get(l.dmz, "https://"+gatewayAddr+"/proxy.pac", "")
		pac = text
		return status == http.StatusOK
	})
	if !strings.HasPrefix(pac, companyPAC) {
		t.Errorf("the company's PAC file is not in ours:\n%s", pac)
	}
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	var pages []*tab
	for range 2 {
		p := newBrowser(t, ward, l.ca, pacFlag(pac)).tab(t)
		p.logIn("ward", password)
		waitFor(t, "the page", callTimeout, func() bool { // Chromium gives up once when it sees its network late
			return p.navigate("https://"+plainName+"/r/p?join=1&relay=1&video=small&transport=tcp") == nil
		})
		pages = append(pages, p)
	}
	mediaFlows(t, pages...)
	for _, p := range pages {
		if s := p.stats(); s.Signaling != "websocket" || s.Pair.Local.RelayProtocol != "tcp" {
			t.Errorf("signaling %q, media over %q: want websocket and tcp", s.Signaling, s.Pair.Local.RelayProtocol)
		}
	}
	if n := l.metric(`hafen_forward_connects_total{status="err_auth"}`); n < 2 {
		t.Errorf("%v CONNECTs without a password: each browser has to be asked once", n)
	}
}

const companyPAC = "'use strict'; // für alle\nfunction FindProxyForURL(url, host) { return 'PROXY proxy.corp.example:8080' }"

func (l *laboratory) startCompanyPAC(t testing.TB) {
	t.Helper()
	ln, err := l.cloud.listen("tcp", cloudAddr+":8081")
	must(t, err)
	server := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/x-ns-proxy-autoconfig; charset=utf-8")
		_, _ = w.Write([]byte(companyPAC))
	})}
	go func() { _ = server.Serve(ln) }()
	t.Cleanup(func() { _ = server.Close() })
}

// logIn answers a proxy's question for a password in this tab, as a person would.
func (p *tab) logIn(name, password string) {
	p.t.Helper()
	asked := make(chan any, 100)
	must(p.t, chromedp.Listen(p.ctx, func(ev any) {
		switch ev.(type) {
		case *fetch.EventRequestPaused, *fetch.EventAuthRequired:
			asked <- ev
		}
	}))
	handle := true
	must(p.t, chromedp.Do(p.ctx, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, fetch.Enable, fetch.EnableParams{HandleAuthRequests: &handle})
		return err
	})))
	go func() {
		for {
			select {
			case ev := <-asked:
				_ = chromedp.Do(p.ctx, chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
					return answer(ctx, target, ev, name, password)
				}))
			case <-p.ctx.Done():
				return
			}
		}
	}()
}

func answer(ctx context.Context, target *chromedp.Target, ev any, name, password string) (err error) {
	switch ev := ev.(type) {
	case *fetch.EventRequestPaused:
		_, err = cdp.Call(ctx, target, fetch.ContinueRequest, fetch.ContinueRequestParams{RequestID: ev.RequestID})
	case *fetch.EventAuthRequired:
		_, err = cdp.Call(ctx, target, fetch.ContinueWithAuth, fetch.ContinueWithAuthParams{
			RequestID: ev.RequestID, AuthChallengeResponse: &fetch.AuthChallengeResponse{
				Response: fetch.AuthChallengeResponseResponseProvideCredentials, Username: name, Password: password,
			},
		})
	}
	return err
}

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// withRoute starts the gateway anew with a certificate for host as well and one route of its own: rewriting belongs to
// administrators who can have such a certificate.
func (l *laboratory) withRoute(t testing.TB, host, route string) {
	t.Helper()
	file, err := os.ReadFile(filepath.Join(l.dir, "hafen.yaml"))
	must(t, err)
	l.ca.issue(t, gatewayName, callName, host, gatewayAddr) // the same files
	l.gateway.stop()
	l.startGateway(string(file) + "signaling: {routes: [" + route + ", {host: " + callName + "}]}\n")
}

// TestCallRewritten: the call service knows nothing of the gateway and lists only its own relays, which cannot be reached: nothing is open but
// TCP 443 to the gateway, which puts itself into the service's answer.
func TestCallRewritten(t *testing.T) { scenario(t, callRewritten) }

func callRewritten(t *testing.T) {
	l := newLaboratory(t)
	l.withRoute(t, plainName, "{host: "+plainName+", rewrite_ice_servers: [/ice]}")
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, plainName: gatewayAddr}, onlyGateway)
	body, status := get(ward, "https://"+gatewayAddr+"/ice", plainName)
	gateway, own := strings.Index(body, "turns:"+gatewayName+":443?transport=tcp"), strings.Index(body, fraName)
	if status != 200 || gateway < 0 || own < 0 || gateway > own || !strings.Contains(body, "turn:"+gatewayName+":443?transport=udp") {
		t.Fatalf("the ICE servers: %d %s", status, body)
	}
	a, b := l.call(t, ward, "https://"+plainName+"/r/rewritten?join=1&relay=1&video=small")
	for _, p := range []*tab{a, b} {
		if s := p.stats(); s.Signaling != "websocket" || s.Pair.Local.RelayProtocol != "tls" || !strings.Contains(s.Pair.Local.URL, gatewayName) {
			t.Errorf("signaling %q, media over %s to %s: want a WebSocket, and TLS to the gateway", s.Signaling, s.Pair.Local.RelayProtocol, s.Pair.Local.URL)
		}
	}
	l.noSecrets(t)
}

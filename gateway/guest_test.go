package gateway

import (
	"crypto/tls"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"

	"hafen/configs"
)

// TestGuests: who is in precall.networks and not in clients gets the precall page and nothing else.
func TestGuests(t *testing.T) {
	w := newWorld(t, func(c *configs.Config) {
		c.Clients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Precall.Networks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	})
	client := &http.Client{
		Transport:     &http.Transport{TLSClientConfig: &tls.Config{RootCAs: w.roots, ServerName: ownName}},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	defer client.CloseIdleConnections()
	for path, want := range map[string]int{
		"/": http.StatusFound, "/precall/": http.StatusOK, "/api/v1/ice": http.StatusOK, "/api/v1/precall/x": http.StatusNotFound,
		"/status/": http.StatusForbidden, "/proxy.pac": http.StatusForbidden, "/precall": http.StatusForbidden, "/precall/../status/": http.StatusTemporaryRedirect,
		"/elsewhere": http.StatusForbidden, "/livez": http.StatusOK,
	} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+w.addr+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Host = ownName
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(path, err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, resp.StatusCode, want)
		}
		if path == "/api/v1/ice" && strings.Contains(string(body), "turn") {
			t.Errorf("a guest gets ICE servers: %s", body)
		}
	}
	for _, r := range w.gateway.mux.Refusals() {
		t.Errorf("a guest counts as refused: %+v", r)
	}
}

// TestGuestsGetNoTURN: STUN and CONNECT are closed or refused.
func TestGuestsGetNoTURN(t *testing.T) {
	w := newWorld(t, func(c *configs.Config) {
		c.Clients = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
		c.Precall.Networks = []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0")}
	})
	conn := w.dial(ownName)
	if _, err := conn.Write(stunRequest(1)); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 100)); n > 0 || err == nil {
		t.Errorf("STUN from a guest got %d bytes, %v", n, err)
	}
	if code, _ := w.ask(w.dial(ownName), "CONNECT "+callHost+":443 HTTP/1.1\nHost: "+callHost+":443"); code != http.StatusForbidden {
		t.Errorf("CONNECT from a guest: %d", code)
	}
}

func TestCallPageOrigins(t *testing.T) {
	w := newWorld(t)
	for origin, want := range map[string]bool{
		"https://" + callHost: true, "https://CALL.cloud.example": true, "http://" + callHost: false, "https://" + callHost + ".evil.example": false,
		"https://" + ownName: false, "https://" + callHost + ":8443": false, "null": false, "": false, "://": false,
	} {
		if got := w.gateway.callPage(origin); got != want {
			t.Errorf("%q: %v", origin, got)
		}
	}
}

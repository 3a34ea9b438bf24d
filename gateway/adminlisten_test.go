package gateway

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"

	"hafen/configs"
)

// TestAdminListen: the status page is at an address of its own, over TLS, and on 443 nothing tells of it.
func TestAdminListen(t *testing.T) {
	t.Parallel()
	w := newWorld(t, func(c *configs.Config) { c.Admin.Listen = "127.0.0.1:0" })
	admin := ""
	for _, s := range w.gateway.sockets {
		if s.key == "admin.listen" {
			admin = s.localAddr().String()
		}
	}
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: w.roots, ServerName: ownName}}}
	get := func(addr, path string) (int, string) {
		res, err := client.Get("https://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		return res.StatusCode, string(body)
	}
	if code, body := get(admin, "/"); code != 200 || !strings.Contains(body, "hafen passwd") {
		t.Errorf("admin.listen: %d %.200s", code, body)
	}
	if code, _ := get(admin, "/precall/"); code != http.StatusNotFound {
		t.Errorf("admin.listen has other pages: %d", code)
	}
	if code, body := get(w.addr, "/status/"); code != http.StatusNotFound || strings.Contains(body, "passwd") {
		t.Errorf("on 443: %d", code)
	}
	if _, body := get(w.addr, "/"); strings.Contains(body, "/status/") {
		t.Error("the front door tells of a status page that is elsewhere")
	}
}

package gateway

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// TestStrictTransport: browsers are told to stay with https where they trust the certificate, and there alone; plain requests never.
func TestStrictTransport(t *testing.T) {
	for _, source := range []string{"self-signed", "files"} {
		w := newWorld(t)
		now, cfg := *w.gateway.now.Load(), *w.gateway.config()
		cfg.TLS.Source = source
		now.config = &cfg
		w.gateway.now.Store(&now)
		for url, want := range map[string]bool{"https://" + ownName + "/": source == "files", "http://" + ownName + "/": false} {
			rec := httptest.NewRecorder()
			w.gateway.pages.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, url, nil))
			if got := rec.Header().Get("Strict-Transport-Security") != ""; got != want {
				t.Errorf("%s, certificate from %s: %v, want %v", url, source, got, want)
			}
		}
	}
}

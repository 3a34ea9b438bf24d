package gateway

import (
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"

	"hafen/gateway/page"
)

// maxAdmins bounds the connections to admin.listen: a few people with a few browsers.
const maxAdmins = 200

// newAdmin is admin.listen: the status page, and nothing else, over TLS at an address of its own. Then it is not on 443.
func (g *Gateway) newAdmin() *http.Server {
	mux := http.NewServeMux()
	mux.Handle("/status/", g.status)
	mux.Handle(page.AssetPath, page.Assets())
	mux.Handle("/{$}", http.RedirectHandler("/status/", http.StatusFound))
	return &http.Server{
		Handler: g.caught(hurried(bodyTimeout, timed(pageTimeout, mux))), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute,
		MaxHeaderBytes: 64 << 10, ErrorLog: slog.NewLogLogger(g.log.Handler(), slog.LevelDebug),
	}
}

// serveAdmin serves admin.listen with the gateway's own certificate.
func (g *Gateway) serveAdmin(srv *http.Server) func(net.Listener) error {
	return func(ln net.Listener) error {
		return srv.Serve(tls.NewListener(netutil.LimitListener(ln, maxAdmins), g.tlsOwn))
	}
}

// statusPage is /status/ among the pages on 443: there, unless it has an address of its own.
func (g *Gateway) statusPage(w http.ResponseWriter, r *http.Request) {
	if g.config().Admin.Listen != "" {
		g.front.ServeHTTP(w, r) // as if nothing were here
		return
	}
	g.status.ServeHTTP(w, r)
}

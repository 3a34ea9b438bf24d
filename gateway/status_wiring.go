package gateway

import (
	"hafen/gateway/page"
	"hafen/gateway/portmux"
	"hafen/gateway/status"
)

func (g *Gateway) makeStatus() (err error) {
	g.status, err = status.New(status.Options{
		Config: g.cfg, Snapshot: g.snapshot, Health: g.healthNow, Client: clientAddr, Gatherer: g.registry, Site: g.site,
		Log: g.log.With("area", "status"), Now: g.opts.Now,
	})
	if err != nil {
		return err
	}
	g.front, err = page.Front(g.site)
	return err
}

// observe writes the one line for each connection's end.
func (g *Gateway) observe(e portmux.End) {
	attrs := []any{
		"area", "mux", "status", e.Status, "protocol", string(e.Protocol), "client", g.shown(e.Client.Addr()),
		"in", e.In, "out", e.Out, "ms", e.Duration.Milliseconds(),
	}
	if e.SNI != "" {
		attrs = append(attrs, "sni", e.SNI)
	}
	if e.Err != nil {
		attrs = append(attrs, "err", e.Err.Error())
	}
	g.log.Info("connection", attrs...)
}

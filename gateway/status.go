package gateway

import (
	"time"

	"hafen/gateway/page"
	"hafen/gateway/status"
)

func (g *Gateway) makeStatus() (err error) {
	g.status, err = status.New(status.Options{
		Config: g.config(), Snapshot: g.snapshot, Health: g.healthNow, Client: clientAddr, Gatherer: g.registry, Site: g.site,
		Helpdesk: g.helpdesk(),
		Observe:  g.observed, Hurry: g.hurryUp, Drain: func(wait time.Duration, _ string) { g.Drain(wait) }, Effective: func() ([]byte, error) { return g.config().Show() }, Audit: g.auditDeed,
		Log: g.log.With("area", "status"), Now: g.opts.Now,
	})
	if err != nil {
		return err
	}
	g.front, err = page.Front(g.site)
	return err
}

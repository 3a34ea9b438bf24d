package gateway

import (
	"fmt"
	"strings"

	"hafen/configs"
	"hafen/gateway/audit"
	"hafen/gateway/forward"
	"hafen/gateway/portmux"
	"hafen/gateway/status"
	"hafen/relay"
)

// auditConnection writes who connected, and with a name, whereto. What came through CONNECT or as TURN has records of its own.
func (g *Gateway) auditConnection(e portmux.End) {
	log := g.watch.audit.Load()
	r := audit.Record{
		Event: "connection", Client: log.Shown(e.Client.Addr()), Target: e.SNI, Status: e.Status, Seconds: e.Duration.Seconds(), Bytes: e.In + e.Out,
		Detail: string(e.Protocol),
	}
	if e.Status == "err_policy" || e.Status == "err_limit" {
		r.Event = "refused"
		if e.Err != nil {
			r.Detail = e.Err.Error()
		}
	}
	log.Write(r)
}

// sessionEnded is told of each TURN client that has left.
func (g *Gateway) sessionEnded(e relay.End) {
	g.watch.drill.ended(e)
	g.ledger.ended(e)
	log := g.watch.audit.Load()
	r := audit.Record{
		Event: "allocation", Client: log.Shown(e.Client.Addr.Addr()), Status: e.Status, Seconds: e.Took.Seconds(), Bytes: int64(e.BytesUp + e.BytesDown),
		Detail: "over " + e.Client.Via,
	}
	switch {
	case e.Test:
		r.Target = "precall test"
	case e.Region != "":
		r.Target = fmt.Sprintf("%s/%s over %s", e.Service, e.Region, e.Rung)
	}
	if !e.Won {
		r.Event = "refused"
	}
	log.Write(r)
}

// tunnelEnded is told of each CONNECT that has ended.
func (g *Gateway) tunnelEnded(e forward.End) {
	log := g.watch.audit.Load()
	r := audit.Record{Event: "connect", Client: log.Shown(e.Client), Target: e.Target, Status: e.Status, Seconds: e.Took.Seconds(), Bytes: e.Bytes}
	if !e.Accepted {
		r.Event = "refused"
	}
	log.Write(r)
}

// auditDeed writes what a user of the status page did.
func (g *Gateway) auditDeed(d status.Deed) {
	log := g.watch.audit.Load()
	log.Write(audit.Record{Event: d.Kind, Client: log.Shown(d.Client), User: d.User, Status: d.Status, Detail: d.Detail})
}

// changes are what differs between two configurations, secrets masked.
func changes(before, after *configs.Config) string {
	all, err := configs.Diff(before, after)
	if err != nil {
		return err.Error()
	}
	lines := make([]string, len(all))
	for i, c := range all {
		lines[i] = c.String()
	}
	if len(lines) == 0 {
		return "nothing has changed"
	}
	return strings.Join(lines, "; ")
}

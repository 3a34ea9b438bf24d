package gateway

import (
	"net/netip"

	"hafen/gateway/netpolicy"
	"hafen/gateway/portmux"
)

// shown is an address as logs have it: its network, or the whole of it where log.full_addresses is set.
func (g *Gateway) shown(a netip.Addr) string {
	if g.config().Log.FullAddresses {
		return a.String()
	}
	if p := netpolicy.Network(a); p.IsValid() {
		return p.String()
	}
	return ""
}

// observe writes the one line for each connection's end.
func (g *Gateway) observe(e portmux.End) {
	attrs := []any{
		"area", "mux", "conn", e.ID, "status", e.Status, "protocol", string(e.Protocol), "client", g.shown(e.Client.Addr()),
		"in", e.In, "out", e.Out, "ms", e.Duration.Milliseconds(),
	}
	if e.SNI != "" {
		attrs = append(attrs, "sni", e.SNI)
	}
	if e.Err != nil {
		attrs = append(attrs, "err", g.errorText(e.Err))
	}
	if from := e.Client.Addr().Unmap(); contains(g.config().Clients, from) {
		g.sightings.noteConn(from, e.ID)
	}
	g.auditConnection(e)
	g.log.Info("connection", attrs...)
}

// errorText is an error as logs have it: without addresses, unless log.full_addresses is set.
func (g *Gateway) errorText(err error) string {
	if g.config().Log.FullAddresses {
		return err.Error()
	}
	return netpolicy.ErrorText(err)
}

package gateway

import (
	"fmt"

	dto "github.com/prometheus/client_model/go"

	"hafen/gateway/status"
)

// readings are our own metrics, read once for a snapshot.
type readings map[string]*dto.MetricFamily

func (g *Gateway) readings() readings {
	r := make(readings)
	families, err := g.registry.Gather()
	if err != nil && len(families) == 0 {
		return r
	}
	for _, f := range families {
		r[f.GetName()] = f
	}
	return r
}

// value is the sum of a metric's series; with a label, of the one whose first label has that value.
func (r readings) value(name string, label ...string) float64 {
	sum := 0.0
	for _, m := range r[name].GetMetric() {
		if l := m.GetLabel(); len(label) > 0 && (len(l) == 0 || l[0].GetValue() != label[0]) {
			continue
		}
		sum += m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return sum
}

// limits are the limits with what is in use of them, and what they have turned away within the last minute.
func (g *Gateway) limits(r readings) []status.Limit {
	l := g.config().Limits
	const quota, capacity = "486", "508" // RFC 8656 section 18.11
	mux := func(reasons ...string) (n int) {
		for _, reason := range reasons {
			n += int(r.value("hafen_mux_refused_total", reason))
		}
		return n
	}
	refused := g.watch.refusedNow(g.opts.Now(), map[string]int{
		"limits.allocations":            int(r.value("hafen_relay_answers_total", capacity)),
		"limits.allocations_per_client": int(r.value("hafen_relay_answers_total", quota)),
		"limits.connections_per_client": mux("client"),
		"limits.pending_per_client":     mux("client_pending"),
		connectionsLimit:                mux("total", "pending"),
	})
	now := g.mux.Counts()
	all := []status.Limit{
		{Key: "limits.allocations", Used: int(r.value("hafen_relay_allocations")), Max: l.Allocations},
		{Key: connectionsLimit, Used: now.Open, Max: maxConnections(l)},
		{Key: "limits.connections_per_client", Used: now.MostOpen, Max: l.ConnectionsPerClient, PerClient: true},
		{Key: "limits.pending_per_client", Used: now.MostPending, Max: l.PendingPerClient, PerClient: true},
	}
	if n := refused["limits.allocations_per_client"]; n > 0 {
		all = append(all, status.Limit{Key: "limits.allocations_per_client", Used: l.AllocationsPerClient, Max: l.AllocationsPerClient, PerClient: true})
	}
	if most := r.value("process_max_fds"); most > 0 {
		all = append(all, status.Limit{Key: status.FilesLimit, Used: int(r.value("process_open_fds")), Max: int(most)})
	}
	for i := range all {
		all[i].Refused = refused[all[i].Key]
	}
	return all
}

// connectionsLimit is what the port carries in all; it follows from the other limits.
const connectionsLimit = "connections"

// line is what to write for a network that was refused.
func (g *Gateway) line(network fmt.Stringer) string {
	return fmt.Sprintf("clients: %s", joined(g.config().Clients, network))
}

func joined[T fmt.Stringer](list []T, more fmt.Stringer) string {
	text := "["
	for _, one := range list {
		text += quoted(one.String()) + ", "
	}
	return text + quoted(more.String()) + "]"
}

// quoted is an item of a YAML list on one line: what has a colon needs quotes.
func quoted(s string) string {
	for _, c := range s {
		if c == ':' {
			return `"` + s + `"`
		}
	}
	return s
}

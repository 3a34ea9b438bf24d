package forward

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	tunnels  prometheus.Gauge
	connects *prometheus.CounterVec
	up, down prometheus.Counter
}

// newMetrics makes the metrics, and registers them if there is a registry.
func newMetrics(r prometheus.Registerer) *metrics {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hafen_forward_bytes_total", Help: "Bytes through tunnels: up is from clients to targets. Bridged TURN counts at the relay.",
	}, []string{"direction"})
	m := &metrics{
		tunnels: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "hafen_forward_tunnels", Help: "Tunnels open now: accepted CONNECTs, spliced or bridged.",
		}),
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_forward_connects_total", Help: "CONNECTs by what became of them.",
		}, []string{"status"}),
		up: bytes.WithLabelValues("up"), down: bytes.WithLabelValues("down"),
	}
	for _, word := range []string{statusOK, statusPolicy, statusLimit, statusProtocol, statusDial, statusAuth, statusClient, statusUpstream, statusTimeout} {
		m.connects.WithLabelValues(word) // a series that exists from the start can be alerted on
	}
	if r != nil {
		r.MustRegister(m.tunnels, m.connects, bytes)
	}
	return m
}

package portmux

import "github.com/prometheus/client_golang/prometheus"

type metrics struct {
	connections  *prometheus.CounterVec
	ended        *prometheus.CounterVec
	refused      *prometheus.CounterVec
	timeouts     *prometheus.CounterVec
	handshakes   *prometheus.CounterVec
	acceptErrors prometheus.Counter
}

// newMetrics makes the counters, and registers them if there is a registry.
func newMetrics(r prometheus.Registerer, counts func() Counts) *metrics {
	vec := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
	}
	m := &metrics{
		connections: vec("hafen_mux_connections_total", "Connections by what their first bytes told.", "protocol"),
		ended:       vec("hafen_mux_ended_total", "Connections that have ended, by status word.", "status"),
		refused:     vec("hafen_mux_refused_total", "Connections refused: no client network, or a limit.", "reason"),
		timeouts:    vec("hafen_mux_timeouts_total", "Connections closed because they took too long.", "stage"),
		handshakes:  vec("hafen_tls_handshakes_total", "TLS handshakes by result.", "result"),
		acceptErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hafen_mux_accept_errors_total", Help: "Errors of accept, such as too many open files.",
		}),
	}
	if r == nil {
		return m
	}
	gauge := func(name, help string, value func(Counts) int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help},
			func() float64 { return float64(value(counts())) })
	}
	r.MustRegister(m.connections, m.ended, m.refused, m.timeouts, m.handshakes, m.acceptErrors,
		gauge("hafen_mux_open_connections", "Connections open now.", func(c Counts) int { return c.Open }),
		gauge("hafen_mux_pending_connections", "Open connections not yet established.", func(c Counts) int { return c.Pending }),
		gauge("hafen_mux_clients", "Clients with a connection now.", func(c Counts) int { return c.Clients }))
	return m
}

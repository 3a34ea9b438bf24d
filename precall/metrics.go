package precall

import "github.com/prometheus/client_golang/prometheus"

// metrics are the test's own counters, with labels of a fixed set of values.
type metrics struct {
	runs    *prometheus.CounterVec
	refused *prometheus.CounterVec
}

func newMetrics(registry prometheus.Registerer) *metrics {
	m := &metrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_precall_runs_total", Help: "Precall tests that were analysed, by verdict.",
		}, []string{"verdict"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_precall_refused_total", Help: "Requests of the precall test beyond a limit, or that made no sense.",
		}, []string{"what"}),
	}
	for _, v := range []Verdict{Pass, Warn, Fail} {
		m.runs.WithLabelValues(string(v))
	}
	if registry != nil {
		registry.MustRegister(m.runs, m.refused)
	}
	return m
}

func (s *Server) registerGauges(registry prometheus.Registerer) {
	if registry == nil {
		return
	}
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hafen_precall_holds", Help: "Requests held for the precall test now."}, s.holds.count),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hafen_precall_websockets", Help: "Echoing WebSockets of the precall test now."}, s.sockets.count),
	)
}

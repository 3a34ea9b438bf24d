package relay

import (
	"errors"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// engineMetrics count what the engine answers and what it drops. Labels are words of ours, never what a client sent.
type engineMetrics struct {
	answers *prometheus.CounterVec
	drops   *prometheus.CounterVec
}

func newEngineMetrics() *engineMetrics {
	return &engineMetrics{
		answers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_relay_answers_total",
			Help: "TURN requests answered by the gateway itself, by error code; 0 is success.",
		}, []string{"code"}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_relay_refused_packets_total",
			Help: "Packets that the gateway's own allocations did not pass on, by why.",
		}, []string{"why"}),
	}
}

// register adds them to a registry, which may be nil.
func (m *engineMetrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	return errors.Join(reg.Register(m.answers), reg.Register(m.drops))
}

func (m *engineMetrics) answered(code int) { m.answers.WithLabelValues(strconv.Itoa(code)).Inc() }

func (m *engineMetrics) refused(why string) { m.drops.WithLabelValues(why).Inc() }

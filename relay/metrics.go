package relay

import (
	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the data path's. They move while sessions live; no label ever holds what a client sent.
type metrics struct {
	bytesUp, bytesDown     prometheus.Counter
	packetsUp, packetsDown prometheus.Counter
	dropped                [kinds]prometheus.Counter
	queueDelay             prometheus.Histogram
	invalid                *prometheus.CounterVec // from: client, region
	ignored                *prometheus.CounterVec // datagrams of UDP clients that got silence, by why
	retransmits            prometheus.Counter
	ended                  *prometheus.CounterVec // via, status
}

// newMetrics registers the data path's metrics; reg may be nil.
func newMetrics(reg prometheus.Registerer, t *table) (*metrics, error) {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hafen_relay_bytes_total",
		Help: "Bytes of TURN messages relayed; up is from clients to regions.",
	}, []string{"direction"})
	packets := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hafen_relay_packets_total",
		Help: "TURN messages relayed; up is from clients to regions.",
	}, []string{"direction"})
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hafen_relay_dropped_frames_total",
		Help: "Messages dropped because they waited too long for a slow path, or too much waited, by kind.",
	}, []string{"kind"})
	m := &metrics{
		bytesUp: bytes.WithLabelValues("up"), bytesDown: bytes.WithLabelValues("down"),
		packetsUp: packets.WithLabelValues("up"), packetsDown: packets.WithLabelValues("down"),
		queueDelay: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "hafen_relay_queue_delay_seconds",
			Help:    "How long the oldest message of a write waited for its client's path.",
			Buckets: []float64{.001, .005, .01, .025, .05, .1, .15, .2, .25, .5, 1, 2},
		}),
		invalid: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_relay_invalid_frames_total",
			Help: "Messages dropped, or connections closed, because what came is not TURN, by who sent it.",
		}, []string{"from"}),
		ignored: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_relay_ignored_datagrams_total",
			Help: "Datagrams of UDP clients that got no answer, by why.",
		}, []string{"why"}),
		retransmits: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "hafen_relay_retransmits_total",
			Help: "Requests of stream clients sent again to a region over UDP.",
		}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_relay_sessions_ended_total",
			Help: "Sessions ended, by the way the client came and status.",
		}, []string{"via", "status"}),
	}
	for k := range kinds {
		m.dropped[k] = dropped.WithLabelValues(k.String())
	}
	if reg == nil {
		return m, nil
	}
	live := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hafen_relay_allocations",
		Help: "Clients that hold an allocation now.",
	}, func() float64 { return float64(t.allocated()) })
	all := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "hafen_relay_sessions",
		Help: "Clients of the relay now, with an allocation or on the way to one.",
	}, func() float64 { return float64(t.len()) })
	for _, c := range []prometheus.Collector{bytes, packets, dropped, m.queueDelay, m.invalid, m.ignored, m.retransmits, m.ended, live, all} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

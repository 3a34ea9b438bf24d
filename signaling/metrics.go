package signaling

import "github.com/prometheus/client_golang/prometheus"

// metrics move while a session lives. Labels come from the configuration and from fixed words, never from a client.
type metrics struct {
	webSockets, longPolls prometheus.Gauge
	requests              *prometheus.CounterVec
	up, down              prometheus.Counter
	serverUp, serverRTT   *prometheus.GaugeVec
}

func newMetrics(r prometheus.Registerer) (*metrics, error) {
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hafen_signaling_bytes_total",
		Help: "Bytes of bodies and WebSockets passed through; up is from clients to call servers.",
	}, []string{"direction"})
	m := &metrics{
		webSockets: prometheus.NewGauge(prometheus.GaugeOpts{Name: "hafen_signaling_websockets", Help: "WebSockets that are open."}),
		longPolls:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "hafen_signaling_longpolls", Help: "Requests that are being held."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hafen_signaling_requests_total", Help: "Requests and WebSockets that have ended, by how.",
		}, []string{"status"}),
		up:   bytes.WithLabelValues("up"),
		down: bytes.WithLabelValues("down"),
		serverUp: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hafen_signaling_call_server_up", Help: "Whether the call server answered the last probe.",
		}, []string{"service", "host"}),
		serverRTT: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hafen_signaling_call_server_rtt_seconds", Help: "How long the call server took to answer the last probe.",
		}, []string{"service", "host"}),
	}
	if r == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{bytes, m.webSockets, m.longPolls, m.requests, m.serverUp, m.serverRTT} {
		if err := r.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

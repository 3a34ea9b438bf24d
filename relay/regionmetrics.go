package relay

import "github.com/prometheus/client_golang/prometheus"

// regionCollector makes metrics of the regions' status when they are asked for. Its series are as many as the configuration has
// regions and rungs.
type regionCollector struct {
	status                    func() []RegionStatus
	rtt, up                   *prometheus.Desc
	rungRTT, rungUp, rungLoss *prometheus.Desc
}

// registerRegions registers the regions' metrics and returns how to take them back.
func registerRegions(reg prometheus.Registerer, status func() []RegionStatus) (func(), error) {
	if reg == nil {
		return func() {}, nil
	}
	region, rung := []string{"service", "region"}, []string{"service", "region", "rung"}
	c := &regionCollector{
		status:   status,
		rtt:      prometheus.NewDesc("hafen_relay_region_rtt_seconds", "Smoothed round trip to a region over the rung in use.", region, nil),
		up:       prometheus.NewDesc("hafen_relay_region_up", "1 when a region takes new sessions over any rung.", region, nil),
		rungRTT:  prometheus.NewDesc("hafen_relay_rung_rtt_seconds", "Smoothed round trip to a region over a rung.", rung, nil),
		rungUp:   prometheus.NewDesc("hafen_relay_rung_up", "1 when a rung to a region works.", rung, nil),
		rungLoss: prometheus.NewDesc("hafen_relay_rung_loss_ratio", "Share of the last 32 probes over a rung that got no answer.", rung, nil),
	}
	if err := reg.Register(c); err != nil {
		return nil, err
	}
	return func() { reg.Unregister(c) }, nil
}

// Describe implements prometheus.Collector.
func (c *regionCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.rtt, c.up, c.rungRTT, c.rungUp, c.rungLoss} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *regionCollector) Collect(ch chan<- prometheus.Metric) {
	for _, st := range c.status() {
		if !st.Use {
			continue
		}
		collect(ch, st.State, st.RTT, c.up, c.rtt, st.Service, st.Name)
		for _, rg := range st.Rungs {
			collect(ch, rg.State, rg.RTT, c.rungUp, c.rungRTT, st.Service, st.Name, rg.Name)
			ch <- prometheus.MustNewConstMetric(c.rungLoss, prometheus.GaugeValue, rg.Loss, st.Service, st.Name, rg.Name)
		}
	}
}

// collect tells whether something is up, and only then how far it is.
func collect(ch chan<- prometheus.Metric, state string, ms float64, up, rtt *prometheus.Desc, labels ...string) {
	value := 0.0
	if state == string(stateUp) {
		value = 1
		ch <- prometheus.MustNewConstMetric(rtt, prometheus.GaugeValue, ms/1000, labels...)
	}
	ch <- prometheus.MustNewConstMetric(up, prometheus.GaugeValue, value, labels...)
}

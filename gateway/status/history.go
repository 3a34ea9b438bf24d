package status

import (
	"sync"
	"time"
)

const (
	// samplePeriod is how often the gateway looks at itself, and lookPeriod how often at what is wrong while a page is open.
	samplePeriod = 2 * time.Second
	lookPeriod   = samplePeriod / 4
	// historyTime is what charts show.
	historyTime = 5 * time.Minute
	maxSamples  = int(historyTime / samplePeriod)
)

// Sample is one point of the charts.
type Sample struct {
	Time int64 `json:"time"` // milliseconds since 1970
	// Up and Down are relayed bits a second, from and to clients.
	Up   float64 `json:"up"`
	Down float64 `json:"down"`
	// Sessions are allocations, WebSockets, long-polls and tunnels.
	Allocations int `json:"allocations"`
	WebSockets  int `json:"websockets"`
	LongPolls   int `json:"longpolls"`
	Tunnels     int `json:"tunnels"`
	// QueueMS is the longest that a packet of any session waits for its client now.
	QueueMS float64 `json:"queue_ms"`
	// RTT has the round trip of each region that is up, in milliseconds, by service/region.
	RTT map[string]float64 `json:"rtt"`
	// Rungs has the state of each rung by service/region/rung: up, down or unknown.
	Rungs map[string]string `json:"rungs"`
}

// history keeps the samples of the last five minutes.
type history struct {
	mu      sync.Mutex
	samples []Sample
	before  Snapshot
}

// add makes a sample of a snapshot and of the one before it.
func (h *history) add(s Snapshot) Sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	p := Sample{
		Time: s.Time.UnixMilli(), Allocations: s.Counts.Allocations, WebSockets: s.Counts.WebSockets, LongPolls: s.Counts.LongPolls, Tunnels: s.Counts.Tunnels,
		RTT: make(map[string]float64), Rungs: make(map[string]string),
	}
	if took := s.Time.Sub(h.before.Time).Seconds(); !h.before.Time.IsZero() && took > 0 {
		p.Up = bitRate(h.before.Counts.BytesUp, s.Counts.BytesUp, took)
		p.Down = bitRate(h.before.Counts.BytesDown, s.Counts.BytesDown, took)
	}
	for _, ses := range s.Sessions {
		p.QueueMS = max(p.QueueMS, ses.QueueMS)
	}
	for _, svc := range s.Services {
		for _, r := range svc.Regions {
			at := svc.Name + "/" + r.Name
			if r.Up {
				p.RTT[at] = r.RTTms
			}
			for _, g := range r.Rungs {
				p.Rungs[at+"/"+g.Name] = g.State
			}
		}
	}
	h.before = s
	if len(h.samples) == maxSamples {
		h.samples = h.samples[:copy(h.samples, h.samples[1:])]
	}
	h.samples = append(h.samples, p)
	return p
}

// bitRate is in bits a second. A counter that went back has begun anew.
func bitRate(before, now uint64, seconds float64) float64 {
	if now < before {
		return 0
	}
	return float64(now-before) * 8 / seconds
}

func (h *history) list() []Sample {
	h.mu.Lock()
	defer h.mu.Unlock()
	return append([]Sample{}, h.samples...)
}

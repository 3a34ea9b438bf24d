package status

import "time"

// Snapshot is what the gateway says of itself at one moment: the status page, /api/v1/status and `hafen status` show the
// same. It holds no secrets and no full client addresses.
type Snapshot struct {
	// Verdict is ok, degraded or down; Sentence says why, first thing on the page.
	Verdict  string `json:"verdict"`
	Sentence string `json:"sentence"`
	// Advice is one line of what to do; empty when nothing is to be done.
	Advice string `json:"advice,omitempty"`

	Name     string        `json:"name"`
	Version  string        `json:"version"`
	Time     time.Time     `json:"time"`
	Uptime   time.Duration `json:"uptime_ns"`
	Draining bool          `json:"draining"`

	Counts       Counts        `json:"counts"`
	Services     []Service     `json:"services"`
	CallServers  []CallServer  `json:"call_servers"`
	Certificates []Certificate `json:"certificates"`
	Sessions     []Session     `json:"sessions"`
	Refused      []Refused     `json:"refused"`
	Limits       []Limit       `json:"limits"`
	Events       []Event       `json:"events"`
	Runs         []Run         `json:"precall_runs"`
	// Peers are all gateways that share the database, this one among them; none where nothing is shared.
	Peers []Peer `json:"gateways,omitempty"`
}

// Counts are the live sessions by kind and the bytes relayed since the start.
type Counts struct {
	Connections int    `json:"connections"`
	Allocations int    `json:"allocations"`
	WebSockets  int    `json:"websockets"`
	LongPolls   int    `json:"longpolls"`
	Tunnels     int    `json:"tunnels"`
	BytesUp     uint64 `json:"bytes_up"`
	BytesDown   uint64 `json:"bytes_down"`
}

// Service is a call service's way out: the region that new sessions get, and the state of each.
type Service struct {
	Name    string   `json:"name"`
	Chosen  string   `json:"chosen"`
	Regions []Region `json:"regions"`
}

// Region is one cloud relay location as the gateway measures it.
type Region struct {
	Name  string  `json:"name"`
	Up    bool    `json:"up"`
	Use   bool    `json:"use"`
	RTTms float64 `json:"rtt_ms"`
	Rung  string  `json:"rung"`
	Rungs []Rung  `json:"rungs"`
}

// Rung is one transport of the uplink ladder.
type Rung struct {
	Name  string  `json:"name"`
	State string  `json:"state"`
	RTTms float64 `json:"rtt_ms"`
	Why   string  `json:"why,omitempty"`
}

// CallServer is one upstream of signaling and how it answered when it was last asked.
type CallServer struct {
	Service string  `json:"service"`
	Host    string  `json:"host"`
	Probe   string  `json:"probe"`
	State   string  `json:"state"`
	RTTms   float64 `json:"rtt_ms"`
	Why     string  `json:"why,omitempty"`
}

// Certificate is one that the gateway shows to clients.
type Certificate struct {
	Names   []string  `json:"names"`
	Issuer  string    `json:"issuer"`
	Expires time.Time `json:"expires"`
	Source  string    `json:"source"`
	Trusted bool      `json:"trusted"` // by browsers that nobody told of our root
	Problem string    `json:"problem,omitempty"`
}

// Session is one live session.
type Session struct {
	Kind    string        `json:"kind"`
	Client  string        `json:"client"` // the network, never the whole address
	Service string        `json:"service"`
	Region  string        `json:"region,omitempty"`
	Rung    string        `json:"rung,omitempty"`
	QueueMS float64       `json:"queue_ms"`
	Dropped uint64        `json:"dropped"`
	Age     time.Duration `json:"age_ns"`
}

// Refused sums up the clients of one network that are in none of the client networks.
type Refused struct {
	Network string    `json:"network"`
	Count   uint64    `json:"count"`
	Last    time.Time `json:"last"`
	Write   string    `json:"write"` // the line that would allow it
}

// Limit is one limit and how much of it is in use.
type Limit struct {
	Key  string `json:"key"`
	Used int    `json:"used"`
	Max  int    `json:"max"`
}

// Event is something that happened and what to do about it.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	Sentence string    `json:"sentence"`
	Advice   string    `json:"advice,omitempty"`
}

// Run is one precall run, by its short code.
type Run struct {
	Time    time.Time `json:"time"`
	Code    string    `json:"code"`
	Verdict string    `json:"verdict"`
	Cause   string    `json:"cause,omitempty"`
}

// Peer is one of the gateways that share a database, as it said of itself last.
type Peer struct {
	Name     string        `json:"name"`
	Host     string        `json:"host"`
	Self     bool          `json:"self"`
	Version  string        `json:"version"`
	Verdict  string        `json:"verdict"`
	Sentence string        `json:"sentence"`
	Draining bool          `json:"draining"`
	Uptime   time.Duration `json:"uptime_ns"`
	Counts   Counts        `json:"counts"`
	// Silent is how long ago it was heard of; Missing says that this is too long.
	Silent  time.Duration `json:"silent_ns"`
	Missing bool          `json:"missing"`
}

// Sign is its state as a status word.
func (p Peer) Sign() string {
	if p.Missing {
		return "down"
	}
	return p.Verdict
}

// Words say how it is.
func (p Peer) Words() string {
	switch {
	case p.Missing:
		return "not heard of for " + p.Silent.Round(time.Second).String()
	case p.Draining:
		return "draining"
	}
	return p.Sentence
}

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

	// Faults are everything that is wrong now, the worst first.
	Faults []Fault `json:"faults"`

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
	Peers     []Peer     `json:"gateways,omitempty"`
	SelfTests []SelfTest `json:"self_tests"`
	Sites     []Site     `json:"sites"`
	// Week looks back; nil until it was summed up for the first time.
	Week *Week `json:"week,omitempty"`
	// Addresses are those of call servers and relays that came or went within a week.
	Addresses []AddressChange `json:"addresses_changed,omitempty"`
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
	Name string `json:"name"`
	Up   bool   `json:"up"`
	Use  bool   `json:"use"`
	// Drill: a drill cuts it for new sessions.
	Drill bool    `json:"drill,omitempty"`
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
	Begins  time.Time `json:"begins,omitzero"`
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
	RTTms   float64       `json:"rtt_ms"`           // of the rung it takes towards the region
	Target  string        `json:"target,omitempty"` // of a tunnel; of a WebSocket or a long-poll its host
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

// FilesLimit is the key of the limit that the operating system sets.
const FilesLimit = "LimitNOFILE"

// Limit is one limit and how much of it is in use.
type Limit struct {
	Key  string `json:"key"`
	Used int    `json:"used"`
	Max  int    `json:"max"`
	// PerClient: it is one client's, and Used that of the busiest.
	PerClient bool `json:"per_client,omitempty"`
	// Refused counts what was refused because of it within the last minute.
	Refused int `json:"refused"`
}

// SelfTest is one thing that the gateway tests about itself. State is pass, warn, fail or skipped.
type SelfTest struct {
	Kind     string `json:"kind"`
	State    string `json:"state"`
	Sentence string `json:"sentence"`
	Advice   string `json:"advice,omitempty"`
	Works    string `json:"works,omitempty"`
}

// Site is one part of the house, and how far it has come with the PAC file: clients that were seen within the last minutes.
type Site struct {
	Name    string `json:"name"`
	Clients int    `json:"clients"` // seen at all
	Fetched int    `json:"fetched"` // fetched the PAC file
	Through int    `json:"through"` // use the gateway as a proxy
	Direct  int    `json:"direct"`  // came to the services' hosts here without the proxy
	Failed  int    `json:"failed"`  // were asked for a password, or refused, and did not get through
}

// Event is something that happened and what to do about it.
type Event struct {
	Time     time.Time `json:"time"`
	Kind     string    `json:"kind"`
	About    string    `json:"about,omitempty"` // service/region
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

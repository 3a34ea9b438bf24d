package precall

import "time"

// Gateway is the gateway's half of a run: what it measured itself while the page did.
type Gateway struct {
	Name        string
	Regions     []Region
	CallServers []CallServer
	Load        Load
	SelfSigned  bool
	// ClockAhead is by how much the client's clock is ahead of the gateway's.
	ClockAhead time.Duration
}

// Region is one cloud relay location as the gateway reaches it.
type Region struct {
	Service, Name string
	Up            bool
	RTT           time.Duration // 0: not measured
	Level         Level         // path, or media where the gateway has looped media through it. "": path
	Why           string        // not up: what happened, for IT
}

// CallServer is one call server as the gateway reaches it.
type CallServer struct {
	Service, Host string
	Up            bool
	RTT           time.Duration // 0: not measured
	Level         Level         // service when it answered HTTP, path when only TCP or TLS did. "": path
	Why           string
}

// Load is whether the gateway takes new sessions.
type Load struct {
	Draining bool // it is about to go down
	Full     bool // a limit is reached
}

package precall

import (
	"context"
	"crypto/rand"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"hafen/gateway/netpolicy"
	"hafen/gateway/page"
)

// Plan is what one run of the page is to ask besides the gateway itself.
type Plan struct {
	// Run names the run: what it loads the line with is counted under it.
	Run string `json:"run"`
	// Gateway is the gateway's own name, as targets of checks have it.
	Gateway     string   `json:"gateway"`
	CallServers []Asked  `json:"callServers"`
	Relays      []WayURL `json:"relays"`
	// Cloud are ICE servers whose media passes through the cloud's relays; nil where no credentials may be given to a browser.
	Cloud *ICEServer `json:"cloud,omitempty"`
	// IPv6 is a TURN URL of this gateway with an IPv6 address in it; "" where it has none that others can reach.
	IPv6 string `json:"ipv6,omitempty"`
}

// Asked is one call server, and what may be asked of it: paths, "" for nothing.
type Asked struct {
	Host      string `json:"host"`
	HTTPS     string `json:"https"`
	WebSocket string `json:"websocket,omitempty"`
	LongPoll  string `json:"longpoll,omitempty"`
}

// WayURL is one TURN URL of a region, to be tried with throw-away credentials.
type WayURL struct {
	Region string `json:"region"`
	URL    string `json:"url"`
}

// Bounds of a plan, so that a page ends in time also where a service has many hosts.
const (
	maxAsked = 8
	maxWays  = 24
)

// servePlan answers GET /precall/plan.
func (s *Server) servePlan(w http.ResponseWriter, r *http.Request) {
	client := s.opts.Client(r)
	if !s.planRate.allow(client) {
		s.tooMany(w, "plans")
		return
	}
	plan := s.plan(r.Context(), client)
	plan.Run, plan.Gateway = s.runs.begin(client, s.opts.Now()), s.opts.Name
	writeJSON(w, http.StatusOK, plan)
}

func (s *Server) plan(ctx context.Context, client netip.Addr) Plan {
	plan := s.opts.Plan(ctx, client)
	if len(plan.CallServers) > maxAsked {
		plan.CallServers = plan.CallServers[:maxAsked]
	}
	if len(plan.Relays) > maxWays {
		plan.Relays = plan.Relays[:maxWays]
	}
	if plan.CallServers == nil {
		plan.CallServers = []Asked{}
	}
	if plan.Relays == nil {
		plan.Relays = []WayURL{}
	}
	return plan
}

// connects are the sources that the page's script may connect to besides its own: the call servers.
func (s *Server) connects(ctx context.Context, client netip.Addr) (sources []string) {
	for _, c := range s.plan(ctx, client).CallServers {
		sources = append(sources, "https://"+c.Host, "wss://"+c.Host)
	}
	return sources
}

// pageRun is one page at work: how much it may still load the line, and what came of its upload.
type pageRun struct {
	client   netip.Addr
	began    time.Time
	up, down int64 // bytes so far
	arrived  arrivals
}

// Bounds of runs: how many are remembered, for how long, and what one may carry.
const (
	maxRuns     = 4096
	runLife     = 15 * time.Minute
	maxRunBytes = 64 << 20 // each way
)

// runs are those begun lately.
type runs struct {
	mu  sync.Mutex
	all map[string]*pageRun
}

func newRuns() *runs { return &runs{all: map[string]*pageRun{}} }

// begin makes a run. When there are too many the oldest is forgotten: its page then can't measure the bandwidth any more.
func (r *runs) begin(client netip.Addr, now time.Time) string {
	id := rand.Text()
	r.mu.Lock()
	defer r.mu.Unlock()
	oldest, at := "", now
	for name, old := range r.all {
		switch {
		case now.Sub(old.began) > runLife:
			delete(r.all, name)
		case !old.began.After(at):
			oldest, at = name, old.began
		}
	}
	if len(r.all) >= maxRuns {
		delete(r.all, oldest)
	}
	r.all[id] = &pageRun{client: client, began: now}
	return id
}

// change lets f have the run, if there is one of that name and it is this client's.
func (r *runs) change(id string, of netip.Addr, f func(*pageRun)) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	run := r.all[id]
	if run == nil || netpolicy.Client(run.client) != netpolicy.Client(of) {
		return false
	}
	f(run)
	return true
}

func noSuchRun(w http.ResponseWriter) {
	page.Plain(w, http.StatusNotFound, "There is no run of that name, or no longer.")
}

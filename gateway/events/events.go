// Package events turns what is wrong now into incidents, and tells somebody of each once.
//
// Twice a minute something blinks: a probe is lost, a region wobbles. Nobody wants a message for that, nor ten messages
// when one cable is pulled. So a condition has to last for a while before it counts, what begins together is one
// incident, and an incident is told once, by webhook or mail: what the cause is, which sites it touches, how many calls
// are live, what still works and what to do.
//
//	n := events.New(events.Options{Webhook: url, Dial: dial})
//	n.Observe(conditions, touched)      // every two seconds
//
// The package knows nothing of the gateway's parts: whoever watches them says what is wrong. A message that can't be
// delivered is tried again for a day, with growing pauses; what waits is bounded.
package events

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// Condition is one thing that is wrong now.
type Condition struct {
	// ID is the same for as long as it lasts.
	ID   string `json:"-"`
	Kind string `json:"kind"`
	// Critical: calls fail. Else somebody should look today.
	Critical bool   `json:"critical"`
	Cause    string `json:"cause"`
	Todo     string `json:"what_to_do"`
	Works    string `json:"still_works"`
	// Manual is the page to read.
	Manual string `json:"manual"`
	// Since is when it was first seen; Observe sets it.
	Since time.Time `json:"-"`
}

// identity tells conditions apart. One that becomes critical is another: who was told that a disk is nearly full wants to hear that it is full.
type identity struct {
	id       string
	critical bool
}

func (c Condition) identity() identity { return identity{c.ID, c.Critical} }

// Touched is who notices.
type Touched struct {
	Sites []string
	Calls int
}

// Incident is what began together: its first condition is the worst.
type Incident struct {
	ID         string
	Opened     time.Time
	Ended      time.Time // zero: it lasts
	Conditions []Condition
	Touched    Touched
}

// Ways are where incidents are told.
type Ways struct {
	// Gateway is named in each message.
	Gateway string
	// Webhook takes each incident as JSON. "": none.
	Webhook string
	// MailServer, host:port, takes each incident as a mail From somebody To somebody. "": none.
	MailServer, From string
	To               []string
}

// Options are the world of a Notifier.
type Options struct {
	Ways
	// Dial connects to either. Required where one is set.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// Log takes one line for each incident and each delivery. nil: silent.
	Log *slog.Logger
	// Now is the clock. nil: time.Now.
	Now func() time.Time
	// Pause is before the second try of a delivery; each further one is twice as long. 0: 5 s.
	Pause time.Duration
}

// Notifier keeps the incidents and delivers them.
type Notifier struct {
	opts   Options
	log    *slog.Logger
	outbox outbox
	ways   atomic.Pointer[Ways]

	mu        sync.Mutex
	seen      map[identity]*sighting
	incidents []*Incident // oldest first
	serial    int
}

// sighting is what is known of a condition that is there, or was there a moment ago.
type sighting struct {
	first, last time.Time
	incident    *Incident // nil: it has not lasted long enough
}

const (
	// holdBack is how long a condition has to last before it counts.
	holdBack = 10 * time.Second
	// forget is how long one that never counted is remembered: what blinks again within that time has lasted.
	forget = 30 * time.Second
	// quiet is how long a condition has to be gone before it is over.
	quiet = time.Minute
	// joinTime is how long after its beginning an incident takes in what else fails.
	joinTime = time.Minute
	// maxIncidents bounds what is remembered.
	maxIncidents = 200
)

// New makes a Notifier. It delivers while Run runs.
func New(o Options) *Notifier {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Pause == 0 {
		o.Pause = firstPause
	}
	n := &Notifier{opts: o, log: o.Log, seen: make(map[identity]*sighting)}
	n.outbox.wake = make(chan struct{}, 1)
	n.Use(o.Ways)
	return n
}

// Use tells incidents elsewhere from now on.
func (n *Notifier) Use(w Ways) { n.ways.Store(&w) }

// Observe is told everything that is wrong now, the worst first, and who notices.
func (n *Notifier) Observe(conditions []Condition, touched Touched) {
	n.mu.Lock()
	defer n.mu.Unlock()
	now := n.opts.Now()
	var fresh []Condition // what no incident has yet
	ripe := false
	for _, c := range conditions {
		s := n.seen[c.identity()]
		if s == nil {
			s = &sighting{first: now}
			n.seen[c.identity()] = s
		}
		if milder := n.seen[identity{c.ID, false}]; milder != nil {
			milder.last = now // what has become worse is not over
		}
		s.last = now
		c.Since = s.first
		if s.incident == nil {
			fresh = append(fresh, c)
			ripe = ripe || now.Sub(s.first) >= holdBack
		}
	}
	if ripe {
		n.open(now, fresh, touched)
	}
	n.settle(now)
}

// open makes an incident of what began together, or adds it to one that began just now and is no less grave.
func (n *Notifier) open(now time.Time, conditions []Condition, touched Touched) {
	worst := conditions[0]
	for _, c := range conditions {
		if c.Critical && !worst.Critical {
			worst = c
		}
	}
	var in *Incident
	if len(n.incidents) > 0 {
		last := n.incidents[len(n.incidents)-1]
		if last.Ended.IsZero() && now.Sub(last.Opened) < joinTime && (last.Conditions[0].Critical || !worst.Critical) {
			in = last
		}
	}
	joined := in != nil
	if !joined {
		n.serial++
		in = &Incident{ID: now.UTC().Format("20060102-150405") + "-" + strconv.Itoa(n.serial), Opened: now, Touched: touched, Conditions: []Condition{worst}}
		n.incidents = append(n.incidents, in)
		n.incidents = n.incidents[max(0, len(n.incidents)-maxIncidents):]
	}
	for _, c := range conditions {
		n.seen[c.identity()].incident = in
		if !slices.ContainsFunc(in.Conditions, func(has Condition) bool { return has.identity() == c.identity() }) {
			in.Conditions = append(in.Conditions, c)
		}
	}
	if joined {
		return
	}
	n.log.Warn("incident", "incident", in.ID, "kind", worst.Kind, "cause", worst.Cause, "live_calls", touched.Calls)
	n.outbox.put(in.message(n.ways.Load().Gateway))
}

// settle forgets what is gone, and ends incidents of which nothing is left.
func (n *Notifier) settle(now time.Time) {
	lasting := make(map[*Incident]bool)
	for what, s := range n.seen {
		gone := now.Sub(s.last)
		if s.incident == nil && gone >= forget || gone >= quiet {
			delete(n.seen, what)
			continue
		}
		lasting[s.incident] = true
	}
	for _, in := range n.incidents {
		if in.Ended.IsZero() && !lasting[in] {
			in.Ended = now
			n.log.Info("incident is over", "incident", in.ID, "kind", in.Conditions[0].Kind, "after", now.Sub(in.Opened).String())
		}
	}
}

// Incidents are the latest, oldest first.
func (n *Notifier) Incidents() []Incident {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make([]Incident, 0, len(n.incidents))
	for _, in := range n.incidents {
		one := *in
		one.Conditions = slices.Clone(in.Conditions)
		all = append(all, one)
	}
	return all
}

package relay

import (
	"errors"
	"fmt"
	"time"
)

// maxDrill bounds a drill: it is a rehearsal, not a setting.
const maxDrill = 15 * time.Minute

// Errors of Drill.
var (
	ErrDrillUnknown = errors.New("there is no such region: write SERVICE/REGION as in the configuration")
	ErrDrillLast    = errors.New("no other region of the service is up: cutting this one would end all calls; repair the others first")
)

// Drill cuts a region for new sessions for a while, as a rehearsal: they go where they would go if it were down. Sessions
// that run stay. d 0 ends a drill.
func (s *Server) Drill(service, name string, d time.Duration) error {
	if d < 0 || d > maxDrill {
		return fmt.Errorf("a drill lasts %s at most", maxDrill)
	}
	r := s.regions()
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	var found, another *region
	for _, svc := range r.services {
		for _, g := range svc.regions {
			switch {
			case svc.name != service:
			case g.name == name:
				found = g
			case g.use && g.best() != nil:
				another = g
			}
		}
	}
	if found == nil {
		return ErrDrillUnknown
	}
	if another == nil && d > 0 {
		return ErrDrillLast
	}
	found.cutUntil = now.Add(d)
	text := "a drill cuts it for new sessions until " + found.cutUntil.Format(time.TimeOnly)
	if d == 0 {
		text = "the drill is over"
	}
	found.event(now, "drill", text)
	r.choose(now, found.of)
	r.nudge()
	return nil
}

// cut reports whether a drill keeps new sessions away. The caller holds mu.
func (g *region) cut() bool { return !g.cutUntil.IsZero() && g.out.now().Before(g.cutUntil) }

// End is what can be said of a client when it has left.
type End struct {
	Client  Client
	Service string
	Region  string // "": none
	Rung    string
	Status  string
	// Won: it had an allocation.
	Won       bool
	Test      bool
	Started   time.Time
	Took      time.Duration
	BytesUp   uint64
	BytesDown uint64
	Dropped   uint64
}

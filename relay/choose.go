package relay

import (
	"fmt"
	"time"
)

// When another region takes over from one that still works: it must be nearer by so much in time, and by that share,
// for so long without a break. Anything less is a wobble, and a switch costs more than it wins: two people in one
// call would have their media cross between two regions.
const (
	switchBy    = 10 * time.Millisecond
	switchShare = 0.20
	switchFor   = 30 * time.Second
	// settleTime is how long after the start the choice is free: the first answers come in one after the other.
	settleTime = time.Second
)

// candidate is a region as the choice sees it.
type candidate struct {
	name   string
	rtt    time.Duration // smoothed, of its best usable rung
	usable bool
}

// choice is the region that new sessions of a service go to, and the rule by which that changes. Like health it is
// told the time.
type choice struct {
	region string // empty: none is usable
	// rivalSince is since when some region has been nearer by enough without a break; zero: none is.
	rivalSince time.Time
}

// change is what update did, with the reason for the administrator.
type change struct {
	from, to string
	why      string
}

// update looks at the candidates again. settling lifts the hysteresis. It returns nil when all stays as it was.
func (c *choice) update(now time.Time, settling bool, cands []candidate) *change {
	best, current := nearest(cands), candidateNamed(cands, c.region)
	switch {
	case best == nil:
		return c.take("", "no region answers")
	case current == nil:
		return c.take(best.name, fmt.Sprintf("%s is the nearest that answers, %s", best.name, milliseconds(best.rtt)))
	case !current.usable:
		return c.take(best.name, fmt.Sprintf("%s no longer answers, %s is the next nearest, %s", current.name, best.name, milliseconds(best.rtt)))
	case settling:
		return c.take(best.name, fmt.Sprintf("%s is nearer, %s", best.name, milliseconds(best.rtt)))
	case best == current || !nearer(best, current):
		c.rivalSince = time.Time{}
		return nil
	case c.rivalSince.IsZero():
		c.rivalSince = now
		return nil
	case now.Sub(c.rivalSince) < switchFor:
		return nil
	}
	return c.take(best.name, fmt.Sprintf("%s has been nearer than %s for %s, %s against %s",
		best.name, current.name, switchFor, milliseconds(best.rtt), milliseconds(current.rtt)))
}

func (c *choice) take(name, why string) *change {
	if c.region == name {
		return nil
	}
	made := &change{from: c.region, to: name, why: why}
	*c = choice{region: name}
	return made
}

// nearer is the hysteresis.
func nearer(a, b *candidate) bool {
	gain := b.rtt - a.rtt
	return gain >= switchBy && float64(gain) >= switchShare*float64(b.rtt)
}

// nearest is the usable candidate with the lowest round trip; the first of equals, which is the order of the
// configuration.
func nearest(cands []candidate) *candidate {
	var best *candidate
	for i := range cands {
		if c := &cands[i]; c.usable && (best == nil || c.rtt < best.rtt) {
			best = c
		}
	}
	return best
}

func candidateNamed(cands []candidate, name string) *candidate {
	for i := range cands {
		if cands[i].name == name {
			return &cands[i]
		}
	}
	return nil
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d)/float64(time.Millisecond))
}

package relay

import (
	"fmt"
	"math/bits"
	"time"
)

// The times of a path's life. They are constants, not configuration: what a browser does when a relay dies (facts: it
// fails at once when the connection is closed, after 15 s when it goes silent) does not differ from house to house.
const (
	// deadAfter is how long a path may be without a packet, of a session or in answer to a probe, before it is dead.
	deadAfter = 2 * time.Second
	// deadProbes and deadWatch keep one lost probe, or one late one, from being a death: so many must have gone
	// unanswered, and the first of them for so long. (A path without sessions is asked seldom: there the silence is
	// counted from the first question, not from the last answer.)
	deadProbes = 3
	deadWatch  = 1250 * time.Millisecond
	// answerTimeout ends a probe. It is longer than any answer that is worth having.
	answerTimeout = 2 * time.Second
	// quietPeriod is how long a path that died must answer before it is trusted again. It doubles with every death of
	// the last deathMemory, up to quietMost, so that a path which flaps is left alone.
	quietPeriod = 10 * time.Second
	quietMost   = 5 * time.Minute
	deathMemory = 10 * time.Minute

	probeFast    = 250 * time.Millisecond // while in doubt
	probeFirst   = 400 * time.Millisecond // the first few, after start
	probeSilence = 750 * time.Millisecond // nothing arrived for so long on a path that has sessions
	probeQuiet   = time.Second            // after a failure, and while a dead path answers again
	probeInUse   = 5 * time.Second        // the rung new sessions take, or sessions are on
	probeStandby = 30 * time.Second       // a rung that works and is not needed now
	probeNever   = 10 * time.Minute       // a rung that never worked, while another does
	probeDown    = 30 * time.Second       // a rung that worked once, while another does
	probeDark    = 5 * time.Second        // when nothing works in the region
	fastRun      = 8                      // fast probes in a row; then they slow down
	firstRun     = 3                      // quick attempts on a rung nobody knows yet
)

// pathState is what is thought of a path.
type pathState string

const (
	stateUnknown pathState = "unknown" // not probed yet
	stateUp      pathState = "up"
	stateDown    pathState = "down"
)

// health is what is known of one path to a region, and the rules by which that changes. It holds no clock, no lock and
// no connection: every method is told the time, so that ten minutes of wobble are a table test.
type health struct {
	state  pathState
	reason string // why it is down; empty when up
	since  time.Time

	rtt     time.Duration // smoothed
	samples int
	recent  uint32 // the last answers, newest in bit 0: 1 is an answer
	counted int

	lastPacket time.Time // of a session or of a probe
	lastAnswer time.Time
	lastSent   time.Time
	// unanswered counts the probes sent since lastPacket; the first of them went at unansweredSince.
	unanswered      int
	unansweredSince time.Time
	// failures counts the probes in a row that got no answer, whatever sessions received meanwhile: new connections
	// may be blocked while old ones live.
	failures int
	lastErr  string
	attempts int // probes since it last worked, for the back-off
	jitter   float64

	worked      bool
	quietFrom   time.Time // a dead path answers again since then
	quietMisses int
	deaths      []time.Time

	// refuses says why the region takes no new allocation though it answers; empty when it does.
	refuses string
	// note is something the administrator should know about a path that works all the same.
	note string
}

// sent notes that a probe leaves. jitter (0.8…1.2) stretches the wait for the next one.
func (h *health) sent(now time.Time, jitter float64) {
	h.lastSent, h.jitter = now, jitter
	h.attempts++
	if h.unanswered == 0 {
		h.unansweredSince = now
	}
	h.unanswered++
}

// packet notes that something arrived on a session.
func (h *health) packet(now time.Time) {
	h.lastPacket = now
	h.unanswered = 0
}

// answered notes the answer to a probe and reports whether the path has come up by it.
func (h *health) answered(now time.Time, rtt time.Duration) bool {
	h.packet(now)
	h.lastAnswer = now
	h.failures, h.lastErr, h.attempts = 0, "", 0
	h.count(true)
	h.smooth(rtt)
	switch {
	case h.state == stateUp:
		return false
	case h.state == stateDown && h.worked && !h.quiet(now):
		h.reason = fmt.Sprintf("answers again, used after %s without a loss", h.quietNeeded(now))
		return false
	}
	h.set(stateUp, "", now)
	h.worked = true
	return true
}

// quiet reports whether a path that died has answered long enough.
func (h *health) quiet(now time.Time) bool {
	if h.quietFrom.IsZero() {
		h.quietFrom, h.quietMisses = now, 0
	}
	return now.Sub(h.quietFrom) >= h.quietNeeded(now)
}

// quietNeeded is the quiet period that this path's record asks for.
func (h *health) quietNeeded(now time.Time) time.Duration {
	need := quietPeriod / 2
	for _, t := range h.deaths {
		if now.Sub(t) < deathMemory {
			need = min(2*need, quietMost)
		}
	}
	return max(need, quietPeriod)
}

// missed notes that a probe failed: in what way, in words for the administrator. It reports whether that took the
// path down; a path that is up goes down by dead alone.
func (h *health) missed(now time.Time, reason string) bool {
	h.count(false)
	h.failures++
	h.lastErr = reason
	switch h.state {
	case stateUnknown:
		h.set(stateDown, reason, now)
		return true
	case stateDown:
		if h.quietFrom.IsZero() {
			h.reason = reason
		} else if h.quietMisses++; h.quietMisses > 1 {
			h.quietFrom, h.reason = time.Time{}, reason
		}
	}
	return false
}

// dead reports whether a path that is up must be given up now.
func (h *health) dead(now time.Time, d duty) bool {
	watch := max(deadWatch, min(2*h.rtt, deadAfter))
	if !d.sessions {
		watch = deadAfter
	}
	return h.state == stateUp && h.unanswered >= deadProbes &&
		now.Sub(h.lastPacket) >= deadAfter && now.Sub(h.unansweredSince) >= watch
}

// die takes the path down.
func (h *health) die(now time.Time) {
	reason := h.lastErr
	if reason == "" {
		reason = fmt.Sprintf("no answer for %s", now.Sub(h.lastPacket).Round(100*time.Millisecond))
	}
	kept := h.deaths[:0]
	for _, t := range h.deaths {
		if now.Sub(t) < deathMemory {
			kept = append(kept, t)
		}
	}
	h.deaths = append(kept, now)
	h.quietFrom, h.samples, h.attempts = time.Time{}, 0, 0
	h.set(stateDown, reason, now)
}

func (h *health) set(s pathState, reason string, now time.Time) {
	h.state, h.reason, h.since = s, reason, now
	if s == stateUp {
		h.quietFrom = time.Time{}
	}
}

// stalled takes time out of the account in which this process itself did not run (a suspended machine, no CPU): what
// nobody could have received was not silence.
func (h *health) stalled(d time.Duration) {
	h.lastPacket = h.lastPacket.Add(d)
	if h.unanswered > 0 {
		h.unansweredSince = h.unansweredSince.Add(d)
	}
}

// usable reports whether a new session may be put on the path. A path on which old sessions still receive while new
// probes keep failing is not dead, but nothing new belongs there.
func (h *health) usable() bool {
	return h.state == stateUp && h.refuses == "" && h.failures < deadProbes
}

// recovering reports whether a dead path answers again but is not trusted yet: better than nothing, if there is
// nothing else.
func (h *health) recovering() bool {
	return h.state == stateDown && !h.quietFrom.IsZero() && h.refuses == ""
}

// doubtful reports whether the newest probes have been without an answer for longer than this path's answers take.
func (h *health) doubtful(now time.Time) bool {
	return h.unanswered > 0 && now.Sub(h.unansweredSince) >= h.patience()
}

func (h *health) patience() time.Duration {
	return min(max(400*time.Millisecond, 3*h.rtt), time.Second)
}

// duty is what a path is there for at the moment; it says how often to probe.
type duty struct {
	sessions bool // sessions live on it
	inUse    bool // new sessions of its region take it
	another  bool // another rung of the region works
	// alarm is since when another rung of the region, one with sessions, has been in doubt; zero: none is. Then this one is
	// asked as well: if it is the region that died, that is known by the time its clients come back.
	alarm time.Time
}

// next is when the next probe is due.
func (h *health) next(now time.Time, d duty) time.Time {
	if h.lastSent.IsZero() {
		return now
	}
	due := h.lastSent.Add(h.wait(now, d))
	if h.state != stateUp {
		return due
	}
	// Something that becomes true by the passing of time alone may ask for an earlier probe.
	if silent := h.lastPacket.Add(probeSilence); d.sessions && h.unanswered == 0 && silent.Before(due) {
		due = silent
	}
	if d.alarm.After(h.lastSent) && d.alarm.Before(due) {
		due = d.alarm
	}
	if doubt := h.unansweredSince.Add(h.patience()); h.unanswered > 0 && doubt.After(now) && doubt.Before(due) {
		due = doubt
	}
	return due
}

func (h *health) wait(now time.Time, d duty) time.Duration {
	switch {
	case h.state == stateUnknown && h.attempts < firstRun:
		return probeFirst
	case h.state == stateUp && h.doubtful(now) && h.unanswered < fastRun:
		return probeFast
	case h.state == stateUp && h.failures > 0 && h.failures < fastRun:
		return h.spread(probeQuiet)
	case h.state == stateUp && h.samples < firstRun:
		return probeFirst
	case h.state == stateUp && (d.sessions || d.inUse || h.doubtful(now)):
		return h.spread(probeInUse)
	case h.state == stateUp:
		return h.spread(probeStandby)
	case h.recovering():
		return h.spread(probeQuiet)
	case !h.worked && d.another && h.attempts >= firstRun:
		return h.spread(probeNever)
	case d.another:
		return h.backoff(probeDown)
	}
	return h.backoff(probeDark)
}

// backoff doubles from half a second with every attempt.
func (h *health) backoff(most time.Duration) time.Duration {
	wait := 500 * time.Millisecond << min(max(h.attempts-1, 0), 10)
	return h.spread(min(wait, most))
}

func (h *health) spread(d time.Duration) time.Duration {
	if h.jitter == 0 {
		return d
	}
	return time.Duration(float64(d) * h.jitter)
}

// smooth is the moving average of RFC 6298 section 2, quicker at the beginning: the first round trip pays for address
// resolution on the way and says little.
func (h *health) smooth(rtt time.Duration) {
	rtt = max(rtt, time.Microsecond)
	h.samples++
	switch {
	case h.samples == 1:
		h.rtt = rtt
	case h.samples <= firstRun && rtt < h.rtt:
		h.rtt = rtt
	case h.samples <= firstRun:
		h.rtt += (rtt - h.rtt) / 4
	default:
		h.rtt += (rtt - h.rtt) / 8
	}
}

func (h *health) count(answer bool) {
	h.recent <<= 1
	if answer {
		h.recent |= 1
	}
	h.counted = min(h.counted+1, 32)
}

// loss is the share of the last 32 probes that got no answer, 0 to 1.
func (h *health) loss() float64 {
	if h.counted == 0 {
		return 0
	}
	mask := uint32(1)<<h.counted - 1
	if h.counted == 32 {
		mask = ^uint32(0)
	}
	return 1 - float64(bits.OnesCount32(h.recent&mask))/float64(h.counted)
}

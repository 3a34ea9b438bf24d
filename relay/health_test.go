package relay

import (
	"math"
	"strings"
	"testing"
	"time"
)

// simulation runs the rules of one path against a relay that is described by a function of time, on a clock of its own.
type simulation struct {
	health
	now     time.Time
	start   time.Time
	duty    duty
	relay   func(at time.Duration) (rtt time.Duration, answers bool) // what a probe sent then meets
	session func(at time.Duration) bool                              // does a session receive then?
	pending []pendingProbe
	sends   []time.Duration
	ups     []time.Duration
	downs   []time.Duration
}

type pendingProbe struct {
	ends time.Time
	rtt  time.Duration
	ok   bool
}

const simulationStep = 50 * time.Millisecond

func newSimulation(d duty, relay func(time.Duration) (time.Duration, bool)) *simulation {
	start := time.Unix(1_800_000_000, 0)
	return &simulation{
		health: health{state: stateUnknown, since: start}, now: start, start: start, duty: d, relay: relay,
		session: func(time.Duration) bool { return false },
	}
}

func (s *simulation) at() time.Duration { return s.now.Sub(s.start) }

func (s *simulation) run(until time.Duration) {
	for s.at() < until {
		s.step()
		s.now = s.now.Add(simulationStep)
	}
}

func (s *simulation) step() {
	if s.session(s.at()) {
		s.packet(s.now)
	}
	kept := s.pending[:0]
	for _, p := range s.pending {
		switch {
		case p.ends.After(s.now):
			kept = append(kept, p)
		case p.ok && s.answered(s.now, p.rtt):
			s.ups = append(s.ups, s.at())
		case !p.ok:
			s.missed(s.now, "no answer")
		}
	}
	s.pending = kept
	if s.dead(s.now, s.duty) {
		s.die(s.now)
		s.downs = append(s.downs, s.at())
	}
	if s.next(s.now, s.duty).After(s.now) {
		return
	}
	s.sent(s.now, 1)
	s.sends = append(s.sends, s.at())
	rtt, ok := s.relay(s.at())
	if ok {
		s.pending = append(s.pending, pendingProbe{ends: s.now.Add(rtt), rtt: rtt, ok: true})
		return
	}
	s.pending = append(s.pending, pendingProbe{ends: s.now.Add(answerTimeout)})
}

func (s *simulation) sendsBetween(from, to time.Duration) int {
	n := 0
	for _, at := range s.sends {
		if at >= from && at < to {
			n++
		}
	}
	return n
}

func answersUntil(cut time.Duration, rtt time.Duration) func(time.Duration) (time.Duration, bool) {
	return func(at time.Duration) (time.Duration, bool) { return rtt, at < cut }
}

func TestHealthComesUpWithTheFirstAnswer(t *testing.T) {
	s := newSimulation(duty{inUse: true}, answersUntil(time.Hour, 50*time.Millisecond))
	s.run(time.Second)
	if len(s.ups) != 1 || s.ups[0] > 200*time.Millisecond {
		t.Fatalf("up at %v", s.ups)
	}
	if s.rtt != 50*time.Millisecond || s.loss() != 0 {
		t.Fatalf("rtt %v, loss %v", s.rtt, s.loss())
	}
}

// The times a browser feels: from the last packet of a path in use to its death.
func TestHealthDeath(t *testing.T) {
	const cut = 20 * time.Second
	tests := []struct {
		name        string
		rtt         time.Duration
		duty        duty
		traffic     bool
		least, most time.Duration // after the cut
	}{
		{"sessions with traffic", 40 * time.Millisecond, duty{sessions: true, inUse: true}, true, 1900 * time.Millisecond, 2200 * time.Millisecond},
		{"sessions that are silent", 40 * time.Millisecond, duty{sessions: true, inUse: true}, false, time.Second, 2200 * time.Millisecond},
		{"far away", 400 * time.Millisecond, duty{sessions: true, inUse: true}, true, 1500 * time.Millisecond, 3 * time.Second},
		{"in use, no sessions", 40 * time.Millisecond, duty{inUse: true}, false, 2 * time.Second, 8 * time.Second},
		{"standby", 40 * time.Millisecond, duty{another: true}, false, 2 * time.Second, 33 * time.Second},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSimulation(tt.duty, answersUntil(cut, tt.rtt))
			s.session = func(at time.Duration) bool { return tt.traffic && at < cut }
			s.run(time.Minute)
			if len(s.downs) != 1 {
				t.Fatalf("deaths at %v", s.downs)
			}
			if took := s.downs[0] - cut; took < tt.least || took > tt.most {
				t.Errorf("dead %v after the cut, want %v to %v", took, tt.least, tt.most)
			}
			if s.usable() || s.reason == "" {
				t.Errorf("usable %v, reason %q", s.usable(), s.reason)
			}
		})
	}
}

func TestHealthIsNotDead(t *testing.T) {
	tests := []struct {
		name    string
		relay   func(time.Duration) (time.Duration, bool)
		session func(time.Duration) bool
		usable  bool
	}{
		{"every third probe is lost", func() func(time.Duration) (time.Duration, bool) {
			n := 0
			return func(time.Duration) (time.Duration, bool) { n++; return 30 * time.Millisecond, n%3 != 0 }
		}(), func(time.Duration) bool { return false }, true},
		{"a second of silence", func(at time.Duration) (time.Duration, bool) {
			return 30 * time.Millisecond, at < 20*time.Second || at > 21*time.Second
		}, func(time.Duration) bool { return false }, true},
		{
			"new connections are blocked, sessions live", answersUntil(20*time.Second, 30*time.Millisecond),
			func(time.Duration) bool { return true }, false,
		},
		{
			"slow", func(time.Duration) (time.Duration, bool) { return 900 * time.Millisecond, true },
			func(time.Duration) bool { return false }, true,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSimulation(duty{sessions: true, inUse: true}, tt.relay)
			s.session = tt.session
			s.run(2 * time.Minute)
			if len(s.downs) != 0 {
				t.Fatalf("deaths at %v", s.downs)
			}
			if s.usable() != tt.usable {
				t.Errorf("usable %v, want %v", s.usable(), tt.usable)
			}
			if n := s.sendsBetween(time.Minute, 2*time.Minute); n > 100 {
				t.Errorf("%d probes in a minute", n)
			}
		})
	}
}

// A machine that slept, or a process without CPU, has not heard nothing: it has not listened.
func TestHealthStalled(t *testing.T) {
	s := newSimulation(duty{sessions: true, inUse: true}, answersUntil(time.Hour, 40*time.Millisecond))
	s.run(10 * time.Second)
	s.sent(s.now, 1)
	s.sent(s.now, 1)
	s.sent(s.now, 1)
	s.now = s.now.Add(time.Minute)
	if !s.dead(s.now, s.duty) {
		t.Fatal("a minute of silence is no death: the test tests nothing")
	}
	s.stalled(time.Minute)
	if s.dead(s.now, s.duty) {
		t.Fatal("dead by a minute in which nobody ran")
	}
}

func TestHealthRecoversAfterAQuietPeriod(t *testing.T) {
	relay := func(at time.Duration) (time.Duration, bool) {
		return 30 * time.Millisecond, at < 20*time.Second || at > 40*time.Second
	}
	s := newSimulation(duty{inUse: true, another: true}, relay)
	s.run(45 * time.Second)
	if s.state != stateDown {
		t.Fatalf("%s at 45 s", s.state)
	}
	s.run(2 * time.Minute)
	if len(s.ups) != 2 || s.ups[1] < 50*time.Second || s.ups[1] > 85*time.Second {
		t.Fatalf("up at %v, want once more between 50 s and 85 s", s.ups)
	}
}

func TestHealthFlapping(t *testing.T) {
	// Abuse J-04: on and off from the tenth second on. A second of silence is not yet a death; more is, and then the
	// path must not come back with every lucky answer.
	for _, period := range []time.Duration{time.Second, 4 * time.Second, 12 * time.Second} {
		s := newSimulation(duty{inUse: true, sessions: true}, func(at time.Duration) (time.Duration, bool) {
			return 30 * time.Millisecond, at < 10*time.Second || int(at/period)%2 == 0
		})
		s.run(10 * time.Minute)
		if len(s.ups) > 5 || period > deadAfter && len(s.downs) == 0 {
			t.Errorf("every %v: %d times up, %d times down in ten minutes", period, len(s.ups), len(s.downs))
		}
	}
}

func TestHealthQuietPeriodGrows(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	var h health
	want := []time.Duration{10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 5 * time.Minute, 5 * time.Minute}
	for i, w := range want {
		h.die(now)
		if got := h.quietNeeded(now); got != w {
			t.Errorf("after %d deaths %v, want %v", i+1, got, w)
		}
	}
	if got := h.quietNeeded(now.Add(time.Hour)); got != quietPeriod {
		t.Errorf("an hour later %v", got)
	}
}

func TestHealthProbeRates(t *testing.T) {
	fine := answersUntil(24*time.Hour, 30*time.Millisecond)
	never := answersUntil(0, 0)
	once := answersUntil(10*time.Second, 30*time.Millisecond)
	tests := []struct {
		name        string
		duty        duty
		relay       func(time.Duration) (time.Duration, bool)
		least, most int // probes from the 1st to the 41st minute
	}{
		{"in use", duty{inUse: true}, fine, 470, 485},
		{"sessions", duty{inUse: true, sessions: true}, fine, 2900, 3200},
		{"standby", duty{another: true}, fine, 78, 82},
		{"never worked, another does", duty{another: true}, never, 3, 5},
		{"worked once, another does", duty{another: true}, once, 70, 85},
		{"nothing works", duty{}, never, 470, 490},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newSimulation(tt.duty, tt.relay)
			s.run(42 * time.Minute)
			if n := s.sendsBetween(time.Minute, 41*time.Minute); n < tt.least || n > tt.most {
				t.Errorf("%d probes, want %d to %d", n, tt.least, tt.most)
			}
			if n := s.sendsBetween(0, 5*time.Second); n < firstRun {
				t.Errorf("%d probes in the first 5 s, want at least %d", n, firstRun)
			}
		})
	}
}

func TestHealthLoss(t *testing.T) {
	var h health
	now := time.Unix(1_800_000_000, 0)
	for i := range 100 {
		if i%4 == 0 {
			h.missed(now, "no answer")
		} else {
			h.answered(now, time.Millisecond)
		}
	}
	if math.Abs(h.loss()-0.25) > 0.001 {
		t.Errorf("loss %v, want 0.25", h.loss())
	}
}

func TestHealthRefusesNewAllocations(t *testing.T) {
	s := newSimulation(duty{inUse: true}, answersUntil(time.Hour, 30*time.Millisecond))
	s.run(5 * time.Second)
	s.refuses = "it is full (508)"
	if s.usable() || s.dead(s.now, s.duty) {
		t.Error("a full region takes new sessions, or kills its old ones")
	}
}

func TestHealthDeathKeepsTheReason(t *testing.T) {
	s := newSimulation(duty{sessions: true}, answersUntil(time.Hour, 30*time.Millisecond))
	s.run(5 * time.Second)
	s.missed(s.now, "connection refused")
	s.die(s.now)
	if !strings.Contains(s.reason, "connection refused") {
		t.Errorf("reason %q", s.reason)
	}
}

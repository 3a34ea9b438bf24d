package life

import (
	"cmp"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// silence is a time in which a stream got no packet.
type silence struct {
	via   string
	began time.Time
	long  time.Duration
}

// noteworthy is the shortest silence that a stream keeps. Packets are sent every 20 ms.
const noteworthy = 40 * time.Millisecond

// silences are those of a stream that are noteworthy.
type silences struct {
	mu  sync.Mutex
	all []silence
}

func (s *silences) add(one silence) {
	if one.long < noteworthy {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, one)
}

func (s *silences) list() []silence {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// control begins a stream that goes to the region without the gateway: what is silent there as well is the doing of the machine, of the
// region or of this test.
func (w *world) control(peer netip.AddrPort) (*stream, error) {
	addr, _, _ := strings.Cut(strings.TrimPrefix(w.cloud.Regions()[0].URLs()[0], "turn:"), "?")
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return nil, err
	}
	return w.begin("control", conn, peer)
}

// phase is something that happened to the gateway under load.
type phase struct {
	what       string
	began, end time.Time
}

// during does something under load, and remembers when.
func (l *load) during(what string, do func() error) error {
	p := phase{what: what, began: time.Now()}
	err := do()
	p.end = time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.phases = append(l.phases, p)
	return err
}

// whatWas names what happened to the gateway in a silence.
func (l *load) whatWas(s silence) string {
	var all []string
	for _, p := range l.phases {
		if p.began.Before(s.began.Add(s.long)) && p.end.Add(100*time.Millisecond).After(s.began) {
			all = append(all, p.what)
		}
	}
	if all == nil {
		return "nothing"
	}
	return strings.Join(all, ", ")
}

// machines reports how much of a silence the control stream was silent too.
func machines(s silence, control []silence) (own time.Duration) {
	for _, c := range control {
		from, to := c.began, c.began.Add(c.long)
		if s.began.After(from) {
			from = s.began
		}
		if end := s.began.Add(s.long); end.Before(to) {
			to = end
		}
		own = max(own, to.Sub(from))
	}
	return own
}

// judge prints the silences that are most the gateway's own, with what was going on, and gives the longest such time of each way.
func (l *load) judge(all []silence) map[string]time.Duration {
	l.w.t.Helper()
	control := l.without.quiet.list()
	own := func(s silence) time.Duration { return s.long - machines(s, control) }
	slices.SortFunc(all, func(a, b silence) int { return cmp.Compare(own(b), own(a)) })
	longest := map[string]time.Duration{}
	var told strings.Builder
	for i, s := range all {
		longest[s.via] = max(longest[s.via], own(s))
		if i < 5 {
			fmt.Fprintf(&told, "\n%s: %s, of which %s without the gateway too, while %s", s.via, s.long.Round(time.Millisecond),
				machines(s, control).Round(time.Millisecond), l.whatWas(s))
		}
	}
	if len(all) > 0 {
		l.w.t.Logf("%d times a stream got nothing for more than %s; the longest that were the gateway's own:%s", len(all), noteworthy, &told)
	}
	return longest
}

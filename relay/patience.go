package relay

import "time"

const (
	// mostPatience is how many times older than relay.queue.max_age video may be while its sender seems to follow the path.
	mostPatience = 4
	// patienceReturns is how long a queue has to be without a drop for patience to double again.
	patienceReturns = 5 * time.Second
)

// patience decides whether a queue waits for its sender to slow down.
//
// A browser's congestion control hears a queue by its growing, slows down and lets it drain. For that it needs media in the order in
// which it was sent: what audio has overtaken is out of order for it and not looked at, so that with audio always in front it would hear
// of no queue. And dropping frames would only break the picture: what follows can't be decoded before they were sent again, and what is
// sent again fills the queue that it was dropped from. So the queue of a sender that may hear keeps the order and drops nothing for a
// while. When that was in vain, what waits of video is dropped but the newest, so that the queue is short at once, and from then on there
// is half as much. A sender that does not follow has none soon: then audio overtakes, and video has max_age.
//
// Who may hear has shaken hands by DTLS or exchanges RTCP, which carries the reports (RFC 8834 section 7). All others never had patience.
type patience struct {
	hears   bool
	most    time.Duration // 0: as much as there can be
	flushes bool
	since   int64 // the last drop or doubling
}

// limit takes note of the age of video whose turn has come, and tells how old it may be.
func (p *patience) limit(maxAge, age time.Duration, now int64) time.Duration {
	if !p.hears {
		return maxAge
	}
	full := mostPatience * maxAge
	if p.most == 0 {
		p.most = full
	}
	if p.flushes = p.flushes && age > maxAge/2; p.flushes {
		return maxAge / 2
	}
	switch {
	case age > p.most && p.most > maxAge:
		p.most, p.flushes, p.since = max(maxAge, p.most/2), true, now
		return maxAge / 2
	case age > p.most:
		p.since = now
	case p.most < full && time.Duration(now-p.since) > patienceReturns:
		p.most, p.since = min(full, 2*p.most), now
	}
	return p.most
}

// lasts tells whether the sender may still slow down.
func (p *patience) lasts(maxAge time.Duration) bool {
	return p.hears && (p.most == 0 || p.most > maxAge)
}

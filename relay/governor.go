package relay

import "time"

const (
	// pathDelay is how much of a slow path's time may lie between us and the client, beyond the round trip: in the kernel, in a
	// shaper, in a modem. What lies there can't be overtaken by audio any more. It is also what keeps the path busy while we sleep.
	pathDelay = 50 * time.Millisecond
	// lateDelay is what makes a path a slow one: bytes that nobody has acknowledged for so long beyond the round trip. A receiver
	// that delays its acknowledgements takes 40 ms.
	lateDelay = 80 * time.Millisecond
	// rateWindow is how long a rate is measured, and the least time between two steps down.
	rateWindow = 400 * time.Millisecond
	// growPeriod is the time between two steps up.
	growPeriod = 50 * time.Millisecond
	// policeMemory is how long a path that threw away what was too much is probed gently.
	policeMemory = 30 * time.Second
	// policeSpan is the least time between two such losses in which what arrived tells the path's rate: in a shorter one it tells of the
	// bucket, and of the pause that the loss made.
	policeSpan = time.Second
	// sampleEvery is how often a path's acknowledged bytes are remembered while it is fast.
	sampleEvery = 250 * time.Millisecond
	// manyLost in a window, and more than one in lostShare segments, is a path that polices; less is a path with some loss, which
	// slowing down doesn't help.
	manyLost  = 2
	lostShare = 16
	// minRate keeps audio alive whatever was measured, in bytes a second.
	minRate = 6 << 10
	// longestPause is how long nothing is asked.
	longestPause = 10 * time.Millisecond
	// markEvery is how exactly the times of writes are remembered, on paths that are not long.
	markEvery = int64(4 * time.Millisecond)
	// firstBytes are all that may be under way on a new connection, and a quarter of what was acknowledged, until provenBytes were: the
	// first video frame of a call is its longest, and would lie in a slow path for half a second.
	firstBytes  = 5 << 10
	provenBytes = 96 << 10
	// manyUnacked is how many bytes must be under way before the kernel is asked whether it holds unsent ones.
	manyUnacked = 12 << 10
	segment     = 1448
)

// governor decides when a stream may write how much, so that what waits for a slow client waits in our queue.
//
// The kernel's own bounds don't do: its congestion control fills whatever buffer the path has (a second of it, say) before it slows
// down, and where the path polices it loses what is too much and then waits for retransmission time-outs. So the governor watches
// how long written bytes go without an acknowledgement. As long as that is short the path is fast: there is one question to the
// kernel a write, and no pacing. When it gets long the path is slow: from then on bytes are written no faster than the path has
// lately delivered, a little faster while that does no harm, and no more than pathDelay of them are left under way.
//
// It is not safe for concurrent use; its stream's lock guards it. It knows no clock and no socket.
type governor struct {
	acked   int64 // bytes acknowledged, of all ever written to the socket
	written int64

	marks [16]mark // when the bytes under way were written, oldest first
	count int
	every int64 // how exactly, nanoseconds

	samples [2]mark // what had been acknowledged lately, and when: the older first
	retrans uint32  // segments sent again, until the path was last fast

	slow *pacer // nil: the path is fast
}

// mark says that the bytes up to end were written at a time, or somewhat later.
type mark struct{ end, at int64 }

// pacer is what is known of a slow path.
type pacer struct {
	rate   float64 // bytes a second
	tokens float64 // bytes that may be written; below 0 after a write
	at     int64   // when tokens were counted

	held    int64 // when the path last made us wait
	ahead   bool  // nothing but the pace made us wait
	grown   int64
	began   int64 // the window's beginning, and what had been acknowledged and retransmitted then
	acked   int64
	retrans uint32

	delivered float64 // in the last window, bytes a second
	met       bool    // the path has shown what is too much for it

	// What made us wait in this window: too much under way, or the pace; and the share of the first, lately. It shows a path that
	// queues, where a loss has other reasons than a policer.
	waits, paced int
	queues       float64

	// When the path last threw something away (0: never), what had been acknowledged then, and how long nobody has waited for the path
	// since; the rate that was measured by it, and whether that was between two such losses.
	policedAt    int64
	policedAcked int64
	idle         int64
	bound        float64
	exact        bool
}

// pathInfo is what the kernel knows of a connection.
type pathInfo struct {
	minRTT  time.Duration
	retrans uint32 // segments sent again, ever
}

// wrote notes that bytes up to written went to the kernel.
func (g *governor) wrote(written, now int64) {
	if p := g.slow; p != nil {
		p.tokens -= float64(written - g.written)
	}
	g.written = written
	if g.count > 0 {
		last := &g.marks[g.count-1]
		if now-last.at < g.every {
			last.end = written
			return
		}
	}
	if g.count == len(g.marks) { // a long way: every two become one
		g.count /= 2
		g.every *= 2
		for i := range g.count {
			g.marks[i] = mark{g.marks[2*i+1].end, g.marks[2*i].at}
		}
	}
	g.marks[g.count] = mark{written, now}
	g.count++
}

// saw notes how many bytes are under way, and tells how long the oldest of them has been. waiting: somebody has waited for the path all
// the time, so what was acknowledged since took that long; who looks only when the path has moved would never see it stand.
func (g *governor) saw(underway int, waiting bool, now int64) (late time.Duration) {
	g.acked = g.written - int64(underway)
	if g.slow == nil && now-g.samples[1].at >= int64(sampleEvery) {
		g.samples[0], g.samples[1] = g.samples[1], mark{g.acked, now}
	}
	done := 0
	for done < g.count && g.marks[done].end <= g.acked {
		done++
	}
	if done > 0 {
		if waiting {
			late = time.Duration(now - g.marks[done-1].at)
		}
		g.count = copy(g.marks[:], g.marks[done:g.count])
	}
	if g.count < len(g.marks)/4 {
		g.every = max(g.every/2, markEvery)
	}
	if g.count == 0 {
		return late
	}
	return max(late, time.Duration(now-g.marks[0].at))
}

// young tells how much may be written to a path that has not shown much yet; 0: nothing for now.
func (g *governor) young() int {
	if g.acked >= provenBytes {
		return fullChunk
	}
	if room := firstBytes + g.acked/4 - (g.written - g.acked); room > maxFrame+3 {
		return int(min(room, fullChunk))
	}
	return 0
}

// slowDown begins to pace. late is how long the oldest byte has been under way.
func (g *governor) slowDown(late time.Duration, info pathInfo, now int64) {
	// What is under way will have taken somewhat longer than it has until now. The guess may be far off; the next windows correct it.
	under := float64(g.written - g.acked)
	p := &pacer{at: now, held: now, grown: now, began: now, acked: g.acked, retrans: info.retrans}
	p.rate = max(minRate, under/(late+2*pathDelay).Seconds())
	if from := g.samples[0]; from.at > 0 && info.retrans != g.retrans {
		// Something was lost, and that alone makes bytes late: what has arrived tells more.
		p.rate = max(p.rate, float64(g.acked-from.end)/(float64(now-from.at)/1e9))
	}
	p.delivered = p.rate
	g.slow = p
}

// may tells how many bytes may be written now, at least one message's; 0: none for now, and how long to wait before asking again.
func (g *governor) may(late time.Duration, info pathInfo, now int64) (room int, wait time.Duration) {
	p := g.slow
	g.adjust(late, info, now)
	p.tokens = min(p.tokens+p.rate*float64(now-p.at)/1e9, max(segment, p.rate*0.01))
	p.at = now
	window := max(2*segment, p.rate*(info.minRTT+pathDelay).Seconds())
	if p.policed(now) {
		// Nothing waits in such a path, and what was lost is found out soon only if some segments behind it arrive.
		window *= 3
	}
	underway := float64(g.written - g.acked)
	p.ahead = p.tokens < 0 && underway <= window
	switch {
	case p.tokens < 0:
		p.paced++
		wait = time.Duration(-p.tokens / p.rate * 1e9)
	case underway > window:
		if late < info.minRTT+2*pathDelay { // else it is a stall, and no queue
			p.waits++
		}
		wait = time.Duration((underway - window) / p.rate * 1e9)
	default:
		return max(maxFrame+3, int(p.rate*0.01)), 0
	}
	p.held = now
	if late > time.Second {
		return 0, 5 * longestPause // it may be gone
	}
	return 0, min(max(wait, time.Millisecond), longestPause)
}

// urges tells whether a small message may go before its time: the path would take it, and only the pace, which is for video, made it wait.
// What it is more than its share is taken off the video behind it.
func (g *governor) urges() bool { return g.slow != nil && g.slow.ahead }

// adjust learns from what happened since it was asked last.
func (g *governor) adjust(late time.Duration, info pathInfo, now int64) {
	p := g.slow
	spare := late - info.minRTT
	if now-p.grown >= int64(growPeriod) {
		busy := now-p.held < int64(growPeriod)*2
		if !busy {
			p.idle += now - p.grown
		}
		p.grown = now
		switch {
		case !busy || spare > pathDelay || p.untried():
		case p.policed(now):
			p.rate *= p.probe()
		case spare < pathDelay/4 && !p.met:
			p.rate *= 1.15
		case spare < pathDelay/4 && p.policedAt == 0:
			p.rate *= 1.04
		default:
			p.rate *= 1.01
		}
	}
	since := time.Duration(now - p.began)
	if since < rateWindow {
		return
	}
	delivered := float64(g.acked-p.acked) / since.Seconds()
	lost := info.retrans - p.retrans
	segments := uint32(max(g.acked-p.acked, 0) / segment)
	if lost == 0 && p.waits+p.paced > 0 {
		p.queues += (float64(p.waits)/float64(p.waits+p.paced) - p.queues) / 3
	}
	switch {
	case lost >= manyLost && lost*lostShare > segments && p.queues < 0.3:
		p.police(g.acked, delivered, now)
	case lost == 0 && spare > 2*pathDelay:
		p.met = true
		p.rate = max(minRate, p.rate/3, min(p.rate, delivered*0.9))
	}
	p.waits, p.paced, p.delivered = 0, 0, delivered
	p.began, p.acked, p.retrans = now, g.acked, info.retrans
}

// recovered tells whether the path has made nobody wait for long, and forgets that it was slow.
func (g *governor) recovered(now int64) bool {
	if now-g.slow.held < int64(slowMemory) {
		return false
	}
	g.retrans, g.slow = g.slow.retrans, nil
	return true
}

// police notes that the path threw away what was too much. Its bucket was empty then as it was the last time: what arrived in between
// is its rate, if somebody waited for it meanwhile. A little less fills the bucket again.
func (p *pacer) police(acked int64, delivered float64, now int64) {
	rate := (delivered + p.delivered) / 2
	since := now - p.policedAt
	p.exact = p.policed(now) && since >= int64(policeSpan) && p.idle < since/2
	if p.exact {
		rate = float64(acked-p.policedAcked) / (float64(since-p.idle) / 1e9)
	}
	p.policedAt, p.policedAcked, p.idle, p.met = now, acked, 0, true
	p.bound = rate * 0.92
	p.rate = max(minRate, p.rate/2, min(p.rate, p.bound))
}

// untried tells whether far more is allowed than was sent lately, so that there is nothing to allow more for.
func (p *pacer) untried() bool {
	if p.policedAt != 0 {
		return p.rate > 1.25*max(p.delivered, minRate)
	}
	return p.rate > 2*max(p.delivered, minRate)
}

// probe is how much faster a path that throws away is tried in a step: not at all where its rate is known exactly and nearly used, so
// that the sender finds our queue before the path throws away again.
func (p *pacer) probe() float64 {
	switch {
	case p.rate < p.bound:
		return 1.01
	case p.exact && p.rate >= 1.05*p.bound:
		return 1
	}
	return 1.003
}

// policed tells whether the path is one that throws away, as far as is known.
func (p *pacer) policed(now int64) bool {
	return p.policedAt != 0 && now-p.policedAt < int64(policeMemory)
}

package relay

import (
	"log/slog"
	"time"

	"golang.org/x/time/rate"
)

// watchClocks looks at the clocks of all sessions: one goroutine and no timer for any of them.
func (s *Server) watchClocks() {
	defer s.wg.Done()
	tick := time.NewTicker(retransmitPeriod)
	defer tick.Stop()
	var list []*session
	for beat := 0; ; beat++ {
		select {
		case <-s.ctx.Done():
			return
		case <-tick.C:
		}
		list = s.table.all(list[:0])
		now := s.now()
		full := beat%int(clockPeriod/retransmitPeriod) == 0
		for _, ses := range list {
			ses.look(now, full)
		}
		clear(list)
	}
}

// look does what a session's clocks say. full: all of them, not only those of retransmissions.
func (ses *session) look(now time.Time, full bool) {
	defer ses.server.defects.Catch(ses.endSoon)
	ses.retransmit(now)
	if full {
		if err := ses.overdue(now); err != nil {
			ses.end(err)
		}
	}
}

// retransmit sends what is due again.
func (ses *session) retransmit(now time.Time) {
	if again := ses.again(now); len(again) > 0 {
		ses.server.metrics.retransmits.Add(float64(len(again)))
		ses.fromClient(again)
	}
}

func (ses *session) again(now time.Time) [][]byte {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if len(ses.requests.list) == 0 {
		return nil
	}
	return ses.requests.due(now, nil)
}

// overdue tells which of the session's times is up.
func (ses *session) overdue(now time.Time) error {
	if since := ses.unfinished.Load(); since != 0 && now.Sub(time.Unix(0, since)) >= PartialFrameTimeout-clockPeriod {
		return errHalf
	}
	if ses.stream.isStuck() {
		return errStuck
	}
	if up := ses.up.Load(); up != nil && up.stream.isStuck() {
		return errStuckRegion
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	switch {
	case now.Before(ses.deadline):
		return nil
	case ses.inPhase(phaseAllocated):
		return errOutlived
	}
	return errLate
}

// logEnd writes the line of a session's end. Those that never had an allocation are many when somebody knocks without end: of
// them a few a second are written, and how many were not.
func (s *Server) logEnd(won bool, attrs []slog.Attr) {
	if !won && !s.endings.Allow() {
		s.unlogged.Add(1)
		return
	}
	if n := s.unlogged.Swap(0); n > 0 {
		attrs = append(attrs, slog.Int64("suppressed", n))
	}
	s.log.LogAttrs(s.ctx, slog.LevelInfo, "session ended", attrs...)
}

func newEndings() *rate.Limiter { return rate.NewLimiter(5, 20) }

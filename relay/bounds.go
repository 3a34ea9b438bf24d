package relay

import (
	"slices"
	"time"
)

// bounds are relay.max_bandwidth for one bridged session: what is beyond them is dropped, as a narrow line would. Requests and their
// answers always pass, so that an allocation at its bound can still be kept and given back.
type bounds struct {
	out, in *meter
	engine  *engine // has the bounds of all together, and the counter
}

// newBounds are the bounds of a session that is bridged; nil where none are set. What the gateway relays itself the engine bounds.
func (s *Server) newBounds() *bounds {
	e := s.engine
	if s.answersItself() || e.bitsEach == 0 && e.bitsTotal == 0 {
		return nil
	}
	return &bounds{out: boundMeter(e.bitsEach), in: boundMeter(e.bitsEach), engine: e}
}

// up keeps what may go to the region. It changes msgs.
func (b *bounds) up(msgs [][]byte, now time.Time) [][]byte {
	return b.keep(msgs, b.out, b.engine.totalOut, now)
}

// down keeps what may go to the client. It changes msgs.
func (b *bounds) down(msgs [][]byte, now time.Time) [][]byte {
	return b.keep(msgs, b.in, b.engine.totalIn, now)
}

func (b *bounds) keep(msgs [][]byte, each, total *meter, now time.Time) [][]byte {
	return slices.DeleteFunc(msgs, func(msg []byte) bool {
		if !isMedia(msg) || each.take(len(msg), now) && total.take(len(msg), now) {
			return false
		}
		b.engine.metrics.refused("bandwidth")
		return true
	})
}

// isMedia tells whether a message carries a packet of a peer's, or for one.
func isMedia(msg []byte) bool {
	if isChannelData(msg) {
		return true
	}
	typ := messageType(msg)
	return typ == typeSendIndication || typ == typeDataIndication
}

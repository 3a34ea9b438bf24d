package relay

import (
	"fmt"
	"slices"
	"time"

	"hafen/configs"
)

// engineBounds are what a configuration bounds the engine by. 0: no bound.
type engineBounds struct {
	// maxPerClient and maxTotal bound the allocations, perUser those of one of the gateway's own users.
	maxPerClient, maxTotal, perUser int
	// bitsEach and bitsTotal bound what an allocation, and all of them, pass on each way.
	bitsEach, bitsTotal int64
}

func newEngineBounds(c *configs.Config) (b engineBounds, err error) {
	b = engineBounds{maxPerClient: c.Limits.AllocationsPerClient, maxTotal: c.Limits.Allocations, perUser: c.Limits.AllocationsPerUser}
	if b.bitsEach, err = configs.ParseBandwidth(c.Relay.MaxBandwidth.PerAllocation); err != nil {
		return b, fmt.Errorf("relay.max_bandwidth.per_allocation: %w", err)
	}
	if b.bitsTotal, err = configs.ParseBandwidth(c.Relay.MaxBandwidth.Total); err != nil {
		return b, fmt.Errorf("relay.max_bandwidth.total: %w", err)
	}
	return b, nil
}

// engineLimits are the bounds in force, and the meters of all allocations together.
type engineLimits struct {
	engineBounds
	out, in *meter
}

// bound puts bounds in force. What there is stays, with the meter it has.
func (e *engine) bound(b engineBounds) {
	last := e.limits.Load()
	if last != nil && last.bitsTotal == b.bitsTotal {
		e.limits.Store(&engineLimits{b, last.out, last.in})
		return
	}
	e.limits.Store(&engineLimits{b, boundMeter(b.bitsTotal), boundMeter(b.bitsTotal)})
}

// bounds are relay.max_bandwidth for one bridged session: what is beyond them is dropped, as a narrow line would. Requests and their
// answers always pass, so that an allocation at its bound can still be kept and given back.
type bounds struct {
	out, in *meter
	engine  *engine // has the bounds of all together, and the counter
}

// newBounds are the bounds of a session that is bridged; nil where none are set. What the gateway relays itself the engine bounds.
func (s *Server) newBounds() *bounds {
	limits := s.engine.limits.Load()
	if s.answersItself() || limits.bitsEach == 0 && limits.bitsTotal == 0 {
		return nil
	}
	return &bounds{out: boundMeter(limits.bitsEach), in: boundMeter(limits.bitsEach), engine: s.engine}
}

// up keeps what may go to the region. It changes msgs.
func (b *bounds) up(msgs [][]byte, now time.Time) [][]byte {
	return b.keep(msgs, b.out, b.engine.limits.Load().out, now)
}

// down keeps what may go to the client. It changes msgs.
func (b *bounds) down(msgs [][]byte, now time.Time) [][]byte {
	return b.keep(msgs, b.in, b.engine.limits.Load().in, now)
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

package relay

import (
	"math"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// meter bounds a flow: so many bits a second, and so many bytes altogether.
type meter struct {
	limiter *rate.Limiter

	mu   sync.Mutex
	left int64
}

// meterBurst is how much of a second's bits may come at once: a video key frame does.
const meterBurst = 4

// newMeter makes a meter for bits a second, and bytes in all; 0 bytes: no bound.
func newMeter(bits, bytes int64) *meter {
	perSecond := max(bits/8, 1)
	burst := max(int(perSecond/meterBurst), maxPacket)
	if bytes == 0 {
		bytes = math.MaxInt64
	}
	return &meter{limiter: rate.NewLimiter(rate.Limit(perSecond), burst), left: bytes}
}

// take tells whether n more bytes may pass. A nil meter lets everything pass.
func (m *meter) take(n int, now time.Time) bool {
	if m == nil {
		return true
	}
	if !m.limiter.AllowN(now, n) {
		return false
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.left < int64(n) {
		return false
	}
	m.left -= int64(n)
	return true
}

// boundMeter is a meter for a bound that may be 0, which is none.
func boundMeter(bits int64) *meter {
	if bits == 0 {
		return nil
	}
	return newMeter(bits, 0)
}

// within tells whether n bytes pass both of two bounds; usually there are none, and no clock is asked.
func within(n int, e *engine, each, total *meter) bool {
	if each == nil && total == nil {
		return true
	}
	now := e.now()
	return each.take(n, now) && total.take(n, now)
}

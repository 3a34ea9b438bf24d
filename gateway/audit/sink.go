package audit

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// sink is a place that records go to, with what it could not take yet.
type sink struct {
	to interface {
		write(ctx context.Context, records []Record) error
		close()
	}
	waiting []Record
	lost    int64 // since it was last said

	mu      sync.Mutex
	failure string
	lostAll int64
}

// write hands over what waits and the new records. What is not taken waits for the next time, within a bound; of what was lost, the
// count is the first thing that is written afterwards. failed is the beginning of a failure, recovered its end.
func (k *sink) write(ctx context.Context, records []Record, now time.Time) (failed error, recovered bool) {
	k.waiting = append(k.waiting, records...)
	if over := len(k.waiting) - maxQueue; over > 0 {
		k.waiting = append(k.waiting[:0], k.waiting[over:]...)
		k.lost += int64(over)
		k.mu.Lock()
		k.lostAll += int64(over)
		k.mu.Unlock()
	}
	if len(k.waiting) == 0 {
		return nil, false
	}
	out := k.waiting
	if k.lost > 0 {
		out = append([]Record{{Time: now, Event: "lost", Status: "err_limit", Detail: fmt.Sprintf("%d records could not be kept", k.lost)}}, out...)
	}
	err := k.to.write(ctx, out)
	k.mu.Lock()
	defer k.mu.Unlock()
	before := k.failure
	if err != nil {
		k.failure = err.Error()
		if before == "" {
			failed = err
		}
		return failed, false
	}
	k.failure, k.waiting, k.lost = "", k.waiting[:0], 0
	return nil, before != ""
}

func (k *sink) state() (failure string, lost int64) {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.failure, k.lostAll
}

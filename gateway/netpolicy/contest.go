package netpolicy

import (
	"context"
	"time"
)

// contest is a race between tries of which one is wanted, as in Happy Eyeballs (RFC 8305 section 5).
type contest[T any] struct {
	// n is the number of tries, numbered from 0 in order of preference.
	n int
	// stagger is the head start of each try before the next.
	stagger time.Duration
	// try does the i-th. It has to return soon after its context is done.
	try func(ctx context.Context, i int) (T, error)
	// final reports whether an error ends the contest. nil means that none does.
	final func(error) bool
	// discard gets successes that came too late.
	discard func(T)
}

// run starts each try as soon as its predecessor has failed or had its head start, and returns the first success; else
// the error that was final, or that of the first try. No try is running any more when it returns.
func (c *contest[T]) run(ctx context.Context) (T, error) {
	type result struct {
		i     int
		value T
		err   error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	timer := time.NewTimer(c.stagger)
	defer timer.Stop()
	results := make(chan result)
	var best result
	due, over, next, running := true, false, 0, 0
	for {
		if due && !over && next < c.n {
			go func(i int) {
				value, err := c.try(ctx, i)
				results <- result{i, value, err}
			}(next)
			due, next, running = false, next+1, running+1
			timer.Reset(c.stagger)
		}
		if running == 0 {
			return best.value, best.err
		}
		select {
		case <-timer.C:
			due = true
		case r := <-results:
			running--
			ends := r.err == nil || c.final != nil && c.final(r.err)
			switch {
			case over && r.err == nil:
				c.discard(r.value)
			case !over && (ends || best.err == nil || r.i < best.i):
				best, due = r, true
			default:
				due = true
			}
			if ends && !over {
				over = true
				cancel()
			}
		}
	}
}

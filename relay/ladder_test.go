package relay

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"
)

func TestClimb(t *testing.T) {
	const start = 60 * time.Millisecond
	type runner struct {
		takes    time.Duration
		fails    bool
		doubtful bool
	}
	tests := []struct {
		name    string
		runners []runner
		winner  int // -1: none
		begun   int // at least 1, at most so many
	}{
		{"the first is quick", []runner{{0, false, false}, {0, false, false}}, 0, 1},
		{"the first is slow but within its head start", []runner{{10 * time.Millisecond, false, false}, {0, false, false}}, 0, 1},
		{"the first hangs", []runner{{time.Minute, false, false}, {0, false, false}}, 1, 2},
		{"the first fails: no waiting", []runner{{0, true, false}, {0, false, false}, {0, false, false}}, 1, 2},
		{"the first is late and wins all the same", []runner{{start * 3 / 2, false, false}, {time.Minute, false, false}}, 0, 2},
		{"all fail", []runner{{0, true, false}, {0, true, false}, {0, true, false}}, -1, 3},
		{"the first are in doubt and have no head start", []runner{{time.Minute, false, true}, {time.Minute, false, true}, {0, false, false}}, 2, 3},
		{"the first is in doubt and wins all the same", []runner{{0, false, true}, {time.Minute, false, false}}, 0, 2},
		{"none", nil, -1, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var mu sync.Mutex
			var begun, discarded []int
			v, errs := climb(t.Context(), len(tt.runners), func(i int) time.Duration {
				if tt.runners[i].doubtful {
					return 0
				}
				return start
			}, func(ctx context.Context, i int) (int, error) {
				mu.Lock()
				begun = append(begun, i)
				mu.Unlock()
				select {
				case <-time.After(tt.runners[i].takes):
				case <-ctx.Done():
					return 0, ctx.Err()
				}
				if tt.runners[i].fails {
					return 0, errors.New("failed")
				}
				return i + 1, nil
			}, func(v int) { discarded = append(discarded, v) })
			if v-1 != tt.winner {
				t.Fatalf("%d wins, want %d", v-1, tt.winner)
			}
			atOnce := slices.ContainsFunc(tt.runners, func(r runner) bool { return r.doubtful }) // then in any order
			if len(begun) > tt.begun || !atOnce && !slices.IsSorted(begun) {
				t.Errorf("begun: %v", begun)
			}
			if tt.winner < 0 && len(errs) != len(tt.runners) || tt.winner >= 0 && errs != nil {
				t.Errorf("errors: %v", errs)
			}
		})
	}
}

func TestClimbDiscardsTheLosers(t *testing.T) {
	both := make(chan struct{})
	var once sync.Once
	discarded := 0
	v, _ := climb(t.Context(), 2, func(int) time.Duration { return time.Millisecond }, func(_ context.Context, i int) (int, error) {
		if i == 1 {
			once.Do(func() { close(both) })
		}
		<-both
		return i + 1, nil
	}, func(int) { discarded++ })
	if v == 0 || discarded != 1 {
		t.Errorf("winner %d, %d discarded", v, discarded)
	}
}

func TestClimbEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	_, errs := climb(ctx, 3, func(int) time.Duration { return time.Hour }, func(ctx context.Context, _ int) (int, error) {
		<-ctx.Done()
		return 0, ctx.Err()
	}, func(int) {})
	if len(errs) != 1 || !errors.Is(errs[0], context.DeadlineExceeded) {
		t.Errorf("errors: %v", errs)
	}
}

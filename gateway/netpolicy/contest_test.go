package netpolicy

import (
	"context"
	"errors"
	"testing"
	"time"
)

func TestContest(t *testing.T) {
	block := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	first, second := errors.New("first"), errors.New("second")
	t.Run("a slow one is overtaken and its late success discarded", func(t *testing.T) {
		discarded := 0
		c := contest[int]{
			n: 2, stagger: time.Millisecond, discard: func(int) { discarded++ },
			try: func(ctx context.Context, i int) (int, error) {
				if i == 0 {
					_ = block(ctx)
				}
				return i, nil
			},
		}
		if got, err := c.run(t.Context()); got != 1 || err != nil || discarded != 1 {
			t.Errorf("%d, %v, %d discarded", got, err, discarded)
		}
	})
	t.Run("the next starts when one fails", func(t *testing.T) {
		c := contest[int]{n: 3, stagger: time.Hour, try: func(_ context.Context, i int) (int, error) {
			if i < 2 {
				return 0, first
			}
			return i, nil
		}}
		if got, err := c.run(t.Context()); got != 2 || err != nil {
			t.Errorf("%d, %v", got, err)
		}
	})
	t.Run("the error is that of the first", func(t *testing.T) {
		c := contest[int]{n: 2, stagger: time.Millisecond, try: func(_ context.Context, i int) (int, error) {
			if i == 0 {
				time.Sleep(20 * time.Millisecond)
				return 0, first
			}
			return 0, second
		}}
		if _, err := c.run(t.Context()); !errors.Is(err, first) {
			t.Errorf("%v", err)
		}
	})
	t.Run("a final error ends it", func(t *testing.T) {
		c := contest[int]{
			n: 2, stagger: time.Hour, final: func(err error) bool { return errors.Is(err, first) },
			try: func(_ context.Context, i int) (int, error) {
				if i == 0 {
					return 0, first
				}
				t.Error("the second was tried")
				return i, nil
			},
		}
		if _, err := c.run(t.Context()); !errors.Is(err, first) {
			t.Errorf("%v", err)
		}
	})
	t.Run("the context ends all", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(10*time.Millisecond, cancel)
		c := contest[int]{n: 2, stagger: time.Millisecond, try: func(ctx context.Context, _ int) (int, error) { return 0, block(ctx) }}
		if _, err := c.run(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("%v", err)
		}
	})
}

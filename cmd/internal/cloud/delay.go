package cloud

import (
	"sync"
	"time"
)

// line is a length of wire: what is put in at one end comes out at the other in order, each item no sooner than the
// delay after it was put in. Like a wire's queue it is bounded; what does not fit is lost.
type line[T any] struct {
	delay time.Duration
	items chan inFlight[T]
	done  chan struct{}
	once  sync.Once
}

type inFlight[T any] struct {
	value T
	due   time.Time
}

func newLine[T any](delay time.Duration, capacity int) *line[T] {
	return &line[T]{delay: delay, items: make(chan inFlight[T], capacity), done: make(chan struct{})}
}

// put never blocks. False means that the line is full or closed and the item lost.
func (l *line[T]) put(v T) bool {
	select {
	case <-l.done:
		return false
	default:
	}
	select {
	case l.items <- inFlight[T]{v, time.Now().Add(l.delay)}:
		return true
	default:
		return false
	}
}

// get blocks until the next item is due. False means that the line was closed. Only one goroutine may call it.
func (l *line[T]) get() (v T, ok bool) {
	select {
	case item := <-l.items:
		if !l.sleep(time.Until(item.due)) {
			return v, false
		}
		return item.value, true
	case <-l.done:
		return v, false
	}
}

func (l *line[T]) sleep(d time.Duration) bool {
	if d <= 0 {
		return true
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-l.done:
		return false
	}
}

func (l *line[T]) close() { l.once.Do(func() { close(l.done) }) }

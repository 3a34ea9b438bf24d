package relay

import (
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// restTime is how long a busy loop rests before it looks again, and so what batching may add to a packet's way.
	restTime = 250 * time.Microsecond
	// busyTurns in a row that came within soonTime of the one before make a loop a busy one.
	busyTurns = 16
	soonTime  = time.Millisecond
)

// pace decides whether a loop rests between two turns.
type pace struct {
	last int64 // when the latest turn began
	soon int   // turns in a row that came soon behind the one before
}

// busy notes a turn's beginning.
func (p *pace) busy(now int64) bool {
	if now-p.last < int64(soonTime) {
		p.soon = min(p.soon+1, busyTurns)
	} else {
		p.soon = 0
	}
	p.last = now
	return p.soon == busyTurns
}

// wait waits for events, for some milliseconds at most, and tells how many there are.
func (l *loop) wait(timeout int) int {
	for {
		if n, again := l.poll(timeout); !again {
			return n
		}
	}
}

// poll is epoll_wait. Only where it may sleep Go's scheduler is told.
func (l *loop) poll(timeout int) (n int, again bool) {
	call := unix.Syscall6
	if timeout == 0 {
		call = unix.RawSyscall6
	}
	got, _, errno := call(unix.SYS_EPOLL_PWAIT, uintptr(l.epoll), uintptr(unsafe.Pointer(&l.events[0])), turnEvents, uintptr(timeout), 0, 0)
	if errno != 0 {
		return 0, errno == unix.EINTR
	}
	return int(got), false
}

// rest sleeps for a moment; the kernel's timers add some 50 us to it.
func rest(d time.Duration) {
	ts := unix.NsecToTimespec(int64(d))
	_, _, _ = unix.Syscall(unix.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
}

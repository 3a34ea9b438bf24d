package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// now is the clock of all timestamps in packets; both ends are in one process.
func now() int64 { return int64(time.Since(clockStart)) }

var clockStart = time.Now()

// sleepUntil waits more precisely than Go's timers, which count in milliseconds here. The calling goroutine is to be locked to a thread.
func sleepUntil(at int64) {
	for d := at - now(); d > 0; d = at - now() {
		ts := unix.NsecToTimespec(d)
		_ = unix.Nanosleep(&ts, nil)
	}
}

// cpuOf is the CPU that a process has used, user and system, all threads: its POSIX clock, to the nanosecond.
func cpuOf(pid int) (time.Duration, error) {
	var ts unix.Timespec
	const scheduler = 2 // CPUCLOCK_SCHED of the kernel's posix-timers.h
	if err := unix.ClockGettime(int32(^pid<<3|scheduler), &ts); err != nil {
		return 0, fmt.Errorf("the CPU of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// memoryOf is the memory of a process in bytes: what it holds ("VmRSS:"), or has held at most ("VmHWM:").
func memoryOf(pid int, which string) (int64, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, which); found {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("process %d has no %s", pid, which)
}

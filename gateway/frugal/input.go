// Package frugal is for tests: it holds what reads outside bytes to a price.
package frugal

import (
	"flag"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What one input of a fuzz target may cost at most: a parser that takes longer can be kept busy by whoever sends such inputs. The race
// detector and a slow machine are allowed for.
const (
	mostTime   = time.Second
	mostMemory = 256 << 20 // bytes allocated
)

// Input begins one input of a fuzz target; what it returns ends it, and fails the test if the input took more than a second of processor time
// on this goroutine's thread or, while fuzzing, allocated more than 256 MiB. It stands first in the target's function:
//
//	defer frugal.Input(t)()
func Input(t *testing.T) (end func()) {
	t.Helper()
	runtime.LockOSThread()
	began, held := processor(t), allocated()
	return func() {
		t.Helper()
		spent, took := processor(t)-began, allocated()-held
		runtime.UnlockOSThread()
		if spent > mostTime {
			t.Errorf("the input took %v of processor time, at most %v is meant", spent, mostTime)
		}
		if alone() && took > mostMemory {
			t.Errorf("the input allocated %d MiB, at most %d are meant", took>>20, uint64(mostMemory>>20))
		}
	}
}

// processor is what the thread has used.
func processor(t *testing.T) time.Duration {
	t.Helper()
	var used unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_THREAD, &used); err != nil {
		t.Fatal(err)
	}
	return time.Duration(used.Utime.Nano() + used.Stime.Nano())
}

// allocated is what the process has allocated since it began, in bytes.
func allocated() uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	metrics.Read(sample)
	return sample[0].Value.Uint64()
}

// alone reports whether nothing else runs in this process: it fuzzes, or is a worker that does.
func alone() bool {
	for _, name := range []string{"test.fuzz", "test.fuzzworker"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" && f.Value.String() != "false" {
			return true
		}
	}
	return false
}

// Package defect keeps a mistake in this program from ending more than the connection that met it.
package defect

import (
	"fmt"
	"log/slog"
	"runtime/debug"
)

// Catcher is told of each panic that was caught. A nil one catches and says nothing.
type Catcher struct {
	// Log takes a line with the stack. nil: silent.
	Log *slog.Logger
	// Count is called once for each. nil: nobody counts.
	Count func()
}

// Catch ends a panic of the function that defers it, and then has whatever it was done for ended by end, which is told why. Without a
// panic nothing happens. What end itself breaks is caught too. end nil: there is nothing to end.
//
// Locks are the caller's affair: whoever may panic while it holds one must defer its unlocking, or end waits for ever.
func (c *Catcher) Catch(end func(error)) {
	v := recover()
	if v == nil {
		return
	}
	c.tell(v)
	if end != nil {
		defer c.Catch(nil)
		end(&Error{v})
	}
}

func (c *Catcher) tell(v any) {
	if c == nil {
		return
	}
	if c.Count != nil {
		c.Count()
	}
	if c.Log != nil {
		c.Log.Error("a defect of this program ended a connection: please report it", "panic", v, "stack", string(debug.Stack()))
	}
}

// Error is what a caught panic is to those who hear of it: a protocol error, since it takes unforeseen input to find a defect.
type Error struct{ value any }

func (e *Error) Error() string { return fmt.Sprintf("a defect of this program: %v", e.value) }

// Status is the word for logs and metrics.
func (e *Error) Status() string { return "err_protocol" }

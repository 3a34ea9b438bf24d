package netpolicy

import (
	"context"
	"errors"
	"net"
	"os"
)

// The status words of this package's errors.
const (
	StatusPolicy  = "err_policy"
	StatusDial    = "err_dial"
	StatusTimeout = "err_timeout"
)

// Error is why a target was not reached. Where an address was refused, it wraps the Refusal.
type Error struct {
	// Doing is what failed: "resolve", "dial", or "company proxy".
	Doing string
	// Target is what was to be reached, a name or host:port.
	Target string
	// Word is the status word: err_policy, err_dial or err_timeout.
	Word string
	// Err says why, in a sentence.
	Err error
}

func (e *Error) Error() string { return e.Doing + " " + e.Target + ": " + e.Err.Error() }

func (e *Error) Unwrap() error { return e.Err }

// Status is the error's status word.
func (e *Error) Status() string { return e.Word }

// fail wraps err; what its status word is follows from what it is.
func fail(doing, target string, err error) *Error {
	return &Error{Doing: doing, Target: target, Word: wordOf(err), Err: err}
}

func wordOf(err error) string {
	var refusal *Refusal
	var own *Error
	var timeout net.Error
	switch {
	case errors.As(err, &refusal):
		return StatusPolicy
	case errors.As(err, &own):
		return own.Word
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return StatusTimeout
	case errors.As(err, &timeout) && timeout.Timeout():
		return StatusTimeout
	}
	return StatusDial
}

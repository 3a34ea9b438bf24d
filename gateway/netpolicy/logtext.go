package netpolicy

import (
	"net"
	"strings"
)

// ErrorText is an error as logs may have it where they show no full addresses: every *net.OpError in its chain says what
// was done and what went wrong, but not between which addresses. nil is "".
func ErrorText(err error) string {
	if err == nil {
		return ""
	}
	return withoutAddresses(err.Error(), err)
}

// withoutAddresses reduces the network errors of err's chain in a text that was made of them, the outermost first: what it
// leaves of one holds the next.
func withoutAddresses(text string, err error) string {
	if op, is := err.(*net.OpError); is && op != nil && op.Err != nil {
		text = strings.ReplaceAll(text, op.Error(), op.Op+": "+op.Err.Error())
	}
	switch wrapper := err.(type) {
	case interface{ Unwrap() error }:
		if inner := wrapper.Unwrap(); inner != nil {
			return withoutAddresses(text, inner)
		}
	case interface{ Unwrap() []error }:
		for _, inner := range wrapper.Unwrap() {
			text = withoutAddresses(text, inner)
		}
	}
	return text
}

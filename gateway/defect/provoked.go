//go:build fault

package defect

import "strings"

// Provoke panics if the bytes from outside hold "fault at " and the place. Never build this for use.
func Provoke[Bytes ~string | ~[]byte](place string, outside Bytes) {
	if strings.Contains(string(outside), "fault at "+place+".") {
		panic("a fault that was asked for, at " + place)
	}
}

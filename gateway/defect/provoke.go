//go:build !fault

package defect

// Provoke is nothing, but in a program built with the tag `fault`: there it panics if the bytes from outside ask for a fault at this
// place, so that what a defect does can be tried on the running program (TestAbuse_J12).
func Provoke[Bytes ~string | ~[]byte](place string, outside Bytes) {}

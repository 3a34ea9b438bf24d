package status

import (
	"os"
	"testing"
)

// TestMain makes passwords cheap: the tests log in a hundred times, and what a hash really costs is seen where the program makes one.
func TestMain(m *testing.M) {
	argonMemory = 1 << 10
	os.Exit(m.Run())
}

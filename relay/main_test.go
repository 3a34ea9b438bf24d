package relay

import (
	"testing"

	"go.uber.org/goleak"
)

// Nothing of a closed Server runs on.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

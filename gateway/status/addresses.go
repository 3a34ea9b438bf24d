package status

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// AddressChange is what has become of a name's addresses within a week: for firewalls that go by address.
type AddressChange struct {
	Name  string    `json:"name"`
	Came  []string  `json:"came,omitempty"`
	Went  []string  `json:"went,omitempty"`
	Since time.Time `json:"since"` // of the newest change
}

// Words are the change on one line.
func (a AddressChange) Words() string {
	var parts []string
	if len(a.Came) > 0 {
		parts = append(parts, "new "+strings.Join(a.Came, ", "))
	}
	if len(a.Went) > 0 {
		parts = append(parts, "gone "+strings.Join(a.Went, ", "))
	}
	return fmt.Sprintf("%s: %s (since %s)", a.Name, strings.Join(parts, "; "), a.Since.Format(time.DateOnly))
}

func writeAddresses(out io.Writer, changes []AddressChange) {
	if len(changes) == 0 {
		return
	}
	fmt.Fprintf(out, "\naddresses that changed within a week\n")
	for _, a := range changes {
		fmt.Fprintf(out, "  %s\n", a.Words())
	}
	fmt.Fprintln(out, "  → a firewall that goes by address needs the new ones: hafen firewall --ticket")
}

package precall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"
)

// Version is that of Measurements and Report.
const Version = 1

// MaxReport is the largest body that is read.
const MaxReport = 256 << 10

// Measurements is what the page saw, before anybody judged it.
type Measurements struct {
	Version int `json:"version"`
	// Clock is the client's time when it sent this, in milliseconds since 1970.
	Clock float64 `json:"clock"`
	// Hold is for how many seconds the long-poll was to be held: 45, or less in a test of the test.
	Hold   int        `json:"hold"`
	Checks []Measured `json:"checks"`
}

// Measured is one check as the page made it.
type Measured struct {
	ID     string  `json:"id"`
	Target string  `json:"target,omitempty"` // of relay checks: the TURN URL
	Result Outcome `json:"result"`
	// Error is a word of the page's, why Result is not ok.
	Error string `json:"error,omitempty"`
	// Value is in the unit that measures gives for the id.
	Value *float64 `json:"value,omitempty"`
	// Detail is what the browser said, in its own words.
	Detail string  `json:"detail,omitempty"`
	MS     float64 `json:"ms"`
}

// Outcome is how a check went, for the page.
type Outcome string

// Outcomes. Skipped was not to be tested, unknown could not be.
const (
	OK      Outcome = "ok"
	Failed  Outcome = "fail"
	Unknown Outcome = "unknown"
	Skipped Outcome = "skipped"
)

// Level is how far the proof of a check reaches.
type Level string

// Levels, from the furthest to the nearest.
const (
	LevelMedia   Level = "media"   // looped through the cloud's relay
	LevelService Level = "service" // the service itself answered
	LevelPath    Level = "path"    // TCP, TLS or STUN answered
	LevelGateway Level = "gateway" // only as far as the gateway
	LevelDevice  Level = "device"  // in the browser itself
)

// measure is what is known of a check's id beforehand.
type measure struct {
	level    Level
	unit     string
	min, max float64
}

// measures are the checks that the page makes.
func measures(id string) (measure, bool) {
	switch id {
	case "browser", "secure-context":
		return measure{level: LevelDevice}, true
	case "camera":
		return measure{LevelDevice, "fps", 0, 1000}, true
	case "microphone":
		return measure{LevelDevice, "dBFS", -200, 0}, true
	case "call-server:websocket", "relay:udp", "relay:tcp", "relay:tls":
		return measure{LevelGateway, "ms", 0, 600_000}, true
	case "call-server:longpoll":
		return measure{LevelGateway, "s", 0, 600}, true
	case "relay:media":
		return measure{LevelGateway, "kbit/s", 0, 10_000_000}, true
	case "rtt", "jitter":
		return measure{LevelGateway, "ms", 0, 600_000}, true
	case "loss":
		return measure{LevelGateway, "%", 0, 100}, true
	}
	return measure{}, false
}

// errorWords are the words a page may give as an error.
var errorWords = []string{
	"denied", "missing", "in-use", "insecure", "unsupported", "dismissed", // devices and browser
	"silent", "unmeasured",
	"network", "closed", "timeout", "cut", "refused", // signaling
	"unreached", "credentials", "quota", "no-packets", "bandwidth", // relay
	"no-servers", "not-offered", "cancelled", "other",
}

var turnURL = regexp.MustCompile(`^turns?:[A-Za-z0-9.:\[\]-]{1,200}(\?transport=(udp|tcp))?$`)

// errMalformed says that a report is none; its text says why, in words for whoever wrote the page.
var errMalformed = errors.New("this is no report")

// ReadMeasurements reads what a page sent: strictly, for anybody may send anything. Nothing of it is trusted further
// than that it has the right shape; texts are shown as texts.
func ReadMeasurements(r io.Reader) (Measurements, error) {
	var m Measurements
	body, err := io.ReadAll(r)
	if err != nil {
		return m, err
	}
	if err := checkDepth(body, 6); err != nil {
		return m, err
	}
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return m, fmt.Errorf("%w: %w", errMalformed, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return m, fmt.Errorf("%w: something follows it", errMalformed)
	}
	return m, m.validate()
}

// checkDepth refuses nesting that no report has, before anything is built of it.
func checkDepth(body []byte, most int) error {
	depth, quoted, escaped := 0, false, false
	for _, c := range body {
		switch {
		case escaped:
			escaped = false
		case quoted:
			escaped, quoted = c == '\\', c != '"'
		case c == '"':
			quoted = true
		case c == '{' || c == '[':
			if depth++; depth > most {
				return fmt.Errorf("%w: nested deeper than %d", errMalformed, most)
			}
		case c == '}' || c == ']':
			depth--
		}
	}
	return nil
}

func (m *Measurements) validate() error {
	switch {
	case m.Version != Version:
		return fmt.Errorf("%w: version is %d, not %d", errMalformed, m.Version, Version)
	case !between(m.Clock, 0, 1e14):
		return fmt.Errorf("%w: clock is no time", errMalformed)
	case m.Hold < 1 || m.Hold > 180:
		return fmt.Errorf("%w: hold is not between 1 and 180", errMalformed)
	case len(m.Checks) == 0 || len(m.Checks) > 64:
		return fmt.Errorf("%w: between 1 and 64 checks, not %d", errMalformed, len(m.Checks))
	}
	seen := map[[2]string]bool{}
	for i, c := range m.Checks {
		if err := c.validate(); err != nil {
			return fmt.Errorf("%w: check %d: %w", errMalformed, i, err)
		}
		if key := [2]string{c.ID, c.Target}; seen[key] {
			return fmt.Errorf("%w: check %d: %s is there twice", errMalformed, i, c.ID)
		} else {
			seen[key] = true
		}
	}
	return nil
}

func (c Measured) validate() error {
	known, ok := measures(c.ID)
	switch {
	case !ok:
		return errors.New("an unknown id")
	case !slices.Contains([]Outcome{OK, Failed, Unknown, Skipped}, c.Result):
		return errors.New("an unknown result")
	case c.Error != "" && !slices.Contains(errorWords, c.Error):
		return errors.New("an unknown error word")
	case c.Target != "" && (!strings.HasPrefix(c.ID, "relay:") || !turnURL.MatchString(c.Target)):
		return errors.New("a target that is no TURN URL")
	case c.Value != nil && (known.unit == "" || !between(*c.Value, known.min, known.max)):
		return errors.New("a value out of range")
	case !between(c.MS, 0, 3_600_000):
		return errors.New("ms out of range")
	case len(c.Detail) > 300 || !printable(c.Detail):
		return errors.New("a detail that is too long or not printable")
	}
	return nil
}

// between is false for NaN.
func between(v, low, high float64) bool { return !math.IsNaN(v) && v >= low && v <= high }

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		// Control characters, and those that turn the direction of the text around them.
		return r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	})
}

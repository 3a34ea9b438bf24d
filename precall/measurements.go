package precall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
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
	// Hold is for how many seconds the long-polls were to be held: 45, or less in a test of the test.
	Hold int `json:"hold"`
	// Run names the plan that the page worked by; "" when it got none.
	Run string `json:"run,omitempty"`
	// Mapped is the address that STUN over UDP told the browser. It is compared and not kept.
	Mapped string `json:"mapped,omitempty"`
	// Connection is what the browser says of its network: wifi, ethernet, cellular; "" where it does not tell.
	Connection string     `json:"connection,omitempty"`
	Checks     []Measured `json:"checks"`
	Series     []Series   `json:"series,omitempty"`
}

// Measured is one check as the page made it.
type Measured struct {
	ID string `json:"id"`
	// Target is the TURN URL of relay checks, the host of call-server checks.
	Target string  `json:"target,omitempty"`
	Result Outcome `json:"result"`
	// Level is how far the proof reached where that differs from run to run; "": as far as the id always does.
	Level Level `json:"level,omitempty"`
	// Error is a word of the page's, why Result is not ok.
	Error string `json:"error,omitempty"`
	// Value is in the unit that measures gives for the id.
	Value *float64 `json:"value,omitempty"`
	// Detail is what the browser said, in its own words.
	Detail string  `json:"detail,omitempty"`
	MS     float64 `json:"ms"`
}

// Series is a value over time, for a chart.
type Series struct {
	ID string `json:"id"` // rtt (ms), bitrate-up, bitrate-down (kbit/s)
	// Every is the time between two values, in seconds.
	Every  float64   `json:"every"`
	Values []float64 `json:"values"`
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

// Bounds of values.
const (
	mostMS    = 600_000
	mostKbits = 10_000_000
)

// measures are the checks that the page makes.
func measures(id string) (measure, bool) {
	switch id {
	case "browser", "secure-context", "speaker":
		return measure{level: LevelDevice}, true
	case "camera":
		return measure{LevelDevice, "fps", 0, 1000}, true
	case "microphone":
		return measure{LevelDevice, "dBFS", -200, 0}, true
	case "echo":
		return measure{LevelDevice, "dB", -200, 200}, true
	case "cpu":
		return measure{LevelDevice, "ms", 0, mostMS}, true
	case "call-server:https", "call-server:websocket", "relay:udp", "relay:tcp", "relay:tls", "ipv6":
		return measure{LevelGateway, "ms", 0, mostMS}, true
	case "call-server:longpoll":
		return measure{LevelGateway, "s", 0, 600}, true
	case "relay:media", "bandwidth-up", "bandwidth-down":
		return measure{LevelGateway, "kbit/s", 0, mostKbits}, true
	case "rtt", "jitter", "latency-under-load":
		return measure{LevelGateway, "ms", 0, mostMS}, true
	case "udp-vs-tcp":
		return measure{LevelGateway, "ms", -mostMS, mostMS}, true
	case "loss":
		return measure{LevelGateway, "%", 0, 100}, true
	}
	return measure{}, false
}

// errorWords are the words a page may give as an error.
var errorWords = []string{
	"denied", "missing", "in-use", "insecure", "unsupported", "dismissed", // devices and browser
	"silent", "clipping", "black", "frozen", "not-heard", "unanswered", "heard", "unmeasured",
	"network", "closed", "timeout", "cut", "refused", "dns", "proxied", "not-opened", "no-probe", // signaling
	"unreached", "unanswered-turn", "credentials", "forbidden", "quota", "no-packets", "bandwidth", "cpu", // relay
	"no-servers", "not-offered", "no-ipv6", "cancelled", "other",
}

// targets are the forms that a check's target may have, by the beginning of its id.
var targets = map[string]*regexp.Regexp{
	"relay:":       regexp.MustCompile(`^turns?:[A-Za-z0-9.:_\[\]-]{1,253}(\?transport=(udp|tcp))?$`),
	"call-server:": regexp.MustCompile(`^[A-Za-z0-9.:_\[\]-]{1,253}$`),
}

// levels are the levels that a page may claim, by the beginning of a check's id.
var levels = map[string][]Level{
	"relay:":       {LevelMedia, LevelPath, LevelGateway},
	"call-server:": {LevelService, LevelPath, LevelGateway},
	"rtt":          {LevelMedia, LevelGateway},
	"jitter":       {LevelMedia, LevelGateway},
	"loss":         {LevelMedia, LevelGateway},
}

var (
	runID       = regexp.MustCompile(`^[A-Za-z0-9_-]{0,64}$`)
	connections = []string{"", "wifi", "ethernet", "cellular", "other"}
	seriesIDs   = []string{"rtt", "bitrate-up", "bitrate-down"}
)

// Bounds of a report.
const (
	maxChecks = 160
	maxSeries = 400 // values of one
)

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
	case !runID.MatchString(m.Run):
		return fmt.Errorf("%w: run is no name of a plan", errMalformed)
	case !slices.Contains(connections, m.Connection):
		return fmt.Errorf("%w: connection is none of %s", errMalformed, strings.Join(connections[1:], ", "))
	case len(m.Checks) == 0 || len(m.Checks) > maxChecks:
		return fmt.Errorf("%w: between 1 and %d checks, not %d", errMalformed, maxChecks, len(m.Checks))
	}
	if _, err := netip.ParseAddr(m.Mapped); m.Mapped != "" && err != nil {
		return fmt.Errorf("%w: mapped is no address", errMalformed)
	}
	return errors.Join(m.validateChecks(), m.validateSeries())
}

func (m *Measurements) validateChecks() error {
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

func (m *Measurements) validateSeries() error {
	seen := map[string]bool{}
	for _, s := range m.Series {
		bad := func(v float64) bool { return !between(v, 0, mostKbits) }
		switch {
		case !slices.Contains(seriesIDs, s.ID) || seen[s.ID]:
			return fmt.Errorf("%w: a series that is unknown or there twice", errMalformed)
		case !between(s.Every, 0.05, 60) || len(s.Values) > maxSeries || slices.ContainsFunc(s.Values, bad):
			return fmt.Errorf("%w: series %s is too long or out of range", errMalformed, s.ID)
		}
		seen[s.ID] = true
	}
	return nil
}

func (c Measured) validate() error {
	known, ok := measures(c.ID)
	form, claims := byPrefix(targets, c.ID), byPrefix(levels, c.ID)
	switch {
	case !ok:
		return errors.New("an unknown id")
	case !slices.Contains([]Outcome{OK, Failed, Unknown, Skipped}, c.Result):
		return errors.New("an unknown result")
	case c.Error != "" && !slices.Contains(errorWords, c.Error):
		return errors.New("an unknown error word")
	case c.Level != "" && !slices.Contains(claims, c.Level):
		return errors.New("a level that this check never has")
	case c.Target != "" && (form == nil || !form.MatchString(c.Target)):
		return errors.New("a target that is none for this check")
	case c.Value != nil && (known.unit == "" || !between(*c.Value, known.min, known.max)):
		return errors.New("a value out of range")
	case !between(c.MS, 0, 3_600_000):
		return errors.New("ms out of range")
	case len(c.Detail) > 300 || !printable(c.Detail):
		return errors.New("a detail that is too long or not printable")
	}
	return nil
}

// byPrefix finds what is said of the ids that begin so; the zero value if nothing is.
func byPrefix[T any](of map[string]T, id string) (found T) {
	for prefix, v := range of {
		if strings.HasPrefix(id, prefix) {
			return v
		}
	}
	return found
}

// between is false for NaN.
func between(v, low, high float64) bool { return !math.IsNaN(v) && v >= low && v <= high }

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		// Control characters, and those that turn the direction of the text around them.
		return r < ' ' || r >= 0x7f && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069
	})
}

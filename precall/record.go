package precall

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"time"

	"hafen/gateway/page"
)

// Record is one run as it is kept: what the page measured, what the gateway saw, and what came of it. It holds no device
// names and no full address. Params of findings are numbers and strings, so that they come back from the store as they went in.
type Record struct {
	ID, Code string
	Time     time.Time
	// Site is that of the configuration's sites whose networks the client is in; "" where none matches.
	Site string
	// Network is the client's, shortened: an IPv4 /24 or an IPv6 /48.
	Network netip.Prefix
	// Lang is the language that the page spoke: the help desk answers in it.
	Lang         string
	Measurements Measurements
	Gateway      Gateway
	Result       Result
}

// firstCause is the likeliest cause's id; "" where nothing is wrong.
func (r Record) firstCause() string {
	if len(r.Result.Causes) == 0 {
		return ""
	}
	return r.Result.Causes[0].ID
}

// place is under what a run is counted: its site, or its network where no site has it.
func (r Record) place() string {
	if r.Site != "" {
		return r.Site
	}
	return r.Network.String()
}

// where says what kind of place a run was made at: site, house or outside.
func (r Record) where() string {
	switch {
	case r.Site != "":
		return "site"
	case r.Gateway.Seen.Outside:
		return "outside"
	}
	return "house"
}

// pack writes a record small: a run is some 15 KB of JSON, which repeats itself.
func (r Record) pack() ([]byte, error) {
	var out bytes.Buffer
	w, err := flate.NewWriter(&out, flate.BestCompression)
	if err != nil {
		return nil, err
	}
	if err := json.NewEncoder(w).Encode(r); err != nil {
		return nil, err
	}
	err = w.Close()
	return out.Bytes(), err
}

// maxRecord bounds what is unpacked: a damaged store must not fill the memory.
const maxRecord = 8 << 20

func unpack(data []byte) (r Record, err error) {
	in := flate.NewReader(bytes.NewReader(data))
	if err := json.NewDecoder(io.LimitReader(in, maxRecord)).Decode(&r); err != nil {
		return r, fmt.Errorf("a precall run can't be read: %w", err)
	}
	return r, nil
}

// report writes a run out in a language.
func (r Record) report(texts *page.Texts, lang string) Report {
	out := Report{
		Version: Version, ID: r.ID, Code: r.Code, Time: r.Time, Verdict: r.Result.Verdict,
		Checks: []Check{}, Causes: []Cause{}, Series: r.Measurements.Series,
	}
	for _, j := range r.Result.Checks {
		out.Checks = append(out.Checks, j.check(texts, lang))
	}
	for _, f := range r.Result.Causes {
		out.Causes = append(out.Causes, f.cause(texts, lang, r))
	}
	return out
}

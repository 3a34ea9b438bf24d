package precall

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"hafen/gateway/page"
)

// Record is one run as it is kept: what the page measured, what the gateway saw, and what came of it. It holds no device
// names and no full address.
type Record struct {
	ID, Code string
	Time     time.Time
	// Network is the client's, shortened: an IPv4 /24 or an IPv6 /48.
	Network netip.Prefix
	// Lang is the language that the page spoke: the help desk answers in it.
	Lang         string
	Measurements Measurements
	Gateway      Gateway
	Result       Result
}

// Store keeps runs. Every method takes the time, so that what is older than the retention is never given out. Implementations
// are safe for concurrent use.
type Store interface {
	// Put keeps a run; it fails with ErrCodeTaken when another run has its code.
	Put(ctx context.Context, r Record) error
	// ByID and ByCode give ErrNoRun for what is not there.
	ByID(ctx context.Context, id string, now time.Time) (Record, error)
	ByCode(ctx context.Context, code string, now time.Time) (Record, error)
	// Recent gives the newest first.
	Recent(ctx context.Context, n int, now time.Time) ([]Record, error)
}

// Memory is a Store that forgets with the process: a ring of the newest runs.
type Memory struct {
	mu      sync.Mutex
	records []Record // oldest first
	max     int
	age     time.Duration
}

// NewMemory keeps at most max runs, none older than age.
func NewMemory(maxRuns int, age time.Duration) *Memory { return &Memory{max: maxRuns, age: age} }

// Put implements Store.
func (m *Memory) Put(_ context.Context, r Record) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(r.Time)
	if slices.ContainsFunc(m.records, func(o Record) bool { return o.Code == r.Code }) {
		return ErrCodeTaken
	}
	if len(m.records) >= m.max {
		m.records = slices.Delete(m.records, 0, len(m.records)-m.max+1)
	}
	m.records = append(m.records, r)
	return nil
}

// forget drops what is too old. slices.Delete clears what it drops.
func (m *Memory) forget(now time.Time) {
	i := slices.IndexFunc(m.records, func(r Record) bool { return now.Sub(r.Time) < m.age })
	if i < 0 {
		i = len(m.records)
	}
	m.records = slices.Delete(m.records, 0, i)
}

// ByID implements Store.
func (m *Memory) ByID(_ context.Context, id string, now time.Time) (Record, error) {
	return m.find(now, func(r Record) bool { return r.ID == id })
}

// ByCode implements Store.
func (m *Memory) ByCode(_ context.Context, code string, now time.Time) (Record, error) {
	return m.find(now, func(r Record) bool { return r.Code == code })
}

func (m *Memory) find(now time.Time, is func(Record) bool) (Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	if i := slices.IndexFunc(m.records, is); i >= 0 {
		return m.records[i], nil
	}
	return Record{}, ErrNoRun
}

// Recent implements Store.
func (m *Memory) Recent(_ context.Context, n int, now time.Time) ([]Record, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.forget(now)
	out := slices.Clone(m.records[max(0, len(m.records)-n):])
	slices.Reverse(out)
	return out, nil
}

// shorten keeps as much of an address as tells which network it was.
func shorten(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := 24
	if a.Is6() {
		bits = 48
	}
	p, _ := a.Prefix(bits) // the zero Prefix for no address
	return p
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

package gateway

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"time"

	"hafen/configs"
	"hafen/gateway/status"
)

// addressBook keeps which addresses the names of call servers and relays have had, and when. Firewalls that go by address break in
// silence when a name moves: the book tells whoever asks what came and went within the last week. It is a file in data_dir, so that
// it outlives restarts.
type addressBook struct {
	file    string
	now     func() time.Time
	changes atomic.Pointer[[]status.AddressChange]
}

// addressSpan is when an address was seen first and last.
type addressSpan struct {
	First time.Time `json:"first"`
	Last  time.Time `json:"last"`
}

// addressPages are the spans by name and address.
type addressPages map[string]map[string]addressSpan

const (
	addressPeriod = 10 * time.Minute
	// addressLearning is how long what a name answers is taken for what it always answers: names that change their answer in turn
	// have shown all of them by then. An address that was not answered for as long is gone.
	addressLearning = 24 * time.Hour
	addressWeek     = 7 * 24 * time.Hour
	// addressMemory is for how long an address is remembered that the name has no more.
	addressMemory = 3 * addressWeek
	// maxAddresses bounds those of a name; the longest unseen go.
	maxAddresses = 64
	// maxAddressBook bounds what is read: hundreds of names with all their addresses are a tenth of it.
	maxAddressBook = 16 << 20
)

func newAddressBook(dataDir string, now func() time.Time) *addressBook {
	return &addressBook{file: filepath.Join(dataDir, "addresses.json"), now: now}
}

// note writes down what names have now, and sums up what has changed. A name that has no address now is left as it was.
func (b *addressBook) note(found map[string][]string) error {
	pages, err := b.read()
	if err != nil {
		return err
	}
	now := b.now()
	for name, addrs := range found {
		pages.see(name, addrs, now)
	}
	pages.forget(now)
	var changes []status.AddressChange
	for _, name := range slices.Sorted(maps.Keys(found)) {
		if c, has := pages.change(name, found[name], now); has {
			changes = append(changes, c)
		}
	}
	b.changes.Store(&changes)
	return b.write(pages)
}

// list is what has changed within a week.
func (b *addressBook) list() []status.AddressChange {
	if changes := b.changes.Load(); changes != nil {
		return *changes
	}
	return nil
}

// read reads the book. One that is none, as after a crash, is begun anew.
func (b *addressBook) read() (addressPages, error) {
	pages := make(addressPages)
	info, err := os.Stat(b.file)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() > maxAddressBook {
		return pages, nil
	}
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(b.file)
	if err != nil {
		return nil, err
	}
	if json.Unmarshal(data, &pages) != nil || pages == nil {
		return make(addressPages), nil
	}
	return pages, nil
}

// write replaces the book as a whole or not at all.
func (b *addressBook) write(pages addressPages) error {
	data, err := json.Marshal(pages)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(b.file), "addresses-*")
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(f.Name()) }() // gone when all went well
	_, err = f.Write(data)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), b.file)
}

func (p addressPages) see(name string, addrs []string, now time.Time) {
	if p[name] == nil {
		p[name] = make(map[string]addressSpan)
	}
	for _, a := range addrs {
		span, known := p[name][a]
		if !known {
			span.First = now
		}
		span.Last = now
		p[name][a] = span
	}
	for len(p[name]) > maxAddresses {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(p[name])), func(a, b string) int {
			return cmp.Or(p[name][a].Last.Compare(p[name][b].Last), cmp.Compare(a, b))
		})
		delete(p[name], oldest)
	}
}

func (p addressPages) forget(now time.Time) {
	for name, spans := range p {
		maps.DeleteFunc(spans, func(_ string, s addressSpan) bool { return now.Sub(s.Last) > addressMemory })
		if len(spans) == 0 {
			delete(p, name)
		}
	}
}

// change tells what came and went within the week, given what the name has now. Nothing is a change in the first day of a name.
func (p addressPages) change(name string, answers []string, now time.Time) (c status.AddressChange, has bool) {
	c.Name = name
	var known time.Time
	for _, s := range p[name] {
		if known.IsZero() || s.First.Before(known) {
			known = s.First
		}
	}
	for addr, s := range p[name] {
		gone := now.Sub(s.Last)
		switch {
		case s.First.Sub(known) >= addressLearning && now.Sub(s.First) < addressWeek && gone < addressLearning:
			c.Came, c.Since = append(c.Came, addr), later(c.Since, s.First)
		case gone >= addressLearning && gone < addressWeek && len(answers) > 0:
			c.Went, c.Since = append(c.Went, addr), later(c.Since, s.Last)
		}
	}
	slices.Sort(c.Came)
	slices.Sort(c.Went)
	return c, len(c.Came)+len(c.Went) > 0
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// keepAddresses looks every few minutes until ctx ends.
func (g *Gateway) keepAddresses(ctx context.Context) {
	tick := time.NewTicker(addressPeriod)
	defer tick.Stop()
	for {
		if err := g.addresses.note(g.namesNow(ctx)); err != nil && ctx.Err() == nil {
			g.log.Warn("what addresses names have had can't be kept", "area", "status", "err", err)
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}

// namesNow are the addresses of all call servers and relays, of each that has any: why one has none is told elsewhere.
func (g *Gateway) namesNow(ctx context.Context) map[string][]string {
	found := make(map[string][]string)
	resolve := func(s *configs.Service, host string, port uint16) {
		if found[host] != nil {
			return
		}
		ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		addrs, err := g.dialer().Resolve(ctx, host, port, scopeOf(s))
		if err != nil {
			return
		}
		for _, a := range addrs {
			if a.Addr().String() != host {
				found[host] = append(found[host], a.Addr().String())
			}
		}
	}
	c := g.config()
	for i := range c.Services {
		s := &c.Services[i]
		for _, host := range s.CallServers() {
			resolve(s, host, 443)
		}
		for _, u := range s.Relays() {
			resolve(s, u.Host, u.Port)
		}
	}
	return found
}

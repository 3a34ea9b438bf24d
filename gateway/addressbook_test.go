package gateway

import (
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"hafen/configs"
)

// TestAddressBook: what comes and goes after a name's first day is told for a week, over restarts; answers in turn are no change, nor is a
// name that does not resolve for a while; a damaged book is begun anew.
func TestAddressBook(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)
	clock := func() time.Time { return now }
	book := newAddressBook(dir, clock)
	see := func(addrs ...string) string {
		t.Helper()
		if err := book.note(map[string][]string{"call.example.net": addrs}); err != nil {
			t.Fatal(err)
		}
		var told []string
		for _, c := range book.list() {
			told = append(told, c.Words())
		}
		return strings.Join(told, " | ")
	}
	step := func(d time.Duration, want string, addrs ...string) {
		t.Helper()
		now = now.Add(d)
		if got := see(addrs...); got != want {
			t.Errorf("%s: %q, want %q", now.Format(time.DateTime), got, want)
		}
	}
	step(0, "", "192.0.2.1")
	step(time.Hour, "", "192.0.2.2") // in turn, on the first day
	step(20*time.Hour, "", "192.0.2.1")
	step(time.Hour, "", "192.0.2.2")
	book = newAddressBook(dir, clock) // a restart
	const came = "call.example.net: new 198.51.100.9 (since 2026-11-03)"
	step(3*time.Hour, came, "192.0.2.1", "192.0.2.2", "198.51.100.9")
	step(time.Hour, came) // it does not resolve
	step(2*24*time.Hour, "call.example.net: new 198.51.100.9; gone 192.0.2.1, 192.0.2.2 (since 2026-11-03)", "198.51.100.9")
	step(8*24*time.Hour, "", "198.51.100.9")
	if err := os.WriteFile(book.file, []byte("{\"call.exa"), 0o600); err != nil {
		t.Fatal(err)
	}
	step(time.Hour, "", "203.0.113.7")
	pages, err := book.read()
	if err != nil || len(pages["call.example.net"]) != 1 {
		t.Errorf("%v %v", pages, err)
	}
}

// TestAddressBookIsBounded: a name that answers another address each time does not fill the disk.
func TestAddressBookIsBounded(t *testing.T) {
	now := time.Date(2026, 11, 2, 8, 0, 0, 0, time.UTC)
	pages := make(addressPages)
	for i := range 3 * maxAddresses {
		pages.see("cdn.example.net", []string{strings.Repeat("1", i+1)}, now.Add(time.Duration(i)*time.Minute))
	}
	if n := len(pages["cdn.example.net"]); n != maxAddresses {
		t.Errorf("%d addresses", n)
	}
	pages.forget(now.Add(4 * addressMemory))
	if len(pages) != 0 {
		t.Error("what is long gone is remembered")
	}
}

// TestNamesNow: the running gateway resolves the names of its services.
func TestNamesNow(t *testing.T) {
	w := newWorld(t, func(c *configs.Config) {
		c.Hosts = []configs.Host{{Host: callHost, IP: netip.MustParseAddr("127.0.0.9")}}
	})
	if got := w.gateway.namesNow(t.Context())[callHost]; !slices.Equal(got, []string{"127.0.0.9"}) {
		t.Errorf("%v", got)
	}
}

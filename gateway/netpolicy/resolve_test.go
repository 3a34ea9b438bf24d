package netpolicy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

type stater interface{ Status() string }

func statusOf(t *testing.T, err error) string {
	t.Helper()
	var s stater
	if !errors.As(err, &s) {
		t.Fatalf("%v (%T) has no status word", err, err)
	}
	return s.Status()
}

// lookupTable is a Lookup that knows some names.
func lookupTable(table map[string][]netip.Addr) func(context.Context, string) ([]netip.Addr, error) {
	return func(_ context.Context, name string) ([]netip.Addr, error) { return table[name], nil }
}

// TestAbuse_B06: an allowed name that resolves to what must not be reached.
func TestAbuse_B06(t *testing.T) {
	d := &Dialer{Policy: testPolicy(), Lookup: lookupTable(map[string][]netip.Addr{
		"loopback.example": addrs("127.0.0.1", "::1"),
		"private.example":  addrs("10.1.2.3"),
		"metadata.example": addrs("10.1.2.3", "169.254.169.254"),
		"mapped.example":   addrs("::ffff:10.1.2.3"),
		"nat64.example":    addrs("64:ff9b::10.1.2.3"),
		"own.example":      addrs("10.20.30.40"),
		"public.example":   addrs("185.1.2.3"),
		"mixed.example":    addrs("127.0.0.1", "1.2.3.4", "::ffff:10.0.0.1", "2606:4700::1", "fe80::1", "::ffff:5.6.7.8"),
		"empty.example":    nil,
	})}
	for name, class := range map[string]Class{
		"loopback.example": Loop, "private.example": Private, "metadata.example": Metadata, "mapped.example": Private,
		"nat64.example": Private, "own.example": Loop, "public.example": Loop,
		"10.1.2.3": Private, "[::1]": Loop, "::ffff:169.254.169.254": Metadata,
	} {
		got, err := d.Resolve(t.Context(), name, 443, Scope{})
		var r *Refusal
		if !errors.As(err, &r) || r.Class != class || statusOf(t, err) != StatusPolicy {
			t.Errorf("%s: %v, %v, want class %s", name, got, err, class)
		}
	}
	got, err := d.Resolve(t.Context(), "Mixed.Example.", 443, Scope{})
	if want := "[1.2.3.4:443 [2606:4700::1]:443 5.6.7.8:443]"; err != nil || fmt.Sprint(got) != want {
		t.Errorf("mixed: %v, %v, want %s", got, err, want)
	}
	if _, err := d.Resolve(t.Context(), "empty.example", 443, Scope{}); statusOf(t, err) != StatusDial {
		t.Errorf("empty: %v", err)
	}
	if _, err := (&Dialer{}).Resolve(t.Context(), "1.2.3.4", 443, Scope{}); statusOf(t, err) != StatusPolicy {
		t.Errorf("without a policy: %v", err)
	}
}

func TestNamesThatAreNone(t *testing.T) {
	d := &Dialer{Policy: testPolicy(), Lookup: func(_ context.Context, name string) ([]netip.Addr, error) {
		t.Errorf("%q was looked up", name)
		return nil, nil
	}}
	for _, name := range []string{
		"", ".", "a..b", "127.1", "0x7f.1", "0x7f000001", "2130706433", "0177.0.0.1", "1.2.3.4.5", "call.example.0x1f", "call.example.1", "a b", "a\x00b",
		"call.example%2eevil", "fe80::1%lo%", "cäll.example", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 127) + "example", "a/b", "a@b", "call:443", "\u212Aall.example", "a.0X7F",
	} {
		if got, err := d.Resolve(t.Context(), name, 443, everywhere); err == nil || statusOf(t, err) != StatusPolicy {
			t.Errorf("%q: %v, %v", name, got, err)
		}
	}
}

func TestFixedAddressesComeBeforeDNS(t *testing.T) {
	d := &Dialer{
		Policy: testPolicy(), Hosts: map[string][]netip.Addr{"call.example": addrs("::ffff:9.9.9.9", "10.0.0.1")},
		Lookup: lookupTable(map[string][]netip.Addr{"call.example": addrs("8.8.8.8")}),
	}
	got, err := d.Resolve(t.Context(), "CALL.example.", 443, Scope{})
	if err != nil || fmt.Sprint(got) != "[9.9.9.9:443]" {
		t.Errorf("%v, %v", got, err)
	}
}

// TestAbuse_B08: DNS answers of all unpleasant kinds.
func TestAbuse_B08(t *testing.T) {
	thousand := make([]netip.Addr, 1000)
	for i := range thousand {
		thousand[i] = netip.AddrFrom4([4]byte{9, 9, byte(i >> 8), byte(i)})
	}
	chain := make([]string, 10)
	for i := range chain {
		chain[i] = fmt.Sprintf("c%d.elsewhere.test", i)
	}
	stub := newDNSStub(t, func(name string) answer {
		switch name {
		case "good.test":
			return answer{addrs: addrs("9.9.9.9", "2620:fe::fe")}
		case "outside.test":
			return answer{aliases: []string{"evil.elsewhere.test"}, addrs: addrs("10.1.1.1")}
		case "chain.test":
			return answer{aliases: chain, addrs: addrs("9.9.9.9")}
		case "thousand.test":
			return answer{addrs: thousand}
		case "broken.test":
			return answer{rcode: dnsmessage.RCodeServerFailure}
		case "silent.test":
			return answer{silent: true}
		}
		return answer{rcode: dnsmessage.RCodeNameError}
	})
	for _, c := range []struct {
		name, status string
		n            int
	}{
		{"good.test", "", 2},
		{"chain.test", "", 1},
		{"thousand.test", "", maxAddresses},
		{"outside.test", StatusPolicy, 0},
		{"broken.test", StatusDial, 0},
		{"missing.test", StatusDial, 0},
		{"silent.test", StatusTimeout, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &Dialer{Policy: testPolicy(), Servers: []string{stub.addr}}
			if c.status == StatusTimeout {
				d.ResolveTimeout = 300 * time.Millisecond
			}
			start := time.Now()
			got, err := d.Resolve(t.Context(), c.name, 443, Scope{})
			if took := time.Since(start); took > 8*time.Second { // 5 at most, and what a busy machine adds
				t.Errorf("took %v", took)
			}
			if c.status == "" && (err != nil || len(got) != c.n) {
				t.Errorf("%v, %v", got, err)
			}
			if c.status != "" && (err == nil || statusOf(t, err) != c.status) {
				t.Errorf("%v, want %s", err, c.status)
			}
		})
	}
}

func TestFailuresAreRememberedBriefly(t *testing.T) {
	now, asked, up := time.Unix(1_000_000, 0), 0, false
	d := &Dialer{Policy: testPolicy(), Now: func() time.Time { return now }}
	d.Lookup = func(context.Context, string) ([]netip.Addr, error) {
		asked++
		if up {
			return addrs("9.9.9.9"), nil
		}
		return nil, errors.New("no answer")
	}
	for range 10 {
		if _, err := d.Resolve(t.Context(), "call.test", 443, Scope{}); err == nil {
			t.Fatal("resolved")
		}
	}
	if asked != 1 {
		t.Errorf("asked %d times within 5 seconds", asked)
	}
	now, up = now.Add(failureAge), true
	if _, err := d.Resolve(t.Context(), "call.test", 443, Scope{}); err != nil {
		t.Errorf("5 seconds later: %v", err)
	}
	up = false
	for i := range 5 * maxFailures {
		_, _ = d.Resolve(t.Context(), fmt.Sprintf("n%d.test", i), 443, Scope{})
	}
	if n := len(d.failures.names); n > maxFailures {
		t.Errorf("%d failures are remembered", n)
	}
	gone, cancel := context.WithCancel(t.Context())
	cancel()
	_, _ = d.Resolve(gone, "impatient.test", 443, Scope{})
	asked = 0
	_, _ = d.Resolve(t.Context(), "impatient.test", 443, Scope{})
	if asked != 1 {
		t.Error("a caller who gave up made the name fail for others")
	}
}

func TestTheNextServerIsAsked(t *testing.T) {
	good := newDNSStub(t, func(string) answer { return answer{addrs: addrs("9.9.9.9")} })
	broken := newDNSStub(t, func(string) answer { return answer{rcode: dnsmessage.RCodeServerFailure} })
	silent := newDNSStub(t, func(string) answer { return answer{silent: true} })
	none := newDNSStub(t, func(string) answer { return answer{rcode: dnsmessage.RCodeNameError} })
	for _, c := range []struct {
		name    string
		servers []string
		ok      bool
	}{
		{"first broken", []string{broken.addr, good.addr}, true},
		{"first silent", []string{silent.addr, good.addr}, true},
		{"a name that does not exist is an answer", []string{none.addr, good.addr}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := &Dialer{Policy: testPolicy(), Servers: c.servers}
			got, err := d.Resolve(t.Context(), "call.test", 443, Scope{})
			if (err == nil) != c.ok {
				t.Errorf("%v, %v", got, err)
			}
		})
	}
}

func TestNoSearchList(t *testing.T) {
	seen := make(chan string, 100)
	stub := newDNSStub(t, func(name string) answer { seen <- name; return answer{rcode: dnsmessage.RCodeNameError} })
	d := &Dialer{Policy: testPolicy(), Servers: []string{stub.addr}}
	_, _ = d.Resolve(t.Context(), "call.test", 443, Scope{})
	asked := len(seen)
	for range asked {
		if name := <-seen; name != "call.test" {
			t.Errorf("asked for %s", name)
		}
	}
	if asked == 0 {
		t.Error("nothing was asked")
	}
}

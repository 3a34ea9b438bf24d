package netpolicy

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

func scope(prefixes ...string) Scope {
	var s Scope
	for _, p := range prefixes {
		s.Private = append(s.Private, netip.MustParsePrefix(p))
	}
	return s
}

// testPolicy is a machine with two legs in a DMZ, behind NAT, that listens on 443 everywhere and on 8443 of one leg.
func testPolicy() *Policy {
	return &Policy{
		Public:     []netip.Addr{netip.MustParseAddr("185.1.2.3"), netip.MustParseAddr("2a01:db8:77::1")},
		Interfaces: fixedInterfaces("127.0.0.1/8", "::1/128", "10.20.30.40/24", "185.9.9.66/26", "2a01:db8:5::7/64", "192.168.7.8/31", "2002:808:404::9/64"),
		Listening: func() []netip.AddrPort {
			return []netip.AddrPort{netip.MustParseAddrPort("[::]:443"), netip.MustParseAddrPort("10.20.30.40:8443")}
		},
	}
}

func fixedInterfaces(prefixes ...string) func() ([]netip.Prefix, error) {
	out := make([]netip.Prefix, len(prefixes))
	for i, p := range prefixes {
		out[i] = netip.MustParsePrefix(p)
	}
	return func() ([]netip.Prefix, error) { return out, nil }
}

// TestAbuseAddresses holds the address rows of abuse.md, group A: what no peer, target or upstream may be.
func TestAbuseAddresses(t *testing.T) {
	p := testPolicy()
	for _, row := range []struct {
		id, addrs string
		class     Class
	}{
		{"A-01", "127.0.0.1 127.255.255.254 127.0.0.0 ::1", Loopback},
		{"A-02", "::ffff:127.0.0.1 ::127.0.0.1 ::ffff:0:127.0.0.1", Loopback},
		{"A-03", "0.0.0.0 :: ::ffff:0.0.0.0 0.1.2.3 0.255.255.255 ::ffff:0.1.2.3 ::2", Unspecified},
		{"A-04", "10.0.0.0 10.255.255.255 172.16.0.0 172.31.255.255 192.168.0.0 192.168.255.255 ::ffff:10.1.2.3", Private},
		{"A-05", "169.254.169.254 ::ffff:169.254.169.254 fd00:ec2::254 169.254.170.2 100.100.100.200 192.0.0.192 168.63.129.16 " +
			"::169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe::1 169.254.169.253 169.254.170.23 fd20:ce::254 fd00:42::42 fe80::a9fe:a9fe ::ffff:168.63.129.16", Metadata},
		{"A-06 link", "fe80::1 febf:ffff:: 169.254.0.1 169.254.255.255", LinkLocal},
		{"A-06 private", "fec0::1 feff:: fc00::1 fdff::", Private},
		{"A-07 compatible", "::10.1.2.3 ::a01:203", Private},
		{"A-08", "2002:0a00:1::1 2002:c0a8:1:: 2002:ac10:1:2:3:4:5:6", Private},
		{"A-08 loopback", "2002:7f00:1::1 2002:7f00:1::", Loopback},
		{"A-09 NAT64", "64:ff9b::10.1.2.3 64:ff9b:1::10.1.2.3 64:ff9b:1:1234::192.168.1.1", Private},
		{"A-10 Teredo", "2001:0:4136:e378:8000:63bf:f5fe:fdfc", Private},
		{"A-10 ISATAP", "2606:4700::5efe:10.1.2.3 2606:4700::200:5efe:10.1.2.3 fd00::5efe:8.8.8.8", Private},
		{"A-11 multicast", "224.0.0.1 239.255.255.250 ff02::1 ff05::2 ff0e::1 ::ffff:224.0.0.1 64:ff9b::e000:1", Multicast},
		{"A-11 broadcast", "255.255.255.255 10.20.30.255 10.20.30.0 185.9.9.127 185.9.9.64 ::ffff:185.9.9.127 2002:b909:97f::1 64:ff9b::185.9.9.127", Broadcast},
		{"A-11 reserved", "240.0.0.1 255.255.255.254", Special},
		{"A-12", "192.0.0.1 192.0.0.8 192.0.0.9 192.0.0.170 192.0.0.255 192.0.2.1 192.88.99.1 198.18.0.1 198.19.255.255 198.51.100.1 203.0.113.1 " +
			"2001:db8::1 3fff::1 3fff:fff:ffff:: 5f00::1 100::1 100:0:0:1::1 2001:2::1 2001:10::1 2001:20::1 2001:30::1 2001:1::1 2001:1ff:: 2620:4f:8000::1 " +
			"192.31.196.1 192.52.193.1 192.175.48.1 ::ffff:203.0.113.1 2002:c000:201::1 4000::1 8000:: e000::1 1::1 200::1 400::1", Special},
		{"A-12 shared", "100.64.0.0 100.127.255.255 ::ffff:100.64.0.1", Shared},
		{"A-13 own", "185.9.9.66 2a01:db8:5::7 ::ffff:185.9.9.66 10.20.30.40 192.168.7.8 2002:b909:942::5 64:ff9b::185.9.9.66 2002:808:404::9", Own},
		{"A-13 public", "185.1.2.3 2a01:db8:77::1 ::ffff:185.1.2.3 ::185.1.2.3", Own},
	} {
		t.Run(row.id, func(t *testing.T) {
			for _, text := range strings.Fields(row.addrs) {
				ap := netip.AddrPortFrom(netip.MustParseAddr(text), 3479)
				r := p.Judge(ap, Scope{})
				if r == nil {
					t.Errorf("%s passes", ap)
				} else if r.Class != row.class || r.Addr != ap || r.Status() != "err_policy" || r.Reason == "" {
					t.Errorf("%s: %+v, want class %s", ap, *r, row.class)
				}
			}
		})
	}
}

func TestPublicAddressesPass(t *testing.T) {
	p := testPolicy()
	for _, text := range strings.Fields(`1.1.1.1 8.8.8.8 9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0 192.167.255.255 192.169.0.0
		100.63.255.255 100.128.0.0 126.255.255.255 128.0.0.0 169.253.255.255 169.255.0.0 192.0.1.0 192.0.3.0 198.17.255.255 198.20.0.0
		223.255.255.255 185.9.9.65 185.9.9.128 168.63.129.17 2606:4700::1111 2a00:1450::1 2001:200::1 2001:db9::1 2003::1 3ffe::1
		::ffff:8.8.8.8 64:ff9b::8.8.8.8 64:ff9b:1::8.8.8.8 2002:808:808::1 ::8.8.8.8 2606:4700::5efe:8.8.8.8`) {
		a := netip.MustParseAddr(text)
		if r := p.Judge(netip.AddrPortFrom(a, 443), Scope{}); r != nil {
			t.Errorf("%s is refused: %s", text, r.Reason)
		}
		if c := Classify(a); c != Public {
			t.Errorf("%s is %s", text, c)
		}
	}
}

func TestScopeOpensOnlyWhatItNames(t *testing.T) {
	p := testPolicy()
	for _, c := range []struct {
		name, addr string
		s          Scope
		class      Class // "" passes
	}{
		{"private, named", "10.1.2.3:443", scope("10.0.0.0/8"), ""},
		{"private, another named", "10.1.2.3:443", scope("192.168.0.0/16"), Private},
		{"mapped form of a named one", "[::ffff:10.1.2.3]:443", scope("10.0.0.0/8"), ""},
		{"network written in mapped form", "10.1.2.3:443", scope("::ffff:10.0.0.0/104"), ""},
		{"loopback, named", "127.0.0.1:9000", scope("127.0.0.0/8"), ""},
		{"shared, named", "100.64.1.1:443", scope("100.64.0.0/10"), ""},
		{"documentation, named", "203.0.113.9:443", scope("203.0.113.0/24"), ""},
		{"link-local, named", "169.254.1.1:443", scope("169.254.0.0/16"), ""},
		{"own, named", "10.20.30.40:9000", scope("10.20.30.0/24"), ""},
		{"own public, named", "185.1.2.3:9000", scope("185.1.2.3/32"), ""},
		{"metadata never", "169.254.169.254:80", everywhere, Metadata},
		{"metadata in unique local never", "[fd00:ec2::254]:80", scope("fc00::/7"), Metadata},
		{"metadata in shared never", "100.100.100.200:80", scope("100.64.0.0/10"), Metadata},
		{"multicast never", "224.0.0.1:443", everywhere, Multicast},
		{"unspecified never", "0.0.0.0:443", everywhere, Unspecified},
		{"unspecified never, IPv6", "[::]:443", everywhere, Unspecified},
		{"broadcast never", "255.255.255.255:443", everywhere, Broadcast},
		{"our broadcast never", "10.20.30.255:443", everywhere, Broadcast},
		{"loop at loopback", "127.0.0.1:443", everywhere, Loop},
		{"loop at loopback, elsewhere in it", "127.8.9.1:443", everywhere, Loop},
		{"loop at own", "10.20.30.40:443", everywhere, Loop},
		{"loop at own, mapped", "[::ffff:10.20.30.40]:443", everywhere, Loop},
		{"loop at own, NAT64", "[64:ff9b::10.20.30.40]:443", everywhere, Loop},
		{"loop at own IPv6", "[2a01:db8:5::7]:443", everywhere, Loop},
		{"loop at own that means another", "[2002:808:404::9]:443", everywhere, Loop},
		{"loop at public", "185.1.2.3:443", everywhere, Loop},
		{"loop at public, port of one leg", "185.1.2.3:8443", everywhere, Loop},
		{"loop at the leg that listens", "10.20.30.40:8443", everywhere, Loop},
		{"no loop at the other leg", "185.9.9.66:8443", everywhere, ""},
		{"no loop at another machine", "10.20.30.41:443", everywhere, ""},
		{"loop needs no scope to be named", "127.0.0.1:443", Scope{}, Loop},
		{"ISATAP needs prefix and address opened", "[fd00::5efe:10.1.2.3]:443", scope("10.0.0.0/8"), Private},
		{"ISATAP with both opened", "[fd00::5efe:10.1.2.3]:443", scope("10.0.0.0/8", "fc00::/7"), ""},
		{"ISATAP doesn't open loopback", "[fd00::5efe:127.0.0.1]:80", scope("fc00::/7"), Loopback},
		{"port 0", "8.8.8.8:0", everywhere, Invalid},
		{"a zone", "[fe80::1%lo]:443", everywhere, Invalid},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := p.Judge(netip.MustParseAddrPort(c.addr), c.s)
			switch {
			case r == nil && c.class != "":
				t.Errorf("%s passes, want %s", c.addr, c.class)
			case r != nil && r.Class != c.class:
				t.Errorf("%s is %s (%s), want %q", c.addr, r.Class, r.Reason, c.class)
			case r != nil && c.class == Loop && !(strings.Contains(r.Reason, "`hosts:`") && strings.Contains(r.Reason, "`dns.servers`")):
				t.Errorf("the loop is not named with its cure: %s", r.Reason)
			}
		})
	}
	if r := p.Judge(netip.AddrPort{}, everywhere); r == nil || r.Class != Invalid {
		t.Errorf("no address: %v", r)
	}
}

func TestRefusalSaysWhatTheAddressMeans(t *testing.T) {
	r := testPolicy().Judge(netip.MustParseAddrPort("[64:ff9b::10.1.2.3]:443"), Scope{})
	want := "[64:ff9b::a01:203]:443 is refused: it means 10.1.2.3, private (10.0.0.0/8, RFC 1918)"
	if r == nil || r.Error() != want {
		t.Errorf("got %v, want %s", r, want)
	}
}

func TestOwnAddressesAreReadAgain(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	current, reads := []string{"10.0.0.1/24"}, 0
	var broken error
	p := &Policy{Now: func() time.Time { return now }, Interfaces: func() ([]netip.Prefix, error) {
		reads++
		if broken != nil {
			return nil, broken
		}
		return fixedInterfaces(current...)()
	}}
	moved := netip.MustParseAddrPort("185.7.7.7:443")
	if r := p.Judge(moved, Scope{}); r != nil {
		t.Fatalf("refused before the address is ours: %v", r)
	}
	current = append(current, "185.7.7.7/24")
	for range 1000 {
		p.Judge(moved, Scope{})
	}
	if reads != 1 {
		t.Errorf("the interfaces were read %d times within 5 seconds", reads)
	}
	now = now.Add(5 * time.Second)
	if r := p.Judge(moved, Scope{}); r == nil || r.Class != Own {
		t.Errorf("5 seconds after it became ours: %v", r)
	}
	now, broken = now.Add(time.Minute), errors.New("netlink is gone")
	if r := p.Judge(moved, Scope{}); r == nil || r.Class != Own {
		t.Errorf("the last good list was not kept: %v", r)
	}
	current, broken = current[:1], nil
	now = now.Add(-time.Hour) // the clock is set back
	if r := p.Judge(moved, Scope{}); r != nil {
		t.Errorf("no longer ours, the clock was set back: %v", r)
	}
}

func TestNothingPassesWhileTheMachineIsUnknown(t *testing.T) {
	p := &Policy{Interfaces: func() ([]netip.Prefix, error) { return nil, errors.New("no netlink") }}
	if r := p.Judge(netip.MustParseAddrPort("8.8.8.8:443"), everywhere); r == nil || !strings.Contains(r.Reason, "no netlink") {
		t.Errorf("got %v", r)
	}
	if p.Own(netip.MustParseAddr("8.8.8.8")) {
		t.Error("an unknown machine owns nothing")
	}
}

func TestOwn(t *testing.T) {
	p := testPolicy()
	for text, want := range map[string]bool{
		"10.20.30.40": true, "::ffff:10.20.30.40": true, "127.9.9.9": true, "::1": true, "185.1.2.3": true, "2a01:db8:5::7": true,
		"2002:808:404::9": true, "64:ff9b::185.1.2.3": true, "10.20.30.41": false, "8.8.8.8": false, "fe80::1%lo": false,
	} {
		if got := p.Own(netip.MustParseAddr(text)); got != want {
			t.Errorf("Own(%s) = %v", text, got)
		}
	}
}

func TestTheSystemsInterfacesAreRead(t *testing.T) {
	p := &Policy{}
	if r := p.Judge(netip.MustParseAddrPort("127.0.0.1:80"), Scope{}); r == nil || r.Class != Loopback {
		t.Errorf("loopback: %v", r)
	}
	prefixes, err := interfaces()
	if err != nil || len(prefixes) == 0 {
		t.Fatalf("interfaces: %v, %v", prefixes, err)
	}
	for _, own := range prefixes {
		if !p.Own(own.Addr()) {
			t.Errorf("%s is not known as own", own.Addr())
		}
	}
}

func TestTheTableIsOrdered(t *testing.T) {
	for i, b := range special {
		if b.prefix != b.prefix.Masked() {
			t.Errorf("%s has bits outside its mask", b.prefix)
		}
		for _, wider := range special[:i] {
			if wider.prefix.Bits() < b.prefix.Bits() && wider.prefix.Contains(b.prefix.Addr()) {
				t.Errorf("%s is never found: %s stands before it", b.prefix, wider.prefix)
			}
		}
		if b.class.rank() >= len(ranks) || b.class == Public {
			t.Errorf("%s has class %q", b.prefix, b.class)
		}
	}
}

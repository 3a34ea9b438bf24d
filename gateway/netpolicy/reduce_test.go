package netpolicy

import (
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"hafen/gateway/frugal"
)

func TestReduce(t *testing.T) {
	for _, c := range []struct{ name, in, want string }{
		{"plain IPv4", "192.0.2.33", "192.0.2.33"},
		{"plain IPv6", "2606:4700::1111", "2606:4700::1111"},
		{"unspecified is not IPv4-compatible", "::", "::"},
		{"loopback is not IPv4-compatible", "::1", "::1"},
		{"mapped", "::ffff:127.0.0.1", "127.0.0.1"},
		{"compatible", "::127.0.0.1", "127.0.0.1"},
		{"compatible with one high bit", "::7f00:1", "127.0.0.1"},
		{"compatible ::2", "::2", "0.0.0.2"},
		{"translated", "::ffff:0:10.1.2.3", "10.1.2.3"},
		{"6to4", "2002:7f00:1::1", "127.0.0.1"},
		{"NAT64", "64:ff9b::7f00:1", "127.0.0.1"},
		{"local NAT64, /96", "64:ff9b:1::7f00:1", "127.0.0.1"},
		{"local NAT64, another /96", "64:ff9b:1:fffe::10.0.0.1", "10.0.0.1"},
		{"local NAT64, /64", "64:ff9b:1:abcd:7f:0:100:0", "127.0.0.1"},
		{"local NAT64, /48", "64:ff9b:1:0a01:2:300::", "0.0.0.0"}, // read as /96, which is refused as well
		{"Teredo", "2001:0:4136:e378:8000:63bf:80ff:fffe", "127.0.0.1"},
		{"ISATAP, private", "2606:4700::5efe:10.1.2.3", "10.1.2.3"},
		{"ISATAP, universal bit", "2606:4700::200:5efe:10.1.2.3", "10.1.2.3"},
		{"ISATAP on this link", "fe80::5efe:8.8.8.8", "fe80::5efe:808:808"},
		{"ISATAP inside 6to4", "2002:808:808::5efe:7f00:1", "127.0.0.1"},
		{"zone stripped", "fe80::1%lo", "fe80::1"},
		{"zone stripped from mapped", "::ffff:1.2.3.4%eth0", "1.2.3.4"},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := Reduce(netip.MustParseAddr(c.in)); got != netip.MustParseAddr(c.want) {
				t.Errorf("Reduce(%s) = %s, want %s", c.in, got, c.want)
			}
		})
	}
	if got := Reduce(netip.Addr{}); got.IsValid() {
		t.Errorf("Reduce of no address is %s", got)
	}
}

// encodings are all ways to write an IPv4 address as an address: family 1 and the IPv6 forms that mean it. hi and lo
// fill the places that a form leaves free.
func encodings(v4 [4]byte, hi uint16, lo uint16) map[string]netip.Addr {
	a, b, c, d := v4[0], v4[1], v4[2], v4[3]
	h, l := byte(hi>>8), byte(hi)
	x, y := byte(lo>>8), byte(lo)
	return map[string]netip.Addr{
		"IPv4":       netip.AddrFrom4(v4),
		"mapped":     netip.AddrFrom16([16]byte{10: 0xff, 11: 0xff, 12: a, 13: b, 14: c, 15: d}),
		"compatible": netip.AddrFrom16([16]byte{12: a, 13: b, 14: c, 15: d}),
		"translated": netip.AddrFrom16([16]byte{8: 0xff, 9: 0xff, 12: a, 13: b, 14: c, 15: d}),
		"6to4":       netip.AddrFrom16([16]byte{0x20, 0x02, a, b, c, d, h, l, 14: x, 15: y}),
		"NAT64":      netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 12: a, 13: b, 14: c, 15: d}),
		"local":      netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 0, 1, h, l, 12: a, 13: b, 14: c, 15: d}),
		"Teredo":     netip.AddrFrom16([16]byte{0x20, 1, 0, 0, h, l, x, y, x, 0, h, l, ^a, ^b, ^c, ^d}),
		"ISATAP":     netip.AddrFrom16([16]byte{0x26, 0x06, h, l, x, y, 8: 0, 10: 0x5e, 11: 0xfe, 12: a, 13: b, 14: c, 15: d}),
		"ISATAP u":   netip.AddrFrom16([16]byte{0x26, 0x06, h, l, x, y, 8: 2, 10: 0x5e, 11: 0xfe, 12: a, 13: b, 14: c, 15: d}),
	}
}

// otherLayouts are the ways to write an IPv4 address below 64:ff9b:1::/48 for translators with a prefix shorter than
// /96 (RFC 6052 section 2.2). They can be misread, so they only must not pass what the address itself doesn't.
func otherLayouts(v4 [4]byte) map[string]netip.Addr {
	a, b, c, d := v4[0], v4[1], v4[2], v4[3]
	return map[string]netip.Addr{
		"local /48": netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 0, 1, a, b, 0, c, d}),
		"local /56": netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 0, 1, 0, a, 0, b, c, d}),
		"local /64": netip.AddrFrom16([16]byte{0, 0x64, 0xff, 0x9b, 0, 1, 0, 0, 0, a, b, c, d}),
	}
}

func drawIPv4(t *rapid.T) [4]byte {
	interesting := rapid.SampledFrom([]string{
		"127.0.0.1", "10.0.0.0", "172.31.255.255", "172.32.0.0", "192.168.1.1", "169.254.169.254", "100.64.0.1", "8.8.8.8",
		"224.0.0.1", "255.255.255.255", "192.0.2.1", "198.18.0.1", "203.0.113.255", "240.0.0.1", "192.88.99.1", "1.0.0.0", "8.0.0.0",
		"192.0.2.7", "198.51.100.9",
	})
	if rapid.Bool().Draw(t, "interesting") {
		return netip.MustParseAddr(interesting.Draw(t, "address")).As4()
	}
	return [4]byte(rapid.SliceOfN(rapid.Byte(), 4, 4).Draw(t, "bytes"))
}

func TestAllEncodingsOfAnAddressGetOneVerdict(t *testing.T) {
	p := testPolicy()
	scopes := []Scope{{}, scope("10.0.0.0/8", "127.0.0.0/8"), everywhere}
	rapid.Check(t, func(t *rapid.T) {
		v4 := drawIPv4(t)
		hi, lo := rapid.Uint16().Draw(t, "hi"), rapid.Uint16().Draw(t, "lo")
		port := rapid.SampledFrom([]uint16{443, 3478, 8443, 22}).Draw(t, "port")
		plain := netip.AddrFrom4(v4)
		for i, s := range scopes {
			want := p.Judge(netip.AddrPortFrom(plain, port), s)
			for form, a := range encodings(v4, hi, lo) {
				if v4[0] == 0 && form == "compatible" || i > 0 && (form == "ISATAP" || form == "ISATAP u") {
					continue // ::0.0.0.1 is ::1, and an ISATAP prefix must be opened too
				}
				if got := Reduce(a); got != plain {
					t.Fatalf("%s: Reduce(%s) = %s, want %s", form, a, got, plain)
				}
				got := p.Judge(netip.AddrPortFrom(a, port), s)
				if (got == nil) != (want == nil) || got != nil && got.Class != want.Class {
					t.Fatalf("%s: %s judged %v, but %s %v", form, a, got, plain, want)
				}
			}
			for form, a := range otherLayouts(v4) {
				if v4[0] == 0 {
					continue // 0.0.0.1 so written is 1.0.0.0 below a /96; no translator forwards to the former
				}
				if got := p.Judge(netip.AddrPortFrom(a, port), s); got == nil && want != nil {
					t.Fatalf("%s: %s passes, but %s is %v", form, a, plain, want)
				}
			}
		}
	})
}

func FuzzReduce(f *testing.F) {
	for _, s := range []string{"127.0.0.1", "::ffff:10.0.0.1", "64:ff9b:1:7f00:0:100::", "2001:0:4136:e378:8000:63bf:80ff:fffe", "fe80::5efe:8.8.8.8", "::"} {
		a := netip.MustParseAddr(s)
		f.Add(a.AsSlice(), uint16(443), "eth0")
	}
	p := testPolicy()
	f.Fuzz(func(t *testing.T, raw []byte, port uint16, zone string) {
		defer frugal.Input(t)()
		a, _ := netip.AddrFromSlice(raw)
		once := Reduce(a)
		if twice := Reduce(once); twice != once {
			t.Errorf("Reduce(%s) = %s, and again %s", a, once, twice)
		}
		if once.Zone() != "" || once.Is4In6() {
			t.Errorf("Reduce(%s) = %s is not reduced", a, once)
		}
		if Classify(a) != Classify(once) {
			t.Errorf("%s is %s, but reduced %s", a, Classify(a), Classify(once))
		}
		verdict := p.Judge(netip.AddrPortFrom(a, port), Scope{})
		if c := Classify(a); verdict == nil && c != Public {
			t.Errorf("%s passes, although it is %s", a, c)
		}
		if verdict == nil && p.Judge(netip.AddrPortFrom(once, port), Scope{}) != nil {
			t.Errorf("%s passes, although what it means, %s, does not", a, once)
		}
		if open := p.Judge(netip.AddrPortFrom(a, port), everywhere); verdict == nil && open != nil {
			t.Errorf("%s passes, but not with everything open: %v", a, open)
		}
		if a.Is6() && zone != "" && p.Judge(netip.AddrPortFrom(a.WithZone(zone), port), everywhere) == nil {
			if a.WithZone(zone).Zone() != "" {
				t.Errorf("%s passes with a zone", a.WithZone(zone))
			}
		}
	})
}

package e2e

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers for the laboratory's names, and lies as it is told to: the first label of any other name spells the answer.
//
//	x-7f000001.…                 that address, 4 or 16 bytes in hex
//	m-7f000001.…                 that address, and one that may be reached
//	r-7f000001.…                 one that may be reached the first time, that address from then on (rebinding)
//	none.… / servfail.… / silent.…
type nameServer struct {
	mu    sync.Mutex
	fixed map[string]string
	asked map[string]int
}

// spell is a name under suffix for which the server answers with a.
func spell(kind string, a netip.Addr, suffix string) string {
	return kind + "-" + hex.EncodeToString(a.AsSlice()) + "." + suffix
}

func startNameServer(t testing.TB, ns *namespace) *nameServer {
	t.Helper()
	s := &nameServer{asked: make(map[string]int), fixed: map[string]string{
		callName: cloudAddr, fraName: fraAddr, "good." + passSuffix: cloudAddr, "good." + sigSuffix: cloudAddr,
		"self." + passSuffix: gatewayAddr, "self." + sigSuffix: gatewayAddr,
	}}
	pc, err := ns.listenPacket("127.0.0.1:53")
	must(t, err)
	t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			if answer := s.answer(buf[:n]); answer != nil {
				_, _ = pc.WriteToUDPAddrPort(answer, from)
			}
		}
	}()
	return s
}

func (s *nameServer) answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	q := m.Questions[0]
	name := strings.ToLower(strings.TrimSuffix(q.Name.String(), "."))
	addrs, code := s.lookup(name, q.Type)
	if code < 0 {
		return nil
	}
	out := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: m.ID, Response: true, RecursionAvailable: true, RCode: dnsmessage.RCode(code)},
		Questions: m.Questions,
	}
	for _, a := range addrs {
		h := dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 0}
		switch {
		case a.Is4() && q.Type == dnsmessage.TypeA:
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: a.As4()}})
		case a.Is6() && q.Type == dnsmessage.TypeAAAA:
			out.Answers = append(out.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: a.As16()}})
		}
	}
	b, err := out.Pack()
	if err != nil {
		return nil
	}
	return b
}

// lookup finds what to answer; a negative code is silence.
func (s *nameServer) lookup(name string, typ dnsmessage.Type) ([]netip.Addr, int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a, ok := s.fixed[name]; ok {
		return []netip.Addr{netip.MustParseAddr(a)}, 0
	}
	label, _, _ := strings.Cut(name, ".")
	switch label {
	case "silent":
		return nil, -1
	case "servfail":
		return nil, int(dnsmessage.RCodeServerFailure)
	}
	kind, digits, _ := strings.Cut(label, "-")
	raw, err := hex.DecodeString(digits)
	a, ok := netip.AddrFromSlice(raw)
	if err != nil || !ok {
		return nil, int(dnsmessage.RCodeNameError)
	}
	good := netip.MustParseAddr(cloudAddr)
	switch kind {
	case "m":
		return []netip.Addr{a, good}, 0
	case "r":
		if typ == dnsmessage.TypeA {
			s.asked[name]++
		}
		if s.asked[name]%2 == 1 {
			return []netip.Addr{good}, 0
		}
	}
	return []netip.Addr{a}, 0
}

// set gives a name an address.
func (s *nameServer) set(name, addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fixed[name] = addr
}

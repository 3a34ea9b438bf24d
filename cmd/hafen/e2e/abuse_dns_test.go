package e2e

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// nameServer answers for the laboratory's names, and lies as it is told to: the first label of any other name spells the answer.
//
//	x-7f000001.…                 that address, 4 or 16 bytes in hex
//	m-7f000001.…                 that address, and one that may be reached
//	r-7f000001.…                 one that may be reached the first time, that address from then on (rebinding)
//	c-08080808.…                 an alias of a name elsewhere, which has that address
//	d-0a140002.…                 the same behind ten aliases
//	w-0a140002.…                 that address 1,000 times: an answer that no packet holds
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
			answer := s.answer(buf[:n])
			if len(answer) > 1232 { // what fits into no packet is asked for again over TCP
				answer = truncated(answer)
			}
			if answer != nil {
				_, _ = pc.WriteToUDPAddrPort(answer, from)
			}
		}
	}()
	ln, err := ns.listen("tcp", "127.0.0.1:53")
	must(t, err)
	t.Cleanup(func() { _ = ln.Close() })
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go s.serveTCP(conn)
		}
	}()
	return s
}

// serveTCP answers questions that have their length in front (RFC 1035 section 4.2.2).
func (s *nameServer) serveTCP(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	for {
		var size [2]byte
		if _, err := io.ReadFull(conn, size[:]); err != nil {
			return
		}
		query := make([]byte, binary.BigEndian.Uint16(size[:]))
		if _, err := io.ReadFull(conn, query); err != nil {
			return
		}
		answer := s.answer(query)
		if answer == nil {
			continue
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(answer))), answer...)); err != nil {
			return
		}
	}
}

// truncated is an answer without its records and with the flag that says so.
func truncated(answer []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(answer) != nil {
		return nil
	}
	m.Truncated, m.Answers = true, nil
	b, _ := m.Pack() // it was packed before
	return b
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
	owner := q.Name
	for i := range aliases(name) {
		next := dnsmessage.MustNewName(fmt.Sprintf("alias%d.elsewhere.example.", i))
		h := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET}
		out.Answers, owner = append(out.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.CNAMEResource{CNAME: next}}), next
	}
	for _, a := range addrs {
		h := dnsmessage.ResourceHeader{Name: owner, Class: dnsmessage.ClassINET, TTL: 0}
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

// aliases is behind how many other names the address of a name is.
func aliases(name string) int {
	switch {
	case strings.HasPrefix(name, "c-"):
		return 1
	case strings.HasPrefix(name, "d-"):
		return 10
	}
	return 0
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
	case "w":
		return slices.Repeat([]netip.Addr{a}, 1000), 0
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

// set gives a name an address, whatever it was before.
func (s *nameServer) set(name, addr string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fixed[name] = addr
}

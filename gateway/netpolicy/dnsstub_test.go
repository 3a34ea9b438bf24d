package netpolicy

import (
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
)

// answer is what the stub says to one question. The zero value says that the name exists and has no such address.
type answer struct {
	rcode   dnsmessage.RCode
	addrs   []netip.Addr
	aliases []string // a chain of CNAMEs from the name asked to the one that has addrs
	silent  bool
}

// dnsStub is a DNS server on loopback, UDP and TCP, whose answers the test decides.
type dnsStub struct {
	addr    string
	queries atomic.Int64
}

func newDNSStub(t *testing.T, decide func(name string) answer) *dnsStub {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	pc, err := net.ListenPacket("udp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s := &dnsStub{addr: ln.Addr().String()}
	t.Cleanup(func() { _ = ln.Close(); _ = pc.Close() })
	go func() {
		buf := make([]byte, 4096)
		for {
			n, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			s.queries.Add(1)
			if reply := s.reply(buf[:n], decide, 1232); reply != nil {
				_, _ = pc.WriteTo(reply, from)
			}
		}
	}()
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go s.stream(c, decide)
		}
	}()
	return s
}

// stream answers one question over TCP (RFC 1035 section 4.2.2).
func (s *dnsStub) stream(c net.Conn, decide func(string) answer) {
	defer c.Close()
	var size [2]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(c, query); err != nil {
		return
	}
	if reply := s.reply(query, decide, 65535); reply != nil {
		_, _ = c.Write(binary.BigEndian.AppendUint16(nil, uint16(len(reply))))
		_, _ = c.Write(reply)
		_, _ = c.Write(make([]byte, 70_000)) // more than was announced: has to be ignored
	}
}

func (s *dnsStub) reply(query []byte, decide func(string) answer, limit int) []byte {
	var p dnsmessage.Parser
	h, err := p.Start(query)
	if err != nil {
		return nil
	}
	q, err := p.Question()
	if err != nil {
		return nil
	}
	a := decide(strings.TrimSuffix(q.Name.String(), "."))
	if a.silent {
		return nil
	}
	m := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: h.ID, Response: true, RecursionAvailable: true, RCode: a.rcode},
		Questions: []dnsmessage.Question{q},
		Answers:   records(q, a),
	}
	out, err := m.Pack()
	if err != nil || len(out) > limit {
		m.Truncated, m.Answers = true, nil
		out, _ = m.Pack()
	}
	return out
}

func records(q dnsmessage.Question, a answer) []dnsmessage.Resource {
	var out []dnsmessage.Resource
	name := q.Name
	for _, alias := range a.aliases {
		next := dnsmessage.MustNewName(alias + ".")
		out = append(out, dnsmessage.Resource{
			Header: dnsmessage.ResourceHeader{Name: name, Class: q.Class, Type: dnsmessage.TypeCNAME},
			Body:   &dnsmessage.CNAMEResource{CNAME: next},
		})
		name = next
	}
	for _, addr := range a.addrs {
		h := dnsmessage.ResourceHeader{Name: name, Class: q.Class, Type: q.Type}
		switch {
		case addr.Is4() && q.Type == dnsmessage.TypeA:
			out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.AResource{A: addr.As4()}})
		case addr.Is6() && q.Type == dnsmessage.TypeAAAA:
			out = append(out, dnsmessage.Resource{Header: h, Body: &dnsmessage.AAAAResource{AAAA: addr.As16()}})
		}
	}
	return out
}

func addrs(texts ...string) []netip.Addr {
	out := make([]netip.Addr, len(texts))
	for i, text := range texts {
		out[i] = netip.MustParseAddr(text)
	}
	return out
}

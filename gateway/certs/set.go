package certs

import (
	"crypto/tls"
	"crypto/x509"
	"slices"
	"strings"
	"time"
)

// set is certificates that were loaded together. It never changes.
type set struct {
	certificates []*tls.Certificate
	byName       map[string][]*tls.Certificate
	renewAt      time.Time // self-signed
	warnings     []string
}

func newSet(certificates []*tls.Certificate, warnings []string) *set {
	s := &set{certificates: certificates, byName: make(map[string][]*tls.Certificate), warnings: warnings}
	for _, c := range certificates {
		for _, name := range namesOf(c.Leaf) {
			s.byName[name] = append(s.byName[name], c)
		}
	}
	return s
}

// namesOf are the names and addresses in a certificate, in lower case; the subject for one without any.
func namesOf(leaf *x509.Certificate) []string {
	names := make([]string, 0, len(leaf.DNSNames)+len(leaf.IPAddresses))
	for _, n := range leaf.DNSNames {
		names = append(names, strings.ToLower(n))
	}
	for _, ip := range leaf.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		names = append(names, leaf.Subject.String())
	}
	return names
}

// find looks for the name itself, then for the wildcard of its domain (RFC 9525 section 6.3).
func (s *set) find(name string) []*tls.Certificate {
	if c := s.byName[name]; len(c) > 0 {
		return c
	}
	if _, domain, ok := strings.Cut(name, "."); ok {
		return s.byName["*."+domain]
	}
	return nil
}

func (s *set) names() []string {
	var all []string
	for n := range s.byName {
		all = append(all, n)
	}
	slices.Sort(all)
	return all
}

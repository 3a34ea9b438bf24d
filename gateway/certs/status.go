package certs

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Info is what there is to say of one certificate.
type Info struct {
	Name    string // by which hafen_tls_certificate_expiry_seconds calls it
	Names   []string
	Issuer  string
	Serial  string
	Begins  time.Time
	Expires time.Time // zero: there is none yet
	Problem string    // why there is none, or no newer one; "" when all is well
}

// Status describes the certificates in use, and what is wrong with them.
func (s *Store) Status() []Info {
	if s.acme != nil {
		return s.acme.status()
	}
	s.mu.Lock()
	problem := s.problem
	s.mu.Unlock()
	var all []Info
	for _, c := range s.current.Load().certificates {
		info := describe(c.Leaf)
		if problem != nil {
			info.Problem = problem.Error()
		}
		all = append(all, info)
	}
	return all
}

// Warnings are what was repaired or left out when the certificates were loaded, a sentence each.
func (s *Store) Warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.warnings)
}

func describe(leaf *x509.Certificate) Info {
	names := namesOf(leaf)
	return Info{
		Name: names[0], Names: names, Issuer: leaf.Issuer.String(), Serial: leaf.SerialNumber.Text(16), Begins: leaf.NotBefore, Expires: leaf.NotAfter,
	}
}

// Collector has the metrics of whichever store is in use: another configuration may have another store.
func Collector(inUse func() *Store) prometheus.Collector { return expiryCollector{inUse} }

// expiryCollector is hafen_tls_certificate_expiry_seconds{name}: computed when asked, so that it moves.
type expiryCollector struct{ inUse func() *Store }

func (e expiryCollector) desc() *prometheus.Desc {
	return prometheus.NewDesc("hafen_tls_certificate_expiry_seconds",
		"Seconds until the certificate for this name expires; negative when it has.", []string{"name"}, nil)
}

// Describe is prometheus.Collector's.
func (e expiryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- e.desc() }

// Collect is prometheus.Collector's.
func (e expiryCollector) Collect(ch chan<- prometheus.Metric) {
	soonest := map[string]time.Time{} // two certificates may have the same first name
	s := e.inUse()
	for _, c := range s.Status() {
		if old, ok := soonest[c.Name]; !c.Expires.IsZero() && (!ok || c.Expires.Before(old)) {
			soonest[c.Name] = c.Expires
		}
	}
	now := s.opts.Now()
	for name, at := range soonest {
		ch <- prometheus.MustNewConstMetric(e.desc(), prometheus.GaugeValue, at.Sub(now).Seconds(), name)
	}
}

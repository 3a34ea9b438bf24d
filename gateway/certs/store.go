// Package certs has a certificate for this name, now.
//
// A Store takes it from one of three sources, equals all: files that the company's own authority issued, a small
// authority of the gateway's own (self-signed), or an ACME authority, public or private. It answers two questions:
//
//	store.HasName(sni)          is there a certificate for that name? If not, the mux refuses or passes the name through
//	store.Certificate(hello)    for tls.Config.GetCertificate
//
// A client that sends no name, or an address, gets the certificate of the gateway's own name. A name that is not
// configured gets an error, and never an order at an authority.
//
// New reads and checks everything there is to be read, says in one plain sentence what is wrong, and touches no network.
// Start begins what runs in the background: watching files, remaking what expires, ordering by ACME. A reload that
// fails leaves the old certificates in use.
package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
)

// Options are what a Store is made from.
type Options struct {
	// Config must be valid. The names of the certificate are its own names and those of routes that belong to no service.
	Config *configs.Config
	// Names are further names that the certificate is to cover.
	Names []string
	// Addresses are the machine's own. Nil means those of its interfaces; they matter to self-signed alone.
	Addresses []netip.Addr
	// HTTP01 says that HTTPChallenge is served on port 80, so that the authority may look there too.
	HTTP01 bool

	Registry prometheus.Registerer // nil: no metrics
	Log      *slog.Logger          // nil: nothing is logged
	Now      func() time.Time      // nil: time.Now

	watch time.Duration // how often files are looked at; zero means every 10 s
}

// ErrNoName is the error of Certificate for a name that is not the gateway's.
var ErrNoName error = noNameError{}

type noNameError struct{}

func (noNameError) Error() string  { return "no certificate for that name" }
func (noNameError) Status() string { return "err_policy" }

// Store holds the certificates in use.
type Store struct {
	opts    Options
	name    string   // the gateway's own
	names   []string // all it should cover, own name first
	current atomic.Pointer[set]
	acme    *acmeSource // nil unless that is the source
	root    atomic.Pointer[[]byte]

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup

	closing sync.Once
	closed  error

	mu       sync.Mutex // one load at a time
	stamp    string     // of the files that were loaded last
	problem  error
	warnings []string
}

// New makes a Store. What is wrong with the files it names in one sentence.
func New(o Options) (*Store, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.watch == 0 {
		o.watch = 10 * time.Second
	}
	s := &Store{opts: o, name: configs.CanonicalHost(o.Config.Name), names: certificateNames(o)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if o.Registry != nil {
		if err := o.Registry.Register(expiryCollector{s}); err != nil {
			return nil, errors.Join(fmt.Errorf("register metrics: %w", err), s.Close())
		}
	}
	return s, nil
}

func (s *Store) prepare() (err error) {
	if s.opts.Config.TLS.Source == "acme" {
		s.acme, err = newACME(s)
		return err
	}
	return s.Reload()
}

// certificateNames are all names the certificate should cover, the gateway's own first.
func certificateNames(o Options) []string {
	names := o.Config.OwnNames()
	add := func(name string) {
		name = configs.CanonicalHost(name)
		if name != "" && !strings.Contains(name, "*") && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	for _, r := range o.Config.Signaling.Routes {
		if o.Config.ServiceOfHost(r.Host) == nil {
			add(r.Host)
		}
	}
	for _, n := range o.Names {
		add(n)
	}
	return names
}

// Start begins the work in the background, which ends with Close. ctx is for the start alone.
func (s *Store) Start(context.Context) error {
	if s.acme != nil {
		if err := s.acme.start(s.ctx); err != nil {
			return err
		}
	}
	s.wg.Add(1)
	go func() {
		defer s.wg.Done()
		s.background()
	}()
	return nil
}

func (s *Store) background() {
	if s.acme != nil {
		s.acme.maintain(s.ctx)
		return
	}
	ticker := time.NewTicker(s.opts.watch)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			s.reloadIfDue()
		case <-s.ctx.Done():
			return
		}
	}
}

// reloadIfDue loads again when a file has changed or the gateway's own certificate has lived two thirds of its life.
func (s *Store) reloadIfDue() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opts.Config.TLS.Source == "files" && filesStamp(s.opts.Config.TLS.Files) == s.stamp {
		return
	}
	if s.opts.Config.TLS.Source == "self-signed" && s.opts.Now().Before(s.current.Load().renewAt) {
		return
	}
	if err := s.load(); err != nil {
		s.opts.Log.Warn("certificates could not be loaded, the old ones stay in use", "err", err)
		return
	}
	s.opts.Log.Info("certificates loaded", "names", s.current.Load().names())
}

// Reload reads the files again, or makes a certificate anew. On an error the old ones stay in use.
func (s *Store) Reload() error {
	if s.acme != nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.load()
}

func (s *Store) load() error {
	var (
		next *set
		err  error
	)
	switch s.opts.Config.TLS.Source {
	case "files":
		s.stamp = filesStamp(s.opts.Config.TLS.Files)
		next, err = loadFiles(s.opts.Config.TLS.Files, s.names, s.opts.Now())
	case "self-signed", "":
		next, err = s.loadSelfSigned()
	default:
		err = fmt.Errorf("tls.source: %q is not self-signed, files or acme", s.opts.Config.TLS.Source)
	}
	s.problem = err
	if err != nil {
		return err
	}
	s.warnings = next.warnings
	for _, w := range next.warnings {
		s.opts.Log.Warn(w)
	}
	s.current.Store(next)
	return nil
}

// HasName tells whether there is, or with ACME will be, a certificate for what a client asked for: a name, or nothing, or an
// address, which mean the gateway's own name.
func (s *Store) HasName(sni string) bool {
	name := s.asked(sni)
	if s.acme != nil {
		return slices.Contains(s.names, name)
	}
	return len(s.current.Load().find(name)) > 0
}

// asked is the name that a client means.
func (s *Store) asked(sni string) string {
	name := configs.CanonicalHost(sni)
	if _, err := netip.ParseAddr(strings.Trim(name, "[]")); err == nil || name == "" {
		return s.name
	}
	return name
}

// Certificate is for tls.Config.GetCertificate.
func (s *Store) Certificate(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	name := s.asked(hello.ServerName)
	if s.acme != nil {
		return s.acme.certificate(hello, name)
	}
	found := s.current.Load().find(name)
	for _, c := range found { // an ECDSA and an RSA one for the same name: the first that the client can use
		if hello.SupportsCertificate(c) == nil {
			return c, nil
		}
	}
	if len(found) > 0 {
		return found[0], nil
	}
	return nil, ErrNoName
}

// Root is the self-signed authority's own certificate in PEM, for those who are to trust it; nil with other sources.
func (s *Store) Root() []byte {
	if p := s.root.Load(); p != nil {
		return *p
	}
	return nil
}

// HTTPChallenge answers an ACME authority that looks at port 80; nil when the source is not ACME.
func (s *Store) HTTPChallenge() http.Handler {
	if s.acme == nil {
		return nil
	}
	return http.HandlerFunc(s.acme.serveHTTP01)
}

// Info is what there is to say of one certificate.
type Info struct {
	Name    string // by which hafen_tls_certificate_expiry_seconds calls it
	Names   []string
	Issuer  string
	Serial  string
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
		Name: names[0], Names: names, Issuer: leaf.Issuer.String(), Serial: leaf.SerialNumber.Text(16), Expires: leaf.NotAfter,
	}
}

// Close ends the background work. It may be called more than once.
func (s *Store) Close() error {
	s.closing.Do(func() {
		s.cancel()
		if s.acme != nil {
			s.closed = s.acme.close()
		}
		s.wg.Wait()
	})
	return s.closed
}

// expiryCollector is hafen_tls_certificate_expiry_seconds{name}: computed when asked, so that it moves.
type expiryCollector struct{ s *Store }

func (e expiryCollector) desc() *prometheus.Desc {
	return prometheus.NewDesc("hafen_tls_certificate_expiry_seconds",
		"Seconds until the certificate for this name expires; negative when it has.", []string{"name"}, nil)
}

// Describe is prometheus.Collector's.
func (e expiryCollector) Describe(ch chan<- *prometheus.Desc) { ch <- e.desc() }

// Collect is prometheus.Collector's.
func (e expiryCollector) Collect(ch chan<- prometheus.Metric) {
	soonest := map[string]time.Time{} // two certificates may have the same first name
	for _, c := range e.s.Status() {
		if old, ok := soonest[c.Name]; !c.Expires.IsZero() && (!ok || c.Expires.Before(old)) {
			soonest[c.Name] = c.Expires
		}
	}
	now := e.s.opts.Now()
	for name, at := range soonest {
		ch <- prometheus.MustNewConstMetric(e.desc(), prometheus.GaugeValue, at.Sub(now).Seconds(), name)
	}
}

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

var errNotIssuedYet = errors.New("the authority has not issued a certificate yet")

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
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"net"
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
	// DialAuthority connects to the authority of source acme, DialNameServer to the name server of its DNS-01: they resolve the name, judge
	// the addresses and dial one. nil: as net does.
	DialAuthority, DialNameServer func(ctx context.Context, network, addr string) (net.Conn, error)
	// Database is the PostgreSQL with Schema in it that keeps the certificates of source acme for several gateways. nil: files in data_dir.
	Database *sql.DB

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
	for _, dial := range []*func(context.Context, string, string) (net.Conn, error){&o.DialAuthority, &o.DialNameServer} {
		if *dial == nil {
			*dial = (&net.Dialer{}).DialContext
		}
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.watch == 0 {
		o.watch = 3 * time.Second
	}
	s := &Store{opts: o, name: configs.CanonicalHost(o.Config.Name), names: certificateNames(o)}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	if err := s.prepare(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	if o.Registry != nil {
		if err := o.Registry.Register(Collector(func() *Store { return s })); err != nil {
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

var errNotIssuedYet = errors.New("the authority has not issued a certificate yet")

package certs

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"golang.org/x/time/rate"

	"hafen/configs"
)

// acmeProtocol is the ALPN of TLS-ALPN-01 (RFC 8737): the authority connects to port 443, says it alone, and looks at
// the certificate of the handshake.
const acmeProtocol = "acme-tls/1"

// acmeSource has certmagic order and renew one certificate for each name.
//
// certmagic's state is its own here, Cache and Config both; its package-wide defaults are never used. Challenges are
// answered through Certificate on the gateway's own port 443, and through HTTPChallenge on port 80.
type acmeSource struct {
	store  *Store
	cache  *certmagic.Cache
	config *certmagic.Config
	outlet *outlet
	shared *shared       // nil: the certificates are this gateway's alone
	looks  *rate.Limiter // bounds how often strangers make us look for a challenge in the database
	wake   chan struct{} // a certificate has come: its life may set another pace

	mu       sync.Mutex
	problems map[string]string // by name: why the last order failed
}

// newACME reads what the source needs from files; the network is left for start.
func newACME(s *Store) (*acmeSource, error) {
	o := s.opts.Config.TLS.ACME
	records, err := newDNS01(o.DNS, s.opts.DialNameServer)
	if err != nil {
		return nil, err
	}
	roots, err := acmeRoots(o.CAFile)
	if err != nil {
		return nil, err
	}
	eab, err := externalAccount(o)
	if err != nil {
		return nil, err
	}
	a := &acmeSource{store: s, wake: make(chan struct{}, 1), problems: make(map[string]string), looks: rate.NewLimiter(5, 20)}
	if a.outlet, err = newOutlet(s.opts.DialAuthority); err != nil {
		return nil, fmt.Errorf("tls.source acme: %w", err)
	}
	a.configure(eab, roots, records)
	return a, nil
}

// configure makes certmagic's Cache and Config.
func (a *acmeSource) configure(eab *acme.EAB, roots *x509.CertPool, records *dns01) {
	s, o, log := a.store, a.store.opts.Config.TLS.ACME, quietZap(a.store.opts.Log)
	a.cache = certmagic.NewCache(certmagic.CacheOptions{
		GetConfigForCert: func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
		Logger:           log,
	})
	a.config = certmagic.New(a.cache, certmagic.Config{
		DefaultServerName: s.name,
		Storage:           a.storage(),
		// The responder is one more host that a DMZ would have to reach, and authorities give it up.
		OCSP:    certmagic.OCSPConfig{DisableStapling: true},
		OnEvent: a.onEvent,
		Logger:  log,
	})
	host, port, _ := net.SplitHostPort(a.outlet.Addr().String())
	issuer := certmagic.ACMEIssuer{
		CA: o.Directory, Email: o.Email, Agreed: true, // whoever sets tls.source to acme has agreed
		ExternalAccount: eab, TrustedRoots: roots,
		DisableHTTPChallenge: !s.opts.HTTP01, DisableDistributedSolvers: a.shared == nil,
		ListenHost: host, AltTLSALPNPort: atoi(port), AltHTTPPort: atoi(port),
		HTTPProxy: a.outlet.proxy, // and never from the environment
		Logger:    log,
	}
	if records != nil { // then no other way is tried
		issuer.DNS01Solver = records
	}
	a.config.Issuers = []certmagic.Issuer{certmagic.NewACMEIssuer(a.config, issuer)}
}

// storage is where certmagic keeps accounts, keys and certificates.
func (a *acmeSource) storage() certmagic.Storage {
	dir := filepath.Join(a.store.opts.Config.DataDir, "acme")
	if a.store.opts.Database == nil {
		return &certmagic.FileStorage{Path: dir}
	}
	a.shared = newShared(a.store.opts.Database, dir)
	return a.shared
}

func atoi(port string) (n int) {
	_, _ = fmt.Sscan(port, &n)
	return n
}

// acmeRoots are the system's roots and those of a private authority; nil: the system's alone.
func acmeRoots(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	data, err := readFile(file)
	if err != nil {
		return nil, fmt.Errorf("tls.acme.ca_file: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(data) {
		return nil, fmt.Errorf("tls.acme.ca_file: %s holds no certificate (-----BEGIN CERTIFICATE-----)", file)
	}
	return pool, nil
}

// externalAccount binds our account to one that the authority's owner gave us (RFC 8555 section 7.3.4).
func externalAccount(o configs.ACME) (*acme.EAB, error) {
	if o.EABKeyID == "" && o.EABKeyFile == "" {
		return nil, nil
	}
	if o.EABKeyID == "" || o.EABKeyFile == "" {
		return nil, errors.New("tls.acme.eab_key_id: and eab_key_file belong together: write both, or neither")
	}
	if err := checkSecret(o.EABKeyFile); err != nil {
		return nil, fmt.Errorf("tls.acme.eab_key_file: %w", err)
	}
	key, err := os.ReadFile(o.EABKeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls.acme.eab_key_file: %w", err)
	}
	return &acme.EAB{KeyID: o.EABKeyID, MACKey: strings.TrimSpace(string(key))}, nil
}

// start loads what there is and orders what is missing, in the background: an authority that is down must not keep the
// gateway from starting.
func (a *acmeSource) start(ctx context.Context) error {
	err := a.config.ManageAsync(ctx, a.store.names)
	if err == nil || a.shared == nil {
		return err
	}
	a.store.opts.Log.Warn("certificates could not be looked up in the shared database; it is asked again", "err", err)
	a.store.wg.Add(1)
	go func() {
		defer a.store.wg.Done()
		a.startLater(ctx)
	}()
	return nil
}

// startLater asks a database that is away until it answers.
func (a *acmeSource) startLater(ctx context.Context) {
	ticker := time.NewTicker(sharedTimeout)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			if a.config.ManageAsync(ctx, a.store.names) == nil {
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

// maintain renews in time. certmagic looks every ten minutes by itself, which is too seldom for certificates that live hours
// or less; the pace here is set by the one that lives shortest.
func (a *acmeSource) maintain(ctx context.Context) {
	timer := time.NewTimer(a.pace())
	defer timer.Stop()
	for {
		select {
		case <-timer.C:
			if err := a.cache.RenewManagedCertificates(ctx); err != nil && ctx.Err() == nil {
				a.store.opts.Log.Warn("certificates could not be checked for renewal", "err", err)
			}
		case <-a.wake:
		case <-ctx.Done():
			return
		}
		pace := a.pace()
		a.cache.SetOptions(certmagic.CacheOptions{
			GetConfigForCert:   func(certmagic.Certificate) (*certmagic.Config, error) { return a.config, nil },
			RenewCheckInterval: pace, // certmagic takes five of these before the end for an emergency
		})
		timer.Reset(pace)
	}
}

func (a *acmeSource) pace() time.Duration {
	pace := certmagic.DefaultRenewCheckInterval
	for _, name := range a.store.names {
		if leaf := a.leaf(name); leaf != nil {
			pace = min(pace, leaf.NotAfter.Sub(leaf.NotBefore)/30)
		}
	}
	return max(pace, time.Second)
}

// leaf is the newest certificate for a name.
func (a *acmeSource) leaf(name string) (newest *x509.Certificate) {
	for _, c := range a.cache.AllMatchingCertificates(name) {
		if c.Leaf != nil && (newest == nil || c.Leaf.NotAfter.After(newest.NotAfter)) {
			newest = c.Leaf
		}
	}
	return newest
}

// certificate answers for a configured name and no other; whoever asks for another causes no order and no look at the disk.
func (a *acmeSource) certificate(hello *tls.ClientHelloInfo, name string) (*tls.Certificate, error) {
	if !slices.Contains(a.store.names, name) {
		return nil, ErrNoName
	}
	if slices.Equal(hello.SupportedProtos, []string{acmeProtocol}) {
		if !a.mayBeOpen(name) {
			return nil, errNoChallenge
		}
	}
	asked := *hello
	asked.ServerName = name
	c, err := a.config.GetCertificate(&asked)
	if err != nil {
		a.mu.Lock()
		defer a.mu.Unlock()
		if why := a.problems[name]; why != "" {
			return nil, fmt.Errorf("%s: %w: %s", name, errNotIssuedYet, why)
		}
		return nil, fmt.Errorf("%s: %w", name, errNotIssuedYet)
	}
	return c, nil
}

// mayBeOpen tells whether a challenge for one of our names is worth a look: one that this gateway has opened, or, where several share
// their certificates, perhaps another one. Strangers ask too, so looks at the database are few.
func (a *acmeSource) mayBeOpen(name string) bool {
	if _, open := certmagic.GetACMEChallenge(name); open {
		return true
	}
	return a.shared != nil && slices.Contains(a.store.names, name) && a.looks.Allow()
}

var errNoChallenge = errors.New("no ACME challenge is open for that name")

// serveHTTP01 answers a challenge that is open, and nothing else.
func (a *acmeSource) serveHTTP01(w http.ResponseWriter, r *http.Request) {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	issuer, ok := a.config.Issuers[0].(*certmagic.ACMEIssuer)
	if !ok || !a.mayBeOpen(configs.CanonicalHost(host)) || !issuer.HandleHTTPChallenge(w, r) {
		http.NotFound(w, r)
	}
}

// onEvent keeps what the administrator needs to know, and says it.
func (a *acmeSource) onEvent(_ context.Context, event string, data map[string]any) error {
	name, _ := data["identifier"].(string)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch event {
	case "cached_managed_cert":
		select {
		case a.wake <- struct{}{}:
		default:
		}
	case "cert_obtained":
		delete(a.problems, name)
		a.store.opts.Log.Info("certificate issued", "name", name, "renewal", data["renewal"])
	case "cert_failed":
		err, _ := data["error"].(error)
		a.problems[name] = fmt.Sprint(err)
		a.store.opts.Log.Warn("no certificate from the authority; the old one, if any, stays in use, and it is asked again later",
			"name", name, "renewal", data["renewal"], "err", err)
	}
	return nil
}

func (a *acmeSource) status() []Info {
	var all []Info
	for _, name := range a.store.names {
		info := Info{Names: []string{name}}
		if leaf := a.leaf(name); leaf != nil {
			info = describe(leaf)
		}
		a.mu.Lock()
		info.Name, info.Problem = name, a.problems[name]
		a.mu.Unlock()
		if info.Expires.IsZero() && info.Problem == "" {
			info.Problem = errNotIssuedYet.Error()
		}
		all = append(all, info)
	}
	return all
}

func (a *acmeSource) close() error {
	a.cache.Stop()
	if a.shared != nil {
		a.shared.close()
	}
	return a.outlet.Close()
}

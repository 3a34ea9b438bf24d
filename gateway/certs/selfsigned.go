package certs

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

const (
	rootLife  = 10 * 365 * 24 * time.Hour
	rootSpare = 180 * 24 * time.Hour // a root with less to live is replaced while the old one still works
	leafLife  = 90 * 24 * time.Hour
	clockSkew = time.Hour // clients' clocks may be slow

	maxCommonName = 64 // RFC 5280 appendix A.1, ub-common-name
)

// authority is the gateway's own: a root that is made once, and that can sign for the gateway's names and addresses
// only. Those who install it as trusted give nothing else into its hands, should its key be stolen.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// loadSelfSigned takes the authority from data_dir, or makes it, and has it issue a certificate. That one lives in memory
// alone.
func (s *Store) loadSelfSigned() (*set, error) {
	names, addresses := s.subjects()
	now := s.opts.Now()
	path := filepath.Join(s.opts.Config.DataDir, "self-signed", "root.pem")
	root, warnings, err := ownAuthority(path, names, addresses, now)
	if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return nil, fmt.Errorf("tls.source self-signed: %w; the root's key is kept there: mount data_dir writable, or give it to the user that hafen runs as", err)
	}
	if err != nil {
		return nil, fmt.Errorf("tls.source self-signed: %w", err)
	}
	allowed := slices.DeleteFunc(slices.Clone(addresses), func(a netip.Addr) bool { return !root.permitsAddress(a) })
	for _, a := range addresses {
		if !slices.Contains(allowed, a) {
			warnings = append(warnings, fmt.Sprintf("the self-signed root was made when this machine did not have the address %s and can't sign for it: "+
				"if clients use that address rather than a name, delete %s, restart, and hand out the new root (hafen ca)", a, path))
		}
	}
	leaf, err := root.issue(names, allowed, now)
	if err != nil {
		return nil, fmt.Errorf("tls.source self-signed: %w", err)
	}
	public := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.cert.Raw})
	s.root.Store(&public)
	next := newSet([]*tls.Certificate{leaf}, warnings)
	next.renewAt = leaf.Leaf.NotAfter.Add(-leafLife / 3)
	return next, nil
}

// subjects are the names and addresses that the certificate is for.
func (s *Store) subjects() (names []string, addresses []netip.Addr) {
	add := func(a netip.Addr) {
		if a = a.Unmap(); !a.IsLinkLocalUnicast() && !slices.Contains(addresses, a) {
			addresses = append(addresses, a)
		}
	}
	for _, n := range s.names {
		if a, err := netip.ParseAddr(n); err == nil {
			add(a)
		} else {
			names = append(names, n)
		}
	}
	for _, a := range s.opts.Config.Addresses.Public {
		add(a)
	}
	own := s.opts.Addresses
	if own == nil {
		own = interfaceAddresses()
	}
	for _, a := range append(own, netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback()) {
		add(a)
	}
	return names, addresses
}

func interfaceAddresses() []netip.Addr {
	prefixes, err := net.InterfaceAddrs()
	if err != nil {
		return nil // a certificate for the names is worth more than none
	}
	var all []netip.Addr
	for _, p := range prefixes {
		if n, ok := p.(*net.IPNet); ok {
			if a, ok := netip.AddrFromSlice(n.IP); ok {
				all = append(all, a)
			}
		}
	}
	return all
}

// ownAuthority reads the root, or makes one: when there is none, and when the old one is not good for all names any more.
func ownAuthority(path string, names []string, addresses []netip.Addr, now time.Time) (root *authority, warnings []string, err error) {
	root, err = readAuthority(path)
	if err == nil {
		why := root.unfit(names, now)
		if why == "" {
			return root, nil, nil
		}
		aside := fmt.Sprintf("%s.%x", path, root.cert.SerialNumber.Bytes()[:4])
		if err := os.Rename(path, aside); err != nil {
			return nil, nil, fmt.Errorf("put the old root aside: %w", err)
		}
		warnings = append(warnings, fmt.Sprintf("a new self-signed root was made, because the old one %s: hand it out again (hafen ca); the old one is kept as %s", why, aside))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if root, err = newAuthority(names, addresses, now); err != nil {
		return nil, nil, err
	}
	root, err = root.save(path)
	return root, warnings, err
}

// unfit says why the root can't be used any more; "" when it can.
func (a *authority) unfit(names []string, now time.Time) string {
	if now.After(a.cert.NotAfter.Add(-rootSpare)) {
		return "expires on " + a.cert.NotAfter.Format("2006-01-02")
	}
	for _, n := range names {
		if !a.permitsName(n) {
			return "is constrained to names without " + n
		}
	}
	return ""
}

// permitsName obeys the name constraint as RFC 5280 section 4.2.1.10 has it: the name itself and all below it.
func (a *authority) permitsName(name string) bool {
	return slices.ContainsFunc(a.cert.PermittedDNSDomains, func(domain string) bool {
		return name == domain || strings.HasSuffix(name, "."+domain)
	})
}

func (a *authority) permitsAddress(addr netip.Addr) bool {
	return slices.ContainsFunc(a.cert.PermittedIPRanges, func(n *net.IPNet) bool { return n.Contains(addr.AsSlice()) })
}

func newAuthority(names []string, addresses []netip.Addr, now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	common := "Hafen"
	if len(names) > 0 {
		common += " " + names[0]
	}
	common = common[:min(len(common), maxCommonName)]
	template := &x509.Certificate{
		SerialNumber: newSerial(), Subject: pkix.Name{Organization: []string{"Hafen"}, CommonName: common},
		NotBefore: now.Add(-clockSkew), NotAfter: now.Add(rootLife),
		IsCA: true, BasicConstraintsValid: true, MaxPathLenZero: true, // it signs servers, never another authority
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		PermittedDNSDomainsCritical: true, PermittedDNSDomains: names,
	}
	for _, a := range addresses {
		template.PermittedIPRanges = append(template.PermittedIPRanges, &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())})
	}
	if len(names) == 0 { // RFC 5280: a kind of name that no constraint mentions is not constrained
		template.ExcludedDNSDomains = []string{""}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// newSerial is 127 random bits (RFC 5280 section 4.1.2.2 allows 159).
func newSerial() *big.Int {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails
	b[0] = b[0]&0x7f | 0x40
	return new(big.Int).SetBytes(b)
}

// issue makes a certificate for names and addresses.
func (a *authority) issue(names []string, addresses []netip.Addr, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: newSerial(),
		NotBefore:    now.Add(-clockSkew), NotAfter: now.Add(leafLife - clockSkew),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames: names,
	}
	if len(names) > 0 && len(names[0]) <= maxCommonName { // for people; browsers look at the names above
		template.Subject.CommonName = names[0]
	}
	for _, addr := range addresses {
		template.IPAddresses = append(template.IPAddresses, addr.AsSlice())
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, key.Public(), a.key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// save writes certificate and key into one file, at once and readable by the owner only. Where another process was quicker its
// authority is the one.
func (a *authority) save(path string) (*authority, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	var text bytes.Buffer
	_ = pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
	_ = pem.Encode(&text, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	tmp, err := os.CreateTemp(filepath.Dir(path), "root-*.tmp") // 0600
	if err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text.Bytes())
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	switch err := os.Link(tmp.Name(), path); {
	case errors.Is(err, fs.ErrExist):
		return readAuthority(path)
	case err != nil:
		return nil, fmt.Errorf("data_dir: %w", err)
	}
	return a, nil
}

func readAuthority(path string) (*authority, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	if err := checkSecret(path); err != nil {
		return nil, err
	}
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	ec, ok := key.(*ecdsa.PrivateKey)
	if !ok || !ec.PublicKey.Equal(certs[0].PublicKey) {
		return nil, fmt.Errorf("%s: key and certificate do not belong together: delete it, and a new root is made", path)
	}
	return &authority{certs[0], ec}, nil
}

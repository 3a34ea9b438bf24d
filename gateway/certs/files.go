package certs

import (
	"bytes"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"software.sslmate.com/src/go-pkcs12"

	"hafen/configs"
)

// filesStamp changes when one of the files is replaced or written to.
func filesStamp(files []configs.TLSFile) string {
	var b strings.Builder
	for _, f := range files {
		for _, path := range []string{f.Cert, f.Key, f.PasswordFile} {
			if info, err := os.Stat(path); err == nil {
				fmt.Fprintf(&b, "%d.%d.%d ", info.ModTime().UnixNano(), info.Size(), info.Mode())
			}
		}
		b.WriteString(";")
	}
	return b.String()
}

// loadFiles loads all files, or none. The first of names, the gateway's own, must be covered; the others are worth a
// warning.
func loadFiles(files []configs.TLSFile, names []string, now time.Time) (*set, error) {
	var (
		all      []*tls.Certificate
		warnings []string
	)
	for i, f := range files {
		key := fmt.Sprintf("tls.files[%d]", i)
		c, warning, err := loadFile(f, now)
		if err != nil {
			return nil, fmt.Errorf("%s%w", key, err)
		}
		if warning != "" {
			warnings = append(warnings, key+warning)
		}
		all = append(all, c)
	}
	s := newSet(all, warnings)
	for i, name := range names {
		if len(s.find(name)) > 0 {
			continue
		}
		sentence := fmt.Sprintf("tls.files: no certificate covers %s, they are for %s", name, strings.Join(s.names(), ", "))
		if i == 0 {
			return nil, errors.New(sentence + "; browsers would refuse it: get one for that name, or correct name")
		}
		s.warnings = append(s.warnings, sentence+"; clients that ask for that name are refused")
	}
	return s, nil
}

// loadFile loads one certificate. Errors and the warning begin with the key beneath tls.files[i].
func loadFile(f configs.TLSFile, now time.Time) (c *tls.Certificate, warning string, err error) {
	var (
		key   crypto.Signer
		certs []*x509.Certificate
	)
	data, err := readFile(f.Cert)
	if err != nil {
		return nil, "", fmt.Errorf(".cert: %w", err)
	}
	if isPKCS12(f.Cert, data) {
		key, certs, err = readPKCS12(f, data)
	} else {
		key, certs, err = readPEM(f, data)
	}
	if err != nil {
		return nil, "", err
	}
	chain, odd, err := arrange(certs, key, now)
	if err != nil {
		return nil, "", fmt.Errorf(".cert: %s: %w", f.Cert, err)
	}
	if odd != "" {
		warning = fmt.Sprintf(".cert: %s: %s", f.Cert, odd)
	}
	c = &tls.Certificate{PrivateKey: key, Leaf: chain[0]}
	for _, cert := range chain {
		c.Certificate = append(c.Certificate, cert.Raw)
	}
	return c, warning, nil
}

// readFile reads a file, and says in plain words why it can't.
func readFile(path string) ([]byte, error) {
	data, err := os.ReadFile(path)
	switch {
	case err == nil && len(bytes.TrimSpace(data)) == 0:
		return nil, fmt.Errorf("%s is empty", path)
	case err == nil:
		return data, nil
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s does not exist", path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s can't be read by the user that hafen runs as: chown or chmod it", path)
	}
	return nil, fmt.Errorf("%s can't be read: %w", path, err)
}

// checkSecret refuses a file with a private key that everybody on the machine can read.
func checkSecret(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("%s can't be read: %w", path, err)
	}
	if mode := info.Mode().Perm(); mode&0o007 != 0 {
		return fmt.Errorf("%s holds a private key and is open to everybody on this machine (mode %04o): chmod 0600 it", path, mode)
	}
	return nil
}

func isPKCS12(path string, data []byte) bool {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".p12", ".pfx":
		return true
	}
	const sequence = 0x30 // DER; PEM is text
	return data[0] == sequence
}

func readPKCS12(f configs.TLSFile, data []byte) (crypto.Signer, []*x509.Certificate, error) {
	if err := checkSecret(f.Cert); err != nil {
		return nil, nil, fmt.Errorf(".cert: %w", err)
	}
	password := ""
	if f.PasswordFile != "" {
		text, err := os.ReadFile(f.PasswordFile)
		if err != nil {
			return nil, nil, fmt.Errorf(".password_file: %s can't be read: %w", f.PasswordFile, err)
		}
		password = strings.TrimRight(string(text), "\r\n")
	}
	key, leaf, more, err := pkcs12.DecodeChain(data, password)
	switch {
	case errors.Is(err, pkcs12.ErrIncorrectPassword), errors.Is(err, pkcs12.ErrDecryption):
		return nil, nil, fmt.Errorf(".password_file: its password does not open %s", f.Cert)
	case err != nil:
		return nil, nil, fmt.Errorf(".cert: %s is no usable PKCS#12 file: %w", f.Cert, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf(".cert: %s holds a key that can't sign", f.Cert)
	}
	return signer, append([]*x509.Certificate{leaf}, more...), nil
}

// readPEM reads certificate and key from their files, or both from one when no key file is named.
func readPEM(f configs.TLSFile, data []byte) (crypto.Signer, []*x509.Certificate, error) {
	certs, err := parseCertificates(data)
	if err != nil {
		return nil, nil, fmt.Errorf(".cert: %s: %w", f.Cert, err)
	}
	field, path := ".key", f.Key
	if path == "" {
		field, path = ".cert", f.Cert
	} else if data, err = readFile(path); err != nil {
		return nil, nil, fmt.Errorf(".key: %w", err)
	}
	if err := checkSecret(path); err != nil {
		return nil, nil, fmt.Errorf("%s: %w", field, err)
	}
	key, err := parseKey(data)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %s: %w", field, path, err)
	}
	return key, certs, nil
}

func parseCertificates(data []byte) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			continue
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("certificate %d can't be read: %w", len(certs)+1, err)
		}
		certs = append(certs, c)
	}
	if len(certs) == 0 {
		return nil, errors.New("there is no certificate in it (-----BEGIN CERTIFICATE-----)")
	}
	return certs, nil
}

func parseKey(data []byte) (crypto.Signer, error) {
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		if block.Type == "ENCRYPTED PRIVATE KEY" || block.Headers["DEK-Info"] != "" {
			return nil, errors.New("the key is encrypted: decrypt it with `openssl pkey -in KEY -out NEW` and chmod 0600 it, or use a PKCS#12 file")
		}
		return parseKeyDER(block.Bytes)
	}
	return nil, errors.New("there is no private key in it (-----BEGIN PRIVATE KEY-----)")
}

func parseKeyDER(der []byte) (crypto.Signer, error) {
	if key, err := x509.ParsePKCS1PrivateKey(der); err == nil {
		return key, nil
	}
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, errors.New("the private key is damaged, or of a kind that TLS does not use")
	}
	if signer, ok := key.(crypto.Signer); ok {
		return signer, nil
	}
	return nil, errors.New("the private key is of a kind that can't sign")
}

// arrange finds the certificate of the key, and puts each one's issuer behind it. Roots and strangers are left out: a client has
// the root, or does not trust it. odd is what the administrator should know: the order was wrong, or an issuer may be missing.
func arrange(certs []*x509.Certificate, key crypto.Signer, now time.Time) (chain []*x509.Certificate, odd string, err error) {
	at := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
		public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool })
		return ok && public.Equal(c.PublicKey)
	})
	if at < 0 {
		return nil, "", errors.New("the private key belongs to another certificate")
	}
	if err := checkLeaf(certs[at], now); err != nil {
		return nil, "", err
	}
	chain = []*x509.Certificate{certs[at]}
	positions := []int{at}
	complete := isSelfIssued(certs[at])
	for last := certs[at]; !isSelfIssued(last); {
		i := slices.IndexFunc(certs, func(c *x509.Certificate) bool {
			return bytes.Equal(c.RawSubject, last.RawIssuer) && last.CheckSignatureFrom(c) == nil
		})
		if i < 0 || slices.Contains(positions, i) {
			break
		}
		complete = true
		if last = certs[i]; isSelfIssued(last) {
			break
		}
		chain, positions = append(chain, last), append(positions, i)
	}
	if !complete && !issuedByKnownRoot(chain[0]) {
		// A company's root that issues directly can't be told from an intermediate that was forgotten.
		return chain, fmt.Sprintf("the certificate of its issuer, %s, is not in the file: if that is an intermediate, append it, or browsers refuse the gateway", chain[0].Issuer), nil
	}
	if !slices.IsSorted(positions) || positions[0] != 0 {
		odd = "the certificates were in the wrong order, which was repaired; the server's own belongs first, then each one's issuer"
	}
	return chain, odd, nil
}

func isSelfIssued(c *x509.Certificate) bool { return bytes.Equal(c.RawSubject, c.RawIssuer) }

// issuedByKnownRoot tells whether a root that this machine trusts has issued the certificate directly.
func issuedByKnownRoot(c *x509.Certificate) bool {
	_, err := c.Verify(x509.VerifyOptions{CurrentTime: c.NotBefore.Add(time.Second)})
	return err == nil
}

// checkLeaf looks for what browsers would refuse.
func checkLeaf(c *x509.Certificate, now time.Time) error {
	const skew = 5 * time.Minute
	const day = "2006-01-02 15:04 MST"
	switch {
	case now.After(c.NotAfter):
		return fmt.Errorf("the certificate expired on %s: renew it", c.NotAfter.Format(day))
	case now.Add(skew).Before(c.NotBefore):
		return fmt.Errorf("the certificate is valid only from %s on, and this machine's clock says %s", c.NotBefore.Format(day), now.Format(day))
	case len(c.DNSNames)+len(c.IPAddresses) == 0:
		return errors.New("the certificate names no host in its subject alternative names, and browsers look nowhere else: have it issued with them")
	case len(c.ExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageServerAuth) && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny):
		return errors.New("the certificate is not for servers: have it issued with the extended key usage serverAuth")
	}
	return nil
}

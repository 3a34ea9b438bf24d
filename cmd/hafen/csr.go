package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"

	"hafen/gateway/certs"
)

// csr makes a private key and a certificate request with all own names, for the company's CA. A key that is there already is used
// again, never replaced: the certificate in use belongs to it.
func csr(_ context.Context, w world, args []string) error {
	fs := flags(w, "csr")
	file := fs.String("config", "", "configuration `file`")
	dir := fs.String("out", ".", "`directory` for gw.key and gw.csr")
	useRSA := fs.Bool("rsa", false, "an RSA key of 3072 bits, for authorities that take no ECDSA")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	keyFile, csrFile := filepath.Join(*dir, "gw.key"), filepath.Join(*dir, "gw.csr")
	key, made, err := keyAt(keyFile, *useRSA)
	if err != nil {
		return fmt.Errorf("csr: %w", err)
	}
	names := certs.Names(cfg)
	request, err := certificateRequest(key, names)
	if err != nil {
		return fmt.Errorf("csr: %w", err)
	}
	if err := os.WriteFile(csrFile, request, 0o644); err != nil {
		return fmt.Errorf("csr: %w", err)
	}
	word := "used again"
	if made {
		word = "new, keep it secret"
	}
	fmt.Fprintf(w.stdout, "key      %s  (%s)\nrequest  %s  for %s\n", keyFile, word, csrFile, strings.Join(names, ", "))
	fmt.Fprintf(w.stdout, "\nSend the request to your CA as a server certificate. Put its answer, intermediates behind it, beside the key, and write\n"+
		"  tls: {source: files, files: [{cert: %s, key: %s}]}\n", filepath.Join(*dir, "gw.crt"), keyFile)
	return nil
}

// certificateRequest is a PKCS#10 request in PEM. The first name is the subject as well, where that field can hold it.
func certificateRequest(key crypto.Signer, names []string) ([]byte, error) {
	template := &x509.CertificateRequest{}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, n)
		}
	}
	const maxCommonName = 64 // RFC 5280 appendix A.1, ub-common-name
	if len(names[0]) <= maxCommonName {
		template.Subject = pkix.Name{CommonName: names[0]}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, template, key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), nil
}

// keyAt reads the key of a file, or makes the file with a new one, 0600.
func keyAt(file string, useRSA bool) (key crypto.Signer, made bool, err error) {
	text, err := os.ReadFile(file)
	switch {
	case err == nil:
		key, err = parseKey(file, text)
		return key, false, err
	case !errors.Is(err, fs.ErrNotExist):
		return nil, false, err
	}
	if useRSA {
		key, err = rsa.GenerateKey(rand.Reader, 3072)
	} else {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	}
	if err != nil {
		return nil, false, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, false, err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = pem.Encode(f, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	return key, true, errors.Join(err, f.Close())
}

func parseKey(file string, text []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(text)
	if block == nil {
		return nil, fmt.Errorf("%s exists and is no key in PEM: it is left alone; choose another --out", file)
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	signer, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, fmt.Errorf("%s exists and can't be used as a key: it is left alone; choose another --out", file)
	}
	return signer, nil
}

package life

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// nightFiles are a certificate of a company's authority and its key, as an administrator puts them in place.
type nightFiles struct {
	cert, key string
	authority *x509.Certificate
	signer    *ecdsa.PrivateKey
	ends      time.Time // of what was issued last
}

func newNightFiles(t *testing.T) *nightFiles {
	t.Helper()
	dir := t.TempDir()
	f := &nightFiles{cert: filepath.Join(dir, "gw.crt"), key: filepath.Join(dir, "gw.key")}
	var err error
	if f.signer, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Company root"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &f.signer.PublicKey, f.signer)
	if err == nil {
		f.authority, err = x509.ParseCertificate(der)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.issue(t, 90*24*time.Hour)
	return f
}

func (f *nightFiles) config() string {
	return fmt.Sprintf("tls: {source: files, files: [{cert: %s, key: %s}]}\n", f.cert, f.key)
}

// issue puts a new pair in place that ends after life, and says when it did.
func (f *nightFiles) issue(t *testing.T, life time.Duration) time.Time {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if err := secrets.Key("the private key for "+ownName, key); err != nil {
		t.Fatal(err)
	}
	f.ends = time.Now().Add(life).Truncate(time.Second)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: ownName}, DNSNames: []string{ownName, callName},
		NotBefore: time.Now().AddDate(0, 0, -30), NotAfter: f.ends, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, f.authority, &key.PublicKey, f.signer)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	f.put(t, f.key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}))
	f.put(t, f.cert, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	return time.Now()
}

// spoil puts something in place that is no certificate.
func (f *nightFiles) spoil(t *testing.T) time.Time {
	t.Helper()
	f.put(t, f.cert, []byte("-----BEGIN CERTIFICATE REQUEST-----\n"))
	return time.Now()
}

func (f *nightFiles) put(t *testing.T, file string, content []byte) {
	t.Helper()
	if err := os.WriteFile(file+".new", content, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
}

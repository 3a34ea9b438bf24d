package main

import (
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestCSR: all own names are in the request, the key is 0600 and never replaced, and a second request is of the same key.
func TestCSR(t *testing.T) {
	file := strings.Replace(fwFile, "name: gw.hospital.example\n", "name: gw.hospital.example\naliases: [wpad.hospital.example]\n", 1)
	for name, more := range map[string][]string{"ECDSA": nil, "RSA": {"--rsa"}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			args := append([]string{"csr", "--config", "-", "--out", dir}, more...)
			code, stdout, stderr := hafen(t, file, args...)
			if code != exitOK || !strings.Contains(stdout, "wpad.hospital.example") {
				t.Fatalf("exit %d, %q, %q", code, stdout, stderr)
			}
			info, err := os.Stat(filepath.Join(dir, "gw.key"))
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the key: %v, %v", info, err)
			}
			key, _ := os.ReadFile(filepath.Join(dir, "gw.key"))
			first := readRequest(t, dir)
			if first.CheckSignature() != nil || first.Subject.CommonName != "gw.hospital.example" || !slices.Equal(first.DNSNames, []string{"gw.hospital.example", "wpad.hospital.example"}) {
				t.Errorf("%+v", first)
			}
			if code, stdout, _ := hafen(t, file, args...); code != exitOK || !strings.Contains(stdout, "used again") {
				t.Errorf("exit %d, %q", code, stdout)
			}
			if again, _ := os.ReadFile(filepath.Join(dir, "gw.key")); string(again) != string(key) {
				t.Error("the key was replaced")
			}
			if readRequest(t, dir).CheckSignature() != nil {
				t.Error("the second request is not signed by the key")
			}
		})
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "gw.key"), []byte("something else"), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, _, stderr := hafen(t, file, "csr", "--config", "-", "--out", dir); code != exitFailed || !strings.Contains(stderr, "left alone") {
		t.Errorf("exit %d, %q", code, stderr)
	}
}

func readRequest(t *testing.T, dir string) *x509.CertificateRequest {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(dir, "gw.csr"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return request
}

package canary

import (
	"archive/tar"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// heard is a test that keeps what it is told.
type heard struct {
	testing.TB
	said []string
}

func (h *heard) Helper()           {}
func (h *heard) Error(args ...any) { h.said = append(h.said, fmt.Sprint(args...)) }

// plant searches a text and wants one find, which names the secret and does not show it.
func plant(t *testing.T, r *Registry, name, what, text string) {
	t.Helper()
	h := &heard{TB: t}
	r.Search(h, what, text)
	switch {
	case len(h.said) == 0:
		t.Errorf("%s: not found in %q", what, text)
	case !strings.Contains(h.said[0], Mark+": "+what+" holds "+name+" ("):
		t.Errorf("%s: %s", what, h.said)
	}
}

func TestEachEncodingIsFound(t *testing.T) {
	for name, secret := range map[string]string{"a made one": "", "one with marks": `s3cret@dmz/1 <&"\' über allem`, "one of bytes": "\x00\xff\x80\x7f\x01%q\nabcdefgh\xfe\x03"} {
		r := New()
		if secret == "" {
			secret = r.Make(name)
		} else {
			r.Add(name, secret)
		}
		quoted, _ := json.Marshal(secret)
		for what, text := range map[string]string{
			"plain": secret, "hex": hex.EncodeToString([]byte(secret)), "HEX": fmt.Sprintf("%X", secret), "hex apart": fmt.Sprintf("% x", secret),
			"percent": url.QueryEscape(secret), "a path": url.PathEscape(secret), "a user": url.UserPassword("who", secret).String(),
			"quoted": fmt.Sprintf("%q", secret), "quoted in ASCII": fmt.Sprintf("%+q", secret), "bytes": fmt.Sprint([]byte(secret)), "Go's bytes": fmt.Sprintf("%#v", []byte(secret)),
			"basic": base64.StdEncoding.EncodeToString([]byte("user:" + secret)),
		} {
			plant(t, r, name, what, "level=debug "+text+" and more")
		}
		if name != "one of bytes" { // JSON has no bytes
			plant(t, r, name, "JSON", string(quoted))
		}
		for before := range 4 {
			padded := []byte(strings.Repeat("-", before) + secret + "!")
			for what, enc := range map[string]*base64.Encoding{"std": base64.StdEncoding, "URL": base64.URLEncoding, "raw": base64.RawStdEncoding} {
				plant(t, r, name, fmt.Sprint("base64 ", what, before), "xx"+enc.EncodeToString(padded))
			}
		}
		if len(secret) >= 2*shortest {
			plant(t, r, name, "its first half", secret[:len(secret)/2]+"…")
			plant(t, r, name, "its second half", "…"+secret[len(secret)/2:])
		}
		r.Search(t, "nothing", "level=debug msg=nothing of that kind, "+secret[:shortest-1]+" at most")
	}
}

func TestKeysAreFound(t *testing.T) {
	r := New()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	sec1, _ := x509.MarshalECPrivateKey(key)
	pkcs8, _ := x509.MarshalPKCS8PrivateKey(key)
	file := pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: sec1})
	if err := os.WriteFile(filepath.Join(dir, "root.pem"), file, 0o600); err != nil {
		t.Fatal(err)
	}
	r.Folder(t, dir)
	for what, text := range map[string]string{
		"PEM": string(file), "PKCS 8": string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8})), "DER": string(sec1), "DER of PKCS 8": string(pkcs8),
		"hex": fmt.Sprintf("%x", pkcs8), "what Go prints": fmt.Sprint(key), "JSON": strings.ReplaceAll(string(file), "\n", `\n`),
	} {
		plant(t, r, "the private key in root.pem", what, text)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	r.Search(t, "its certificate", string(cert)+string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
}

func TestMessagesShowNoSecret(t *testing.T) {
	r := New()
	one, two := r.Make("one"), r.Make("two")
	h := &heard{TB: t}
	r.Search(h, "a log", "first "+one+" then "+one+" then "+two+" end")
	if len(h.said) != 2 {
		t.Fatalf("%d finds, want one for each secret: %s", len(h.said), h.said)
	}
	for _, half := range append(halves(one), halves(two)...) {
		if said := strings.Join(h.said, "\n"); strings.Contains(said, half) || !strings.Contains(said, "then [one][one] then ") {
			t.Errorf("the messages: %s", said)
		}
	}
}

func TestWhatIsHandedOut(t *testing.T) {
	r := New()
	cookie := "RTBH3FVXYDQCZJ5LOWXA2ETCFB"
	for range 2 { // it may say it again
		r.Search(t, "the login", "Set-Cookie: session="+cookie, cookie)
	}
	plant(t, r, "what was handed out by the login", "another page", "Cookie: session="+cookie)
}

func TestProcessesAreSearched(t *testing.T) {
	r := New()
	secret := r.Make("a variable")
	cmd := exec.Command("sh", "-c", "sleep 60 & wait") // the child has it
	cmd.Env = append(os.Environ(), "TOKEN="+secret)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		h := &heard{TB: t}
		r.Process(h, "a shell", cmd.Process.Pid)
		if said := strings.Join(h.said, "\n"); strings.Contains(said, "(a shell)") && strings.Contains(said, "(a child of a shell)") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("not found: %s", h.said)
		}
	}
}

func TestArchivesAreSearched(t *testing.T) {
	r := New()
	secret := r.Make("a file's")
	file := filepath.Join(t.TempDir(), "bundle.tar.gz")
	f, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	zipped := gzip.NewWriter(f)
	archive := tar.NewWriter(zipped)
	_ = archive.WriteHeader(&tar.Header{Name: "log.txt", Size: int64(len(secret)), Mode: 0o600})
	_, _ = archive.Write([]byte(secret))
	_, _, _ = archive.Close(), zipped.Close(), f.Close()
	h := &heard{TB: t}
	r.Archive(h, "the bundle", file)
	if len(h.said) != 1 || !strings.Contains(h.said[0], "the bundle: log.txt holds a file's") {
		t.Errorf("%s", h.said)
	}
}

func TestEnd(t *testing.T) {
	r := New()
	var said strings.Builder
	if r.End(&said, 0, true) == 0 || r.End(&said, 0, false) != 0 || r.End(&said, 2, false) != 2 {
		t.Error("nothing was searched, and that is an error where the whole suite ran")
	}
	secret := r.Make("one")
	if r.Search(t, "a log", "nothing"); r.End(&said, 0, true) != 0 {
		t.Error("something was searched, and that is an error")
	}
	parent := New()
	parent.Join([]byte("--- PASS\n" + said.String()))
	if parent.others.secrets != 1 || parent.others.texts != 1 || parent.others.bytes != int64(len("nothing")) {
		t.Errorf("of the others: %+v", parent.others)
	}
	if r.Search(nil, "a log", secret); r.End(&said, 0, false) == 0 {
		t.Error("a find without a test is no error")
	}
}

func BenchmarkSearch(b *testing.B) {
	r := New()
	for range 300 {
		r.Make("one")
	}
	text := strings.Repeat("time=2026-11-28T18:35:07.818Z level=DEBUG msg=connection area=mux conn=1f2e3d status=ok bytes=12345 client=10.30.0.0/24\n", 100_000)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		r.Search(b, "a log", text)
	}
}

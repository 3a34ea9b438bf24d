package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hafen/configs"
)

// canaries are secrets that may be in no bundle, in no form.
var canaries = []string{"canary-proxy-password", "canary-proxy-file", "canary-turn-secret", "canary-password-hash", "canary-webhook-token"}

func canaryForms() []string {
	var all []string
	for _, c := range canaries {
		all = append(all, c, base64.StdEncoding.EncodeToString([]byte(c)), base64.RawURLEncoding.EncodeToString([]byte(c)), hex.EncodeToString([]byte(c)))
	}
	return all
}

// withCanaries puts a secret wherever a configuration can have one.
func withCanaries(t *testing.T) func(*configs.Config) {
	return func(c *configs.Config) {
		write := func(name, text string) string {
			file := filepath.Join(t.TempDir(), name)
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			return file
		}
		c.Egress.Proxy = "http://user:" + canaries[0] + "@127.0.0.1:9"
		c.Services[0].TURNCredentials.SecretFile = write("secret", canaries[2]+"\n")
		c.Admin.Users = []configs.AdminUser{{Name: "anna", PasswordHash: "$argon2id$v=19$m=65536,t=3,p=2$" + canaries[3], Role: "admin"}}
		c.Events.Webhook = "https://hook.example/" + canaries[4]
	}
}

// TestBundleHasNoSecrets packs a gateway that runs with secrets everywhere, and looks for each of them in each form.
func TestBundleHasNoSecrets(t *testing.T) {
	cfg := runningGateway(t, withCanaries(t))
	b := &bundle{time: time.Now()}
	b.collect(context.Background(), cfg, 10*time.Second)
	var packed bytes.Buffer
	if err := b.write(&packed); err != nil {
		t.Fatal(err)
	}
	files := unpack(t, &packed)
	for _, name := range []string{"config.yaml", "status.json", "metrics.txt", "doctor.json"} {
		if len(files["hafen-support/"+name]) == 0 {
			t.Errorf("the bundle lacks %s", name)
		}
	}
	for name, text := range files {
		for _, canary := range canaryForms() {
			if strings.Contains(text, canary) {
				t.Errorf("%s holds the secret %s:\n%s", name, canary, text)
			}
		}
	}
	if !strings.Contains(files["hafen-support/metrics.txt"], "hafen_build_info") || !strings.Contains(files["hafen-support/config.yaml"], "name: gw.hospital.example") {
		t.Error("the bundle says nothing")
	}
}

// TestEraser is the second lock alone: what leaked into a file is blacked out, in each form.
func TestEraser(t *testing.T) {
	cfg := configs.Default()
	cfg.Services = []configs.Service{{}}
	withCanaries(t)(cfg)
	proxyFile := filepath.Join(t.TempDir(), "proxy")
	if err := os.WriteFile(proxyFile, []byte("http://user:"+canaries[1]+"@127.0.0.1:9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg.Egress.ProxyFile = proxyFile
	text := strings.Join(canaryForms(), "\n") + "\nhook.example stays"
	got := string(newEraser(cfg).erase([]byte(text)))
	for i, line := range strings.Split(got, "\n") {
		if strings.Contains(line, "canary") || i < len(canaryForms()) && !strings.Contains(line, "***") {
			t.Errorf("line %d: %q", i, line)
		}
	}
	if !strings.HasSuffix(got, "hook.example stays") {
		t.Errorf("%q", got)
	}
}

// TestBundleCommand: a configuration with problems makes a bundle too, 0600, and an existing file is not overwritten.
func TestBundleCommand(t *testing.T) {
	out := filepath.Join(t.TempDir(), "b.tar.gz")
	code, stdout, stderr := hafen(t, "name: gw\nlistn: 1\n", "support-bundle", "--config", "-", "--out", out)
	if code != exitOK || !strings.Contains(stdout, "2 files") {
		t.Fatalf("exit %d, %q, %q", code, stdout, stderr)
	}
	info, err := os.Stat(out)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	f, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if files := unpack(t, f); !strings.Contains(files["hafen-support/problems.txt"], "listn") {
		t.Errorf("%v", files)
	}
	if code, _, _ := hafen(t, "name: gw\n", "support-bundle", "--config", "-", "--out", out); code != exitFailed {
		t.Errorf("exit %d: a bundle was overwritten", code)
	}
}

func unpack(t *testing.T, in io.Reader) map[string]string {
	t.Helper()
	zip, err := gzip.NewReader(in)
	if err != nil {
		t.Fatal(err)
	}
	files := make(map[string]string)
	for r := tar.NewReader(zip); ; {
		head, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[head.Name] = string(text)
	}
}

package relay

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestMint: what an ICE endpoint would hand out, as coturn's use-auth-secret understands it.
func TestMint(t *testing.T) {
	a := authority{secret: []byte("north")}
	username, password := a.mint("alice", time.Unix(1_800_000_000, 0))
	// printf 1800000000:alice | openssl dgst -sha1 -hmac north -binary | base64
	if username != "1800000000:alice" || password != "sIm7pn/teO7y3AyXGeXl/xAQR6Q=" {
		t.Errorf("%q %q", username, password)
	}
	if a.derive("x").password(username) == password || a.derive("x").password(username) == a.derive("y").password(username) {
		t.Error("a derived authority mints the same passwords")
	}
}

func TestSecret(t *testing.T) {
	dir := t.TempDir()
	made, err := loadSecret("", dir)
	if err != nil || len(made) < secretBytes {
		t.Fatalf("%q %v", made, err)
	}
	again, err := loadSecret("", dir)
	if err != nil || !bytes.Equal(again, made) {
		t.Errorf("after a restart %q %v, want %q", again, err, made)
	}
	entries, _ := os.ReadDir(dir)
	info, err := os.Stat(filepath.Join(dir, "turn.secret"))
	if err != nil || info.Mode().Perm() != 0o600 || len(entries) != 1 {
		t.Errorf("%v %v, %d files", info.Mode(), err, len(entries))
	}

	if os.Geteuid() == 0 { // root makes it for the user that the gateway runs as
		theirs := t.TempDir()
		if err := os.Chown(theirs, 4711, 4711); err != nil {
			t.Fatal(err)
		}
		_, err := loadSecret("", theirs)
		info, failed := os.Stat(filepath.Join(theirs, "turn.secret"))
		if err != nil || failed != nil || info.Sys().(*syscall.Stat_t).Uid != 4711 {
			t.Errorf("%v %v %v", err, failed, info)
		}
	}

	file := filepath.Join(dir, "own")
	for content, good := range map[string]bool{"": false, "short\n": false, "long enough for it\n": true, string(make([]byte, 5000)): false} {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if secret, err := loadSecret(file, dir); (err == nil) != good || good && string(secret) != "long enough for it" {
			t.Errorf("%.20q: %q %v", content, secret, err)
		}
	}
	if _, err := loadSecret(filepath.Join(dir, "none"), dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if _, err := loadSecret("", filepath.Join(dir, "none")); err == nil {
		t.Error("no data_dir, and no error")
	}
}

// nothing that depends on a secret is compared but in constant time.
func TestSecretsAreComparedInConstantTime(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	early := regexp.MustCompile(`(?i)(bytes\.Equal|==|!=).*(hmac\b|\.mac\(|integrity\[:|\.password\b)`)
	constant := 0
	for _, file := range files {
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		constant += strings.Count(string(content), "hmac.Equal(")
		for i, line := range strings.Split(string(content), "\n") {
			if early.MatchString(line) {
				t.Errorf("%s:%d: %s", file, i+1, strings.TrimSpace(line))
			}
		}
	}
	if constant < 2 { // MESSAGE-INTEGRITY and the nonce
		t.Errorf("%d comparisons in constant time", constant)
	}
}

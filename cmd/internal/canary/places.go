package canary

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Key takes in a private key: its number, as PEM, DER and hex have it, and as Go prints it.
func (r *Registry) Key(name string, key *ecdsa.PrivateKey) error {
	number, err := key.Bytes()
	if err != nil {
		return err
	}
	r.Add(name, string(number))
	r.Add(name, new(big.Int).SetBytes(number).String())
	return nil
}

// Hash takes in a password's hash, as hafen passwd prints it: its last part, and the bytes of that.
func (r *Registry) Hash(name, hash string) error {
	last := hash[strings.LastIndexByte(hash, '$')+1:]
	raw, err := base64.RawStdEncoding.DecodeString(last)
	if err != nil {
		return err
	}
	r.Add(name, last)
	r.Add(name, string(raw))
	return nil
}

// Folder takes in the secrets that the program has made in a folder of its own: private keys and its TURN secret.
func (r *Registry) Folder(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // the program goes on with its work
			return nil
		}
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		switch name := filepath.Base(path); {
		case name == "turn.secret":
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			r.Add("the gateway's own TURN secret", string(bytes.TrimSpace(text)))
		case strings.Contains(name, ".pem") || strings.HasSuffix(name, ".key"):
			return r.keys(path)
		}
		return nil
	})
	if err != nil {
		t.Errorf("the secrets in %s: %v", dir, err)
	}
}

// keys takes in the private keys of a file.
func (r *Registry) keys(path string) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if !strings.HasSuffix(block.Type, "PRIVATE KEY") {
			continue
		}
		key, err := parseKey(block.Bytes)
		if err == nil {
			err = r.Key("the private key in "+filepath.Base(path), key)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	return nil
}

func parseKey(der []byte) (*ecdsa.PrivateKey, error) {
	if key, err := x509.ParseECPrivateKey(der); err == nil {
		return key, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	if key, ok := key.(*ecdsa.PrivateKey); ok {
		return key, nil
	}
	return nil, fmt.Errorf("a key of another kind: %T", key)
}

// Process searches the command line and the environment of a process and of all that it has started.
func (r *Registry) Process(t testing.TB, whose string, pid int) {
	t.Helper()
	for _, file := range []string{"cmdline", "environ"} {
		if text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file)); err == nil { // else it has ended
			r.Search(t, fmt.Sprintf("%s of process %d (%s)", file, pid, whose), string(text))
		}
	}
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, _ := os.ReadFile(task)
		for _, word := range strings.Fields(string(text)) {
			var child int
			if _, err := fmt.Sscan(word, &child); err == nil {
				r.Process(t, "a child of "+whose, child)
			}
		}
	}
}

// Archive searches a .tar.gz: the names in it and the files.
func (r *Registry) Archive(t testing.TB, where, file string) {
	t.Helper()
	if err := r.archive(t, where, file); err != nil {
		t.Errorf("%s: %v", where, err)
	}
}

func (r *Registry) archive(t testing.TB, where, file string) error {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	unzipped, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	for archive := tar.NewReader(unzipped); ; {
		entry, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		text, err := io.ReadAll(archive)
		if err != nil {
			return err
		}
		r.Search(t, where+": "+entry.Name, entry.Name+"\n"+string(text))
	}
}

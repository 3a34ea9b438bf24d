package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// checksums writes SHA256SUMS, as sha256sum -c reads it.
func (r *release) checksums(context.Context) error {
	entries, err := os.ReadDir(r.out) // sorted by name
	if err != nil {
		return err
	}
	var list bytes.Buffer
	for _, e := range entries {
		if e.IsDir() {
			continue
		}
		sum, err := sumOf(r.path(e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s  %s\n", sum, e.Name())
	}
	return os.WriteFile(r.path("SHA256SUMS"), list.Bytes(), 0o644)
}

func sumOf(file string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x", h.Sum(nil)), nil
}

// proveReproducible makes everything again from a copy of the tracked files in another folder, with an empty build cache for our
// own packages' sake, and compares the checksums.
func (r *release) proveReproducible(ctx context.Context) error {
	dir, err := os.MkdirTemp("", "another-folder-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := copyTracked(ctx, dir); err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", "run", "./cmd/internal/release", "-version", r.version, "-date", fmt.Sprint(r.date.Unix()), "-maintainer", r.maintainer, "-out", "made-elsewhere")
	cmd.Dir, cmd.Env = dir, append(os.Environ(), "TZ=Asia/Kathmandu", "LC_ALL=C", "UMASK=077")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("the second time: %w\n%s", err, out)
	}
	first, err := os.ReadFile(r.path("SHA256SUMS"))
	if err != nil {
		return err
	}
	second, err := os.ReadFile(filepath.Join(dir, "made-elsewhere", "SHA256SUMS"))
	if err != nil {
		return err
	}
	if !bytes.Equal(first, second) {
		return fmt.Errorf("made twice, and not the same:\n%s\n%s", first, second)
	}
	fmt.Fprintf(r.say, "reproducible: made twice, in two folders; all %d checksums are the same\n", bytes.Count(first, []byte("\n")))
	return nil
}

// copyTracked copies the files that git knows, as they are in the work tree.
func copyTracked(ctx context.Context, to string) error {
	list, err := command(ctx, "git", "ls-files", "-z")
	if err != nil {
		return err
	}
	for _, name := range strings.Split(strings.TrimSuffix(list, "\x00"), "\x00") {
		data, err := os.ReadFile(name)
		if errors.Is(err, os.ErrNotExist) {
			continue // deleted, not committed yet
		}
		if err != nil {
			return err
		}
		info, err := os.Stat(name)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(target, data, info.Mode().Perm()); err != nil {
			return err
		}
	}
	return nil
}

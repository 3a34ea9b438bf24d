package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// fetchProfile asks the gateway's control socket for a CPU profile and writes it under the name of what is measured. stop waits for it.
func fetchProfile(socket, dir, name string, d time.Duration) (stop func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		what := fmt.Sprintf("profile?seconds=%d", max(1, int(d.Seconds())))
		if err := writeProfile(socket, what, filepath.Join(dir, fileName(name))); err != nil {
			fmt.Fprintln(os.Stderr, "bench: profile:", err)
		}
	}()
	return func() { <-done }
}

// fileName makes a name for a file of the first words.
func fileName(name string) string {
	keep := func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' {
			return r
		}
		return '-'
	}
	return strings.Trim(strings.Map(keep, name[:min(len(name), 30)]), "-") + ".pprof"
}

func writeProfile(socket, what, file string) error {
	client := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	res, err := client.Get("http://hafen/debug/pprof/" + what)
	if err != nil {
		return err
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("the control socket answers %s", res.Status)
	}
	out, err := os.Create(file)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, res.Body); err != nil {
		_ = out.Close()
		return err
	}
	return out.Close()
}

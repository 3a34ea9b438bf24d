package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	pages "hafen/gateway/status"
)

// passwd reads one line from standard input and prints its hash.
func passwd(_ context.Context, w world, args []string) error {
	if err := parse(flags(w, "passwd"), args, 0); err != nil {
		return err
	}
	line, err := bufio.NewReader(io.LimitReader(w.stdin, 4096)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read the password: %w", err)
	}
	hash, err := pages.HashPassword(strings.TrimRight(line, "\r\n"))
	if err != nil {
		return err
	}
	fmt.Fprintln(w.stdout, hash)
	return nil
}

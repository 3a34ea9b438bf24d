package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"hafen/configs"
	"hafen/gateway"
)

// configFiles are where serve looks when nobody says --config.
var configFiles = []string{"./hafen.yaml", "/etc/hafen/hafen.yaml"}

// findConfig returns the file that is meant: the one named, else the first that exists.
func findConfig(named string) (string, error) {
	if named != "" {
		return named, nil
	}
	for _, f := range configFiles {
		if _, err := os.Stat(f); err == nil {
			return f, nil
		}
	}
	return "", fmt.Errorf("no configuration: neither %s exists; name one with --config, or start from `hafen config default`: %w",
		strings.Join(configFiles, " nor "), errUsage)
}

// load reads the configuration that is meant and refuses it as a whole when anything is wrong with it.
func load(w world, named string) (*configs.Config, error) {
	file, err := findConfig(named)
	if err != nil {
		return nil, err
	}
	cfg, err := configs.Load(file, w.stdin, w.environ)
	if err == nil {
		return cfg, nil
	}
	var problems configs.Problems
	if errors.As(err, &problems) {
		for _, p := range problems {
			fmt.Fprintln(w.stderr, p)
		}
		return nil, &badConfig{file, problems}
	}
	return nil, fmt.Errorf("read the configuration: %w", err)
}

// badConfig is a configuration whose problems have been printed, a line each.
type badConfig struct {
	file     string
	problems configs.Problems
}

func (e *badConfig) Error() string {
	return fmt.Sprintf("%s: %d problems; nothing was started", e.file, len(e.problems))
}

func (e *badConfig) Unwrap() error { return e.problems }

// check prints every problem of a configuration on a line of its own, certificate files opened as serve opens them; with
// --against-running also what a reload would change.
func check(ctx context.Context, w world, args []string) error {
	fs := flags(w, "check")
	file := fs.String("config", "", "configuration `file`; - reads standard input")
	running := fs.Bool("against-running", false, "compare with the running gateway")
	dir := fs.String("run-dir", "", "the running gateway's run `directory`; default: the configuration's")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	w.stderr = w.stdout
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	seen, err := cfg.ByHand(w.environ)
	if err != nil {
		return err
	}
	if err := gateway.CheckCertificates(seen, time.Now()); err != nil {
		fmt.Fprintln(w.stdout, err)
		return errSilent
	}
	if *running {
		return againstRunning(ctx, w, cfg, *dir)
	}
	fmt.Fprintf(w.stdout, "ok: %s, %d services\n", cfg.Name, len(cfg.Services))
	return nil
}

// showConfig prints the default file, the schema, or the effective configuration with secrets masked.
func showConfig(_ context.Context, w world, args []string) error {
	fs := flags(w, "config")
	file := fs.String("config", "", "configuration `file`, for show")
	what := ""
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		what, args = args[0], args[1:]
	}
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	switch what {
	case "default":
		_, err := w.stdout.Write(configs.DefaultYAML())
		return err
	case "schema":
		_, err := w.stdout.Write(configs.Schema())
		return err
	case "show":
		cfg, err := load(w, *file)
		if err != nil {
			return err
		}
		shown, err := cfg.Show()
		if err != nil {
			return err
		}
		_, err = w.stdout.Write(shown)
		return err
	}
	return fmt.Errorf("config: say default, schema or show: %w", errUsage)
}

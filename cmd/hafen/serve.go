package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"hafen/configs"
	"hafen/gateway"
)

// serve runs the gateway until SIGTERM has drained it.
func serve(ctx context.Context, w world, args []string) error {
	fs := flags(w, "serve")
	file := fs.String("config", "", "configuration `file`; - reads standard input")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	cfg, err := load(w, *file)
	if err != nil {
		return err
	}
	log, level := logger(w, cfg.Log)
	g, err := gateway.New(gateway.Options{
		Config: cfg, Log: log, Version: version,
		Load:     func() (*configs.Config, error) { return reload(w, *file) },
		Reloaded: func(c *configs.Config) { setLevel(level, c.Log) },
	})
	if err != nil {
		return err
	}
	if err := g.Start(ctx); err != nil {
		return err
	}
	return untilSignalled(ctx, g, cfg.Drain)
}

// reload reads the configuration again, from where it was read first.
func reload(w world, file string) (*configs.Config, error) {
	if file == "-" {
		return nil, errors.New("it was read from standard input, which is read once: write it to a file and name that with --config")
	}
	found, err := findConfig(file)
	if err != nil {
		return nil, err
	}
	return configs.Load(found, w.stdin, w.environ)
}

// untilSignalled serves until SIGTERM or SIGINT, or until `hafen drain`, then drains for at most wait. A second signal
// ends at once.
func untilSignalled(ctx context.Context, g *gateway.Gateway, wait time.Duration) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer signal.Stop(signals)
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGHUP {
				_, _ = g.Reload(ctx) // it says itself what came of it
				continue
			}
			g.Drain(wait)
		case <-ctx.Done():
			g.Drain(0)
		case <-g.Draining():
		}
		break
	}
	awaitDrained(ctx, signals, g)
	signal.Stop(signals) // from now on a signal ends the process as it is
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := g.Stop(stop); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// awaitDrained returns when the drain has ended, or at a second SIGTERM. A reload in between is a reload.
func awaitDrained(ctx context.Context, signals <-chan os.Signal, g *gateway.Gateway) {
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGHUP {
				return
			}
			_, _ = g.Reload(ctx)
		case <-g.Drained():
			return
		}
	}
}

// logger writes to standard output as the configuration says. Its level may change while it is in use.
func logger(w world, cfg configs.Log) (*slog.Logger, *slog.LevelVar) {
	level := new(slog.LevelVar)
	setLevel(level, cfg)
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(w.stdout, opts)), level
	}
	return slog.New(slog.NewJSONHandler(w.stdout, opts)), level
}

func setLevel(level *slog.LevelVar, cfg configs.Log) {
	var l slog.Level
	_ = l.UnmarshalText([]byte(cfg.Level)) // validated when the configuration was read
	level.Set(l)
}

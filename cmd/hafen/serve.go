package main

import (
	"context"
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
	g, err := gateway.New(gateway.Options{Config: cfg, Log: logger(w, cfg.Log), Version: version})
	if err != nil {
		return err
	}
	if err := g.Start(ctx); err != nil {
		return err
	}
	return untilSignalled(ctx, g, cfg.Drain)
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
				g.Reload()
				continue
			}
			g.Drain(wait)
		case <-ctx.Done():
			g.Drain(0)
		case <-g.Draining():
		}
		break
	}
	awaitDrained(signals, g)
	signal.Stop(signals) // from now on a signal ends the process as it is
	stop, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := g.Stop(stop); err != nil {
		return fmt.Errorf("stop: %w", err)
	}
	return nil
}

// awaitDrained returns when the drain has ended, or at a second SIGTERM. A reload in between is a reload.
func awaitDrained(signals <-chan os.Signal, g *gateway.Gateway) {
	for {
		select {
		case s := <-signals:
			if s != syscall.SIGHUP {
				return
			}
			g.Reload()
		case <-g.Drained():
			return
		}
	}
}

// logger writes to standard output as the configuration says.
func logger(w world, cfg configs.Log) *slog.Logger {
	level := slog.LevelInfo
	_ = level.UnmarshalText([]byte(cfg.Level)) // validated when the configuration was read
	opts := &slog.HandlerOptions{Level: level}
	if cfg.Format == "text" {
		return slog.New(slog.NewTextHandler(w.stdout, opts))
	}
	return slog.New(slog.NewJSONHandler(w.stdout, opts))
}

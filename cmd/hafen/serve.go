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
	inherited, err := gateway.Inherit(w.environ)
	if err != nil {
		return err
	}
	g, flush, err := startGateway(ctx, w, *file, inherited)
	defer flush()
	if err != nil {
		inherited.Fail(err)
		return err
	}
	return untilSignalled(ctx, g, g.DrainLimit)
}

// startGateway makes and starts what a configuration file describes. flush is for the end, be it that of a start that failed: it writes
// what the log has held back.
func startGateway(ctx context.Context, w world, file string, inherited *gateway.Inheritance) (g *gateway.Gateway, flush func(), err error) {
	cfg, err := load(w, file)
	if err != nil {
		return nil, func() {}, err
	}
	program, _ := os.Executable() // as it is called now; after an upgrade that is the new one. Without it there is no hand-over
	log, level := logger(w, cfg.Log)
	quiet := newRepeats(log.Handler())
	g, err = gateway.New(gateway.Options{
		Config: cfg, Log: slog.New(quiet), Version: version, Inherited: inherited, Program: program, Args: os.Args, Environ: w.environ,
		Load:     func() (*configs.Config, error) { return reload(w, file) },
		Reloaded: func(c *configs.Config) { setLevel(level, c.Log) },
	})
	if err != nil {
		return nil, quiet.tally.flush, err
	}
	return g, quiet.tally.flush, g.Start(ctx)
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
// ends at once. SIGUSR2 hands over to the program that is on the disk now.
func untilSignalled(ctx context.Context, g *gateway.Gateway, wait func() time.Duration) error {
	signals := make(chan os.Signal, 2)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR2)
	defer signal.Stop(signals)
	for serving := true; serving; {
		select {
		case s := <-signals:
			serving = changed(ctx, g, s)
			if !serving {
				g.Drain(wait())
			}
		case <-ctx.Done():
			g.Drain(0)
			serving = false
		case <-g.Gone():
			g.Retire(wait())
			serving = false
		case <-g.Draining():
			serving = false
		}
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
			if !changed(ctx, g, s) {
				return
			}
		case <-g.Drained():
			return
		}
	}
}

// changed does what a signal asks for, if that is a reload or a hand-over; both say themselves what came of them.
func changed(ctx context.Context, g *gateway.Gateway, s os.Signal) bool {
	switch s {
	case syscall.SIGHUP:
		_, _ = g.Reload(ctx)
	case syscall.SIGUSR2:
		_, _ = g.Upgrade(ctx)
	default:
		return false
	}
	return true
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

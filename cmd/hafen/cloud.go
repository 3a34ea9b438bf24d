package main

import (
	"context"
	"fmt"
	"os/signal"
	"syscall"

	"hafen/cmd/internal/cloud"
	"hafen/configs"
)

// standIn runs the stand-in cloud alone, for laboratories and training.
func standIn(ctx context.Context, w world, args []string) error {
	fs := flags(w, "cloud")
	file := fs.String("config", "", "configuration `file` of the stand-in")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	cfg, err := cloud.LoadConfig(*file, w.stdin)
	if err != nil {
		return err
	}
	log, _ := logger(w, configs.Log{Level: "info", Format: "text"})
	opts, err := cfg.Options(log)
	if err != nil {
		return err
	}
	c, err := cloud.New(opts)
	if err != nil {
		return err
	}
	if err := c.Start(); err != nil {
		return err
	}
	fmt.Fprintf(w.stdout, "the stand-in call service answers at %s\n", c.URL())
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	<-ctx.Done()
	return c.Close()
}

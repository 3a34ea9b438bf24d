package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
)

// reloads lets one reload at a time happen, and counts them.
type reloads struct {
	mu sync.Mutex

	total *prometheus.CounterVec
	good  prometheus.Gauge
	at    prometheus.Gauge
}

func newReloads(r prometheus.Registerer) *reloads {
	s := &reloads{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "hafen_config_reloads_total", Help: "Reloads asked for, by result: ok or failed."}, []string{"result"}),
		good:  prometheus.NewGauge(prometheus.GaugeOpts{Name: "hafen_config_last_reload_successful", Help: "0 when the last reload was refused: the file and what runs differ."}),
		at:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "hafen_config_loaded_timestamp_seconds", Help: "When the configuration that is in use was put in place."}),
	}
	s.total.WithLabelValues("ok")
	s.total.WithLabelValues("failed")
	s.good.Set(1)
	s.at.SetToCurrentTime()
	r.MustRegister(s.total, s.good, s.at)
	return s
}

// Reloaded is what came of a reload.
type Reloaded struct {
	// Kept are keys whose new values take effect at the next start or upgrade only.
	Kept []string `json:"kept"`
}

// Reload reads the configuration again and puts the whole of it in place, or nothing: then the error says why, and all is as it
// was. Live sessions go on either way.
func (g *Gateway) Reload(ctx context.Context) (Reloaded, error) {
	g.reloads.mu.Lock()
	defer g.reloads.mu.Unlock()
	reloading()
	defer notify("READY=1")
	done, err := g.reload(ctx)
	if err != nil {
		g.reloads.total.WithLabelValues("failed").Inc()
		g.reloads.good.Set(0)
		g.logRefused(err)
		return done, err
	}
	g.reloads.total.WithLabelValues("ok").Inc()
	g.reloads.good.Set(1)
	g.reloads.at.SetToCurrentTime()
	g.log.Info("configuration reloaded", "listening", fmt.Sprint(g.Addrs()))
	if len(done.Kept) > 0 {
		g.log.Warn("some keys take effect at the next start or upgrade only", "keys", strings.Join(done.Kept, " "))
	}
	return done, nil
}

// logRefused says why a configuration was refused, each problem in a line of its own, with its key.
func (g *Gateway) logRefused(err error) {
	var problems configs.Problems
	if !errors.As(err, &problems) {
		g.log.Error("the configuration was not reloaded, the old one stays", "err", err)
		return
	}
	for _, p := range problems {
		g.log.Error("the configuration was not reloaded, the old one stays", "key", p.Key, "err", p.String())
	}
}

func (g *Gateway) reload(ctx context.Context) (done Reloaded, err error) {
	switch {
	case g.ctx.Err() != nil:
		return done, errors.New("the gateway is stopping")
	case g.handover.isGone():
		return done, errors.New("another process has taken over: ask that one")
	}
	if g.opts.Load == nil {
		return done, errors.New("there is no file to read the configuration from")
	}
	c, err := g.opts.Load()
	if err != nil {
		return done, err
	}
	done.Kept = pin(c, g.config())
	return done, g.replace(ctx, c)
}

// pin gives c the values of those keys that can't change under what runs, and names those that would have.
func pin(c, inUse *configs.Config) (kept []string) {
	for _, k := range []struct {
		key       string
		now, want *string
	}{
		{"data_dir", &inUse.DataDir, &c.DataDir},
		{"run_dir", &inUse.RunDir, &c.RunDir},
		{"store", &inUse.Store, &c.Store},
		{"relay.mode", &inUse.Relay.Mode, &c.Relay.Mode},
		{"relay.secret_file", &inUse.Relay.SecretFile, &c.Relay.SecretFile},
		{"log.format", &inUse.Log.Format, &c.Log.Format},
	} {
		if *k.now != *k.want {
			*k.want = *k.now
			kept = append(kept, k.key)
		}
	}
	return kept
}

// replace makes everything that c needs beside what runs, and then exchanges all of it.
func (g *Gateway) replace(ctx context.Context, c *configs.Config) error {
	last := g.now.Load()
	next, err := g.newGeneration(c, last)
	if err != nil {
		return err
	}
	use, err := g.prepare(next)
	if err != nil {
		next.discard(last)
		return err
	}
	bound, err := g.rebind(ctx, c)
	if err != nil {
		next.discard(last)
		return err
	}
	g.exchange(next, use)
	g.serveAnew(bound)
	if g.opts.Reloaded != nil {
		g.opts.Reloaded(c)
	}
	return nil
}

// prepare has every part make what the next generation needs; use has them take it.
func (g *Gateway) prepare(next *generation) (use []func(), err error) {
	for _, prepare := range []func() (func(), error){
		func() (func(), error) { return g.relay.Prepare(next.config, next.dialer) },
		func() (func(), error) { return g.signaling.Prepare(next.config) },
		func() (func(), error) { return g.forward.Prepare(next.config) },
		func() (func(), error) { return g.prepareWatch(next.config) },
	} {
		f, err := prepare()
		if err != nil {
			return nil, err
		}
		use = append(use, f)
	}
	return append(use,
		func() { g.precall.Reconfigure(precallSettings(next.config)) },
		func() { g.status.Reconfigure(next.config) },
		func() { g.mux.SetLimits(muxLimits(next.config.Limits)) },
	), nil
}

// exchange puts a generation in place, with what the parts have prepared for it. Certificates of the last one serve the handshakes
// that have begun.
func (g *Gateway) exchange(next *generation, use []func()) {
	last := g.now.Swap(next)
	for _, f := range use {
		f()
	}
	if next.certs == last.certs {
		return
	}
	if err := next.certs.Start(g.ctx); err != nil {
		g.log.Error("certificates will not be renewed", "err", err)
	}
	g.wg.Go(func() { _ = last.certs.Close() })
}

// rebind opens what a configuration wants listened on and is not yet. An address that is taken may be taken by ourselves, as :443
// is beside 10.0.0.1:443: then the one that goes is closed first, and opened again should the other fail.
func (g *Gateway) rebind(ctx context.Context, c *configs.Config) ([]*socket, error) {
	bound, err := g.bind(ctx, c, g.sockets)
	if !errors.Is(err, syscall.EADDRINUSE) {
		return bound, err
	}
	wanted := places(c)
	var going []*socket
	staying := slices.DeleteFunc(slices.Clone(g.sockets), func(s *socket) bool {
		if slices.Contains(wanted, s.place) || !slices.ContainsFunc(wanted, s.inTheWayOf) {
			return false
		}
		going = append(going, s)
		return true
	})
	if len(going) == 0 {
		return nil, err
	}
	for _, s := range going {
		s.close()
	}
	bound, err = g.bind(ctx, c, staying)
	if err != nil {
		g.reopen(ctx, staying, going)
		return nil, err
	}
	g.sockets = staying
	return bound, nil
}

// inTheWayOf reports whether a socket has the port that a place wants.
func (s *socket) inTheWayOf(p place) bool {
	_, port, ok := strings.Cut(p.addr[max(strings.LastIndexByte(p.addr, ':'), 0):], ":")
	return ok && p.network == s.network && port == fmt.Sprint(s.port())
}

// reopen takes back what was closed for nothing.
func (g *Gateway) reopen(ctx context.Context, staying, closed []*socket) {
	for _, s := range closed {
		again, err := s.open(ctx)
		if err != nil {
			g.log.Error("an address is lost", "err", err)
			continue
		}
		staying = append(staying, again)
		g.goServe(again)
	}
	g.remember(staying)
}

// serveAnew serves what is newly bound and closes what is no longer wanted. Connections that came by it stay.
func (g *Gateway) serveAnew(bound []*socket) {
	g.forgetLingering()
	last := g.sockets
	g.remember(bound)
	for _, s := range bound {
		if !slices.Contains(last, s) {
			g.goServe(s)
			s.keepInStore()
		}
	}
	for _, s := range last {
		if !slices.Contains(bound, s) {
			s.dropFromStore()
			if s.udp != nil {
				g.relay.Release(s.udp) // its clients stay, and with them the port
				g.lingering = append(g.lingering, s)
				continue
			}
			s.close()
		}
	}
}

package main

import (
	"context"
	"fmt"
	"time"
)

// Names of what is measured, in the order of the table, and what the gateway should reach in comparison.
const (
	wsCPU       = "WebSocket: CPU a message there and back (µs)"
	wsP99       = "WebSocket: p99 of a message there and back (ms)"
	wsMemory    = "WebSocket: memory of an idle one (KiB)"
	handshake   = "WebSocket: CPU to open one, TLS handshake and all (µs)"
	pollMemory  = "Long-poll: memory of a held one (KiB)"
	pollAnswer  = "Long-poll: all answered after (ms)"
	tunnelCPU   = "CONNECT: CPU a message there and back (µs)"
	tunnelP99   = "CONNECT: p99 of a message there and back (ms)"
	tunnelIdle  = "CONNECT: memory of an idle tunnel (KiB)"
	tunnelBulk  = "CONNECT: CPU a GB echoed (s)"
	passthrough = "SNI passthrough: CPU a GB echoed, beside CONNECT through Squid (s)"
)

// bars are the ratios that the gateway should stay under.
var bars = []struct {
	name string
	bar  float64
}{
	{wsCPU, 1},
	{wsP99, 1},
	{wsMemory, 1.5},
	{handshake, 1},
	{pollMemory, 0},
	{pollAnswer, 0},
	{tunnelCPU, 0.8},
	{tunnelP99, 1},
	{tunnelIdle, 0.5},
	{tunnelBulk, 0.5},
	{passthrough, 0.3},
}

// trial measures one thing of one program.
type trial struct {
	o     *options
	world *world
	p     *program
	put   func(name string, value float64)
}

// round measures everything once: the gateway and its comparison one after the other, the one that begins changing from round to round.
func (o *options) round(ctx context.Context, w *world, n int, r *results) error {
	parts := []struct {
		name  string
		other func(context.Context) (*program, error)
		do    func(*trial, context.Context) error
		first bool // in the first round alone
	}{
		{"websocket", w.startHAProxy, (*trial).webSockets, false},
		{"poll", w.startHAProxy, (*trial).longPolls, true},
		{"connect", w.startSquid, (*trial).tunnels, false},
		{"bulk", w.startSquid, (*trial).bulk, false},
	}
	for _, part := range parts {
		if o.only != "" && o.only != part.name || part.first && n > 0 {
			continue
		}
		starts := []func(context.Context) (*program, error){part.other, func(ctx context.Context) (*program, error) { return w.startHafen(ctx, o.hafen) }}
		for i := range starts {
			which := (i + n) % 2
			p, err := starts[which](ctx)
			if err != nil {
				return err
			}
			t := &trial{o: o, world: w, p: p, put: func(name string, value float64) { r.put(name, which == 1, value) }}
			err = part.do(t, ctx)
			p.stop()
			if err != nil {
				return fmt.Errorf("%s, %s: %w", p.name, part.name, err)
			}
		}
	}
	return nil
}

// settle is how long a program may tidy up before its memory is read.
const settle = 2 * time.Second

// grow opens a crowd and tells what it cost: CPU for each, and memory for each once it is idle.
func (t *trial) grow(ctx context.Context, n int, dial dialer, ready func(crowd) error) (c crowd, cpu time.Duration, memory float64, err error) {
	warm, err := gather(ctx, 20, dial) // what is allocated once is no connection's
	if err != nil {
		return nil, 0, 0, err
	}
	defer warm.close()
	before, err := t.p.usage()
	if err != nil {
		return nil, 0, 0, err
	}
	if c, err = gather(ctx, n, dial); err != nil {
		return nil, 0, 0, err
	}
	opened, err := t.p.usage()
	if err == nil {
		err = ready(c)
	}
	if err != nil {
		c.close()
		return nil, 0, 0, err
	}
	time.Sleep(settle)
	after, err := t.p.usage()
	return c, (opened.cpu - before.cpu) / time.Duration(n), float64(after.rss-before.rss) / float64(n) / 1024, err
}

func (t *trial) webSockets(ctx context.Context) error {
	c, cpu, memory, err := t.grow(ctx, t.o.idle, t.world.webSocket(t.p.addr), crowd.touch)
	if err != nil {
		return err
	}
	defer c.close()
	t.put(handshake, float64(cpu.Microseconds()))
	t.put(wsMemory, memory)
	return t.messages(c, wsCPU, wsP99)
}

// messages has a part of the crowd talk.
func (t *trial) messages(c crowd, cpuName, p99Name string) error {
	busy := c[:min(t.o.busy, len(c))]
	if _, err := busy.talk(t.o.rate, time.Second/2); err != nil {
		return err
	}
	stop := t.profile(cpuName)
	before, err := t.p.usage()
	if err != nil {
		return err
	}
	took, err := busy.talk(t.o.rate, t.o.duration)
	if err != nil {
		return err
	}
	after, err := t.p.usage()
	if err != nil {
		return err
	}
	stop()
	t.put(cpuName, float64((after.cpu-before.cpu).Microseconds())/float64(len(took)))
	t.put(p99Name, took[len(took)*99/100].Seconds()*1000)
	return nil
}

func (t *trial) longPolls(ctx context.Context) error {
	defer t.world.desk.release()
	held := t.world.desk.holding()
	c, _, memory, err := t.grow(ctx, t.o.polls, t.world.poll(t.p.addr), func(crowd) error {
		for range 100 {
			if t.world.desk.holding() >= held+t.o.polls {
				return nil
			}
			time.Sleep(100 * time.Millisecond)
		}
		return fmt.Errorf("%d polls are held, not %d", t.world.desk.holding()-held, t.o.polls)
	})
	if err != nil {
		return err
	}
	defer c.close()
	began := time.Now()
	t.world.desk.release()
	for _, conn := range c {
		if err := expectHead(conn, "200"); err != nil {
			return err
		}
	}
	t.put(pollMemory, memory)
	t.put(pollAnswer, float64(time.Since(began).Milliseconds()))
	return nil
}

func (t *trial) tunnels(ctx context.Context) error {
	c, _, memory, err := t.grow(ctx, t.o.idle, t.world.tunnel(t.p.addr), crowd.touch)
	if err != nil {
		return err
	}
	defer c.close()
	t.put(tunnelIdle, memory)
	return t.messages(c, tunnelCPU, tunnelP99)
}

// bulk echoes much through a few tunnels. Squid can pass nothing through unread, so its tunnel is what passthrough is compared with.
func (t *trial) bulk(ctx context.Context) error {
	perGB, err := t.stream(ctx, t.world.tunnel(t.p.addr), tunnelBulk)
	if err != nil {
		return err
	}
	t.put(tunnelBulk, perGB)
	if t.p.addr == gatewayAddr {
		if perGB, err = t.stream(ctx, t.world.passed(t.p.addr), passthrough); err != nil {
			return err
		}
	}
	t.put(passthrough, perGB)
	return nil
}

func (t *trial) stream(ctx context.Context, dial dialer, name string) (perGB float64, err error) {
	c, err := gather(ctx, t.o.streams, dial)
	if err != nil {
		return 0, err
	}
	defer c.close()
	if err := c.touch(); err != nil {
		return 0, err
	}
	stop := t.profile(name)
	before, err := t.p.usage()
	if err != nil {
		return 0, err
	}
	n, err := c.bulk(t.o.duration, t.o.window)
	if err != nil {
		return 0, err
	}
	after, err := t.p.usage()
	stop()
	return (after.cpu - before.cpu).Seconds() / (float64(n) / 1e9), err
}

// profile writes a CPU profile of the gateway while something is measured, if that was asked for.
func (t *trial) profile(name string) (stop func()) {
	if t.o.profile == "" || t.p.addr != gatewayAddr {
		return func() {}
	}
	return fetchProfile(t.world.dir+"/run/hafen.sock", t.o.profile, name, t.o.duration)
}

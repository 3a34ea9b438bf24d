package main

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
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

// trial is one program under measurement in one part.
type trial struct {
	o     *options
	world *world
	p     *program
	put   func(name string, value float64)
	loads []*load
	idle  crowd
}

// part is what is measured of the gateway and of one other program.
type part struct {
	name    string
	other   func(context.Context) (*program, error)
	prepare func(*trial, context.Context) error // opens the connections, and measures what has to be measured only once
	first   bool                                // in the first round alone
	alone   bool                                // one program after the other: both together would have too many connections
}

// round measures everything once.
func (o *options) round(ctx context.Context, w *world, n int, r *results) error {
	for _, part := range []part{
		{name: "websocket", other: w.startHAProxy, prepare: (*trial).webSockets},
		{name: "poll", other: w.startHAProxy, prepare: (*trial).longPolls, first: true, alone: true},
		{name: "connect", other: w.startSquid, prepare: (*trial).tunnels},
		{name: "bulk", other: w.startSquid, prepare: (*trial).bulk},
	} {
		if o.only != "" && o.only != part.name || part.first && n > 0 {
			continue
		}
		if err := o.compare(ctx, w, n, part, r); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}

// compare runs one part. Both programs stand while they are under load, in slices of time that they take in turns: whatever else the
// machine does falls on both alike.
func (o *options) compare(ctx context.Context, w *world, n int, part part, r *results) (err error) {
	starts := [2]func(context.Context) (*program, error){part.other, func(ctx context.Context) (*program, error) { return w.startHafen(ctx, o.hafen) }}
	var both []*trial
	defer func() {
		for _, t := range both {
			t.end()
		}
	}()
	for i := range starts {
		which := (i + n) % 2
		p, err := starts[which](ctx)
		if err != nil {
			return err
		}
		t := &trial{o: o, world: w, p: p, put: func(name string, value float64) { r.put(name, which == 1, value) }}
		both = append(both, t)
		if err := part.prepare(t, ctx); err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
		if part.alone {
			t.end()
			both = nil
		}
	}
	return o.inTurns(both)
}

// inTurns puts the programs under their loads, and notes what came out.
func (o *options) inTurns(both []*trial) error {
	for i := range turns {
		for j := range both {
			if err := both[(i+j)%len(both)].slice(o.duration / turns); err != nil {
				return err
			}
		}
	}
	for _, t := range both {
		for _, l := range t.loads {
			l.tell(t.put)
		}
	}
	return nil
}

// turns is into how many the time under load is cut.
const turns = 4

func (t *trial) end() {
	for _, l := range t.loads {
		l.conns.close()
	}
	t.idle.close()
	t.p.stop()
}

// slice puts the program under each of its loads once.
func (t *trial) slice(d time.Duration) error {
	for _, l := range t.loads {
		stop := t.profile(l.cpuName, d)
		before, err := t.p.usage()
		if err != nil {
			return err
		}
		if err := l.run(d); err != nil {
			return fmt.Errorf("%s, %s: %w", t.p.name, l.cpuName, err)
		}
		after, err := t.p.usage()
		if err != nil {
			return err
		}
		l.cpu += after.cpu - before.cpu
		stop()
	}
	return nil
}

// load is what a program works on: messages, or as many bytes as it can.
type load struct {
	cpuName, p99Name string
	conns            crowd
	rate, window     int // one of them is set

	cpu   time.Duration
	took  []time.Duration
	bytes int64
}

func (l *load) run(d time.Duration) error {
	if l.window > 0 {
		n, err := l.conns.bulk(d, l.window)
		l.bytes += n
		return err
	}
	took, err := l.conns.talk(l.rate, d)
	l.took = append(l.took, took...)
	return err
}

func (l *load) tell(put func(string, float64)) {
	if l.window > 0 {
		put(l.cpuName, l.cpu.Seconds()/(float64(l.bytes)/1e9))
		return
	}
	slices.Sort(l.took)
	put(l.cpuName, float64(l.cpu.Microseconds())/float64(len(l.took)))
	put(l.p99Name, l.took[len(l.took)*99/100].Seconds()*1000)
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
	if err == nil && t.profiled() {
		err = writeProfile(t.socket(), "heap", filepath.Join(t.o.profile, fmt.Sprintf("heap-%d.pprof", n)))
	}
	return c, (opened.cpu - before.cpu) / time.Duration(n), float64(after.rss-before.rss) / float64(n) / 1024, err
}

func (t *trial) webSockets(ctx context.Context) error {
	c, cpu, memory, err := t.grow(ctx, t.o.idle, t.world.webSocket(t.p.addr), crowd.touch)
	if err != nil {
		return err
	}
	t.put(handshake, float64(cpu.Microseconds()))
	t.put(wsMemory, memory)
	return t.messages(c, wsCPU, wsP99)
}

// messages has a part of the crowd talk, and the rest stay.
func (t *trial) messages(c crowd, cpuName, p99Name string) error {
	busy := min(t.o.busy, len(c))
	t.loads = []*load{{cpuName: cpuName, p99Name: p99Name, conns: c[:busy], rate: t.o.rate}}
	t.idle = c[busy:]
	_, err := c[:busy].talk(t.o.rate, time.Second/2)
	return err
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
	t.put(tunnelIdle, memory)
	return t.messages(c, tunnelCPU, tunnelP99)
}

// bulk echoes much through a few tunnels. Squid can pass nothing through unread, so its tunnel is what passthrough is compared with.
func (t *trial) bulk(ctx context.Context) error {
	c, err := t.streams(ctx, t.world.tunnel(t.p.addr))
	if err != nil {
		return err
	}
	t.loads = append(t.loads, &load{cpuName: tunnelBulk, conns: c, window: t.o.window})
	if t.p.addr != gatewayAddr {
		put := t.put
		t.put = func(name string, value float64) {
			put(name, value)
			put(passthrough, value)
		}
		return nil
	}
	if c, err = t.streams(ctx, t.world.passed(t.p.addr)); err != nil {
		return err
	}
	t.loads = append(t.loads, &load{cpuName: passthrough, conns: c, window: t.o.window})
	return nil
}

func (t *trial) streams(ctx context.Context, dial dialer) (crowd, error) {
	c, err := gather(ctx, t.o.streams, dial)
	if err != nil {
		return nil, err
	}
	if err := c.touch(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// profile writes a CPU profile of the gateway while something is measured, if that was asked for.
func (t *trial) profile(name string, d time.Duration) (stop func()) {
	if !t.profiled() {
		return func() {}
	}
	return fetchProfile(t.socket(), t.o.profile, name, d)
}

func (t *trial) profiled() bool { return t.o.profile != "" && t.p.addr == gatewayAddr }

func (t *trial) socket() string { return filepath.Join(t.world.dir, "run", "hafen.sock") }

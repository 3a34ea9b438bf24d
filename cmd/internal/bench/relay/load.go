package main

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/net/ipv4"
)

// load is what the clients and their peer send each other.
type load struct {
	Name    string
	Clients int
	Rate    int // packets a second each way, of one client
	Burst   int // packets at once
	Size    int // bytes of one packet's data
}

// measured is what one run has shown.
type measured struct {
	Packets int     `json:"packets"`
	Lost    float64 `json:"lost_percent"`
	CPU     float64 `json:"cpu_us_per_packet"`
	P50     float64 `json:"latency_ms_p50"`
	P99     float64 `json:"latency_ms_p99"`
}

const (
	warmUp = 500 * time.Millisecond
	// tail is how long the last packets may take.
	tail      = 300 * time.Millisecond
	stampSize = 16
)

// counter counts what one receiver got of the window that is measured.
type counter struct {
	delays []int32 // microseconds
}

// window is the time that is measured, by the packets' own timestamps.
type window struct{ from, to int64 }

func (k *counter) take(data []byte, w window) {
	if len(data) < stampSize {
		return
	}
	if sent := int64(binary.BigEndian.Uint64(data)); sent >= w.from && sent < w.to {
		k.delays = append(k.delays, int32((now()-sent)/1000))
	}
}

// run drives the target with the load for a while.
func (l load) run(t target, d time.Duration) (*measured, error) {
	peer, err := newPeer()
	if err != nil {
		return nil, err
	}
	defer func() { _ = peer.conn.Close() }()
	clients, err := dialMany(t, peer.addr, l.Clients)
	defer closeAll(clients)
	if err != nil {
		return nil, err
	}
	w := window{from: now() + int64(warmUp)}
	w.to = w.from + int64(d)
	var wg sync.WaitGroup
	counters := make([]*counter, 0, len(clients)+1)
	receive := func(body func(k *counter)) {
		k := &counter{delays: make([]int32, 0, 1+2*l.Rate*int(d/time.Second))}
		counters = append(counters, k)
		wg.Add(1)
		go func() { defer wg.Done(); body(k) }()
	}
	receive(func(k *counter) { peer.receive(func(data []byte) { k.take(data, w) }) })
	for _, c := range clients {
		receive(func(k *counter) {
			for {
				frame, err := c.read()
				if err != nil {
					return
				}
				k.take(dataOf(frame), w)
			}
		})
	}
	sent := l.send(clients, peer, w, t.Via)
	cpu, err := l.watch(t.PID, w)
	sent.Wait()
	time.Sleep(tail)
	closeAll(clients)
	_ = peer.conn.Close()
	wg.Wait()
	if err != nil {
		return nil, err
	}
	return l.sum(counters, cpu, sent.count.Load()), nil
}

// watch takes the process's CPU at both ends of the window.
func (l load) watch(pid int, w window) (time.Duration, error) {
	time.Sleep(time.Duration(w.from - now()))
	before, err := cpuOf(pid)
	if err != nil {
		return 0, err
	}
	time.Sleep(time.Duration(w.to - now()))
	after, err := cpuOf(pid)
	return after - before, err
}

func (l load) sum(counters []*counter, cpu time.Duration, sent int64) *measured {
	var delays []int32
	for _, k := range counters {
		delays = append(delays, k.delays...)
	}
	m := &measured{Packets: len(delays)}
	if len(delays) == 0 {
		m.Lost = 100
		return m
	}
	slices.Sort(delays)
	at := func(q float64) float64 { return float64(delays[int(q*float64(len(delays)-1))]) / 1000 }
	m.P50, m.P99 = at(0.5), at(0.99)
	m.CPU = float64(cpu.Microseconds()) / float64(len(delays))
	m.Lost = 100 * float64(sent-int64(len(delays))) / float64(sent)
	return m
}

// senders are the two threads that send: for the clients, and for the peer.
type senders struct {
	sync.WaitGroup
	count atomic.Int64 // packets sent within the window
}

// send starts both senders. Clients' turns are spread evenly over time, so that a burst is one client's.
func (l load) send(clients []*client, peer *peer, w window, via string) *senders {
	s := new(senders)
	period := int64(time.Second) * int64(l.Burst) / int64(l.Rate) // of one client
	step := period / int64(len(clients))
	begin := now()
	turn := func(body func(c *client, at int64) error) {
		s.Add(1)
		go func() {
			defer s.Done()
			runtime.LockOSThread()
			for i := int64(0); ; i++ {
				at := begin + i*step
				if at >= w.to {
					return
				}
				sleepUntil(at)
				stamp := now()
				if stamp >= w.to {
					return // so far behind that the rest would be one burst
				}
				if body(clients[i%int64(len(clients))], stamp) != nil {
					return
				}
				if stamp >= w.from {
					s.count.Add(int64(l.Burst))
				}
			}
		}()
	}
	buf := make([]byte, channelHead+l.Size+4)
	turn(func(c *client, at int64) error {
		frame, data := packet(buf, l.Size)
		binary.BigEndian.PutUint64(data, uint64(at))
		return c.burst(frame, l.Burst)
	})
	msgs := make([]ipv4.Message, l.Burst)
	data := make([]byte, l.Size)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{data}
	}
	turn(func(c *client, at int64) error {
		binary.BigEndian.PutUint64(data, uint64(at))
		for i := range msgs {
			msgs[i].Addr = net.UDPAddrFromAddrPort(c.relayed)
		}
		return peer.sendAll(msgs)
	})
	return s
}

// burst sends one message n times, each a TLS record of its own, all in one segment.
func (c *client) burst(frame []byte, n int) error {
	if c.cork != nil {
		c.cork.on = true
	}
	for range n {
		if _, err := c.conn.Write(frame); err != nil {
			return err
		}
	}
	if c.cork != nil {
		return c.cork.flush()
	}
	return nil
}

// peer is the far end of all allocations: one socket.
type peer struct {
	conn  *net.UDPConn
	batch *ipv4.PacketConn
	addr  netip.AddrPort
}

func newPeer() (*peer, error) {
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.ParseIP(clientAddr)})
	if err != nil {
		return nil, err
	}
	if err := forceBuffers(conn); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return &peer{conn: conn, batch: ipv4.NewPacketConn(conn), addr: conn.LocalAddr().(*net.UDPAddr).AddrPort()}, nil
}

func (p *peer) sendAll(msgs []ipv4.Message) error {
	for len(msgs) > 0 {
		n, err := p.batch.WriteBatch(msgs, 0)
		if err != nil {
			return err
		}
		msgs = msgs[n:]
	}
	return nil
}

func (p *peer) receive(take func(data []byte)) {
	msgs := make([]ipv4.Message, 64)
	for i := range msgs {
		msgs[i].Buffers = [][]byte{make([]byte, 2048)}
	}
	for {
		n, err := p.batch.ReadBatch(msgs, 0)
		if err != nil {
			return
		}
		for _, m := range msgs[:n] {
			take(m.Buffers[0][:m.N])
		}
	}
}

// dialMany makes n clients, some at a time. Those that were made come with the error too.
func dialMany(t target, peer netip.AddrPort, n int) ([]*client, error) {
	const atOnce = 16
	clients := make([]*client, n)
	errs := make([]error, n)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range atOnce {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for i := next.Add(1) - 1; i < int64(n); i = next.Add(1) - 1 {
				// A gateway's port may be one that its region remembers from an earlier client, and refuses (437): that one tries again.
				for range 3 {
					if clients[i], errs[i] = dial(t, peer); errs[i] == nil {
						break
					}
				}
			}
		}()
	}
	wg.Wait()
	made := clients[:0]
	var failed error
	for i, c := range clients {
		if errs[i] != nil {
			failed = fmt.Errorf("a client of %s: %w", t.Name, errs[i])
			continue
		}
		made = append(made, c)
	}
	return made, failed
}

// idleCost is what sessions cost that carry nothing.
type idleCost struct {
	Sessions int     `json:"sessions"`
	Memory   float64 `json:"kib_per_session"`
	SetUp    float64 `json:"setup_cpu_us"`
}

// idle opens sessions and lets them be. settle is how long memory has for coming down.
func idle(t target, sessions int, settle time.Duration) (*idleCost, error) {
	peer, err := newPeer()
	if err != nil {
		return nil, err
	}
	defer func() { _ = peer.conn.Close() }()
	warm, err := dialMany(t, peer.addr, 20) // what the first ones cost is the program's own
	closeAll(warm)
	if err != nil {
		return nil, err
	}
	memory, err := memoryOf(t.PID, "VmRSS:")
	if err != nil {
		return nil, err
	}
	cpu, err := cpuOf(t.PID)
	if err != nil {
		return nil, err
	}
	clients, err := dialMany(t, peer.addr, sessions)
	defer closeAll(clients)
	if err != nil {
		return nil, err
	}
	used, err := cpuOf(t.PID)
	if err != nil {
		return nil, err
	}
	time.Sleep(settle)
	held, err := memoryOf(t.PID, "VmRSS:")
	if err != nil {
		return nil, err
	}
	n := float64(sessions)
	return &idleCost{sessions, float64(held-memory) / 1024 / n, float64((used - cpu).Microseconds()) / n}, nil
}

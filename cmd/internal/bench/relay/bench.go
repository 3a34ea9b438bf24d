package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
)

// loads are packets as long as video's, and one of audio alone.
var loads = []load{
	{"20x500", 20, 500, 1, 1200},
	{"20x500 burst 10", 20, 500, 10, 1200},
	{"200x100", 200, 100, 1, 1200},
	{"200x200 burst 5", 200, 200, 5, 1200},
	{"20x3000 burst 10", 20, 3000, 10, 1200},
	{"audio 500x50", 500, 50, 1, 100},
	{"2000x5", 2000, 5, 1, 1200}, // as much as 20x500, in a hundred times as many sessions
}

// narrow are the paths that are measured with every congestion control that the kernel allows.
var narrow = []path{
	{Name: "shaped 600", Rate: 600_000, Kind: "tbf"},
	{Name: "policed 600", Rate: 600_000, Kind: "police"},
	{Name: "shaped 300", Rate: 300_000, Kind: "tbf"},
	{Name: "shaped 600 loss 2%", Rate: 600_000, Kind: "tbf", Loss: 2},
	{Name: "shaped 600 two audio", Rate: 600_000, Kind: "tbf"},
	{Name: "shaped 600 reports", Rate: 600_000, Kind: "tbf"}, // which the sender doesn't heed
}

// paths are all narrow ones. The congestion control is what programs have that choose none.
func paths() ([]path, error) {
	text, err := os.ReadFile("/proc/sys/net/ipv4/tcp_allowed_congestion_control")
	if err != nil {
		return nil, err
	}
	var list []path
	for _, p := range narrow {
		for _, p.Congestion = range strings.Fields(string(text)) {
			named := p
			named.Name += " " + p.Congestion
			list = append(list, named)
		}
	}
	return list, nil
}

type bench struct {
	*options
	world   *world
	ctx     context.Context
	out     io.Writer
	log     io.Writer
	running []*server
	rows    []row
}

// row is one run of one server.
type row struct {
	Round  int       `json:"round"`
	Server string    `json:"server"`
	Via    string    `json:"via"`
	What   string    `json:"what"`
	Load   *measured `json:"load,omitempty"`
	Idle   *idleCost `json:"idle,omitempty"`
	Call   *heard    `json:"call,omitempty"`
	Size   *sized    `json:"size,omitempty"`
}

func (b *bench) stop() {
	for _, s := range b.running {
		s.stop()
	}
	b.running = nil
}

func (b *bench) start(name string) (*server, error) {
	s, err := b.world.start(b.ctx, name, b.hafen)
	if err == nil {
		b.running = append(b.running, s)
	}
	return s, err
}

// wanted tells whether a load or a path is asked for.
func (b *bench) wanted(name string) bool {
	return b.loads == "" || slices.ContainsFunc(strings.Split(b.loads, ","), func(part string) bool { return strings.Contains(name, part) })
}

func (b *bench) run() error {
	if _, err := b.start("region"); err != nil {
		return err
	}
	var err error
	switch b.part {
	case "load":
		err = b.runLoads()
	case "idle":
		err = b.runIdle()
	case "narrow":
		err = b.runNarrow()
	case "beside":
		err = b.runBeside()
	case "size":
		err = b.runSize()
	default:
		return fmt.Errorf("there is no part %q", b.part)
	}
	if err != nil {
		return err
	}
	if b.json != "" {
		text, err := json.MarshalIndent(b.rows, "", " ")
		if err != nil {
			return err
		}
		if err := os.WriteFile(b.json, text, 0o644); err != nil {
			return err
		}
	}
	if b.part == "size" {
		return b.printSizes()
	}
	return b.print()
}

func (b *bench) startAll() ([]*server, error) {
	var list []*server
	for _, name := range strings.Split(b.servers, ",") {
		s, err := b.start(name)
		if err != nil {
			return nil, err
		}
		list = append(list, s)
	}
	return list, nil
}

// runLoads measures every load with every server, in turns.
func (b *bench) runLoads() error {
	servers, err := b.startAll()
	if err != nil {
		return err
	}
	for round := range b.rounds {
		for _, via := range strings.Split(b.via, ",") {
			for _, l := range loads {
				if !b.wanted(l.Name) {
					continue
				}
				for i := range servers {
					if err := b.runLoad(round, via, l, servers[(i+round)%len(servers)]); err != nil {
						return err
					}
				}
			}
		}
	}
	return nil
}

func (b *bench) runLoad(round int, via string, l load, s *server) error {
	stop := b.record(s, via+"-"+l.Name)
	m := new(measured)
	err := b.world.inside(spec{Role: "load", Target: s.target(via), Load: l, Duration: b.duration}, m)
	stop()
	if err != nil {
		if b.ctx.Err() != nil {
			return b.ctx.Err()
		}
		fmt.Fprintf(b.log, "%d %s %s %s: no run: %v\n", round, via, l.Name, s.name, err)
		return nil
	}
	fmt.Fprintf(b.log, "%d %s %s %s: %.2f µs, %.2f %% lost, %.2f / %.2f ms\n", round, via, l.Name, s.name, m.CPU, m.Lost, m.P50, m.P99)
	b.rows = append(b.rows, row{Round: round, Server: s.name, Via: via, What: l.Name, Load: m})
	return nil
}

// record has perf look at the server, if that is wanted.
func (b *bench) record(s *server, name string) (stop func()) {
	if b.perf == "" {
		return func() {}
	}
	file := filepath.Join(b.perf, strings.ReplaceAll(s.name+"-"+name, " ", "-")+".perf")
	cmd := exec.CommandContext(b.ctx, "perf", "record", "-q", "-g", "-F", "997", "-o", file, "-p", strconv.Itoa(s.cmd.Process.Pid),
		"sleep", strconv.Itoa(1+int(b.duration.Seconds())))
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(b.log, "bench: perf:", err)
		return func() {}
	}
	return func() { _ = cmd.Wait() }
}

// runIdle measures each server when it is new.
func (b *bench) runIdle() error {
	names := strings.Split(b.servers, ",")
	for round := range b.rounds {
		for i := range names {
			s, err := b.start(names[(i+round)%len(names)])
			if err != nil {
				return err
			}
			c := new(idleCost)
			err = b.world.inside(spec{Role: "idle", Target: s.target("tls"), Sessions: b.sessions, Duration: 5 * time.Second}, c)
			s.stop()
			b.running = slices.DeleteFunc(b.running, func(other *server) bool { return other == s })
			if err != nil {
				return fmt.Errorf("%s: %w", s.name, err)
			}
			fmt.Fprintf(b.log, "%d %s: %.1f KiB and %.0f µs a session\n", round, s.name, c.Memory, c.SetUp)
			b.rows = append(b.rows, row{Round: round, Server: s.name, Via: "tls", What: fmt.Sprintf("%d idle", b.sessions), Idle: c})
		}
	}
	return nil
}

// runNarrow has one call with each server on each narrow path.
func (b *bench) runNarrow() error {
	servers, err := b.startAll()
	if err != nil {
		return err
	}
	list, err := paths()
	if err != nil {
		return err
	}
	for _, p := range list {
		if !b.wanted(p.Name) {
			continue
		}
		if err := b.world.lay(p); err != nil {
			return err
		}
		c := call{Path: p, Video: 1_500_000, Audios: 1, Seconds: b.seconds}
		if strings.Contains(p.Name, "two audio") {
			c.Audios = 2
		}
		c.Reports = strings.Contains(p.Name, "reports")
		for round := range b.rounds {
			for _, s := range servers {
				h := new(heard)
				if err := b.world.inside(spec{Role: "call", Target: s.target("tls"), Call: c}, h); err != nil {
					return fmt.Errorf("%s %s: %w", s.name, p.Name, err)
				}
				fmt.Fprintf(b.log, "%s %s: audio %.0f / %.0f / %.0f ms, %.2f %% lost; video p95 %.0f ms, %.1f %% of it complete frames, %.0f %% of frames; path used %.0f %%, video %.0f %%\n",
					p.Name, s.name, h.AudioP50, h.AudioP95, h.AudioP99, h.AudioLost, h.VideoP95, h.Complete, h.Frames, h.Used, h.Video)
				b.rows = append(b.rows, row{Round: round, Server: s.name, Via: "tls", What: p.Name, Call: h})
			}
		}
	}
	return nil
}

// print prints the medians, and what they are of coturn's.
func (b *bench) print() error {
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	type key struct{ via, what, server string }
	var order []key
	groups := make(map[key][]row)
	for _, r := range b.rows {
		k := key{r.Via, r.What, r.Server}
		if groups[k] == nil {
			order = append(order, k)
		}
		groups[k] = append(groups[k], r)
	}
	slices.SortStableFunc(order, func(a, c key) int { return strings.Compare(a.via+a.what, c.via+c.what) })
	if b.part == "load" || b.part == "beside" {
		fmt.Fprintln(t, "via\tload\tserver\tCPU µs/packet\tof coturn\tlost %\tp50 ms\tp99 ms")
	} else if b.part == "idle" {
		fmt.Fprintln(t, "sessions\tserver\tKiB each\tof coturn\tCPU µs to set up\tof coturn")
	} else {
		fmt.Fprintln(t, "path\tserver\taudio p50\tp95\tp99 ms\tlost %\tvideo p95 ms\tcomplete %\tframes %\tpath used %\tvideo %")
	}
	for _, k := range order {
		rows, coturn := groups[k], groups[key{k.via, k.what, "coturn"}]
		switch {
		case rows[0].Load != nil:
			cpu := func(r row) float64 { return r.Load.CPU }
			fmt.Fprintf(t, "%s\t%s\t%s\t%.2f\t%s\t%.2f\t%.2f\t%.2f\n", k.via, k.what, k.server, median(rows, cpu), ratio(rows, coturn, cpu),
				median(rows, func(r row) float64 { return r.Load.Lost }), median(rows, func(r row) float64 { return r.Load.P50 }),
				median(rows, func(r row) float64 { return r.Load.P99 }))
		case rows[0].Idle != nil:
			memory, setUp := func(r row) float64 { return r.Idle.Memory }, func(r row) float64 { return r.Idle.SetUp }
			fmt.Fprintf(t, "%s\t%s\t%.1f\t%s\t%.0f\t%s\n", k.what, k.server, median(rows, memory), ratio(rows, coturn, memory),
				median(rows, setUp), ratio(rows, coturn, setUp))
		default:
			m := func(of func(h *heard) float64) float64 {
				return median(rows, func(r row) float64 { return of(r.Call) })
			}
			fmt.Fprintf(t, "%s\t%s\t%.0f\t%.0f\t%.0f\t%.2f\t%.0f\t%.1f\t%.0f\t%.0f\t%.0f\n", k.what, k.server,
				m(func(h *heard) float64 { return h.AudioP50 }), m(func(h *heard) float64 { return h.AudioP95 }), m(func(h *heard) float64 { return h.AudioP99 }),
				m(func(h *heard) float64 { return h.AudioLost }), m(func(h *heard) float64 { return h.VideoP95 }), m(func(h *heard) float64 { return h.Complete }),
				m(func(h *heard) float64 { return h.Frames }), m(func(h *heard) float64 { return h.Used }), m(func(h *heard) float64 { return h.Video }))
		}
	}
	return t.Flush()
}

func median(rows []row, of func(row) float64) float64 {
	list := make([]float64, 0, len(rows))
	for _, r := range rows {
		list = append(list, of(r))
	}
	slices.Sort(list)
	return (list[len(list)/2] + list[(len(list)-1)/2]) / 2
}

// ratio is the median of the ratios of the same rounds.
func ratio(rows, base []row, of func(row) float64) string {
	var list []row
	ratios := make(map[int]float64)
	for _, r := range rows {
		for _, c := range base {
			if c.Round == r.Round && of(c) > 0 {
				ratios[len(list)] = of(r) / of(c)
				list = append(list, row{Round: len(list)})
			}
		}
	}
	if len(list) == 0 {
		return "-"
	}
	return fmt.Sprintf("%.2f", median(list, func(r row) float64 { return ratios[r.Round] }))
}

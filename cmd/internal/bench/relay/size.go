package main

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
)

// sizes are how many calls a gateway is measured with.
var sizes = []int{10, 25, 50, 100, 200}

// videoCall is one session of a call at 1.5 Mbit/s: some 175 packets a second each way, a video frame at a time.
func videoCall(sessions int) load {
	return load{fmt.Sprintf("%d calls", sessions), sessions, 175, 5, 1200}
}

// sized is what so many calls took of a gateway that was new.
type sized struct {
	Sessions int     `json:"sessions"`
	Rate     float64 `json:"packets_per_second"`
	Cores    float64 `json:"cores"`
	Memory   float64 `json:"mib_at_most"`
}

// runSize measures the processors and the memory of more and more calls at once, each number in a process of its own.
func (b *bench) runSize() error {
	for round := range b.rounds {
		for _, name := range strings.Split(b.servers, ",") {
			for _, n := range sizes {
				if err := b.size(round, name, n); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func (b *bench) size(round int, name string, sessions int) error {
	s, err := b.start(name)
	if err != nil {
		return err
	}
	defer func() {
		s.stop()
		b.running = slices.DeleteFunc(b.running, func(other *server) bool { return other == s })
	}()
	l := videoCall(sessions)
	if err := b.runLoad(round, "tls", l, s); err != nil {
		return err
	}
	last := len(b.rows) - 1
	if last < 0 || b.rows[last].What != l.Name || b.rows[last].Server != s.name {
		return nil // there was no run, and it was said why
	}
	memory, err := memoryOf(s.cmd.Process.Pid, "VmHWM:")
	if err != nil {
		return err
	}
	m := b.rows[last].Load
	rate := float64(m.Packets) / b.duration.Seconds()
	b.rows[last].Size = &sized{sessions, rate, m.CPU * rate / 1e6, float64(memory) / (1 << 20)}
	return nil
}

// printSizes prints the medians.
func (b *bench) printSizes() error {
	t := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "server\tsessions\tpackets/s\tcores\tmemory MiB\tlost %\tp99 ms")
	for _, name := range strings.Split(b.servers, ",") {
		for _, n := range sizes {
			rows := slices.DeleteFunc(slices.Clone(b.rows), func(r row) bool { return r.Server != name || r.Size == nil || r.Size.Sessions != n })
			if len(rows) == 0 {
				continue
			}
			fmt.Fprintf(t, "%s\t%d\t%.0f\t%.2f\t%.0f\t%.2f\t%.1f\n", name, n, median(rows, func(r row) float64 { return r.Size.Rate }),
				median(rows, func(r row) float64 { return r.Size.Cores }), median(rows, func(r row) float64 { return r.Size.Memory }),
				median(rows, func(r row) float64 { return r.Load.Lost }), median(rows, func(r row) float64 { return r.Load.P99 }))
		}
	}
	return t.Flush()
}

// Relay measures what relaying costs and what a call on a narrow path sounds like: in Debian's coturn, in pion/turn used plainly, and in the
// gateway, with the same load in the same run.
//
//	go run ./cmd/internal/bench/relay [-rounds 5] [-servers coturn,hafen] [-via tls] [-json FILE]      CPU, loss, latency
//	go run ./cmd/internal/bench/relay -part idle                                                    memory and CPU of sessions
//	go run ./cmd/internal/bench/relay -part narrow [-seconds 20]                                    a call on a narrow path
//	go run ./cmd/internal/bench/relay -part beside                                                  healthy clients beside two slow ones
//	go run ./cmd/internal/bench/relay -part size -servers hafen                                     processors and memory of so many calls
//
// It makes two network namespaces, so it needs root: the servers in one, clients and peers in the other. CPU is the server's process alone,
// as the operating system counts it, and is divided by the packets that arrived, both ways. The servers take turns within a round, in changing
// order, and the table has the medians.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	hafen, part, servers, via, loads, json, perf string
	rounds, sessions, seconds                    int
	duration                                     time.Duration
	role, dir                                    string
}

func main() { os.Exit(run(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }

func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	o := options{}
	flags := flag.NewFlagSet("relay", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.hafen, "hafen", "", "the gateway's binary; built when empty")
	flags.StringVar(&o.part, "part", "load", "what is measured: load, idle, narrow, beside or size")
	flags.StringVar(&o.servers, "servers", strings.Join(allServers, ","), "which servers")
	flags.StringVar(&o.via, "via", "tls,tcp,udp", "how clients come")
	flags.StringVar(&o.loads, "loads", "", "only loads and paths whose names contain one of these")
	flags.StringVar(&o.json, "json", "", "write all runs into this file")
	flags.StringVar(&o.perf, "perf", "", "record the servers' CPU with perf into this directory")
	flags.IntVar(&o.rounds, "rounds", 5, "how often everything is measured")
	flags.IntVar(&o.sessions, "sessions", 2000, "idle sessions")
	flags.IntVar(&o.seconds, "seconds", 20, "length of a call")
	flags.DurationVar(&o.duration, "duration", 3*time.Second, "of each measurement under load")
	flags.StringVar(&o.role, "role", "", "")
	flags.StringVar(&o.dir, "dir", "", "")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var err error
	switch o.role {
	case "pion":
		err = servePion(o.dir)
	case "people":
		// Each of its goroutines is a client's or a sender's, and is to wait for the kernel's scheduler alone: with a processor of Go's for each
		// of the machine's, some milliseconds of what was measured at the 99th percentile were the generator's own queue.
		runtime.GOMAXPROCS(4 * runtime.NumCPU())
		err = people(stdin, stdout)
	default:
		err = o.measure(ctx, stdout, stderr)
	}
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

// spec is one task for the process in the clients' namespace.
type spec struct {
	Role     string
	Target   target
	Load     load
	Call     call
	Duration time.Duration
	Sessions int
}

// people is the process in the clients' namespace: one task, one answer.
func people(in io.Reader, out io.Writer) error {
	var s spec
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		return err
	}
	var answer any
	var err error
	switch s.Role {
	case "try":
		answer, err = idle(s.Target, 1, 0)
	case "load":
		answer, err = s.Load.run(s.Target, s.Duration)
	case "idle":
		answer, err = idle(s.Target, s.Sessions, s.Duration)
	case "call":
		answer, err = s.Call.run(s.Target)
	}
	if err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(answer)
}

// inside has a task done in the clients' namespace.
func (w *world) inside(s spec, answer any) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := json.Marshal(s)
	if err != nil {
		return err
	}
	cmd := exec.Command("ip", "netns", "exec", w.people, self, "-role", "people")
	var out, complaint bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(in), &out, &complaint
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, complaint.String())
	}
	if answer == nil {
		return nil
	}
	return json.Unmarshal(out.Bytes(), answer)
}

func (o *options) measure(ctx context.Context, stdout, stderr io.Writer) error {
	if os.Getuid() != 0 {
		return errors.New("network namespaces need root")
	}
	dir, err := os.MkdirTemp("", "hafen-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if o.hafen == "" {
		o.hafen = filepath.Join(dir, "gateway") // not "hafen", which is the data of the server of that name
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", o.hafen, "hafen/cmd/hafen")
		build.Stderr = stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the gateway: %w", err)
		}
	}
	w, err := newWorld(dir)
	if err != nil {
		return err
	}
	defer w.close()
	b := &bench{options: o, world: w, ctx: ctx, out: stdout, log: stderr}
	defer b.stop()
	return b.run()
}

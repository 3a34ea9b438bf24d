// Proxy measures what a WebSocket, a long-poll and a CONNECT tunnel cost in the gateway, beside HAProxy and Squid with the same TLS in front
// and the same load, in the same run.
//
//	go run ./cmd/internal/bench/proxy [-rounds 3] [-json] [-hafen bin/hafen]
//
// Everything runs in a network namespace of its own, on its loopback, so it needs root. Each round starts the programs anew. Under load
// they take turns of less than a second, so that whatever else the machine does falls on both alike. CPU is the process's own (user and
// system); memory is what the process grew by (RSS). The table has the medians of the rounds. A message is 100 bytes there and back.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"
)

// options are the flags.
type options struct {
	hafen    string
	rounds   int
	idle     int
	polls    int
	busy     int
	rate     int
	duration time.Duration
	streams  int
	window   int
	json     bool
	only     string
	profile  string
}

// inside marks the process that runs in the namespace.
const inside = "HAFEN_BENCH_INSIDE"

func main() { os.Exit(run(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) }

func run(args []string, getenv func(string) string, stdout, stderr io.Writer) int {
	o := options{}
	flags := flag.NewFlagSet("proxy", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.hafen, "hafen", "", "the gateway's binary; built when empty")
	flags.IntVar(&o.rounds, "rounds", 3, "how often everything is measured")
	flags.IntVar(&o.idle, "idle", 2000, "idle WebSockets and tunnels")
	flags.IntVar(&o.polls, "polls", 5000, "long-polls held at once, in the first round")
	flags.IntVar(&o.busy, "busy", 200, "WebSockets and tunnels that carry messages")
	flags.IntVar(&o.rate, "rate", 20, "messages a second on each")
	flags.DurationVar(&o.duration, "duration", 3*time.Second, "of each measurement under load")
	flags.IntVar(&o.streams, "streams", 20, "tunnels that carry as much as they can")
	flags.IntVar(&o.window, "window", 256<<10, "bytes under way on each of these")
	flags.BoolVar(&o.json, "json", false, "print JSON instead of a table")
	flags.StringVar(&o.only, "only", "", "one part alone: websocket, poll, connect, bulk")
	flags.StringVar(&o.profile, "profile", "", "write profiles of the gateway into this directory: its CPU under load, its heap beside idle connections")
	if err := flags.Parse(args); err != nil {
		return 2
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := o.enter(ctx, getenv, stdout, stderr)
	if err != nil {
		fmt.Fprintln(stderr, "bench:", err)
		return 1
	}
	return 0
}

// enter builds the gateway if need be and starts this program again inside of a network namespace of its own.
func (o *options) enter(ctx context.Context, getenv func(string) string, stdout, stderr io.Writer) error {
	if getenv(inside) != "" {
		return o.measure(ctx, stdout, stderr)
	}
	if os.Getuid() != 0 {
		return fmt.Errorf("a network namespace needs root")
	}
	dir, err := os.MkdirTemp("", "hafen-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	args := os.Args[1:]
	if o.hafen == "" {
		binary := dir + "/hafen"
		build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, "hafen/cmd/hafen")
		build.Stderr = stderr
		if err := build.Run(); err != nil {
			return fmt.Errorf("build the gateway: %w", err)
		}
		args = append([]string{"-hafen", binary}, args...)
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	child := exec.CommandContext(ctx, self, args...)
	child.Env = append(os.Environ(), inside+"=1")
	child.Stdout, child.Stderr = stdout, stderr
	child.Cancel = func() error { return child.Process.Signal(syscall.SIGTERM) }
	child.WaitDelay = 10 * time.Second
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	return child.Run()
}

// measure runs all rounds and prints what came out.
func (o *options) measure(ctx context.Context, stdout, stderr io.Writer) error {
	if out, err := exec.CommandContext(ctx, "ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		return fmt.Errorf("loopback: %w: %s", err, out)
	}
	dir, err := os.MkdirTemp("", "hafen-bench")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil { // Squid gives up being root
		return err
	}
	world, err := newWorld(dir)
	if err != nil {
		return err
	}
	defer world.close()
	r := newResults()
	for round := range o.rounds {
		fmt.Fprintf(stderr, "round %d of %d\n", round+1, o.rounds)
		if err := o.round(ctx, world, round, r); err != nil {
			_ = r.print(stderr) // what there is until now
			return err
		}
	}
	if o.json {
		e := json.NewEncoder(stdout)
		e.SetIndent("", "  ")
		return e.Encode(r.rows())
	}
	return r.print(stdout)
}

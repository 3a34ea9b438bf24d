package gateway

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/relay"
)

// Verdict is what a check of the checkup came to.
type Verdict string

// The verdicts, the best first. Skip is what was not asked for, or can't be known.
const (
	Pass Verdict = "PASS"
	Skip Verdict = "SKIP"
	Warn Verdict = "WARN"
	Fail Verdict = "FAIL"
)

// Finding is one line of a checkup: what was looked at, what was found and, unless all is well, what to do.
type Finding struct {
	Area    string  `json:"area"`
	About   string  `json:"about"`
	Verdict Verdict `json:"verdict"`
	Detail  string  `json:"detail"`
	Todo    string  `json:"todo,omitempty"`
	// Target is what was connected to, "TCP host:port": the firewall sheet's line that it tries. "": none.
	Target string `json:"target,omitempty"`
}

// CheckupOptions are the world of a checkup.
type CheckupOptions struct {
	// Config must be valid: see configs.Load.
	Config *configs.Config
	// Running: a gateway with this configuration runs here, and its ports are taken by it.
	Running bool
	// Patience bounds the whole. 0: 75 s, since a long-poll is held for a minute to see whether it is cut.
	Patience time.Duration
	// Now is the clock. nil: time.Now.
	Now func() time.Time
	// FileLimit is how many files may be open. nil: this process's hard limit.
	FileLimit func() (uint64, error)
	// DiskFree is the free space below a directory, and all of it. nil: the file system's.
	DiskFree func(dir string) (free, total uint64, err error)
}

// Checkup tries what a gateway with this configuration needs of its machine and of the cloud, with the same parts that the gateway
// itself is made of. It serves nobody and leaves nothing behind: no file, no port.
func Checkup(ctx context.Context, o CheckupOptions) ([]Finding, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Patience == 0 {
		o.Patience = 75 * time.Second
	}
	if o.FileLimit == nil {
		o.FileLimit = fileLimit
	}
	if o.DiskFree == nil {
		o.DiskFree = diskFree
	}
	ctx, cancel := context.WithTimeout(ctx, o.Patience)
	defer cancel()
	c, err := newCheckup(o)
	if err != nil {
		return nil, err
	}
	defer c.close()
	steps := []func(context.Context) []Finding{
		c.ports, c.files, c.disk, c.clock, c.names, c.certificates, c.proxy, c.callServers, c.regions, c.pac, c.store, c.reports,
	}
	found := make([][]Finding, len(steps))
	var wg sync.WaitGroup
	for i, step := range steps {
		wg.Go(func() { found[i] = step(ctx) })
	}
	wg.Wait()
	return slices.Concat(found...), nil
}

// checkup is a gateway of which only the ways out are made.
type checkup struct {
	CheckupOptions
	g *Gateway
}

func newCheckup(o CheckupOptions) (*checkup, error) {
	cfg := *o.Config
	cfg.Relay.Mode = "bridge" // the other modes keep a secret in data_dir, and a checkup makes no file
	g := &Gateway{opts: Options{Config: &cfg, Now: o.Now}, log: slog.New(slog.DiscardHandler), registry: prometheus.NewRegistry(), splicer: relay.NewSplicer(nil)}
	g.ctx, g.cancel = context.WithCancel(context.Background())
	g.bound.Store(&addresses{ports: wouldListen(&cfg)})
	dialer, err := newEgress(&cfg, g.listening)
	if err != nil {
		return nil, fmt.Errorf("checkup: %w", err)
	}
	g.handover = newHandover(nil, g.registry)
	g.now.Store(&generation{config: &cfg, dialer: dialer})
	for _, make := range []func() error{g.makeDatabase, g.makeRelay, g.makeSignaling} {
		if err := make(); err != nil {
			g.cancel()
			return nil, fmt.Errorf("checkup: %w", err)
		}
	}
	return &checkup{o, g}, nil
}

func (c *checkup) close() {
	c.g.cancel()
	_ = c.g.relay.Close()
	_ = c.g.signaling.Close()
	_ = c.g.splicer.Close()
	if c.g.database != nil {
		_ = c.g.database.Close()
	}
}

func fileLimit() (uint64, error) {
	var l syscall.Rlimit
	err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l)
	return l.Max, err
}

func diskFree(dir string) (free, total uint64, err error) {
	var s syscall.Statfs_t
	if err := syscall.Statfs(dir, &s); err != nil {
		return 0, 0, err
	}
	return s.Bavail * uint64(s.Bsize), s.Blocks * uint64(s.Bsize), nil
}

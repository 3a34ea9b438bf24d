// Package audit is the auditor's log, apart from the program's own: who connected whereto, who was refused, who logged in,
// and what was changed in the configuration. It is off until somebody asks for it, since it has what the program's log
// leaves out: clients' addresses in full, unless the configuration says otherwise.
//
//	log, err := audit.Open(audit.Options{File: "/var/log/hafen/audit.log", Retention: 90 * 24 * time.Hour})
//	log.Write(audit.Record{Event: "connect", Client: addr, Target: "call.example.net:443", Status: "ok"})
//
// Records go to a file of JSON lines, one file a day of which the old ones are deleted, or to a syslog server over TLS
// (RFC 5424 in the framing of RFC 5425), or to both. Write never waits: what a full disk or a dead server keeps from being
// written waits within a bound, and what is lost is counted and said in the log itself.
package audit

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"hafen/gateway/netpolicy"
)

// Record is one line. Fields that don't apply are empty.
type Record struct {
	Time time.Time `json:"time"`
	// Event is connection, connect, allocation, refused, login, logout, drain, config, start, stop or lost.
	Event string `json:"event"`
	// Client is its address, or its network where addresses are shortened.
	Client string `json:"client,omitempty"`
	User   string `json:"user,omitempty"`
	// Target is whereto: a host, host:port, or service/region over a rung.
	Target string `json:"target,omitempty"`
	Status string `json:"status,omitempty"`
	// Seconds and Bytes are of a session that has ended.
	Seconds float64 `json:"seconds,omitempty"`
	Bytes   int64   `json:"bytes,omitempty"`
	Detail  string  `json:"detail,omitempty"`
}

// Options say where records go. Without File and Syslog nothing is kept.
type Options struct {
	// Gateway is the host name in syslog messages.
	Gateway string
	File    string
	// Retention is how long the file's records are kept.
	Retention time.Duration
	// Syslog is a server, host:port, that takes RFC 5424 over TLS.
	Syslog string
	// Dial connects to the syslog server. Required with Syslog.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
	// FullAddresses leaves clients' addresses as they are; else they are shortened to their network.
	FullAddresses bool
	// Log is the program's own: it is told when records can't be written. nil: silent.
	Log *slog.Logger
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// Log takes records. A nil Log takes and keeps none.
type Log struct {
	opts  Options
	log   *slog.Logger
	sinks []*sink
	queue chan Record
	lost  atomic.Int64 // that found the queue full

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	close  sync.Once
}

const (
	// maxQueue is what may wait to be written: some seconds of a very busy gateway.
	maxQueue = 8192
	// batchTime is how long records may wait for company before they are written and synced.
	batchTime = time.Second
	// lastTime is what Close waits for.
	lastTime = 2 * time.Second
)

// Open begins to take records. It returns nil when nothing is asked for; an error when the file can't be opened.
func Open(o Options) (*Log, error) {
	if o.File == "" && o.Syslog == "" {
		return nil, nil
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	l := &Log{opts: o, log: o.Log, queue: make(chan Record, maxQueue)}
	if o.File != "" {
		f := &file{path: o.File, keep: o.Retention, now: o.Now}
		if err := f.open(); err != nil {
			return nil, fmt.Errorf("audit.file: %w; make the directory and give it to the user that hafen runs as", err)
		}
		l.sinks = append(l.sinks, &sink{to: f})
	}
	if o.Syslog != "" {
		l.sinks = append(l.sinks, &sink{to: &peer{addr: o.Syslog, host: o.Gateway, dial: o.Dial}})
	}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	l.wg.Go(l.run)
	return l, nil
}

// Write takes a record. It never waits.
func (l *Log) Write(r Record) {
	if l == nil {
		return
	}
	if r.Time.IsZero() {
		r.Time = l.opts.Now()
	}
	select {
	case l.queue <- r:
	default:
		l.lost.Add(1)
	}
}

// Shown is a client as records have it.
func (l *Log) Shown(a netip.Addr) string {
	if l == nil || !a.IsValid() {
		return ""
	}
	a = a.Unmap().WithZone("")
	if l.opts.FullAddresses {
		return a.String()
	}
	return netpolicy.Network(a).String()
}

// State tells whether records are kept, why they can't be written now, and how many were lost.
func (l *Log) State() (on bool, failure string, lost int64) {
	if l == nil {
		return false, "", 0
	}
	lost = l.lost.Load()
	for _, k := range l.sinks {
		why, n := k.state()
		failure, lost = cmp.Or(failure, why), lost+n
	}
	return true, failure, lost
}

// Close writes what waits and ends. What can't be written within two seconds is lost.
func (l *Log) Close() error {
	if l == nil {
		return nil
	}
	l.close.Do(func() {
		l.cancel()
		l.wg.Wait()
	})
	return nil
}

// run writes batches until Close, and then what is left.
func (l *Log) run() {
	var batch []Record
	ticker := time.NewTicker(batchTime)
	defer ticker.Stop()
	for {
		select {
		case r := <-l.queue:
			if batch = append(batch, r); len(batch) < maxQueue/8 {
				continue
			}
		case <-ticker.C:
		case <-l.ctx.Done():
			l.last(batch)
			return
		}
		l.write(l.ctx, batch)
		batch = batch[:0]
	}
}

func (l *Log) last(batch []Record) {
	for more := true; more; {
		select {
		case r := <-l.queue:
			batch = append(batch, r)
		default:
			more = false
		}
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastTime)
	defer cancel()
	l.write(ctx, batch)
	for _, k := range l.sinks {
		k.to.close()
	}
}

// write hands a batch to each place, and says once when one of them fails or works again.
func (l *Log) write(ctx context.Context, batch []Record) {
	for _, k := range l.sinks {
		switch failed, recovered := k.write(ctx, batch, l.opts.Now()); {
		case failed != nil:
			l.log.Error("the audit log can't be written", "err", failed)
		case recovered:
			l.log.Info("the audit log is written again")
		}
	}
}

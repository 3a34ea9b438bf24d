package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/gateway/defect"
	"hafen/gateway/netpolicy"
)

var (
	errClosed = &refusal{word: statusOK, why: "the gateway is stopping"}
	errIdle   = &refusal{word: statusTimeout, why: "nothing moved for too long"}
)

// client is a hijacked connection. Closing it closes what the server accepted; conn is the innermost connection, which
// is what bytes are read from and written to: a *net.TCPConn can be spliced in the kernel.
type client struct {
	net.Conn
	conn net.Conn
	head []byte // read already, to be read first
}

func newClient(outer net.Conn, head []byte) *client {
	c := &client{Conn: outer, conn: outer, head: append([]byte(nil), head...)}
	if d, ok := outer.(interface{ Detach() (net.Conn, []byte) }); ok {
		inner, rest := d.Detach()
		c.conn, c.head = inner, append(c.head, rest...)
	}
	return c
}

// fail tells the connection's owner, where it keeps such a thing, how it ended.
func (c *client) fail(word string, err error) {
	if f, ok := c.Conn.(interface{ Fail(string, error) }); ok && word != statusOK {
		f.Fail(word, err)
	}
}

// tunnel is one CONNECT from its head to its end.
type tunnel struct {
	p       *Proxy
	client  *client
	from    netip.AddrPort
	request string // the target as the client wrote it
	via     string // its Via header
	login   string // its Proxy-Authorization header, until it was judged
	target  Target
	verdict verdict
	began   time.Time

	accepted bool   // 200 was sent
	counted  string // the status word that it was counted by
	up, down atomic.Int64
	activity activity

	mu     sync.Mutex
	ended  bool
	cause  error    // why it ended; nil: both sides did
	remote net.Conn // the target's end; nil before it is dialled
	stop   func()   // ends the splicing of others; nil: it is ours

	watchdog *time.Timer // nil before bytes are copied
}

// take owns a hijacked connection from here on. The request's goroutine returns: a tunnel that waits needs neither its
// stack nor its buffers.
func (p *Proxy) take(r *http.Request, conn net.Conn) {
	c, ok := conn.(*client)
	if !ok {
		_ = conn.Close()
		return
	}
	t := &tunnel{p: p, client: c, from: clientOf(r), request: r.RequestURI, via: strings.Join(r.Header.Values("Via"), ", "), began: time.Now()}
	t.login = strings.Join(r.Header.Values("Proxy-Authorization"), ", ") // two of them are no credentials
	t.target, t.verdict = p.judge(r)
	if !p.enter(t) {
		_ = c.Close()
		return
	}
	go func() {
		if err := t.runCaught(); !errors.Is(err, errYielded) {
			t.finish(err)
		}
	}()
}

// finish is the tunnel's end in the books.
func (t *tunnel) finish(cause error) {
	defer t.p.wg.Done()
	t.end(cause)
	t.p.leave(t)
	t.report()
}

// enter counts a tunnel in, unless the proxy is closed; over a limit it is turned into a refusal.
func (p *Proxy) enter(t *tunnel) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	limit := p.policy.Load().config.Limits.ConnectionsPerClient
	switch {
	case limit > 0 && p.clients[netpolicy.Client(t.from.Addr())] >= limit:
		t.verdict.refused = &refusal{code: http.StatusTooManyRequests, word: statusLimit, why: "this client has as many tunnels as one may have (`limits.connections_per_client`)"}
	case len(p.tunnels) >= p.opts.MaxTunnels:
		t.verdict.refused = &refusal{code: http.StatusServiceUnavailable, word: statusLimit, why: "the gateway has as many tunnels as it can carry"}
	}
	p.tunnels[t] = struct{}{}
	p.clients[netpolicy.Client(t.from.Addr())]++
	p.wg.Add(1)
	return true
}

func (p *Proxy) leave(t *tunnel) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.tunnels, t)
	key := netpolicy.Client(t.from.Addr())
	if p.clients[key]--; p.clients[key] <= 0 {
		delete(p.clients, key)
	}
}

// runCaught is run; a defect ends this tunnel alone.
func (t *tunnel) runCaught() (err error) {
	defer t.p.opts.Defects.Catch(func(defect error) { err = defect })
	return t.run()
}

// run carries the tunnel to its end and says why it ended.
func (t *tunnel) run() error {
	defect.Provoke("tunnel", t.via)
	if r := t.admit(); r != nil {
		return t.refuse(r)
	}
	if t.verdict.kind == serviceRelay {
		return t.runRelay()
	}
	// The target is dialled before the 200, so that the client can be told why it does not work.
	if err := t.dial(); err != nil {
		return t.refuse(dialRefusal(err))
	}
	if err := t.accept(); err != nil {
		return err
	}
	return t.splice(t.look)
}

// admit is the verdict. Who has to log in first learns nothing of the policy before that.
func (t *tunnel) admit() *refusal {
	if r := t.verdict.refused; r != nil && r.word != statusPolicy {
		return r
	}
	login := t.login
	t.login = ""
	if r := t.p.auth.admit(t.p.ctx, t.p.policy.Load(), t.from.Addr(), login); r != nil {
		return r
	}
	return t.verdict.refused
}

// runRelay answers first: whether the target must be dialled at all is known only from what the client says.
func (t *tunnel) runRelay() error {
	if err := t.accept(); err != nil {
		return err
	}
	if err := t.peekRelay(); err != nil {
		return err
	}
	if isSTUN(t.client.head) && t.p.opts.STUN != nil {
		t.count(statusOK)
		if err := t.p.opts.STUN(t.client.conn, t.client.head, t.target.Host, t.from); err != nil {
			return &refusal{word: wordOf(err), why: "bridged", err: err}
		}
		return nil
	}
	if err := t.checkHello(); err != nil {
		return err
	}
	if err := t.dial(); err != nil {
		return dialRefusal(err)
	}
	return t.splice(nil)
}

func (t *tunnel) refuse(r *refusal) error {
	t.count(r.word)
	help := helpFor(t.p.policy.Load().config, t.from.Addr())
	r.answer(t.client.conn, r.body("CONNECT "+t.request, t.from.Addr(), help))
	return r
}

// dial connects to the target. It gives up when the proxy is closed.
func (t *tunnel) dial() error {
	ctx, cancel := context.WithTimeout(t.p.ctx, t.p.opts.DialTimeout)
	defer cancel()
	if t.via != "" {
		ctx = netpolicy.WithVia(ctx, t.via)
	}
	remote, err := t.p.opts.Dial(ctx, t.target.Host, t.target.Port, t.verdict.service)
	if t.p.ctx.Err() != nil && err != nil {
		return errClosed
	}
	if err != nil {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		_ = remote.Close()
		return t.cause
	}
	t.remote = remote
	return nil
}

func (t *tunnel) accept() error {
	_ = t.client.conn.SetWriteDeadline(time.Now().Add(t.p.opts.FirstBytesTimeout))
	if _, err := io.WriteString(t.client.conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return clientError(err)
	}
	_ = t.client.conn.SetWriteDeadline(time.Time{})
	t.accepted = true
	t.p.metrics.tunnels.Inc()
	return nil
}

func clientError(err error) *refusal {
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return &refusal{word: statusTimeout, why: "the client took too long", err: err}
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return &refusal{word: statusClient, why: "the client left before it said anything", err: err}
	}
	return &refusal{word: statusClient, why: "the client broke off", err: err}
}

// splice copies both ways until both sides have ended, one breaks, or nothing moves for too long. look, if any, reads
// what the client says first and decides whether it may pass; the target may speak meanwhile. Where others can go on from there,
// splice returns errYielded, and the goroutine may end.
func (t *tunnel) splice(look func() error) error {
	t.watch()
	up := t.flow(t.client.conn, t.remote, &t.up, t.p.metrics.up)
	down := t.flow(t.remote, t.client.conn, &t.down, t.p.metrics.down)
	done := t.start(down)
	err := t.firstBytes(up, look)
	if err == nil && t.p.opts.Splice != nil && !isTCP(t.client.conn) {
		down.yield()
		if errors.Is(<-done, errYielded) {
			if t.handOver() {
				return errYielded
			}
			down.yielding.Store(false)
			down.calm()
			done = t.start(down)
		}
	}
	if err == nil {
		err = up.run(nil)
	}
	if err != nil {
		err = t.broken(err)
		t.end(err)
	}
	<-done
	return err
}

// start runs a direction and ends the tunnel if that breaks. What it ended with, or nothing, is to be had from the channel.
func (t *tunnel) start(f *flow) <-chan error {
	done := make(chan error, 1)
	go func() {
		defer close(done)
		defer t.p.opts.Defects.Catch(func(err error) { t.end(err); done <- err })
		err := f.run(nil)
		if err != nil && !errors.Is(err, errYielded) {
			t.end(t.broken(err))
		}
		done <- err
	}()
	return done
}

// firstBytes passes on what the client says first, if it may.
func (t *tunnel) firstBytes(up *flow, look func() error) error {
	if look != nil {
		if err := look(); err != nil {
			return err
		}
	}
	t.count(statusOK)
	head := t.client.head
	t.client.head = nil
	return up.write(head)
}

// handOver has Options.Splice go on, if it can.
func (t *tunnel) handOver() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ended {
		return false
	}
	_ = t.remote.SetReadDeadline(time.Time{})
	stop, ok := t.p.opts.Splice(t.client.conn, t.remote, t)
	t.stop = stop
	return ok
}

// Moved implements Spliced.
func (t *tunnel) Moved(fromA bool, n int) {
	sum, total := &t.down, t.p.metrics.down
	if fromA {
		sum, total = &t.up, t.p.metrics.up
	}
	sum.Add(int64(n))
	total.Add(float64(n))
	t.activity.touch()
}

// HalfClosed implements Spliced. What goes on in the other direction is for the watchdog to judge.
func (t *tunnel) HalfClosed() {}

// Over implements Spliced.
func (t *tunnel) Over(atA bool, err error) {
	switch {
	case err == nil:
		t.finish(nil)
	case atA:
		t.finish(clientError(err))
	default:
		t.finish(targetError(err))
	}
}

func (t *tunnel) flow(src, dst net.Conn, moved *atomic.Int64, total prometheus.Counter) *flow {
	return &flow{src: src, dst: dst, moved: moved, total: total, activity: &t.activity, buffers: &t.p.buffers}
}

// broken says which side broke; a side that has reset the connection breaks both directions.
func (t *tunnel) broken(err error) *refusal {
	var said *refusal
	if errors.As(err, &said) {
		return said
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Addr != nil && t.remote.RemoteAddr() != nil && op.Addr.String() == t.remote.RemoteAddr().String() {
		return targetError(err)
	}
	return clientError(err)
}

func targetError(err error) *refusal {
	return &refusal{word: statusUpstream, why: "the target broke off", err: err}
}

// watch ends the tunnel when nothing has moved for too long. It is a timer, not a deadline on each read: one silent
// direction is no reason to end, and it also sees a direction that is stuck in a write.
func (t *tunnel) watch() {
	t.activity.touch()
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.watchdog = time.AfterFunc(t.idleLimit(), t.checkIdle)
	}
}

// idleLimit is how long nothing may move.
func (t *tunnel) idleLimit() time.Duration {
	if t.verdict.kind == serviceHost {
		return orDefault(t.p.opts.IdleTimeout, time.Hour)
	}
	return orDefault(t.p.opts.IdleTimeout, 10*time.Minute)
}

func (t *tunnel) checkIdle() {
	left := t.idleLimit() - t.activity.silence()
	if left <= 0 {
		t.end(errIdle)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.ended {
		t.watchdog.Reset(left)
	}
}

// end closes both sides, which ends whatever waits for them. The first cause counts.
func (t *tunnel) end(cause error) {
	t.mu.Lock()
	if t.ended {
		t.mu.Unlock()
		return
	}
	t.ended, t.cause = true, cause
	remote, stop := t.remote, t.stop
	if t.watchdog != nil {
		t.watchdog.Stop()
	}
	t.mu.Unlock()
	if cause != nil {
		t.client.fail(wordOf(cause), cause)
	}
	_ = t.client.Close()
	if t.client.conn != t.client.Conn {
		_ = t.client.conn.Close()
	}
	if remote != nil {
		_ = remote.Close()
	}
	if stop != nil {
		stop()
	}
}

// count counts the CONNECT, once: when it has become a tunnel that works, or at its end.
func (t *tunnel) count(word string) {
	if t.counted == "" {
		t.counted = word
		t.p.metrics.connects.WithLabelValues(word).Inc()
	}
}

// report is the tunnel's end in metrics and log.
func (t *tunnel) report() {
	word, why := statusOK, ""
	if t.cause != nil {
		word, why = wordOf(t.cause), t.p.logText(t.cause)
	}
	t.count(word)
	if t.accepted {
		t.p.metrics.tunnels.Dec()
	}
	target := t.target.String()
	if t.target.Host == "" {
		target = fmt.Sprintf("%q", t.request[:min(len(t.request), maxTarget)])
	}
	if t.p.opts.Ended != nil {
		t.p.opts.Ended(End{
			Client: t.from.Addr(), Target: target, Service: t.verdict.service, Status: word, Accepted: t.accepted,
			Took: time.Since(t.began), Bytes: t.up.Load() + t.down.Load(),
		})
	}
	t.p.log.LogAttrs(context.Background(), slog.LevelInfo, "connect",
		slog.String("status", word), slog.String("target", target), slog.String("service", t.verdict.service),
		slog.String("client", t.p.shown(t.from.Addr())), slog.Int64("up", t.up.Load()), slog.Int64("down", t.down.Load()),
		slog.Duration("took", time.Since(t.began)), slog.String("why", why))
}

// End is what can be said of a CONNECT when it has ended.
type End struct {
	Client   netip.Addr
	Target   string // host:port, or what the client wrote in its place, quoted
	Service  string // "": none
	Status   string
	Accepted bool // 200 was answered
	Took     time.Duration
	Bytes    int64
}

// logText is an error as logs may have it: without addresses, unless full addresses are wanted.
func (p *Proxy) logText(err error) string {
	if p.policy.Load().config.Log.FullAddresses {
		return err.Error()
	}
	return netpolicy.ErrorText(err)
}

// shown is the client as logs may show it: its network, unless full addresses are wanted.
func (p *Proxy) shown(a netip.Addr) string {
	if p.policy.Load().config.Log.FullAddresses || !a.IsValid() {
		return a.String()
	}
	return netpolicy.Network(a).String()
}

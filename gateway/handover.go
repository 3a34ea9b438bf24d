package gateway

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// A hand-over puts a new process of the program, most often a newer one, in the place of this one, and ends nothing:
//
//	this process                              the successor
//	starts it with copies of all sockets ──→  reads the configuration, makes all parts, binds what is new
//	                                     ←──  "ready": or "failed", and all stays as it was
//	lets go of the sockets; UDP clients that
//	have an allocation get sockets of their own
//	"go"                                 ──→  accepts: what has come meanwhile waited in the sockets' queues
//	serves what lives, to its end        ──→  hears how much is left, and passes on that it must end
//
// The sockets themselves are never closed, so no connection is refused.

// handoverTimeout is how long a successor may take until it is ready: it may have to wait for names, or for a share.
const handoverTimeout = time.Minute

// ErrNoHandover says why there can't be one.
var ErrNoHandover = errors.New("process 1, as in a container, can't hand over: start another container beside it and end this one by SIGTERM")

// handover is what a gateway knows of the processes before and after it.
type handover struct {
	inherited *Inheritance
	gone      chan struct{} // closed when a successor has taken over

	mu     sync.Mutex
	elders map[*channel]int // their live sessions
}

func newHandover(in *Inheritance, r prometheus.Registerer) *handover {
	h := &handover{inherited: in, gone: make(chan struct{}), elders: make(map[*channel]int)}
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hafen_build_elders", Help: "Processes from before an upgrade that still serve their sessions."},
			func() float64 { n, _ := h.left(); return float64(n) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hafen_build_elders_sessions", Help: "Sessions that processes from before an upgrade still serve."},
			func() float64 { _, n := h.left(); return float64(n) }),
	)
	return h
}

// left tells how many processes from before still live, and how many sessions they have.
func (h *handover) left() (processes, sessions int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, n := range h.elders {
		sessions += n
	}
	return len(h.elders), sessions
}

// tell passes a note to all processes from before.
func (h *handover) tell(n note) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.elders {
		_ = c.send(n)
	}
}

// forget leaves the processes from before to the successor.
func (h *handover) forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.elders {
		c.close()
	}
	clear(h.elders)
}

func (h *handover) isGone() bool {
	select {
	case <-h.gone:
		return true
	default:
		return false
	}
}

// Gone is closed when a successor has taken over: what lives here is served to its end, and then the process ends.
func (g *Gateway) Gone() <-chan struct{} { return g.handover.gone }

// takeOver waits until the process before this one has let go of the sockets.
func (g *Gateway) takeOver(ctx context.Context) error {
	in := g.handover.inherited
	if in == nil || in.elder == nil {
		return nil
	}
	g.awaitRegions(ctx)
	if err := in.elder.send(note{Kind: noteReady}); err != nil {
		return fmt.Errorf("the process before this one is gone: %w", err)
	}
	_, err := in.elder.await(noteGo, handoverTimeout, func(note) error { return nil })
	if err != nil {
		return fmt.Errorf("the process before this one did not let go: %w", err)
	}
	for _, c := range append(in.elders, in.elder) {
		g.handover.mu.Lock()
		g.handover.elders[c] = 0
		g.handover.mu.Unlock()
		g.wg.Go(func() { g.hear(c) })
	}
	context.AfterFunc(g.ctx, func() {
		for _, c := range append(in.elders, in.elder) {
			c.close()
		}
	})
	return nil
}

// awaitRegions gives the first answers of the regions a moment: whoever comes first should not have to wait for them.
func (g *Gateway) awaitRegions(ctx context.Context) {
	deadline := time.Now().Add(2 * time.Second)
	for !g.healthNow().Complete && time.Now().Before(deadline) && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// hear listens to a process from before until it ends.
func (g *Gateway) hear(c *channel) {
	for {
		n, err := c.receive()
		g.handover.mu.Lock()
		if err != nil {
			delete(g.handover.elders, c)
		} else if n.Kind == noteLive {
			g.handover.elders[c] = n.Live
		}
		g.handover.mu.Unlock()
		if err != nil {
			return
		}
	}
}

// Upgrade starts the program that is on the disk now and hands everything over to it. An error says why this process stays, as it
// was. After success it takes nothing new, and Gone is closed.
func (g *Gateway) Upgrade(ctx context.Context) (pid int, err error) {
	g.reloads.mu.Lock() // no reload meanwhile
	defer g.reloads.mu.Unlock()
	pid, err = g.upgrade(ctx)
	if err != nil {
		g.log.Error("not handed over, this process stays", "err", err)
		return 0, err
	}
	return pid, nil
}

func (g *Gateway) upgrade(ctx context.Context) (pid int, err error) {
	switch {
	case g.handover.isGone():
		return 0, errors.New("it is handed over already")
	case g.isDraining():
		return 0, errors.New("it is draining")
	case os.Getpid() == 1:
		return 0, ErrNoHandover
	case g.opts.Program == "":
		return 0, errors.New("the program's own file is not known")
	}
	c, err := g.startSuccessor()
	if err != nil {
		return 0, err
	}
	_, err = c.await(noteReady, handoverTimeout, func(n note) error {
		switch n.Kind {
		case notePID:
			pid = n.PID
		case noteFailed:
			return errors.New(n.Why)
		}
		return nil
	})
	if err != nil {
		c.close() // it ends by that, should it still live
		return 0, fmt.Errorf("the successor failed: %w", err)
	}
	g.letGo(c, pid)
	return pid, nil
}

// programChanged reports whether the file that this process was started from is another one now.
func (g *Gateway) programChanged() bool {
	running, err1 := os.Stat("/proc/self/exe")
	now, err2 := os.Stat(g.opts.Program)
	return err1 == nil && err2 == nil && !os.SameFile(running, now)
}

// letGo gives the sockets up, and tells the successor that it may begin.
func (g *Gateway) letGo(c *channel, pid int) {
	notify(fmt.Sprintf("MAINPID=%d", pid)) // while systemd still believes this process
	for _, s := range g.sockets {
		g.release(s)
	}
	g.sockets = nil
	_ = c.send(note{Kind: noteGo})
	close(g.handover.gone)
	g.handover.forget()
	g.log.Info("handed over", "successor", pid, "sessions", g.live(), "connections", g.mux.Counts().Open)
	g.wg.Go(func() { g.obey(c) })
	g.wg.Go(func() { g.report(c) })
}

// release stops listening on a socket whose copy the successor has.
func (g *Gateway) release(s *socket) {
	if s.udp != nil {
		g.relay.Release(s.udp)
		s.dropCopy()
		return
	}
	if u, ok := s.tcp.(interface{ SetUnlinkOnClose(bool) }); ok {
		u.SetUnlinkOnClose(false)
	}
	s.close()
}

// obey does what the successor passes on.
func (g *Gateway) obey(c *channel) {
	for {
		n, err := c.receive()
		switch {
		case err != nil:
			return // it has ended: whoever ends that one's group ends this one too
		case n.Kind == noteDrain:
			g.Drain(n.Wait)
		case n.Kind == noteStop:
			g.Drain(0)
			g.cancel()
		}
	}
}

// report tells the successor how much is left, until nothing is.
func (g *Gateway) report(c *channel) {
	defer c.close()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		_ = c.send(note{Kind: noteLive, Live: g.live()})
		select {
		case <-tick.C:
		case <-g.drained:
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// Retire serves what lives after a hand-over, for at most wait; Drained is closed at the end.
func (g *Gateway) Retire(wait time.Duration) {
	g.wg.Go(func() {
		deadline := time.Now().Add(wait)
		time.Sleep(time.Second) // whoever asked for it is being answered
		for g.live()+g.mux.Counts().Open > 0 && time.Now().Before(deadline) {
			select {
			case <-g.draining: // by the successor's word, which has a limit of its own
				return
			case <-g.ctx.Done():
				return
			case <-time.After(200 * time.Millisecond):
			}
		}
		g.Drain(0)
	})
}

// startSuccessor starts the program anew with copies of all sockets, and tells it what it can't read from files.
func (g *Gateway) startSuccessor() (*channel, error) {
	var t takeover
	files := []uintptr{0, 1, 2}
	defer func() {
		for _, fd := range files[3:] {
			_ = unix.Close(int(fd))
		}
	}()
	pass := func(fd int) int {
		files = append(files, uintptr(fd))
		return len(files) - 1
	}
	c, other, err := newChannel()
	if err != nil {
		return nil, err
	}
	t.Channel = pass(other)
	for _, s := range g.sockets {
		fd, err := s.duplicate()
		if err != nil {
			c.close()
			return nil, fmt.Errorf("%s %s: %w", s.key, s.addr, err)
		}
		t.Sockets = append(t.Sockets, takeoverSocket{s.key, s.place.network, s.addr, pass(fd)})
	}
	g.handover.mu.Lock()
	for elder := range g.handover.elders {
		if fd, err := copyDescriptor(elder.conn.(syscall.Conn)); err == nil {
			t.Elders = append(t.Elders, pass(fd))
		}
	}
	g.handover.mu.Unlock()
	if err := g.spawn(t, files); err != nil {
		c.close()
		return nil, err
	}
	return c, c.send(note{Kind: noteHello, Secret: g.relay.TestSecret()})
}

// duplicate copies the socket's descriptor.
func (s *socket) duplicate() (fd int, err error) {
	if s.udp != nil {
		if s.copy <= 0 {
			return 0, net.ErrClosed
		}
		return unix.FcntlInt(uintptr(s.copy), unix.F_DUPFD_CLOEXEC, 3)
	}
	return copyDescriptor(s.tcp.(syscall.Conn))
}

// copyDescriptor copies a descriptor. (os.File.Fd would do, but it takes the non-blocking mode from the socket, which the copy
// shares.)
func copyDescriptor(of syscall.Conn) (fd int, err error) {
	raw, err := of.SyscallConn()
	if err != nil {
		return 0, err
	}
	if failed := raw.Control(func(from uintptr) { fd, err = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 3) }); failed != nil {
		return 0, failed
	}
	return fd, err
}

// spawn runs the program once more. It runs in two steps: the first child starts the second and ends, so that the successor is a
// child of systemd's, which notices its end, and not of this process.
func (g *Gateway) spawn(t takeover, files []uintptr) error {
	text, err := json.Marshal(t)
	if err != nil {
		return err
	}
	env := make([]string, 0, len(g.opts.Environ)+2)
	for _, entry := range g.opts.Environ {
		switch name, _, _ := strings.Cut(entry, "="); name {
		case takeoverVariable, stepVariable, "LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "WATCHDOG_PID":
		default:
			env = append(env, entry)
		}
	}
	env = append(env, takeoverVariable+"="+string(text), fmt.Sprintf("%s=%d", stepVariable, len(files)))
	pid, err := syscall.ForkExec(g.opts.Program, g.opts.Args, &syscall.ProcAttr{Env: env, Files: files})
	if err != nil {
		return fmt.Errorf("start %s: %w", g.opts.Program, err)
	}
	var status syscall.WaitStatus
	for {
		_, err = syscall.Wait4(pid, &status, 0, nil)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil || status.ExitStatus() != 0 {
		return fmt.Errorf("%s can't be started: it ended with %d", g.opts.Program, status.ExitStatus())
	}
	return nil
}

// stepVariable says that this is the first child of spawn, and how many descriptors there are.
const stepVariable = "_HAFEN_STEP"

// Step is the first child's whole life: see spawn. false: this process is none.
func Step(program string, args, environ []string) (code int, is bool) {
	var n uintptr
	if _, err := fmt.Sscan(lookup(environ, stepVariable), &n); err != nil {
		return 0, false
	}
	files := make([]uintptr, n)
	for i := range files {
		files[i] = uintptr(i)
	}
	var env []string
	for _, entry := range environ {
		if !strings.HasPrefix(entry, stepVariable+"=") {
			env = append(env, entry)
		}
	}
	if _, err := syscall.ForkExec(program, args, &syscall.ProcAttr{Env: env, Files: files}); err != nil {
		return 1, true
	}
	return 0, true
}

// lastAnswer has clients come back by another connection, to the successor, once their request here is answered.
func (g *Gateway) lastAnswer(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if g.handover.isGone() {
			w.Header().Set("Connection", "close") // over HTTP/2: GOAWAY
		}
		next.ServeHTTP(w, r)
	})
}

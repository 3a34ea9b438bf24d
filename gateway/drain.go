package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"
)

// Drain stops taking new work and lets live sessions go on for at most wait: /readyz answers 503 from now on, new
// connections are refused, and Drained is closed when the last session has ended or the time is over. Without a session nobody is refused:
// the sockets are closed, and what comes waits for the next process where systemd holds them. It returns at once.
func (g *Gateway) Drain(wait time.Duration) {
	g.drainOnce.Do(func() {
		g.log.Info("draining", "sessions", g.live(), "wait", wait.String())
		if g.idle() && g.reloads.mu.TryLock() { // a reload that is under way is not waited for
			g.closeSockets()
			g.reloads.mu.Unlock()
			g.deaf.Store(true)
		}
		close(g.draining)
		if !g.handover.isGone() {
			notify("STOPPING=1\nSTATUS=Draining")
		}
		g.handover.tell(note{Kind: noteDrain, Wait: wait})
		g.relay.Drain()
		g.signaling.Drain()
		g.wg.Add(1)
		go func() {
			defer g.wg.Done()
			defer close(g.drained)
			g.awaitIdle(wait)
		}()
	})
}

// awaitIdle returns when no session is left, when wait is over, or when the gateway is stopped.
func (g *Gateway) awaitIdle(wait time.Duration) {
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for !g.idle() {
		select {
		case <-tick.C:
		case <-deadline.C:
			return
		case <-g.ctx.Done():
			return
		}
	}
}

// Draining is closed when a drain has begun; Drained when it has ended.
func (g *Gateway) Draining() <-chan struct{} { return g.draining }

// Drained is closed when no session is left, or none may go on.
func (g *Gateway) Drained() <-chan struct{} { return g.drained }

func (g *Gateway) isDraining() bool {
	select {
	case <-g.draining:
		return true
	default:
		return false
	}
}

// live counts the sessions that a drain waits for: allocations, WebSockets, requests under way, tunnels, connections passed
// through.
func (g *Gateway) live() int {
	return g.relay.Live() + g.signaling.Live() + g.forward.Live() + int(g.passing.Load())
}

// idle reports whether nothing lives any more, here or in processes from before an upgrade.
func (g *Gateway) idle() bool {
	elders, _ := g.handover.left()
	return g.live() == 0 && elders == 0
}

// Stop ends everything at once and waits until ctx for what runs to let go. It may be called more than once.
func (g *Gateway) Stop(ctx context.Context) error {
	g.stopOnce.Do(func() { g.stopErr = g.stop(ctx) })
	return g.stopErr
}

// stop closes the parts in the order in which work flows; what does not let go until ctx is left behind.
func (g *Gateway) stop(ctx context.Context) error {
	g.handover.tell(note{Kind: noteStop})
	g.cancel()
	done := make(chan error, 1)
	go func() { done <- g.closeParts() }()
	select {
	case err := <-done:
		g.log.Info("stopped")
		return err
	case <-ctx.Done():
		return fmt.Errorf("not everything let go: %w", ctx.Err())
	}
}

// lastRequestTime is for what is under way when a drain has ended. A page takes some milliseconds.
const lastRequestTime = 500 * time.Millisecond

// lastRequests lets connections and requests that came before the drain's end be answered. Whoever was told to stop at once does not wait.
func (g *Gateway) lastRequests() {
	select {
	case <-g.drained:
	default:
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), lastRequestTime)
	defer cancel()
	for g.mux.Counts().Pending > 0 && ctx.Err() == nil {
		time.Sleep(5 * time.Millisecond)
	}
	for _, s := range g.servers {
		_ = s.Shutdown(ctx) // what does not end in time is closed
	}
}

func (g *Gateway) closeParts() error {
	g.watch.wg.Wait()
	g.reloads.mu.Lock()
	g.closeSockets() // first: nobody is accepted who would not be served
	g.reloads.mu.Unlock()
	g.lastRequests()
	errs := []error{g.mux.Close()}
	for _, s := range g.servers {
		if err := s.Close(); !errors.Is(err, net.ErrClosed) { // its socket was
			errs = append(errs, err)
		}
	}
	errs = append(errs, g.relay.Close(), g.signaling.Close(), g.forward.Close(), g.splicer.Close(), g.precall.Close(), g.runStore.Close(), g.status.Close(), g.certs().Close())
	g.wg.Wait()
	if g.database != nil {
		errs = append(errs, g.database.Close())
	}
	errs = append(errs, g.watch.audit.Load().Close())
	g.saveLast()
	return errors.Join(errs...)
}

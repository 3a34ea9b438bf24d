package signaling

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// socket is an open WebSocket: two connections spliced. Bytes go on as they come; a half-close goes on as a half-close. It may be silent
// for as long as it likes, TCP keep-alive finds the dead.
//
// Options.Splice moves the bytes, so that an idle socket costs its connections alone: the request that began it is over. What it can't
// take, such as a client whose frames must be known, two goroutines copy.
type socket struct {
	p          *Proxy
	downstream net.Conn // the client's
	upstream   net.Conn
	to         *target
	client     string // as logs show it
	started    time.Time
	early      []byte // came from the client behind its handshake
	up, down   atomic.Int64
	halfClosed atomic.Bool
	moved      int64 // up and down when keepAlive last looked

	mu     sync.Mutex
	ended  bool
	status string
	cause  error
	stop   func()      // ends the splicing of others; nil: it is ours
	hush   *time.Timer // since one half was closed, in the splicing of others
}

// afterHalfClose is how long the open half of a socket may be silent once the other one is closed: a peer that does not
// care to answer a close must not keep the rest for ever.
const afterHalfClose = time.Minute

// smallBuffer is what an idle direction holds: signaling messages are short. A busy one borrows a larger buffer.
const smallBuffer = 512

// run hands the socket to its goroutines and returns.
func (s *socket) run() {
	p := s.p
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		s.end(statusOK, errStopped)
		return
	}
	p.sockets[s] = struct{}{}
	p.wg.Add(1)
	p.mu.Unlock()
	p.webSockets.Add(1)
	p.metrics.webSockets.Inc()
	if !s.handOver() {
		go s.splice()
	}
}

// handOver has Options.Splice move the bytes, if it can.
func (s *socket) handOver() bool {
	if s.p.opts.Splice == nil {
		return false
	}
	client := s.downstream
	if d, ok := client.(interface{ Detach() (net.Conn, []byte) }); ok {
		beneath, rest := d.Detach()
		client, s.early = beneath, append(s.early, rest...)
	}
	if len(s.early) > 0 {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return false // Close was faster
	}
	stop, ok := s.p.opts.Splice(client, s.upstream, s.p.opts.SlowReader, s)
	s.stop = stop
	return ok
}

// Moved implements Spliced.
func (s *socket) Moved(fromA bool, n int) {
	if fromA {
		s.count(&s.up, s.p.metrics.up, n)
	} else {
		s.count(&s.down, s.p.metrics.down, n)
	}
}

// HalfClosed implements Spliced.
func (s *socket) HalfClosed() {
	s.halfClosed.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended || s.hush != nil {
		return
	}
	before := s.up.Load() + s.down.Load()
	s.hush = time.AfterFunc(afterHalfClose, func() {
		now := s.up.Load() + s.down.Load()
		if now == before {
			s.end(statusTimeout, os.ErrDeadlineExceeded)
			return
		}
		before = now
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.ended {
			s.hush.Reset(afterHalfClose)
		}
	})
}

// Over implements Spliced.
func (s *socket) Over(atA bool, err error) {
	defer s.p.wg.Done()
	switch {
	case err == nil:
		s.end(statusOK, nil)
	case atA:
		s.end(worded(err, statusClient), err)
	default:
		s.end(worded(err, statusUpstream), err)
	}
	s.forget()
}

// splice copies both ways until both halves are closed or one has failed.
func (s *socket) splice() {
	defer s.p.wg.Done()
	defer s.forget()
	defer s.p.opts.Defects.Catch(s.broke)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer s.p.opts.Defects.Catch(s.broke)
		s.copy(s.downstream, s.upstream, &s.down, s.p.metrics.down, statusClient, statusUpstream)
	}()
	if s.sendEarly() {
		s.copy(s.upstream, s.downstream, &s.up, s.p.metrics.up, statusUpstream, statusClient)
	}
	<-done
	s.end(statusOK, nil)
}

// broke ends a WebSocket whose handling has met a defect.
func (s *socket) broke(err error) { s.end(statusProtocol, err) }

func (s *socket) sendEarly() bool {
	if len(s.early) == 0 {
		return true
	}
	_, err := s.upstream.Write(s.early)
	s.count(&s.up, s.p.metrics.up, len(s.early))
	s.early = nil
	if err != nil {
		s.end(statusUpstream, err)
	}
	return err == nil
}

// copy moves bytes from one side to the other until it ends. Errors are named after the side they came from.
func (s *socket) copy(to, from net.Conn, sum *atomic.Int64, total prometheus.Counter, toStatus, fromStatus string) {
	small := make([]byte, smallBuffer)
	buf := small
	var until time.Time
	for {
		if s.halfClosed.Load() {
			_ = from.SetReadDeadline(time.Now().Add(afterHalfClose)) // fails only on a closed conn, as Read does then
		}
		n, err := from.Read(buf)
		if n > 0 {
			s.count(sum, total, n)
			if now := time.Now(); until.Sub(now) < s.p.opts.SlowReader/2 {
				until = now.Add(s.p.opts.SlowReader)
				_ = to.SetWriteDeadline(until) // as above
			}
			if _, werr := to.Write(buf[:n]); werr != nil {
				s.end(worded(werr, toStatus), werr)
				break
			}
		}
		if err != nil {
			s.finish(to, from, err, fromStatus)
			break
		}
		buf = s.fit(buf, small, n)
	}
	if len(buf) == bufferSize {
		s.p.buffers.Put(buf)
	}
}

// fit borrows a large buffer when the small one was full, and gives it back when little came.
func (s *socket) fit(buf, small []byte, n int) []byte {
	switch {
	case len(buf) == len(small) && n == len(small):
		return s.p.buffers.Get()
	case len(buf) != len(small) && n < len(small):
		s.p.buffers.Put(buf)
		return small
	}
	return buf
}

// finish passes on the end of one direction. TLS without a close_notify ends as often in practice as with one; WebSocket has a
// close of its own, so nothing is lost by it.
func (s *socket) finish(to, from net.Conn, err error, fromStatus string) {
	if !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		s.end(worded(err, fromStatus), err)
		return
	}
	half, ok := to.(interface{ CloseWrite() error })
	if !ok || half.CloseWrite() != nil {
		s.end(statusOK, nil)
		return
	}
	s.halfClosed.Store(true)
	_ = to.SetReadDeadline(time.Now().Add(afterHalfClose)) // wakes nobody, but bounds the Read that waits there
}

// worded is the status of an error on one side: a time-out is a time-out on both.
func worded(err error, side string) string {
	if classify(err) == statusTimeout {
		return statusTimeout
	}
	return side
}

func (s *socket) count(sum *atomic.Int64, total prometheus.Counter, n int) {
	sum.Add(int64(n))
	total.Add(float64(n))
}

// end closes both connections. The first call says how the socket ended.
func (s *socket) end(status string, cause error) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		return
	}
	s.ended, s.status, s.cause = true, status, cause
	stop := s.stop
	if s.hush != nil {
		s.hush.Stop()
	}
	s.mu.Unlock()
	_ = s.downstream.Close() // nobody is left to be told
	_ = s.upstream.Close()
	if stop != nil {
		stop()
	}
}

// forget is the socket's end in the books: one counter, one line.
func (s *socket) forget() {
	p := s.p
	p.mu.Lock()
	delete(p.sockets, s)
	p.mu.Unlock()
	p.webSockets.Add(-1)
	p.metrics.webSockets.Dec()
	p.metrics.requests.WithLabelValues(s.status).Inc()
	args := []any{
		"status", s.status, "host", s.to.host, "service", s.to.up.service,
		"duration", p.opts.Now().Sub(s.started).Round(time.Millisecond).String(), "up", s.up.Load(), "down", s.down.Load(), "client", s.client,
	}
	if s.cause != nil {
		args = append(args, "err", p.logText(s.cause))
	}
	p.log.Info("websocket ended", args...)
}

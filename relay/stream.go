package relay

import (
	"crypto/tls"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// fullChunk is the most that one write takes; a slow path gets what its governor allows. slowChunk is for streams without one, since
	// what is written can't be overtaken any more.
	fullChunk = 16 << 10
	slowChunk = 2600
	// chunkMessages is the most messages in one write: each is a TLS record, which takes some 30 bytes more.
	chunkMessages = 128
	// slowMemory is how long a path counts as slow after it has last made us wait.
	slowMemory = 10 * time.Second
	// youngPause is how long a new path's acknowledgement is waited for at a time.
	youngPause = 3 * time.Millisecond
	// StuckTimeout ends a stream that takes nothing at all.
	StuckTimeout = 20 * time.Second
)

var chunks = sync.Pool{New: func() any { return new([fullChunk]byte) }}

// stream is one framed byte stream: to a client, or to a region on a TCP or TLS rung. Messages go out through a queue, and
// delivering one never blocks. What comes in is read by its inlet.
//
// Where the socket beneath can be had, it is a loop's: a delivery writes at once if the kernel has room, and when it has none the loop
// tells when to go on. Where it can't be had (TLS inside another's TLS), a goroutine does blocking writes until the queue is empty.
type stream struct {
	conn   net.Conn      // a *tls.Conn, or the socket's connection
	io     io.ReadWriter // the plaintext: conn, or the socket itself
	owner  net.Conn      // what was handed over, and is to be closed
	loop   *loop
	socket *socket // nil: blocking
	inlet  inlet
	meter  *metrics
	// lost is called when a write has failed, not under the lock.
	lost func(error)
	// relayed counts the messages that were written.
	relayed func(messages, bytes int)

	mu       sync.Mutex
	queue    queue
	governor governor
	pause    time.Duration // the governor's, when it gave no room; 0: the kernel's notice is to be awaited
	alarm    alarm         // the pause's end
	draining bool          // the queue waits for room, or a goroutine is at work on it
	promised bool          // a flush is to come
	closed   bool
	err      error
	wg       sync.WaitGroup

	stuck atomic.Int64 // since when nothing was taken although something waits; 0: all is well
	delay atomic.Int64 // of what was written last, nanoseconds
	drops [kinds]atomic.Uint32
}

// redirector is a connection beneath TLS that can be put over other I/O: wire, and its like of the port's mux.
type redirector interface{ Redirect(rw io.ReadWriter) }

// newStream prepares conn, on which a handshake is over and nobody reads or writes.
func newStream(l *loop, conn net.Conn, maxAge time.Duration, m *metrics) *stream {
	if maxAge <= 0 {
		maxAge = defaultMaxAge
	}
	st := &stream{conn: conn, io: conn, owner: conn, loop: l, meter: m, queue: queue{maxAge: maxAge}}
	st.alarm.guest, st.alarm.call = st, func() { st.proceed(true) }
	switch c := conn.(type) {
	case *tls.Conn:
		if below, ok := c.NetConn().(redirector); ok {
			if st.socket = newSocket(l, c.NetConn(), st); st.socket != nil {
				below.Redirect(st.socket)
			}
		}
	default:
		if st.socket = newSocket(l, conn, st); st.socket != nil {
			st.io = st.socket
		}
	}
	return st
}

// own has owner closed with the stream. One that can be redirected closes the stream's socket in turn.
func (st *stream) own(owner net.Conn) {
	st.owner = owner
	if r, ok := owner.(redirector); ok && st.socket != nil && owner != st.conn {
		r.Redirect(st.socket)
	}
}

// nanoseconds is a clock for queues, which only goes up.
func nanoseconds() int64 { return int64(time.Since(clockStart)) }

var clockStart = time.Now()

// deliver sends messages, now or as soon as the path has room. They are copied.
func (st *stream) deliver(msgs [][]byte) { st.report(st.accept(msgs)) }

// accept is deliver; its error is for report. As elsewhere in this file the lock is given back even when a defect strikes, so that the
// stream can be ended.
func (st *stream) accept(msgs [][]byte) error {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed || st.err != nil {
		return nil
	}
	now := nanoseconds()
	if st.socket != nil && !st.draining && st.queue.empty() {
		msgs = st.express(msgs, now)
	}
	for _, msg := range msgs {
		if l, ok := st.queue.admit(msg); ok {
			st.queue.push(msg, l, now)
		}
	}
	if !st.draining && (len(msgs) > 0 || st.socket != nil && st.socket.kept()) {
		st.pump()
	}
	st.account()
	return st.err
}

// soon puts a message into the queue, which is written at the end of the loop's turn.
func (st *stream) soon(msg []byte) {
	if st.socket == nil {
		msgs := [1][]byte{msg}
		st.deliver(msgs[:])
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.closed || st.err != nil {
		return
	}
	if l, ok := st.queue.admit(msg); ok {
		st.queue.push(msg, l, nanoseconds())
	}
	switch {
	case st.draining:
		st.account() // the flush of a path that takes nothing may be long in coming
	case !st.promised:
		st.promised = true
		st.loop.flushLater(st)
	}
}

// flush implements flusher.
func (st *stream) flush() { st.report(st.writeQueue()) }

func (st *stream) writeQueue() error {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.promised = false
	if !st.draining && !st.closed && st.err == nil {
		st.pump()
	}
	st.account()
	return st.err
}

// broke implements guest.
func (st *stream) broke(defect error) {
	st.inlet.done = true
	st.socket.ignore()
	st.report(defect)
}

// express writes messages past the empty queue as long as the path has room, and returns the rest.
func (st *stream) express(msgs [][]byte, now int64) [][]byte {
	chunk := chunks.Get().(*[fullChunk]byte)
	defer chunks.Put(chunk)
	for len(msgs) > 0 && st.err == nil && !st.socket.kept() {
		limit := st.room(now)
		if limit == 0 {
			break
		}
		out, n := chunk[:0:limit], 0
		for len(msgs) > 0 && n < chunkMessages && len(out)+padded(len(msgs[0])) <= limit {
			if l, ok := st.queue.admit(msgs[0]); ok {
				out = appendPadded(out, msgs[0])
				l.sent()
				n++
			}
			msgs = msgs[1:]
		}
		st.err = st.write(out, n, 0)
	}
	return msgs
}

// room is how much one write may take now; 0: nothing. The caller has the lock.
func (st *stream) room(now int64) int {
	st.pause = 0
	g := &st.governor
	written, underway, full := st.socket.progress()
	if full {
		return 0
	}
	if written != g.written {
		g.wrote(written, now)
	}
	late := g.saw(underway, st.draining && g.slow == nil, now)
	if g.slow == nil && late < lateDelay {
		return st.young()
	}
	info := st.socket.path()
	switch {
	case g.slow == nil && late < info.minRTT+lateDelay:
		return st.young()
	case g.slow == nil:
		g.slowDown(late, info, now)
	case g.recovered(now):
		return fullChunk
	}
	room, wait := g.may(late, info, now)
	st.pause = wait
	if room == 0 && g.urges() {
		room = st.queue.urgent()
	}
	return min(room, fullChunk)
}

// young is room on a path that is not known to be slow. The caller has the lock.
func (st *stream) young() int {
	room := st.governor.young()
	if room == 0 {
		st.pause = youngPause
	}
	return room
}

// write writes one chunk. The caller has the lock, unless the stream is a blocking one.
func (st *stream) write(out []byte, messages int, delay time.Duration) error {
	if len(out) == 0 {
		return nil
	}
	if err := st.writeMessages(out); err != nil {
		return err
	}
	if st.socket != nil {
		st.governor.wrote(st.socket.total(), nanoseconds())
	}
	st.delay.Store(int64(delay))
	st.meter.queueDelay.Observe(delay.Seconds())
	if st.relayed != nil {
		st.relayed(messages, len(out))
	}
	return nil
}

// writeMessages writes whole messages. Over TLS each is a record of its own, and all of them one write to the socket: there are
// clients that take what one read of TLS gives them for one message, coturn's test client among them.
func (st *stream) writeMessages(out []byte) error {
	if _, secure := st.conn.(*tls.Conn); !secure || st.socket == nil {
		_, err := st.io.Write(out)
		return err
	}
	st.socket.cork()
	for len(out) > 0 {
		size, err := frameSize(out)
		if err != nil {
			return err // it was valid when it came
		}
		if _, err := st.io.Write(out[:padded(size)]); err != nil {
			return err
		}
		out = out[padded(size):]
	}
	return st.socket.uncork()
}

// pump writes from the queue until it is empty or the path has no room; then a goroutine waits for room. The caller has the lock.
func (st *stream) pump() {
	if st.socket != nil && st.advance() {
		return
	}
	st.draining = true
	st.stuck.Store(nanoseconds())
	if st.socket != nil {
		st.await()
		return
	}
	st.wg.Add(1)
	go st.drainBlocking()
}

// await has the loop call proceed when there may be room again. The caller has the lock.
func (st *stream) await() {
	if st.pause > 0 {
		st.loop.wakeAt(&st.alarm, nanoseconds()+int64(st.pause))
	} else {
		st.socket.await(true)
	}
}

// kick sends what TLS has written on its own, from within a read, and the socket had no room for.
func (st *stream) kick() {
	if st.socket == nil || !st.socket.kept() {
		return
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.draining && !st.closed && st.err == nil {
		st.pump()
	}
}

// advance writes what can be written without waiting; true when nothing is left to do. The caller has the lock.
func (st *stream) advance() bool {
	for st.err == nil && !st.closed {
		st.pause = 0
		flushed, err := st.socket.flush()
		switch {
		case err != nil:
			st.err = err
		case !flushed:
			return false
		case st.queue.empty():
			return true
		}
		now := nanoseconds()
		limit := st.room(now)
		if limit == 0 {
			return false
		}
		chunk := chunks.Get().(*[fullChunk]byte)
		out := st.queue.take(chunk[:0:limit], now)
		st.err = st.write(out, st.queue.taken, st.queue.delay)
		chunks.Put(chunk)
	}
	return true
}

// proceed goes on with the queue when a pause is over, or the socket has become writable.
func (st *stream) proceed(paused bool) { st.report(st.goOn(paused)) }

func (st *stream) goOn(paused bool) error {
	now := nanoseconds()
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.draining || st.socket == nil {
		return nil
	}
	if !paused {
		st.socket.await(false)
	}
	before := st.governor.acked
	done := st.advance()
	if paused && st.governor.acked == before {
		now = st.stuck.Load() // sleeping is no progress
	}
	err := st.settle(done, now)
	if !done {
		st.await()
	}
	return err
}

// drainBlocking writes until the queue is empty or the stream lost, with writes that block, not under the lock.
func (st *stream) drainBlocking() {
	defer st.wg.Done()
	defer st.loop.defects.Catch(st.report)
	chunk := chunks.Get().(*[fullChunk]byte)
	defer chunks.Put(chunk)
	for {
		out, messages, delay, err := st.takeBlocking(chunk)
		st.report(err)
		if len(out) == 0 {
			return
		}
		_ = st.conn.SetWriteDeadline(time.Now().Add(StuckTimeout))
		if err := st.write(out, messages, delay); err != nil {
			st.mu.Lock()
			st.err = err
			st.mu.Unlock()
		}
	}
}

// takeBlocking takes the next chunk from the queue; nothing: there is no more to do.
func (st *stream) takeBlocking(chunk *[fullChunk]byte) (out []byte, messages int, delay time.Duration, err error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	now := nanoseconds()
	out = st.queue.take(chunk[:0:slowChunk], now)
	messages, delay = st.queue.taken, st.queue.delay
	if st.closed || st.err != nil {
		out = nil
	}
	return out, messages, delay, st.settle(len(out) == 0, now)
}

// settle notes how far a drain has come, and returns what the stream has failed with. The caller has the lock.
func (st *stream) settle(done bool, now int64) error {
	st.account()
	st.draining = !done
	if done {
		now = 0
	}
	st.stuck.Store(now)
	return st.err
}

func (st *stream) report(err error) {
	if err != nil && st.lost != nil {
		st.lost(err)
	}
}

// account moves the queue's own counts to where others may read them. The caller has the lock.
func (st *stream) account() {
	for k, n := range st.queue.dropped {
		if n > 0 {
			st.queue.dropped[k] = 0
			st.drops[k].Add(n)
			st.meter.dropped[k].Add(float64(n))
		}
	}
}

// closeWrite ends our direction only, so that the last answer is read before the connection goes.
func (st *stream) closeWrite() {
	if c, ok := st.conn.(*tls.Conn); ok {
		_ = c.CloseWrite()
		return
	}
	if c, ok := st.io.(interface{ CloseWrite() error }); ok {
		_ = c.CloseWrite()
	}
}

// close ends the stream. It may be called more than once.
func (st *stream) close() {
	st.mu.Lock()
	first := !st.closed
	st.closed = true
	st.account()
	st.queue.clear()
	st.mu.Unlock()
	if !first {
		return
	}
	_ = st.conn.Close()
	if st.socket != nil {
		st.socket.close()
		st.loop.calm(&st.alarm)
	}
	if st.owner != st.conn {
		_ = st.owner.Close()
	}
}

// wait waits for the end of what close has ended.
func (st *stream) wait() { st.wg.Wait() }

// queued tells how long the oldest message has waited.
func (st *stream) queued() time.Duration {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.queue.age(nanoseconds())
}

// isStuck tells whether the other end has taken nothing for too long. A nil stream is never stuck.
func (st *stream) isStuck() bool {
	if st == nil {
		return false
	}
	since := st.stuck.Load()
	return since != 0 && time.Duration(nanoseconds()-since) > StuckTimeout
}

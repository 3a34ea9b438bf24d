package relay

import (
	"container/heap"
	"errors"
	"fmt"
	"maps"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"hafen/gateway/defect"
)

// This file is the machine that moves packets. What it is, in a page:
//
// A relayed packet is little work: one system call takes it in, a few hundred nanoseconds of ciphering and looking at its first
// bytes, one system call sends it on. With a goroutine for each direction of each client most of its cost is something else: the
// packet's arrival wakes a thread in Go's poller, which makes a goroutine ready, which another thread is woken for, which reads,
// then reads once more to be told that there is nothing, and sleeps again.
//
// So the sockets of the data path are taken out of Go's poller and watched by a few loops, each a goroutine
// with an epoll instance of its own, which seldom leaves its thread:
//
//	wait ──> events ──> for each socket: read what is there, pass it on ──> send what was put off ──> wait
//
// One loop has both legs of a session, so that a packet comes and goes within one turn of one thread. The rules:
//
//   - What a loop calls never blocks. Sockets are read and written with MSG_DONTWAIT by raw system calls, of which Go's scheduler
//     learns nothing; only waiting is a system call that it knows of. What may take time (connecting, ending a session with its log
//     line) is done by a goroutine beside.
//   - A descriptor is read by its loop only. It is written by anyone, under its lock: precall tests, retransmissions and the end of a
//     session come from other goroutines. It is closed by anyone too, so whoever uses its number holds its lock and looks whether it is
//     closed. An event may name a number that has become another socket's meanwhile: that one is read in vain, and no harm is done.
//   - Buffers for reading are the loop's. A session that carries nothing holds none, and has no goroutine.
//   - Waking a thread costs more than a packet. So under load a loop does not wait for the very next packet but rests first, no longer
//     than restTime, and then takes all that has come meanwhile. Alone, a packet is passed on at once. Loops of a Splicer don't rest.
//
// epoll reports levels, not edges: what one turn has left is reported again, and no second read is needed to learn that a socket is empty.
type loop struct {
	epoll, bell int // bell is an eventfd that others ring
	done        chan struct{}

	mu      sync.Mutex
	watched map[int32]*descriptor
	later   []flusher // have something to send at the end of this turn
	alarms  alarms
	asleep  bool // the bell is needed
	closed  bool

	// The loop's own, for what it calls.
	in        readBuffer
	raw       [rawChunk]byte
	packets   *packetBatch
	addressed *addressedBatch
	relayed   *relayBatch

	events  [turnEvents]unix.EpollEvent
	ready   [turnEvents]*descriptor
	flushed []flusher
	due     []*alarm
	at      int   // in the work of this turn
	guest   guest // whom it is done for now
	rests   bool
	defects *defect.Catcher
	pace    pace
	yielded int64 // to Go's scheduler
}

const (
	// turnEvents is how many sockets one turn looks after.
	turnEvents = 128
	// rawChunk is how much one turn reads of one stream, before TLS.
	rawChunk = 32 << 10
	// yieldTime is how long a loop runs before it yields. Go's monitor takes a processor away from a goroutine that has run for 10 ms
	// and is in a system call, and then looks every 20 us for more: with the loop always waiting in one, that cost a tenth of all CPU.
	// Yielding wakes another thread, which costs some 50 us: so it is done just in time.
	yieldTime = 9 * time.Millisecond
)

// guest is whom a loop works for. broke is told, on the loop's thread, that a defect has struck meanwhile: the guest ends, and nobody
// else with it.
type guest interface{ broke(defect error) }

// pollable is whose descriptor it is. ready is called on the loop's thread.
type pollable interface {
	guest
	ready(readable, writable bool)
}

// flusher has put off sending to the end of a turn. flush is called on the loop's thread.
type flusher interface {
	guest
	flush()
}

// descriptor is a socket that a loop watches.
type descriptor struct {
	loop *loop
	fd   int
	user pollable

	mu     sync.Mutex // writers; and closed
	closed bool
	wants  uint32 // the events that are watched for
	event  unix.EpollEvent
}

func newLoop(rests bool, defects *defect.Catcher) (*loop, error) {
	ep, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	bell, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		_ = unix.Close(ep)
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	l := &loop{
		epoll: ep, bell: bell, done: make(chan struct{}), rests: rests, defects: defects, watched: make(map[int32]*descriptor),
		packets: newPacketBatch(), addressed: newAddressedBatch(), relayed: newRelayBatch(),
	}
	if err := unix.EpollCtl(ep, unix.EPOLL_CTL_ADD, bell, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(bell)}); err != nil {
		_, _ = unix.Close(ep), unix.Close(bell)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	go l.run()
	return l, nil
}

// run turns until the loop is closed.
func (l *loop) run() {
	defer close(l.done)
	for {
		timeout, open := l.prepare()
		if !open {
			return
		}
		l.turn(l.wait(timeout))
		now := nanoseconds()
		if now-l.yielded > int64(yieldTime) {
			l.yielded = now
			runtime.Gosched()
		}
		if l.rests && l.pace.busy(now) {
			rest(restTime)
		}
	}
}

// turn looks after the sockets of n events.
func (l *loop) turn(n int) {
	l.find(n)
	for l.at = 0; !l.serve(n); {
	}
	clear(l.ready[:n])
	clear(l.due)
	l.sendLater()
	l.guest = nil
}

// serve goes on with the sockets of n events and then with the alarms that are due. It is false when a defect has struck: then whom it
// was done for has ended, and the others come after.
func (l *loop) serve(n int) (done bool) {
	defer l.defects.Catch(l.broke)
	for l.at < n {
		d, e := l.ready[l.at], l.events[l.at].Events
		l.at++
		if d != nil {
			l.guest = d.user
			d.user.ready(e&^unix.EPOLLOUT != 0, e&unix.EPOLLOUT != 0)
		}
	}
	for l.at < n+len(l.due) {
		a := l.due[l.at-n]
		l.at++
		l.guest = a.guest
		a.call()
	}
	return true
}

func (l *loop) broke(defect error) {
	if l.guest != nil {
		l.guest.broke(defect)
	}
}

// find notes whose events they are, and which alarms are due.
func (l *loop) find(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asleep = false
	for i := range n {
		if l.events[i].Fd == int32(l.bell) {
			l.answerBell()
			continue
		}
		l.ready[i] = l.watched[l.events[i].Fd]
	}
	l.due = l.due[:0]
	if len(l.alarms) > 0 {
		for now := nanoseconds(); len(l.alarms) > 0 && l.alarms[0].at <= now; {
			l.due = append(l.due, heap.Pop(&l.alarms).(*alarm))
		}
	}
}

func (l *loop) answerBell() {
	var count [8]byte
	_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(l.bell), uintptr(unsafe.Pointer(&count[0])), uintptr(len(count)))
}

// sendLater has sent what was put off in this turn.
func (l *loop) sendLater() {
	l.mu.Lock()
	l.flushed, l.later = l.later, l.flushed[:0]
	l.mu.Unlock()
	for l.at = 0; !l.flush(); {
	}
	clear(l.flushed)
}

// flush goes on with what was put off; false as with serve.
func (l *loop) flush() (done bool) {
	defer l.defects.Catch(l.broke)
	for l.at < len(l.flushed) {
		f := l.flushed[l.at]
		l.at++
		l.guest = f
		f.flush()
	}
	return true
}

// prepare tells how many milliseconds the loop may wait; -1: until something happens.
func (l *loop) prepare() (timeout int, open bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return 0, false
	}
	if len(l.later) > 0 {
		return 0, true
	}
	l.asleep = true
	if len(l.alarms) == 0 {
		return -1, true
	}
	left := l.alarms[0].at - nanoseconds()
	return int(max(left+int64(time.Millisecond)-1, 0) / int64(time.Millisecond)), true
}

// ring wakes the loop. The caller has the lock, and has left something for it to do.
func (l *loop) ring() {
	if l.asleep {
		l.asleep = false
		one := [8]byte{7: 0, 0: 1}
		_, _, _ = unix.RawSyscall(unix.SYS_WRITE, uintptr(l.bell), uintptr(unsafe.Pointer(&one[0])), uintptr(len(one)))
	}
}

var errLoopClosed = errors.New("the server is closed")

// watch begins to call d.user. On an error the descriptor is the caller's to close still.
func (l *loop) watch(d *descriptor) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.closed:
		return errLoopClosed
	case d.closed:
		return net.ErrClosed
	}
	d.wants = unix.EPOLLIN | unix.EPOLLRDHUP
	if err := unix.EpollCtl(l.epoll, unix.EPOLL_CTL_ADD, d.fd, &unix.EpollEvent{Events: d.wants, Fd: int32(d.fd)}); err != nil {
		return fmt.Errorf("epoll: %w", err)
	}
	l.watched[int32(d.fd)] = d
	return nil
}

// flushLater has f.flush called at the end of this turn, or soon if the loop sleeps.
func (l *loop) flushLater(f flusher) {
	l.mu.Lock()
	l.later = append(l.later, f)
	l.ring()
	l.mu.Unlock()
}

// close ends the loop, and closes what it watches still.
func (l *loop) close() {
	l.mu.Lock()
	l.closed = true
	l.ring()
	l.mu.Unlock()
	<-l.done
	l.mu.Lock()
	left := slices.Collect(maps.Values(l.watched))
	l.mu.Unlock()
	for _, d := range left {
		d.close()
	}
	_, _ = unix.Close(l.epoll), unix.Close(l.bell)
}

// adopt makes a descriptor of the socket of conn, which is closed: Go's poller forgets it, and the socket lives on.
func (l *loop) adopt(conn socketConn, user pollable) (*descriptor, error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	fd := -1
	failed := raw.Control(func(of uintptr) { fd, err = unix.FcntlInt(of, unix.F_DUPFD_CLOEXEC, 3) })
	if err = errors.Join(failed, err); err != nil {
		return nil, err
	}
	_ = conn.Close() // our copy keeps the socket open
	return &descriptor{loop: l, fd: fd, user: user}, nil
}

// want changes which events are watched for besides reading. The caller has the descriptor's lock.
func (d *descriptor) want(more uint32) {
	if d.wants != ignored {
		d.watchFor(unix.EPOLLIN | unix.EPOLLRDHUP | more)
	}
}

// watchFor changes which events are watched for, again if it was ignored; the end of both directions is always reported. The caller
// has the lock.
func (d *descriptor) watchFor(wants uint32) {
	if d.closed || wants == d.wants {
		return
	}
	how := unix.EPOLL_CTL_MOD
	if d.wants == ignored {
		how = unix.EPOLL_CTL_ADD
	}
	d.wants = wants
	d.event = unix.EpollEvent{Events: wants, Fd: int32(d.fd)}
	_ = unix.EpollCtl(d.loop.epoll, how, d.fd, &d.event)
}

// ignored are the wants of a descriptor that is not watched for anything. It is no event of epoll's.
const ignored = 1 << 31

// ignore stops watching for anything: the other end has gone, and would be reported for ever.
func (d *descriptor) ignore() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.closed && d.wants != ignored {
		d.wants = ignored
		d.unwatch()
	}
}

// close gives the socket up. It may be called more than once.
func (d *descriptor) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	d.closed = true
	d.loop.mu.Lock()
	if d.loop.watched[int32(d.fd)] == d {
		delete(d.loop.watched, int32(d.fd))
		d.unwatch()
	}
	d.loop.mu.Unlock()
	_ = unix.Close(d.fd)
}

// unwatch is not left to closing: an upgrade may have a copy of the socket, which would keep it in the epoll instance.
func (d *descriptor) unwatch() { _ = unix.EpollCtl(d.loop.epoll, unix.EPOLL_CTL_DEL, d.fd, nil) }

// alarm is a time at which a loop calls somebody.
type alarm struct {
	at    int64
	index int // in the heap, counted from 1; 0: it is not set
	call  func()
	guest guest // whose it is
}

// wakeAt sets an alarm, anew if it is set.
func (l *loop) wakeAt(a *alarm, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	a.at = at
	if a.index > 0 {
		heap.Fix(&l.alarms, a.index-1)
	} else {
		heap.Push(&l.alarms, a)
	}
	if l.alarms[0] == a {
		l.ring()
	}
}

// calm unsets an alarm.
func (l *loop) calm(a *alarm) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if a.index > 0 {
		heap.Remove(&l.alarms, a.index-1)
	}
}

// alarms is a heap, the next one first.
type alarms []*alarm

func (h alarms) Len() int           { return len(h) }
func (h alarms) Less(i, j int) bool { return h[i].at < h[j].at }
func (h alarms) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].index, h[j].index = i+1, j+1
}

// Push implements heap.Interface.
func (h *alarms) Push(x any) {
	a := x.(*alarm)
	*h = append(*h, a)
	a.index = len(*h)
}

// Pop implements heap.Interface.
func (h *alarms) Pop() any {
	last := len(*h) - 1
	a := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	a.index = 0
	return a
}

package relay

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hafen/gateway/defect"
)

func newTestLoop(t *testing.T) *loop {
	t.Helper()
	l, err := newLoop(true, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	return l
}

// collector is a pollable that keeps what it reads.
type collector struct {
	socket *datagrams
	got    chan []byte
}

func (c *collector) ready(bool, bool) {
	msgs, _ := c.socket.loop.packets.receive(c.socket)
	for _, m := range msgs {
		c.got <- bytes.Clone(m)
	}
}

func (c *collector) broke(error) {}

// clumsy is a guest of a loop that panics whatever is done for it, and once more when it is told.
type clumsy struct {
	socket *datagrams
	twice  bool
	broken chan error
}

func (c *clumsy) ready(bool, bool) { panic("at an event") }
func (c *clumsy) flush()           { panic("at a flush") }

func (c *clumsy) broke(defect error) {
	if c.socket != nil {
		c.socket.ignore()
	}
	c.broken <- defect
	if c.twice {
		panic("at being told")
	}
}

// TestLoopSurvives: what panics on a loop ends its guest alone (J-12). All work of the same turn is done, for those before it and those after.
func TestLoopSurvives(t *testing.T) {
	var caught atomic.Int32
	l, err := newLoop(false, &defect.Catcher{Count: func() { caught.Add(1) }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.close)
	before, farBefore := adopted(t, l)
	guest := &clumsy{broken: make(chan error, 10), twice: true}
	near, err := net.DialUDP("udp", nil, farBefore.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	d, err := l.adopt(near, guest)
	if err != nil {
		t.Fatal(err)
	}
	guest.socket = &datagrams{descriptor: d}
	t.Cleanup(d.close)
	if err := l.watch(d); err != nil {
		t.Fatal(err)
	}
	after, farAfter := adopted(t, l)

	hold, held := make(chan struct{}), make(chan struct{})
	l.flushLater(calls(func() { close(held); <-hold })) // so that all that follows is one turn's work
	<-held
	rung := make(chan string, 10)
	for _, a := range []struct {
		name string
		call func()
	}{{"first", func() { rung <- "first" }}, {"bad", func() { panic("at an alarm") }}, {"last", func() { rung <- "last" }}} {
		l.wakeAt(&alarm{guest: guest, call: a.call}, nanoseconds())
	}
	send := func(to *net.UDPConn, from *descriptor) {
		at, err := unix.Getsockname(from.fd)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := to.WriteToUDP([]byte("a word"), net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(at.(*unix.SockaddrInet4).Port)))); err != nil {
			t.Fatal(err)
		}
	}
	send(farBefore, before.socket.descriptor)
	send(farBefore, d)
	send(farAfter, after.socket.descriptor)
	l.flushLater(guest)
	flushed := make(chan struct{})
	l.flushLater(calls(func() { close(flushed) }))
	close(hold)
	for _, c := range []*collector{before, after} {
		if got := soonFrom(t, c.got); string(got) != "a word" {
			t.Errorf("%q", got)
		}
	}
	if a, b := soonFrom(t, rung), soonFrom(t, rung); a != "first" || b != "last" {
		t.Errorf("alarms: %s, %s", a, b)
	}
	soonFrom(t, flushed)
	for _, what := range []string{"at an event", "at an alarm", "at a flush"} {
		if told := soonFrom(t, guest.broken); !strings.Contains(told.Error(), what) {
			t.Errorf("told of %v, not of what was %s", told, what)
		}
	}
	l.settle()
	if n := caught.Load(); n != 6 {
		t.Errorf("%d panics were counted; there were three, and three at being told", n)
	}
}

// calls is a flusher that calls a function.
type calls func()

func (c calls) flush()      { c() }
func (c calls) broke(error) {}

// soonFrom waits for a value.
func soonFrom[T any](t *testing.T, c <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-c:
	case <-time.After(10 * time.Second):
		t.Fatal("nothing came")
	}
	return v
}

// adopted is a connected UDP socket of a loop, and its other end.
func adopted(t *testing.T, l *loop) (*collector, *net.UDPConn) {
	t.Helper()
	far := listenUDP(t, "127.0.0.1:0")
	near, err := net.DialUDP("udp", nil, far.LocalAddr().(*net.UDPAddr))
	if err != nil {
		t.Fatal(err)
	}
	c := &collector{got: make(chan []byte, 100)}
	d, err := l.adopt(near, c)
	if err != nil {
		t.Fatal(err)
	}
	c.socket = &datagrams{descriptor: d}
	t.Cleanup(d.close)
	if err := l.watch(d); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = far.Close() })
	_ = far.SetDeadline(time.Now().Add(20 * time.Second))
	return c, far
}

// Datagrams of all lengths arrive one by one as they were, in order, sent at once or put off to the end of a turn, as runs or alone.
func TestLoopDatagrams(t *testing.T) {
	for _, plain := range []bool{false, true} {
		c, far := adopted(t, newTestLoop(t))
		c.socket.plain = plain
		var want [][]byte
		for i, n := range []int{100, 100, 100, 40, 700, 700, 3, 1200, 1200, 1200, 1200, 1, 1, 1} {
			want = append(want, bytes.Repeat([]byte{byte('a' + i)}, n))
		}
		for range 4 { // more than fit one batch
			if n, err := c.socket.send(want); n != len(want) || err != nil {
				t.Fatalf("plain %v: sent %d: %v", plain, n, err)
			}
		}
		for range 4 {
			for _, m := range want {
				c.socket.post(m, nil)
			}
		}
		buf := make([]byte, 2000)
		for i := range 8 * len(want) {
			n, from, err := far.ReadFromUDP(buf)
			if err != nil {
				t.Fatalf("plain %v, message %d: %v", plain, i, err)
			}
			if !bytes.Equal(buf[:n], want[i%len(want)]) {
				t.Fatalf("plain %v: message %d came as %d bytes of %q", plain, i, n, buf[:1])
			}
			if i == 0 {
				_, _ = far.WriteToUDP([]byte("back"), from)
			}
		}
		if got := <-c.got; string(got) != "back" {
			t.Errorf("read %q", got)
		}
	}
}

func TestRunLength(t *testing.T) {
	sizes := func(list ...int) (msgs [][]byte) {
		for _, n := range list {
			msgs = append(msgs, make([]byte, n))
		}
		return msgs
	}
	one, other := destination{nameLen: 1}, destination{nameLen: 2}
	for _, tc := range []struct {
		msgs [][]byte
		to   []destination
		want int
	}{
		{sizes(5), nil, 1},
		{sizes(5, 5, 5), nil, 3},
		{sizes(5, 5, 4, 5), nil, 3},
		{sizes(5, 6), nil, 1},
		{sizes(5, 0, 5), nil, 1},
		{sizes(0, 0), nil, 1},
		{sizes(2048, 2048, 2048), []destination{one}, 3},
		{sizes(5, 5, 5), []destination{one, one, other}, 2},
		{sizes(slices.Repeat([]int{2048}, 32)...), nil, maxRun / 2048},
	} {
		if got := runLength(tc.msgs, tc.to, 0); got != tc.want {
			t.Errorf("%d messages from %d bytes on: a run of %d, want %d", len(tc.msgs), len(tc.msgs[0]), got, tc.want)
		}
	}
}

// Alarms ring in order, are set anew and unset; also from outside while the loop sleeps.
func TestLoopAlarms(t *testing.T) {
	l := newTestLoop(t)
	rung := make(chan int, 10)
	list := make([]alarm, 4)
	for i := range list {
		list[i].call = func() { rung <- i }
	}
	now := nanoseconds()
	for i, ms := range []int64{60_000, 40, 10, 20} {
		l.wakeAt(&list[i], now+ms*int64(time.Millisecond))
	}
	l.calm(&list[3])
	l.wakeAt(&list[0], now+int64(25*time.Millisecond))
	for _, want := range []int{2, 0, 1} {
		if got := <-rung; got != want {
			t.Errorf("alarm %d rang, want %d", got, want)
		}
	}
	if len(rung) > 0 {
		t.Error("an alarm rang that was unset")
	}
}

// A descriptor that is closed while others write to it, and a loop that is closed while others use it, harm nobody.
func TestLoopClosing(t *testing.T) {
	l, err := newLoop(true, nil)
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		c, _ := adopted(t, l)
		for range 2 {
			wg.Go(func() {
				for range 200 {
					_, _ = c.socket.send([][]byte{{1}, {2}})
					c.socket.post([]byte{3}, nil)
				}
			})
		}
		wg.Go(c.socket.close)
	}
	wg.Go(l.close)
	wg.Wait()
	c, _ := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 9})
	d, err := l.adopt(c, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.watch(d); err == nil {
		t.Error("a closed loop watches")
	}
	d.close()
	d.close()
}

func TestPace(t *testing.T) {
	var p pace
	now := int64(time.Hour)
	for i := range 3 * busyTurns {
		now += int64(soonTime) - 1
		if busy := p.busy(now); busy != (i >= busyTurns) {
			t.Fatalf("turn %d: busy %v", i, busy)
		}
	}
	if now += int64(soonTime); p.busy(now) {
		t.Error("busy after a pause")
	}
	if loopsFor(1) != 1 || loopsFor(2) != 1 || loopsFor(8) != 4 {
		t.Error("another number of loops")
	}
	if restTime+100*time.Microsecond > time.Millisecond {
		t.Error("resting delays a packet by more than is promised")
	}
}

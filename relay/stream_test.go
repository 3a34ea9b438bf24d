package relay

import (
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"hafen/configs"
)

// connected are both ends of a connection, over real sockets with buffers of a size. Ours can be taken over by a loop.
func connected(t *testing.T, secure bool, buffers int) (ours, client net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		c, _ := l.Accept()
		accepted <- c
	}()
	if client, err = net.Dial("tcp", l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	_ = client.(*net.TCPConn).SetReadBuffer(buffers)
	ours = <-accepted
	_ = ours.(*net.TCPConn).SetWriteBuffer(buffers)
	if secure {
		ca := newTestCA(t, "stream")
		config := &tls.Config{Certificates: []tls.Certificate{ca.issue(t, "stream.test")}}
		server := tls.Server(&wire{Conn: ours}, config)
		client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
		done := make(chan error, 1)
		go func() { done <- client.(*tls.Conn).Handshake() }()
		if err := errors.Join(server.Handshake(), <-done); err != nil {
			t.Fatal(err)
		}
		ours = server
	}
	t.Cleanup(func() { _ = client.Close() })
	_ = client.SetDeadline(time.Now().Add(20 * time.Second))
	return ours, client
}

// streamPair is a stream and its client, with small buffers.
func streamPair(t *testing.T, secure bool) (*stream, net.Conn) {
	t.Helper()
	ours, client := connected(t, secure, 4096)
	m, err := newMetrics(nil, newTable(configs.Limits{}))
	if err != nil {
		t.Fatal(err)
	}
	turning, err := newLoop(true, nil)
	if err != nil {
		t.Fatal(err)
	}
	st := newStream(turning, ours, 250*time.Millisecond, m)
	if st.socket == nil {
		t.Fatal("the socket beneath was not found")
	}
	if err := st.start(func(*readBuffer, int) error { return nil }, func(error) {}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close(); st.close(); st.wait(); turning.close() })
	return st, client
}

// A client that reads nothing: deliveries return at once, what waits is bounded, drops are told while it lasts; and when it reads
// again it gets whole messages and whole frames, and what comes next.
func TestStreamThatIsNotRead(t *testing.T) {
	for _, secure := range []bool{false, true} {
		st, client := streamPair(t, secure)
		sound, picture := rtpSource{ssrc: 1, pt: 111}, rtpSource{ssrc: 2, pt: 96}
		began := time.Now()
		size := map[uint32]int{}
		for range 400 {
			frame := picture.video(4)
			size[picture.ts] = len(frame)
			st.deliver(frame)
			st.deliver([][]byte{sound.audio()})
		}
		if d := time.Since(began); d > 3*time.Second {
			t.Errorf("delivering took %v", d)
		}
		st.mu.Lock()
		held := st.queue.held
		st.mu.Unlock()
		if held == 0 || held > maxQueued {
			t.Errorf("%d bytes wait", held)
		}
		if st.drops[kindVideo].Load() == 0 || st.drops[kindAudio].Load() != 0 {
			t.Errorf("dropped %d video, %d audio", st.drops[kindVideo].Load(), st.drops[kindAudio].Load())
		}
		if st.queued() == 0 || st.stuck.Load() == 0 || st.isStuck() {
			t.Errorf("oldest %v, stuck since %d, called stuck: %v", st.queued(), st.stuck.Load(), st.isStuck())
		}
		last := appendData(0x4000, 22, 1, 2, 3)
		st.deliver([][]byte{last})
		got := map[uint32]int{}
		readUntil(t, client, last, func(f []byte) {
			if f[5]&0x7f == 96 {
				got[binary.BigEndian.Uint32(f[8:])]++
			}
		})
		for ts, n := range got {
			if n != size[ts] {
				t.Errorf("%d packets of a frame of %d", n, size[ts])
			}
		}
		st.deliver([][]byte{channelOf(0x4001, 5)})
		readUntil(t, client, channelOf(0x4001, 5), func([]byte) {})
		for end := time.Now().Add(5 * time.Second); st.stuck.Load() != 0; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("still called stuck")
			}
		}
	}
}

// readUntil reads messages up to one.
func readUntil(t *testing.T, client net.Conn, last []byte, each func(f []byte)) {
	t.Helper()
	var r frameReader
	buf := make([]byte, 3000)
	end := errors.New("end")
	for {
		n, err := client.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		err = r.split(buf[:n], time.Time{}, func(f []byte) error {
			if bytes.Equal(f, last) {
				return end
			}
			each(f)
			return nil
		})
		switch {
		case errors.Is(err, end):
			return
		case err != nil:
			t.Fatal(err)
		}
	}
}

// A path of 75 kB/s gets 1.5 Mbit/s of video and 32 kbit/s of audio: audio arrives whole, in order and soon.
func TestStreamOnANarrowPath(t *testing.T) {
	t.Parallel()
	st, client := streamPair(t, true)
	sound, picture := rtpSource{ssrc: 1, pt: 111}, rtpSource{ssrc: 2, pt: 96}
	const frames = 75
	sentAt := make([]atomic.Int64, 2*frames)
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for i := range 2 * frames {
			<-tick.C
			if i%2 == 0 {
				st.deliver(picture.video(6))
			}
			sentAt[i].Store(nanoseconds())
			a := sound.audio()
			binary.BigEndian.PutUint32(a[20:], uint32(i)) // behind the RTP header
			st.deliver([][]byte{a})
		}
		st.deliver([][]byte{appendData(0x4000, 22, 9, 9, 9)})
	}()
	var delays []time.Duration
	var order []int
	readUntil(t, slowly{client, 75_000}, appendData(0x4000, 22, 9, 9, 9), func(f []byte) {
		if f[5]&0x7f == 111 {
			i := int(binary.BigEndian.Uint32(f[20:]))
			order = append(order, i)
			delays = append(delays, time.Duration(nanoseconds()-sentAt[i].Load()))
		}
	})
	slices.Sort(delays)
	if len(order) < 2*frames*99/100 || !slices.IsSorted(order) {
		t.Errorf("%d of %d audio packets, sorted: %v", len(order), 2*frames, slices.IsSorted(order))
	}
	if p95 := delays[len(delays)*95/100]; p95 > 2*time.Second {
		t.Errorf("audio p95 %v", p95)
	} else {
		t.Logf("audio p50 %v p95 %v, %d video packets dropped", delays[len(delays)/2], p95, st.drops[kindVideo].Load())
	}
	if st.drops[kindVideo].Load() == 0 {
		t.Error("no video was dropped: the path was not narrow")
	}
}

// slowly reads at so many bytes a second.
type slowly struct {
	net.Conn
	rate int
}

func (s slowly) Read(p []byte) (int, error) {
	n, err := s.Conn.Read(p[:min(len(p), 750)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(s.rate))
	return n, err
}

// a client that takes nothing for too long is given up.
func TestAbuse_A46(t *testing.T) {
	t.Parallel()
	region := newTape(t, willing(600))
	h := newHouse(t, region.urls(), nil)
	c := h.raw("tls")
	c.allocate()
	st := h.table.all(nil)[0].stream
	h.until("a full path", func() bool {
		since := st.stuck.Load()
		for range 300 {
			region.say(channelOf(0x4000, 1200))
			time.Sleep(time.Millisecond)
		}
		return since != 0 && since == st.stuck.Load()
	})
	st.stuck.Store(nanoseconds() - int64(StuckTimeout) - 1)
	if err := h.end(0); !errors.Is(err, errStuck) || statusOf(err) != "err_client" {
		t.Errorf("ended as %v", err)
	}
}

// The sockets' parts that only a slow client shows: what TLS says by itself while the path is full is kept, in order, up to a bound.
func TestSocketKeepsWhatIsNotTaken(t *testing.T) {
	t.Parallel()
	st, client := streamPair(t, false)
	k := st.socket
	total := 0
	piece := bytes.Repeat([]byte("0123456789abcdef"), 256)
	for !k.kept() {
		if _, err := k.Write(piece); err != nil {
			t.Fatal(err)
		}
		total += len(piece)
	}
	if _, underway, full := k.progress(); !full || underway < manyUnacked {
		t.Errorf("a full socket says it is not, with %d bytes under way", underway)
	}
	for range 5 {
		if _, err := k.Write(piece); err != nil {
			t.Fatal(err)
		}
		total += len(piece)
	}
	st.kick()
	got := make([]byte, total)
	if _, err := io.ReadFull(client, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, bytes.Repeat(piece, total/len(piece))) {
		t.Error("bytes are not in order")
	}
	for err := error(nil); err == nil; total++ {
		if _, err = k.Write(piece); err != nil && !errors.Is(err, errStuck) {
			t.Errorf("refused with %v", err)
		}
		if total > 1<<24 {
			t.Fatal("keeps without end")
		}
	}
}

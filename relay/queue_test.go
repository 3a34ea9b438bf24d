package relay

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// rtp is ChannelData with an RTP packet of n bytes.
func rtp(ssrc uint32, pt byte, seq uint16, ts uint32, marker bool, n int) []byte {
	frame := channelOf(0x4000, n)
	data := frame[channelHeaderSize:]
	data[0], data[1] = 0x80, pt
	if marker {
		data[1] |= 0x80
	}
	binary.BigEndian.PutUint16(data[2:], seq)
	binary.BigEndian.PutUint32(data[4:], ts)
	binary.BigEndian.PutUint32(data[8:], ssrc)
	return frame
}

// rtpSource makes one RTP stream.
type rtpSource struct {
	ssrc uint32
	pt   byte
	seq  uint16
	ts   uint32
}

func (s *rtpSource) audio() []byte {
	s.seq++
	s.ts += 960
	return rtp(s.ssrc, s.pt, s.seq, s.ts, false, 100)
}

// video is one frame in packets of 1,200 bytes.
func (s *rtpSource) video(packets int) [][]byte {
	s.ts += 2970 + rand.Uint32N(60)
	var frame [][]byte
	for i := range packets {
		s.seq++
		frame = append(frame, rtp(s.ssrc, s.pt, s.seq, s.ts, i == packets-1, 1200))
	}
	return frame
}

func TestKindOf(t *testing.T) {
	for name, tt := range map[string]struct {
		data []byte
		want kind
	}{
		"STUN":           {stunFrame(typeBinding), kindSTUN},
		"no cookie":      {make([]byte, 20), kindOther},
		"DTLS":           {[]byte{22, 254, 253, 0}, kindDTLS},
		"DTLS data":      {append([]byte{23}, make([]byte, 50)...), kindDTLS},
		"RTCP SR":        {[]byte{0x80, 200, 0, 6, 0, 0, 0, 0}, kindRTCP},
		"RTCP PSFB":      {[]byte{0x81, 206, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0}, kindRTCP},
		"RTP":            {rtp(1, 111, 1, 1, false, 20)[4:], kindVideo}, // its stream tells audio
		"RTP, too short": {[]byte{0x80, 111, 0, 1, 0, 0, 0, 0}, kindOther},
		"empty":          {nil, kindOther},
		"text":           {[]byte("hello"), kindOther},
	} {
		if got := kindOf(tt.data); got != tt.want {
			t.Errorf("%s: %v, want %v", name, got, tt.want)
		}
	}
}

// What is audio and what video shows in how packets follow each other.
func TestFlowKinds(t *testing.T) {
	kindsOf := func(frames ...[]byte) []kind {
		var q queue
		var got []kind
		for _, f := range frames {
			got = append(got, q.label(f).kind)
		}
		return got
	}
	repeat := func(n int, next func(i int) []byte) (frames [][]byte) {
		for i := range n {
			frames = append(frames, next(i))
		}
		return frames
	}
	all := func(t *testing.T, got []kind, want kind) {
		t.Helper()
		if slices.ContainsFunc(got, func(k kind) bool { return k != want }) {
			t.Errorf("got %v, want %v throughout", got, want)
		}
	}
	t.Run("Opus", func(t *testing.T) {
		s := rtpSource{ssrc: 1, pt: 111}
		all(t, kindsOf(repeat(50, func(int) []byte { return s.audio() })...), kindAudio)
	})
	t.Run("G.711", func(t *testing.T) {
		all(t, kindsOf(repeat(50, func(i int) []byte { return rtp(1, 0, uint16(i), uint32(i)*160, false, 172) })...), kindAudio)
	})
	t.Run("telephone events", func(t *testing.T) {
		s := rtpSource{ssrc: 1, pt: 111}
		frames := repeat(3, func(int) []byte { return s.audio() })
		frames = append(frames, repeat(20, func(i int) []byte { return rtp(1, 126, s.seq+uint16(i), s.ts, i == 0, 26) })...)
		all(t, kindsOf(frames...), kindAudio)
	})
	t.Run("music", func(t *testing.T) { // starts as video for its size, and shows what it is
		got := kindsOf(repeat(50, func(i int) []byte { return rtp(1, 111, uint16(i), uint32(i)*960, false, 700+i%5) })...)
		all(t, got[evenPackets+2:], kindAudio)
	})
	t.Run("video", func(t *testing.T) {
		s := rtpSource{ssrc: 1, pt: 96}
		all(t, kindsOf(slices.Concat(s.video(8), s.video(1), s.video(2), s.video(1))...), kindVideo)
	})
	t.Run("video of small frames", func(t *testing.T) { // its key frame tells; what follows looks like audio
		s := rtpSource{ssrc: 1, pt: 96}
		frames := s.video(3)
		frames = append(frames, repeat(50, func(i int) []byte { return rtp(1, 96, s.seq+1+uint16(i), s.ts+uint32(i+1)*3000, true, 150) })...)
		all(t, kindsOf(frames...), kindVideo)
	})
	t.Run("retransmissions", func(t *testing.T) { // begin with padding of one timestamp, to find the bandwidth
		got := kindsOf(repeat(10, func(i int) []byte { return rtp(7, 97, uint16(i), 5000, false, 256) })...)
		all(t, got[1:], kindVideo)
	})
	t.Run("sent twice by the network", func(t *testing.T) {
		s := rtpSource{ssrc: 1, pt: 111}
		all(t, kindsOf(repeat(40, func(i int) []byte {
			if i%2 == 1 {
				return rtp(1, 111, s.seq, s.ts, false, 100)
			}
			return s.audio()
		})...), kindAudio)
	})
	t.Run("many streams", func(t *testing.T) { // the table is bounded, and streams in use stay in it
		var q queue
		one := rtpSource{ssrc: 1, pt: 96}
		for _, f := range one.video(3) {
			q.label(f)
		}
		for i := range 200 {
			q.label(rtp(uint32(1000+i), 111, 1, 1, false, 90))
			if k := q.label(rtp(1, 96, one.seq+uint16(i)+1, one.ts+uint32(i), false, 90)).kind; k != kindVideo {
				t.Fatalf("forgot a stream in use after %d others", i)
			}
		}
		if n := len(q.flows.flows); n != maxFlows {
			t.Errorf("%d streams kept", n)
		}
	})
}

// filled is a queue with messages pushed at the given milliseconds.
func (q *queue) fill(ms int64, frames ...[]byte) {
	for _, f := range frames {
		if l, ok := q.admit(f); ok {
			q.push(f, l, ms*int64(time.Millisecond))
		}
	}
}

// takeAll takes until nothing is left, and gives the messages.
func (q *queue) takeAll(t testing.TB, ms int64, room int) [][]byte {
	t.Helper()
	var r frameReader
	var all [][]byte
	for !q.empty() {
		out := q.take(make([]byte, 0, room), ms*int64(time.Millisecond))
		frames, err := splitAll(&r, out)
		if err != nil || len(frames) != q.taken {
			t.Fatalf("%d messages of %d, %v", len(frames), q.taken, err)
		}
		all = append(all, frames...)
	}
	if q.held != 0 {
		t.Errorf("an empty queue holds %d bytes", q.held)
	}
	return all
}

func describe(frames [][]byte) (got []string) {
	for _, f := range frames {
		data := dataOf(f)
		switch k := kindOf(data); {
		case data == nil:
			got = append(got, "stun")
		case k != kindVideo:
			got = append(got, k.String())
		case data[1]&0x7f == 111:
			got = append(got, "audio")
		default:
			got = append(got, "video")
		}
	}
	return got
}

// Media keeps its order as long as there is patience; then audio overtakes video. STUN always does.
func TestQueueOrder(t *testing.T) {
	for most, want := range map[time.Duration][]string{
		0:                      {"stun", "video", "video", "video", "audio", "other", "dtls", "rtcp", "video", "audio"},
		250 * time.Millisecond: {"stun", "audio", "audio", "video", "video", "video", "other", "dtls", "rtcp", "video"},
	} {
		q := queue{maxAge: 250 * time.Millisecond, video: patience{hears: true, most: most}}
		sound, picture := rtpSource{ssrc: 1, pt: 111}, rtpSource{ssrc: 2, pt: 96}
		q.fill(0, picture.video(3)...)
		q.fill(1, sound.audio(), append(channelOf(0x4000, 0), []byte{}...), appendData(0x4000, 22, 254, 253, 0), appendData(0x4000, 0x80, 200, 0, 6, 0, 0, 0, 0))
		q.fill(2, picture.video(1)...)
		q.fill(3, sound.audio(), stunFrame(0x0104))
		if got := describe(q.takeAll(t, 10, 2600)); !slices.Equal(got, want) {
			t.Errorf("with patience for %v: sent %v, want %v", most, got, want)
		}
	}
}

func appendData(number uint16, data ...byte) []byte {
	frame := channelOf(number, len(data))
	copy(frame[channelHeaderSize:], data)
	return frame
}

func TestQueueAge(t *testing.T) {
	q := queue{maxAge: 250 * time.Millisecond, video: patience{most: 250 * time.Millisecond, since: int64(time.Second)}}
	sound, picture := rtpSource{ssrc: 1, pt: 111}, rtpSource{ssrc: 2, pt: 96}
	dtls, rtcp := appendData(0x4000, 22, 254, 253, 0), appendData(0x4000, 0x80, 200, 0, 6, 0, 0, 0, 0)
	q.fill(0, picture.video(4)...)
	q.fill(0, dtls, rtcp, stunFrame(0x0104))
	q.fill(-951, sound.audio()) // audio may be five times as old
	q.fill(200, picture.video(2)...)
	q.fill(200, sound.audio())
	got := describe(q.takeAll(t, 300, 2600))
	if want := []string{"stun", "audio", "dtls", "rtcp", "video", "video"}; !slices.Equal(got, want) {
		t.Errorf("sent %v, want %v", got, want)
	}
	if q.dropped[kindVideo] != 4 || q.dropped[kindAudio] != 1 || q.dropped[kindDTLS]+q.dropped[kindRTCP]+q.dropped[kindSTUN] != 0 {
		t.Errorf("dropped %v", q.dropped)
	}
}

// A frame whose first packet was sent is finished, however late; one of which a packet was dropped is dropped to its last, also
// what comes after.
func TestQueueWholeFrames(t *testing.T) {
	q := queue{maxAge: 250 * time.Millisecond}
	picture := rtpSource{ssrc: 2, pt: 96}
	first, second := picture.video(4), picture.video(4)
	q.fill(0, first...)
	if out := q.take(make([]byte, 0, slowChunk), 0); len(out) != 2*1204 {
		t.Fatalf("took %d bytes", len(out))
	}
	q.fill(10, second[:2]...)
	rest := q.takeAll(t, 300, slowChunk)
	if len(rest) != 2 || q.dropped[kindVideo] != 2 {
		t.Errorf("%d packets sent, %v dropped", len(rest), q.dropped)
	}
	q.fill(301, second[2:]...)
	if !q.empty() || q.dropped[kindVideo] != 4 {
		t.Errorf("the rest of a broken frame waits; dropped %v", q.dropped)
	}
	q.fill(302, picture.video(2)...)
	if n := len(q.takeAll(t, 303, slowChunk)); n != 2 {
		t.Errorf("%d packets of the next frame", n)
	}
}

func TestQueueStopAgainstAbuse(t *testing.T) {
	q := queue{maxAge: time.Hour}
	picture, sound := rtpSource{ssrc: 2, pt: 96}, rtpSource{ssrc: 1, pt: 111}
	for range 100 {
		q.fill(0, picture.video(5)...)
		q.fill(0, sound.audio())
		if q.held > maxQueued {
			t.Fatalf("%d bytes wait", q.held)
		}
	}
	if q.dropped[kindVideo] == 0 || q.dropped[kindVideo]%5 != 0 || q.dropped[kindAudio] != 0 {
		t.Errorf("dropped %v: whole video frames first", q.dropped)
	}
	for range 3000 {
		q.fill(0, sound.audio())
	}
	if q.dropped[kindAudio] == 0 || q.held > maxQueued {
		t.Errorf("dropped %v, %d bytes wait", q.dropped, q.held)
	}
	q.clear()
	for range 3000 {
		q.fill(0, appendData(0x4000, 22, 254, 253, 0))
	}
	if q.dropped[kindDTLS] == 0 || q.held > maxQueued {
		t.Errorf("dropped %v, %d bytes wait", q.dropped, q.held)
	}
	q.clear()
	if q.held != 0 || !q.empty() {
		t.Errorf("%d bytes are left", q.held)
	}
}

// Whatever comes and goes: each stream keeps its order, sent video frames are whole, the bound holds, the books balance.
func TestQueueProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		q := queue{maxAge: 250 * time.Millisecond}
		sources := []*rtpSource{{ssrc: 1, pt: 111}, {ssrc: 2, pt: 96}, {ssrc: 3, pt: 97}}
		size := map[[2]uint32]int{} // packets of each video frame
		pushed := 0
		var sent [][]byte
		now := int64(0)
		warm := func(s *rtpSource) [][]byte { return s.video(2) }
		add := func(s *rtpSource, frame [][]byte) {
			if s.pt != 111 || len(frame) == 1 {
				size[[2]uint32{s.ssrc, s.ts}] = len(frame)
			}
			pushed += len(frame)
			q.fill(now, frame...)
		}
		add(sources[1], warm(sources[1]))
		add(sources[2], warm(sources[2]))
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			s := sources[rapid.IntRange(0, 2).Draw(t, "source")]
			if s.pt == 111 {
				add(s, [][]byte{s.audio()})
			} else {
				add(s, s.video(rapid.IntRange(1, 40).Draw(t, "packets")))
			}
			now += rapid.Int64Range(0, 100).Draw(t, "ms")
			if q.held > maxQueued {
				t.Fatalf("%d bytes wait", q.held)
			}
			if room := rapid.IntRange(0, 8000).Draw(t, "room"); room >= slowChunk {
				var r frameReader
				frames, _ := splitAll(&r, q.take(make([]byte, 0, room), now*int64(time.Millisecond)))
				sent = append(sent, frames...)
			}
		}
		var r frameReader
		for !q.empty() {
			frames, _ := splitAll(&r, q.take(make([]byte, 0, slowChunk), now*int64(time.Millisecond)))
			sent = append(sent, frames...)
		}
		last := map[uint32]uint16{}
		got := map[[2]uint32]int{}
		for _, f := range sent {
			data := f[channelHeaderSize:]
			ssrc, seq := binary.BigEndian.Uint32(data[8:]), binary.BigEndian.Uint16(data[2:])
			if seq <= last[ssrc] {
				t.Fatalf("stream %d: packet %d after %d", ssrc, seq, last[ssrc])
			}
			last[ssrc] = seq
			got[[2]uint32{ssrc, binary.BigEndian.Uint32(data[4:])}]++
		}
		for frame, n := range got {
			if want := size[frame]; n != want {
				t.Fatalf("%d packets of %d of a frame", n, want)
			}
		}
		dropped := 0
		for _, n := range q.dropped {
			dropped += int(n)
		}
		if len(sent)+dropped != pushed || q.held != 0 {
			t.Fatalf("%d pushed, %d sent, %d dropped; %d bytes held", pushed, len(sent), dropped, q.held)
		}
	})
}

// What is urgent is the audio or control whose turn it is, and it alone.
func TestQueueUrgent(t *testing.T) {
	q := queue{maxAge: 250 * time.Millisecond}
	sound, picture := rtpSource{ssrc: 1, pt: 111}, rtpSource{ssrc: 2, pt: 96}
	if got := q.urgent(); got != 0 {
		t.Errorf("of nothing %d bytes are urgent", got)
	}
	q.fill(0, picture.video(2)...)
	if got := q.urgent(); got != 0 {
		t.Errorf("%d bytes of video are urgent", got)
	}
	audio := sound.audio()
	q.fill(1, audio)
	room := q.urgent()
	if room != padded(len(audio)) {
		t.Fatalf("%d bytes of %d of audio are urgent", room, len(audio))
	}
	if q.take(make([]byte, 0, room), 2); q.taken != 1 || q.urgent() != 0 || q.empty() {
		t.Errorf("%d messages were taken, %d bytes are still urgent", q.taken, q.urgent())
	}
	q.video = patience{hears: true}
	q.fill(3, sound.audio())
	if got := q.urgent(); got != 0 {
		t.Errorf("%d bytes behind older video are urgent", got)
	}
}

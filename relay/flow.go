package relay

import "encoding/binary"

// flow is one RTP stream (one SSRC) on its way to a client, and what its headers have shown of it. Whether it is audio or video
// stands nowhere in a packet; it shows in how the packets follow each other. A video frame longer than one packet sends several
// with one timestamp, and the first frame of every video stream, a key frame, is such; audio never does. Audio sends small packets
// whose timestamps step evenly.
type flow struct {
	ssrc uint32
	used uint32 // when it was last seen, in packets of the table

	ts, step uint32
	seq      uint16
	even     uint8 // packets in a row that came with the same step
	seen     bool
	video    bool
	decided  bool

	// The frame of which a part was dropped, and the frame of which a part was sent.
	broken, started     bool
	brokenTS, startedTS uint32
}

const (
	// largeAudio is longer than packets of speech are; a stream that begins with longer ones is taken for video until it shows
	// otherwise. No audio but uncompressed music is longer than hugeAudio.
	largeAudio = 400
	hugeAudio  = 640
	// smallVideo is longer than telephone events (RFC 4733), the only audio that sends several packets with one timestamp.
	smallVideo = 100
	// evenPackets in a row with one step, of at most 60 ms at 48 kHz, are audio.
	evenPackets = 8
	maxAudioGap = 2880
)

// learn takes one packet of the stream into account.
func (f *flow) learn(data []byte, ts uint32) {
	seq, pt := binary.BigEndian.Uint16(data[2:]), data[1]&0x7f
	if !f.seen {
		f.seen, f.ts, f.seq = true, ts, seq
		f.guess(pt, len(data))
		return
	}
	step, next := ts-f.ts, seq-f.seq
	f.ts, f.seq = ts, seq
	switch {
	case next == 0:
		return // the network sent it twice
	case step == 0 && (len(data) >= hugeAudio || !f.decided && len(data) >= smallVideo):
		f.video, f.decided = true, true
	case f.decided:
	case next != 1 || step != f.step:
		f.even = 0
		f.video = f.video || len(data) > hugeAudio
	default:
		if f.even++; f.even >= evenPackets && step != 0 && step <= maxAudioGap {
			f.video, f.decided = false, true
		}
	}
	f.step = step
}

// guess judges by the first packet: payload types below 35 say it outright (RFC 3551), others by size.
func (f *flow) guess(pt byte, size int) {
	f.decided = pt < 35
	switch {
	case pt <= 23:
		f.video = false
	case pt < 35:
		f.video = true
	default:
		f.video = size > largeAudio
	}
}

// maxFlows bounds what is remembered of a client's RTP streams: a conference of some eight people, each with audio, video and
// retransmissions. Among more the one silent for longest is forgotten.
const maxFlows = 24

type flowTable struct {
	flows []*flow
	clock uint32
}

func (t *flowTable) find(ssrc uint32) *flow {
	t.clock++
	oldest := 0
	for i, f := range t.flows {
		if f.ssrc == ssrc {
			f.used = t.clock
			return f
		}
		if t.clock-f.used > t.clock-t.flows[oldest].used {
			oldest = i
		}
	}
	f := &flow{ssrc: ssrc, used: t.clock}
	if len(t.flows) < maxFlows {
		t.flows = append(t.flows, f)
	} else {
		t.flows[oldest] = f // messages that wait keep the old one
	}
	return f
}

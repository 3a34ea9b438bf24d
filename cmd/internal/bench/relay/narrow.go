package main

import (
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"sync"
	"time"
)

// call is what the peer sends down a narrow path: bursty video and audio, as RTP.
type call struct {
	Path    path
	Video   int // bits a second
	Audios  int // audio streams
	Seconds int
	Reports bool // RTCP as well, as from a sender that hears how it goes
}

// heard is what came of it.
type heard struct {
	AudioP50  float64 `json:"audio_ms_p50"`
	AudioP95  float64 `json:"audio_ms_p95"`
	AudioP99  float64 `json:"audio_ms_p99"`
	AudioLost float64 `json:"audio_lost_percent"`
	// Complete is the share of what arrived of video that belongs to complete frames, in bytes; Frames the share of all frames sent.
	Complete float64 `json:"video_complete_percent"`
	Frames   float64 `json:"video_frames_percent"`
	VideoP95 float64 `json:"video_ms_p95"`
	// Used is complete video and audio, and Video complete video alone, in percent of the path's rate.
	Used  float64 `json:"path_used_percent"`
	Video float64 `json:"path_video_percent"`
}

const (
	videoSSRC   = 0x76000001
	audioSSRC   = 0x61000001
	videoType   = 96
	audioType   = 111
	frameRate   = 30
	keyEvery    = 90 // frames
	keyTimes    = 4  // as long as others
	videoPacket = 1100
	audioEvery  = 20 * time.Millisecond
	// senderReport is RTCP's packet type (RFC 3550 section 6.4.1), of which there is one every reportEvery audio packets.
	senderReport = 200
	reportEvery  = 50
	rtpHead      = 12
	// rtpSize is an RTP header and what is written behind it: when, how many packets the frame has.
	rtpSize = rtpHead + 10
	// callTail is how long late packets are waited for: what comes later than that is lost to any call.
	callTail = 3 * time.Second
)

type frameSeen struct {
	got, of, bytes int
}

// listener takes what arrives at the client.
type listener struct {
	mu     sync.Mutex
	audio  []int32 // delays, microseconds
	video  []int32
	frames map[uint32]*frameSeen
	bytes  int // of audio
	until  int64
}

func (h *listener) take(data []byte) {
	if len(data) < rtpSize || data[1] == senderReport {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.until != 0 && now() > h.until {
		return
	}
	delay := int32((now() - int64(binary.BigEndian.Uint64(data[rtpHead:]))) / 1000)
	if data[1]&0x7f == audioType {
		h.audio = append(h.audio, delay)
		h.bytes += len(data)
		return
	}
	h.video = append(h.video, delay)
	ts := binary.BigEndian.Uint32(data[4:])
	f := h.frames[ts]
	if f == nil {
		f = &frameSeen{of: int(binary.BigEndian.Uint16(data[rtpHead+8:]))}
		h.frames[ts] = f
	}
	f.got++
	f.bytes += len(data)
}

// run sends the call to one client and listens.
func (c call) run(t target) (*heard, error) {
	peer, err := newPeer()
	if err != nil {
		return nil, err
	}
	defer func() { _ = peer.conn.Close() }()
	client, err := dial(t, peer.addr)
	if err != nil {
		return nil, err
	}
	h := &listener{frames: make(map[uint32]*frameSeen)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			frame, err := client.read()
			if err != nil {
				return
			}
			h.take(dataOf(frame))
		}
	}()
	s := &callSender{call: c, peer: peer, to: net.UDPAddrFromAddrPort(client.relayed), random: rand.New(rand.NewPCG(1, 2))}
	s.run()
	end := now()
	h.mu.Lock()
	h.until = end + int64(callTail)
	h.mu.Unlock()
	time.Sleep(callTail)
	_ = client.Close()
	<-done
	if s.failed != nil {
		return nil, fmt.Errorf("the peer: %w", s.failed)
	}
	return h.sum(s, c), nil
}

func (h *listener) sum(s *callSender, c call) *heard {
	r := &heard{}
	if len(h.audio) > 0 {
		r.AudioP50, r.AudioP95, r.AudioP99 = quantiles(h.audio)
	}
	if len(h.video) > 0 {
		_, r.VideoP95, _ = quantiles(h.video)
	}
	r.AudioLost = 100 * float64(s.audios-len(h.audio)) / float64(s.audios)
	complete, all, frames := 0, 0, 0
	for _, f := range h.frames {
		all += f.bytes
		if f.got == f.of {
			complete += f.bytes
			frames++
		}
	}
	if all > 0 {
		r.Complete = 100 * float64(complete) / float64(all)
	}
	r.Frames = 100 * float64(frames) / float64(s.frames)
	path := float64(c.Path.Rate) / 8 * float64(c.Seconds)
	r.Video = 100 * float64(complete) / path
	r.Used = 100 * float64(complete+h.bytes) / path
	return r
}

func quantiles(delays []int32) (p50, p95, p99 float64) {
	slices.Sort(delays)
	at := func(q float64) float64 { return float64(delays[int(q*float64(len(delays)-1))]) / 1000 }
	return at(0.5), at(0.95), at(0.99)
}

// callSender is the peer that speaks.
type callSender struct {
	call
	peer           *peer
	to             *net.UDPAddr
	random         *rand.Rand
	audios, frames int // sent
	seq            [8]uint16
	buf            [videoPacket]byte
	failed         error
}

// run sends audio every 20 ms and a frame every 1/30 s until the call is over.
func (s *callSender) run() {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	begin := now()
	end := begin + int64(s.Seconds)*int64(time.Second)
	audio, video := begin, begin+int64(5*time.Millisecond)
	for s.failed == nil {
		next := min(audio, video)
		if next >= end {
			return
		}
		sleepUntil(next)
		if next == audio {
			for i := range s.Audios {
				s.packet(i+1, audioType, audioSSRC+uint32(i), uint32(s.audios/s.Audios)*960, 70+s.random.IntN(60), 1)
				s.audios++
			}
			if s.Reports && s.audios/s.Audios%reportEvery == 1 {
				s.report()
			}
			audio += int64(audioEvery)
		} else {
			s.frame()
			video += int64(time.Second) / frameRate
		}
	}
}

// report sends a sender report, as far as it is not encrypted in a call.
func (s *callSender) report() {
	b := [28]byte{0x80, senderReport, 0, 6}
	binary.BigEndian.PutUint32(b[4:], videoSSRC)
	if _, err := s.peer.conn.WriteToUDP(b[:], s.to); err != nil {
		s.failed = err
	}
}

// frame sends one frame as a burst: key frames are longer, the others of changing length.
func (s *callSender) frame() {
	mean := float64(s.Video) / 8 / frameRate * keyEvery / (keyEvery - 1 + keyTimes)
	size := int(mean * (0.6 + 0.8*s.random.Float64()))
	if s.frames%keyEvery == 0 {
		size = int(mean * keyTimes)
	}
	ts := uint32(s.frames) * (90000 / frameRate)
	s.frames++
	of := (size + videoPacket - 1) / videoPacket
	for i := range of {
		s.packet(0, videoType, videoSSRC, ts, max(size*(i+1)/of-size*i/of, rtpSize), of)
	}
}

func (s *callSender) packet(stream int, typ byte, ssrc, ts uint32, size, of int) {
	b := s.buf[:size]
	b[0], b[1] = 0x80, typ
	binary.BigEndian.PutUint16(b[2:], s.seq[stream])
	s.seq[stream]++
	binary.BigEndian.PutUint32(b[4:], ts)
	binary.BigEndian.PutUint32(b[8:], ssrc)
	binary.BigEndian.PutUint64(b[rtpHead:], uint64(now()))
	binary.BigEndian.PutUint16(b[rtpHead+8:], uint16(of))
	if _, err := s.peer.conn.WriteToUDP(b, s.to); err != nil {
		s.failed = err
	}
}

package relay

import (
	"encoding/binary"
	"sync"
	"time"
)

// kind is what a message carries, as far as that can be told without reading media: the first bytes of STUN, DTLS, RTP and RTCP
// are in the clear (RFC 7983), and SRTP leaves the RTP header readable.
type kind uint8

const (
	kindOther kind = iota
	kindSTUN
	kindDTLS
	kindRTCP
	kindAudio
	kindVideo
	kinds
)

func (k kind) String() string {
	return [kinds]string{"other", "stun", "dtls", "rtcp", "audio", "video"}[k]
}

// lane is where messages of this kind wait.
func (k kind) lane() int {
	switch k {
	case kindSTUN:
		return laneControl
	case kindAudio:
		return laneAudio
	}
	return laneBulk
}

// ages tells whether a message of this kind is worthless after a while. A media packet is; what keeps the call together is not.
func (k kind) ages() bool { return k == kindAudio || k == kindVideo }

const (
	// maxQueued is the most that may wait for one client, counted in buffers held: a stop against abuse. Age is the bound that a
	// slow client meets.
	maxQueued = 256 << 10
	// audioPatience is how many times older than max_age audio may be: what has waited for its turn, or while the path stood still, is
	// what is heard first, and little beside video.
	audioPatience = mostPatience + 1
	// defaultMaxAge is relay.queue.max_age where the configuration has none.
	defaultMaxAge = 250 * time.Millisecond
)

// The lanes of a queue, what overtakes first.
const (
	laneControl = iota // STUN: small, and what holds the call together
	laneAudio          // small, and as bad late as lost
	laneBulk           // the rest
	lanes
)

// queue is what waits for one slow stream. Whole messages wait in lanes, and within a lane nothing overtakes anything, so no RTP
// stream is reordered.
//
// Control overtakes always. Audio overtakes video where there is no patience; else media keeps its order. RTCP overtakes nothing: from
// its round trip a receiver concludes when to ask again for a packet that it misses, and with a short one it asks ten times while the
// answer waits.
//
// What waited too long is dropped when its turn comes, not before: as long as nothing can be sent, nothing is gained by dropping.
// A video frame is dropped as a whole or not at all, for a part of one shows nothing: once its first packet was sent the others
// are too old only when the stop against abuse says so, and once one was dropped the others go the same way, also those still to
// come.
//
// It is not safe for concurrent use; its stream's lock guards it. It knows no clock: now is nanoseconds on any that only goes up.
type queue struct {
	maxAge time.Duration
	lanes  [lanes]lane
	held   int // bytes of buffers
	flows  *flowTable
	video  patience

	dropped [kinds]uint32
	taken   int           // messages of the last take
	delay   time.Duration // of the oldest of them
}

// waiting is one message in a lane. frame nil: it was dropped where it stood.
type waiting struct {
	frame []byte
	flow  *flow
	at    int64
	ts    uint32 // the RTP timestamp, for video
	kind  kind
}

type lane struct {
	list []waiting
	head int
}

func (l *lane) empty() bool { return l.head == len(l.list) }

func (l *lane) push(w waiting) {
	if l.head > 32 && l.head > len(l.list)/2 {
		n := copy(l.list, l.list[l.head:])
		clear(l.list[n:])
		l.list, l.head = l.list[:n], 0
	}
	l.list = append(l.list, w)
}

func (l *lane) pop() waiting {
	w := l.list[l.head]
	l.list[l.head] = waiting{}
	l.head++
	if l.empty() {
		l.list, l.head = l.list[:0], 0
		if cap(l.list) > 64 {
			l.list = nil
		}
	}
	return w
}

func (q *queue) empty() bool {
	for i := range q.lanes {
		if !q.lanes[i].empty() {
			return false
		}
	}
	return true
}

// next is the lane whose turn it is; nil: nothing waits.
func (q *queue) next() *lane {
	control, audio, bulk := &q.lanes[laneControl], &q.lanes[laneAudio], &q.lanes[laneBulk]
	switch {
	case !control.empty():
		return control
	case audio.empty() && bulk.empty():
		return nil
	case bulk.empty():
		return audio
	case audio.empty():
		return bulk
	}
	if !q.video.lasts(q.maxAge) || audio.list[audio.head].at <= bulk.list[bulk.head].at {
		return audio
	}
	return bulk
}

// urgent is the length on the stream of the message whose turn it is, if that is audio or control; 0: it is not.
func (q *queue) urgent() int {
	l := q.next()
	if l == nil || l == &q.lanes[laneBulk] || l.list[l.head].frame == nil {
		return 0
	}
	return padded(len(l.list[l.head].frame))
}

// label is what the queue knows of one message: its kind and, of media, its RTP stream and timestamp.
type label struct {
	flow *flow
	ts   uint32
	kind kind
}

// admit looks at one message on its way to the client, queued or not. ok false: it is the rest of a broken video frame and was
// dropped.
func (q *queue) admit(frame []byte) (l label, ok bool) {
	l = q.label(frame)
	if l.broken() {
		q.dropped[kindVideo]++
		return l, false
	}
	return l, true
}

// sent notes that a message goes out now.
func (l label) sent() {
	if l.kind == kindVideo {
		l.flow.started, l.flow.startedTS = true, l.ts
	}
}

// begun tells whether a part of the video frame was sent already.
func (l label) begun() bool { return l.kind == kindVideo && l.flow.started && l.flow.startedTS == l.ts }

// broken tells whether a part of the video frame was dropped already.
func (l label) broken() bool { return l.kind == kindVideo && l.flow.broken && l.flow.brokenTS == l.ts }

// push copies an admitted message into its lane. When too much waits, the oldest video goes, then the oldest audio; if there is
// neither, the message itself.
func (q *queue) push(frame []byte, l label, now int64) {
	size := bufferSize(len(frame))
	for q.held+size > maxQueued {
		if !q.evict(kindVideo, true) && !q.evict(kindVideo, false) && !q.evict(kindAudio, false) {
			q.drop(l)
			return
		}
		if l.broken() {
			q.dropped[kindVideo]++
			return
		}
	}
	buf := getBuffer(len(frame))
	copy(buf, frame)
	q.held += size
	q.lanes[l.kind.lane()].push(waiting{frame: buf, flow: l.flow, at: now, ts: l.ts, kind: l.kind})
}

// take moves messages to out, padded as a stream wants them, until it is full or nothing is left. What is too old is dropped.
func (q *queue) take(out []byte, now int64) []byte {
	q.taken, q.delay = 0, 0
	for l := q.next(); l != nil; l = q.next() {
		next := &l.list[l.head]
		if next.frame != nil && (len(out)+padded(len(next.frame)) > cap(out) || q.taken == chunkMessages) {
			return out
		}
		w := l.pop()
		if w.frame == nil {
			continue
		}
		if !q.tooOld(w, now) {
			out = appendPadded(out, w.frame)
			label{w.flow, w.ts, w.kind}.sent()
			q.taken++
			q.delay = max(q.delay, time.Duration(now-w.at))
		}
		q.release(w.frame)
	}
	return out
}

// tooOld judges a message whose turn has come, and drops it in the books.
func (q *queue) tooOld(w waiting, now int64) bool {
	l := label{w.flow, w.ts, w.kind}
	switch {
	case !w.kind.ages():
		return false
	case l.broken():
		q.dropped[kindVideo]++
		return true
	case l.begun(), time.Duration(now-w.at) <= q.limit(w.kind, time.Duration(now-w.at), now):
		return false
	}
	q.drop(l)
	return true
}

// limit is how old a media message whose turn has come may be.
func (q *queue) limit(k kind, age time.Duration, now int64) time.Duration {
	if k == kindAudio {
		return audioPatience * q.maxAge
	}
	return q.video.limit(q.maxAge, age, now)
}

// drop counts a message as dropped; the rest of its video frame will follow it.
func (q *queue) drop(l label) {
	q.dropped[l.kind]++
	if l.kind == kindVideo {
		l.flow.broken, l.flow.brokenTS = true, l.ts
	}
}

// evict drops the oldest message of a kind, of video with all that waits of its frame; false if none waits. spare leaves out the
// rest of frames that have begun to be sent.
func (q *queue) evict(k kind, spare bool) bool {
	l := &q.lanes[k.lane()]
	var first label
	found := false
	for i := l.head; i < len(l.list); i++ {
		w := &l.list[i]
		is := label{w.flow, w.ts, w.kind}
		switch {
		case w.frame == nil || w.kind != k || found && is != first || !found && spare && is.begun():
			continue
		case !found:
			first, found = is, true
		}
		q.drop(is)
		q.release(w.frame)
		w.frame = nil
		if k != kindVideo {
			return true
		}
	}
	return found
}

func (q *queue) release(frame []byte) {
	q.held -= cap(frame)
	putBuffer(frame)
}

// clear drops everything, uncounted: the client has gone.
func (q *queue) clear() {
	for i := range q.lanes {
		for l := &q.lanes[i]; !l.empty(); {
			if w := l.pop(); w.frame != nil {
				q.release(w.frame)
			}
		}
	}
	q.flows = nil
}

// age is how long the oldest message has been waiting.
func (q *queue) age(now int64) time.Duration {
	var age time.Duration
	for i := range q.lanes {
		if l := &q.lanes[i]; !l.empty() {
			age = max(age, time.Duration(now-l.list[l.head].at))
		}
	}
	return age
}

// appendPadded appends a message as a stream wants it: padded to a multiple of 4 (RFC 8656 section 12.5).
func appendPadded(out, frame []byte) []byte {
	out = append(out, frame...)
	for range -len(frame) & 3 {
		out = append(out, 0)
	}
	return out
}

// Queued messages lie in pooled buffers of four sizes: audio and control, video of little and of much, and the longest.
var bufferPools = [...]struct {
	size int
	pool *sync.Pool
}{
	{256, &sync.Pool{New: func() any { return new([256]byte) }}},
	{640, &sync.Pool{New: func() any { return new([640]byte) }}},
	{1280, &sync.Pool{New: func() any { return new([1280]byte) }}},
	{maxFrame, &sync.Pool{New: func() any { return new([maxFrame]byte) }}},
}

func bufferSize(n int) int {
	for _, p := range bufferPools {
		if n <= p.size {
			return p.size
		}
	}
	return n
}

func getBuffer(n int) []byte {
	switch {
	case n <= 256:
		return bufferPools[0].pool.Get().(*[256]byte)[:n]
	case n <= 640:
		return bufferPools[1].pool.Get().(*[640]byte)[:n]
	case n <= 1280:
		return bufferPools[2].pool.Get().(*[1280]byte)[:n]
	case n <= maxFrame:
		return bufferPools[3].pool.Get().(*[maxFrame]byte)[:n]
	}
	return make([]byte, n)
}

func putBuffer(b []byte) {
	b = b[:cap(b)]
	switch cap(b) {
	case 256:
		bufferPools[0].pool.Put((*[256]byte)(b))
	case 640:
		bufferPools[1].pool.Put((*[640]byte)(b))
	case 1280:
		bufferPools[2].pool.Put((*[1280]byte)(b))
	case maxFrame:
		bufferPools[3].pool.Put((*[maxFrame]byte)(b))
	}
}

// label tells the kind of a message and finds its RTP stream.
func (q *queue) label(frame []byte) label {
	data := dataOf(frame)
	if data == nil {
		return label{kind: kindSTUN}
	}
	k := kindOf(data)
	if k != kindVideo {
		q.video.hears = q.video.hears || k == kindDTLS || k == kindRTCP
		return label{kind: k}
	}
	if q.flows == nil {
		q.flows = new(flowTable)
	}
	f := q.flows.find(binary.BigEndian.Uint32(data[8:]))
	l := label{flow: f, ts: binary.BigEndian.Uint32(data[4:]), kind: kindAudio}
	if f.learn(data, l.ts); f.video {
		l.kind = kindVideo
	}
	return l
}

// kindOf tells what a packet is by its first bytes (RFC 7983, RFC 5761). All RTP is kindVideo here: only its stream tells audio.
func kindOf(data []byte) kind {
	switch {
	case len(data) == 0:
		return kindOther
	case data[0] <= 3:
		if len(data) >= stunHeaderSize && binary.BigEndian.Uint32(data[4:]) == stunCookie {
			return kindSTUN
		}
	case data[0] >= 20 && data[0] <= 63:
		return kindDTLS
	case data[0]&0xc0 == 0x80 && len(data) >= 8:
		if pt := data[1] & 0x7f; pt >= 64 && pt <= 95 {
			return kindRTCP
		}
		if len(data) >= 12 {
			return kindVideo
		}
	}
	return kindOther
}

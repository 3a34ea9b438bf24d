package e2e

import (
	"fmt"
	"sort"
	"strings"
	"testing"
	"time"
)

// recorder, run in a call page, notes when audio and video came and frames were decoded, and every turn of the connection's
// state. Its clock is this machine's: what it notes compares with times taken here.
const recorder = `(() => {
  const pc = window.call.link.pc;
  const r = window.recorded = { video: [], audio: [], frames: [], turns: [] };
  const turn = (what) => r.turns.push({ at: Date.now(), what });
  turn('recording');
  pc.addEventListener('connectionstatechange', () => turn(pc.connectionState));
  pc.addEventListener('iceconnectionstatechange', () => turn('ice ' + pc.iceConnectionState));
  pc.addEventListener('icegatheringstatechange', () => turn('gathering ' + pc.iceGatheringState));
  pc.addEventListener('signalingstatechange', () => turn('signaling ' + pc.signalingState));
  pc.addEventListener('icecandidate', (e) => e.candidate && turn('candidate ' + e.candidate.type + ' ' + (e.candidate.relayProtocol ?? '') + ' ' + e.candidate.address));
  const last = {};
  // A description that is rolled back makes the counters begin anew: more than nothing, and not what it was. A stream may be there twice
  // then, the old one for ever as it was: so each has its own count.
  const count = (what, stream, now) => {
    const key = what + stream;
    if (now > 0 && now !== last[key]) r[what].push(Date.now());
    last[key] = now;
  };
  const look = async () => {
    for (const s of (await pc.getStats()).values()) {
      if (s.type !== 'inbound-rtp') continue;
      count(s.kind, s.id, s.packetsReceived);
      if (s.kind === 'video') count('frames', s.id, s.framesDecoded);
    }
    setTimeout(look, 25);
  };
  look();
  return true;
})()`

// recording is what the recorder noted; times are Unix milliseconds.
type recording struct {
	Audio  []float64 `json:"audio"`
	Video  []float64 `json:"video"`
	Frames []float64 `json:"frames"`
	Turns  []struct {
		At   float64 `json:"at"`
		What string  `json:"what"`
	} `json:"turns"`
}

// record begins to note what happens to a page's media.
func (p *tab) record(t testing.TB) {
	t.Helper()
	var ok bool
	if err := p.eval(recorder, &ok); err != nil || !ok {
		t.Fatalf("the recorder does not start: %v", err)
	}
}

func (p *tab) recorded() recording {
	var r recording
	_ = p.eval("window.recorded", &r)
	return r
}

// gap is the longest time without anything new since the cut; back is from the cut to its end. ok: it is longer than half
// a second and over.
func gap(times []float64, cut time.Time) (length, back time.Duration, ok bool) {
	at := float64(cut.UnixMilli())
	sort.Float64s(times)
	from := at
	for _, next := range times {
		if next <= at {
			continue
		}
		if d := time.Duration(next-from) * time.Millisecond; d > length {
			length, back = d, time.Duration(next-at)*time.Millisecond
		}
		from = next
	}
	return length, back, length > 500*time.Millisecond
}

// story tells what the page went through since the cut.
func (r recording) story(cut time.Time) string {
	var b strings.Builder
	for _, turn := range r.Turns {
		if d := turn.At - float64(cut.UnixMilli()); d >= 0 {
			fmt.Fprintf(&b, "\n  %6.0f ms %s", d, turn.What)
		}
	}
	for what, times := range map[string][]float64{"audio": r.Audio, "video": r.Video, "pictures": r.Frames} {
		length, back, _ := gap(times, cut)
		fmt.Fprintf(&b, "\n  %s: longest gap %v, until %v", what, length, back)
		if n := len(times); n > 0 {
			fmt.Fprintf(&b, ", the last of %d after %v", n, time.Duration(times[n-1]-float64(cut.UnixMilli()))*time.Millisecond)
		}
	}
	return b.String()
}

// mediaIsBack waits until both pages have had the gap that the cut made and media behind it, and returns from the cut to
// the last of the first packets: of audio and video, both ways. When a picture can be decoded again is up to the browsers.
func mediaIsBack(t testing.TB, cut time.Time, pages map[string]*tab) (took time.Duration) {
	t.Helper()
	for name, p := range pages {
		var r recording
		var audio, video, frames time.Duration
		waitForOr(t, "media after the cut at "+name, callTimeout, func() bool {
			r = p.recorded()
			var a, v, f bool
			_, audio, a = gap(r.Audio, cut)
			_, video, v = gap(r.Video, cut)
			_, frames, f = gap(r.Frames, cut)
			return a && v && f
		}, func() string { return r.story(cut) })
		t.Logf("%s: audio is back after %v, video after %v, a picture after %v%s", name, audio, video, frames, r.story(cut))
		took = max(took, audio, video)
	}
	return took
}

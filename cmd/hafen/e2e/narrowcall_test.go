package e2e

import (
	"bufio"
	_ "embed"
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v4"
)

// narrowCall is make narrow-call.
var (
	narrowCall        = flag.Bool("narrow-call", false, "run Chromium's calls over narrow paths, through the gateway and straight to coturn")
	narrowCallSeconds = flag.Int("narrow-seconds", 60, "length of each of these calls")
	narrowCallRounds  = flag.Int("narrow-rounds", 1, "how often each is made")
	narrowCallRows    = flag.String("narrow-rows", "", "only rows whose names contain this")
	narrowCallServers = flag.String("narrow-servers", "coturn,hafen", "which servers")
)

// narrowRate is what the path carries, in bits a second; the other end would send 1.5 Mbit/s of video.
const narrowRate = 600_000

// narrowRow is one path: which way it is narrow, seen from the ward, and how.
type narrowRow struct {
	name          string
	down, policed bool
	after         time.Duration // how long the path is wide before
}

var narrowRows = []narrowRow{
	{name: "shaped, receiver", down: true},
	{name: "policed, receiver", down: true, policed: true},
	{name: "shaped after 15 s, receiver", down: true, after: 15 * time.Second},
	{name: "shaped, sender"},
}

// TestNarrowCall: two Chromiums in a call, one of them in a ward whose only way is TURN over TLS through a path of 600 kbit/s; once through
// the gateway (bridge to coturn over UDP), once straight to coturn. What the browsers say of it is printed for both.
func TestNarrowCall(t *testing.T) {
	if !*narrowCall {
		t.Skip("takes minutes: make narrow-call")
	}
	sc := &scene{regions: []relay{frankfurt}}
	n := &narrowLab{laboratory: sc.standUp(t)}
	n.waitRungs("frankfurt", "udp:3478")
	names := map[string]string{gatewayName: gatewayAddr, fraName: fraAddr, callName: cloudAddr}
	n.narrow = n.office("ward", names, onlyGateway, "ip daddr { "+fraAddr+", "+cloudAddr+" } tcp dport 443")
	n.wide = n.office("home", names, "ip daddr { "+fraAddr+", "+cloudAddr+" }")
	// Real cables carry packets of 1,500 bytes.
	for _, ns := range []*namespace{n.dmz, n.cloud, n.narrow} {
		ns.run(t, "ip", "link", "set", "eth0", "gso_max_segs", "1")
	}
	camera := "--use-file-for-fake-video-capture=" + movingPicture(t)
	n.here, n.there = newBrowser(t, n.narrow, n.ca, camera), newBrowser(t, n.wide, n.ca, camera)
	heard := make(map[string][]narrowFigures)
	for round := range *narrowCallRounds {
		for _, row := range narrowRows {
			servers := strings.Split(*narrowCallServers, ",")
			if round%2 == 1 {
				slices.Reverse(servers)
			}
			for _, server := range servers {
				if strings.Contains(row.name, *narrowCallRows) {
					t.Run(fmt.Sprintf("%s, %s, %d", row.name, server, round+1), func(t *testing.T) {
						f := n.measure(t, row, server)
						heard[row.name+" "+server] = append(heard[row.name+" "+server], f)
						t.Logf("\n%s", f.table())
					})
				}
			}
		}
	}
	for _, row := range narrowRows {
		judgeNarrow(t, row, heard[row.name+" coturn"], heard[row.name+" hafen"])
	}
}

// judgeNarrow holds the calls of a row against each other, and the gateway's against what a call has to be.
func judgeNarrow(t *testing.T, row narrowRow, coturn, hafen []narrowFigures) {
	t.Helper()
	frozen := func(list []narrowFigures) (s float64) {
		for _, f := range list {
			s += f.Frozen
		}
		return s / float64(max(len(list), 1))
	}
	for _, f := range hafen {
		if f.Broken > 0 || f.AudioRate < 45 || f.Concealed > 5 {
			t.Errorf("%s: a call through the gateway broke %d times, %.1f audio packets a second were heard, %.1f %% of it made up", row.name, f.Broken, f.AudioRate, f.Concealed)
		}
	}
	if len(coturn) > 0 && len(hafen) > 0 {
		t.Logf("%s: video stood still for %.1f s with coturn, %.1f s with the gateway", row.name, frozen(coturn), frozen(hafen))
		if frozen(hafen) > max(1, frozen(coturn)) {
			t.Errorf("%s: video freezes more than with coturn", row.name)
		}
	}
}

type narrowLab struct {
	*laboratory
	narrow, wide *namespace
	here, there  *browser
}

// lay makes the ward's path as the row has it.
func (n *narrowLab) lay(t *testing.T, row narrowRow) {
	n.widen(t)
	ns, device, hook := n.narrow, "eth0", "output"
	if row.down {
		ns, device, hook = n.net.core, n.narrow.link, "forward"
	}
	if row.policed {
		ns.nft(t, fmt.Sprintf("table inet narrow {\n chain way { type filter hook %s priority 10; oifname %q limit rate over %d bytes/second burst 20 kbytes drop; }\n}", hook, device, narrowRate/8))
		return
	}
	ns.run(t, "tc", "qdisc", "add", "dev", device, "root", "tbf", "rate", fmt.Sprintf("%dbit", narrowRate), "burst", "10kb", "latency", "1000ms")
}

// widen takes the narrow path away.
func (n *narrowLab) widen(t *testing.T) {
	for ns, device := range map[*namespace]string{n.narrow: "eth0", n.net.core: n.narrow.link} {
		ns.run(t, "sh", "-c", "tc qdisc del dev "+device+" root 2>/dev/null; nft delete table inet narrow 2>/dev/null; true")
	}
}

//go:embed testdata/narrowcall.js
var narrowScript string

// measure makes one call and looks at it every second.
func (n *narrowLab) measure(t *testing.T, row narrowRow, server string) narrowFigures {
	if row.after == 0 {
		n.lay(t, row)
	}
	before := n.dropped()
	way := "turns:" + fraName + ":443?transport=tcp"
	if server == "hafen" {
		way = "turns:" + gatewayName + ":443?transport=tcp"
	}
	receiver, sender := n.end(t, n.here, way), n.end(t, n.there, "turn:"+fraName+":3478?transport=udp")
	if !row.down {
		receiver, sender = sender, receiver
	}
	connectEnds(t, sender, receiver)
	var all []narrowSample
	laid := false
	for begun, next := time.Now(), time.Now(); time.Since(begun) < time.Duration(*narrowCallSeconds)*time.Second; time.Sleep(time.Until(next)) {
		next = next.Add(time.Second)
		if row.after > 0 && !laid && time.Since(begun) >= row.after {
			laid = true
			n.lay(t, row)
		}
		var s narrowSample
		must(t, receiver.eval("narrow.received()", &s))
		must(t, sender.eval("narrow.sent()", &s))
		all = append(all, s)
	}
	f := sumNarrow(all)
	f.Row, f.Server, f.Dropped = row.name, server, n.dropped()-before
	for _, p := range []*tab{receiver, sender} {
		must(t, p.eval("narrow.close()", nil))
	}
	n.widen(t)
	return f
}

func (n *narrowLab) dropped() float64 { return n.metric("hafen_relay_dropped_frames_total") }

// end opens a page with a camera and one relay, and nothing to go round it.
func (n *narrowLab) end(t *testing.T, b *browser, url string) *tab {
	t.Helper()
	username, password, err := turn.GenerateLongTermTURNRESTCredentials(relaySecret, "tester", time.Hour)
	must(t, err)
	secrets.Add("a TURN password", password)
	p := b.open(t, "https://"+callName+"/")
	must(t, p.eval("(0, eval)("+quoteJS(narrowScript)+")", nil))
	must(t, p.eval(fmt.Sprintf("narrow.start({urls: %q, username: %q, credential: %q})", url, username, password), nil))
	return p
}

func quoteJS(text string) string {
	b, _ := json.Marshal(text)
	return string(b)
}

// connectEnds carries the descriptions from one page to the other and waits until video is decoded.
func connectEnds(t *testing.T, sender, receiver *tab) {
	t.Helper()
	var offer, answer json.RawMessage
	must(t, sender.eval("narrow.offer()", &offer))
	must(t, receiver.eval("narrow.answer("+string(offer)+")", &answer))
	must(t, sender.eval("narrow.accept("+string(answer)+")", nil))
	waitFor(t, "the call to connect", callTimeout, func() bool {
		return sender.text("narrow.state()") == "connected" && receiver.text("narrow.state()") == "connected"
	})
}

// narrowSample is what both pages say at one moment; sums since the call began.
type narrowSample struct {
	Broken                                      int
	AudioPackets, AudioLost, AudioEnergy        float64
	Samples, Concealed                          float64
	AudioBuffer, AudioEmitted                   float64
	VideoBuffer, VideoEmitted                   float64
	Freezes, Frozen, Decoded, Nacks, Plis, Keys float64
	VideoPackets, VideoLost, VideoBytes, Ear    float64
	SenderBroken                                int
	Estimate, RTT, SentBytes, Width             float64
}

// narrowFigures are what is said of a call.
type narrowFigures struct {
	Row, Server                   string
	Broken                        int
	AudioRate, AudioLost          float64 // packets a second, percent
	Concealed, Energy             float64 // percent; of audio
	AudioBuffer, VideoBuffer      float64 // ms a sample or frame waited in the jitter buffer
	Freezes, Frozen               float64 // number, seconds
	LateFreezes, LateFrozen       float64 // of the last 40 s
	Decoded, FrameRate            float64
	Nacks, Plis, VideoLost        float64
	Kbps                          float64 // of video received
	RTT, RTTMost                  float64 // ms, median and most
	EstimateFirst                 []int   // kbit/s, every fifth second
	EstimateLow, EstimateHigh     float64 // kbit/s, of the last 20 s
	Dropped                       float64 // by the gateway's queue
	Ear                           float64
	ears                          []float64
	SentKbps, Width, EstimateMean float64
}

func sumNarrow(all []narrowSample) narrowFigures {
	last, tail := all[len(all)-1], all[max(0, len(all)-20):]
	settled := all[min(len(all)-1, 20)]
	seconds := float64(len(all) - 1)
	per := func(sum, n float64) float64 { return sum / max(n, 1e-9) }
	f := narrowFigures{
		Broken: last.Broken + last.SenderBroken, AudioRate: per(last.AudioPackets-all[0].AudioPackets, seconds),
		AudioLost: 100 * per(last.AudioLost, last.AudioLost+last.AudioPackets), Concealed: 100 * per(last.Concealed, last.Samples), Energy: last.AudioEnergy,
		AudioBuffer: 1000 * per(last.AudioBuffer, last.AudioEmitted), VideoBuffer: 1000 * per(last.VideoBuffer, last.VideoEmitted),
		Freezes: last.Freezes, Frozen: last.Frozen, LateFreezes: last.Freezes - settled.Freezes, LateFrozen: last.Frozen - settled.Frozen,
		Decoded: last.Decoded, FrameRate: per(last.Decoded-all[0].Decoded, seconds), Nacks: last.Nacks, Plis: last.Plis,
		VideoLost: 100 * per(last.VideoLost, last.VideoLost+last.VideoPackets), Kbps: per(last.VideoBytes-all[0].VideoBytes, seconds) / 125,
		SentKbps: per(last.SentBytes-all[0].SentBytes, seconds) / 125, Width: last.Width,
		EstimateLow: math.Inf(1),
	}
	var rtts []float64
	for i, s := range all {
		rtts = append(rtts, 1000*s.RTT)
		f.ears = append(f.ears, s.Ear)
		if i%5 == 0 {
			f.EstimateFirst = append(f.EstimateFirst, int(s.Estimate/1000))
		}
	}
	for _, s := range tail {
		f.EstimateLow, f.EstimateHigh = min(f.EstimateLow, s.Estimate/1000), max(f.EstimateHigh, s.Estimate/1000)
		f.EstimateMean += s.Estimate / 1000 / float64(len(tail))
	}
	slices.Sort(rtts)
	slices.Sort(f.ears)
	f.RTT, f.RTTMost, f.Ear = rtts[len(rtts)/2], rtts[len(rtts)-1], f.ears[len(f.ears)/2]
	return f
}

func (f narrowFigures) table() string {
	var b strings.Builder
	line := func(what, format string, values ...any) {
		fmt.Fprintf(&b, "  %-28s "+format+"\n", append([]any{what}, values...)...)
	}
	line("connection broken", "%d times", f.Broken)
	line("audio heard", "%.1f packets/s, %.2f %% lost, %.2f %% made up, energy %.2f", f.AudioRate, f.AudioLost, f.Concealed, f.Energy)
	line("jitter buffer", "audio %.0f ms, video %.0f ms", f.AudioBuffer, f.VideoBuffer)
	line("audio, mouth to ear", "median %.0f ms, 95th percentile %.0f ms", f.Ear, f.ears[len(f.ears)*95/100])
	line("video frozen", "%.0f times, %.2f s; after 20 s: %.0f times, %.2f s", f.Freezes, f.Frozen, f.LateFreezes, f.LateFrozen)
	line("video", "%.0f frames decoded (%.1f/s), %.0f kbit/s of %.0f, width %.0f, %.1f %% of packets lost, %.0f nacks, %.0f plis", f.Decoded, f.FrameRate, f.Kbps, f.SentKbps, f.Width, f.VideoLost, f.Nacks, f.Plis)
	line("estimate, every 5 s", "%v kbit/s", f.EstimateFirst)
	line("estimate, last 20 s", "%.0f to %.0f, mean %.0f kbit/s", f.EstimateLow, f.EstimateHigh, f.EstimateMean)
	line("round trip", "median %.0f ms, most %.0f ms", f.RTT, f.RTTMost)
	line("dropped by the gateway", "%.0f messages", f.Dropped)
	return b.String()
}

// movingPicture writes a film that costs an encoder some bits: a pattern that moves several ways at once, and grain.
func movingPicture(t *testing.T) string {
	t.Helper()
	const width, height, frames = 640, 360, 60
	file := filepath.Join(t.TempDir(), "camera.y4m")
	out, err := os.Create(file)
	must(t, err)
	w := bufio.NewWriterSize(out, 1<<20)
	fmt.Fprintf(w, "YUV4MPEG2 W%d H%d F30:1 Ip A1:1 C420jpeg\n", width, height)
	random := rand.New(rand.NewPCG(1, 2))
	picture := make([]byte, width*height*3/2)
	for i := range picture {
		picture[i] = 128
	}
	for f := range frames {
		turn := 2 * math.Pi * float64(f) / frames // the film has no end
		for y := range height {
			for x := range width {
				v := 40*math.Sin(float64(x)/17+6*turn) + 30*math.Sin(float64(y)/11-4*turn) + 20*math.Sin(float64(x+y)/7+9*turn)
				picture[y*width+x] = byte(128 + v + 10*random.Float64())
			}
		}
		_, _ = w.WriteString("FRAME\n")
		_, _ = w.Write(picture)
	}
	must(t, w.Flush())
	must(t, out.Close())
	return file
}

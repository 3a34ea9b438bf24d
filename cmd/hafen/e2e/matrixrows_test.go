package e2e

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// matrixGroups are all rows, by the laboratory that they need.
func matrixGroups() []group {
	return []group{
		{name: "ways", stand: usualLaboratory, faults: wayFaults()},
		{name: "devices", stand: usualLaboratory, faults: deviceFaults()},
		{name: "line", stand: usualLaboratory, faults: lineFaults()},
		{name: "gateway", stand: usualLaboratory, faults: gatewayFaults(), alone: true},
	}
}

func usualLaboratory(t testing.TB) *laboratory { return newLaboratory(t, oneCallServer) }

// oneCallServer takes the second call service away: what is asked is then what a fault is about.
func oneCallServer(cfg string) string {
	return strings.Replace(cfg, "hosts: ["+callName+", "+plainName+"]", "hosts: ["+callName+"]", 1)
}

var (
	throughGateway = map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}
	everythingOpen = "ip daddr " + gatewayAddr
)

// open is an office that reaches the gateway in every way, and nothing else.
func (l *laboratory) open(short string) *namespace {
	return l.office(short, throughGateway, everythingOpen)
}

// company is an office behind a middlebox: names lead to the box.
func (l *laboratory) company(t *testing.T, short string, m *middlebox) *namespace {
	box := l.net.host(short + "b")
	m.gateway = gatewayAddr + ":443"
	m.start(t, box, box.addr+":443", l.ca, gatewayName, callName)
	return l.office(short, map[string]string{gatewayName: box.addr, callName: box.addr}, "ip daddr "+box.addr+" tcp dport 443")
}

// quickRun is how long a run takes at most that is not the long one.
const quickRun = time.Minute

func wayFaults() []fault {
	return []fault{
		{name: "all fine", make: func(_ *testing.T, l *laboratory) visit { return visit{office: l.open("fine")} }},
		{name: "all fine at full length", within: quickRun, make: func(_ *testing.T, l *laboratory) visit { return visit{office: l.open("full"), hold: 45} }},
		{name: "everything closed at full length", want: "turn-tls-blocked", within: quickRun, make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.company(t, "closed", &middlebox{resetTURN: true, stripUpgrade: true}), hold: 45}
		}},
		{name: "UDP blocked", want: "udp-blocked", make: func(_ *testing.T, l *laboratory) visit {
			names := map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr, fraName: fraAddr, lonName: lonAddr}
			return visit{office: l.office("noudp", names, "meta l4proto tcp")}
		}},
		{name: "only 443", want: "only-443", make: func(_ *testing.T, l *laboratory) visit {
			return visit{office: l.office("only443", throughGateway, onlyGateway)}
		}},
		{name: "TURN in TLS reset", want: "turn-tls-blocked", make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.company(t, "reset", &middlebox{resetTURN: true})}
		}},
		{name: "WebSocket stripped", want: "websocket-blocked", make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.company(t, "strip", &middlebox{stripUpgrade: true})}
		}},
		{name: "long-poll cut at 20 s", want: "longpoll-cut", make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.company(t, "cut20", &middlebox{idle: 20 * time.Second}), hold: 30}
		}},
		{name: "long-poll cut at 60 s", want: "longpoll-cut", make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.company(t, "cut60", &middlebox{idle: 60 * time.Second}), hold: 90}
		}},
		{name: "intercepting proxy", want: "tls-intercepted", make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.company(t, "icept", &middlebox{})}
		}},
		{name: "DNS fails", want: "dns-failed", make: func(_ *testing.T, l *laboratory) visit {
			return visit{office: l.office("nodns", map[string]string{gatewayName: gatewayAddr}, everythingOpen)}
		}},
		{name: "PAC not applied", want: "proxy-not-used", make: func(_ *testing.T, l *laboratory) visit {
			names := map[string]string{gatewayName: gatewayAddr, callName: cloudAddr, fraName: fraAddr, lonName: lonAddr}
			return visit{office: l.office("nopac", names, everythingOpen)}
		}},
		{name: "company proxy asks 407", want: "proxy-auth-required", make: func(t *testing.T, l *laboratory) visit {
			s := startSquid(t, l, map[string]string{callName: cloudAddr, fraName: fraAddr, lonName: lonAddr})
			office := l.office("p407", map[string]string{gatewayName: gatewayAddr}, everythingOpen, "ip daddr "+s.ns.addr)
			pac := fmt.Sprintf("function FindProxyForURL(u, h) { return h == %q ? 'DIRECT' : 'PROXY %s:3128'; }", gatewayName, s.ns.addr)
			return visit{office: office, flags: []string{pacFlag(pac)}}
		}},
		{name: "captive portal", want: "captive-portal", make: func(t *testing.T, l *laboratory) visit {
			p := startPortal(t, l, callName, fraName, lonName)
			names := map[string]string{gatewayName: gatewayAddr, callName: p.ns.addr, fraName: p.ns.addr, lonName: p.ns.addr}
			return visit{office: l.office("portalo", names, everythingOpen, "ip daddr "+p.ns.addr)}
		}},
		{name: "two: UDP blocked, camera denied", want: "camera-denied", also: "udp-blocked", make: func(_ *testing.T, l *laboratory) visit {
			names := map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr, fraName: fraAddr, lonName: lonAddr}
			return visit{office: l.office("pair1", names, "meta l4proto tcp"), flags: asked, denies: "camera"}
		}},
		{name: "two: WebSocket stripped, microphone silent", want: "microphone-silent", also: "websocket-blocked", make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.company(t, "pair2", &middlebox{stripUpgrade: true}), flags: fakeSound(t, func(int) float64 { return 0 })}
		}},
		{name: "two: DNS fails, 12 % loss", want: "dns-failed", also: "loss-high", make: func(t *testing.T, l *laboratory) visit {
			office := l.office("pair3", map[string]string{gatewayName: gatewayAddr}, everythingOpen)
			l.loses(t, office, 12)
			return visit{office: office}
		}},
	}
}

// denied makes Chromium refuse camera and microphone, as a person or a policy does; asked leaves it to the permissions.
var (
	denied = []string{"!--use-fake-ui-for-media-stream", "--deny-permission-prompts"}
	asked  = denied[:1]
)

func deviceFaults() []fault {
	at := func(name, want string, flags func(t *testing.T) []string) fault {
		return fault{name: name, want: want, make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.open("d" + strings.NewReplacer(" ", "", "camera", "c", "microphone", "m").Replace(name)), flags: flags(t)}
		}}
	}
	refused := func(device string) fault {
		return fault{name: device + " denied", want: device + "-denied", make: func(_ *testing.T, l *laboratory) visit {
			return visit{office: l.open("dn" + device[:3]), flags: asked, denies: device}
		}}
	}
	return []fault{
		at("camera and microphone denied", "microphone-denied", func(*testing.T) []string { return denied }),
		refused("camera"),
		refused("microphone"),
		at("camera missing", "camera-missing", func(*testing.T) []string {
			return []string{"!--use-fake-device-for-media-stream", "--use-fake-device-for-media-stream=device-count=0"}
		}),
		at("camera black", "camera-black", func(t *testing.T) []string { return fakePicture(t, func(int, int) byte { return 16 }) }),
		at("camera frozen", "camera-frozen", func(t *testing.T) []string { return fakePicture(t, func(_, x int) byte { return byte(60 + x/4) }) }),
		at("microphone missing", "microphone-missing", func(*testing.T) []string { return []string{"!--use-fake-device-for-media-stream"} }),
		at("microphone silent", "microphone-silent", func(t *testing.T) []string { return fakeSound(t, func(int) float64 { return 0 }) }),
		at("microphone clips", "microphone-clipping", func(t *testing.T) []string {
			return fakeSound(t, func(i int) float64 { return math.Copysign(1, math.Sin(2*math.Pi*220*float64(i)/48000)) })
		}),
		{name: "clock off by 2 hours", want: "clock-skew", make: func(t *testing.T, l *laboratory) visit {
			return visit{office: l.open("dclock"), env: []string{"LD_PRELOAD=" + fastClock(t)}}
		}},
		{name: "CPU starved", want: "cpu-limited", make: func(_ *testing.T, l *laboratory) visit {
			return visit{office: l.open("dcpu"), pid: starve}
		}},
	}
}

// fastClock is a library that tells a program the time of two hours later. libfaketime takes locks that Chromium's processes wait for.
func fastClock(t *testing.T) string {
	t.Helper()
	library := filepath.Join(t.TempDir(), "clock.so")
	mustRun(t, "cc", "-shared", "-fPIC", "-O2", "-o", library, "testdata/clock.c")
	return library
}

// starve lets a process group run one fifth of the time.
func starve(pid int, stop <-chan struct{}) {
	defer func() { _ = unix.Kill(-pid, unix.SIGCONT) }()
	for {
		for _, step := range []struct {
			signal unix.Signal
			lasts  time.Duration
		}{{unix.SIGSTOP, 800 * time.Millisecond}, {unix.SIGCONT, 200 * time.Millisecond}} {
			_ = unix.Kill(-pid, step.signal)
			select {
			case <-stop:
				return
			case <-time.After(step.lasts):
			}
		}
	}
}

// fakeSound is a microphone that hears what the function says.
func fakeSound(t testing.TB, at func(i int) float64) []string {
	const rate, seconds = 48000, 10
	data := make([]byte, 44, 44+2*rate*seconds)
	copy(data, "RIFF....WAVEfmt ")
	binary.LittleEndian.PutUint32(data[4:], uint32(36+2*rate*seconds))
	binary.LittleEndian.PutUint32(data[16:], 16)
	binary.LittleEndian.PutUint16(data[20:], 1)
	binary.LittleEndian.PutUint16(data[22:], 1)
	binary.LittleEndian.PutUint32(data[24:], rate)
	binary.LittleEndian.PutUint32(data[28:], 2*rate)
	binary.LittleEndian.PutUint16(data[32:], 2)
	binary.LittleEndian.PutUint16(data[34:], 16)
	copy(data[36:], "data")
	binary.LittleEndian.PutUint32(data[40:], 2*rate*seconds)
	for i := range rate * seconds {
		data = binary.LittleEndian.AppendUint16(data, uint16(int16(at(i)*32767)))
	}
	// Not in the test's own directory: its name may have a "%", behind which Chromium looks for an option.
	dir, err := os.MkdirTemp("", "hafen-sound")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	file := filepath.Join(dir, "microphone.wav")
	must(t, os.WriteFile(file, data, 0o644))
	return []string{"--use-file-for-fake-audio-capture=" + file}
}

// voiced gives a browser a microphone that hears somebody speak softly, if it has none of its own: Chromium's is as loud as can be.
func voiced(t testing.TB, flags []string) []string {
	t.Helper()
	for _, f := range flags {
		if strings.HasPrefix(f, "--use-file-for-fake-audio-capture=") {
			return flags
		}
	}
	return append(slices.Clone(flags), fakeSound(t, voice())...)
}

// voice has syllables, a melody and overtones: the browser takes what has none of them for noise, and silences it.
func voice() func(i int) float64 {
	phase := 0.0
	return func(i int) float64 {
		at := 2 * math.Pi * float64(i) / 48000
		phase += 2 * math.Pi * (130 + 40*math.Sin(0.4*at) + 20*math.Sin(1.1*at)) / 48000
		sum := 0.0
		for overtone := 1.0; overtone <= 12; overtone++ {
			sum += math.Sin(overtone*phase) / overtone
		}
		return 0.2 * max(0, math.Sin(3*at)) * sum
	}
}

// fakePicture is a camera that shows one picture for ever; the function gives its brightness.
func fakePicture(t *testing.T, luma func(y, x int) byte) []string {
	const width, height = 640, 480
	data := []byte(fmt.Sprintf("YUV4MPEG2 W%d H%d F30:1 Ip A1:1 C420jpeg\n", width, height))
	frame := []byte("FRAME\n")
	for y := range height {
		for x := range width {
			frame = append(frame, luma(y, x))
		}
	}
	for range width * height / 2 {
		frame = append(frame, 128)
	}
	for range 10 {
		data = append(data, frame...)
	}
	file := filepath.Join(t.TempDir(), "camera.y4m")
	must(t, os.WriteFile(file, data, 0o644))
	return []string{"--use-file-for-fake-video-capture=" + file}
}

func lineFaults() []fault {
	at := func(name, want string, spoil func(t *testing.T, l *laboratory, office *namespace)) fault {
		return fault{name: name, want: want, make: func(t *testing.T, l *laboratory) visit {
			short := strings.NewReplacer(" ", "", "%", "", "/", "", ",", "").Replace(name)
			office := l.open("l" + short[:min(8, len(short))])
			spoil(t, l, office)
			return visit{office: office}
		}}
	}
	var line *delayLine
	delayed := func(t *testing.T, l *laboratory) *delayLine {
		if line == nil {
			line = newDelayLine(l.t, l.net.core)
		}
		return line
	}
	return []fault{
		at("3 % loss", "loss-high", func(t *testing.T, l *laboratory, o *namespace) { l.loses(t, o, 3) }),
		at("12 % loss", "loss-high", func(t *testing.T, l *laboratory, o *namespace) { l.loses(t, o, 12) }),
		at("250 ms added", "latency-high", func(t *testing.T, l *laboratory, o *namespace) { delayed(t, l).set(t, o.addr, 125*time.Millisecond) }),
		at("450 ms added", "latency-high", func(t *testing.T, l *laboratory, o *namespace) { delayed(t, l).set(t, o.addr, 225*time.Millisecond) }),
		at("60 ms jitter", "jitter-high", func(t *testing.T, l *laboratory, o *namespace) { delayed(t, l).shake(t, o.addr, 180*time.Millisecond) }),
		at("300 kbit/s", "bandwidth-low", func(t *testing.T, l *laboratory, o *namespace) { l.narrow(t, o, "300kbit", "400ms") }),
		at("120 kbit/s", "bandwidth-low", func(t *testing.T, l *laboratory, o *namespace) { l.narrow(t, o, "120kbit", "400ms") }),
		at("big queue", "bufferbloat", func(t *testing.T, l *laboratory, o *namespace) {
			// As most computers do: what is careful with queues of its own accord never shows them.
			for _, ns := range []*namespace{o, l.dmz} {
				ns.run(t, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=reno")
			}
			l.narrow(t, o, "4mbit", "2s")
		}),
	}
}

// loses drops so many percent of an office's packets, each way. It does so on the way: a computer that drops its own packets is told of it,
// and sends them again.
func (l *laboratory) loses(t testing.TB, office *namespace, percent int) {
	t.Helper()
	l.net.core.nft(t, fmt.Sprintf(`table inet lossy_%[1]s {
 chain way { type filter hook forward priority -10; policy accept; iifname %[1]q jump drops; oifname %[1]q jump drops; }
 chain drops { numgen random mod 100 < %[2]d drop; }
}`, office.link, percent))
}

// narrow shapes an office's line, each way, with a queue of so many milliseconds.
func (l *laboratory) narrow(t testing.TB, office *namespace, rate, queue string) {
	t.Helper()
	shape := []string{"qdisc", "add", "dev", "eth0", "root", "tbf", "rate", rate, "burst", "8kb", "latency", queue}
	office.run(t, "tc", shape...)
	shape[3] = office.link
	l.net.core.run(t, "tc", shape...)
}

func gatewayFaults() []fault {
	office := func(l *laboratory) *namespace {
		if l.ward == nil {
			l.ward = l.open("ward")
		}
		return l.ward
	}
	// reset gives every row the gateway as it was at first.
	with := func(change ...func(string) string) func(*testing.T, *laboratory) visit {
		return func(_ *testing.T, l *laboratory) visit {
			cfg := oneCallServer(l.gatewayConfig())
			for _, f := range change {
				cfg = f(cfg)
			}
			l.bootGateway(cfg)
			l.waitRungs("frankfurt", "udp:3478")
			l.waitRungs("london", "udp:3478")
			return visit{office: office(l)}
		}
	}
	replace := func(old, now string) func(string) string {
		return func(cfg string) string { return strings.Replace(cfg, old, now, 1) }
	}
	// cut closes something with rules of their own until the row is over.
	cut := func(name, want string, ns func(*laboratory) *namespace, rule string, change ...func(string) string) fault {
		return fault{name: name, want: want, make: func(t *testing.T, l *laboratory) visit {
			v := with(change...)(t, l)
			ns(l).nft(t, "table inet cut {\n chain out { type filter hook output priority -5; policy accept; "+rule+"; }\n}\n")
			t.Cleanup(func() { ns(l).nft(t, "delete table inet cut") })
			return v
		}}
	}
	dmz := func(l *laboratory) *namespace { return l.dmz }
	both := replace("hosts: ["+callName+"]", "hosts: ["+callName+", "+plainName+"]")
	return []fault{
		cut("call server down", "call-server-unreachable", dmz, "ip daddr "+cloudAddr+" tcp dport 443 reject with tcp reset"),
		cut("one call server of two down", "call-server-unreachable", dmz, "ip daddr "+plainAddr+" tcp dport 443 reject with tcp reset", both),
		cut("one region down", "relay-region-down", dmz, "ip daddr "+lonAddr+" drop"),
		cut("all regions down for the gateway", "gateway-to-cloud-down", dmz, "ip daddr { "+fraAddr+", "+lonAddr+" } drop"),
		{name: "wrong TURN credentials", want: "relay-credentials-rejected", make: func(t *testing.T, l *laboratory) visit {
			file := filepath.Join(l.dir, "wrong.secret")
			must(t, os.WriteFile(file, []byte("not-the-secret\n"), 0o600))
			return with(replace("    probes: {https: /healthz}", "    turn_credentials: {secret_file: "+file+"}\n    probes: {https: /healthz}"))(t, l)
		}},
		{name: "media through the cloud", proven: true, make: func(t *testing.T, l *laboratory) visit {
			file := filepath.Join(l.dir, "right.secret")
			must(t, os.WriteFile(file, []byte(relaySecret+"\n"), 0o600))
			return with(replace("    probes: {https: /healthz}", "    turn_credentials: {secret_file: "+file+"}\n    probes: {https: /healthz}"))(t, l)
		}},
		{name: "gateway draining", want: "gateway-draining", make: func(t *testing.T, l *laboratory) visit {
			v := with(replace("drain: 2s", "drain: 5m"))(t, l)
			call := l.smallCall(t, l.ward, "tls", 90*time.Second) // without a session a drain is over at once
			t.Cleanup(call.close)
			v.during = func() {
				time.Sleep(8 * time.Second)
				go l.dmz.run(l.t, hafenBinary, "drain", "--config", filepath.Join(l.dir, "hafen.yaml"))
			}
			return v
		}},
		{name: "gateway full", want: "gateway-full", make: func(t *testing.T, l *laboratory) visit {
			v := with(func(cfg string) string { return cfg + "limits: {allocations: 2}\n" })(t, l)
			call := l.smallCall(t, l.ward, "tls", 15*time.Second)
			t.Cleanup(call.close)
			return v
		}},
		{name: "client outside clients", want: "client-network-refused", make: func(t *testing.T, l *laboratory) visit {
			v := with()(t, l)
			l.bootGateway(oneCallServer(l.gatewayConfig()) + "clients: [10.10.0.0/24, 127.0.0.0/8]\nprecall: {networks: [10.0.0.0/8]}\n")
			l.waitRungs("frankfurt", "udp:3478")
			return v
		}},
		{name: "a real service's profile", want: "", make: func(t *testing.T, l *laboratory) visit {
			return with(replace("hosts: ["+callName+"]", `hosts: ["*.cloud.example"]`), replace("    probes: {https: /healthz}\n", ""))(t, l)
		}},
	}
}

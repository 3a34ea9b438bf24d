package e2e

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// TestMediaCannotBeRead looks at all that the gateway holds during a call of two browsers: what it passes on, and its memory. There
// is STUN, DTLS and SRTP, and no word of what is said.
func TestMediaCannotBeRead(t *testing.T) { longScenario(t, mediaCannotBeRead) }

// spoken is what one browser says to the other on a data channel, again and again.
const spoken = "the name of the patient is Johanna Unerhoert"

func mediaCannotBeRead(t *testing.T) {
	l := newLaboratory(t)
	seen := l.watchUplinks(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	a, b := l.call(t, ward, "https://"+callName+"/r/secret?join=1&relay=1&video=small")
	const channel = `(window.said = window.call.link.pc.createDataChannel('said', { negotiated: true, id: 77 })).onmessage =
  (e) => { window.heard = (window.heard ?? 0) + (e.data === '` + spoken + `' ? 1 : 0); }`
	var id int
	for _, p := range []*tab{a, b} { // the first asks for a new description, the second finds it there
		must(t, p.eval("("+channel+", window.said.id)", &id))
		waitFor(t, "the data channel's description", callTimeout, func() bool {
			return p.text("window.call.link.pc.sctp && window.call.link.pc.signalingState") == "stable"
		})
	}
	waitForOr(t, "the data channel", callTimeout, func() bool { return a.text("window.said.readyState") == "open" },
		func() string { return a.text("window.said.readyState") + " " + b.text("window.said.readyState") })
	must(t, a.eval("(setInterval(() => window.said.send('"+spoken+"'), 20), 77)", &id))
	waitFor(t, "words to be heard", callTimeout, func() bool {
		var n int
		_ = b.eval("window.heard ?? 0", &n)
		return n >= 100
	})
	mediaFlows(t, a, b)
	memory := memoryOf(t, l.gateway.cmd.Process.Pid)
	stream := seen.check(t)
	for what, held := range map[string][][]byte{"memory": memory, "packets": seen.all()} {
		if !holds(held, stream) {
			t.Errorf("the control: the gateway's %s does not hold the number of a media stream, which stands in every packet", what)
		}
		if holds(held, "Johanna") {
			t.Errorf("the gateway's %s holds what was said", what)
		}
	}
}

func holds(all [][]byte, word string) bool {
	for _, b := range all {
		if bytes.Contains(b, []byte(word)) {
			return true
		}
	}
	return false
}

// memoryOf is all that a process may write to: its heap, its stacks, its buffers.
func memoryOf(t testing.TB, pid int) (all [][]byte) {
	t.Helper()
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	must(t, err)
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	must(t, err)
	defer func() { _ = mem.Close() }()
	size := 0
	for lines := bufio.NewScanner(bytes.NewReader(maps)); lines.Scan(); {
		var from, to int64
		var rights string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &rights); err != nil || !strings.HasPrefix(rights, "rw") {
			continue
		}
		b := make([]byte, to-from)
		n, _ := mem.ReadAt(b, from) // what is reserved and not there ends it early
		all = append(all, b[:n])
		size += n
	}
	t.Logf("%.0f MiB of memory", float64(size)/(1<<20))
	return all
}

// uplinkWatch keeps the datagrams that the gateway sends to the relays.
type uplinkWatch struct {
	mu      sync.Mutex
	packets [][]byte
}

// watchUplinks reads what passes the gateway's interface until the test ends.
func (l *laboratory) watchUplinks(t testing.TB) *uplinkWatch {
	t.Helper()
	w := &uplinkWatch{}
	var fd int
	must(t, l.dmz.do(func() (err error) {
		const everyProtocol = unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8 // in the network's order
		fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, everyProtocol)
		return err
	}))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Usec: 200_000})
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 8<<20)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			n, _, _ := unix.Recvfrom(fd, buf, 0)
			w.take(buf[:max(n, 0)])
			select {
			case <-stop:
				_ = unix.Close(fd)
				return
			default:
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	return w
}

// take keeps the payload of an IPv4 packet that is UDP to a relay. What comes from there has gone there before: both browsers are
// behind the gateway.
func (w *uplinkWatch) take(ip []byte) {
	if len(ip) < 28 || ip[0]>>4 != 4 || ip[9] != 17 {
		return
	}
	head := int(ip[0]&15) * 4
	to := netip.AddrFrom4([4]byte(ip[16:20])).String()
	if to != fraAddr && to != lonAddr || len(ip) < head+8 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.packets = append(w.packets, bytes.Clone(ip[head+8:]))
}

func (w *uplinkWatch) all() [][]byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.packets
}

// check sorts what peers were sent, and sent, by its first byte (RFC 7983), and returns the number of a media stream.
func (w *uplinkWatch) check(t testing.TB) (stream string) {
	t.Helper()
	count := make(map[string]int)
	var media [256]float64 // first bytes behind the RTP and RTCP headers
	for _, packet := range w.all() {
		inner := relayedData(packet)
		switch {
		case inner == nil:
			count["TURN"]++
		case len(inner) >= 20 && inner[0] < 4 && bytes.Equal(inner[4:8], magicCookie):
			count["STUN"]++
		case len(inner) >= 13 && inner[0] >= 20 && inner[0] <= 25 && inner[1] == 0xfe, len(inner) > 0 && inner[0]>>5 == 1: // DTLS 1.2; 1.3's short header
			count["DTLS"]++
		case len(inner) > 24 && inner[0]>>6 == 2:
			count["SRTP"]++
			if !isRTCP(inner) {
				stream = string(inner[8:12])
			}
			for _, b := range srtpPayload(inner) {
				media[b]++
			}
		default:
			t.Errorf("neither STUN nor DTLS nor SRTP: % x", inner[:min(len(inner), 40)])
		}
	}
	// Headers of codecs repeat themselves from packet to packet; what is encrypted is as random as it gets.
	n, chi := 0.0, 0.0
	for _, c := range media {
		n += c
	}
	for _, c := range media {
		chi += math.Pow(c-n/256, 2) / (n / 256)
	}
	t.Logf("passed on: %v; %v bytes where codecs have their headers, chi-squared %.0f", count, n, chi)
	if count["SRTP"] < 500 || count["DTLS"] < 50 || count["STUN"] == 0 {
		t.Errorf("too little to judge by: %v", count)
	}
	if chi > 420 { // 255 degrees of freedom
		t.Errorf("what follows the headers of media is not random: chi-squared %.0f", chi)
	}
	return stream
}

// relayedData is what a TURN message carries for a peer, or from one; nil: nothing.
func relayedData(msg []byte) []byte {
	if len(msg) >= 4 && msg[0]>>6 == 1 {
		return msg[4:min(len(msg), 4+int(binary.BigEndian.Uint16(msg[2:])))]
	}
	if len(msg) >= 20 && msg[0] == 0 && (msg[1] == typeSend || msg[1] == typeSend+1) {
		return find(msg, attrData)
	}
	return nil
}

// srtpPayload is the first four bytes behind the header of an RTP packet, or behind that of an RTCP packet.
func srtpPayload(p []byte) []byte {
	at := 8
	if !isRTCP(p) {
		at = 12 + 4*int(p[0]&15)
		if p[0]&0x10 != 0 && len(p) >= at+4 {
			at += 4 + 4*int(binary.BigEndian.Uint16(p[at+2:]))
		}
	}
	return p[min(at, len(p)):min(at+4, len(p))]
}

// isRTCP tells RTCP from RTP (RFC 5761 section 4).
func isRTCP(p []byte) bool { return p[1]&0x7f >= 64 && p[1]&0x7f <= 95 }

package life

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// TestAbuse_J12: the program is built with the tag `fault`, by which it panics where the bytes of a client ask for it: in the walk through
// a connection's first bytes, in a page, in a tunnel, in a WebSocket, in TURN requests and media, on loops and off them. Each time that
// one connection ends, it is counted, and nothing else happens: running calls lose nothing, and what it held is free again.
func TestAbuse_J12(t *testing.T) {
	faulty := filepath.Join(t.TempDir(), "hafen")
	if out, err := exec.Command("go", "build", "-tags", "fault", "-o", faulty, "hafen/cmd/hafen").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	w := layWorld(t, faulty, func(text string) string { return text + "limits: {allocations_per_client: 12}\n" })
	w.start()
	t.Cleanup(w.end)
	w.echo = echoPeer(w)
	var calls []*stream
	for _, via := range []string{"tls", "udp"} {
		s, err := w.newStream(via, w.echo)
		if err != nil {
			t.Fatal(err)
		}
		calls = append(calls, s)
	}
	chat := w.startLoad(1, 1, 0, 0)
	// What is made at first use is made before anything is counted.
	for _, f := range faults {
		f.provoke(t, w, "nowhere")
	}
	base, sessions, before := w.stats(), w.metric("hafen_relay_sessions"), w.panics()
	const rounds = 3
	for _, f := range faults {
		for range rounds {
			f.provoke(t, w, f.place)
			before++
			w.until("the panic to be counted", 5*time.Second, func() bool { return w.panics() == before })
		}
	}
	for _, s := range calls {
		if err := s.ended.Load(); err != nil {
			t.Errorf("%s: a call beside has ended: %v", s.via, *err)
		}
		sent, received := s.sent.Load(), s.received.Load()
		t.Logf("%s: %d packets of a call beside, %d came back, the longest gap %v", s.via, sent, received, s.gap())
		if sent-received > packets {
			t.Errorf("%s: %d packets of a call beside, %d came back", s.via, sent, received)
		}
		s.giveBack()
	}
	chat.end(0)
	w.until("what they held to be free again", 30*time.Second, func() bool {
		now := w.stats()
		return now.Goroutines <= base.Goroutines+5 && now.Files <= base.Files+5 && w.metric("hafen_relay_sessions") <= sessions
	})
	if code, _ := w.get("/livez"); code != 200 || w.cmd.ProcessState != nil {
		t.Errorf("/livez: %d, %v", code, w.cmd.ProcessState)
	}
	if n := strings.Count(w.log.String(), "a fault that was asked for"); n == 0 {
		t.Error("the log says nothing of it")
	}
}

func (w *world) panics() float64 {
	return w.metric("hafen_mux_panics_total") + w.metric("hafen_mux_handler_panics_total")
}

// fault is a place where the program breaks if it is told to. provoke tells it, with the name of this place or of another, where nothing
// breaks, and sees what comes of that: the connection's end, or an answer.
type fault struct {
	name, place string
	provoke     func(t *testing.T, w *world, place string)
}

func askFor(place string) string { return "fault at " + place + "." }

var faults = []fault{
	{"first bytes", "first bytes", func(t *testing.T, w *world, place string) {
		conn, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		w.says(t, conn, "GET /livez?"+strings.ReplaceAll(askFor(place), " ", "%20")+" HTTP/1.0\r\nX: "+askFor(place)+"\r\n\r\n", place == "first bytes")
	}},
	{"page", "page", func(t *testing.T, w *world, place string) {
		w.says(t, w.mustDial(t), "GET /livez HTTP/1.1\r\nConnection: close\r\nHost: "+ownName+"\r\nUser-Agent: "+askFor(place)+"\r\n\r\n", place == "page")
	}},
	{"tunnel", "tunnel", func(t *testing.T, w *world, place string) {
		w.says(t, w.mustDial(t), "CONNECT none.example:443 HTTP/1.1\r\nHost: none.example:443\r\nVia: 1.1 "+askFor(place)+"\r\n\r\n", place == "tunnel")
	}},
	{"WebSocket", "splice", func(t *testing.T, w *world, place string) {
		conn, err := w.dial(callName)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(conn, "GET /echo HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n", callName)
		_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
		head := make([]byte, 4096)
		if n, err := conn.Read(head); err != nil || !strings.Contains(string(head[:n]), " 101 ") {
			t.Fatalf("no WebSocket: %q %v", head[:n], err)
		}
		text := askFor(place) // masked with zeros it stays as it is
		w.says(t, conn, "\x81"+string([]byte{0x80 | byte(len(text))})+"\x00\x00\x00\x00"+text, place == "splice")
	}},
	{"request over TLS", "request", turnFault("tls", askByRequest)},
	{"request over UDP", "request", turnFault("udp", askByRequest)},
	{"media over TLS", "media", turnFault("tls", askByMedia)},
	{"media over UDP", "media", turnFault("udp", askByMedia)},
	{"what a region sends, to a client over TLS", "region", turnFault("tls", askByMedia)},
	{"what a region sends, to a client over UDP", "region", turnFault("udp", askByMedia)},
}

// says sends a text on a connection, and wants it to be closed without a word if something is to break, else to be answered.
func (w *world) says(t *testing.T, conn net.Conn, text string, breaks bool) {
	t.Helper()
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	n, err := conn.Read(make([]byte, 4096))
	var late net.Error
	switch {
	case errors.As(err, &late) && late.Timeout():
		t.Errorf("%q: the connection is still there", text)
	case breaks != (n == 0):
		t.Errorf("%q: %d bytes of an answer, %v", text, n, err)
	}
}

func (w *world) mustDial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := w.dial(ownName)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// turnFault has a client with an allocation ask for a fault. Over TLS its connection ends; over UDP its allocation is gone.
func turnFault(via string, ask func(s *stream, place string)) func(*testing.T, *world, string) {
	return func(t *testing.T, w *world, place string) {
		t.Helper()
		s, err := w.newStream(via, w.echo)
		if err != nil {
			t.Fatal(err)
		}
		defer s.giveBack()
		w.until("media to pass", 10*time.Second, func() bool { return s.received.Load() > 0 })
		ask(s, place)
		if place == "nowhere" {
			return
		}
		ended := func() bool { return s.ended.Load() != nil }
		if via == "udp" {
			ended = func() bool { return s.sinceLast().long > 200*time.Millisecond }
		}
		w.until("the client to lose what it had", 10*time.Second, ended)
	}
}

func askByRequest(s *stream, place string) {
	m := stun.MustBuild(stun.TransactionID, stun.BindingRequest, stun.NewSoftware(askFor(place)))
	_, _ = s.conn.Write(m.Raw)
}

func askByMedia(s *stream, place string) {
	text := askFor(place)
	text += strings.Repeat(".", -len(text)&3)
	_, _ = s.conn.Write(append([]byte{channel >> 8, channel & 0xff, 0, byte(len(text))}, text...))
}

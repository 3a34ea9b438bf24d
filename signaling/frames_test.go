package signaling

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"hafen/configs"
	"hafen/gateway/frugal"
)

// frame is one of a server's frames.
func frame(first byte, payload string) string {
	b := appendHead(nil, len(payload))
	b[0] = first
	return string(b) + payload
}

// recorder is a conn that keeps what is written.
type recorder struct {
	net.Conn
	bytes.Buffer
}

func (r *recorder) Write(b []byte) (int, error)      { return r.Buffer.Write(b) }
func (r *recorder) Read(b []byte) (int, error)       { return r.Buffer.Read(b) }
func (r *recorder) SetWriteDeadline(time.Time) error { return nil }
func (r *recorder) CloseWrite() error                { return nil }

// shout is an edit that is easy to see.
func shout(text []byte) ([]byte, bool) {
	if !bytes.Contains(text, []byte("loud")) {
		return text, false
	}
	return []byte(strings.ToUpper(string(text)) + "!"), true
}

const (
	text, textPart, more, last = "\x81", "\x01", "\x00", "\x80"
	binaryFrame                = "\x82"
)

func TestFrames(t *testing.T) {
	long := strings.Repeat("loud", maxRewritten/4+1)
	f := func(first, payload string) string { return frame(first[0], payload) }
	for _, tt := range []struct{ name, in, want string }{
		{"untouched", f(text, "hello"), f(text, "hello")},
		{"edited", f(text, "loud"), f(text, "LOUD!")},
		{"empty", f(text, ""), f(text, "")},
		{"of 125 to 126", f(text, "loud"+strings.Repeat("x", 121)), f(text, "LOUD"+strings.Repeat("X", 121)+"!")},
		{"long head", f(text, "loud"+strings.Repeat("x", 70000)), f(text, "LOUD"+strings.Repeat("X", 70000)+"!")},
		{"in parts", f(textPart, "lo") + f(more, "") + f(last, "ud"), f(text, "LOUD!")},
		{"in parts, untouched", f(textPart, "si") + f(more, "") + f(last, "lent"), f(textPart, "si") + f(more, "") + f(last, "lent")},
		{"ping between the parts", f(textPart, "lo") + f("\x89", "p") + f(last, "ud"), f("\x89", "p") + f(text, "LOUD!")},
		{"close between the parts", f(textPart, "lo") + f("\x88", "\x03\xe8loud"), f(textPart, "lo") + f("\x88", "\x03\xe8loud")},
		{"never finished", f(textPart, "lo") + f(text, "loud"), f(textPart, "lo") + f(text, "LOUD!")},
		{"binary", f(binaryFrame, "loud"), f(binaryFrame, "loud")},
		{"binary in parts", f("\x02", "loud") + f(last, "loud") + f(text, "loud"), f("\x02", "loud") + f(last, "loud") + f(text, "LOUD!")},
		{"compressed", f("\xc1", "loud") + f(text, "loud"), f("\xc1", "loud") + f(text, "LOUD!")},
		{"too long", f(text, long) + f(text, "loud"), f(text, long) + f(text, "LOUD!")},
		{"too long in parts", f(textPart, "loud") + f(last, long), f(textPart, "loud") + f(last, long)},
		{"masked", "\x81\x84abcd" + "loud" + f(text, "loud"), "\x81\x84abcd" + "loud" + f(text, "loud")},
		{"2^63", "\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00" + f(text, "loud"), "\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00" + f(text, "loud")},
		{"ping in parts", f(textPart, "lo") + f("\x09", "x") + f(last, "ud"), f(textPart, "lo") + f("\x09", "x") + f(last, "ud")},
		{"long ping", f("\x89", strings.Repeat("x", 200)), f("\x89", strings.Repeat("x", 200))},
		{"breaks off", f(text, "loud")[:4], f(text, "loud")[:4]},
		{"breaks off in a head", "\x81\x7e", "\x81\x7e"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, size := range []int{1, 3, 1000, len(tt.in)} {
				if size == 1 && len(tt.in) > 100_000 {
					continue
				}
				conn := new(recorder)
				to := &frames{Conn: conn, edit: shout}
				for rest := tt.in; rest != ""; {
					n := min(size, len(rest))
					if wrote, err := io.WriteString(to, rest[:n]); err != nil || wrote != n {
						t.Fatal(wrote, err)
					}
					rest = rest[n:]
				}
				if err := to.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				if got := conn.String(); got != tt.want {
					t.Errorf("in pieces of %d: got %.80q of %d bytes, want %.80q of %d", size, got, len(got), tt.want, len(tt.want))
				}
			}
		})
	}
}

// A ping goes between frames only, and never behind a close.
func TestPingPlaces(t *testing.T) {
	for in, want := range map[string]bool{
		"": true, "\x81": false, "\x81\x02": false, "\x81\x02a": false, "\x81\x02ab": true, "\x01\x01a": true, "\x82\x7e\x00": false,
		"\x88\x00": false, "\x88": false, "\x81\x80": false, "\x89\x00": true, "\xc1\x01a": true,
	} {
		for _, edit := range []func([]byte) ([]byte, bool){nil, shout} {
			conn := new(recorder)
			to := &frames{Conn: conn, edit: edit}
			if in != "" {
				_, _ = io.WriteString(to, in)
			}
			before := conn.Len()
			if err := to.ping(time.Second); err != nil {
				t.Fatal(err)
			}
			if got := conn.String()[before:] == "\x89\x00"; got != want {
				t.Errorf("behind %s a ping was sent: %v", hex.EncodeToString([]byte(in)), got)
			}
		}
	}
	to := &frames{Conn: new(recorder)}
	to.mu.Lock() // somebody writes
	if err := to.ping(time.Second); err != nil || to.Conn.(*recorder).Len() > 0 {
		t.Error("a ping was sent in the middle of a Write")
	}
}

func FuzzFrames(f *testing.F) {
	f.Add([]byte(frame(0x01, "lo")+frame(0x89, "p")+frame(0x80, "ud")+frame(0x88, "")), uint8(3))
	f.Add([]byte("\x81\x7f\x80\x00\x00\x00\x00\x00\x00\x00x"), uint8(1))
	f.Fuzz(func(t *testing.T, in []byte, size uint8) {
		defer frugal.Input(t)()
		// What nobody edits comes out as it went in, but for control frames that overtake.
		conn := new(recorder)
		to := &frames{Conn: conn, edit: func(text []byte) ([]byte, bool) { return text, false }}
		for rest := in; len(rest) > 0; {
			n := min(int(size)+1, len(rest))
			_, _ = to.Write(rest[:n])
			rest = rest[n:]
		}
		_ = to.CloseWrite()
		if conn.Len() != len(in) {
			t.Fatalf("%d bytes became %d", len(in), conn.Len())
		}
	})
}

// A whole WebSocket with a library at both ends: messages of any size, close codes, subprotocols and pings go through, and the gateway's
// entry is in the message that has ICE servers.
func TestWebSocketRewrite(t *testing.T) {
	list := `{"type":"welcome","iceServers":[` + serviceICE + `]}`
	big := strings.Repeat("x", maxRewritten+5)
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if ext := req.Header.Get("Sec-WebSocket-Extensions"); ext != "" {
			t.Errorf("extensions are offered: %s", ext)
		}
		conn, err := websocket.Accept(w, req, &websocket.AcceptOptions{Subprotocols: []string{"chat.v1"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = conn.CloseNow() }()
		conn.SetReadLimit(-1)
		ctx := req.Context()
		_ = conn.Write(ctx, websocket.MessageText, []byte(list))
		kind, message, err := conn.Read(ctx)
		if err != nil {
			t.Error(err)
			return
		}
		_ = conn.Write(ctx, kind, message)
		_ = conn.Close(4001, "enough")
	}, settings{config: relays(true, "/ws")})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	conn, _, err := websocket.Dial(ctx, "wss://"+host+"/ws", &websocket.DialOptions{HTTPClient: r.client(false), Subprotocols: []string{"chat.v1"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.CloseNow() }()
	conn.SetReadLimit(-1)
	if conn.Subprotocol() != "chat.v1" {
		t.Errorf("subprotocol %q", conn.Subprotocol())
	}
	want := `{"type":"welcome","iceServers":[` + gatewayICE + `,` + serviceICE + `]}`
	if _, message, err := conn.Read(ctx); err != nil || string(message) != want {
		t.Errorf("%s %v, want %s", message, err, want)
	}
	if err := conn.Write(ctx, websocket.MessageText, []byte(big)); err != nil {
		t.Fatal(err)
	}
	if _, message, err := conn.Read(ctx); err != nil || string(message) != big {
		t.Errorf("%d bytes came back, %v", len(message), err)
	}
	if _, _, err := conn.Read(ctx); websocket.CloseStatus(err) != 4001 || !strings.Contains(err.Error(), "enough") {
		t.Errorf("closed with %v", err)
	}
}

// A message that comes together with the answer's head is rewritten too.
func TestWebSocketRewriteEarly(t *testing.T) {
	list := `{"iceServers":[` + serviceICE + `]}`
	r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
		_, _ = io.WriteString(conn, switched+frame(0x81, list))
		_, _ = io.Copy(io.Discard, br)
	}), settings{config: relays(false, "/ws")})
	conn, br, _ := r.open()
	want := frame(0x81, `{"iceServers":[`+gatewayICE+`]}`)
	got := make([]byte, len(want))
	if _, err := io.ReadFull(br, got); err != nil || string(got) != want {
		t.Errorf("%q %v", got, err)
	}
	_ = conn.Close()
}

// Silent sockets get pings, busy ones none, and the client's pong goes on.
func TestKeepAlive(t *testing.T) {
	ticks := make(chan time.Time)
	came := make(chan byte, 100)
	r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
		_, _ = io.WriteString(conn, switched)
		for {
			b, err := br.ReadByte()
			if err != nil {
				return
			}
			came <- b
		}
	}), settings{
		config:  func(c *configs.Config) { c.Signaling.KeepAlive = 30 * time.Second },
		options: func(o *Options) { o.After = func(time.Duration) <-chan time.Time { return ticks } },
	})
	if err := r.p.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	conn, br, _ := r.open()
	eventually(t, "the socket is open", func() bool { return r.p.Status().WebSockets == 1 })
	_, _ = io.WriteString(conn, "x")
	<-came
	ticks <- time.Time{} // it has moved
	ticks <- time.Time{} // it is silent
	b := make([]byte, 2)
	if _, err := io.ReadFull(br, b); err != nil || string(b) != "\x89\x00" {
		t.Fatalf("%x %v", b, err)
	}
	pong := "\x8a\x80abcd"
	_, _ = io.WriteString(conn, pong)
	for i := range pong {
		if b := <-came; b != pong[i] {
			t.Fatalf("%x arrived at %d", b, i)
		}
	}
	ticks <- time.Time{} // the pong moved
	ticks <- time.Time{}
	if _, err := io.ReadFull(br, b); err != nil || string(b) != "\x89\x00" {
		t.Fatalf("%x %v", b, err)
	}
	_ = conn.Close()
	r.ended(statusOK)
}

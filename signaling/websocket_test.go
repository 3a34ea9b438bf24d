package signaling

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// webSocketHead is a handshake as a browser sends it.
func webSocketHead(host string) string {
	return "GET /ws?room=1 HTTP/1.1\r\nHost: " + host + "\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nOrigin: https://example.com\r\n" +
		"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Protocol: chat.v2, chat.v1\r\nSec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n\r\n"
}

const switched = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" +
	"Sec-WebSocket-Protocol: chat.v1\r\nSec-WebSocket-Extensions: permessage-deflate\r\nSet-Cookie: a=b\r\n\r\n"

// upgraded makes a call server that answers every handshake with switched and hands over the bare connection.
func upgraded(serve func(conn *tls.Conn, br *bufio.Reader)) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		serve(conn.(*tls.Conn), buffered.Reader)
	}
}

// open makes a handshake and fails the test if it does not succeed.
func (r *rig) open() (*tls.Conn, *bufio.Reader, *http.Response) {
	r.t.Helper()
	conn := r.dial()
	res, br, err := send(r.t, conn, webSocketHead("example.com"))
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		r.t.Fatalf("%v %v", res, err)
	}
	return conn, br, res
}

// The handshake's headers and every byte after it pass as they are, also those that come together with a head.
func TestWebSocketBytes(t *testing.T) {
	heads := make(chan http.Header, 1)
	echo := upgraded(func(conn *tls.Conn, br *bufio.Reader) {
		_, _ = io.WriteString(conn, switched+"early") // one record
		_, _ = io.Copy(conn, br)
	})
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		heads <- req.Header
		if req.RequestURI != "/ws?room=1" || req.Host != host {
			t.Errorf("%s at %s", req.RequestURI, req.Host)
		}
		echo(w, req)
	}, settings{})
	conn := r.dial()
	big := make([]byte, 3<<20)
	_, _ = rand.Read(big)
	res, br, err := send(t, conn, webSocketHead("example.com")+"before")
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v %v", res, err)
	}
	h := <-heads
	for name, want := range map[string]string{
		"Sec-Websocket-Protocol": "chat.v2, chat.v1", "Sec-Websocket-Extensions": "permessage-deflate; client_max_window_bits", "Sec-Websocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-Websocket-Version": "13", "Origin": "https://example.com", "Connection": "Upgrade", "Upgrade": "websocket", "X-Forwarded-For": "127.0.0.1", "User-Agent": "",
	} {
		if got := strings.Join(h[name], "|"); got != want {
			t.Errorf("%s arrived as %q, want %q", name, got, want)
		}
	}
	for name, want := range map[string]string{
		"Sec-Websocket-Accept": "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "Sec-Websocket-Protocol": "chat.v1", "Sec-Websocket-Extensions": "permessage-deflate", "Set-Cookie": "a=b",
	} {
		if got := strings.Join(res.Header[name], "|"); got != want {
			t.Errorf("%s came back as %q, want %q", name, got, want)
		}
	}
	want := append([]byte("earlybefore"), big...)
	go func() { _, _ = conn.Write(big) }()
	got := make([]byte, len(want))
	if _, err := io.ReadFull(br, got); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v, equal %v", err, bytes.Equal(got, want))
	}
	if n, s := r.metric("hafen_signaling_websockets"), r.p.Status(); n != 1 || s.WebSockets != 1 || s.Requests != 0 {
		t.Errorf("%v open, status %+v", n, s)
	}
	if up := r.metric("hafen_signaling_bytes_total", "up"); up != float64(len(big)+len("before")) {
		t.Errorf("%v bytes up while it is open", up)
	}
	_ = conn.Close()
	r.ended(statusOK)
	eventually(t, "one line, none open", func() bool {
		return r.log.count("websocket ended") == 1 && r.metric("hafen_signaling_websockets") == 0 && r.p.Live() == 0
	})
	if text := r.log.String(); !strings.Contains(text, "status=ok host=example.com service=calls") || strings.Contains(text, "room") {
		t.Error(text)
	}
}

// Either side may end its half and still hear the other.
func TestWebSocketHalfClose(t *testing.T) {
	t.Run("client", func(t *testing.T) {
		r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
			_, _ = io.WriteString(conn, switched)
			all, err := io.ReadAll(br)
			if string(all) != "question" || err != nil {
				t.Errorf("%q %v", all, err)
			}
			_, _ = io.WriteString(conn, "answer after the end")
		}), settings{})
		conn, br, _ := r.open()
		_, _ = io.WriteString(conn, "question")
		_ = conn.CloseWrite()
		if all, err := io.ReadAll(br); string(all) != "answer after the end" || err != nil {
			t.Errorf("%q %v", all, err)
		}
		r.ended(statusOK)
	})
	t.Run("call server", func(t *testing.T) {
		heard := make(chan string, 1)
		r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
			_, _ = io.WriteString(conn, switched+"bye")
			_ = conn.CloseWrite()
			all, _ := io.ReadAll(br)
			heard <- string(all)
		}), settings{})
		conn, br, _ := r.open()
		if all, err := io.ReadAll(br); string(all) != "bye" || err != nil {
			t.Errorf("%q %v", all, err)
		}
		_, _ = io.WriteString(conn, "one more thing")
		_ = conn.Close()
		if got := <-heard; got != "one more thing" {
			t.Errorf("%q", got)
		}
		r.ended(statusOK)
	})
}

// Both ends with a real WebSocket library, with a subprotocol and compression.
func TestWebSocketLibrary(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		c, err := websocket.Accept(w, req, &websocket.AcceptOptions{Subprotocols: []string{"chat.v1"}, CompressionMode: websocket.CompressionContextTakeover})
		if err != nil {
			return
		}
		defer func() { _ = c.CloseNow() }()
		for {
			kind, message, err := c.Read(req.Context())
			if err != nil || c.Write(req.Context(), kind, message) != nil {
				return
			}
		}
	}, settings{})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, res, err := websocket.Dial(ctx, "wss://"+host+"/ws", &websocket.DialOptions{HTTPClient: r.client(false), Subprotocols: []string{"chat.v2", "chat.v1"}, CompressionMode: websocket.CompressionContextTakeover})
	if err != nil {
		t.Fatal(err)
	}
	if c.Subprotocol() != "chat.v1" || !strings.HasPrefix(res.Header.Get("Sec-WebSocket-Extensions"), "permessage-deflate") {
		t.Errorf("protocol %q, extensions %q", c.Subprotocol(), res.Header.Get("Sec-WebSocket-Extensions"))
	}
	for _, message := range []string{"hello", strings.Repeat("long ", 5000)} {
		if err := c.Write(ctx, websocket.MessageText, []byte(message)); err != nil {
			t.Fatal(err)
		}
		if _, got, err := c.Read(ctx); string(got) != message || err != nil {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	}
	if err := c.Close(websocket.StatusNormalClosure, ""); err != nil {
		t.Error(err)
	}
	r.ended(statusOK)
}

// A call server's own refusal goes back as it is.
func TestWebSocketRefused(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("WWW-Authenticate", "Bearer")
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = io.WriteString(w, "who are you?")
	}, settings{})
	conn := r.dial()
	for range 2 { // the client's connection lives on
		res, br, err := send(t, conn, webSocketHead("example.com"))
		if err != nil {
			t.Fatal(err)
		}
		if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusUnauthorized || string(body) != "who are you?" || res.Header.Get("WWW-Authenticate") != "Bearer" || br.Buffered() > 0 {
			t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
		}
	}
}

// Answers that are none, or another protocol's, are the call server's failure.
func TestWebSocketBadAnswers(t *testing.T) {
	for name, answer := range map[string]string{
		"nothing": "", "garbage": "SSH-2.0-OpenSSH\r\n\r\n", "half": "HTTP/1.1 101 Swi", "another protocol": strings.Replace(switched, "websocket", "h2c", 1), "two protocols": strings.Replace(switched, "websocket\r\n", "websocket\r\nUpgrade: h2c\r\n", 1),
		"no connection header": strings.Replace(switched, "Connection: Upgrade\r\n", "", 1), "endless head": "HTTP/1.1 101 Switching Protocols\r\n" + strings.Repeat("X: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n", 4000),
		"interim without end": strings.Repeat("HTTP/1.1 100 Continue\r\n\r\n", 50),
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, upgraded(func(conn *tls.Conn, _ *bufio.Reader) { _, _ = io.WriteString(conn, answer) }), settings{})
			res, _, err := send(t, r.dial(), webSocketHead("example.com"))
			if err != nil || res.StatusCode != http.StatusBadGateway {
				t.Fatalf("%v %v", res, err)
			}
			r.ended(statusUpstream)
		})
	}
	r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
		_, _ = io.WriteString(conn, "HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"+switched+"ok")
		_, _ = br.ReadByte()
	}), settings{})
	conn, br, _ := r.open()
	if text, err := br.ReadString('k'); text != "ok" || err != nil {
		t.Errorf("%q %v", text, err)
	}
	_ = conn.Close()
}

// Who ends a socket without a word is named by the status.
func TestWebSocketBreaks(t *testing.T) {
	reset := func(conn *tls.Conn) {
		_ = conn.NetConn().(*net.TCPConn).SetLinger(0)
		_ = conn.NetConn().Close()
	}
	t.Run("client resets", func(t *testing.T) {
		gone := make(chan error, 1)
		r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
			_, _ = io.WriteString(conn, switched)
			_, err := br.ReadByte()
			gone <- err
		}), settings{})
		conn, _, _ := r.open()
		reset(conn)
		r.ended(statusClient)
		eventually(t, "it is told", func() bool { return r.log.count("websocket ended") == 1 })
		if r.log.count("err=\"read: ") != 1 || r.log.count("127.0.0.1") != 0 {
			t.Errorf("the log should have the error, but no addresses: %s", r.log)
		}
		select {
		case <-gone:
		case <-time.After(5 * time.Second):
			t.Error("the call server was not told")
		}
	})
	t.Run("call server resets", func(t *testing.T) {
		r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
			_, _ = io.WriteString(conn, switched)
			_, _ = br.ReadByte()
			reset(conn)
		}), settings{})
		conn, br, _ := r.open()
		_, _ = io.WriteString(conn, "x")
		if _, err := br.ReadByte(); err == nil {
			t.Error("the client was not told")
		}
		r.ended(statusUpstream)
	})
	t.Run("client does not read", func(t *testing.T) {
		r := newRig(t, upgraded(func(conn *tls.Conn, _ *bufio.Reader) {
			_, _ = io.WriteString(conn, switched)
			piece := make([]byte, 64<<10)
			for range 4000 {
				if _, err := conn.Write(piece); err != nil {
					return
				}
			}
			t.Error("256 MB went to a client that reads none")
		}), settings{options: func(o *Options) { o.SlowReader = 400 * time.Millisecond }})
		r.open()
		r.ended(statusTimeout)
	})
	t.Run("the gateway stops", func(t *testing.T) {
		r := newRig(t, upgraded(func(conn *tls.Conn, br *bufio.Reader) {
			_, _ = io.WriteString(conn, switched)
			_, _ = io.Copy(conn, br)
		}), settings{})
		_, br, _ := r.open()
		eventually(t, "it is open", func() bool { return r.p.Live() == 1 && r.p.Status().WebSockets == 1 })
		if err := r.p.Close(); err != nil {
			t.Fatal(err)
		}
		if _, err := br.ReadByte(); err == nil {
			t.Error("the client was not told")
		}
		r.ended(statusOK)
		if _, _, err := send(t, r.dial(), webSocketHead("example.com")); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Error(err)
		}
	})
	t.Run("client leaves during the handshake", func(t *testing.T) {
		began, cancelled := make(chan struct{}), make(chan struct{})
		r := newRig(t, upgraded(func(_ *tls.Conn, br *bufio.Reader) {
			close(began)
			_, _ = br.ReadByte()
			close(cancelled)
		}), settings{})
		conn := r.dial()
		_, _ = io.WriteString(conn, webSocketHead("example.com"))
		<-began
		_ = conn.Close()
		<-cancelled
		r.ended(statusClient)
	})
}

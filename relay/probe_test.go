package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"hafen/gateway/frugal"
)

// saidAll is a connection whose other end has said all it will say.
type saidAll struct {
	net.Conn
	in io.Reader
}

func (s *saidAll) Read(p []byte) (int, error)       { return s.in.Read(p) }
func (s *saidAll) Write(p []byte) (int, error)      { return len(p), nil }
func (s *saidAll) SetDeadline(time.Time) error      { return nil }
func (s *saidAll) SetReadDeadline(time.Time) error  { return nil }
func (s *saidAll) SetWriteDeadline(time.Time) error { return nil }
func (s *saidAll) Close() error                     { return nil }

func TestConversationAnswers(t *testing.T) {
	req := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	good := stun.MustBuild(req, stun.BindingSuccess).Raw
	refused := stun.MustBuild(req, stun.BindingError, stun.CodeUnauthorized).Raw
	foreign := stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw
	indication := stun.MustBuild(req, stun.NewType(stun.MethodBinding, stun.ClassIndication)).Raw
	echo := req.Raw
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	tests := []struct {
		name string
		in   []byte
		want string // part of the error; empty: an answer
	}{
		{"an answer", good, ""},
		{"an error is an answer", refused, ""},
		{"somebody else's first", join(foreign, good), ""},
		{"an indication first", join(indication, good), ""},
		{"our own request, reflected", echo, "closed without an answer"},
		{"somebody else's only", foreign, "closed without an answer"},
		{"nothing", nil, "closed without an answer"},
		{"a web page", []byte("HTTP/1.1 403 Forbidden\r\n\r\n"), "block page"},
		{"a short web page", []byte("HTTP/1.1 400"), "block page"},
		{"SSH", []byte("SSH-2.0-OpenSSH_9.2p1 Debian\r\n"), "no TURN server"},
		{"ChannelData", join([]byte{0x40, 0, 0, 16}, make([]byte, 16)), "no TURN server"},
		{"too long", join([]byte{0x01, 0x01, 0xff, 0xec}, good[4:]), "no TURN server"},
		{"a broken attribute", join([]byte{0x01, 0x01, 0, 4}, good[4:20], []byte{0, 6, 0, 9}), "broken"},
		{"half an answer", stun.MustBuild(req, stun.BindingSuccess, stun.NewSoftware("half")).Raw[:24], "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &conversation{conn: &saidAll{in: bytes.NewReader(tt.in)}}
			_, _, err := c.ask(t.Context(), req, false)
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("error %v", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

// Over datagrams what is not the answer is skipped, and a request is sent again only if the caller wants that.
func TestConversationDatagrams(t *testing.T) {
	server := listenUDP(t, "127.0.0.1:0")
	client, err := net.Dial("udp", server.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	requests := make(chan int, 1)
	go func() {
		buf, n := make([]byte, 2048), 0
		for {
			size, from, err := server.ReadFromUDPAddrPort(buf)
			if err != nil {
				requests <- n
				return
			}
			if n++; n < 3 {
				continue // lost
			}
			req, _ := parseAnswer(buf[:size])
			for _, raw := range [][]byte{[]byte("hello"), {}, stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw, stun.MustBuild(req, stun.BindingSuccess).Raw} {
				_, _ = server.WriteToUDPAddrPort(raw, from)
			}
		}
	}()
	c := &conversation{conn: client, datagram: true}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	_, err = c.binding(ctx, false)
	cancel()
	if !isTimeout(err) {
		t.Errorf("one lost request: %v", err)
	}
	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	rtt, err := c.binding(ctx, true)
	if err != nil || rtt > 5*time.Second {
		t.Errorf("sent again: %v after %v", err, rtt)
	}
	_ = server.Close()
	if n := <-requests; n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestConversationEndsWithItsContext(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	go func() { _, _ = io.Copy(io.Discard, b) }()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(30*time.Millisecond, cancel)
	began := time.Now()
	_, err := (&conversation{conn: a}).binding(ctx, false)
	if !errors.Is(err, context.Canceled) || time.Since(began) > 5*time.Second {
		t.Errorf("%v after %v", err, time.Since(began))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) == false {
		t.Errorf("the reason of the read is lost: %v", err)
	}
}

// A stream for probes is kept, dialled anew when the region has closed it, and not shared by two probes.
func TestProberKeepsItsStream(t *testing.T) {
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.34.1", 0, ca)
	p := onlyPath(t, ca, one, "tls")
	ping := func(keep bool) {
		t.Helper()
		if _, err := p.ping(t.Context(), keep); err != nil {
			t.Fatal(err)
		}
	}
	_ = closeNow(p.probe.take()) // what onlyPath has left
	before := one.accept.Load()
	dialled := func(what string, want int64) {
		t.Helper()
		if got := one.accept.Load() - before; got != want {
			t.Fatalf("%s: %d streams, want %d", what, got, want)
		}
	}
	ping(true)
	ping(true)
	dialled("kept", 1)
	one.mu.Lock()
	for c := range one.conns {
		_ = c.Close()
	}
	one.mu.Unlock()
	ping(true)
	dialled("closed by the region", 2)
	p.probe.busy.Lock()
	ping(true)
	p.probe.busy.Unlock()
	dialled("in use", 3)
	ping(false)
	ping(false)
	dialled("not kept", 4)
	ping(true)
	p.probe.mu.Lock()
	p.probe.born = p.probe.born.Add(-proberAge)
	p.probe.mu.Unlock()
	ping(true)
	dialled("old", 6)
	p.probe.close()
	ping(true)
	ping(true)
	dialled("closed", 8)
}

func FuzzAnswer(f *testing.F) {
	req := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	f.Add(stun.MustBuild(req, stun.BindingSuccess, &stun.XORMappedAddress{IP: net.IPv4(192, 0, 2, 1), Port: 1}).Raw, false)
	f.Add(stun.MustBuild(req, stun.NewType(stun.MethodAllocate, stun.ClassErrorResponse), stun.CodeUnauthorized,
		stun.NewRealm("realm"), stun.NewNonce("nonce")).Raw, true)
	f.Add([]byte("HTTP/1.1 200 OK\r\n\r\nhello"), false)
	f.Add([]byte{0x00, 0x01, 0xff, 0xec, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, in []byte, datagram bool) {
		defer frugal.Input(t)()
		c := &conversation{conn: &saidAll{in: bytes.NewReader(in)}, datagram: datagram}
		a := &allocating{username: "user", password: "password"}
		for range 20 {
			m, err := c.message()
			if err != nil {
				return
			}
			if len(m.Raw) > maxAnswer {
				t.Fatalf("%d bytes were read as one message", len(m.Raw))
			}
			a.challenged(m, false)
			a.proves(m)
			errorCodeOf(m)
			for _, attr := range []stun.AttrType{stun.AttrXORMappedAddress, stun.AttrXORRelayedAddress} {
				if ap, ok := addressOf(m, attr); ok && !ap.IsValid() {
					t.Fatalf("no address is taken for one: %v", ap)
				}
			}
		}
	})
}

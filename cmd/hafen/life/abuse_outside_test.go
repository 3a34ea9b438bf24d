package life

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// TestAbuse_A44_A45: an answer to a Binding request goes to who asked and has his address in it, and nothing else: no software, no address of
// ours. What asks for an answer from or to elsewhere (RFC 5780) is refused to the one who asked, and who has no cookie (RFC 3489) gets none.
func TestAbuse_A44_A45(t *testing.T) {
	w := newWorld(t, nil)
	gateway, err := net.ResolveUDPAddr("udp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	// Not connected: what comes from elsewhere is seen.
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = socket.Close() }()
	ask := func(request []byte, wait time.Duration) []byte {
		t.Helper()
		if _, err := socket.WriteToUDP(request, gateway); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 2048)
		_ = socket.SetReadDeadline(time.Now().Add(wait))
		n, from, err := socket.ReadFromUDPAddrPort(buf)
		if err != nil {
			return nil
		}
		if from.String() != w.addr {
			t.Errorf("%s answers in place of %s", from, w.addr)
		}
		return buf[:n]
	}
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest)
	mapped := stun.XORMappedAddress{IP: net.IPv4(127, 0, 0, 1), Port: socket.LocalAddr().(*net.UDPAddr).Port}
	want := stun.MustBuild(stun.BindingSuccess, stun.NewTransactionIDSetter(binding.TransactionID), &mapped)
	if got := ask(binding.Raw, 10*time.Second); !bytes.Equal(got, want.Raw) {
		t.Errorf("Binding is answered by %x, want %x", got, want.Raw)
	}
	for name, attribute := range map[string]stun.RawAttribute{
		"CHANGE-REQUEST":   {Type: 0x0003, Value: []byte{0, 0, 0, 6}},
		"RESPONSE-ADDRESS": {Type: 0x0002, Value: []byte{0, 1, 0, 9, 127, 0, 0, 1}},
		"RESPONSE-PORT":    {Type: 0x0027, Value: []byte{0, 9, 0, 0}},
	} {
		answer := &stun.Message{Raw: ask(stun.MustBuild(stun.TransactionID, stun.BindingRequest, attribute).Raw, 10*time.Second)}
		var code stun.ErrorCodeAttribute
		if err := answer.Decode(); err != nil || code.GetFrom(answer) != nil || code.Code != stun.CodeUnknownAttribute {
			t.Errorf("%s: %v, %v", name, answer, err)
		}
		for _, a := range answer.Attributes {
			if a.Type != stun.AttrErrorCode && a.Type != stun.AttrUnknownAttributes {
				t.Errorf("%s: the answer has %s in it", name, a.Type)
			}
		}
	}
	old := bytes.Clone(binding.Raw)
	old[4] ^= 1 // a transaction of RFC 3489, which knew no cookie
	if got := ask(old, time.Second); got != nil {
		t.Errorf("without a cookie: %x", got)
	}
	if got := ask(binding.Raw, 10*time.Second); !bytes.Equal(got, want.Raw) {
		t.Errorf("Binding after all that: %x", got)
	}
}

// TestAbuse_G01: hafen check names each mistake by its key, and says what to write; it does so for all of them, and with exit code 1.
func TestAbuse_G01(t *testing.T) {
	w := layWorld(t, program, nil)
	check := func() (string, int) {
		out, err := ours(t, program, "check", "--config", w.file())
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return out, exit.ExitCode()
		}
		if err != nil {
			t.Fatal(err)
		}
		return out, 0
	}
	if out, code := check(); code != 0 {
		t.Fatalf("a configuration without a mistake: exit code %d\n%s", code, out)
	}
	replace := func(old, with string) func(string) string {
		return func(text string) string {
			if !strings.Contains(text, old) {
				t.Fatalf("there is no %q to be replaced", old)
			}
			return strings.Replace(text, old, with, 1)
		}
	}
	port := w.addr[strings.LastIndexByte(w.addr, ':'):]
	for name, row := range map[string]struct {
		change func(string) string
		says   []string
	}{
		"unknown key":       {replace("drain: 20s", "drian: 20s"), []string{"drian", "drain"}},
		"duplicate key":     {replace("drain: 20s", "drain: 20s\ndrain: 30s"), []string{"drain"}},
		"wrong type":        {replace("drain: 20s", "drain: [20s]"), []string{"drain"}},
		"port 0":            {replace(port+`"]`, `:0"]`), []string{"listen.https"}},
		"port 65536":        {replace(port+`"]`, `:65536"]`), []string{"listen.https"}},
		"port with a space": {replace(port+`"]`, port+` "]`), []string{"listen.https"}},
		"a host as network": {replace("clients: [127.0.0.0/8]", "clients: [10.0.0.1/8]"), []string{"clients", "10.0.0.0/8"}},
		"everybody":         {replace("clients: [127.0.0.0/8]", "clients: [0.0.0.0/0]"), []string{"clients", "clients_any"}},
		"nobody":            {replace("clients: [127.0.0.0/8]", "clients: []"), []string{"clients"}},
		"two at once": {
			func(s string) string {
				return replace("drain: 20s", "drian: 20s")(replace("level: warn", "level: loud")(s))
			},
			[]string{"drian", "log.level"},
		},
	} {
		w.configure(row.change)
		out, code := check()
		if code != 1 {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
		for _, word := range row.says {
			if !strings.Contains(out, word) {
				t.Errorf("%s: %q is not in it:\n%s", name, word, out)
			}
		}
	}
}

// TestAbuse_H07: 100,000 bad packets and some hundred bad connections are few lines of the log, with how many more there were.
func TestAbuse_H07(t *testing.T) {
	w := newWorld(t, func(text string) string { return strings.Replace(text, "level: warn", "level: info", 1) })
	before, began := strings.Count(w.log.String(), "\n"), time.Now()
	conn, err := net.Dial("udp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	bad := [][]byte{
		{0xc3, 0, 0, 0, 1},
		bytes.Repeat([]byte{0xa5}, 300),
		{0x40, 0, 0, 200, 1},
		make([]byte, 1400), []byte("GET / HTTP/1.1\r\n\r\n"),
		stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw[:19],
	}
	for i := range 100_000 {
		_, _ = conn.Write(bad[i%len(bad)])
	}
	for i := range 300 {
		c, err := net.DialTimeout("tcp", w.addr, 5*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(c, "SSH-2.0-%d\r\n\r\n", i)
		_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
		if n, _ := c.Read(make([]byte, 1)); n != 0 {
			t.Error("what is no protocol of ours was answered")
		}
		_ = c.Close()
	}
	took := time.Since(began)
	lines := strings.Count(w.log.String(), "\n") - before
	t.Logf("%d lines in %v", lines, took.Round(100*time.Millisecond))
	if most := 10 * (2 + int(took.Seconds())); lines > most { // ten a second, and what else there is to say
		t.Errorf("%d lines in %v, at most %d are meant:\n%s", lines, took, most, lastOf(w.log.String(), 3000))
	}
	if n := w.metric(`hafen_relay_ignored_datagrams_total{why="not_turn"}`); n < 1000 {
		t.Errorf("only %v of the packets were counted", n) // the kernel may drop some of a burst
	}
	w.signal(syscall.SIGTERM)
	_ = w.cmd.Wait()
	if !strings.Contains(w.log.String(), "more in the last") {
		t.Errorf("nothing says how many lines there would have been:\n%s", lastOf(w.log.String(), 3000))
	}
}

func lastOf(text string, n int) string { return text[max(0, len(text)-n):] }

package life

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestAbuse_G06: what a reload takes away is refused to new requests at once; what lives goes on to its end.
func TestAbuse_G06(t *testing.T) {
	w := newWorld(t, nil)
	l := w.startLoad(3, 0, 4, 0)
	var changes []string
	change := func(old, with string) {
		t.Helper()
		changes = append(changes, old, with)
		w.configure(strings.NewReplacer(changes...).Replace)
		if err := w.reload(); err != nil {
			t.Fatal(err)
		}
	}
	goesOn := func(what string) {
		t.Helper()
		said, received := l.said.Load(), l.received()
		l.pause(1500 * time.Millisecond)
		if l.said.Load() == said || l.received() < received+int64(len(l.streams)*packets/2) {
			t.Errorf("%s: what lives does not go on: %d messages, %d packets", what, l.said.Load()-said, l.received()-received)
		}
	}
	page := "https://" + callName + "/healthz"
	if err := l.ask(page); err != nil {
		t.Fatal(err)
	}
	change("host: "+callName, "host: other.gw.test")
	if err := l.ask(page); err == nil {
		t.Error("the host that is gone is served")
	}
	goesOn("a host is gone")

	change(`turn_udp: ["`+w.addr+`"], `, "")
	if conn, err := net.Dial("udp", w.addr); err == nil {
		// A Binding request.
		_, _ = conn.Write([]byte("\x00\x01\x00\x00\x21\x12\xa4\x42abcdefghijkl"))
		_ = conn.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := conn.Read(make([]byte, 100)); err == nil {
			t.Errorf("%d bytes from the UDP address that is gone", n)
		}
		_ = conn.Close()
	}
	goesOn("a UDP address is gone")

	change("clients: [127.0.0.0/8]", "clients: [10.0.0.0/8]")
	if err := l.visit(); err != nil {
		t.Errorf("/livez is for everybody: %v", err)
	}
	if code := w.front(); code != http.StatusForbidden {
		t.Errorf("who is no client any more gets %d", code)
	}
	goesOn("the clients are others")
	changes = nil
	change("drain: 20s", "drain: 30s") // all as it was: the UDP address, too, whose socket its clients hold still
	s, err := w.newStream("udp", echoPeer(w))
	if err != nil {
		t.Fatalf("the UDP address that is back: %v", err)
	}
	s.close()
	goesOn("all is back")
	l.end(gapMost())
}

// front asks for the front page.
func (w *world) front() int {
	w.t.Helper()
	conn, err := w.dial(ownName)
	if err != nil {
		w.t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	_, _ = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: %s\r\n\r\n", ownName)
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	return resp.StatusCode
}

func (l *load) received() (n int64) {
	for _, s := range l.streams {
		n += s.received.Load()
	}
	return n
}

package gateway

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// channel is what a process and its successor tell each other: notes, as JSON, for as long as both live.
type channel struct {
	conn net.Conn
	in   *json.Decoder

	mu  sync.Mutex // of sending
	out *json.Encoder
}

// note is one thing that is told.
type note struct {
	Kind   noteKind
	PID    int           `json:",omitempty"`
	Why    string        `json:",omitempty"`
	Secret []byte        `json:",omitempty"`
	Live   int           `json:",omitempty"`
	Wait   time.Duration `json:",omitempty"`
}

type noteKind string

const (
	noteHello  noteKind = "hello"  // elder: what you can't read from files
	notePID    noteKind = "pid"    // successor: this is me
	noteReady  noteKind = "ready"  // successor: everything is made, let go
	noteFailed noteKind = "failed" // successor: I can't, go on
	noteGo     noteKind = "go"     // elder: it is yours
	noteLive   noteKind = "live"   // elder, now and then: so many sessions are left
	noteDrain  noteKind = "drain"  // successor: end within so long
	noteStop   noteKind = "stop"   // successor: end now
)

// newChannel makes a channel and the descriptor of its other end.
func newChannel() (*channel, int, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("socketpair: %w", err)
	}
	c, err := takeChannel(fds[0])
	if err != nil {
		_ = unix.Close(fds[1])
	}
	return c, fds[1], err
}

// takeChannel makes a channel of a descriptor.
func takeChannel(fd int) (*channel, error) {
	unix.CloseOnExec(fd)
	f := os.NewFile(uintptr(fd), "channel")
	defer func() { _ = f.Close() }() // net has a copy of its own
	conn, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("channel: %w", err)
	}
	return &channel{conn: conn, in: json.NewDecoder(conn), out: json.NewEncoder(conn)}, nil
}

func (c *channel) send(n note) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	_ = c.conn.SetWriteDeadline(time.Now().Add(time.Second)) // whoever does not read is not waited for
	return c.out.Encode(n)
}

func (c *channel) receive() (n note, err error) {
	err = c.in.Decode(&n)
	return n, err
}

// await receives a note of one kind; what comes before it is passed to other, whose error ends the waiting.
func (c *channel) await(kind noteKind, within time.Duration, other func(note) error) (note, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(within))
	defer func() { _ = c.conn.SetReadDeadline(time.Time{}) }()
	for {
		n, err := c.receive()
		if err != nil || n.Kind == kind {
			return n, err
		}
		if err := other(n); err != nil {
			return n, err
		}
	}
}

func (c *channel) close() { _ = c.conn.Close() }

package signaling

import (
	"encoding/binary"
	"errors"
	"math"
	"net"
	"sync"
	"time"
)

// frames takes the place of the client's conn in a socket where the gateway has to know the frames that the call server sends (RFC 6455 section
// 5.2): to put pings between them, or to rewrite text messages. Control frames, binary messages and closes pass as they are, and so does
// everything from the first byte on that it does not understand: the client is the one to judge.
type frames struct {
	net.Conn
	// edit rewrites a whole text message; false: it stays as it is. nil: nothing is held back.
	edit func(text []byte) ([]byte, bool)

	mu      sync.Mutex // pings are no part of what the call server sends
	walk    walk
	holding bool   // the message under way is a text to edit
	held    []byte // its frames so far
	out     []byte // what one Write lets through
	blind   bool   // this is no WebSocket as we know it
	closed  bool   // a close frame went by: nothing may follow it
}

// Write is net.Conn's.
func (f *frames) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if out := f.through(b); len(out) > 0 {
		if _, err := f.Conn.Write(out); err != nil {
			return 0, err
		}
	}
	f.out, f.held = shrunk(f.out[:0]), shrunk(f.held)
	return len(b), nil
}

// through is what may go to the client now that b has come.
func (f *frames) through(b []byte) []byte {
	if f.edit == nil {
		f.look(b)
		return b
	}
	f.out = f.out[:0]
	f.filter(b)
	return f.out
}

// shrunk lets go of what an idle socket need not keep.
func shrunk(b []byte) []byte {
	if len(b) == 0 && cap(b) > smallBuffer {
		return nil
	}
	return b
}

// CloseWrite passes on the end of this direction, behind what is still held.
func (f *frames) CloseWrite() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	if rest := append(f.held, f.walk.begun()...); f.edit != nil && !f.blind && len(rest) > 0 {
		if _, err := f.Conn.Write(rest); err != nil {
			return err
		}
	}
	f.held = nil
	half, ok := f.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this conn has no half-close")
	}
	return half.CloseWrite()
}

// ping sends a ping with nothing in it if a frame can stand here: not inside of another, not behind a close, and not while something
// is being written. The client's pong goes on to the call server, where it is one that answers nothing (RFC 6455 section 5.5.3): so it keeps
// the connections on that side alive as well.
func (f *frames) ping(patience time.Duration) error {
	if !f.mu.TryLock() {
		return nil
	}
	defer f.mu.Unlock()
	if f.blind || f.closed || !f.walk.between() {
		return nil
	}
	_ = f.SetWriteDeadline(time.Now().Add(patience)) // fails only on a closed conn, as Write does then
	_, err := f.Conn.Write([]byte{0x80 | opPing, 0})
	return err
}

// look follows the frames and holds nothing.
func (f *frames) look(b []byte) {
	for len(b) > 0 && !f.blind {
		var p piece
		p, b = f.walk.next(b)
		f.blind = p.kind == pieceOdd
		f.closed = f.closed || p.kind == pieceHead && f.walk.opcode == opClose
	}
}

// filter moves b to out, all but text messages that are not whole yet.
func (f *frames) filter(b []byte) {
	for len(b) > 0 && !f.blind {
		var p piece
		p, b = f.walk.next(b)
		switch p.kind {
		case pieceNone:
			return
		case pieceOdd:
			f.letGo()
			f.blind = true
			f.out = append(f.out, p.data...)
		case pieceHead:
			f.begin()
			f.put(p.data)
		case piecePayload:
			f.put(p.data)
		}
		if !f.blind && f.walk.between() {
			f.end()
		}
	}
	f.out = append(f.out, b...)
}

// begin decides what becomes of a frame.
func (f *frames) begin() {
	switch w := &f.walk; {
	case w.opcode == opClose:
		f.letGo()
		f.closed = true
	case w.control(), w.opcode == opContinuation:
	default:
		f.letGo()                                     // a message that was never finished
		f.holding = w.opcode == opText && !w.extended // an extension's text is none that we could read
	}
}

// put moves a part of a frame. Control frames may stand between the frames of a message and overtake those that are held.
func (f *frames) put(data []byte) {
	if f.holding && !f.walk.control() {
		if len(f.held)+len(data) <= maxRewritten {
			f.held = append(f.held, data...)
			return
		}
		f.letGo() // too long to be looked at
	}
	f.out = append(f.out, data...)
}

// letGo passes on what is held as it is.
func (f *frames) letGo() {
	f.out = append(f.out, f.held...)
	f.held, f.holding = f.held[:0], false
}

// end is reached behind each frame.
func (f *frames) end() {
	if !f.holding || f.walk.control() || !f.walk.final {
		return
	}
	if text, changed := f.edit(payload(f.held)); changed {
		f.out = append(appendHead(f.out, len(text)), text...)
		f.held, f.holding = f.held[:0], false
		return
	}
	f.letGo()
}

// payload is the text of a message, given all its frames.
func payload(message []byte) []byte {
	var w walk
	var text []byte
	for len(message) > 0 {
		var p piece
		if p, message = w.next(message); p.kind == piecePayload {
			text = append(text, p.data...)
		}
	}
	return text
}

// appendHead appends the head of an unmasked text frame that is a whole message.
func appendHead(b []byte, size int) []byte {
	b = append(b, 0x80|opText)
	switch {
	case size < 126:
		return append(b, byte(size))
	case size <= math.MaxUint16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(b, 127), uint64(size))
}

// The opcodes that matter here.
const (
	opContinuation = 0x0
	opText         = 0x1
	opClose        = 0x8
	opPing         = 0x9
)

// walk finds the frames in what a server sends, in pieces of any size.
type walk struct {
	head  [10]byte // a server's frames are not masked
	have  int      // how much of the head is there, while it is not whole
	left  uint64   // what is still to come of the payload
	final bool

	opcode   byte
	extended bool // bits of an extension are set
}

// piece is what next found: nothing yet, a whole head, a part of a payload, or what no server sends.
type piece struct {
	kind pieceKind
	data []byte // valid until the next call
}

type pieceKind int

const (
	pieceNone pieceKind = iota
	pieceHead
	piecePayload
	pieceOdd
)

// next takes the next piece off b, which is not empty.
func (w *walk) next(b []byte) (piece, []byte) {
	if w.left > 0 {
		n := len(b)
		if uint64(n) > w.left {
			n = int(w.left)
		}
		w.left -= uint64(n)
		return piece{piecePayload, b[:n]}, b[n:]
	}
	for w.have < w.headSize() && len(b) > 0 {
		w.head[w.have], b = b[0], b[1:]
		w.have++
	}
	if w.have < w.headSize() {
		return piece{}, b
	}
	data := w.head[:w.have]
	w.have = 0
	if !w.parse(data) {
		return piece{pieceOdd, data}, b
	}
	return piece{pieceHead, data}, b
}

// headSize is how long the head is, as far as can be told from what is there.
func (w *walk) headSize() int {
	switch {
	case w.have < 2:
		return 2
	case w.head[1]&0x7f == 126:
		return 4
	case w.head[1]&0x7f == 127:
		return 10
	}
	return 2
}

// parse reads a whole head. False: a client must not accept it either.
func (w *walk) parse(head []byte) bool {
	w.final, w.extended, w.opcode = head[0]&0x80 != 0, head[0]&0x70 != 0, head[0]&0x0f
	switch len(head) {
	case 2:
		w.left = uint64(head[1] & 0x7f)
	case 4:
		w.left = uint64(binary.BigEndian.Uint16(head[2:]))
	default:
		w.left = binary.BigEndian.Uint64(head[2:])
	}
	masked := head[1]&0x80 != 0
	return !masked && w.left <= math.MaxInt64 && (!w.control() || w.final && w.left <= 125)
}

// control reports whether the frame is a control frame, which may stand between the frames of a message.
func (w *walk) control() bool { return w.opcode&0x8 != 0 }

// between reports whether the last frame is over and no other has begun.
func (w *walk) between() bool { return w.left == 0 && w.have == 0 }

// begun is what is there of a head that is not whole.
func (w *walk) begun() []byte { return w.head[:w.have] }

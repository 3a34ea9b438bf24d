package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/pion/stun/v2"
)

// maxFrame is the longest message carried, without the padding of streams. Media fits a packet of 1,500 bytes and DTLS keeps to
// that too; the rest is room for a Data indication's headers and for paths with somewhat longer packets. It is also what a client
// can make us keep of a message whose end does not come.
const maxFrame = 2048

const (
	firstChannel = 0x4000
	// lastChannel is RFC 5766's. RFC 8656 section 12 stops at 0x4fff, but clients and servers of the older kind are about,
	// coturn's among them; which numbers may be bound is for the region to say.
	lastChannel = 0x7fff
	// stunCookieEnd is how much of a STUN message tells it from anything else.
	stunCookieEnd = 8
)

// PartialFrameTimeout is how long the rest of a message may take once its first byte is there.
const PartialFrameTimeout = 15 * time.Second

// errFraming means that where the next message begins is not known any more: nothing behind it may be read.
var errFraming = errors.New("what came is not framed as TURN")

// frameSize reads the size of the message that b begins with, without the padding of streams; 0 when b is too short to tell.
// A size does not say that the message is sound: valid does.
func frameSize(b []byte) (int, error) {
	if len(b) < channelHeaderSize {
		return 0, nil
	}
	head, length := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
	switch {
	case head < firstChannel: // two zero bits: STUN (RFC 8489 section 5)
		switch {
		case length%4 != 0:
			return 0, fmt.Errorf("%w: a STUN length of %d", errFraming, length)
		case len(b) < stunCookieEnd:
			return 0, nil
		case binary.BigEndian.Uint32(b[4:]) != stunCookie:
			return 0, fmt.Errorf("%w: no magic cookie", errFraming)
		}
		return stunHeaderSize + length, nil
	case head <= lastChannel:
		return channelHeaderSize + length, nil
	}
	return 0, fmt.Errorf("%w: it begins with %#04x", errFraming, head)
}

// padded is the room that a message takes in a stream: a multiple of 4 (RFC 8656 section 12.5).
func padded(size int) int { return (size + 3) &^ 3 }

// isChannelData tells ChannelData from STUN in a message that frameSize has accepted.
func isChannelData(frame []byte) bool { return frame[0]&0xc0 != 0 }

// valid tells whether frame is one whole message and nothing else. Every attribute of a STUN message must lie within it, and
// every address in it must be as long as its family says: parsers behind us have died of less.
func valid(frame []byte) bool {
	size, err := frameSize(frame)
	if err != nil || size != len(frame) || size > maxFrame {
		return false
	}
	return isChannelData(frame) || validAttributes(frame[stunHeaderSize:])
}

func validAttributes(b []byte) bool {
	for len(b) > 0 {
		if len(b) < attrHeaderSize {
			return false
		}
		typ, length := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
		end := attrHeaderSize + padded(length)
		if end > len(b) || holdsAddress(typ) && !validAddress(b[attrHeaderSize:attrHeaderSize+length]) {
			return false
		}
		b = b[end:]
	}
	return true
}

// holdsAddress knows every attribute whose value is an address, those of RFC 3489 and 5780 included.
func holdsAddress(typ uint16) bool {
	switch typ {
	case 0x0001, 0x0002, 0x0004, 0x0005, 0x000b, // MAPPED-, RESPONSE-, SOURCE-, CHANGED-ADDRESS, REFLECTED-FROM
		0x0012, 0x0016, 0x0020, // XOR-PEER-, XOR-RELAYED-, XOR-MAPPED-ADDRESS
		0x8020, 0x8023, 0x802b, 0x802c: // XOR-MAPPED-ADDRESS of old, ALTERNATE-SERVER, RESPONSE-ORIGIN, OTHER-ADDRESS
		return true
	}
	return false
}

func validAddress(value []byte) bool {
	switch len(value) {
	case 8:
		return value[1] == familyIPv4
	case 20:
		return value[1] == familyIPv6
	}
	return false
}

// messageType is the type of a STUN message, class and method in one number.
func messageType(frame []byte) uint16 { return binary.BigEndian.Uint16(frame) }

// The types that the data path tells apart without parsing (RFC 8656 section 17).
const (
	typeSendIndication = 0x0016
	typeDataIndication = 0x0017
	typeBinding        = 0x0001
	classMask          = 0x0110
	classRequest       = 0x0000
	classIndication    = 0x0010
	classSuccess       = 0x0100
	classError         = 0x0110
)

// dataOf is the packet inside ChannelData or a Data indication; nil when there is none.
func dataOf(frame []byte) []byte {
	if isChannelData(frame) {
		return frame[channelHeaderSize:]
	}
	if messageType(frame) != typeDataIndication {
		return nil
	}
	return attribute(frame, stun.AttrData)
}

// attribute is the value of the first attribute of its type in a valid message; nil when it has none.
func attribute(frame []byte, want stun.AttrType) []byte {
	for b := frame[stunHeaderSize:]; len(b) >= attrHeaderSize; {
		length := int(binary.BigEndian.Uint16(b[2:]))
		if binary.BigEndian.Uint16(b) == want.Value() {
			return b[attrHeaderSize : attrHeaderSize+length : attrHeaderSize+length]
		}
		b = b[attrHeaderSize+padded(length):]
	}
	return nil
}

// frameReader cuts a stream into messages, however it was segmented. It copies only what is split between two reads.
type frameReader struct {
	// strict refuses what is longer than maxFrame, and counts as such. A region's stream is not strict: peers decide how long
	// their packets are, and an odd one must not end a call, so such a message is skipped.
	strict bool

	part    *partBuffer // the beginning of a message; nil: none
	partLen int
	spent   *partBuffer // a part that became whole and was handed out
	since   time.Time   // when part began
	skip    int         // bytes still to be thrown away
	dropped int         // whole messages that were not sound, or too long
}

type partBuffer [maxFrame + 3]byte

var partBuffers = sync.Pool{New: func() any { return new(partBuffer) }}

// split hands every sound message that ends within b to take, in order. A message lies in b or in a buffer of the reader, and is
// good until the next split or recycle. An error of take ends the splitting and is returned; after an error of split itself the
// stream is unreadable.
func (r *frameReader) split(b []byte, now time.Time, take func(frame []byte) error) error {
	r.recycle()
	b, err := r.finish(b, take)
	for len(b) > 0 && err == nil {
		var size int
		if size, err = r.measure(b); err != nil {
			return err
		}
		whole := padded(size)
		switch {
		case size > maxFrame:
			r.dropped++
			r.skip, r.since = max(whole-len(b), 0), now
			b = b[min(whole, len(b)):]
		case size == 0 || whole > len(b):
			r.keep(b, now)
			return nil
		default:
			err = r.pass(b[:size], take)
			b = b[whole:]
		}
	}
	return err
}

// measure is frameSize with the bound of a strict reader.
func (r *frameReader) measure(b []byte) (int, error) {
	size, err := frameSize(b)
	if err == nil && r.strict && size > maxFrame {
		err = fmt.Errorf("%w: a message of %d bytes", errFraming, size)
	}
	return size, err
}

func (r *frameReader) pass(frame []byte, take func([]byte) error) error {
	if !valid(frame) {
		r.dropped++
		return nil
	}
	return take(frame)
}

func (r *frameReader) keep(b []byte, now time.Time) {
	r.part = partBuffers.Get().(*partBuffer)
	r.partLen = copy(r.part[:], b)
	r.since = now
}

// finish completes what an earlier read left unfinished, and returns what of b comes behind it.
func (r *frameReader) finish(b []byte, take func([]byte) error) ([]byte, error) {
	for r.part != nil {
		size, err := r.measure(r.part[:r.partLen])
		if err != nil {
			return nil, err
		}
		if size > maxFrame {
			r.skip = padded(size) - r.partLen
			r.release()
			r.dropped++
			break
		}
		want := r.next(size)
		n := copy(r.part[r.partLen:want], b)
		r.partLen += n
		b = b[n:]
		if r.partLen < want {
			return nil, nil
		}
		if want == padded(size) {
			err = r.pass(r.part[:size], take)
			r.spent, r.part, r.partLen = r.part, nil, 0
			return b, err
		}
	}
	n := min(r.skip, len(b))
	r.skip -= n
	return b[n:], nil
}

// next is how much of a message must be there before it is looked at again.
func (r *frameReader) next(size int) int {
	switch {
	case size > 0:
		return padded(size)
	case r.partLen < channelHeaderSize:
		return channelHeaderSize
	}
	return stunCookieEnd
}

// recycle gives back the buffer of a message that was handed out.
func (r *frameReader) recycle() {
	if r.spent != nil {
		partBuffers.Put(r.spent)
		r.spent = nil
	}
}

// release gives back the buffer of a message that will not be finished; also when the stream ends.
func (r *frameReader) release() {
	if r.part != nil {
		partBuffers.Put(r.part)
		r.part, r.partLen = nil, 0
	}
}

// unfinished tells since when the reader waits for the rest of a message; zero when it waits for none.
func (r *frameReader) unfinished() time.Time {
	if r.part == nil && r.skip == 0 {
		return time.Time{}
	}
	return r.since
}

package cloud

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	stunHeader    = 20
	stunCookie    = 0x2112A442
	channelHeader = 4
	// maxFrame is far above what fits a datagram on the internet and far below where pion's 16-bit sums overflow.
	maxFrame = 4096
)

var errFrame = errors.New("neither a STUN message nor ChannelData")

// frameLength tells from a frame's first 4 bytes how long it is on a stream, where ChannelData is padded to a
// multiple of four (RFC 8656, 12.5).
func frameLength(head []byte) (int, error) {
	length := int(binary.BigEndian.Uint16(head[2:]))
	switch {
	case head[0]>>6 == 0 && length%4 == 0:
		length += stunHeader
	case head[0]>>4 == 4: // channels are 0x4000 to 0x4FFF
		length = (length+3)&^3 + channelHeader
	default:
		return 0, errFrame
	}
	if length > maxFrame {
		return 0, fmt.Errorf("%w: %d bytes", errFrame, length)
	}
	return length, nil
}

// readFrame reads exactly one whole frame from a stream. Its bytes are the caller's to keep.
func readFrame(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(channelHeader)
	if err != nil {
		return nil, err
	}
	n, err := frameLength(head)
	if err != nil {
		return nil, err
	}
	frame := make([]byte, n)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	return frame, checkFrame(frame)
}

// checkFrame says whether b is one whole frame: a STUN message with the magic cookie whose attributes end where it
// ends, or ChannelData, with or without the padding that datagrams may leave out.
func checkFrame(b []byte) error {
	if len(b) < channelHeader || len(b) > maxFrame {
		return errFrame
	}
	length := int(binary.BigEndian.Uint16(b[2:]))
	if b[0]>>4 == 4 {
		if rest := len(b) - channelHeader - length; rest < 0 || rest > 3 {
			return fmt.Errorf("%w: ChannelData of %d bytes in %d", errFrame, length, len(b))
		}
		return nil
	}
	if b[0]>>6 != 0 || len(b) != length+stunHeader || length%4 != 0 || binary.BigEndian.Uint32(b[4:]) != stunCookie {
		return errFrame
	}
	return checkAttributes(b[stunHeader:])
}

func checkAttributes(b []byte) error {
	for len(b) > 0 {
		if len(b) < 4 {
			return fmt.Errorf("%w: half an attribute", errFrame)
		}
		n := (int(binary.BigEndian.Uint16(b[2:]))+3)&^3 + 4
		if n > len(b) {
			return fmt.Errorf("%w: an attribute beyond the end", errFrame)
		}
		b = b[n:]
	}
	return nil
}

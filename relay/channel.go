package relay

import (
	"net/netip"
	"time"
)

const (
	// channelLifetime is fixed by RFC 8656 section 12.
	channelLifetime = 10 * time.Minute
	// RFC 8656 section 12: channel numbers 0x4000 to 0x4FFF. (RFC 5766 went to 0x7FFF; those bytes now belong to other protocols.)
	minChannel = 0x4000
	maxChannel = 0x4FFF
	// maxChannels bounds one allocation, as maxPermissions does: one address could otherwise hold a channel for each of its ports.
	maxChannels = 64
)

// channels are an allocation's bindings of a number to a peer, one to one.
type channels struct {
	byNumber map[uint16]*channel
	byPeer   map[netip.AddrPort]*channel
}

type channel struct {
	number  uint16
	peer    netip.AddrPort
	expires time.Time
}

func newChannels() channels {
	return channels{byNumber: make(map[uint16]*channel), byPeer: make(map[netip.AddrPort]*channel)}
}

// peer is whom a number stands for.
func (c *channels) peer(number uint16, now time.Time) (netip.AddrPort, bool) {
	ch := c.byNumber[number]
	if ch == nil || !now.Before(ch.expires) {
		return netip.AddrPort{}, false
	}
	return ch.peer, true
}

// number is the channel of a peer; 0: none.
func (c *channels) number(peer netip.AddrPort, now time.Time) uint16 {
	ch := c.byPeer[peer]
	if ch == nil || !now.Before(ch.expires) {
		return 0
	}
	return ch.number
}

// conflict is the refusal of a binding that RFC 8656 section 12.2 forbids; nil: it may be made, or it is there already.
func (c *channels) conflict(number uint16, peer netip.AddrPort, now time.Time) *turnError {
	c.sweep(now)
	if number < minChannel || number > maxChannel {
		return &turnError{code: codeBadRequest, why: "a channel number outside 0x4000 to 0x4FFF"}
	}
	if ch := c.byNumber[number]; ch != nil && ch.peer != peer {
		return &turnError{code: codeBadRequest, why: "the channel is another peer's"}
	}
	if ch := c.byPeer[peer]; ch != nil && ch.number != number {
		return &turnError{code: codeBadRequest, why: "the peer has another channel"}
	}
	if c.byNumber[number] == nil && len(c.byNumber) >= maxChannels {
		return &turnError{code: codeInsufficientCapacity, why: "too many channels"}
	}
	return nil
}

// bind makes or refreshes a binding that conflict has nothing against.
func (c *channels) bind(number uint16, peer netip.AddrPort, now time.Time) {
	ch := c.byNumber[number]
	if ch == nil {
		ch = &channel{number: number, peer: peer}
		c.byNumber[number], c.byPeer[peer] = ch, ch
	}
	ch.expires = now.Add(channelLifetime)
}

func (c *channels) sweep(now time.Time) {
	for number, ch := range c.byNumber {
		if !now.Before(ch.expires) {
			delete(c.byNumber, number)
			delete(c.byPeer, ch.peer)
		}
	}
}

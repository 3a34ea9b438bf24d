package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v2"
)

const (
	channel      = 0x4000
	channelHead  = 4
	stunHead     = 20
	protocolUDP  = 17
	allocateTime = 10 * time.Second
)

// target is a relay under measurement, as its clients see it.
type target struct {
	Name     string
	Via      string // tls, tcp or udp
	Addr     string
	User     string
	Password string
	PID      int    // whose CPU and memory count
	From     string // the address that clients have; "": any
}

// client is one TURN client with an allocation and a channel to its peer. Nothing of it is made for speed but what is done for each
// packet.
type client struct {
	conn    net.Conn
	cork    *corked // beneath TLS
	in      *bufio.Reader
	stream  bool
	relayed netip.AddrPort
	out     []byte
	signed  []stun.Setter
	once    sync.Once
}

// corked keeps what TLS writes until flush, so that a burst is one packet of the network, as it is when a browser is quick.
type corked struct {
	net.Conn
	on  bool
	buf []byte
}

func (c *corked) Write(p []byte) (int, error) {
	if !c.on {
		return c.Conn.Write(p)
	}
	c.buf = append(c.buf, p...)
	return len(p), nil
}

func (c *corked) flush() error {
	_, err := c.Conn.Write(c.buf)
	c.buf = c.buf[:0]
	return err
}

// dial connects, wins an allocation and binds the channel to the peer.
func dial(t target, peer netip.AddrPort) (*client, error) {
	network := "tcp"
	if t.Via == "udp" {
		network = "udp"
	}
	dialer := net.Dialer{Timeout: allocateTime}
	if t.From != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(t.From)}
	}
	conn, err := dialer.Dial(network, t.Addr)
	if err != nil {
		return nil, err
	}
	c := &client{conn: conn, stream: t.Via != "udp"}
	size := 2048
	if c.stream {
		size = 20 << 10
		c.cork = &corked{Conn: conn}
		c.conn = c.cork
	}
	_ = conn.SetDeadline(time.Now().Add(allocateTime))
	if t.Via == "tls" {
		// The certificate is not what is measured. coturn does no key exchange but P-256, so all do that one: what costs more and is
		// safer (Hafen takes X25519MLKEM768 where a browser offers it) is not to be compared with what it lacks.
		secure := tls.Client(c.cork, &tls.Config{
			InsecureSkipVerify: true, ServerName: serverName, CurvePreferences: []tls.CurveID{tls.CurveP256}, //nolint:gosec
		})
		if err := secure.Handshake(); err != nil {
			_ = conn.Close()
			return nil, err
		}
		c.conn = secure
	}
	c.in = bufio.NewReaderSize(c.conn, size)
	if err := c.allocate(t, peer); err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return c, nil
}

// allocate asks twice for the allocation, as RFC 8656 has it, then for the channel.
func (c *client) allocate(t target, peer netip.AddrPort) error {
	transport := stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{protocolUDP, 0, 0, 0}}
	answer, err := c.ask(stun.MethodAllocate, transport)
	if err != nil {
		return err
	}
	var realm stun.Realm
	var nonce stun.Nonce
	if err := answer.Parse(&realm, &nonce); err != nil {
		return fmt.Errorf("no challenge in %s %s: %w", answer, reason(answer), err)
	}
	c.signed = []stun.Setter{stun.NewUsername(t.User), realm, nonce, stun.NewLongTermIntegrity(t.User, realm.String(), t.Password)}
	if answer, err = c.ask(stun.MethodAllocate, append([]stun.Setter{transport}, c.signed...)...); err != nil {
		return err
	}
	var relayed stun.XORMappedAddress
	if err := relayed.GetFromAs(answer, stun.AttrXORRelayedAddress); err != nil {
		return fmt.Errorf("no relayed address in %s", answer)
	}
	ip, _ := netip.AddrFromSlice(relayed.IP)
	c.relayed = netip.AddrPortFrom(ip.Unmap(), uint16(relayed.Port))
	number := stun.RawAttribute{Type: stun.AttrChannelNumber, Value: []byte{channel >> 8, channel & 0xff, 0, 0}}
	to := peerAddress{stun.XORMappedAddress{IP: peer.Addr().AsSlice(), Port: int(peer.Port())}}
	answer, err = c.ask(stun.MethodChannelBind, append([]stun.Setter{number, to}, c.signed...)...)
	if err == nil && answer.Type.Class != stun.ClassSuccessResponse {
		err = fmt.Errorf("ChannelBind: %s", answer)
	}
	return err
}

type peerAddress struct{ stun.XORMappedAddress }

func (a peerAddress) AddTo(m *stun.Message) error { return a.AddToAs(m, stun.AttrXORPeerAddress) }

// ask sends a request and waits for its answer.
func (c *client) ask(method stun.Method, attributes ...stun.Setter) (*stun.Message, error) {
	request, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attributes...)...)
	if err != nil {
		return nil, err
	}
	if _, err := c.conn.Write(request.Raw); err != nil {
		return nil, err
	}
	for {
		frame, err := c.read()
		if err != nil {
			return nil, fmt.Errorf("%s: %w", method, err)
		}
		answer := &stun.Message{Raw: append([]byte(nil), frame...)}
		if frame[0]&0xc0 == 0 && answer.Decode() == nil && answer.TransactionID == request.TransactionID {
			return answer, nil
		}
	}
}

// read returns the next message, which is good until the one after it is read.
func (c *client) read() ([]byte, error) {
	if !c.stream {
		if cap(c.out) < 4096 {
			c.out = make([]byte, 4096)
		}
		n, err := c.conn.Read(c.out[:4096])
		return c.out[:n], err
	}
	head, err := c.in.Peek(channelHead)
	if err != nil {
		return nil, err
	}
	size := channelHead + int(binary.BigEndian.Uint16(head[2:]))
	if head[0]&0xc0 == 0 {
		size += stunHead - channelHead
	}
	whole := (size + 3) &^ 3
	frame, err := c.in.Peek(whole)
	if err != nil {
		return nil, err
	}
	_, err = c.in.Discard(whole)
	return frame[:size], err
}

// packet begins a ChannelData message of size bytes of data; its data is to be filled in.
func packet(buf []byte, size int) (frame, data []byte) {
	binary.BigEndian.PutUint16(buf, channel)
	binary.BigEndian.PutUint16(buf[2:], uint16(size))
	return buf[:channelHead+(size+3)&^3], buf[channelHead : channelHead+size]
}

// dataOf is the data in ChannelData; nil: it is another message.
func dataOf(frame []byte) []byte {
	if frame[0]&0xc0 != 0x40 {
		return nil
	}
	return frame[channelHead:]
}

func closeAll[T io.Closer](list []T) {
	for _, c := range list {
		_ = c.Close()
	}
}

// Close gives the allocation back, as browsers do, and closes. Without that the region behind a gateway keeps it for ten minutes, and
// refuses whoever gets the gateway's port next (437).
func (c *client) Close() error {
	var err error
	c.once.Do(func() {
		none := stun.RawAttribute{Type: stun.AttrLifetime, Value: make([]byte, 4)}
		refresh := append([]stun.Setter{stun.TransactionID, stun.NewType(stun.MethodRefresh, stun.ClassRequest), none}, c.signed...)
		if m, failed := stun.Build(refresh...); failed == nil {
			if c.cork != nil {
				c.cork.on = false
			}
			_, _ = c.conn.Write(m.Raw)
			time.Sleep(time.Millisecond)
		}
		err = c.conn.Close()
	})
	return err
}

// reason is why a request was refused.
func reason(answer *stun.Message) string {
	var code stun.ErrorCodeAttribute
	if code.GetFrom(answer) != nil {
		return "(no reason)"
	}
	return code.String()
}

package e2e

import (
	"crypto/hmac"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"
	"time"
)

// STUN by hand: what is sent here no library would write.
const (
	typeBinding          = 0x0001
	typeAllocate         = 0x0003
	typeRefresh          = 0x0004
	typeSend             = 0x0016
	typeCreatePermission = 0x0008
	typeChannelBind      = 0x0009

	attrUsername  = 0x0006
	attrIntegrity = 0x0008
	attrError     = 0x0009
	attrChannel   = 0x000c
	attrPeer      = 0x0012
	attrData      = 0x0013
	attrRealm     = 0x0014
	attrNonce     = 0x0015
	attrRelayed   = 0x0016
	attrTransport = 0x0019
	attrFamily    = 0x0017
	attrLifetime  = 0x000d
	attrMapped    = 0x0020
)

var magicCookie = []byte{0x21, 0x12, 0xa4, 0x42}

// attr is one attribute with its padding.
func attr(typ uint16, value []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = binary.BigEndian.AppendUint16(b, uint16(len(value)))
	b = append(b, value...)
	return append(b, make([]byte, (4-len(value)%4)%4)...)
}

// stunMessage puts a header with a fresh transaction id before attributes.
func stunMessage(typ uint16, attrs ...[]byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, typ)
	b = append(b, 0, 0)
	b = append(b, magicCookie...)
	id := make([]byte, 12)
	_, _ = rand.Read(id)
	b = append(b, id...)
	for _, a := range attrs {
		b = append(b, a...)
	}
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20))
	return b
}

// rawHead is a STUN header that announces any length.
func rawHead(typ, length uint16) []byte {
	b := stunMessage(typ)
	binary.BigEndian.PutUint16(b[2:], length)
	return b
}

// xorPeer is an XOR-PEER-ADDRESS.
func xorPeer(ap netip.AddrPort, id []byte) []byte {
	v := []byte{0, 1}
	if ap.Addr().Is6() {
		v[1] = 2
	}
	v = binary.BigEndian.AppendUint16(v, ap.Port()^0x2112)
	mask := append(append([]byte(nil), magicCookie...), id...)
	for i, c := range ap.Addr().AsSlice() {
		v = append(v, c^mask[i])
	}
	return attr(attrPeer, v)
}

// turnClient speaks TURN with the gateway over a stream or a datagram socket.
type turnClient struct {
	conn               net.Conn
	datagram           bool
	username, password string
	realm, nonce       string
	relayed            netip.AddrPort
}

// restCredentials are time-limited ones of the region's secret.
func restCredentials(who string) (username, password string) {
	username = fmt.Sprintf("%d:%s", time.Now().Add(time.Hour).Unix(), who)
	return username, restPassword(relaySecret, username)
}

// read reads one message or ChannelData.
func (c *turnClient) read(patience time.Duration) ([]byte, error) {
	_ = c.conn.SetReadDeadline(time.Now().Add(unhurried(patience)))
	if c.datagram {
		buf := make([]byte, 4096)
		n, err := c.conn.Read(buf)
		return buf[:n], err
	}
	head := make([]byte, 4)
	if _, err := io.ReadFull(c.conn, head); err != nil {
		return nil, err
	}
	rest := int(binary.BigEndian.Uint16(head[2:]))
	if head[0]&0xc0 == 0 {
		rest += 16
	} else {
		rest = (rest + 3) &^ 3
	}
	b := append(head, make([]byte, rest)...)
	_, err := io.ReadFull(c.conn, b[4:])
	return b, err
}

// ask sends a request and returns its answer.
func (c *turnClient) ask(msg []byte) ([]byte, error) {
	for range 3 {
		if _, err := c.conn.Write(msg); err != nil {
			return nil, err
		}
		for until := time.Now().Add(3 * time.Second); time.Now().Before(until); {
			b, err := c.read(time.Until(until))
			if err != nil && c.datagram {
				break
			}
			if err != nil {
				return nil, err
			}
			if len(b) >= 20 && string(b[8:20]) == string(msg[8:20]) {
				return b, nil
			}
		}
	}
	return nil, fmt.Errorf("no answer to %x", msg[:2])
}

// find is the value of an attribute.
func find(msg []byte, typ uint16) []byte {
	for b := msg[20:]; len(b) >= 4; {
		n := int(binary.BigEndian.Uint16(b[2:]))
		if 4+n > len(b) {
			return nil
		}
		if binary.BigEndian.Uint16(b) == typ {
			return b[4 : 4+n]
		}
		b = b[min(len(b), 4+(n+3)&^3):]
	}
	return nil
}

// stunCode is the code of an error answer; 0 for a success.
func stunCode(msg []byte) int {
	if len(msg) < 20 || msg[0]&1 == 0 || msg[1]&0x10 == 0 {
		return 0
	}
	if v := find(msg, attrError); len(v) >= 4 {
		return int(v[2])*100 + int(v[3])
	}
	return -1
}

// signed makes a request with the client's long-term credentials.
func (c *turnClient) signed(typ uint16, attrs ...[]byte) []byte {
	attrs = append(attrs, attr(attrUsername, []byte(c.username)), attr(attrRealm, []byte(c.realm)), attr(attrNonce, []byte(c.nonce)))
	return c.sign(stunMessage(typ, attrs...))
}

func (c *turnClient) sign(b []byte) []byte {
	binary.BigEndian.PutUint16(b[2:], uint16(len(b)-20+24))
	key := md5.Sum([]byte(c.username + ":" + c.realm + ":" + c.password))
	mac := hmac.New(sha1.New, key[:])
	mac.Write(b)
	return append(b, attr(attrIntegrity, mac.Sum(nil))...)
}

var udpTransport = attr(attrTransport, []byte{17, 0, 0, 0})

// challenge asks without credentials, and keeps realm and nonce.
func (c *turnClient) challenge() error {
	answer, err := c.ask(stunMessage(typeAllocate, udpTransport))
	if err != nil {
		return err
	}
	if code := stunCode(answer); code != 401 {
		return fmt.Errorf("a bare Allocate was answered %d", code)
	}
	c.realm, c.nonce = string(find(answer, attrRealm)), string(find(answer, attrNonce))
	return nil
}

// allocate wins an allocation, or returns the code of the refusal.
func (c *turnClient) allocate(attrs ...[]byte) (int, error) {
	if err := c.challenge(); err != nil {
		return 0, err
	}
	return c.allocateSigned(attrs...)
}

// allocateSigned does so with the nonce at hand.
func (c *turnClient) allocateSigned(attrs ...[]byte) (int, error) {
	answer, err := c.ask(c.signed(typeAllocate, append([][]byte{udpTransport}, attrs...)...))
	if err != nil {
		return 0, err
	}
	if v := find(answer, attrRelayed); len(v) == 8 || len(v) == 20 {
		mask := append(append([]byte(nil), magicCookie...), answer[8:20]...)
		ip := make([]byte, len(v)-4)
		for i := range ip {
			ip[i] = v[4+i] ^ mask[i]
		}
		addr, _ := netip.AddrFromSlice(ip)
		c.relayed = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(v[2:])^0x2112)
	}
	return stunCode(answer), nil
}

// permit asks for a permission and returns the code of the answer.
func (c *turnClient) permit(t testing.TB, peers ...netip.AddrPort) int {
	t.Helper()
	msg := stunMessage(typeCreatePermission)
	for _, p := range peers {
		msg = append(msg, xorPeer(p, msg[8:20])...)
	}
	for _, a := range [][]byte{attr(attrUsername, []byte(c.username)), attr(attrRealm, []byte(c.realm)), attr(attrNonce, []byte(c.nonce))} {
		msg = append(msg, a...)
	}
	answer, err := c.ask(c.sign(msg))
	must(t, err)
	return stunCode(answer)
}

// bind asks for a channel and returns the code of the answer.
func (c *turnClient) bind(t testing.TB, number uint16, peer netip.AddrPort) int {
	t.Helper()
	msg := stunMessage(typeChannelBind, attr(attrChannel, []byte{byte(number >> 8), byte(number), 0, 0}))
	msg = append(msg, xorPeer(peer, msg[8:20])...)
	for _, a := range [][]byte{attr(attrUsername, []byte(c.username)), attr(attrRealm, []byte(c.realm)), attr(attrNonce, []byte(c.nonce))} {
		msg = append(msg, a...)
	}
	answer, err := c.ask(c.sign(msg))
	must(t, err)
	return stunCode(answer)
}

// newTURN is a client with credentials of the region.
func newTURN(conn net.Conn, datagram bool) *turnClient {
	c := &turnClient{conn: conn, datagram: datagram}
	c.username, c.password = restCredentials("abuse")
	return c
}

func channelData(number uint16, data []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, number)
	b = binary.BigEndian.AppendUint16(b, uint16(len(data)))
	b = append(b, data...)
	return append(b, make([]byte, (4-len(data)%4)%4)...)
}

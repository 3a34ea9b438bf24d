package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"

	"github.com/pion/stun/v2"
	cloudstun "github.com/pion/stun/v3"
	"github.com/pion/turn/v4"
)

// cloudAddress is one relayed address: an allocation at a region.
type cloudAddress struct {
	relay              *cloudRelay
	allocation         *allocation
	up                 *upstream
	client             *turn.Client
	username, password string

	conn      net.PacketConn // pion's side of the allocation; nil until there is one
	announced netip.AddrPort
	key       cloudstun.MessageIntegrity

	mu    sync.Mutex
	nonce cloudstun.Nonce           // the newest of the region's
	code  int                       // of its latest refusal of an Allocate
	asked map[uint16]netip.AddrPort // channels that are being bound
}

func (c *cloudAddress) allocate() error {
	conn, err := c.client.Allocate()
	if err != nil {
		return err
	}
	at, ok := conn.LocalAddr().(*net.UDPAddr)
	if !ok || !at.AddrPort().IsValid() {
		_ = conn.Close()
		return fmt.Errorf("a relayed address that is none: %v", conn.LocalAddr())
	}
	c.conn = conn
	c.announced = netip.AddrPortFrom(at.AddrPort().Addr().Unmap(), at.AddrPort().Port())
	c.key = cloudstun.NewLongTermIntegrity(c.username, c.client.Realm().String(), c.password)
	return nil
}

func (c *cloudAddress) address() netip.AddrPort { return c.announced }

// permit asks the region first: when the client hears of its permission, or channel, its first packet passes.
func (c *cloudAddress) permit(peers []netip.AddrPort, number uint16, then func(error)) {
	c.binding(number, peers[0])
	asked := func() {
		err := c.ask(peers, number)
		then(err)
		c.bound(number)
		// What the client holds is worth nothing any more. It has been told, and now loses it.
		if refusal := (*turnError)(nil); errors.As(err, &refusal) && refusal.code == codeAllocationMismatch {
			c.lose(&failure{"err_upstream", errForgotten})
		}
	}
	if !c.relay.begin(asked) {
		then(errCloudClosing)
	}
}

// binding notes a channel that the region is asked for. Between its binding there and ours here packets may come on it already.
func (c *cloudAddress) binding(number uint16, peer netip.AddrPort) {
	if number == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.asked == nil {
		c.asked = make(map[uint16]netip.AddrPort)
	}
	c.asked[number] = peer
}

func (c *cloudAddress) bound(number uint16) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.asked, number)
}

func (c *cloudAddress) askedFor(number uint16) (netip.AddrPort, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	peer, ok := c.asked[number]
	return peer, ok
}

func (c *cloudAddress) ask(peers []netip.AddrPort, number uint16) error {
	method, attrs := cloudstun.MethodCreatePermission, []cloudstun.Setter{cloudstun.TransactionID}
	if number != 0 {
		method = cloudstun.MethodChannelBind // it makes the permission as well
		attrs = append(attrs, cloudstun.RawAttribute{Type: cloudstun.AttrChannelNumber, Value: []byte{byte(number >> 8), byte(number), 0, 0}})
	}
	for _, peer := range peers {
		attrs = append(attrs, cloudPeer(peer))
	}
	for try := 1; ; try++ {
		err := c.transact(method, attrs)
		var refused *cloudstun.TurnError
		if !errors.As(err, &refused) {
			return err
		}
		switch code := int(refused.ErrorCodeAttr.Code); {
		case code == codeStaleNonce && try < cloudTries:
			continue
		case code == codeAllocationMismatch || code == codeBadRequest && number == 0:
			// It has forgotten the allocation: restarted, or out of time. (coturn says 400; there is nothing else wrong with a
			// CreatePermission of ours.)
			return &turnError{code: codeAllocationMismatch, why: errForgotten.Error()}
		}
		return cloudRefusal(err)
	}
}

// transact sends one signed request and waits for its answer.
func (c *cloudAddress) transact(method cloudstun.Method, attrs []cloudstun.Setter) error {
	c.mu.Lock()
	nonce := c.nonce
	c.mu.Unlock()
	setters := append([]cloudstun.Setter{cloudstun.NewType(method, cloudstun.ClassRequest)}, attrs...)
	setters = append(setters, cloudstun.NewUsername(c.username), c.client.Realm(), nonce, c.key, cloudstun.Fingerprint)
	request, err := cloudstun.Build(setters...)
	if err != nil {
		return err
	}
	result, err := c.client.PerformTransaction(request, c.client.TURNServerAddr(), false)
	if err != nil || result.Msg.Type.Class == cloudstun.ClassSuccessResponse {
		return err
	}
	refused := &cloudstun.TurnError{StunMessageType: result.Msg.Type}
	if err := refused.ErrorCodeAttr.GetFrom(result.Msg); err != nil {
		return err
	}
	return refused
}

// cloudPeer is XOR-PEER-ADDRESS, which is masked with the transaction of the message it goes into.
type cloudPeer netip.AddrPort

// AddTo implements cloudstun.Setter.
func (p cloudPeer) AddTo(m *cloudstun.Message) error {
	value := appendXORAddress(nil, stun.AttrXORPeerAddress, netip.AddrPort(p), m.TransactionID)
	m.Add(cloudstun.AttrXORPeerAddress, value[attrHeaderSize:])
	return nil
}

func (c *cloudAddress) send(peer netip.AddrPort, number uint16, data []byte) {
	if len(data) > maxPeerPacket {
		c.allocation.tuple.engine.metrics.refused("too_long")
		return
	}
	buf := c.relay.buffers.get()
	*buf = append((*buf)[:headroom], data...)
	if number != 0 {
		c.up.post(frameChannelData(*buf, number))
	} else {
		c.up.post(frameIndication(*buf, stun.MethodSend, peer))
	}
	c.relay.buffers.put(buf)
}

// over is told that the uplink has ended.
func (c *cloudAddress) over(err error) {
	c.lose(&failure{"err_upstream", fmt.Errorf("the uplink ended: %w", err)})
}

// fromRegion takes what the region sends: data to the client, answers to pion's client.
func (c *cloudAddress) fromRegion(msgs [][]byte) {
	for _, msg := range msgs {
		switch {
		case isChannelData(msg):
			c.channelData(msg)
		case messageType(msg) == typeDataIndication:
			c.data(msg)
		case messageType(msg)&classSuccess != 0:
			c.answer(msg)
		}
	}
}

func (c *cloudAddress) channelData(msg []byte) {
	if peer, early := c.askedFor(binary.BigEndian.Uint16(msg)); early {
		c.deliver(peer, msg[channelHeaderSize:])
		return
	}
	c.allocation.forward(msg)
}

func (c *cloudAddress) data(msg []byte) {
	peer, ok := xorAddress(attribute(msg, stun.AttrXORPeerAddress), transactionOf(msg))
	data := attribute(msg, stun.AttrData)
	if !ok || data == nil {
		c.allocation.tuple.engine.metrics.refused("malformed")
		return
	}
	c.deliver(peer, data)
}

func (c *cloudAddress) deliver(peer netip.AddrPort, data []byte) {
	buf := c.relay.buffers.get()
	*buf = append((*buf)[:headroom], data...)
	c.allocation.deliver(peer, *buf)
	c.relay.buffers.put(buf)
}

const refreshError = 0x0114

func (c *cloudAddress) answer(msg []byte) {
	if nonce := attribute(msg, stun.AttrNonce); nonce != nil {
		c.mu.Lock()
		c.nonce = append(cloudstun.Nonce(nil), nonce...)
		c.mu.Unlock()
	}
	if messageType(msg) == allocateError {
		c.mu.Lock()
		c.code = errorCode(msg)
		c.mu.Unlock()
	}
	if messageType(msg) == refreshError && errorCode(msg) == codeAllocationMismatch {
		c.lose(&failure{"err_upstream", errForgotten})
	}
	// What pion makes of it is an answer to whoever waits; what it can't make sense of is nobody's.
	_, _ = c.client.HandleInbound(msg, c.client.TURNServerAddr())
}

// refusedWith is the code with which the region last refused an Allocate; pion's client makes something else of a refusal without a
// nonce.
func (c *cloudAddress) refusedWith() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.code
}

// countUp has nothing to count: the client's session did, when it handed the packets over.
func (c *cloudAddress) countUp(int, int) {}

func (c *cloudAddress) regionLost(err error) { c.lose(&failure{"err_upstream", err}) }

// lose ends the allocation because the region, or the way there, is lost. It may be called by the region's watch and from within
// the uplink's reading, so the work is done beside.
func (c *cloudAddress) lose(cause error) {
	c.relay.begin(func() {
		c.client.Close() // if it is still being made, that fails
		if a := c.allocation.tuple.allocation.Load(); a == c.allocation && a.relayed == relayed(c) {
			a.tuple.engine.lose(a, cause)
		}
	})
}

// close gives the allocation back (RFC 8656 section 8.1: a Refresh with lifetime 0, whose answer nobody waits for).
func (c *cloudAddress) close() {
	if c.conn != nil {
		_ = c.conn.Close()
	}
	c.client.Close()
	c.up.close()
}

package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v2"
	cloudstun "github.com/pion/stun/v3"
	"github.com/pion/turn/v4"
)

const (
	// cloudAllocateTimeout bounds an Allocate at a region, the way there included. Browsers give up soon after.
	cloudAllocateTimeout = 10 * time.Second
	// streamRTO is when pion repeats a request to a region on a stream: not before it has been given up. A stream loses nothing.
	streamRTO = 10 * time.Second
	// cloudTries is how often a request is signed anew for a stale nonce.
	cloudTries = 3
	// evenTries is how many allocations are made for an even port. No browser asks for one.
	evenTries = 8
)

// cloudRelay is the backend of mode terminate: every relayed address is an allocation that the gateway makes at a region, with
// credentials that no client sees.
//
// pion's turn.Client makes the allocation, keeps it alive and runs the transactions. Data does not pass through it: the channel
// that a client binds is bound at the region under the same number, so ChannelData passes both ways as it came.
type cloudRelay struct {
	server   *Server
	accounts map[string]*cloudAccount // by service
	quiet    logging.LoggerFactory
	buffers  packetBuffers
	sends    sync.Pool

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func newCloudRelay(s *Server) (*cloudRelay, error) {
	r := &cloudRelay{server: s, accounts: make(map[string]*cloudAccount)}
	for i := range s.config.Services {
		c := &s.config.Services[i]
		account, err := newCloudAccount(c, s)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", c.Name, err)
		}
		r.accounts[c.Name] = account
	}
	r.quiet = &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	r.sends.New = func() any { return new(oneFrame) }
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// begin runs f beside; false: the relay is closed.
func (r *cloudRelay) begin(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(f)
	return true
}

func (r *cloudRelay) sweep(time.Time) {}

func (r *cloudRelay) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

var errForgotten = errors.New("the region has forgotten the allocation")

var errCloudClosing = &turnError{code: codeInsufficientCapacity, why: "the gateway is closing"}

// allocate makes an allocation at the region, beside: a slow region delays nobody else.
func (r *cloudRelay) allocate(a *allocation, want wanted, then func(relayed, error)) {
	switch {
	case want.family == familyIPv6:
		then(nil, &turnError{code: codeAddressFamily, why: "regions are asked for IPv4"})
	case want.andNext || want.reservation != nil:
		then(nil, &turnError{code: codeInsufficientCapacity, why: "regions keep no ports for us"})
	case !r.begin(func() {
		if got, err := r.open(a, want); err != nil {
			then(nil, err)
		} else {
			then(got, nil)
		}
	}):
		then(nil, errCloudClosing)
	}
}

// open asks for an allocation. pion's client can't ask for an even port; so where one is wanted, it is asked for until the port
// happens to be even.
func (r *cloudRelay) open(a *allocation, want wanted) (*cloudAddress, error) {
	ctx, cancel := context.WithTimeout(r.ctx, cloudAllocateTimeout)
	defer cancel()
	for range evenTries {
		c, err := r.openAny(ctx, a)
		if err != nil || !want.evenPort || c.announced.Port()%2 == 0 {
			return c, err
		}
		c.close()
	}
	return nil, &turnError{code: codeInsufficientCapacity, why: "the region gives no even port"}
}

func (r *cloudRelay) openAny(ctx context.Context, a *allocation) (*cloudAddress, error) {
	service := r.server.regions.serviceNamed(a.tuple.client.Service)
	if service == nil || r.accounts[service.name] == nil {
		return nil, &turnError{code: codeServerError, why: fmt.Sprintf("there is no service %q", a.tuple.client.Service)}
	}
	username, password, err := r.accounts[service.name].get(ctx)
	if err != nil {
		return nil, &turnError{code: codeServerError, why: err.Error()}
	}
	link, err := r.server.openUplinkFor(ctx, a.tuple.client)
	if err != nil {
		return nil, &turnError{code: codeInsufficientCapacity, why: err.Error()}
	}
	c, err := r.connect(a, link, username, password)
	if err != nil {
		_ = link.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, c.client.Close) // ends the transaction under way
	err = c.allocate()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.close()
		return nil, cloudRefusal(err)
	}
	return c, nil
}

// cloudServer stands for the region in pion's client. Its uplink has one other end, and nobody looks at the address.
const cloudServer = "192.0.2.1:3478"

func (r *cloudRelay) connect(a *allocation, link *uplink, username, password string) (*cloudAddress, error) {
	c := &cloudAddress{relay: r, allocation: a, username: username, password: password}
	var err error
	if c.up, err = newUpstream(r.server, c, link); err != nil {
		return nil, err
	}
	config := &turn.ClientConfig{
		TURNServerAddr: cloudServer, Conn: &cloudConn{up: c.up}, LoggerFactory: r.quiet,
		Username: username, Password: password,
	}
	if !link.datagram {
		config.RTO = streamRTO
	}
	if c.client, err = turn.NewClient(config); err != nil {
		return nil, err
	}
	if !r.begin(c.receive) {
		return nil, errCloudClosing
	}
	link.whenDead(c.lose)
	return c, nil
}

// cloudRefusal is what a client is told for what a region, or the way there, said to us.
func cloudRefusal(err error) error {
	var refused *cloudstun.TurnError
	var ours *turnError
	switch {
	case errors.As(err, &ours):
		return ours
	case !errors.As(err, &refused):
		return &turnError{code: codeServerError, why: "the region: " + err.Error()}
	}
	code := codeServerError // 401 and 441 among them: it is our credential that is wrong, not the client's
	switch int(refused.ErrorCodeAttr.Code) {
	case codeForbidden:
		code = codeForbidden
	case codePeerAddressFamily:
		code = codePeerAddressFamily
	case codeAllocationMismatch:
		code = codeAllocationMismatch
	case codeAllocationQuota, codeInsufficientCapacity:
		code = codeInsufficientCapacity
	}
	return &turnError{code: code, why: fmt.Sprintf("the region: %d %s", refused.ErrorCodeAttr.Code, refused.ErrorCodeAttr.Reason)}
}

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
	if !c.relay.begin(func() { then(c.ask(peers, number)); c.bound(number) }) {
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
			c.lose(&failure{"err_upstream", errForgotten})
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

// oneFrame is what sending one message needs, pooled.
type oneFrame struct{ msg [1][]byte }

func (c *cloudAddress) send(peer netip.AddrPort, number uint16, data []byte) {
	if len(data) > maxPeerPacket {
		c.allocation.tuple.engine.metrics.refused("too_long")
		return
	}
	buf := c.relay.buffers.get()
	one := c.relay.sends.Get().(*oneFrame)
	*buf = append((*buf)[:headroom], data...)
	if number != 0 {
		one.msg[0] = frameChannelData(*buf, number)
	} else {
		one.msg[0] = frameIndication(*buf, stun.MethodSend, peer)
	}
	// A datagram that can't be sent is lost, as datagrams are; whether the region is, its probes find out.
	if err := c.up.send(one.msg[:]); err != nil {
		c.up.suspect()
	}
	one.msg[0] = nil
	c.relay.sends.Put(one)
	c.relay.buffers.put(buf)
}

// receive reads what the region sends until the uplink ends.
func (c *cloudAddress) receive() {
	err := c.up.receive()
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
	if messageType(msg) == refreshError && errorCode(msg) == codeAllocationMismatch {
		c.lose(&failure{"err_upstream", errForgotten})
	}
	// What pion makes of it is an answer to whoever waits; what it can't make sense of is nobody's.
	_, _ = c.client.HandleInbound(msg, c.client.TURNServerAddr())
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

// cloudConn is an uplink as pion's client wants it. It is written to only: what is read comes through fromRegion.
type cloudConn struct{ up *upstream }

func (c *cloudConn) WriteTo(p []byte, _ net.Addr) (int, error) {
	if err := c.up.send([][]byte{p}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *cloudConn) ReadFrom([]byte) (int, net.Addr, error) { return 0, nil, errors.ErrUnsupported }
func (c *cloudConn) Close() error                           { return nil }
func (c *cloudConn) LocalAddr() net.Addr                    { return c.up.LocalAddr() }
func (c *cloudConn) SetDeadline(time.Time) error            { return nil }
func (c *cloudConn) SetReadDeadline(time.Time) error        { return nil }
func (c *cloudConn) SetWriteDeadline(time.Time) error       { return nil }

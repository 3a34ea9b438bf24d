package relay

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/pion/stun/v2"
)

const (
	// VerifyTimeout is how long a UDP five-tuple has for winning an allocation. It may be an invention, so it gets less time than
	// a stream: a challenge, a signed request and its answer.
	VerifyTimeout = 10 * time.Second
	// listenerBuffer is what the kernel may keep for a socket that all UDP clients share; it gives what its own limits allow.
	listenerBuffer = 4 << 20
)

// ServePacket carries the clients that send STUN and TURN to pc, until ctx ends or the server is closed. It owns pc, and closes it at
// once: the socket lives on in a loop until ServePacket returns, and who wants it for another process takes a File of pc before (see
// Release). Answers leave from the address that was asked.
func (s *Server) ServePacket(ctx context.Context, pc *net.UDPConn) error {
	if !s.enter() {
		_ = pc.Close()
		return errClosing
	}
	defer s.wg.Done()
	defer pc.Close()
	loop, err := s.loops.pick()
	if err != nil {
		return errClosing
	}
	l, err := newListener(s, loop, pc)
	if err != nil {
		return err
	}
	defer l.socket.close()
	s.addListener(pc, l)
	defer s.removeListener(pc)
	if err := loop.watch(l.socket.descriptor); err != nil {
		return err
	}
	select {
	case <-ctx.Done():
	case <-s.ctx.Done():
	case <-l.empty:
	}
	for _, ses := range l.all() {
		ses.end(errClosing)
	}
	return nil
}

// tuple is what tells UDP clients apart: a client's address and port, and the address of ours that it asked.
type tuple struct {
	client netip.AddrPort
	local  netip.Addr
}

// listener is one UDP socket and its clients.
type listener struct {
	server *Server
	socket *datagrams
	port   uint16

	mu       sync.Mutex
	clients  map[tuple]*packetClient
	released bool          // another process reads the socket: see release.go
	empty    chan struct{} // closed when it is released and has no clients any more
}

// inbox is a socket that is read: the listener's or, once that is released, one of a client's own.
type inbox struct {
	*listener
	socket *datagrams
	only   *packetClient // nil: anybody

	run     [][]byte // messages of one client, in a row
	runFrom *packetClient
	served  *packetClient // whose datagram is looked at now
}

func newListener(s *Server, on *loop, pc *net.UDPConn) (*listener, error) {
	_ = pc.SetReadBuffer(listenerBuffer)
	l := &listener{server: s, clients: make(map[tuple]*packetClient), empty: make(chan struct{})}
	if a, ok := pc.LocalAddr().(*net.UDPAddr); ok {
		l.port = uint16(a.Port)
	}
	in := &inbox{listener: l}
	d, err := on.adopt(pc, in)
	if err != nil {
		return nil, fmt.Errorf("the socket: %w", err)
	}
	l.socket = &datagrams{descriptor: d}
	in.socket = l.socket
	if err := wantPacketInfo(d.fd); err != nil {
		d.close()
		return nil, fmt.Errorf("the socket can't tell which address was asked: %w", err)
	}
	return l, nil
}

// ready implements pollable. An error is one of a datagram sent before, reported late: a listener never ends for one.
func (l *inbox) ready(bool, bool) {
	batch := l.socket.loop.addressed
	msgs, err := batch.receive(l.socket)
	if err != nil {
		return
	}
	now := l.server.now()
	for i, msg := range msgs {
		l.datagram(batch, i, msg, now)
	}
	l.flush()
}

// datagram takes one datagram to its client.
func (l *inbox) datagram(batch *addressedBatch, i int, msg []byte, now time.Time) {
	t, ok := batch.tuple(i)
	if l.only != nil { // the kernel may have put others' datagrams here before the socket was connected
		ok = t.client == l.only.tuple.client
		t.local = l.only.tuple.local
	}
	if msg = trimmed(msg); msg == nil || !ok {
		l.ignore("not_turn")
		return
	}
	c := l.find(t)
	l.served = c
	if c != nil && c.session.passes(msg) {
		if l.runFrom != c {
			l.flush()
			l.runFrom = c
		}
		l.run = append(l.run, msg)
		return
	}
	l.flush()
	if isChannelData(msg) || messageType(msg)&classMask != classRequest {
		if c == nil {
			l.ignore("no_allocation")
		}
		return
	}
	if c != nil && c.verified() {
		c.session.message(msg)
		return
	}
	proven := l.proves(c, t, msg, now)
	if proven && c != nil {
		proven = c.proof.give()
	}
	if !proven && !l.server.strangers.allows(t.client.Addr(), now) {
		l.ignore("budget")
		return
	}
	if c == nil {
		if c = l.stranger(t, batch, i, msg, now); c == nil {
			return
		}
		if proven {
			c.proof.give()
		}
	}
	c.session.message(msg)
}

// proves tells whether an Allocate shows by its nonce that its sender receives what is sent to it: the nonce is the gateway's own,
// made for this five-tuple, or the one that a region sent to it.
func (l *listener) proves(c *packetClient, t tuple, msg []byte, now time.Time) bool {
	if messageType(msg) != allocateRequest {
		return false
	}
	nonce := attribute(msg, stun.AttrNonce)
	switch {
	case nonce == nil:
		return false
	case l.server.answersItself():
		return l.server.engine.nonces.valid(nonce, now, t.client, false)
	}
	return c != nil && c.proof.knows(nonce)
}

const allocateRequest = 0x0003

// flush sends the run of messages of one client.
func (l *inbox) flush() {
	if len(l.run) > 0 {
		l.served = l.runFrom
		l.served.session.fromClient(l.run)
		clear(l.run)
		l.run = l.run[:0]
	}
	l.runFrom = nil
}

// broke implements guest. It ends the client whose datagram it was; the others that came with it are lost, as datagrams are.
func (l *inbox) broke(defect error) {
	clear(l.run)
	l.run, l.runFrom = l.run[:0], nil
	if c := l.served; c != nil {
		c.session.endSoon(defect)
	}
}

func (l *listener) ignore(why string) { l.server.metrics.ignored.WithLabelValues(why).Inc() }

// stranger takes a request of a client that has no session. Only an Allocate begins one.
func (l *inbox) stranger(t tuple, batch *addressedBatch, i int, msg []byte, now time.Time) *packetClient {
	if err := l.server.admit(t.client.Addr()); err != nil {
		l.ignore("not_admitted")
		return nil
	}
	var m message
	if m.parse(msg) != nil {
		l.ignore("not_turn")
		return nil
	}
	c := l.newClient(t, batch, i)
	l.served = c
	switch {
	case l.server.answersItself() && (m.method != stun.MethodAllocate || !m.signed()):
		// A challenge of the gateway's own needs no memory of whom it went to: its nonce says so.
		c.session.message(msg)
		return nil
	case m.method != stun.MethodAllocate:
		c.session.stray(&m) // it is answered, and forgotten
		return nil
	}
	if !l.keep(c) {
		l.ignore("full")
		return nil
	}
	c.session.mu.Lock()
	c.session.deadline = now.Add(VerifyTimeout)
	c.session.mu.Unlock()
	l.server.begin(c.session)
	return c
}

func (l *listener) newClient(t tuple, batch *addressedBatch, i int) *packetClient {
	c := &packetClient{listener: l, tuple: t}
	c.to.back(batch, i)
	c.session = l.server.newSession(Client{
		Addr: t.client, Local: net.UDPAddrFromAddrPort(netip.AddrPortFrom(t.local, l.port)), Via: "udp", Established: c.verify, loop: l.socket.loop,
	})
	c.session.leg = c
	return c
}

// keep takes a client into the table if there is room for one more that has proved nothing.
func (l *listener) keep(c *packetClient) bool {
	l.mu.Lock()
	l.clients[c.tuple] = c // before anybody can oust it
	l.mu.Unlock()
	ousted, ok := l.server.strangers.welcome(c)
	if !ok {
		c.close()
	}
	if ousted != nil {
		ousted.session.end(errOusted)
	}
	return ok
}

func (l *listener) find(t tuple) *packetClient {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clients[t]
}

func (l *listener) all() []*session {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*session, 0, len(l.clients))
	for _, c := range l.clients {
		list = append(list, c.session)
	}
	return list
}

// packetClient is one client of a UDP socket: the leg of its session.
type packetClient struct {
	listener *listener
	tuple    tuple
	to       destination
	session  *session
	proof    proof // while it has no allocation
	known    bool  // in the budget, as verified; the strangers' lock guards it

	own *descriptor // its own socket, once the listener's is released; listener.mu guards it
}

// verified tells whether the client has shown that it receives what is sent to it: an allocation takes a nonce that it was sent.
func (c *packetClient) verified() bool { return c.session.inPhase(phaseAllocated) }

// verify is called when the client has won an allocation.
func (c *packetClient) verify() { c.listener.server.strangers.know(c) }

// deliver sends messages to the client, as far as its socket has room. What a client gets that has proved nothing is counted.
func (c *packetClient) deliver(msgs [][]byte) {
	if !c.verified() {
		kept := msgs[:0]
		for _, msg := range msgs {
			if c.proof.spend() || c.listener.server.strangers.spend(c.tuple.client.Addr(), len(msg), c.listener.server.now()) {
				c.proof.sent(msg)
				kept = append(kept, msg)
			} else {
				c.listener.ignore("budget")
			}
		}
		msgs = kept
	}
	for _, msg := range msgs {
		c.listener.socket.post(msg, &c.to)
	}
}

// soon is deliver: what is delivered waits for the end of the turn anyway.
func (c *packetClient) soon(msg []byte) {
	if c.verified() {
		c.listener.socket.post(msg, &c.to)
		return
	}
	msgs := [1][]byte{msg}
	c.deliver(msgs[:])
}

func (c *packetClient) close() {
	c.listener.server.strangers.forget(c)
	c.listener.mu.Lock()
	defer c.listener.mu.Unlock()
	if c.listener.clients[c.tuple] == c {
		delete(c.listener.clients, c.tuple)
		c.listener.oneLess()
	}
	if c.own != nil {
		c.own.close()
	}
}

// admitConfigured is the admission where nobody else decides.
func (s *Server) admitConfigured(client netip.Addr) error {
	client = client.Unmap()
	for _, p := range s.config().Clients {
		if p.Contains(client) {
			return nil
		}
	}
	return &failure{"err_policy", fmt.Errorf("%s is in no network of clients", client)}
}

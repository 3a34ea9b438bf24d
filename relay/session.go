package relay

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pion/stun/v2"

	"hafen/gateway/defect"
	"hafen/gateway/netpolicy"
)

const (
	// AllocateTimeout is how long a stream client has for winning an allocation, from its first byte or from giving the last
	// one up. It covers the slowest rung's connecting and a few lost packets.
	AllocateTimeout = 30 * time.Second
	// lifetimeGrace is how long after its allocation's end a session is kept: the region's clock began a little earlier than
	// ours, and a Refresh may be under way.
	lifetimeGrace = 10 * time.Second
	// lingerTime is how long a refused client has for reading why.
	lingerTime = time.Second
	// maxHeld is how many messages wait for the uplink: the Allocate, and what a hasty client sends behind it.
	maxHeld = 4
	// clockPeriod is how often the deadlines of all sessions are looked at.
	clockPeriod = 500 * time.Millisecond
	// lifetimeDefault is the lifetime of an allocation whose answer names none (RFC 8656 section 3.2).
	lifetimeDefault = 10 * time.Minute
)

// failure is an end with its status word.
type failure struct {
	word string
	err  error
}

func (f *failure) Error() string  { return f.err.Error() }
func (f *failure) Unwrap() error  { return f.err }
func (f *failure) Status() string { return f.word }

func fail(word, text string) error { return &failure{word, errors.New(text)} }

var (
	errClosing     = fail("err_limit", "the gateway stops")
	errDraining    = fail("err_limit", "the gateway takes no new calls: it is about to stop")
	errStuck       = fail("err_client", "the client takes nothing any more")
	errStuckRegion = fail("err_upstream", "the region takes nothing any more")
	errLate        = fail("err_timeout", "no allocation was won in time")
	errOutlived    = fail("err_timeout", "the allocation expired")
	errHalf        = fail("err_timeout", "the rest of a message did not come")
	errOusted      = fail("err_limit", "a newer stranger needed the place")
	errLeft        = fail("err_client", "the client left before it had an allocation")
)

type phase int32

const (
	phasePending   phase = iota // no allocation yet, or none any more
	phaseAllocated              // media may pass
	phaseLeaving                // refused, and has a moment for reading why
)

func (p phase) String() string { return [...]string{"pending", "allocated", "refused"}[p] }

// leg is a client's side of a session: a stream or a five-tuple of a UDP socket.
type leg interface {
	// deliver sends messages to the client. It copies, never blocks, and may be called from any goroutine.
	deliver(msgs [][]byte)
	// soon is deliver for one message of several: it may go out together with those of the same turn of the loop.
	soon(msg []byte)
	// close ends the leg. It may be called more than once.
	close()
}

// session is one client's leg and what it is bridged to. It is passive: legs feed it whole, valid messages, from one goroutine
// each, and it says where they go. It never waits for anything but a lock of its own.
//
// Until a region has answered an Allocate with success only requests pass. From then on ChannelData and indications pass on the
// short way: fromClient and fromRegion look at their first bytes and at the phase, and at nothing else.
type session struct {
	server  *Server
	client  Client
	leg     leg
	stream  *stream // the client's leg when it is one
	started time.Time
	serial  uint64
	bounds  *bounds // nil: none

	phase atomic.Int32
	up    atomic.Pointer[upstream]
	test  atomic.Pointer[testLeg]
	// unfinished is since when the client owes the rest of a message, in Unix nanoseconds; 0: it does not.
	unfinished atomic.Int64

	bytesUp, bytesDown     atomic.Uint64
	packetsUp, packetsDown atomic.Uint64

	mu          sync.Mutex
	held        [][]byte // waits for the uplink that is being opened
	opening     context.CancelFunc
	requests    retransmitter
	deadline    time.Time
	reserved    bool
	won         bool // had an allocation, now or earlier
	signedID    transactionID
	refusal     error // why a region, or we, refused the client
	ended       bool
	established sync.Once
	over        chan struct{} // closed when the session has ended
}

// testLeg is the test relay's side of a client that it has taken over.
type testLeg struct{ engineSession }

func (s *Server) newSession(c Client) *session {
	now := s.now()
	return &session{server: s, client: c, started: now, deadline: now.Add(AllocateTimeout), bounds: s.newBounds(), over: make(chan struct{})}
}

func (ses *session) inPhase(p phase) bool { return phase(ses.phase.Load()) == p }

// passes tells whether a message of the client needs no looking into: media, and the session has an allocation.
func (ses *session) passes(frame []byte) bool {
	return ses.inPhase(phaseAllocated) && (isChannelData(frame) || messageType(frame) == typeSendIndication)
}

// fromClient sends messages that pass to the region, or hands them to the test relay.
func (ses *session) fromClient(msgs [][]byte) {
	if t := ses.test.Load(); t != nil {
		bytes := 0
		for _, msg := range msgs {
			t.handle(msg)
			bytes += len(msg)
		}
		ses.countUp(len(msgs), bytes)
		return
	}
	up := ses.up.Load()
	if up == nil {
		return
	}
	for _, msg := range msgs {
		defect.Provoke("media", msg)
	}
	if ses.bounds != nil {
		if msgs = ses.bounds.up(msgs, ses.server.now()); len(msgs) == 0 {
			return
		}
	}
	if err := up.send(msgs); errors.Is(err, syscall.ECONNREFUSED) {
		up.suspect()
		ses.endSoon(&failure{"err_upstream", err})
	}
}

// message takes any message that does not pass: requests, and what must not come yet or at all.
func (ses *session) message(frame []byte) {
	defect.Provoke("request", frame)
	if t := ses.own(); t != nil {
		t.handle(frame)
		return
	}
	if ses.inPhase(phaseLeaving) || isChannelData(frame) || messageType(frame)&classMask != classRequest {
		return // RFC 8656 section 12: what belongs to no allocation is discarded, silently
	}
	var m message
	if err := m.parse(frame); err != nil {
		return
	}
	switch {
	case m.method == stun.MethodAllocate:
		ses.allocate(&m)
	case ses.up.Load() != nil && ofAllocation(m.method):
		ses.toRegion(frame)
	default:
		ses.stray(&m)
	}
}

// ofAllocation tells whether a request is about an allocation that exists.
func ofAllocation(m stun.Method) bool {
	return m == stun.MethodRefresh || m == stun.MethodCreatePermission || m == stun.MethodChannelBind
}

// stray answers a request that needs no region.
func (ses *session) stray(m *message) {
	switch {
	case m.method == stun.MethodBinding:
		ses.binding(m)
	case ofAllocation(m.method):
		ses.answer(m, codeAllocationMismatch)
	default: // RFC 6062's Connect and ConnectionBind among them: TCP relaying is off
		ses.answer(m, codeBadRequest)
	}
}

// binding answers a Binding request here. One with MESSAGE-INTEGRITY is the region's to answer, who knows the key.
func (ses *session) binding(m *message) {
	switch {
	case m.signed() && ses.up.Load() != nil:
		ses.toRegion(m.raw)
	case m.signed():
	case len(m.unknown) > 0:
		ses.answer(m, codeUnknownAttribute)
	default:
		if msg, err := bindingAnswer(m, ses.client.Addr); err == nil {
			ses.leg.deliver([][]byte{msg})
		}
	}
}

func (ses *session) answer(m *message, code int) {
	if msg, err := errorAnswer(m, code); err == nil {
		ses.leg.deliver([][]byte{msg})
	}
}

// allocate judges an Allocate before it goes anywhere.
func (ses *session) allocate(m *message) {
	switch {
	case len(m.transport) > 0 && m.transport[0] != protocolUDP:
		ses.answer(m, codeUnsupportedTransport)
	case !m.signed():
		ses.toRegion(m.raw)
	case ses.server.wantsTest(m.raw):
		ses.takeOver(m)
	case ses.server.isDraining():
		ses.refuse(m, codeInsufficientCapacity, errDraining)
	default:
		if err := ses.reserve(m); err != nil {
			ses.refuse(m, err.code, err)
			return
		}
		ses.toRegion(m.raw)
	}
}

// reserve takes a place in the limits for the allocation that a signed request is about to win.
func (ses *session) reserve(m *message) *turnError {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.signedID = transactionID(m.id)
	if ses.reserved || ses.ended {
		return nil
	}
	err := ses.server.table.reserve(ses.client.Addr.Addr())
	ses.reserved = err == nil
	return err
}

// refuse answers with an error for good: the connection is closed as soon as the client can have read it. Browsers give up on
// this relay at once then, and try the next.
func (ses *session) refuse(m *message, code int, why error) {
	ses.answer(m, code)
	ses.leave(why)
}

func (ses *session) leave(why error) {
	if ses.stream == nil {
		ses.end(why)
		return
	}
	ses.mu.Lock()
	ses.refusal = why
	ses.deadline = ses.server.now().Add(lingerTime)
	ses.setPhase(phaseLeaving)
	ses.mu.Unlock()
	ses.stream.closeWrite()
}

// setPhase changes the phase and keeps the count of allocations. The caller has the lock.
func (ses *session) setPhase(p phase) {
	before := phase(ses.phase.Swap(int32(p)))
	switch {
	case before == p:
	case p == phaseAllocated:
		ses.won = true
		ses.server.table.live.Add(1)
	case before == phaseAllocated:
		ses.server.table.live.Add(-1)
	}
}

// own is the gateway's own TURN, when the client is its: a test's, or any client in the modes that bridge none. nil: it is bridged.
func (ses *session) own() *testLeg {
	if t := ses.test.Load(); t != nil || !ses.server.answersItself() {
		return t
	}
	t := &testLeg{ses.server.serveOwn(ses.client, ses.fromTest, ses.endSoon)}
	if !ses.turnTo(t) {
		t.close() // whatever it is handed now is discarded
	}
	return t
}

// turnTo makes t the one who serves the client; false: the session has ended.
func (ses *session) turnTo(t *testLeg) bool {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if !ses.ended {
		ses.test.Store(t)
	}
	return !ses.ended
}

// takeOver gives the client to the test relay. What has gone to a region for it was an Allocate without credentials.
func (ses *session) takeOver(m *message) {
	t := &testLeg{ses.server.serveTest(ses.client, ses.fromTest)}
	ses.mu.Lock()
	if ses.ended {
		ses.mu.Unlock()
		t.close()
		return
	}
	ses.test.Store(t)
	up := ses.up.Swap(nil)
	cancel := ses.opening
	ses.held, ses.requests.list = nil, nil
	ses.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	if up != nil {
		up.close()
	}
	t.handle(m.raw)
}

// fromTest takes one message of the test relay to the client.
func (ses *session) fromTest(msg []byte) {
	if !isChannelData(msg) && messageType(msg)&classSuccess != 0 {
		ses.response(msg)
	}
	ses.countDown(1, len(msg))
	ses.leg.soon(msg)
}

// toRegion sends a request to the region, over an uplink that is opened now if there is none.
func (ses *session) toRegion(request []byte) {
	if ses.note(request) {
		ses.fromClient([][]byte{request})
	}
}

// note remembers or keeps a request; open: it can be sent.
func (ses *session) note(request []byte) (open bool) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	up := ses.up.Load()
	switch {
	case ses.ended:
	case up != nil:
		ses.remember(up, request)
	case len(ses.held) < maxHeld:
		ses.held = append(ses.held, append([]byte(nil), request...))
		if ses.opening == nil {
			ses.open()
		}
	}
	return up != nil
}

// remember has a request retransmitted until it is answered, where nobody else does it: the region gets datagrams, and the client
// has sent it on a stream. The caller has the lock.
func (ses *session) remember(up *upstream, request []byte) {
	if up.datagram && ses.stream != nil {
		ses.requests.add(request, ses.server.now())
	}
}

// open opens the uplink, beside. The caller has the lock.
func (ses *session) open() {
	if !ses.server.enter() {
		return
	}
	ctx, cancel := context.WithCancel(ses.server.ctx)
	ses.opening = cancel
	go func() {
		defer ses.server.wg.Done()
		defer cancel()
		defer ses.server.defects.Catch(ses.endSoon)
		link, err := ses.server.openUplinkFor(ctx, ses.client)
		if err != nil {
			ses.notOpened(err)
			return
		}
		up, err := newUpstream(ses.server, ses.client.loop, ses, link)
		if err != nil {
			_ = link.Close()
			ses.notOpened(err)
			return
		}
		ses.opened(up)
	}()
}

// opened sends what has waited, and begins to read.
func (ses *session) opened(up *upstream) {
	held, wanted := ses.connect(up)
	if !wanted {
		up.close()
		return
	}
	up.whenDead(ses.endSoon)
	err := up.start(func(err error) {
		if ses.up.Load() == up {
			ses.endSoon(fmt.Errorf("the uplink ended: %w", err))
		}
	})
	if err != nil {
		ses.endSoon(fmt.Errorf("the uplink: %w", err))
		return
	}
	if len(held) > 0 {
		ses.fromClient(held)
	}
}

// connect makes up the session's uplink and returns what has waited for it; not wanted: the session has no use for one any more.
func (ses *session) connect(up *upstream) (held [][]byte, wanted bool) {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	if ses.ended || ses.test.Load() != nil {
		return nil, false
	}
	held = ses.held
	ses.held, ses.opening = nil, nil
	for _, request := range held {
		ses.remember(up, request)
	}
	ses.up.Store(up)
	return held, true
}

func (ses *session) regionLost(err error) { ses.endSoon(err) }

// endSoon ends the session through no doing of its client, beside: whoever finds out must not wait.
func (ses *session) endSoon(cause error) {
	if statusOf(cause) == "" {
		cause = &failure{"err_upstream", cause}
	}
	ses.server.beside(func() { ses.end(cause) })
}

// notOpened answers what has waited: no region is up. An Allocate without credentials gets our own challenge, since a precall test
// may be behind it; a signed one is refused.
func (ses *session) notOpened(cause error) {
	ses.mu.Lock()
	held := ses.held
	ses.held, ses.opening = nil, nil
	gone := ses.ended || ses.test.Load() != nil
	ses.refusal = cause
	ses.mu.Unlock()
	if gone {
		return
	}
	for _, request := range held {
		var m message
		if m.parse(request) != nil {
			continue
		}
		if m.method == stun.MethodAllocate && !m.signed() {
			if msg := ses.server.challengeTest(request, ses.client); msg != nil {
				ses.leg.deliver([][]byte{msg})
				continue
			}
		}
		ses.refuse(&m, codeInsufficientCapacity, cause)
	}
}

// fromRegion takes valid messages of the region to the client. It changes msgs.
func (ses *session) fromRegion(msgs [][]byte) {
	if ses.bounds != nil {
		msgs = ses.bounds.down(msgs, ses.server.now())
	}
	kept, bytes := msgs[:0], 0
	for _, msg := range msgs {
		defect.Provoke("region", msg)
		data := isChannelData(msg) || messageType(msg) == typeDataIndication
		switch {
		case data && !ses.inPhase(phaseAllocated):
			continue
		case !data && messageType(msg)&classSuccess == 0:
			continue // regions send no requests, and no other indication means anything to our clients
		case !data:
			ses.response(msg)
		}
		kept = append(kept, msg)
		bytes += len(msg)
	}
	if len(kept) > 0 {
		ses.countDown(len(kept), bytes)
		ses.leg.deliver(kept)
	}
}

// response learns from an answer on its way to the client.
func (ses *session) response(msg []byte) {
	now := ses.server.now()
	id := transactionOf(msg)
	ses.mu.Lock()
	defer ses.mu.Unlock()
	ses.requests.answered(id)
	if ses.ended || ses.inPhase(phaseLeaving) {
		return
	}
	switch typ := messageType(msg); typ {
	case allocateSuccess:
		ses.allocated(msg, now)
	case refreshSuccess:
		ses.refreshed(msg, now)
	case allocateError:
		ses.unsuccessful(msg, id)
	}
}

const (
	allocateSuccess = 0x0103
	allocateError   = 0x0113
	refreshSuccess  = 0x0104
)

func (ses *session) allocated(msg []byte, now time.Time) {
	ses.setPhase(phaseAllocated)
	ses.refusal = nil
	ses.deadline = now.Add(lifetimeOf(msg) + lifetimeGrace)
	if ses.client.Established != nil {
		ses.established.Do(ses.client.Established)
	}
}

func (ses *session) refreshed(msg []byte, now time.Time) {
	lifetime := lifetimeOf(msg)
	if lifetime > 0 {
		ses.deadline = now.Add(lifetime + lifetimeGrace)
		return
	}
	ses.setPhase(phasePending)
	ses.releasePlace()
	ses.deadline = now.Add(AllocateTimeout)
}

func (ses *session) unsuccessful(msg []byte, id transactionID) {
	code := errorCode(msg)
	signed := id == ses.signedID
	if !ses.inPhase(phaseAllocated) && signed {
		ses.releasePlace()
		ses.refusal = &turnError{code, "by the region"}
	}
	if up := ses.up.Load(); up != nil && signed && (code == codeUnauthorized || code == codeWrongCredentials) {
		up.refused(ses.client)
	}
}

// releasePlace gives the place in the limits back. The caller has the lock.
func (ses *session) releasePlace() {
	if ses.reserved {
		ses.reserved = false
		ses.server.table.release(ses.client.Addr.Addr())
	}
}

func lifetimeOf(msg []byte) time.Duration {
	if value := attribute(msg, stun.AttrLifetime); len(value) == 4 {
		return time.Duration(binary.BigEndian.Uint32(value)) * time.Second
	}
	return lifetimeDefault
}

func errorCode(msg []byte) int {
	if value := attribute(msg, stun.AttrErrorCode); len(value) >= 4 {
		return int(value[2]&7)*100 + int(value[3])
	}
	return 0
}

func (ses *session) countUp(packets, bytes int) {
	ses.packetsUp.Add(uint64(packets))
	ses.bytesUp.Add(uint64(bytes))
	ses.server.metrics.packetsUp.Add(float64(packets))
	ses.server.metrics.bytesUp.Add(float64(bytes))
}

func (ses *session) countDown(packets, bytes int) {
	ses.packetsDown.Add(uint64(packets))
	ses.bytesDown.Add(uint64(bytes))
	ses.server.metrics.packetsDown.Add(float64(packets))
	ses.server.metrics.bytesDown.Add(float64(bytes))
}

// end ends the session; the first call counts. err nil: as it should be. It may take a moment: a loop has it
// done by endSoon.
func (ses *session) end(err error) {
	ses.mu.Lock()
	if ses.ended {
		ses.mu.Unlock()
		return
	}
	ses.ended = true
	err = ses.verdict(err)
	ses.refusal = err
	ses.setPhase(phasePending)
	ses.releasePlace()
	cancel, up := ses.opening, ses.up.Load()
	ses.held, ses.requests.list = nil, nil
	ses.mu.Unlock()
	defer close(ses.over)
	ses.client.ended(err)
	ses.server.table.remove(ses)
	if cancel != nil {
		cancel()
	}
	if t := ses.test.Load(); t != nil {
		t.close()
	}
	ses.leg.close()
	if up != nil {
		up.close()
	}
	ses.conclude(err, up)
}

// verdict finds the reason behind the one that ended the session: a client that leaves is as it should be when it had an
// allocation, and a refused one leaves because it was refused. The caller has the lock.
func (ses *session) verdict(err error) error {
	left := err == nil || errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, os.ErrDeadlineExceeded)
	switch {
	case ses.inPhase(phaseLeaving), left && !ses.won && ses.refusal != nil:
		err = ses.refusal
	case left && ses.won:
		return nil
	case left:
		return errLeft
	}
	if statusOf(err) == "" {
		return &failure{"err_client", err}
	}
	return err
}

// conclude is the end in the books: one counter and one log line. UDP sources that never proved that they receive are only
// counted, since anybody can make any number of them.
func (ses *session) conclude(err error, up *upstream) {
	status := "ok"
	if err != nil {
		status = statusOf(err)
	}
	ses.server.metrics.ended.WithLabelValues(ses.client.Via, status).Inc()
	if ses.server.ended != nil && (ses.won || ses.stream != nil) {
		ses.server.ended(ses.epitaph(status, up))
	}
	if ses.stream == nil && !ses.won {
		return
	}
	attrs := []slog.Attr{
		slog.String("status", status), slog.String("via", ses.client.Via),
		slog.String("client", ses.server.shown(ses.client.Addr.Addr())),
		slog.Int64("ms", ses.server.now().Sub(ses.started).Milliseconds()),
		slog.Uint64("bytes_up", ses.bytesUp.Load()), slog.Uint64("bytes_down", ses.bytesDown.Load()),
	}
	if region, rung := ses.where(up); region != "" {
		attrs = append(attrs, slog.String("region", region), slog.String("rung", rung))
	}
	if dropped := ses.droppedTotal(); dropped > 0 {
		attrs = append(attrs, slog.Uint64("dropped", dropped))
	}
	if err != nil {
		attrs = append(attrs, slog.String("why", err.Error()))
	}
	ses.server.logEnd(ses.won, attrs)
}

// epitaph is what those who keep books are told.
func (ses *session) epitaph(status string, up *upstream) End {
	e := End{
		Client: ses.client, Service: ses.client.Service, Status: status, Won: ses.won, Started: ses.started, Took: ses.server.now().Sub(ses.started),
		BytesUp: ses.bytesUp.Load(), BytesDown: ses.bytesDown.Load(), Dropped: ses.droppedTotal(),
	}
	e.Region, e.Rung = ses.where(up)
	if t := ses.test.Load(); t != nil {
		e.Test = t.isTest()
	}
	return e
}

// where tells which region a session's media takes, and over which rung; empty: none.
func (ses *session) where(up *upstream) (region, rung string) {
	if up != nil {
		return up.region.name, up.rung
	}
	if t := ses.test.Load(); t != nil {
		return t.where()
	}
	return "", ""
}

// shown is a client's address as logs and the status page have it: its network only, unless the configuration wants all of it.
func (s *Server) shown(a netip.Addr) string {
	a = a.Unmap().WithZone("")
	if s.config().Log.FullAddresses || a.IsLoopback() {
		return a.String()
	}
	if p := netpolicy.Network(a); p.IsValid() {
		return p.String()
	}
	return "unknown"
}

package relay

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"

	"hafen/configs"
)

// What an allocation may ask for and gets (RFC 8656 section 7.2).
const (
	defaultLifetime = 10 * time.Minute
	maxLifetime     = time.Hour
	// maxAllocationAge ends an allocation that its client refreshes for ever, long after its credential expired.
	maxAllocationAge = 12 * time.Hour
)

// sweepInterval is how often expired allocations are looked for. They stop working at once when their time is up; the sweep frees
// what they hold.
const sweepInterval = time.Second

// engine is a TURN server without sockets: whole messages of clients in, answers out, and behind it one backend or several that
// make relayed addresses. It keeps the allocations with their permissions and channels, the quotas, nonces and the rules of RFC
// 8656 and 8489; what a relayed address is, and whom it may talk to, is the backend's business.
//
// Nothing is remembered about a client before its credential was checked: the 401 that it gets first can be told from a forged
// one by its nonce alone.
type engine struct {
	engineOptions
	nonces *nonces

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu          sync.Mutex
	allocations map[*allocation]struct{}
	perUser     map[string]int
	perClient   map[netip.Prefix]int
	held        int // allocations, and places kept for those under way
	closed      bool

	totalOut, totalIn *meter
	metrics           *engineMetrics
}

// engineOptions are the world of an engine.
type engineOptions struct {
	// realm is what challenges name.
	realm string
	// find tells who stands behind a user name. It returns an account to check the signature against even when there is nobody,
	// so that a stranger's name takes as long as a known one's; the error then says why it is refused.
	find func(username string, now time.Time) (account, error)
	// clients mints for the gateway's own users; nil in mode bridge, which has none.
	clients *authority
	// maxPerClient and maxTotal bound the allocations. 0: no bound. The bound of a user is the account's.
	maxPerClient, maxTotal int
	// test is the test relay, which every mode has.
	test *testRelay
	// backends are what is swept and closed with the engine.
	backends []swept
	// draining tells that no allocations but tests' are made any more. nil: never.
	draining func() bool
	// bitsEach and bitsTotal bound what an allocation, and all of them, pass on each way. 0: no bound.
	bitsEach, bitsTotal int64
	// now is the clock.
	now func() time.Time
}

// newEngine makes the engine of a server in its mode.
func newEngine(s *Server) (*engine, error) {
	secret, err := engineSecret(s.config)
	if err != nil {
		return nil, err
	}
	clients := authority{secret: secret}
	test := newTestRelay(clients, s.now, s.config.Addresses.Public, machineAddresses)
	o := engineOptions{
		realm: s.config.Name, test: test, backends: []swept{test}, draining: s.isDraining, now: s.now,
		maxPerClient: s.config.Limits.AllocationsPerClient, maxTotal: s.config.Limits.Allocations,
	}
	if o.realm == "" {
		o.realm = "hafen"
	}
	if o.bitsEach, err = configs.ParseBandwidth(s.config.Relay.MaxBandwidth.PerAllocation); err != nil {
		return nil, fmt.Errorf("relay.max_bandwidth.per_allocation: %w", err)
	}
	if o.bitsTotal, err = configs.ParseBandwidth(s.config.Relay.MaxBandwidth.Total); err != nil {
		return nil, fmt.Errorf("relay.max_bandwidth.total: %w", err)
	}
	main, err := mainBackend(s)
	if err != nil {
		return nil, err
	}
	if main != nil {
		o.backends, o.clients = append(o.backends, main), &clients
	}
	o.find = finder(test, clients, main, s.config.Limits.AllocationsPerUser)
	e := startEngine(o)
	if err := e.metrics.register(s.registry); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// mainBackend is what makes relayed addresses in the server's mode; nil in mode bridge, where regions do.
func mainBackend(s *Server) (modeBackend, error) {
	switch s.config.Relay.Mode {
	case modeLocal:
		return newLocalRelay(s.config, newPeerPolicy(s.config, s.dialer), s.now, machineAddresses)
	case modeTerminate:
		return newCloudRelay(s)
	}
	return nil, nil
}

type modeBackend interface {
	backend
	swept
}

// finder tells the test relay's users from the gateway's own, which mode bridge has none of.
func finder(test *testRelay, clients authority, main backend, quota int) func(string, time.Time) (account, error) {
	return func(username string, now time.Time) (account, error) {
		if main == nil || test.minted(username) {
			return test.account(username, now)
		}
		return clients.account(username, now, main, quota)
	}
}

// engineSecret is what credentials are minted with. In mode bridge those are the test relay's alone, which need not outlive the
// process.
func engineSecret(c *configs.Config) ([]byte, error) {
	if c.Relay.Mode == modeTerminate || c.Relay.Mode == modeLocal {
		return loadSecret(c.Relay.SecretFile, c.DataDir)
	}
	secret := make([]byte, secretBytes)
	rand.Read(secret)
	return secret, nil
}

// Values of relay.mode besides bridge.
const (
	modeTerminate = "terminate"
	modeLocal     = "local"
)

// swept is a backend that holds more than its allocations do.
type swept interface {
	sweep(now time.Time)
	close()
}

func startEngine(o engineOptions) *engine {
	e := &engine{
		engineOptions: o,
		nonces:        newNonces(),
		allocations:   make(map[*allocation]struct{}),
		perUser:       make(map[string]int),
		perClient:     make(map[netip.Prefix]int),
		metrics:       newEngineMetrics(),
		totalOut:      boundMeter(o.bitsTotal),
		totalIn:       boundMeter(o.bitsTotal),
	}
	e.ctx, e.cancel = context.WithCancel(context.Background())
	e.wg.Add(1)
	go e.sweepAlways()
	return e
}

func (e *engine) sweepAlways() {
	defer e.wg.Done()
	tick := time.NewTicker(sweepInterval)
	defer tick.Stop()
	for {
		select {
		case <-e.ctx.Done():
			return
		case <-tick.C:
			e.sweep(e.now())
		}
	}
}

// sweep ends what is past its time.
func (e *engine) sweep(now time.Time) {
	for _, a := range e.snapshot() {
		if a.expired(now) {
			e.end(a)
		}
	}
	for _, b := range e.backends {
		b.sweep(now)
	}
}

func (e *engine) snapshot() []*allocation {
	e.mu.Lock()
	defer e.mu.Unlock()
	all := make([]*allocation, 0, len(e.allocations))
	for a := range e.allocations {
		all = append(all, a)
	}
	return all
}

// close ends every allocation and waits for what is under way.
func (e *engine) close() {
	e.mu.Lock()
	e.closed = true
	e.mu.Unlock()
	e.cancel()
	for _, a := range e.snapshot() {
		e.end(a)
	}
	e.wg.Wait()
	for _, b := range e.backends {
		b.close()
	}
}

// reserve keeps a place for one allocation, or says which bound is reached: 486 for the client's own, 508 for the gateway's.
func (e *engine) reserve(name string, quota int, client netip.Addr) *turnError {
	e.mu.Lock()
	defer e.mu.Unlock()
	network := clientNetwork(client)
	switch {
	case e.closed || e.ctx.Err() != nil:
		return &turnError{code: codeInsufficientCapacity, why: "the gateway is closing"}
	case quota > 0 && e.perUser[name] >= quota:
		return &turnError{code: codeAllocationQuota, why: fmt.Sprintf("the user holds %d allocations", quota)}
	case e.maxPerClient > 0 && e.perClient[network] >= e.maxPerClient:
		return &turnError{code: codeAllocationQuota, why: fmt.Sprintf("the client holds %d allocations", e.maxPerClient)}
	case e.maxTotal > 0 && e.held >= e.maxTotal:
		return &turnError{code: codeInsufficientCapacity, why: fmt.Sprintf("the gateway holds %d allocations", e.maxTotal)}
	}
	e.perUser[name]++
	e.perClient[network]++
	e.held++
	return nil
}

func (e *engine) release(name string, client netip.Addr) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.held--
	countDown(e.perUser, name)
	countDown(e.perClient, clientNetwork(client))
}

func countDown[K comparable](counts map[K]int, key K) {
	if counts[key]--; counts[key] <= 0 {
		delete(counts, key)
	}
}

// clientNetwork is what limits per client count by: an IPv4 address or a /64.
func clientNetwork(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits) // fails for the zero Addr only, and then all of those count as one
	return p
}

// keep takes an allocation whose place was reserved into the table; false: the engine has closed meanwhile.
func (e *engine) keep(a *allocation) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return false
	}
	e.allocations[a] = struct{}{}
	return true
}

// end frees an allocation: its relayed address, its place in the table and in the quotas. Only the first call does anything.
func (e *engine) end(a *allocation) {
	if !a.finish() {
		return
	}
	a.tuple.allocation.CompareAndSwap(a, nil)
	e.mu.Lock()
	delete(e.allocations, a)
	e.mu.Unlock()
	e.release(a.user, a.tuple.client.Addr.Addr())
	a.relayed.close()
}

// lose ends an allocation through no doing of its client, and tells so.
func (e *engine) lose(a *allocation, cause error) {
	if a.tuple.allocation.Load() != a {
		return
	}
	e.end(a)
	if a.tuple.lost != nil {
		a.tuple.lost(cause)
	}
}

// engineStats is what the engine shows of itself.
type engineStats struct {
	Allocations     int
	TestRuns        int
	TestAllocations int
}

func (e *engine) stats() engineStats {
	e.mu.Lock()
	st := engineStats{Allocations: len(e.allocations)}
	e.mu.Unlock()
	if e.test != nil {
		st.TestRuns, st.TestAllocations = e.test.count()
	}
	return st
}

// open takes a client. send delivers one whole message to it: it copies, never blocks, and may be called from any goroutine.
func (e *engine) open(c Client, send func(msg []byte)) *fiveTuple {
	return &fiveTuple{engine: e, client: c, stream: c.Via != "udp", send: send}
}

// challenge is the 401 to a request that carries no MESSAGE-INTEGRITY.
func (e *engine) challenge(msg []byte, c Client) []byte {
	var m message
	if m.parse(msg) != nil || m.class != stun.ClassRequest {
		return nil
	}
	var out []byte
	t := e.open(c, func(answer []byte) { out = answer })
	r := reply{tuple: t, method: m.method, id: m.id, realm: e.realm, fingerprint: m.fingerprint}
	r.challenge(codeUnauthorized)
	return out
}

// backend makes relayed addresses. The modes differ in nothing else.
type backend interface {
	// allocate makes a relayed address for a and calls then exactly once, at once or later, from any goroutine. What arrives at
	// the address goes to a.deliver. An error that is no *turnError is answered 500.
	allocate(a *allocation, want wanted, then func(relayed, error))
}

// relayed is one relayed address; its allocation owns it and closes it.
type relayed interface {
	// address is what the client is told.
	address() netip.AddrPort
	// permit judges peers, all or none, and does what must be done before a packet can pass: then is called exactly once, at
	// once or later, from any goroutine. number is the channel they are bound to, or 0.
	permit(peers []netip.AddrPort, number uint16, then func(error))
	// send passes one packet on to a peer; number is the channel it came on, or 0. It never blocks and does not keep data.
	send(peer netip.AddrPort, number uint16, data []byte)
	close()
}

// wanted is what an Allocate asks of a backend.
type wanted struct {
	family byte // familyIPv4, familyIPv6, or 0: the client did not say, which means IPv4 (RFC 8656 section 7.2)
	// evenPort asks for an even port, andNext to keep the port behind it for whoever brings the reservation.
	evenPort, andNext bool
	reservation       []byte // the token of a port kept so; nil: none
	// integrity is the request's MESSAGE-INTEGRITY: no two Allocates have the same, unless one is a copy of the other.
	integrity [integritySize]byte
}

// fiveTuple is one client on one connection, or one address of a UDP listener: what RFC 8656 hangs an allocation on. handle is
// called by one goroutine at a time.
type fiveTuple struct {
	engine *engine
	client Client
	stream bool
	send   func(msg []byte)
	lost   func(cause error) // nil: nobody wants to know

	allocation atomic.Pointer[allocation]

	mu      sync.Mutex
	foreign foreignNonce
	pending *[stun.TransactionIDSize]byte // the Allocate that a backend is busy with
	region  string                        // that the last allocation was made at, and over which rung
	rung    string
	closed  bool
}

// close frees what the client holds.
func (t *fiveTuple) close() {
	t.mu.Lock()
	t.closed = true
	t.mu.Unlock()
	if a := t.allocation.Load(); a != nil {
		t.engine.end(a)
	}
}

// where is the region that the client's media takes, or took last, and the rung; empty: none.
func (t *fiveTuple) where() (region, rung string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.region, t.rung
}

// isTest tells whether the client is a precall test's. In mode bridge the engine has no others.
func (t *fiveTuple) isTest() bool {
	a := t.allocation.Load()
	return t.engine.clients == nil || a != nil && a.account.foreign
}

// handle takes one whole message of the client: STUN, or ChannelData without padding. It never answers more than once, and it does
// not block.
func (t *fiveTuple) handle(frame []byte) {
	if len(frame) >= channelHeaderSize && frame[0]>>6 == 1 {
		t.channelData(frame)
		return
	}
	var m message
	err := m.parse(frame)
	switch {
	case err != nil && (m.raw == nil || m.class != stun.ClassRequest):
		t.engine.metrics.refused("malformed")
	case m.class == stun.ClassRequest:
		t.request(&m, err)
	case m.class == stun.ClassIndication && m.method == stun.MethodSend:
		t.sendIndication(&m)
	}
	// Answers, and indications that are none of a client's, are nothing that a server reacts to.
}

func (t *fiveTuple) channelData(frame []byte) {
	a := t.allocation.Load()
	size := int(binary.BigEndian.Uint16(frame[2:]))
	if a == nil || size > len(frame)-channelHeaderSize {
		t.engine.metrics.refused("malformed")
		return
	}
	a.sendOn(binary.BigEndian.Uint16(frame), frame[channelHeaderSize:channelHeaderSize+size])
}

// sendIndication passes data on. What is wrong with an indication is never answered (RFC 8656 section 11.2).
func (t *fiveTuple) sendIndication(m *message) {
	a := t.allocation.Load()
	if a == nil || len(m.peers) != 1 || m.badPeer || m.data == nil || m.badFingerprint || len(m.unknown) > 0 {
		t.engine.metrics.refused("malformed")
		return
	}
	a.sendTo(m.peers[0], m.data)
}

// request answers one request, now or when the backend is done.
func (t *fiveTuple) request(m *message, malformed error) {
	r := reply{tuple: t, method: m.method, id: m.id, realm: t.engine.realm, fingerprint: m.fingerprint}
	switch {
	case malformed != nil || m.badFingerprint:
		r.fail(codeBadRequest)
		return
	case m.method == stun.MethodBinding:
		t.binding(m, r)
		return
	case !relayMethod(m.method):
		// Connect and ConnectionBind of RFC 6062 among them: relaying TCP is off.
		r.fail(codeBadRequest)
		return
	}
	who, ok := t.authenticate(m, &r)
	if !ok {
		return
	}
	if len(m.unknown) > 0 {
		r.failUnknown(m.unknown)
		return
	}
	if m.method == stun.MethodAllocate {
		t.allocate(m, r, who)
		return
	}
	a := t.allocation.Load()
	switch {
	case a == nil || a.expired(t.engine.now()):
		r.fail(codeAllocationMismatch)
	case a.username != string(m.username):
		r.fail(codeWrongCredentials)
	case m.method == stun.MethodRefresh:
		t.refresh(m, r, a)
	case m.method == stun.MethodCreatePermission:
		t.createPermission(m, r, a)
	default:
		t.channelBind(m, r, a)
	}
}

func relayMethod(m stun.Method) bool {
	return m == stun.MethodAllocate || m == stun.MethodRefresh || m == stun.MethodCreatePermission || m == stun.MethodChannelBind
}

// binding tells a client its address. It needs no credential, and CHANGE-REQUEST (RFC 5780) is an unknown attribute here: an
// answer goes to whoever asked and nowhere else.
func (t *fiveTuple) binding(m *message, r reply) {
	if len(m.unknown) > 0 {
		r.failUnknown(m.unknown)
		return
	}
	r.succeed(xorAddressSetter(stun.AttrXORMappedAddress, t.client.Addr))
}

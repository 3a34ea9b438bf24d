package relay

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/pion/stun/v2"
)

// maxInFlight bounds the permissions and channels of one allocation that a slow backend is busy with.
const maxInFlight = 16

// allocation is a relayed address that one client holds, and whom it may exchange packets with.
type allocation struct {
	tuple    *fiveTuple
	id       [stun.TransactionIDSize]byte // of the Allocate that made it
	user     string                       // what its quota is counted under
	username string
	account  account
	end      time.Time // no Refresh goes beyond
	dual     bool      // a second address family was asked for
	relayed  relayed   // set before the client hears of the allocation
	out, in  *meter    // relay.max_bandwidth.per_allocation; nil: no bound

	mu          sync.Mutex
	expires     time.Time
	permissions permissions
	channels    channels
	inFlight    int
	finished    bool
}

// allocate answers an Allocate (RFC 8656 section 7.2).
func (t *fiveTuple) allocate(m *message, r reply, who account) {
	now := t.engine.now()
	if a := t.allocation.Load(); a != nil && a.expired(now) {
		t.engine.end(a)
	} else if a != nil {
		if a.id == m.id && a.username == string(m.username) {
			a.answer(r, now) // the same request once more: over UDP the first answer may be lost
		} else {
			r.fail(codeAllocationMismatch)
		}
		return
	}
	if busy, same := t.busy(m.id); busy {
		if !same {
			r.fail(codeAllocationMismatch)
		}
		return
	}
	want, lifetime, refusal := readAllocate(m)
	if refusal == nil && !who.foreign && t.engine.draining != nil && t.engine.draining() {
		refusal = &turnError{code: codeInsufficientCapacity, why: "the gateway takes no new calls"}
	}
	if refusal == nil {
		refusal = t.engine.reserve(who.name, who.quota, t.client.Addr.Addr())
	}
	if refusal != nil {
		r.failWith(refusal)
		return
	}
	a := &allocation{
		tuple: t, id: m.id, user: who.name, username: string(m.username), account: who, end: who.end,
		out: boundMeter(t.engine.limits.Load().bitsEach), in: boundMeter(t.engine.limits.Load().bitsEach),
		dual: m.additionalFamily != nil, permissions: make(permissions), channels: newChannels(),
	}
	if a.end.IsZero() {
		a.end = now.Add(maxAllocationAge)
	}
	a.extend(lifetime, now)
	t.setBusy(&a.id)
	who.backend.allocate(a, want, func(got relayed, err error) { t.allocated(a, r, got, err) })
}

func (t *fiveTuple) busy(id [stun.TransactionIDSize]byte) (busy, same bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pending != nil, t.pending != nil && *t.pending == id
}

func (t *fiveTuple) setBusy(id *[stun.TransactionIDSize]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pending = id
}

// allocated ends what allocate began.
func (t *fiveTuple) allocated(a *allocation, r reply, got relayed, err error) {
	e := t.engine
	t.setBusy(nil)
	if err != nil {
		e.release(a.user, t.client.Addr.Addr())
		r.failWith(err)
		return
	}
	a.relayed = got
	t.mu.Lock()
	kept := !t.closed && e.keep(a)
	if c, ok := got.(*cloudAddress); ok {
		t.region, t.rung = c.up.region.name, c.up.rung
	}
	if kept {
		t.allocation.Store(a)
	}
	t.mu.Unlock()
	if !kept {
		// The client went away while the backend was busy; nobody waits for the answer.
		got.close()
		e.release(a.user, t.client.Addr.Addr())
		return
	}
	a.answer(r, e.now())
}

// answer tells the client what it got.
func (a *allocation) answer(r reply, now time.Time) {
	attrs := []stun.Setter{
		xorAddressSetter(stun.AttrXORRelayedAddress, a.relayed.address()),
		lifetimeSetter(a.left(now)),
		xorAddressSetter(stun.AttrXORMappedAddress, a.tuple.client.Addr),
	}
	if r, ok := a.relayed.(interface{ reservation() []byte }); ok && r.reservation() != nil {
		attrs = append(attrs, stun.RawAttribute{Type: stun.AttrReservationToken, Value: r.reservation()})
	}
	if a.dual {
		attrs = append(attrs, addressErrorSetter(familyIPv6, codeAddressFamily))
	}
	r.succeed(attrs...)
}

// readAllocate reads what an Allocate asks for, in the order of RFC 8656 section 7.2.
func readAllocate(m *message) (want wanted, lifetime time.Duration, refusal *turnError) {
	bad := func(why string) (wanted, time.Duration, *turnError) {
		return wanted{}, 0, &turnError{code: codeBadRequest, why: why}
	}
	lifetime, ok := readLifetime(m)
	switch {
	case len(m.transport) != 4:
		return bad("no REQUESTED-TRANSPORT")
	case m.transport[0] != protocolUDP:
		return wanted{}, 0, &turnError{code: codeUnsupportedTransport, why: "a transport other than UDP"}
	case !ok:
		return bad("a LIFETIME that is none")
	case m.reservation != nil && (len(m.reservation) != 8 || m.evenPort != nil || m.family != nil):
		return bad("RESERVATION-TOKEN beside EVEN-PORT or REQUESTED-ADDRESS-FAMILY")
	case m.evenPort != nil && len(m.evenPort) != 1:
		return bad("an EVEN-PORT that is none")
	case m.family != nil && len(m.family) != 4:
		return bad("a REQUESTED-ADDRESS-FAMILY that is none")
	case m.family != nil && m.family[0] != familyIPv4 && m.family[0] != familyIPv6:
		return wanted{}, 0, &turnError{code: codeAddressFamily, why: "an address family other than IPv4 and IPv6"}
	}
	if m.family != nil {
		want.family = m.family[0]
	}
	if m.evenPort != nil {
		want.evenPort, want.andNext = true, m.evenPort[0]&0x80 != 0
	}
	if m.additionalFamily != nil &&
		(len(m.additionalFamily) != 4 || m.additionalFamily[0] != familyIPv6 || m.family != nil || m.reservation != nil || want.andNext) {
		return bad("an ADDITIONAL-ADDRESS-FAMILY that can't be")
	}
	want.reservation = slices.Clone(m.reservation)
	want.integrity = [integritySize]byte(m.integrity)
	return want, lifetime, nil
}

// readLifetime reads LIFETIME; without one it is the default.
func readLifetime(m *message) (time.Duration, bool) {
	switch {
	case m.lifetime == nil:
		return defaultLifetime, true
	case len(m.lifetime) != 4:
		return 0, false
	}
	return time.Duration(binary.BigEndian.Uint32(m.lifetime)) * time.Second, true
}

// extend sets when the allocation expires: as long as asked, within what the server likes (RFC 8656 section 7.2) and never beyond
// its end.
func (a *allocation) extend(asked time.Duration, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.expires = now.Add(min(max(asked, defaultLifetime), maxLifetime))
	if a.expires.After(a.end) {
		a.expires = a.end
	}
}

func (a *allocation) left(now time.Time) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return max(a.expires.Sub(now), 0)
}

func (a *allocation) expired(now time.Time) bool { return a.left(now) == 0 }

// finish reports whether this call is the one that ends the allocation.
func (a *allocation) finish() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	was := a.finished
	a.finished = true
	return !was
}

// refresh answers a Refresh (RFC 8656 section 8.2).
func (t *fiveTuple) refresh(m *message, r reply, a *allocation) {
	lifetime, ok := readLifetime(m)
	switch {
	case !ok || (m.family != nil && len(m.family) != 4):
		r.fail(codeBadRequest)
	case m.family != nil && m.family[0] != familyOf(a.relayed.address().Addr()):
		r.fail(codePeerAddressFamily)
	case lifetime == 0:
		t.engine.end(a)
		r.succeed(lifetimeSetter(0))
	default:
		now := t.engine.now()
		a.extend(lifetime, now)
		r.succeed(lifetimeSetter(a.left(now)))
	}
}

func familyOf(a netip.Addr) byte {
	if a.Unmap().Is4() {
		return familyIPv4
	}
	return familyIPv6
}

// createPermission answers a CreatePermission (RFC 8656 section 10.2): every peer, or none.
func (t *fiveTuple) createPermission(m *message, r reply, a *allocation) {
	if len(m.peers) == 0 || m.badPeer {
		r.fail(codeBadRequest)
		return
	}
	peers := slices.Clone(m.peers)
	a.permit(r, peers, 0)
}

// channelBind answers a ChannelBind (RFC 8656 section 12.2).
func (t *fiveTuple) channelBind(m *message, r reply, a *allocation) {
	if len(m.channel) != 4 || len(m.peers) != 1 || m.badPeer {
		r.fail(codeBadRequest)
		return
	}
	number := binary.BigEndian.Uint16(m.channel)
	if number < minChannel || number > maxChannel {
		r.fail(codeBadRequest)
		return
	}
	a.permit(r, slices.Clone(m.peers), number)
}

// permit installs permissions for peers, and a channel where number is not 0, once the backend has nothing against it.
func (a *allocation) permit(r reply, peers []netip.AddrPort, number uint16) {
	family := familyOf(a.relayed.address().Addr())
	for _, peer := range peers {
		// ::ffff:a.b.c.d names an IPv4 host in IPv6 clothes: a socket would send it IPv4, so no allocation has the family for it.
		if peer.Addr().Is4In6() || familyOf(peer.Addr()) != family {
			r.fail(codePeerAddressFamily)
			return
		}
	}
	if refusal := a.beginPermit(peers, number); refusal != nil {
		r.failWith(refusal)
		return
	}
	a.relayed.permit(peers, number, func(err error) {
		if err = a.endPermit(peers, number, err); err != nil {
			r.failWith(err)
			return
		}
		r.succeed()
	})
}

func (a *allocation) beginPermit(peers []netip.AddrPort, number uint16) *turnError {
	now := a.tuple.engine.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.inFlight >= maxInFlight {
		return &turnError{code: codeInsufficientCapacity, why: "too many requests under way"}
	}
	if refusal := a.fits(peers, number, now); refusal != nil {
		return refusal
	}
	a.inFlight++
	return nil
}

func (a *allocation) fits(peers []netip.AddrPort, number uint16, now time.Time) *turnError {
	if !a.permissions.room(peers, now) {
		return &turnError{code: codeInsufficientCapacity, why: "too many permissions"}
	}
	if number != 0 {
		return a.channels.conflict(number, peers[0], now)
	}
	return nil
}

func (a *allocation) endPermit(peers []netip.AddrPort, number uint16, err error) error {
	now := a.tuple.engine.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.inFlight--
	if err != nil {
		return err
	}
	if a.finished {
		return &turnError{code: codeAllocationMismatch, why: "the allocation has ended"}
	}
	// Asked again: another request may have taken the room while the backend was busy with this one.
	if refusal := a.fits(peers, number, now); refusal != nil {
		return refusal
	}
	a.permissions.install(peers, now)
	if number != 0 {
		a.channels.bind(number, peers[0], now)
	}
	return nil
}

// sendOn passes data on to the peer that a channel is bound to.
func (a *allocation) sendOn(number uint16, data []byte) {
	now := a.tuple.engine.now()
	peer, ok := a.onChannel(number, now)
	a.pass(peer, number, data, ok)
}

// onChannel is the peer that a channel is bound to, and whether packets may pass.
func (a *allocation) onChannel(number uint16, now time.Time) (peer netip.AddrPort, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	peer, ok = a.channels.peer(number, now)
	return peer, ok && a.open(peer, now)
}

// sendTo passes data on to a peer.
func (a *allocation) sendTo(peer netip.AddrPort, data []byte) {
	now := a.tuple.engine.now()
	_, ok := a.with(peer, now)
	a.pass(peer, 0, data, ok)
}

// with tells whether packets may pass between the client and peer, and the channel for them; 0: there is none.
func (a *allocation) with(peer netip.AddrPort, now time.Time) (channel uint16, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.channels.number(peer, now), a.open(peer, now)
}

// open tells whether packets may pass between the client and peer. The caller has the lock. A channel outlives its permission, but does not replace it
// (RFC 8656 section 12.1).
func (a *allocation) open(peer netip.AddrPort, now time.Time) bool {
	return !a.finished && now.Before(a.expires) && a.permissions.has(peer.Addr(), now)
}

func (a *allocation) pass(peer netip.AddrPort, number uint16, data []byte, permitted bool) {
	e := a.tuple.engine
	switch {
	case !permitted:
		e.metrics.refused("no_permission_out")
	case !within(len(data), e, a.out, e.limits.Load().out):
		e.metrics.refused("bandwidth")
	default:
		a.relayed.send(peer, number, data)
	}
}

// deliver hands buf[headroom:], what peer sent to the relayed address, to the client. It frames the packet in place: buf must have
// headroom in front, and is the caller's again when deliver returns.
func (a *allocation) deliver(peer netip.AddrPort, buf []byte) {
	now := a.tuple.engine.now()
	number, ok := a.with(peer, now)
	switch {
	case !ok:
		a.tuple.engine.metrics.refused("no_permission_in")
	case len(buf) > maxPacket+headroom:
		a.tuple.engine.metrics.refused("too_long")
	case !within(len(buf)-headroom, a.tuple.engine, a.in, a.tuple.engine.limits.Load().in):
		a.tuple.engine.metrics.refused("bandwidth")
	case number != 0:
		a.tuple.send(frameChannelData(buf, number))
	default:
		a.tuple.send(frameIndication(buf, stun.MethodData, peer))
	}
}

// forward hands ChannelData that is framed already to the client, if it may have it.
func (a *allocation) forward(frame []byte) {
	now := a.tuple.engine.now()
	_, ok := a.onChannel(binary.BigEndian.Uint16(frame), now)
	switch {
	case !ok:
		a.tuple.engine.metrics.refused("no_permission_in")
	case !within(len(frame)-channelHeaderSize, a.tuple.engine, a.in, a.tuple.engine.limits.Load().in):
		a.tuple.engine.metrics.refused("bandwidth")
	default:
		a.tuple.send(frame)
	}
}

// maxPacket is the longest packet that a Data indication has room for; no path carries half of it in one datagram.
const maxPacket = 65535 - headroom - tailroom

package e2e

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// relayAbuse is the abuse laboratory around a gateway that is the TURN server itself (relay.mode local), on both address families.
// Bridge has none of these rules: there the region is the one to judge.
type relayAbuse struct {
	*abuse
	aviary *namespace
	cfg    string
	users  atomic.Uint32
}

// Every client comes from an address of its own, so that no case uses up what another may: 10.31.N.1, and fd00:31:N::1.
const (
	manySources  = "10.31.0.0/16"
	manySources6 = "fd00:31::/32"
)

// Public addresses that the gateway depends on: a resolver, and a call server.
const (
	resolverAddr   = "9.9.9.9"
	dependencyAddr = "185.9.9.10"
)

func newRelayAbuse(t *testing.T, more string) *relayAbuse {
	t.Helper()
	r := &relayAbuse{abuse: layAbuse(t)}
	r.aviary = &namespace{t: t, name: r.net.prefix + "aviary"}
	r.net.six(r.dmz, 1)
	router := r.net.six(r.inside, 3)
	for _, ns := range []*namespace{r.inside, r.aviary} {
		ns.run(t, "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1")
	}
	for _, cmd := range []struct {
		ns   *namespace
		args string
	}{
		{r.inside, "-6 route add default via " + router},
		{r.inside, "route add local " + manySources + " dev lo"},
		{r.inside, "-6 route add local " + manySources6 + " dev lo"},
		{r.net.core, "route add " + manySources + " via 10.30.0.2"},
		{r.net.core, "-6 route add " + manySources6 + " via fd00:30::2"},
		{r.dmz, "route add " + manySources + " via 10.10.0.1"},
		{r.dmz, "-6 route add " + manySources6 + " via fd00:10::1"},
		{r.dmz, "-6 route add fd00:30::/64 via fd00:10::1"},
		{r.aviary, "-6 route add fd00:10::/64 via 2001:db8:ffff::1"},
	} {
		cmd.ns.run(t, "ip", strings.Fields(cmd.args)...)
	}
	for name, secret := range map[string]string{"own.secret": ownSecret, "cloud.secret": relaySecret} {
		must(t, os.WriteFile(filepath.Join(r.dir, name), []byte(secret+"\n"), 0o600))
	}
	r.cfg = strings.NewReplacer(
		"clients: [10.30.0.0/24]", "clients: [10.30.0.0/24, "+manySources+", \"fd00:30::/64\", \""+manySources6+"\"]",
		`https: ["10.10.0.2:443"]`, `https: ["10.10.0.2:443", "[fd00:10::2]:443"]`,
		`turn_udp: ["10.10.0.2:443"]`, `turn_udp: ["10.10.0.2:443", "[fd00:10::2]:443"]`,
		`servers: ["127.0.0.1:53"]`, `servers: ["127.0.0.1:53", "`+resolverAddr+`:53"]`,
		"hosts: [", "hosts: ["+spell("x", netip.MustParseAddr(dependencyAddr), passSuffix)+", ",
		"    probes:", "    turn_credentials: {secret_file: "+filepath.Join(r.dir, "cloud.secret")+"}\n    probes:",
	).Replace(r.config()) + fmt.Sprintf("relay: {mode: local, secret_file: %s%s}\n", filepath.Join(r.dir, "own.secret"), more)
	r.run(r.cfg)
	return r
}

// noCanary forgives what the gateway itself asks of the call server that it depends on: it probes it.
func (r *relayAbuse) noCanary(t testing.TB) {
	t.Helper()
	time.Sleep(300 * time.Millisecond)
	hits := r.canary.take()
	delete(hits, netip.MustParseAddr(dependencyAddr))
	if len(hits) > 0 {
		t.Errorf("canaries were hit: %v", hits)
	}
}

// again runs the gateway anew, with another configuration.
func (r *relayAbuse) again(t *testing.T, cfg string) {
	t.Helper()
	r.gateway.stop()
	r.run(cfg)
}

// relayWay is one way to the TURN server.
type relayWay struct {
	via string
	v6  bool
}

var relayWays = []relayWay{{"udp", false}, {"tcp", false}, {"tls", false}, {"udp", true}, {"tcp", true}, {"tls", true}}

func (w relayWay) String() string {
	return w.via + map[bool]string{false: " IPv4", true: " IPv6"}[w.v6]
}

// family is REQUESTED-ADDRESS-FAMILY of the way's own.
func (w relayWay) family() []byte {
	return attr(attrFamily, []byte{map[bool]byte{false: 1, true: 2}[w.v6], 0, 0, 0})
}

// pick chooses between what is right for the families.
func (w relayWay) pick(v4, v6 string) string {
	if w.v6 {
		return v6
	}
	return v4
}

// open connects from an address that nobody has come from before.
func (r *relayAbuse) open(t testing.TB, w relayWay) net.Conn {
	t.Helper()
	return r.openFrom(t, w, int(r.users.Add(1)))
}

func (r *relayAbuse) openFrom(t testing.TB, w relayWay, n int) net.Conn {
	t.Helper()
	ip := net.ParseIP(w.pick(fmt.Sprintf("10.31.%d.%d", n%256, 1+n/256), fmt.Sprintf("fd00:31:%x::1", n)))
	addr := w.pick(gatewayAddr+":443", "["+gatewayAddr6+"]:443")
	var conn net.Conn
	must(t, r.inside.do(func() (err error) {
		d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: ip}}
		network := "tcp"
		if w.via == "udp" {
			network, d.LocalAddr = "udp", &net.UDPAddr{IP: ip}
		}
		conn, err = d.Dial(network, addr)
		return err
	}))
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	if w.via == "tls" {
		secure := tls.Client(conn, &tls.Config{ServerName: gatewayName, InsecureSkipVerify: true})
		must(t, secure.Handshake())
		conn = secure
	}
	return conn
}

// client is a user of the gateway's own that nobody has been before.
func (r *relayAbuse) client(t testing.TB, w relayWay) *turnClient {
	t.Helper()
	c := &turnClient{conn: r.open(t, w), datagram: w.via == "udp"}
	c.username, c.password = ownCredentials(fmt.Sprintf("abuse%d", r.users.Add(1)), time.Hour)
	if c.datagram { // a stream's end gives its allocation back
		t.Cleanup(func() { _, _ = c.conn.Write(c.signed(typeRefresh, attr(attrLifetime, make([]byte, 4)))) })
	}
	return c
}

func ownCredentials(who string, life time.Duration) (username, password string) {
	username = fmt.Sprintf("%d:%s", time.Now().Add(life).Unix(), who)
	return username, restPassword(ownSecret, username)
}

// allocated is a client with an allocation of its way's family.
func (r *relayAbuse) allocated(t testing.TB, w relayWay) *turnClient {
	t.Helper()
	c := r.client(t, w)
	if code, err := c.allocate(w.family()); code != 0 || err != nil {
		t.Fatalf("the control: an Allocate: %d %v", code, err)
	}
	return c
}

// want checks the code that a request is answered with.
func (c *turnClient) want(t testing.TB, what string, msg []byte, codes ...int) {
	t.Helper()
	answer, err := c.ask(msg)
	if err != nil {
		t.Errorf("%s: %v", what, err)
	} else if code := stunCode(answer); !slices.Contains(codes, code) {
		t.Errorf("%s: %d, want one of %v", what, code, codes)
	}
}

// refused is the counter of packets that the gateway did not pass on.
func (r *relayAbuse) refused(why string) float64 {
	return r.metric(`hafen_relay_refused_packets_total{why="` + why + `"}`)
}

func TestAbuse_Relay(t *testing.T) {
	t.Parallel()
	r := newRelayAbuse(t, "")
	base := r.load()
	together(t, func(func(string, func(*testing.T))) {
		for _, w := range r.ways() { // the same battery as in bridge, on the engine
			t.Run("A-26 to A-31 "+w.name, func(t *testing.T) {
				t.Parallel()
				r.pieces(t, w)
				r.malformed(t, w)
				r.killers(t, w)
				r.oddAddresses(t, w, true)
			})
		}
	})
	for _, w := range relayWays {
		t.Run(w.String(), func(t *testing.T) {
			t.Run("A-01 to A-12", func(t *testing.T) { r.forbiddenPeers(t, w) })
			t.Run("A-13", func(t *testing.T) { r.ownAddresses(t, w) })
			t.Run("A-15", func(t *testing.T) { r.dependencies(t, w) })
			t.Run("A-16", func(t *testing.T) { r.serverPorts(t, w) })
			t.Run("A-17", func(t *testing.T) { r.allOrNone(t, w) })
			t.Run("A-18", func(t *testing.T) { r.withoutPermission(t, w) })
			t.Run("A-20", func(t *testing.T) { r.inboundWithoutPermission(t, w) })
			t.Run("A-21", func(t *testing.T) { r.channelNumbers(t, w) })
			t.Run("A-24", func(t *testing.T) { r.tcpRelaying(t, w) })
			t.Run("A-34", func(t *testing.T) { r.nonces(t, w) })
			t.Run("A-35", func(t *testing.T) { r.names(t, w) })
			t.Run("A-36", func(t *testing.T) { r.replays(t, w) })
			t.Run("A-37", func(t *testing.T) { r.timestamps(t, w) })
			t.Run("A-41", func(t *testing.T) { r.integrity(t, w) })
		})
	}
	together(t, func(run func(string, func(*testing.T))) {
		run("A-18 after its time", func(t *testing.T) { r.permissionEnds(t) })
		run("A-38", func(t *testing.T) { r.credentialEnds(t) })
	})
	t.Run("A-22", func(t *testing.T) { r.manyPermissions(t) })
	t.Run("A-40", func(t *testing.T) { r.timing(t) })
	t.Run("A-46", func(t *testing.T) { r.unreadStream(t) })
	t.Run("A-49", func(t *testing.T) { r.portChoice(t) })
	r.alive(t)
	r.backTo(t, base, 40*time.Second)
	t.Run("A-34 after a restart", func(t *testing.T) { r.nonceOfBefore(t) })
	t.Run("A-23", func(t *testing.T) { r.limits(t) })
	t.Run("A-50", func(t *testing.T) { r.bandwidth(t) })
	r.alive(t)
	for _, bad := range []string{"INJECTED", "\x1b"} {
		if log := r.gateway.out.String(); strings.Contains(log, bad) {
			t.Errorf("the log holds %q of a client's", bad)
		}
	}
}

// granted tries to get permissions and channels for peers, and returns those that were given. Data is sent to each as well.
func (c *turnClient) granted(t testing.TB, peers []netip.AddrPort) (got []netip.AddrPort) {
	t.Helper()
	number := uint16(0x4001)
	for _, peer := range peers {
		if c.permit(t, peer) == 0 || c.bind(t, number, peer) == 0 {
			got = append(got, peer)
		}
		_, _ = c.conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("x"))), peer))
		_, _ = c.conn.Write(channelData(number, []byte("x")))
		number++
	}
	return got
}

func peersOf(addrs []string, ports ...uint16) (peers []netip.AddrPort) {
	for _, text := range addrs {
		for _, port := range ports {
			peers = append(peers, netip.AddrPortFrom(netip.MustParseAddr(text).WithZone(""), port))
		}
	}
	return peers
}

// edges lie beside what is private: they are public, and the control.
var edges = strings.Fields("9.255.255.255 11.0.0.0 172.15.255.255 172.32.0.0")

func (r *relayAbuse) forbiddenPeers(t *testing.T, w relayWay) {
	r.canary.take()
	c := r.allocated(t, w)
	if got := c.granted(t, peersOf(forbiddenAddresses, 443)); len(got) > 0 {
		t.Errorf("granted: %v", got)
	}
	r.noCanary(t)
	for _, text := range append(slices.Clone(allowedAddresses), edges...) {
		peer := netip.MustParseAddrPort(hostPort(text, 443))
		switch code := c.permit(t, peer); {
		case peer.Addr().Is6() != w.v6 && code != 443, peer.Addr().Is6() == w.v6 && code != 0:
			t.Errorf("%s: %d", text, code)
		case code == 0 && slices.Contains(allowedAddresses, text):
			waitFor(t, "the control at "+text, 5*time.Second, func() bool {
				_, _ = c.conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("x"))), peer))
				return r.canary.take()[peer.Addr()] > 0
			})
		}
	}
}

// ownAddresses lead nowhere but to another allocation, and there inside the process.
func (r *relayAbuse) ownAddresses(t *testing.T, w relayWay) {
	one, two := r.allocated(t, w), r.allocated(t, w)
	if got := one.granted(t, peersOf([]string{gatewayAddr, gatewayAddr6, "198.18.255.1", "2001:db8:ffff::1", "127.0.0.1", "::1"}, 443, 9443, 3128, 53, 3478, 60001)); len(got) > 0 {
		t.Errorf("granted: %v", got)
	}
	for c, other := range map[*turnClient]*turnClient{one: two, two: one} {
		if code := c.bind(t, 0x4fff, other.relayed); code != 0 {
			t.Fatalf("a live relayed address: %d", code)
		}
	}
	_, _ = one.conn.Write(channelData(0x4fff, []byte("handed over")))
	if b, err := two.read(3 * time.Second); err != nil || !strings.Contains(string(b), "handed over") {
		t.Errorf("handed over: %q %v", b, err)
	}
	if w.v6 || w.via != "tls" {
		return
	}
	// An address that the machine gets while the gateway runs is its own from then on.
	late := netip.MustParseAddrPort("11.22.33.44:443")
	if code := one.permit(t, late); code != 0 {
		t.Fatalf("the control: %d", code)
	}
	r.dmz.run(t, "ip", "addr", "add", "11.22.33.44/32", "dev", "lo")
	waitFor(t, "a new address to be known as own", 30*time.Second, func() bool { return r.allocated(t, w).permit(t, late) == 403 })
}

func (r *relayAbuse) dependencies(t *testing.T, w relayWay) {
	if w.v6 {
		return // they have IPv4 addresses
	}
	c := r.allocated(t, w)
	waitFor(t, "the call servers to be resolved", 15*time.Second, func() bool {
		return c.permit(t, netip.MustParseAddrPort(dependencyAddr+":443")) == 403
	})
	if got := c.granted(t, peersOf([]string{resolverAddr, dependencyAddr, cloudAddr, fraAddr}, 443, 3478, 53, 50000)); len(got) > 0 {
		t.Errorf("granted: %v", got)
	}
}

func (r *relayAbuse) serverPorts(t *testing.T, w relayWay) {
	r.canary.take()
	c := r.allocated(t, w)
	addr := w.pick("8.8.8.8", "2606:4700::1111")
	for _, port := range []int{22, 25, 53, 80, 445, 1023, 3306, 5432, 11211} {
		peer := netip.MustParseAddrPort(hostPort(addr, port))
		if code := c.bind(t, 0x4001, peer); code != 403 {
			t.Errorf("a channel to port %d: %d", port, code)
		}
	}
	// A permission is for all ports (RFC 8656 section 9), so data is judged by itself.
	before := r.refused("policy")
	if code := c.permit(t, netip.MustParseAddrPort(hostPort(addr, 50000))); code != 0 {
		t.Fatalf("the control: %d", code)
	}
	for _, port := range []int{22, 80} {
		_, _ = c.conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("x"))), netip.MustParseAddrPort(hostPort(addr, port))))
	}
	waitFor(t, "what was dropped to be counted", 5*time.Second, func() bool { return r.refused("policy") >= before+2 })
	r.noCanary(t)
}

func (r *relayAbuse) allOrNone(t *testing.T, w relayWay) {
	r.canary.take()
	c := r.allocated(t, w)
	good := netip.MustParseAddrPort(hostPort(w.pick("8.8.8.8", "2606:4700::1111"), 443))
	bad := netip.MustParseAddrPort(hostPort(w.pick("10.0.0.1", "fc00::1"), 443))
	for _, peers := range [][]netip.AddrPort{{good, bad}, {bad, good}} {
		if code := c.permit(t, peers...); code != 403 {
			t.Errorf("%v: %d", peers, code)
		}
		_, _ = c.conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("x"))), good))
	}
	r.noCanary(t)
}

func (r *relayAbuse) withoutPermission(t *testing.T, w relayWay) {
	r.canary.take()
	c := r.allocated(t, w)
	before := r.refused("no_permission_out")
	good := netip.MustParseAddrPort(hostPort(w.pick("8.8.8.8", "2606:4700::1111"), 443))
	_, _ = c.conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("x"))), good))
	_, _ = c.conn.Write(channelData(0x4001, []byte("x")))
	waitFor(t, "what was dropped to be counted", 5*time.Second, func() bool { return r.refused("no_permission_out") >= before+2 })
	r.noCanary(t)
}

func (r *relayAbuse) inboundWithoutPermission(t *testing.T, w relayWay) {
	c := r.allocated(t, w)
	peer := r.peer(t, w)
	before := r.refused("no_permission_in")
	for range 3 {
		_, err := peer.WriteToUDPAddrPort([]byte("uninvited"), c.relayed)
		must(t, err)
	}
	waitFor(t, "what was dropped to be counted", 5*time.Second, func() bool { return r.refused("no_permission_in") >= before+3 })
	if code := c.permit(t, peer.LocalAddr().(*net.UDPAddr).AddrPort()); code != 0 {
		t.Fatalf("the control: %d", code)
	}
	_, err := peer.WriteToUDPAddrPort([]byte("invited"), c.relayed)
	must(t, err)
	if b, err := c.read(5 * time.Second); err != nil || string(find(b, attrData)) != "invited" {
		t.Errorf("the client got %q, %v", b, err)
	}
}

// peer is a socket at a public address, where the aviary is.
func (r *relayAbuse) peer(t testing.TB, w relayWay) *net.UDPConn {
	t.Helper()
	conn, err := r.aviary.listenPacket(w.pick("8.8.4.4:0", "[2606:4700::1001]:0"))
	must(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (r *relayAbuse) channelNumbers(t *testing.T, w relayWay) {
	c := r.allocated(t, w)
	addr := w.pick("8.8.8.8", "2606:4700::1111")
	peer, other := netip.MustParseAddrPort(hostPort(addr, 50001)), netip.MustParseAddrPort(hostPort(addr, 50002))
	for _, number := range []uint16{0, 0x3fff, 0x5000, 0x7fff, 0x8000, 0xffff} {
		if code := c.bind(t, number, peer); code != 400 {
			t.Errorf("channel %#x: %d", number, code)
		}
	}
	for _, step := range []struct {
		number uint16
		peer   netip.AddrPort
		code   int
	}{{0x4000, peer, 0}, {0x4000, peer, 0}, {0x4000, other, 400}, {0x4fff, peer, 400}, {0x4fff, other, 0}} {
		if code := c.bind(t, step.number, step.peer); code != step.code {
			t.Errorf("channel %#x to %s: %d, want %d", step.number, step.peer, code, step.code)
		}
	}
}

func (r *relayAbuse) tcpRelaying(t *testing.T, w relayWay) {
	c := r.client(t, w)
	must(t, c.challenge())
	c.want(t, "an Allocate for TCP", c.signed(typeAllocate, attr(attrTransport, []byte{6, 0, 0, 0})), 442)
	c.want(t, "Connect", c.signed(0x000a), 400)
	c.want(t, "ConnectionBind", c.signed(0x000b), 400)
}

// limits are those of a user, of a client, and of all together. What is given back is free again.
func (r *relayAbuse) limits(t *testing.T) {
	r.again(t, r.cfg+"limits: {allocations_per_user: 5, allocations_per_client: 8, allocations: 12}\n")
	w := relayWays[1]
	from := func(source int, who string) (*turnClient, int) {
		c := &turnClient{conn: r.openFrom(t, w, source)}
		c.username, c.password = ownCredentials(who, time.Hour)
		code, err := c.allocate()
		must(t, err)
		return c, code
	}
	var held []*turnClient
	for _, step := range []struct {
		source int
		who    string
		codes  []int
	}{
		{40001, "alice", []int{0, 0, 0, 0, 0, 486}}, {40002, "alice", []int{486}}, // the user, wherever from
		{40001, "bob", []int{0, 0, 0, 486}},                                   // the client
		{40003, "carol", []int{0, 0, 0, 0, 508}}, {40004, "dave", []int{508}}, // all
	} {
		for i, want := range step.codes {
			c, code := from(step.source, step.who)
			if code != want {
				t.Fatalf("%s's allocation %d from client %d: %d, want %d", step.who, i+1, step.source, code, want)
			}
			if code == 0 {
				held = append(held, c)
			}
		}
	}
	held[0].want(t, "a Refresh to nothing", held[0].signed(typeRefresh, attr(attrLifetime, make([]byte, 4))), 0)
	if _, code := from(40004, "dave"); code != 0 {
		t.Errorf("with a place given back: %d", code)
	}
}

// nonceOfBefore: what a process issued is stale to the next.
func (r *relayAbuse) nonceOfBefore(t *testing.T) {
	w := relayWays[0]
	c := r.client(t, w)
	must(t, c.challenge())
	msg := c.signed(typeAllocate, udpTransport)
	r.again(t, r.cfg)
	c.want(t, "an Allocate with a nonce of the process before", msg, 438)
}

// answerAll answers what arrives at a peer until the test ends, and counts its bytes.
func answerAll(peer *net.UDPConn, count *atomic.Int64) {
	buf := make([]byte, 2048)
	for {
		n, from, err := peer.ReadFromUDPAddrPort(buf)
		if err != nil {
			return
		}
		count.Add(int64(n))
		_, _ = peer.WriteToUDPAddrPort(buf[:n], from)
	}
}

// beside measures round trips of a well-behaved client to a peer while something else goes on, until stop is called.
func (r *relayAbuse) beside(t *testing.T, w relayWay) (stop func() (delays []time.Duration, lost int)) {
	t.Helper()
	c, peer := r.allocated(t, w), r.peer(t, w)
	if code := c.bind(t, 0x4000, peer.LocalAddr().(*net.UDPAddr).AddrPort()); code != 0 {
		t.Fatalf("bind: %d", code)
	}
	go answerAll(peer, new(atomic.Int64))
	_ = c.conn.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	var delays []time.Duration
	lost := 0
	go func() {
		defer close(done)
		for i := uint32(0); ctx.Err() == nil; i++ {
			began := time.Now()
			_, _ = c.conn.Write(channelData(0x4000, binary.BigEndian.AppendUint32(nil, i)))
			if _, err := c.read(3 * time.Second); err != nil {
				lost++
			}
			delays = append(delays, time.Since(began))
			time.Sleep(10 * time.Millisecond)
		}
	}()
	return func() ([]time.Duration, int) {
		cancel()
		<-done
		slices.Sort(delays)
		return delays, lost
	}
}

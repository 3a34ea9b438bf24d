package e2e

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// delayLine is a router that takes its time: every packet to or from the addresses it is told of is held back, as it would
// be by the way to another continent. The packets come in and go out by a TUN device in the namespace in the middle.
type delayLine struct {
	ns  *namespace
	tun *os.File
	wg  sync.WaitGroup

	mu    sync.Mutex
	lanes map[netip.Addr]*lane
}

// lane holds the packets of one address back, in their order.
type lane struct {
	oneWay time.Duration
	shaken time.Duration // on top, between nothing and so much, for each packet anew: they overtake each other
	held   chan heldPacket
}

type heldPacket struct {
	due    time.Time
	packet []byte
}

// delayDevice is the TUN device, delayTable the routes that lead into it, and delayRule the first of its rules.
const (
	delayDevice = "hfdelay"
	delayTable  = "77"
	delayRule   = 100
)

func newDelayLine(t testing.TB, ns *namespace) *delayLine {
	t.Helper()
	d := &delayLine{ns: ns, lanes: make(map[netip.Addr]*lane)}
	must(t, ns.do(func() (err error) {
		d.tun, err = openTUN(delayDevice)
		return err
	}))
	ns.run(t, "ip", "link", "set", delayDevice, "up")
	for _, conf := range []string{"all", "default", delayDevice} {
		ns.run(t, "sysctl", "-qw", "net.ipv4.conf."+conf+".rp_filter=0")
	}
	ns.run(t, "ip", "route", "add", "default", "dev", delayDevice, "table", delayTable)
	// What comes out of the device goes its usual way: the rules that lead into it come behind.
	ns.run(t, "ip", "rule", "add", "iif", delayDevice, "lookup", "main", "pref", fmt.Sprint(delayRule))
	d.wg.Add(1)
	go d.read()
	t.Cleanup(d.close)
	return d
}

func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	req, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	req.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, req); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// set has every packet to and from an address take so much longer, each way.
func (d *delayLine) set(t testing.TB, address string, oneWay time.Duration) {
	t.Helper()
	addr := netip.MustParseAddr(address)
	d.mu.Lock()
	l, known := d.lanes[addr]
	if !known {
		l = &lane{held: make(chan heldPacket, 4096)}
		d.lanes[addr] = l
		d.wg.Add(1)
		go d.release(l)
	}
	l.oneWay = oneWay
	d.mu.Unlock()
	if !known {
		d.ns.run(t, "ip", "rule", "add", "to", address, "lookup", delayTable, "pref", fmt.Sprint(delayRule+1))
		d.ns.run(t, "ip", "rule", "add", "from", address, "lookup", delayTable, "pref", fmt.Sprint(delayRule+1))
	}
}

// shake has every packet to and from an address take up to so much longer.
func (d *delayLine) shake(t testing.TB, address string, most time.Duration) {
	t.Helper()
	d.set(t, address, time.Millisecond)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lanes[netip.MustParseAddr(address)].shaken = most
}

// read takes packets out of the device and puts them into their address's lane; a full lane drops, as routers do.
func (d *delayLine) read() {
	defer d.wg.Done()
	buf := make([]byte, 64<<10)
	for {
		n, err := d.tun.Read(buf)
		if err != nil {
			break
		}
		if l, oneWay, shaken := d.laneOf(buf[:n]); l != nil {
			if shaken > 0 {
				packet := append([]byte(nil), buf[:n]...)
				time.AfterFunc(oneWay+rand.N(shaken), func() { _, _ = d.tun.Write(packet) })
				continue
			}
			select {
			case l.held <- heldPacket{time.Now().Add(oneWay), append([]byte(nil), buf[:n]...)}:
			default:
			}
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, l := range d.lanes {
		close(l.held)
	}
}

func (d *delayLine) laneOf(packet []byte) (l *lane, oneWay, shaken time.Duration) {
	if len(packet) < 20 || packet[0]>>4 != 4 {
		return nil, 0, 0
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, at := range []int{16, 12} {
		if l := d.lanes[netip.AddrFrom4([4]byte(packet[at:at+4]))]; l != nil {
			return l, l.oneWay, l.shaken
		}
	}
	return nil, 0, 0
}

// release gives packets back when they are due.
func (d *delayLine) release(l *lane) {
	defer d.wg.Done()
	for p := range l.held {
		time.Sleep(time.Until(p.due))
		_, _ = d.tun.Write(p.packet)
	}
}

func (d *delayLine) close() {
	_ = d.tun.Close()
	d.wg.Wait()
}

// distances is a scene of regions that are so far away, one way.
func distances(t testing.TB, oneWay map[relay]time.Duration) *scene {
	sc := &scene{}
	for _, r := range []relay{frankfurt, london, newYork} { // the nearest is not the first
		if _, there := oneWay[r]; there {
			sc.regions = append(sc.regions, r)
		}
	}
	sc.between = func(l *laboratory) {
		line := newDelayLine(t, l.net.core)
		for r, d := range oneWay {
			line.set(t, r.addr, d)
		}
	}
	return sc
}

// waitNearest waits until all regions have answered, and the one is chosen.
func (l *laboratory) waitNearest(chosen relay) {
	l.t.Helper()
	for _, r := range l.snapshot().Services[0].Regions {
		l.waitRungs(r.Name, "udp:3478")
	}
	l.waitChosen(chosen.region, 20*time.Second)
}

// TestNearest: three regions at different distances. The nearest gets the calls; when it falls silent, the next nearest.
func TestNearest(t *testing.T) { scenarioWithout(t, nearest) }

func nearest(t *testing.T) {
	l := distances(t, map[relay]time.Duration{london: 10 * time.Millisecond, frankfurt: 40 * time.Millisecond, newYork: 80 * time.Millisecond}).standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	l.waitNearest(london)
	for _, r := range l.snapshot().Services[0].Regions {
		t.Logf("%s: %.1f ms over %s", r.Name, r.RTTms, r.Rung)
	}
	call := l.smallCall(t, ward, "tls", 10*time.Second)
	t.Logf("a call connected in %v at %s", call.took.Round(time.Millisecond), call.relayedAt())
	if call.relayedAt() != london.addr {
		t.Errorf("the call is relayed at %s, want the nearest, %s", call.relayedAt(), london.addr)
	}
	l.waitRungs("london", "udp:443", "tcp:3478", "tls:443")
	cut := l.silence(t, london)
	l.closedSoon(t, call, cut)
	next := l.smallCall(t, ward, "tls", newCallMost)
	t.Logf("a new call connected in %v, %v after the cut", next.took.Round(time.Millisecond), time.Since(cut).Round(time.Millisecond))
	if next.relayedAt() != frankfurt.addr {
		t.Errorf("a new call is relayed at %s, want the next nearest, %s", next.relayedAt(), frankfurt.addr)
	}
	l.waitChosen("frankfurt", 10*time.Second)
}

// wobble is ten minutes in make long.
var wobble = flag.Duration("wobble", time.Minute, "how long the distances of regions wobble before one of them moves")

// TestNearestMoves: the regions' distances change. A wobble moves nobody; a region that has been nearer for half a minute
// gets the new calls, and the calls that there are stay where they are.
func TestNearestMoves(t *testing.T) {
	if !*long {
		t.Skip("takes two minutes: run with -long")
	}
	var line *delayLine
	sc := &scene{regions: []relay{frankfurt, london}}
	sc.between = func(l *laboratory) {
		line = newDelayLine(t, l.net.core)
		line.set(t, frankfurt.addr, 20*time.Millisecond)
		line.set(t, london.addr, 15*time.Millisecond)
	}
	l := sc.standUp(t)
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway)
	l.waitRungs("frankfurt", "udp:3478")
	l.waitChosen("london", 20*time.Second)
	call := l.smallCall(t, ward, "tls", 10*time.Second)
	for i, end := 0, time.Now().Add(*wobble); time.Now().Before(end); i++ {
		line.set(t, london.addr, 15*time.Millisecond+time.Duration(i%3-1)*8*time.Millisecond)
		line.set(t, frankfurt.addr, 20*time.Millisecond-time.Duration(i%3-1)*8*time.Millisecond)
		time.Sleep(2 * time.Second)
		if chosen := l.snapshot().Services[0].Chosen; chosen != "london" {
			t.Fatalf("a wobble moved new calls to %s", chosen)
		}
	}
	line.set(t, london.addr, 90*time.Millisecond)
	line.set(t, frankfurt.addr, 20*time.Millisecond)
	moved := time.Now()
	l.waitChosen("frankfurt", 3*time.Minute)
	t.Logf("new calls go to frankfurt %v after it became the nearer", time.Since(moved).Round(time.Second))
	if since := time.Since(moved); since < 30*time.Second {
		t.Errorf("the choice moved after %v, want 30 s at least", since)
	}
	before := call.ends[0].got.Load()
	waitFor(t, "packets of the call that there was", 10*time.Second, func() bool { return call.ends[0].got.Load() > before+50 })
	if next := l.smallCall(t, ward, "tls", 10*time.Second); next.relayedAt() != frankfurt.addr {
		t.Errorf("a new call is relayed at %s, want %s", next.relayedAt(), frankfurt.addr)
	}
}

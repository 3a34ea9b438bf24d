package cloud

import (
	"bytes"
	"crypto/tls"
	"encoding/json"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/pion/turn/v4"
)

// allocate makes an allocation with pion's client over one of a region's URLs.
func allocate(t *testing.T, url, username, password string, roots *tls.Config) (*turn.Client, net.PacketConn, error) {
	t.Helper()
	scheme, rest, _ := strings.Cut(url, ":")
	addr, query, _ := strings.Cut(rest, "?")
	conn := dialTURN(t, scheme, addr, query, roots)
	client, err := turn.NewClient(&turn.ClientConfig{
		STUNServerAddr: addr, TURNServerAddr: addr, Conn: conn,
		Username: username, Password: password, Realm: defaultRealm, RTO: 500 * time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		client.Close()
		_ = conn.Close()
	})
	if err := client.Listen(); err != nil {
		t.Fatal(err)
	}
	relayed, err := client.Allocate()
	if err == nil {
		t.Cleanup(func() { _ = relayed.Close() })
	}
	return client, relayed, err
}

func dialTURN(t *testing.T, scheme, addr, query string, roots *tls.Config) net.PacketConn {
	t.Helper()
	if query == "transport=udp" {
		pc, err := net.ListenPacket("udp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return pc
	}
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	if scheme == "turns" {
		conn = tls.Client(conn, roots)
	}
	return turn.NewSTUNConn(conn)
}

// Credentials of /ice make allocations over UDP, TCP and TLS; two of them reach each other.
func TestRelayOverEveryTransport(t *testing.T) {
	server, roots := testTLS(t)
	c := startCloud(t, Options{TLS: server, Regions: []RegionOptions{everyTransport("a")}})
	ice := c.ICEServers("anna", "a")[0]
	if len(ice.URLs) != 3 {
		t.Fatalf("URLs: %v", ice.URLs)
	}
	peer, far, err := allocate(t, ice.URLs[0], ice.Username, ice.Credential, roots)
	if err != nil {
		t.Fatal(err)
	}
	if err := peer.CreatePermission(far.LocalAddr()); err != nil { // the region's address: all of them have it
		t.Fatal(err)
	}
	go echoPackets(far)
	for _, url := range ice.URLs {
		_, near, err := allocate(t, url, ice.Username, ice.Credential, roots)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		// Many packets of many sizes: the first ones are Send indications, the later ones ChannelData.
		// (pion's framing keeps ChannelData of up to 4 bytes back until the next frame: nothing as short is sent.)
		for i := range 40 {
			sendAndExpect(t, near, far.LocalAddr(), bytes.Repeat([]byte{byte(i)}, 5+i*29))
		}
	}
	if n := c.Region("a").Allocations(); n != 4 {
		t.Errorf("%d allocations", n)
	}
	if !c.Region("a").hasRelay(far.LocalAddr().(*net.UDPAddr).AddrPort()) {
		t.Error("the region does not know its own relayed address")
	}
}

func echoPackets(pc net.PacketConn) {
	b := make([]byte, 2000)
	for {
		n, from, err := pc.ReadFrom(b)
		if err != nil {
			return
		}
		_, _ = pc.WriteTo(b[:n], from)
	}
}

// sendAndExpect sends a packet until it comes back: it goes over UDP, which may lose it.
func sendAndExpect(t *testing.T, pc net.PacketConn, to net.Addr, payload []byte) {
	t.Helper()
	b := make([]byte, 2000)
	for range 5 {
		if _, err := pc.WriteTo(payload, to); err != nil {
			t.Fatal(err)
		}
		_ = pc.SetReadDeadline(time.Now().Add(time.Second))
		if n, _, err := pc.ReadFrom(b); err == nil {
			if !bytes.Equal(b[:n], payload) {
				t.Fatalf("%d bytes came back for %d", n, len(payload))
			}
			return
		}
	}
	t.Fatalf("%d bytes did not come back", len(payload))
}

func TestWrongCredentialsGet401(t *testing.T) {
	c := startCloud(t, Options{Regions: []RegionOptions{everyUDP("a")}})
	url := c.Region("a").URLs()[0]
	user, password := c.Credentials("anna")
	for name, pair := range map[string][2]string{"password": {user, password + "x"}, "user": {"anna", password}} {
		_, _, err := allocate(t, url, pair[0], pair[1], nil)
		if err == nil || !strings.Contains(err.Error(), "401") {
			t.Errorf("wrong %s: %v", name, err)
		}
	}
	if n := c.Region("a").Allocations(); n != 0 {
		t.Errorf("%d allocations", n)
	}
}

// The frames that spin pion's reader end the connection instead, and the region goes on.
func TestKillerFrames(t *testing.T) {
	c := startCloud(t, Options{Regions: []RegionOptions{{Name: "a", TCP: []string{"127.0.0.1:0"}}}})
	url := c.Region("a").URLs()[0]
	addr := strings.TrimSuffix(strings.TrimPrefix(url, "turn:"), "?transport=tcp")
	for name, frame := range killers() {
		conn, err := net.Dial("tcp", addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Write(frame); err != nil {
			t.Fatal(err)
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if n, err := conn.Read(make([]byte, 10)); n != 0 || err == nil || isTimeout(err) {
			t.Errorf("%s: the connection was not closed: %d %v", name, n, err)
		}
		_ = conn.Close()
	}
	user, password := c.Credentials("anna")
	if _, _, err := allocate(t, url, user, password, nil); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// First bytes one at a time make the same frames.
func TestBytewiseStream(t *testing.T) {
	c := startCloud(t, Options{Regions: []RegionOptions{{Name: "a", TCP: []string{"127.0.0.1:0"}}}})
	url := c.Region("a").URLs()[0]
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(url, "turn:"), "?transport=tcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	binding := append([]byte{0, 1, 0, 0, 0x21, 0x12, 0xA4, 0x42}, []byte("transaction!")...)
	for _, b := range binding {
		if _, err := conn.Write([]byte{b}); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * time.Millisecond)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer := make([]byte, 200)
	if n, err := conn.Read(answer); err != nil || !bytes.Equal(answer[8:20], []byte("transaction!")) {
		t.Errorf("answer: %x %v", answer[:n], err)
	}
}

// A farther region answers later, by twice its delay.
func TestDelay(t *testing.T) {
	server, roots := testTLS(t)
	near, far := everyTransport("near"), everyTransport("far")
	far.Delay = 60 * time.Millisecond
	c := startCloud(t, Options{TLS: server, Regions: []RegionOptions{near, far}})
	user, password := c.Credentials("anna")
	trip := func(url string) time.Duration {
		client, _, err := allocate(t, url, user, password, roots)
		if err != nil {
			t.Fatalf("%s: %v", url, err)
		}
		best := time.Hour
		for range 3 {
			began := time.Now()
			if _, err := client.SendBindingRequest(); err != nil {
				t.Fatal(err)
			}
			best = min(best, time.Since(began))
		}
		return best
	}
	for i, url := range c.Region("far").URLs() {
		fast, slow := trip(c.Region("near").URLs()[i]), trip(url)
		if slow < 120*time.Millisecond || slow > time.Second || fast > slow/2 {
			t.Errorf("%s: %v, near %v", url, slow, fast)
		}
	}
}

// A region that is cut off closes its streams at once, is silent over UDP, and comes back for new sessions.
func TestSetDown(t *testing.T) {
	c := startCloud(t, Options{Regions: []RegionOptions{{Name: "a", UDP: []string{"127.0.0.1:0"}, TCP: []string{"127.0.0.1:0"}}}})
	r := c.Region("a")
	user, password := c.Credentials("anna")
	if _, _, err := allocate(t, r.URLs()[0], user, password, nil); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", strings.TrimSuffix(strings.TrimPrefix(r.URLs()[1], "turn:"), "?transport=tcp"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	time.Sleep(50 * time.Millisecond) // until it is accepted
	r.SetDown(true)
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := conn.Read(make([]byte, 1)); err == nil || isTimeout(err) {
		t.Errorf("the stream lives on: %v", err)
	}
	waitFor(t, "the allocation to end", func() bool { return r.Allocations() == 0 })
	if !r.Down() {
		t.Error("it does not say that it is down")
	}
	r.SetDown(false)
	if _, _, err := allocate(t, r.URLs()[1], user, password, nil); err != nil {
		t.Errorf("after coming back: %v", err)
	}
}

func waitFor(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestICEEndpoint(t *testing.T) {
	c := startCloud(t, Options{
		ForceRelay: true, Gateway: []string{"turns:gw.example:443?transport=tcp"},
		Regions: []RegionOptions{
			{Name: "a", Label: "Aachen", Host: "a.relay.example", UDP: []string{"127.0.0.1:0"}},
			everyUDP("b"),
			{Name: "c", URLs: []string{"turn:c.example:3478?transport=udp"}, PublicIP: netip.MustParseAddr("192.0.2.9")},
		},
	})
	var all iceAnswer
	getJSON(t, c.URL()+"ice?user=anna", &all)
	if len(all.ICEServers) != 4 || all.ICEServers[0].URLs[0] != "turns:gw.example:443?transport=tcp" || all.ICETransportPolicy != "relay" {
		t.Errorf("all: %+v", all)
	}
	for _, s := range all.ICEServers {
		if s.Username != all.ICEServers[0].Username || s.Credential != restPassword(c.opts.Secret, s.Username) || !strings.HasSuffix(s.Username, ":anna") {
			t.Errorf("credentials: %+v", s)
		}
	}
	if !strings.HasPrefix(all.ICEServers[1].URLs[0], "turn:a.relay.example:") || all.Regions[0].Label != "Aachen" {
		t.Errorf("region a: %+v", all.ICEServers[1])
	}
	var one iceAnswer
	getJSON(t, c.URL()+"ice?region=c", &one)
	if len(one.ICEServers) != 2 || one.ICEServers[1].URLs[0] != "turn:c.example:3478?transport=udp" {
		t.Errorf("region c: %+v", one)
	}
	var where map[string]string
	getJSON(t, c.URL()+"where?address=192.0.2.9:50000", &where)
	if where["region"] != "c" {
		t.Errorf("where: %v", where)
	}
	for _, bad := range []string{"ice?region=nowhere", "ice?user=a%20b", "where?address=x"} {
		if code, _ := get(t, c.URL()+bad); code/100 != 4 {
			t.Errorf("%s: %d", bad, code)
		}
	}
}

func TestStateTellsWhatGoesOn(t *testing.T) {
	c := startCloud(t, Options{Regions: []RegionOptions{everyUDP("a")}})
	user, password := c.Credentials("anna")
	if _, _, err := allocate(t, c.Region("a").URLs()[0], user, password, nil); err != nil {
		t.Fatal(err)
	}
	w, err := dialSignal(t, c, "id="+anna)
	if err != nil {
		t.Fatal(err)
	}
	w.next("welcome")
	var s State
	getJSON(t, c.URL()+"state", &s)
	if s.Rooms != 1 || s.Members != 1 || s.WebSockets != 1 || s.Regions[0].Allocations != 1 || s.Regions[0].FromClients == 0 {
		b, _ := json.Marshal(s)
		t.Errorf("state: %s", b)
	}
}

package relay

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
	cloudstun "github.com/pion/stun/v3"

	"hafen/configs"
)

// terminating makes a house of mode terminate that knows the region's user.
func terminating(t *testing.T, change func(*Options)) func(*Options) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "password")
	if err := os.WriteFile(file, []byte(pionPassword+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return func(o *Options) {
		o.Config.Relay.Mode, o.Config.DataDir = "terminate", t.TempDir()
		o.Config.Limits.AllocationsPerUser = 40
		o.Config.Services[0].TURNCredentials = configs.TURNCredentials{Username: pionUser, PasswordFile: file}
		if change != nil {
			change(o)
		}
	}
}

// user is a credential that the house has minted.
func (h *house) user(name string) (username, password string) {
	h.t.Helper()
	username, password, err := h.Credentials(name, time.Now())
	if err != nil {
		h.t.Fatal(err)
	}
	return username, password
}

// TestTerminate: every way in through every rung out, with credentials of the gateway's own on this side and the region's on that.
func TestTerminate(t *testing.T) {
	for _, rung := range []string{"udp", "tcp", "tls"} {
		ca := newTestCA(t, "cloud")
		urls := newPionRegion(t, ca)
		h := newHouse(t, []string{urls[rung]}, terminating(t, func(o *Options) { o.Config.Services[0].CAFile = ca.file }))
		for _, via := range []string{"tls", "tcp", "udp"} {
			t.Run(via+" over "+rung, func(t *testing.T) {
				username, password := h.user("alice")
				if username == pionUser || password == pionPassword {
					t.Fatal("the region's credential was handed out")
				}
				client, relayed := h.pionClient(via, username, password)
				exchange(t, relayed, newEcho(t), 60)
				sessions := h.Status().Sessions
				if st := sessions[len(sessions)-1]; st.Region != "near" || !strings.HasPrefix(st.Rung, rung) || st.Test || st.State != "allocated" || st.BytesDown < 20000 {
					t.Errorf("status %+v", st)
				}
				_ = relayed.Close()
				client.Close()
				h.until("the allocation's end", func() bool { return h.Live() == 0 && h.engine.stats().Allocations == 0 })
			})
		}
		if up := h.metric("hafen_relay_bytes_total", "up"); up < 60000 {
			t.Errorf("%v bytes up", up)
		}
	}
}

// rawUser signs requests by hand for a user of the house.
type rawUser struct {
	*rawTURN
	username, password, realm, nonce string
}

func (h *house) rawUser(via, name string) *rawUser {
	h.t.Helper()
	u := &rawUser{rawTURN: h.raw(via)}
	u.username, u.password = h.user(name)
	return u
}

// ask sends a request, signed once there is a nonce, and returns its answer; data that comes before it is dropped.
func (u *rawUser) ask(method stun.Method, attrs ...stun.Setter) *stun.Message {
	u.t.Helper()
	setters := append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attrs...)
	if u.nonce != "" {
		key := stun.NewLongTermIntegrity(u.username, u.realm, u.password)
		setters = append(setters, stun.NewUsername(u.username), stun.NewRealm(u.realm), stun.NewNonce(u.nonce), key)
	}
	m, err := stun.Build(setters...)
	if err != nil {
		u.t.Fatal(err)
	}
	u.send(m.Raw)
	for {
		msg := u.want()
		if isChannelData(msg) || transactionOf(msg) != m.TransactionID {
			continue
		}
		answer := &stun.Message{Raw: msg}
		if err := answer.Decode(); err != nil {
			u.t.Fatal(err)
		}
		return answer
	}
}

// allocate wins an allocation, or gets the code it returns.
func (u *rawUser) allocate() int {
	u.t.Helper()
	m := u.ask(stun.MethodAllocate, udpTransport)
	if codeOf(m) != 401 {
		u.t.Fatalf("unsigned: %d", codeOf(m))
	}
	u.realm, u.nonce = text(m, stun.AttrRealm), text(m, stun.AttrNonce)
	return codeOf(u.ask(stun.MethodAllocate, udpTransport))
}

// TestTerminateOrder: when the client hears that it has a channel, or a permission, the region has it: the first packet passes, both
// ways.
func TestTerminateOrder(t *testing.T) {
	urls := newPionRegion(t, nil)
	for _, rung := range []string{"udp", "tcp"} {
		h := newHouse(t, []string{urls[rung]}, terminating(t, nil))
		u := h.rawUser("tcp", "alice")
		if code := u.allocate(); code != 0 {
			t.Fatalf("Allocate: %d; log:\n%s", code, h.log.String())
		}
		for i := range 10 {
			echo := newEcho(t).String()
			number := uint16(minChannel + i)
			if code := codeOf(u.ask(stun.MethodChannelBind, channelAttr(number), peerAttr(echo))); code != 0 {
				t.Fatalf("ChannelBind: %d", code)
			}
			first := channelFrame(number, fmt.Sprint("first of channel ", i))
			u.send(first)
			if got := u.want(); string(got) != string(first) {
				t.Errorf("%q came back as %q", first, got)
			}
		}
		peer := listenUDP(t, "127.0.0.1:0")
		defer peer.Close()
		if code := codeOf(u.ask(stun.MethodCreatePermission, peerAttr(peer.LocalAddr().String()))); code != 0 {
			t.Fatalf("CreatePermission: %d", code)
		}
		// Permissions have no port: the one for the echoes is this peer's too. So it speaks first.
		relayed := h.engine.snapshot()[0].relayed.address()
		if _, err := peer.WriteToUDPAddrPort([]byte("hello"), relayed); err != nil {
			t.Fatal(err)
		}
		var m stun.Message
		if err := stun.Decode(u.want(), &m); err != nil || text(&m, stun.AttrData) != "hello" {
			t.Errorf("%v %v", m, err)
		}
		_ = u.conn.Close()
		h.until("the allocation's end", func() bool { return h.engine.stats().Allocations == 0 })
	}
}

// TestTerminateSlowRegion: a region that takes its time for an Allocate delays the one client that waits for it.
func TestTerminateSlowRegion(t *testing.T) {
	region := newStandin(t, "region.test", "127.0.0.1", 0, newTestCA(t, "cloud")) // answers Binding and nothing else
	h := newHouse(t, []string{region.url("udp")}, terminating(t, nil))
	waiting := h.rawUser("tcp", "alice")
	m := waiting.ask(stun.MethodAllocate, udpTransport)
	waiting.realm, waiting.nonce = text(m, stun.AttrRealm), text(m, stun.AttrNonce)
	key := stun.NewLongTermIntegrity(waiting.username, waiting.realm, waiting.password)
	request := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest), udpTransport,
		stun.NewUsername(waiting.username), stun.NewRealm(waiting.realm), stun.NewNonce(waiting.nonce), key)
	waiting.send(request.Raw)
	h.until("the Allocate's way to the region", func() bool { return region.asked.Load() > 0 })

	began := time.Now()
	other := h.raw("udp")
	other.send(stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw)
	if code := codeOf(other.answer()); code != 0 {
		t.Errorf("Binding: %d", code)
	}
	username, password, err := h.TestCredentials("run", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	_, relayed := h.pionClient("tcp", username, password)
	_ = relayed.Close()
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("others waited for %v", took)
	}
	// And the one who waits may give up.
	_ = waiting.conn.Close()
}

// TestTerminateRefusals: a region that refuses our credential is the gateway's fault and not the client's; a wrong credential of the
// client's is its own; a full region is 508.
func TestTerminateRefusals(t *testing.T) {
	urls := newPionRegion(t, nil)
	wrong := filepath.Join(t.TempDir(), "wrong")
	if err := os.WriteFile(wrong, []byte("not the password"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHouse(t, []string{urls["udp"]}, terminating(t, func(o *Options) { o.Config.Services[0].TURNCredentials.PasswordFile = wrong }))
	if code := h.rawUser("tcp", "alice").allocate(); code != 500 {
		t.Errorf("with our credential refused: %d, want 500", code)
	}
	forged := h.rawUser("tcp", "alice")
	forged.password = "forged"
	if code := forged.allocate(); code != 401 {
		t.Errorf("with the client's credential wrong: %d, want 401", code)
	}
	for code, want := range map[int]int{486: 508, 508: 508, 401: 500, 441: 500, 403: 403, 443: 443, 437: 437, 300: 500} {
		var told *turnError
		if !errors.As(cloudRefusal(cloudError(code)), &told) || told.code != want {
			t.Errorf("the region's %d becomes %v, want %d", code, told, want)
		}
	}
	h.until("no place to be held", func() bool { h.engine.mu.Lock(); defer h.engine.mu.Unlock(); return h.engine.held == 0 })
}

// TestTerminateRegionDies: the client of a dead region is closed at once.
func TestTerminateRegionDies(t *testing.T) {
	urls := newPionRegion(t, nil)
	h := newHouse(t, []string{urls["udp"]}, terminating(t, nil))
	u := h.rawUser("tls", "alice")
	if code := u.allocate(); code != 0 {
		t.Fatalf("Allocate: %d", code)
	}
	c, ok := h.engine.snapshot()[0].relayed.(*cloudAddress)
	if !ok {
		t.Fatal("the allocation is not the region's")
	}
	c.up.uplink.cause = &deadError{"the region is silent"}
	c.up.die()
	u.closed()
	h.until("the allocation's end", func() bool { return h.engine.stats().Allocations == 0 && h.Live() == 0 })
	if err := h.end(0); statusOf(err) != "err_upstream" {
		t.Errorf("it ends as %v", err)
	}
}

// TestTerminateRegionForgets: a region that has forgotten the allocation says so in answer to the next request, and the client
// learns it.
func TestTerminateRegionForgets(t *testing.T) {
	h := newHouse(t, []string{newCoturn(t)["udp"]}, terminating(t, nil))
	u := h.rawUser("tls", "alice")
	if code := u.allocate(); code != 0 {
		t.Fatalf("Allocate: %d", code)
	}
	c, ok := h.engine.snapshot()[0].relayed.(*cloudAddress)
	if !ok {
		t.Fatal("the allocation is not the region's")
	}
	_ = c.conn.Close() // a Refresh with lifetime 0, which coturn obeys within a second or so
	for end := time.Now().Add(10 * time.Second); h.engine.stats().Allocations > 0; time.Sleep(100 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("an allocation that is gone is still used")
		}
		key := stun.NewLongTermIntegrity(u.username, u.realm, u.password)
		request := stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodCreatePermission, stun.ClassRequest), peerAttr("127.0.0.1:5000"),
			stun.NewUsername(u.username), stun.NewRealm(u.realm), stun.NewNonce(u.nonce), key)
		_, _ = u.conn.Write(request.Raw) // it may be closed already, which is what is waited for
	}
	u.closed()
	if err := h.end(0); statusOf(err) != "err_upstream" {
		t.Errorf("it ends as %v", err)
	}
}

// TestOwnModes: what modes terminate and local have in common, and bridge has not.
func TestOwnModes(t *testing.T) {
	urls := newPionRegion(t, nil)
	local := func(o *Options) {
		o.Config.Relay.Mode, o.Config.DataDir = "local", t.TempDir()
		o.Config.Relay.Local = configs.RelayLocal{Address: netip.MustParseAddr("127.0.0.1"), Ports: "49152-65535"}
		o.Config.Limits.AllocationsPerUser = 2
	}
	for name, change := range map[string]func(*Options){
		"terminate": terminating(t, func(o *Options) { o.Config.Limits.AllocationsPerUser = 2 }), "local": local,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, []string{urls["udp"]}, change)
			for i := range 2 {
				if code := h.rawUser("tcp", "alice").allocate(); code != 0 {
					t.Fatalf("Allocate %d: %d", i, code)
				}
			}
			if code := h.rawUser("udp", "alice").allocate(); code != 486 {
				t.Errorf("beyond the user's quota: %d, want 486", code)
			}
			if code := h.rawUser("udp", "bob").allocate(); code != 0 {
				t.Errorf("another user: %d", code)
			}
			// Who was only challenged is remembered by nobody.
			sessions := h.table.len()
			for range 3 {
				stranger := h.raw("udp")
				stranger.send(stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodAllocate, stun.ClassRequest), udpTransport).Raw)
				if code := codeOf(stranger.answer()); code != 401 {
					t.Errorf("unsigned: %d", code)
				}
			}
			if n := h.table.len(); n != sessions {
				t.Errorf("%d sessions more after three challenges", n-sessions)
			}
			// The test relay is there in every mode.
			username, password, err := h.TestCredentials("run", time.Now())
			if err != nil {
				t.Fatal(err)
			}
			_, a := h.pionClient("tls", username, password)
			_, b := h.pionClient("udp", username, password)
			exchangeInOrder(t, a, b)
			if st := h.engine.stats(); st.TestRuns != 1 || st.TestAllocations != 2 || st.Allocations != 5 {
				t.Errorf("%+v", st)
			}
			h.Drain()
			if code := h.rawUser("tcp", "carol").allocate(); code != 508 {
				t.Errorf("while draining: %d, want 508", code)
			}
			for _, bad := range []string{"", "a:b", "a\nb", strings.Repeat("x", 200)} {
				if _, _, err := h.Credentials(bad, time.Now()); err == nil {
					t.Errorf("user %q was given a credential", bad)
				}
			}
		})
	}
	bridge := newHouse(t, []string{urls["udp"]}, nil)
	if _, _, err := bridge.Credentials("alice", time.Now()); err == nil {
		t.Error("mode bridge mints credentials")
	}
}

func TestTerminateNeedsCredentials(t *testing.T) {
	_, err := New(Options{Config: &configs.Config{DataDir: t.TempDir(), Relay: configs.Relay{Mode: "terminate"}, Services: []configs.Service{{Name: "calls"}}}})
	if !errors.Is(err, errNoCredentials) {
		t.Errorf("%v, want %v", err, errNoCredentials)
	}
}

// TestOwnTurnutils: coturn's own load client in modes local and terminate: nothing is lost, and nothing is left. (It sends
// indications: its channel numbers are those of RFC 5766, up to 0x7FFF.)
func TestOwnTurnutils(t *testing.T) {
	uclient := needs(t, "turnutils_uclient")
	urls := newCoturn(t)
	local := func() *house {
		return newHouse(t, nil, func(o *Options) {
			o.Config.Relay.Mode, o.Config.DataDir = "local", t.TempDir()
			o.Config.Relay.Local = configs.RelayLocal{Address: netip.MustParseAddr("127.0.0.1"), Ports: "49152-65535"}
		})
	}
	terminate := func(rung string) *house { return newHouse(t, []string{urls[rung]}, terminating(t, nil)) }
	// The client waits for stragglers most of the time, so all run at once.
	var wg sync.WaitGroup
	for _, run := range []struct {
		name, via string
		house     *house
	}{
		{"local", "tls", local()},
		{"local", "tcp", local()},
		{"local", "udp", local()},
		{"terminate over udp", "tls", terminate("udp")},
		{"terminate over udp", "udp", terminate("udp")},
		{"terminate over tcp", "tcp", terminate("tcp")},
	} {
		username, password := run.house.user("load")
		wg.Go(func() {
			if err := run.house.load(uclient, run.via, username, password); err != nil {
				t.Errorf("%s by %s: %v\n%s", run.name, run.via, err, run.house.log.String())
				return
			}
			// Over UDP it gives some sockets up without a word, and those allocations expire.
			for end := time.Now().Add(10 * time.Second); run.via != "udp" && run.house.engine.stats().Allocations > 0; time.Sleep(5 * time.Millisecond) {
				if time.Now().After(end) {
					t.Errorf("%s by %s: %+v are left", run.name, run.via, run.house.engine.stats())
					return
				}
			}
		})
	}
	wg.Wait()
}

// load sends four clients' packets to each other.
func (h *house) load(uclient, via, username, password string) error {
	flags, port := []string(nil), h.udpAddr().Port
	switch via {
	case "tls":
		flags, port = []string{"-t", "-S"}, h.tls.Addr().(*net.TCPAddr).Port
	case "tcp":
		flags, port = []string{"-t"}, h.tcp.Addr().(*net.TCPAddr).Port
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args := append(flags, "-u", username, "-w", password, "-y", "-c", "-s", "-m", "4", "-n", "50", "-l", "200", "-z", "5",
		"-p", strconv.Itoa(port), "127.0.0.1")
	out, err := exec.CommandContext(ctx, uclient, args...).CombinedOutput()
	m := lostPackets.FindSubmatch(out)
	switch {
	case err != nil || m == nil:
		return fmt.Errorf("%w\n%s", err, out)
	case string(m[3]) != "0" || string(m[1]) == "0" || string(m[1]) != string(m[2]):
		return fmt.Errorf("sent %s, received %s, lost %s", m[1], m[2], m[3])
	}
	return nil
}

func TestReadICEServers(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	for name, tc := range map[string]struct {
		body     string
		username string
		life     time.Duration
	}{
		"as browsers get it":   {`{"iceServers":[{"urls":"stun:x"},{"urls":["turn:x"],"username":"u","credential":"c"}]}`, "u", iceServersLife},
		"a bare list":          {`[{"urls":["turn:x"],"username":"u","credential":"c"}]`, "u", iceServersLife},
		"TURN REST":            {`{"username":"1800000300:u","password":"c","ttl":86400,"uris":["turn:x"]}`, "1800000300:u", 24 * time.Hour},
		"expiry in the name":   {`[{"username":"1800000300:u","credential":"c"}]`, "1800000300:u", 300 * time.Second},
		"expiry long past":     {`[{"username":"1700000300:u","credential":"c"}]`, "1700000300:u", iceServersLife},
		"a ttl beyond reason":  {`{"username":"u","password":"c","ttl":1e300}`, "u", maxCredentialLife},
		"no credential":        {`{"iceServers":[{"urls":"stun:x"}]}`, "", 0},
		"a page":               {`<html>`, "", 0},
		"nothing":              {``, "", 0},
		"a credential of null": {`[{"username":"u","credential":null}]`, "", 0},
	} {
		got, err := readICEServers([]byte(tc.body))
		if (err == nil) != (tc.username != "") || got.username != tc.username || err == nil && got.life(now) != tc.life {
			t.Errorf("%s: %+v for %v, %v", name, got, got.life(now), err)
		}
	}
}

// TestCloudAccountURL: fetched once for many, again before its end; an answer that fails leaves the old one for as long as it is good.
func TestCloudAccountURL(t *testing.T) {
	clock := &fakeClock{now: time.Unix(1_800_000_000, 0)}
	asked, down := 0, false
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		asked++
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"username": fmt.Sprint("user", asked), "password": "p", "ttl": 600})
	}))
	defer service.Close()
	a := &cloudAccount{url: service.URL, http: service.Client(), now: clock.Now}
	expect := func(want string, requests int) {
		t.Helper()
		username, _, err := a.get(t.Context())
		if username != want || (err == nil) != (want != "") || asked != requests {
			t.Errorf("%q %v after %d requests, want %q after %d", username, err, asked, want, requests)
		}
	}
	expect("user1", 1)
	expect("user1", 1)
	clock.advance(10*time.Minute - iceServersMargin)
	expect("user2", 2)
	down = true
	clock.advance(10*time.Minute - iceServersMargin)
	expect("user2", 3)
	clock.advance(2 * iceServersMargin)
	expect("", 4)
	if strings.Contains(fmt.Sprint(a.get(t.Context())), "user2") {
		t.Error("an expired credential was given out")
	}
}

func cloudError(code int) error {
	e := &cloudstun.TurnError{}
	e.ErrorCodeAttr.Code = cloudstun.ErrorCode(code)
	return e
}

// forgetful answers as coturn does to a port that an earlier client of its has left behind: 437, without a nonce, to the first stale
// Allocates. What it gives then are the ports of relayed, one after the other.
func forgetful(stale int, relayed ...uint16) func(raw []byte) [][]byte {
	var mu sync.Mutex
	key := stun.NewLongTermIntegrity(pionUser, "r", pionPassword)
	return func(raw []byte) [][]byte {
		var m message
		if m.parse(raw) != nil || m.class != stun.ClassRequest {
			return nil
		}
		mu.Lock()
		defer mu.Unlock()
		switch {
		case m.method == stun.MethodAllocate && stale > 0:
			stale--
			return [][]byte{response(&m, stun.ClassErrorResponse, stun.ErrorCode(codeAllocationMismatch))}
		case m.method == stun.MethodAllocate && !m.signed():
			return [][]byte{response(&m, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.Realm("r"), stun.Nonce("0123456789"))}
		case m.method == stun.MethodAllocate:
			at := netip.AddrPortFrom(netip.MustParseAddr("192.0.2.9"), relayed[0])
			relayed = append(relayed[1:], relayed[0])
			return [][]byte{response(&m, stun.ClassSuccessResponse, xorAddressSetter(stun.AttrXORRelayedAddress, at),
				xorAddressSetter(stun.AttrXORMappedAddress, at), lifetimeAttr(600), key)}
		}
		return [][]byte{response(&m, stun.ClassSuccessResponse, lifetimeAttr(0), key)}
	}
}

// TestTerminateTriesAnotherPort: a region that remembers our port says 437, and that is nothing to tell a client (RFC 8656 section
// 7.4).
func TestTerminateTriesAnotherPort(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		stale int
		want  int
	}{"thrice": {3, 0}, "for ever": {1000, 437}} {
		t.Run(name, func(t *testing.T) {
			h := newHouse(t, newTape(t, forgetful(tt.stale, 50001)).urls(), terminating(t, nil))
			if code := h.rawUser("tcp", "alice").allocate(); code != tt.want {
				t.Errorf("%d, want %d; log:\n%s", code, tt.want, h.log.String())
			}
		})
	}
}

// particular is a region that gives what is asked for: an address of the family named, an even port where one is wanted. It checks
// signatures, and has no IPv6 unless v6.
func particular(v6 bool) func(raw []byte) [][]byte {
	key := stun.NewLongTermIntegrity(pionUser, "r", pionPassword)
	return func(raw []byte) [][]byte {
		var m message
		if m.parse(raw) != nil || m.class != stun.ClassRequest {
			return nil
		}
		ip, port := "192.0.2.9", uint16(50001)
		if len(m.evenPort) == 1 {
			port++
		}
		if len(m.family) == 4 && m.family[0] == familyIPv6 {
			ip = "2001:db8::9"
		}
		switch {
		case m.method != stun.MethodAllocate:
			return [][]byte{response(&m, stun.ClassSuccessResponse, lifetimeAttr(0), key)}
		case !m.signed():
			return [][]byte{response(&m, stun.ClassErrorResponse, stun.CodeUnauthorized, stun.Realm("r"), stun.Nonce("0123456789"))}
		case !m.signedBy(key) || m.badFingerprint:
			return [][]byte{response(&m, stun.ClassErrorResponse, stun.CodeUnauthorized)}
		case !v6 && ip != "192.0.2.9":
			return [][]byte{response(&m, stun.ClassErrorResponse, stun.ErrorCode(codeAddressFamily), key)}
		}
		at := netip.AddrPortFrom(netip.MustParseAddr(ip), port)
		return [][]byte{response(&m, stun.ClassSuccessResponse, xorAddressSetter(stun.AttrXORRelayedAddress, at),
			xorAddressSetter(stun.AttrXORMappedAddress, at), lifetimeAttr(600), key)}
	}
}

// TestTerminateAsks: the region is asked for the family and the parity that the client wants, and its refusal is the client's.
func TestTerminateAsks(t *testing.T) {
	t.Parallel()
	even, six := rawAttr(stun.AttrEvenPort, 0), rawAttr(stun.AttrRequestedAddressFamily, familyIPv6, 0, 0, 0)
	for _, tt := range []struct {
		name  string
		v6    bool
		attrs []stun.Setter
		code  int
		want  string
	}{
		{"nothing", true, nil, 0, "192.0.2.9:50001"},
		{"an even port", true, []stun.Setter{even}, 0, "192.0.2.9:50002"},
		{"IPv6", true, []stun.Setter{six}, 0, "[2001:db8::9]:50001"},
		{"an even port in IPv6", true, []stun.Setter{six, even}, 0, "[2001:db8::9]:50002"},
		{"IPv6, where there is none", false, []stun.Setter{six}, 440, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := newHouse(t, newTape(t, particular(tt.v6)).urls(), terminating(t, nil))
			u := h.rawUser("tcp", "alice")
			m := u.ask(stun.MethodAllocate, udpTransport)
			u.realm, u.nonce = text(m, stun.AttrRealm), text(m, stun.AttrNonce)
			m = u.ask(stun.MethodAllocate, append([]stun.Setter{udpTransport}, tt.attrs...)...)
			at, _ := xorAddress(attribute(m.Raw, stun.AttrXORRelayedAddress), m.TransactionID)
			if codeOf(m) != tt.code || tt.code == 0 && at != netip.MustParseAddrPort(tt.want) {
				t.Errorf("%d %v, want %d %s; log:\n%s", codeOf(m), at, tt.code, tt.want, h.log.String())
			}
		})
	}
}

// TestServiceCredentials: where the service's account is known, a client may come with credentials that the service gave it, and with
// no other service's.
func TestServiceCredentials(t *testing.T) {
	t.Parallel()
	urls := newPionRegion(t, nil)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("the secret of a service\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	local := newHouse(t, []string{urls["udp"]}, func(o *Options) {
		o.Config.Relay.Mode, o.Config.DataDir = "local", t.TempDir()
		o.Config.Relay.Local = configs.RelayLocal{Address: netip.MustParseAddr("127.0.0.1"), Ports: "49152-65535"}
		o.Config.Services[0].TURNCredentials.SecretFile = secret
	})
	service := authority{secret: []byte("the secret of a service")}
	stranger := authority{secret: []byte("the secret of another")}
	terminate := newHouse(t, []string{urls["udp"]}, terminating(t, nil))
	for _, tt := range []struct {
		name               string
		h                  *house
		username, password string
		code               int
	}{
		{"the service's secret", local, "", "", 0},
		{"another's secret", local, "other", "", 401},
		{"the service's user", terminate, pionUser, pionPassword, 0},
		{"the service's user, wrong password", terminate, pionUser, "x", 401},
	} {
		t.Run(tt.name, func(t *testing.T) {
			u := &rawUser{rawTURN: tt.h.raw("tcp"), username: tt.username, password: tt.password}
			switch tt.username {
			case "":
				u.username, u.password = service.mint("their alice", time.Now().Add(time.Hour))
			case "other":
				u.username, u.password = stranger.mint("their alice", time.Now().Add(time.Hour))
			}
			if code := u.allocate(); code != tt.code {
				t.Errorf("%d, want %d", code, tt.code)
			}
		})
	}
	// A client of a second service is judged by that one's account.
	find := finder(local.engine.test, *local.engine.clients, func() guests { return guests{"one": {mint: &service}, "two": {mint: &stranger}} }, &localRelay{}, func() int { return 0 })
	username, password := service.mint("alice", time.Now().Add(time.Hour))
	for name, want := range map[string]bool{"one": true, "two": false, "three": false} {
		if who, _ := find(name, username, time.Now()); (who.guest == password) != want {
			t.Errorf("a client of service %s: the first one's password is good: %v, want %v", name, !want, want)
		}
	}
}

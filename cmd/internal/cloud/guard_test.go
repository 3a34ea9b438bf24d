package cloud

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

var (
	clientAddr = &net.UDPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 1000}
	localAddr  = &net.UDPAddr{IP: net.IPv4(10, 0, 0, 2), Port: 3478}
)

func fixedNow() time.Time            { return time.Unix(1_800_000_000, 0) }
func anyPeer(netip.Addr) bool        { return true }
func always(client, _ net.Addr) bool { return client != nil }

// signed builds a request as a client with credentials does.
func signed(t *testing.T, method stun.Method, user, realm, password string, attrs ...stun.RawAttribute) []byte {
	t.Helper()
	setters := []stun.Setter{
		stun.TransactionID, stun.NewType(method, stun.ClassRequest),
		stun.NewUsername(user), stun.NewRealm(realm), stun.NewNonce("n"),
	}
	for _, a := range attrs {
		setters = append(setters, a)
	}
	setters = append(setters, stun.NewLongTermIntegrity(user, realm, password), stun.Fingerprint)
	m, err := stun.Build(setters...)
	if err != nil {
		t.Fatal(err)
	}
	return m.Raw
}

func attr(kind stun.AttrType, value ...byte) stun.RawAttribute {
	return stun.RawAttribute{Type: kind, Length: uint16(len(value)), Value: value}
}

func peerAttr(a string) stun.RawAttribute {
	ip := netip.MustParseAddr(a).As4()
	return attr(stun.AttrXORPeerAddress, 0, 1, 0, 0, ip[0]^0x21, ip[1]^0x12, ip[2]^0xA4, ip[3]^0x42)
}

func TestGuardAnswersWhatPionGetsWrong(t *testing.T) {
	const secret, realm = "geheim", "calls.example"
	g := &guard{
		realm: realm, secret: secret, now: fixedNow, allocated: always,
		allowed: func(a netip.Addr) bool { return a == netip.MustParseAddr("192.0.2.1") },
	}
	homeless := *g
	homeless.allocated = func(net.Addr, net.Addr) bool { return false }
	user := strconv.FormatInt(fixedNow().Unix()+60, 10) + ":anna"
	password := restPassword(secret, user)
	late := strconv.FormatInt(fixedNow().Unix()-1, 10) + ":anna"
	udp := attr(stun.AttrRequestedTransport, 17, 0, 0, 0)
	number := attr(stun.AttrChannelNumber, 0x40, 0, 0, 0)

	const passed, unsignedPassed, dropped = 0, -1, -2
	for name, c := range map[string]struct {
		guard *guard
		frame []byte
		want  int // an error code, or one of the above
	}{
		"good Allocate":            {g, signed(t, stun.MethodAllocate, user, realm, password, udp), passed},
		"wrong password":           {g, signed(t, stun.MethodAllocate, user, realm, "x", udp), unsignedPassed},
		"expired":                  {g, signed(t, stun.MethodAllocate, late, realm, restPassword(secret, late), udp), unsignedPassed},
		"no timestamp":             {g, signed(t, stun.MethodAllocate, "anna", realm, restPassword(secret, "anna"), udp), unsignedPassed},
		"another realm":            {g, signed(t, stun.MethodAllocate, user, "else", password, udp), unsignedPassed},
		"TCP relaying":             {g, signed(t, stun.MethodAllocate, user, realm, password, attr(stun.AttrRequestedTransport, 6, 0, 0, 0)), 442},
		"IPv6 relaying":            {g, signed(t, stun.MethodAllocate, user, realm, password, udp, attr(stun.AttrRequestedAddressFamily, 2, 0, 0, 0)), 440},
		"Refresh":                  {g, signed(t, stun.MethodRefresh, user, realm, password), passed},
		"Refresh of nothing":       {&homeless, signed(t, stun.MethodRefresh, user, realm, password), 437},
		"end of nothing":           {&homeless, signed(t, stun.MethodRefresh, user, realm, password, attr(stun.AttrLifetime, 0, 0, 0, 0)), passed},
		"permission":               {g, signed(t, stun.MethodCreatePermission, user, realm, password, peerAttr("192.0.2.1")), passed},
		"permission of nothing":    {&homeless, signed(t, stun.MethodCreatePermission, user, realm, password, peerAttr("192.0.2.1")), 437},
		"forbidden behind allowed": {g, signed(t, stun.MethodCreatePermission, user, realm, password, peerAttr("192.0.2.1"), peerAttr("169.254.169.254")), 403},
		"permission for nobody":    {g, signed(t, stun.MethodCreatePermission, user, realm, password), 400},
		"IPv6 peer":                {g, signed(t, stun.MethodCreatePermission, user, realm, password, attr(stun.AttrXORPeerAddress, append([]byte{0, 2}, make([]byte, 18)...)...)), 443},
		"empty peer":               {g, signed(t, stun.MethodCreatePermission, user, realm, password, attr(stun.AttrXORPeerAddress)), dropped},
		"channel":                  {g, signed(t, stun.MethodChannelBind, user, realm, password, number, peerAttr("192.0.2.1")), passed},
		"channel 0x5000":           {g, signed(t, stun.MethodChannelBind, user, realm, password, attr(stun.AttrChannelNumber, 0x50, 0, 0, 0), peerAttr("192.0.2.1")), 400},
		"channel to forbidden":     {g, signed(t, stun.MethodChannelBind, user, realm, password, number, peerAttr("10.0.0.9")), 403},
		"Binding":                  {g, stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw, passed},
		"a response":               {g, stun.MustBuild(stun.TransactionID, stun.BindingSuccess).Raw, dropped},
		"RFC 6062 Connect":         {g, stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodConnect, stun.ClassRequest)).Raw, dropped},
		"Send with an empty peer":  {g, stun.MustBuild(stun.TransactionID, stun.NewType(stun.MethodSend, stun.ClassIndication), attr(stun.AttrXORPeerAddress)).Raw, dropped},
	} {
		pass, answer := c.guard.inspect(c.frame, clientAddr, localAddr)
		switch {
		case c.want == passed && (string(pass) != string(c.frame) || answer != nil):
			t.Errorf("%s: did not pass unchanged: %x, answered %x", name, pass, answer)
		case c.want == unsignedPassed && (pass == nil || hasIntegrity(pass) || checkFrame(pass) != nil):
			t.Errorf("%s: did not become an unsigned request: %x", name, pass)
		case c.want == dropped && (pass != nil || answer != nil):
			t.Errorf("%s: was not dropped", name)
		case c.want > 0:
			checkRefusal(t, name, pass, answer, c.want, stun.NewLongTermIntegrity(user, realm, password))
		}
	}
}

func checkRefusal(t *testing.T, name string, pass, answer []byte, want int, key stun.MessageIntegrity) {
	t.Helper()
	m := &stun.Message{Raw: answer}
	if pass != nil || m.Decode() != nil {
		t.Errorf("%s: passed %x, answered %x", name, pass, answer)
		return
	}
	var code stun.ErrorCodeAttribute
	if err := code.GetFrom(m); err != nil || int(code.Code) != want {
		t.Errorf("%s: answered %d, want %d", name, code.Code, want)
	}
	if m.Type.Class != stun.ClassErrorResponse || key.Check(m) != nil {
		t.Errorf("%s: the answer is not a signed error", name)
	}
}

func TestBudgetOfUnsignedRequests(t *testing.T) {
	var b budget
	now := fixedNow()
	binding := stun.MustBuild(stun.TransactionID, stun.BindingRequest).Raw
	allowed := 0
	for range 2 * unsignedPerSecond {
		if b.allow(binding, clientAddr, now) {
			allowed++
		}
	}
	if allowed != unsignedPerSecond {
		t.Errorf("%d were let through", allowed)
	}
	if other := (&net.UDPAddr{IP: net.IPv4(10, 0, 0, 9), Port: 1}); !b.allow(binding, other, now) {
		t.Error("another client pays for the first")
	}
	request := signed(t, stun.MethodRefresh, "1:a", "r", "p")
	if !b.allow(request, clientAddr, now) || !b.allow([]byte{0x40, 0, 0, 0}, clientAddr, now) {
		t.Error("signed requests and data are counted")
	}
	if !b.allow(binding, clientAddr, now.Add(time.Second)) {
		t.Error("the next second is not a new one")
	}
}

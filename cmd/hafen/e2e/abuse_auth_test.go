package e2e

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

// nonces that are none, or another's, get no further than a challenge. (That one of ours ends after ten minutes is a unit test's to
// show, with a clock of its own.)
func (r *relayAbuse) nonces(t *testing.T, w relayWay) {
	other := r.client(t, w)
	must(t, other.challenge())
	for name, nonce := range map[string]string{
		"garbage": "garbage", "empty": "", "another client's": other.nonce, "763 bytes": strings.Repeat("n", 763), "one bit more": "",
	} {
		c := r.client(t, w)
		must(t, c.challenge())
		if name == "one bit more" {
			nonce = string(c.nonce[0]^1) + c.nonce[1:]
		}
		c.nonce = nonce
		c.want(t, name, c.signed(typeAllocate, udpTransport), 438)
	}
	c := r.client(t, w)
	must(t, c.challenge())
	bare := stunMessage(typeAllocate, udpTransport, attr(attrUsername, []byte(c.username)), attr(attrRealm, []byte(c.realm)))
	c.want(t, "no nonce", c.sign(bare), 401)
	if w.via == "udp" {
		return
	}
	// One of a megabyte is no frame: what announces itself longer than any message is closed.
	c = r.client(t, w)
	_, _ = c.conn.Write(append(rawHead(typeAllocate, 0xfffc), make([]byte, 1<<20)...))
	closes(t, c.conn, 3*time.Second)
}

// names are what a log could be forged with, and what is too long or no text.
func (r *relayAbuse) names(t *testing.T, w relayWay) {
	expiry := fmt.Sprint(time.Now().Add(time.Hour).Unix())
	for name, code := range map[string]int{
		"": 400, expiry + ":" + strings.Repeat("x", 513-len(expiry)-1): 400, expiry + ":\xff\xfe": 400, expiry + ":a\x00b": 401,
		expiry + ":a\nlevel=ERROR msg=INJECTED": 401, expiry + ":\x1b[31mINJECTED": 401, "{{INJECTED}}": 401, expiry + ":": 401,
	} {
		c := r.client(t, w)
		must(t, c.challenge())
		c.username = name
		c.password = restPassword(ownSecret, name)
		c.want(t, fmt.Sprintf("user %.20q", name), c.signed(typeAllocate, udpTransport), code)
	}
	for realm, code := range map[string]int{"elsewhere": 401, "": 400, strings.Repeat("r", 764): 400} {
		c := r.client(t, w)
		must(t, c.challenge())
		c.realm = realm
		c.want(t, fmt.Sprintf("realm %.20q", realm), c.signed(typeAllocate, udpTransport), code)
	}
	if w.via != "udp" {
		c := r.client(t, w)
		long := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, attrUsername), 0xffff)
		_, _ = c.conn.Write(append(rawHead(typeAllocate, 0xfffc), append(long, make([]byte, 0xffff)...)...))
		closes(t, c.conn, 3*time.Second)
	}
}

// replays: a whole valid Allocate from another five-tuple, and from another address.
func (r *relayAbuse) replays(t *testing.T, w relayWay) {
	c := r.client(t, w)
	must(t, c.challenge())
	msg := c.signed(typeAllocate, udpTransport, w.family())
	c.want(t, "the control", msg, 0)
	c.want(t, "the same once more on its own five-tuple", msg, 0)
	copycat := r.client(t, w)
	copycat.want(t, "a copy from elsewhere", msg, 438)
	if n := copycat.permit(t, netip.MustParseAddrPort("8.8.8.8:443")); n == 0 {
		t.Error("the copy has an allocation")
	}
}

func (r *relayAbuse) timestamps(t *testing.T, w relayWay) {
	now := time.Now().Unix()
	for _, name := range []string{
		fmt.Sprintf("%d:x", now-120), "99999999999999999999:x", "-1:x", fmt.Sprintf("+%d:x", now+600), fmt.Sprintf(" %d:x", now+600),
		fmt.Sprintf("%d:a:b", now+600), fmt.Sprintf("%d:x", now+24*3600+120), fmt.Sprintf("0%d:x", now+600), "x", "0:x", fmt.Sprintf("%d", now+600),
	} {
		c := r.client(t, w)
		must(t, c.challenge())
		c.username, c.password = name, restPassword(ownSecret, name)
		c.want(t, fmt.Sprintf("user %q", name), c.signed(typeAllocate, udpTransport), 401)
	}
	c := r.client(t, w)
	must(t, c.challenge())
	answer, err := c.ask(c.signed(typeAllocate, udpTransport, w.family(), attr(attrLifetime, []byte{0xff, 0xff, 0xff, 0xff})))
	must(t, err)
	if v := find(answer, attrLifetime); len(v) != 4 || binary.BigEndian.Uint32(v) > 3600 {
		t.Errorf("a lifetime without end became %v", v)
	}
	for _, wrong := range []string{"", c.password + "x", restPassword("another secret", c.username)} {
		c := r.client(t, w)
		must(t, c.challenge())
		c.password = wrong
		c.want(t, "a wrong password", c.signed(typeAllocate, udpTransport), 401)
	}
}

// integrity: what stands behind MESSAGE-INTEGRITY nobody has signed, so it does not count.
func (r *relayAbuse) integrity(t *testing.T, w relayWay) {
	try := func(what string, build func(c *turnClient) []byte, codes ...int) {
		t.Helper()
		c := r.client(t, w)
		must(t, c.challenge())
		c.want(t, what, build(c), codes...)
	}
	fixed := func(msg []byte) []byte {
		binary.BigEndian.PutUint16(msg[2:], uint16(len(msg)-20))
		return msg
	}
	try("REQUESTED-TRANSPORT behind it", func(c *turnClient) []byte { return fixed(append(c.signed(typeAllocate), udpTransport...)) }, 400)
	try("an unknown attribute behind it", func(c *turnClient) []byte {
		return fixed(append(c.signed(typeAllocate, udpTransport, w.family()), attr(0x7abc, []byte("x"))...))
	}, 0)
	try("LIFETIME of nothing behind it", func(c *turnClient) []byte {
		return fixed(append(c.signed(typeAllocate, udpTransport, w.family()), attr(attrLifetime, []byte("odd"))...))
	}, 0)
	try("the name behind it", func(c *turnClient) []byte {
		msg := c.sign(stunMessage(typeAllocate, udpTransport, attr(attrRealm, []byte(c.realm)), attr(attrNonce, []byte(c.nonce))))
		return fixed(append(msg, attr(attrUsername, []byte(c.username))...))
	}, 400)
	try("19 bytes of it", func(c *turnClient) []byte {
		msg := c.signed(typeAllocate, udpTransport)
		return fixed(append(msg[:len(msg)-24], attr(attrIntegrity, make([]byte, 19))...))
	}, 400)
	try("that of SHA-256 alone", func(c *turnClient) []byte {
		msg := c.signed(typeAllocate, udpTransport)
		msg = msg[:len(msg)-24]
		binary.BigEndian.PutUint16(msg[2:], uint16(len(msg)-20+36))
		mac := hmac.New(sha256.New, []byte("key"))
		mac.Write(msg)
		return append(msg, attr(0x001c, mac.Sum(nil))...)
	}, 401, 420)
	try("a wrong FINGERPRINT", func(c *turnClient) []byte {
		return fixed(append(c.signed(typeAllocate, udpTransport), attr(0x8028, []byte{1, 2, 3, 4})...))
	}, 400)
	try("an unknown attribute before it", func(c *turnClient) []byte { return c.signed(typeAllocate, udpTransport, attr(0x7abc, []byte("x"))) }, 420)
}

// permissionEnds after 300 s (RFC 8656 section 9), in real time.
func (r *relayAbuse) permissionEnds(t *testing.T) {
	if !*abuseAll {
		t.Skip("five minutes: only with -abuse (relay.TestPermissions has a clock of its own)")
	}
	w := relayWays[2]
	c, peer := r.allocated(t, w), r.peer(t, w)
	_ = c.conn.SetDeadline(time.Time{})
	at := peer.LocalAddr().(*net.UDPAddr).AddrPort()
	if code := c.permit(t, at); code != 0 {
		t.Fatalf("the control: %d", code)
	}
	send := func() bool {
		_, _ = c.conn.Write(withPeer(stunMessage(typeSend, attr(attrData, []byte("x"))), at))
		_ = peer.SetReadDeadline(time.Now().Add(2 * time.Second))
		_, err := peer.Read(make([]byte, 10))
		return err == nil
	}
	if !send() {
		t.Fatal("the control: nothing came")
	}
	time.Sleep(304 * time.Second)
	if send() {
		t.Error("a packet came through after 304 s")
	}
}

// credentialEnds during a call: what is allocated may be refreshed, new allocations are refused. (Clocks may differ by a minute.)
func (r *relayAbuse) credentialEnds(t *testing.T) {
	const left = 4 * time.Second
	username, password := ownCredentials("short", left-time.Minute)
	var clients []*turnClient
	for _, w := range relayWays {
		c := r.client(t, w)
		c.username, c.password = username, password
		code, err := c.allocate(w.family())
		must(t, err)
		if code != 0 {
			t.Fatalf("the control over %v: %d", w, code)
		}
		clients = append(clients, c)
	}
	time.Sleep(left + 2*time.Second)
	for i, c := range clients {
		late := &turnClient{conn: r.open(t, relayWays[i]), datagram: c.datagram, username: username, password: password}
		must(t, late.challenge())
		late.want(t, "a new Allocate over "+relayWays[i].String(), late.signed(typeAllocate, udpTransport), 401)
		c.want(t, "a Refresh over "+relayWays[i].String(), c.signed(typeRefresh), 0)
		if code := c.permit(t, netip.MustParseAddrPort(hostPort(relayWays[i].pick("8.8.8.8", "2606:4700::1111"), 50000))); code != 0 {
			t.Errorf("a CreatePermission over %v: %d", relayWays[i], code)
		}
	}
}

// timing: an unknown name, a wrong signature and a right one take as long as each other.
func (r *relayAbuse) timing(t *testing.T) {
	if !*abuseAll {
		t.Skip("it measures: only with -abuse (relay.TestAuthenticationTime takes the least of many runs)")
	}
	c := r.allocated(t, relayWays[1])
	_ = c.conn.SetDeadline(time.Now().Add(5 * time.Minute))
	type kind struct{ username, password string }
	kinds := []kind{{"nobody of that form", "x"}, {c.username, "wrong"}, {c.username, c.password}}
	measure := func() (medians [3]time.Duration, iqr time.Duration) {
		var took [3][]time.Duration
		for range 2000 {
			for i, k := range kinds {
				c.username, c.password = k.username, k.password
				msg := c.signed(typeAllocate, udpTransport) // the right one has an allocation already: 437
				began := time.Now()
				_, err := c.ask(msg)
				took[i] = append(took[i], time.Since(began))
				must(t, err)
			}
		}
		for i := range took {
			slices.Sort(took[i])
			n := len(took[i])
			medians[i] = took[i][n/2]
			iqr += (took[i][3*n/4] - took[i][n/4]) / 3
		}
		return medians, iqr
	}
	for try := 1; ; try++ {
		medians, iqr := measure()
		spread := max(medians[0], medians[1], medians[2]) - min(medians[0], medians[1], medians[2])
		t.Logf("medians %v, pooled IQR %v", medians, iqr)
		if spread < max(20*time.Microsecond, iqr/20) {
			return
		}
		if try == 3 {
			t.Fatalf("medians %v differ by %v", medians, spread)
		}
	}
}

package forward

import (
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hafen/configs"
	"hafen/gateway/frugal"
)

// slowHash stands for argon2id: "hash of PASSWORD" is the hash, and it counts.
type slowHash struct {
	calls, now, most atomic.Int32
	hold             chan struct{} // nil: no waiting
}

func (s *slowHash) verify(hash, password string) bool {
	s.calls.Add(1)
	n := s.now.Add(1)
	defer s.now.Add(-1)
	for m := s.most.Load(); n > m && !s.most.CompareAndSwap(m, n); m = s.most.Load() {
	}
	if s.hold != nil {
		<-s.hold
	}
	return hash == "hash of "+password
}

func basicConfig() *configs.Config {
	c := testConfig()
	c.Forward.Auth = "basic"
	c.Forward.Users = []configs.ForwardUser{{Name: "ward", PasswordHash: "hash of correct horse"}, {Name: "lab", PasswordHash: "hash of battery: staple"}}
	return c
}

func basic(name, password string) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(name+":"+password))
}

func TestBasicAuth(t *testing.T) {
	var h slowHash
	r := newRig(t, func(o *Options) {
		o.Config = basicConfig()
		o.Verify = h.verify
	})
	r.target("call.example:443", echo)
	ask := func(target, header string) (string, string) {
		c := r.dialPlain()
		fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n%s\r\n", target, target, header)
		buf := make([]byte, 4096)
		n, err := io.ReadAtLeast(c, buf, len("HTTP/1.1 200"))
		if err != nil {
			t.Fatal(err)
		}
		rest := ""
		if !strings.HasPrefix(string(buf), "HTTP/1.1 200") {
			all, _ := io.ReadAll(c)
			rest = string(all)
		}
		text := string(buf[:n]) + rest
		return text[len("HTTP/1.1 "):len("HTTP/1.1 200")], text
	}
	for _, row := range []struct{ name, target, header, want string }{
		{"none", "call.example:443", "", "407"},
		{"none, unknown host: nothing is told", "evil.com:443", "", "407"},
		{"none, bad target", "evil.com", "", "400"},
		{"right", "call.example:443", "Proxy-Authorization: " + basic("ward", "correct horse") + "\r\n", "200"},
		{"right, scheme in small letters", "call.example:443", "Proxy-Authorization: basic" + strings.TrimPrefix(basic("ward", "correct horse"), "Basic") + "\r\n", "200"},
		{"a colon in the password", "call.example:443", "Proxy-Authorization: " + basic("lab", "battery: staple") + "\r\n", "200"},
		{"right, unknown host", "evil.com:443", "Proxy-Authorization: " + basic("ward", "correct horse") + "\r\n", "403"},
		{"another's password", "call.example:443", "Proxy-Authorization: " + basic("lab", "correct horse") + "\r\n", "407"},
		{"no such user, the decoy's password", "call.example:443", "Proxy-Authorization: " + basic("nobody", "correct horse") + "\r\n", "407"},
		{"empty name", "call.example:443", "Proxy-Authorization: " + basic("", "correct horse") + "\r\n", "407"},
		{"two headers", "call.example:443", strings.Repeat("Proxy-Authorization: "+basic("ward", "correct horse")+"\r\n", 2), "407"},
		{"Authorization", "call.example:443", "Authorization: " + basic("ward", "correct horse") + "\r\n", "407"},
		{"Bearer", "call.example:443", "Proxy-Authorization: Bearer " + strings.TrimPrefix(basic("ward", "correct horse"), "Basic ") + "\r\n", "407"},
		{"no base64", "call.example:443", "Proxy-Authorization: Basic ward:correct horse\r\n", "407"},
		{"a long password", "call.example:443", "Proxy-Authorization: " + basic("ward", strings.Repeat("x", 1<<10)) + "\r\n", "407"},
	} {
		code, text := ask(row.target, row.header)
		if code != row.want {
			t.Errorf("%s: %s, want %s\n%s", row.name, code, row.want, text)
		}
		if challenged := strings.Contains(text, "\r\nProxy-Authenticate: Basic realm=\"gw.hospital.example\", charset=\"UTF-8\"\r\n"); challenged != (code == "407") {
			t.Errorf("%s: a challenge: %v\n%s", row.name, challenged, text)
		}
		if code == "407" && !strings.Contains(text, "err_auth") {
			t.Errorf("%s: %s", row.name, text)
		}
	}
	if n := h.calls.Load(); n != 4 {
		t.Errorf("%d hashes, want one for each pair of name and password", n)
	}
	if log := r.log.String(); strings.Contains(log, "horse") || strings.Contains(log, basic("ward", "correct horse")[6:]) {
		t.Errorf("the log has a password:\n%s", log)
	}
	if n := r.connects(statusAuth); n != 10 {
		t.Errorf("%v counted as err_auth", n)
	}
	if got := r.dialled(); len(got) != 3 {
		t.Errorf("dialled %v", got)
	}
}

func TestAuthNeedsVerify(t *testing.T) {
	if _, err := New(Options{Config: basicConfig(), Dial: (&rig{}).dial}); err == nil {
		t.Error("a proxy that can check no password")
	}
}

// TestAuthRemembers: right for five minutes, wrong for one, and nothing once the hash has changed.
func TestAuthRemembers(t *testing.T) {
	var h slowHash
	a := newAuthenticator(h.verify)
	now := time.Unix(1e9, 0)
	a.now = func() time.Time { return now }
	c := basicConfig()
	p := newPolicy(c, nil)
	client := netip.MustParseAddr("10.0.0.1")
	step := func(what, header string, ok bool, calls int32) {
		t.Helper()
		before := h.calls.Load()
		if r := a.admit(context.Background(), p, client, header); (r == nil) != ok {
			t.Errorf("%s: %v", what, r)
		}
		if n := h.calls.Load() - before; n != calls {
			t.Errorf("%s: %d hashes, want %d", what, n, calls)
		}
	}
	step("first", basic("ward", "correct horse"), true, 1)
	now = now.Add(rightFor - time.Second)
	step("again", basic("ward", "correct horse"), true, 0)
	now = now.Add(time.Second)
	step("after five minutes, however often it was used", basic("ward", "correct horse"), true, 1)
	step("wrong", basic("ward", "x"), false, 1)
	step("wrong again", basic("ward", "x"), false, 0)
	now = now.Add(wrongFor)
	step("wrong, a minute later", basic("ward", "x"), false, 1)
	changed := basicConfig()
	changed.Forward.Users[0].PasswordHash = "hash of x"
	p = newPolicy(changed, nil)
	step("the old password", basic("ward", "correct horse"), false, 1)
	step("the new password", basic("ward", "x"), true, 1)
	changed.Forward.Users = changed.Forward.Users[1:]
	p = newPolicy(changed, nil)
	step("the user is gone", basic("ward", "x"), false, 1)
	if len(a.right) > 3 {
		t.Errorf("%d are remembered as right", len(a.right))
	}
}

// TestAuthIsBounded: a flood of passwords runs two hashes at once, its line is short, and a client that guesses is
// stopped while one that is known goes on.
func TestAuthIsBounded(t *testing.T) {
	h := slowHash{hold: make(chan struct{})}
	a := newAuthenticator(h.verify)
	p := newPolicy(basicConfig(), nil)
	codes := make(chan int, 2*hashesWaiting)
	var wg sync.WaitGroup
	for i := range cap(codes) {
		wg.Go(func() {
			r := a.admit(context.Background(), p, netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)}), basic("ward", fmt.Sprint(i)))
			codes <- r.code
		})
	}
	for range cap(codes) - hashesWaiting {
		if code := <-codes; code != http.StatusServiceUnavailable {
			t.Errorf("%d before any hash was made", code)
		}
	}
	close(h.hold)
	wg.Wait()
	if n := h.most.Load(); n != hashesAtOnce {
		t.Errorf("%d hashes at once", n)
	}
	h.hold = nil
	guesser := netip.MustParseAddr("2001:db8::1")
	if r := a.admit(context.Background(), p, guesser, basic("ward", "correct horse")); r != nil {
		t.Fatal(r)
	}
	last := 0
	before := h.calls.Load()
	for i := range 50 {
		last = a.admit(context.Background(), p, netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)), basic("lab", fmt.Sprint("guess", i))).code
	}
	if n := h.calls.Load() - before; last != http.StatusTooManyRequests || n != triesMost {
		t.Errorf("%d guesses were hashed, the last was answered %d", n, last)
	}
	if r := a.admit(context.Background(), p, guesser, basic("ward", "correct horse")); r != nil {
		t.Errorf("who is known is shut out: %v", r)
	}
}

// TestAuthMemory: what wrong passwords leave behind has an end.
func TestAuthMemory(t *testing.T) {
	var h slowHash
	a := newAuthenticator(h.verify)
	p := newPolicy(basicConfig(), nil)
	for i := range 3 * wrongMost {
		_ = a.admit(context.Background(), p, netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), basic("ward", fmt.Sprint(i)))
	}
	if len(a.wrong) > wrongMost || len(a.tries) > triesClients {
		t.Errorf("%d wrong passwords and %d clients are remembered", len(a.wrong), len(a.tries))
	}
}

func FuzzBasicCredentials(f *testing.F) {
	for _, s := range []string{basic("a", "b"), "Basic", "Basic ", "basic  " + basic("a", "b")[6:], basic("a", ""), basic("", "b"), "Basic AAAA=", basic("\xff", "b")} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Input(t)()
		name, password, ok := basicCredentials(s)
		if ok && (name == "" || strings.Contains(name, ":") || password == "" || len(password) > maxPassword) {
			t.Errorf("%q: %q, %q", s, name, password)
		}
	})
}

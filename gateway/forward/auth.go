package forward

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"maps"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// Bounds of Basic authentication (RFC 7617). A password's hash takes some 100 ms and 64 MiB on purpose, and a browser
// sends its credentials with every CONNECT: so what was found right or wrong is remembered for a while, and how many
// hashes may be under way, and how many may wait for that, is small and fixed.
const (
	maxCredentials = 512 // bytes, in base64
	maxPassword    = 128
	hashesAtOnce   = 2
	hashesWaiting  = 256
	hashWait       = 10 * time.Second
	rightFor       = 5 * time.Minute
	wrongFor       = time.Minute
	wrongMost      = 4096 // remembered
	triesMost      = 10   // wrong passwords of one client that are hashed in triesFor
	triesFor       = time.Minute
	triesClients   = 4096
	sweepEvery     = 10 * time.Second
)

// authenticator knows who may use the proxy, when forward.auth is basic. It keeps no password: what it remembers is
// keyed by an HMAC over name, password and hash, with a key that lives as long as the process. A hash that changes with
// the configuration so ends what was remembered of it.
type authenticator struct {
	verify func(hash, password string) bool
	now    func() time.Time
	key    [32]byte
	slots  chan struct{} // hashes under way
	queue  chan struct{} // those and the ones that wait

	mu    sync.Mutex
	right map[[32]byte]time.Time // until
	wrong map[[32]byte]time.Time
	tries map[netip.Prefix]tries // wrong passwords by client
	swept time.Time
}

// tries counts within a window of triesFor.
type tries struct {
	n     int
	until time.Time
}

func newAuthenticator(verify func(hash, password string) bool) *authenticator {
	a := &authenticator{
		verify: verify, now: time.Now, slots: make(chan struct{}, hashesAtOnce), queue: make(chan struct{}, hashesWaiting),
		right: make(map[[32]byte]time.Time), wrong: make(map[[32]byte]time.Time), tries: make(map[netip.Prefix]tries),
	}
	_, _ = rand.Read(a.key[:]) // never fails: crypto/rand
	return a
}

// usersOf are the users' password hashes by name; nil where nobody has to say who he is.
func usersOf(c *configs.Config) map[string]string {
	if c.Forward.Auth != "basic" {
		return nil
	}
	users := make(map[string]string, len(c.Forward.Users))
	for _, u := range c.Forward.Users {
		users[u.Name] = u.PasswordHash
	}
	return users
}

// decoy is a hash for names that nobody has, of the same cost as the others: the time that an answer takes must not
// tell which names exist.
func decoy(c *configs.Config) string {
	if len(c.Forward.Users) == 0 {
		return ""
	}
	return c.Forward.Users[0].PasswordHash
}

// admit judges the Proxy-Authorization header of a client against the policy's users. nil: it may go on.
func (a *authenticator) admit(ctx context.Context, p *policy, client netip.Addr, header string) *refusal {
	if p.users == nil {
		return nil
	}
	if header == "" {
		return p.challenge("this proxy wants a name and a password, and got none")
	}
	name, password, ok := basicCredentials(header)
	if !ok {
		return p.challenge("the credentials are not a name and a password in the Basic form")
	}
	hash, known := p.users[name]
	if !known {
		hash = decoy(p.config)
	}
	id := a.identify(name, password, hash)
	if right, remembered := a.recall(id); remembered {
		return p.challengeUnless(right)
	}
	if a.tooManyTries(client) {
		return &refusal{code: http.StatusTooManyRequests, word: statusLimit, why: "too many wrong passwords came from this client; it may try again in a minute"}
	}
	release, r := a.wait(ctx)
	if r != nil {
		return r
	}
	defer release()
	right, remembered := a.recall(id) // a browser opens several connections at once: the first has done the work
	if !remembered {
		right = a.verify(hash, password) && known
		a.remember(id, right, client)
	}
	return p.challengeUnless(right)
}

func (p *policy) challengeUnless(right bool) *refusal {
	if right {
		return nil
	}
	return p.challenge("name and password do not fit")
}

// challenge is the answer that makes a browser ask its user (RFC 9110 section 11.7.1).
func (p *policy) challenge(why string) *refusal {
	return &refusal{
		code: http.StatusProxyAuthRequired, word: statusAuth, why: why,
		challenge: `Basic realm="` + configs.CanonicalHost(p.config.Name) + `", charset="UTF-8"`,
	}
}

// basicCredentials reads "Basic" and base64 of name:password (RFC 7617 section 2).
func basicCredentials(header string) (name, password string, ok bool) {
	scheme, text, _ := strings.Cut(header, " ")
	if !strings.EqualFold(scheme, "Basic") || len(text) > maxCredentials {
		return "", "", false
	}
	plain, err := base64.StdEncoding.DecodeString(strings.TrimLeft(text, " "))
	if err != nil || !utf8.Valid(plain) {
		return "", "", false
	}
	name, password, ok = strings.Cut(string(plain), ":")
	return name, password, ok && name != "" && password != "" && len(password) <= maxPassword
}

// identify is what credentials are remembered by. The length of each part is part of it, so that no two share one.
func (a *authenticator) identify(parts ...string) (id [32]byte) {
	mac := hmac.New(sha256.New, a.key[:])
	for _, part := range parts {
		_ = binary.Write(mac, binary.BigEndian, uint32(len(part)))
		_, _ = mac.Write([]byte(part))
	}
	mac.Sum(id[:0])
	return id
}

// recall tells what is remembered of credentials.
func (a *authenticator) recall(id [32]byte) (right, remembered bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	if until, ok := a.right[id]; ok && now.Before(until) {
		return true, true
	}
	until, ok := a.wrong[id]
	return false, ok && now.Before(until)
}

// wait takes a place in the line for a hash, and then a slot.
func (a *authenticator) wait(ctx context.Context) (release func(), r *refusal) {
	busy := &refusal{code: http.StatusServiceUnavailable, word: statusLimit, why: "too many passwords are being checked at the moment; try again"}
	select {
	case a.queue <- struct{}{}:
	default:
		return nil, busy
	}
	ctx, cancel := context.WithTimeout(ctx, hashWait)
	defer cancel()
	select {
	case a.slots <- struct{}{}:
		return func() { <-a.slots; <-a.queue }, nil
	case <-ctx.Done():
		<-a.queue
		return nil, busy
	}
}

// remember keeps a result. What is right is bounded by the users that there are; what is wrong by wrongMost: beyond it,
// wrong passwords are hashed each time, within the tries of their client.
func (a *authenticator) remember(id [32]byte, right bool, client netip.Addr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.now()
	a.sweep(now)
	if right {
		a.right[id] = now.Add(rightFor)
		return
	}
	if len(a.wrong) < wrongMost {
		a.wrong[id] = now.Add(wrongFor)
	}
	a.countTry(netpolicy.Client(client), now)
}

// sweep forgets what is over, every now and then.
func (a *authenticator) sweep(now time.Time) {
	if now.Sub(a.swept) < sweepEvery {
		return
	}
	a.swept = now
	over := func(_ [32]byte, until time.Time) bool { return !now.Before(until) }
	maps.DeleteFunc(a.right, over)
	maps.DeleteFunc(a.wrong, over)
	maps.DeleteFunc(a.tries, func(_ netip.Prefix, t tries) bool { return !now.Before(t.until) })
}

func (a *authenticator) countTry(key netip.Prefix, now time.Time) {
	switch t, ok := a.tries[key]; {
	case ok && now.Before(t.until):
		a.tries[key] = tries{t.n + 1, t.until}
	case ok || len(a.tries) < triesClients:
		a.tries[key] = tries{1, now.Add(triesFor)}
	}
}

func (a *authenticator) tooManyTries(client netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t, ok := a.tries[netpolicy.Client(client)]
	return ok && t.n >= triesMost && a.now().Before(t.until)
}

package relay

import (
	"bytes"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha1" //nolint:gosec // what TURN REST credentials and MESSAGE-INTEGRITY are defined with
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unicode/utf8"

	"github.com/pion/stun/v2"
)

// clockTolerance is how far the clocks of two gateways that share a secret may lie apart.
const clockTolerance = time.Minute

// maxCredentialLife is how far ahead the expiry in a USERNAME may lie. What this gateway mints is far shorter; a service that
// shares the secret may mint its own.
const maxCredentialLife = 24 * time.Hour

// authority mints and checks time-limited credentials as browsers get them from an ICE endpoint (the "TURN REST API" that coturn
// and others understand): the user name is "EXPIRY:NAME", EXPIRY in Unix seconds, and the password is
// base64(HMAC-SHA1(secret, user name)). Nothing is stored; whoever knows the secret can mint.
type authority struct {
	secret []byte
}

func (a authority) mint(name string, expires time.Time) (username, password string) {
	username = strconv.FormatInt(expires.Unix(), 10) + ":" + name
	return username, a.password(username)
}

func (a authority) password(username string) string {
	mac := hmac.New(sha1.New, a.secret)
	mac.Write([]byte(username))
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// derive makes an authority whose credentials this one does not know, and the reverse.
func (a authority) derive(purpose string) authority {
	mac := hmac.New(sha256.New, a.secret)
	mac.Write([]byte(purpose))
	return authority{secret: mac.Sum(nil)}
}

var (
	errUsername = errors.New("the user name is not EXPIRY:NAME")
	errExpired  = errors.New("the credential has expired")
	errTooLong  = errors.New("the credential's expiry lies too far ahead")
)

// readUsername takes a REST user name apart. The expiry must be written as we would write it: no sign, no space, no leading zero.
func readUsername(username string, now time.Time) (name string, expires time.Time, err error) {
	digits, name, found := strings.Cut(username, ":")
	seconds, err := strconv.ParseInt(digits, 10, 64)
	if !found || err != nil || seconds <= 0 || strconv.FormatInt(seconds, 10) != digits || name == "" || !plain(name) {
		return "", time.Time{}, errUsername
	}
	// Compared as numbers first: a time.Time made of an enormous one would wrap around.
	switch ahead := seconds - now.Unix(); {
	case ahead < -int64(clockTolerance/time.Second):
		return name, time.Unix(seconds, 0), errExpired
	case ahead > int64((maxCredentialLife+clockTolerance)/time.Second):
		return name, time.Time{}, errTooLong
	}
	return name, time.Unix(seconds, 0), nil
}

// plain tells whether a name could be shown in a log: UTF-8 without control characters.
func plain(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || (r >= 0x7f && r < 0xa0) })
}

// account is who stands behind a USERNAME.
type account struct {
	// name is what quotas count: the user without the expiry.
	name     string
	password string
	// guest is the password that the client's call service would have given to this name; "": it is not known.
	guest string
	// expires ends the right to make allocations.
	expires time.Time
	// end is when an allocation made with it ends at the latest, however often it is refreshed. Zero: after maxAllocationAge.
	end time.Time
	// quota is how many allocations the name may hold at once. 0: no bound.
	quota int
	// backend makes the relayed addresses.
	backend backend
	// foreign says that a nonce which this gateway never issued is good enough: the client was sent away by a cloud relay.
	foreign bool
}

// signer is the key that a request is signed with (RFC 8489 section 9.2.2); false: with none of the account's.
func (a *account) signer(m *message) (stun.MessageIntegrity, bool) {
	key := stun.NewLongTermIntegrity(string(m.username), string(m.realm), a.password)
	if signed := m.signedBy(key); signed || a.guest == "" {
		return key, signed
	}
	key = stun.NewLongTermIntegrity(string(m.username), string(m.realm), a.guest)
	return key, m.signedBy(key)
}

// account is who stands behind a user name that this authority minted, or another with the same secret did.
func (a authority) account(username string, now time.Time, b backend, quota int) (account, error) {
	who := account{password: a.password(username), backend: b, quota: quota}
	var err error
	who.name, who.expires, err = readUsername(username, now)
	if err == nil && strings.Contains(who.name, ":") {
		err = errUsername // a second colon is a name that we don't mint, and others mean something by it
	}
	return who, err
}

// hmacEqual tells in constant time whether mac is the HMAC-SHA1 of parts.
func hmacEqual(key []byte, parts [2][]byte, mac []byte) bool {
	h := hmac.New(sha1.New, key)
	h.Write(parts[0])
	h.Write(parts[1])
	return hmac.Equal(h.Sum(nil), mac)
}

// foreignNonce is a cloud relay's nonce that a client was allowed to go on with.
type foreignNonce struct {
	nonce string
	since time.Time
}

// authenticate finds out who sent a request (RFC 8489 section 9.2.4). When it returns false the request has been answered.
func (t *fiveTuple) authenticate(m *message, r *reply) (account, bool) {
	switch {
	case m.integrity == nil:
		r.challenge(codeUnauthorized)
		return account{}, false
	case len(m.username) == 0 || len(m.username) > maxUserNameBytes || !utf8.Valid(m.username),
		len(m.realm) == 0 || len(m.realm) > maxOpaqueBytes, len(m.integrity) != integritySize:
		r.fail(codeBadRequest)
		return account{}, false
	case m.nonce == nil:
		// The RFC says 400; but a challenge is what brings such a client further.
		r.challenge(codeUnauthorized)
		return account{}, false
	}
	now := t.engine.now()
	who, err := t.account(string(m.username), now)
	if who.foreign && len(m.realm) <= maxForeignRealm {
		r.realm = string(m.realm)
	}
	if !t.nonceGood(m, who, now) {
		r.challenge(codeStaleNonce)
		return account{}, false
	}
	// The signature is checked even where the name is unknown, so that the time does not tell which names exist.
	key, signed := who.signer(m)
	if !signed || err != nil || string(m.realm) != r.realm {
		r.challenge(codeUnauthorized)
		return account{}, false
	}
	r.key = key
	if who.foreign {
		t.rememberForeign(m, now)
	}
	return who, true
}

// account is who stands behind a user name. An allocation's own user stays its user when the credential has expired since: a call
// outlives the ten minutes for which its credential was good.
func (t *fiveTuple) account(username string, now time.Time) (account, error) {
	if a := t.allocation.Load(); a != nil && a.username == username {
		return a.account, nil
	}
	return t.engine.find(t.client.Service, username, now)
}

// maxForeignRealm is the longest realm that is repeated in a challenge: RFC 8489 section 14.9 allows fewer than 128 characters.
const maxForeignRealm = 127

// nonceGood tells whether a request may carry its nonce. A client of the test relay comes from a cloud relay's challenge and brings
// that relay's nonce: its first Allocate may, and what follows on the same five-tuple for as long as a nonce of our own would last.
// (A challenge with a realm of ours in its place makes browsers give up.)
func (t *fiveTuple) nonceGood(m *message, who account, now time.Time) bool {
	if t.engine.nonces.valid(m.nonce, now, t.client.Addr, t.stream) {
		return true
	}
	if !who.foreign || len(m.nonce) == 0 || len(m.nonce) > maxOpaqueBytes {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.foreign.nonce == "" {
		return m.method == stun.MethodAllocate
	}
	return t.foreign.nonce == string(m.nonce) && now.Sub(t.foreign.since) <= nonceLifetime
}

func (t *fiveTuple) rememberForeign(m *message, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.foreign.nonce == "" {
		t.foreign = foreignNonce{nonce: string(m.nonce), since: now}
	}
}

// secretBytes is the length of a secret that we make, and the least that one in a file may have.
const (
	secretBytes    = 32
	minSecretBytes = 16
	maxSecretBytes = 4096
)

// loadSecret reads the TURN REST secret from file. Without one it is the secret kept in dataDir, made there at the first time, so
// that credentials outlive a restart.
func loadSecret(file, dataDir string) ([]byte, error) {
	if file != "" {
		return readSecret(file)
	}
	file = filepath.Join(dataDir, "turn.secret")
	secret, err := readSecret(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return secret, err
	}
	return makeSecret(file)
}

func readSecret(file string) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, fmt.Errorf("the TURN secret: %w", err)
	}
	defer f.Close()
	// One byte more than allowed tells too long from just long enough.
	raw, err := io.ReadAll(io.LimitReader(f, maxSecretBytes+1))
	if err != nil {
		return nil, fmt.Errorf("the TURN secret: %w", err)
	}
	secret := bytes.TrimSpace(raw)
	if len(secret) < minSecretBytes || len(raw) > maxSecretBytes {
		return nil, fmt.Errorf("the TURN secret: %s must hold %d to %d characters", file, minSecretBytes, maxSecretBytes)
	}
	return secret, nil
}

// makeSecret writes a new secret. Two processes that do so at once agree: the link is made by one of them only.
func makeSecret(file string) ([]byte, error) {
	raw := make([]byte, secretBytes)
	rand.Read(raw)
	secret := []byte(base64.RawURLEncoding.EncodeToString(raw))
	tmp, err := os.CreateTemp(filepath.Dir(file), ".turn.secret-*") // 0600
	if err != nil {
		return nil, fmt.Errorf("the TURN secret: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(secret, '\n'))
	if err = errors.Join(err, giveToOwner(tmp), tmp.Sync(), tmp.Close()); err != nil {
		return nil, fmt.Errorf("the TURN secret: %w", err)
	}
	if err = os.Link(tmp.Name(), file); errors.Is(err, fs.ErrExist) {
		return readSecret(file)
	}
	if err != nil {
		return nil, fmt.Errorf("the TURN secret: %w", err)
	}
	return secret, nil
}

// giveToOwner gives a file to the owner of its folder. root may be the first to need the secret (hafen doctor makes what hafen serve
// would), and must not keep it from the user that the gateway runs as.
func giveToOwner(f *os.File) error {
	if os.Geteuid() != 0 {
		return nil
	}
	info, err := os.Stat(filepath.Dir(f.Name()))
	if err != nil {
		return err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); ok {
		return f.Chown(int(owner.Uid), int(owner.Gid))
	}
	return nil
}

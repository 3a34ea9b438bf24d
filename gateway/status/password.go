package status

import (
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime/debug"
	"strings"

	"golang.org/x/crypto/argon2"
)

// The cost of one hash: RFC 9106 section 4, second recommended option, with one lane. 64 MiB and some 100 ms: dear
// enough for whoever steals a hash, and bounded here because at most two run at once (see logins).
const (
	argonTime  = 3
	fullMemory = 64 << 10 // KiB
	argonLanes = 1
	argonKey   = 32
	argonSalt  = 16
	// maxPassword bounds what is hashed, in bytes.
	maxPassword = 128
	minPassword = 10
)

// argonMemory is fullMemory, but for tests.
var argonMemory uint32 = fullMemory

// Errors of HashPassword.
var (
	ErrPasswordShort = fmt.Errorf("the password is shorter than %d characters: choose a longer one, a sentence is fine", minPassword)
	ErrPasswordLong  = fmt.Errorf("the password is longer than %d bytes", maxPassword)
)

// HashPassword makes the string that admin.users takes: argon2id in the PHC form, $argon2id$v=19$m=…,t=…,p=…$salt$hash.
func HashPassword(password string) (string, error) {
	if len([]rune(password)) < minPassword {
		return "", ErrPasswordShort
	}
	if len(password) > maxPassword {
		return "", ErrPasswordLong
	}
	salt := make([]byte, argonSalt)
	_, _ = rand.Read(salt) // never fails: crypto/rand
	return phc(salt, argon2.IDKey([]byte(password), salt, argonTime, argonMemory, argonLanes, argonKey)), nil
}

// phc writes a hash of our own cost.
func phc(salt, key []byte) string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, argonMemory, argonTime, argonLanes, b64(salt), b64(key))
}

// noPassword is a hash that fits no password and takes as long to find that out. It is made without hashing: 64 MiB at
// every start would stay with the process.
func noPassword() string {
	random := make([]byte, argonSalt+argonKey)
	_, _ = rand.Read(random) // never fails: crypto/rand
	return phc(random[:argonSalt], random[argonSalt:])
}

// parsedHash is a hash taken apart.
type parsedHash struct {
	memory, time uint32
	lanes        uint8
	salt, key    []byte
}

var errHash = errors.New("is no argon2id hash: make one with `hafen passwd`")

// parseHash reads the PHC form. Costs beyond what this program would ever write are refused: a configuration must not
// make a login eat the machine.
func parseHash(s string) (parsedHash, error) {
	var h parsedHash
	parts := strings.Split(s, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" {
		return h, errHash
	}
	var version int
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return h, errHash
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &h.memory, &h.time, &h.lanes); err != nil {
		return h, errHash
	}
	if h.memory > 4*fullMemory || h.time > 10 || h.time == 0 || h.lanes == 0 {
		return h, errHash
	}
	var err error
	if h.salt, err = base64.RawStdEncoding.DecodeString(parts[4]); err != nil || len(h.salt) < 8 {
		return h, errHash
	}
	if h.key, err = base64.RawStdEncoding.DecodeString(parts[5]); err != nil || len(h.key) < 16 || len(h.key) > 64 {
		return h, errHash
	}
	return h, nil
}

// VerifyPassword reports whether the password has the hash. A hash that can't be read fits no password.
func VerifyPassword(hash, password string) bool {
	h, err := parseHash(hash)
	if err != nil || len(password) > maxPassword {
		return false
	}
	key := argon2.IDKey([]byte(password), h.salt, h.time, h.memory, h.lanes, uint32(len(h.key)))
	// What the hash has used is large and garbage at once: left to the collector's own pace, a few guesses in a row
	// would stand in memory together. Hashes are few, a second's worth at most.
	debug.FreeOSMemory()
	return subtle.ConstantTimeCompare(key, h.key) == 1
}

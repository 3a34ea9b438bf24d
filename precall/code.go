package precall

import (
	"crypto/rand"
	"encoding/hex"
	"strings"
)

// letters have no I, L, O and U: what is read out on the telephone can't be misheard for a digit or a rude word.
const letters = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"

// newCode makes a short code, K7QF-2M: 30 bits, enough to tell apart what is kept, not enough to be a secret.
func newCode() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails (Go 1.24)
	for i := range b {
		b[i] = letters[b[i]%32]
	}
	return string(b[:4]) + "-" + string(b[4:])
}

// CanonicalCode reads a short code as people write it: any case, spaces and dashes anywhere, O for 0, I and L for 1.
func CanonicalCode(s string) (string, bool) {
	var out []byte
	for _, c := range strings.ToUpper(s) {
		switch c {
		case ' ', '-', '–', '—', '_', '.', '\t', '\u00a0':
			continue
		case 'O':
			c = '0'
		case 'I', 'L':
			c = '1'
		}
		if len(out) == 6 || !strings.ContainsRune(letters, c) {
			return "", false
		}
		out = append(out, byte(c))
	}
	if len(out) != 6 {
		return "", false
	}
	return string(out[:4]) + "-" + string(out[4:]), true
}

// newID makes a long id: 128 random bits in hexadecimal, which nobody guesses.
func newID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails (Go 1.24)
	return hex.EncodeToString(b[:])
}

func isID(s string) bool {
	_, err := hex.DecodeString(s)
	return err == nil && len(s) == 32 && s == strings.ToLower(s)
}

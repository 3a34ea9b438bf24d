package forward

import (
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/net/idna"
)

// Target is what a CONNECT asks for: a name and a port. The name is in lower case and has no trailing dot.
type Target struct {
	Host string
	Port uint16
}

func (t Target) String() string { return net.JoinHostPort(t.Host, strconv.Itoa(int(t.Port))) }

// maxTarget is more than the longest name with its port needs.
const maxTarget = 253 + len(".:65535")

// ParseTarget reads the request target of a CONNECT: uri-host ":" port (RFC 9112 section 3.2.3), a port in its one
// canonical form, and of the hosts only names. An address could not be checked against a list of names, and browsers
// with a PAC file send names.
//
// Names are ASCII; a label in its xn-- form must be one that IDNA has (RFC 5891 section 5.4), so that nothing that
// cannot be registered looks like something that is.
func ParseTarget(s string) (Target, error) {
	if len(s) > maxTarget {
		return Target{}, badTarget("it is too long")
	}
	i := strings.LastIndexByte(s, ':')
	if i < 0 {
		return Target{}, badTarget("it has no port")
	}
	host, text := s[:i], s[i+1:]
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil || port == 0 || strconv.FormatUint(port, 10) != text {
		return Target{}, badTarget("its port is no number from 1 to 65535 in plain decimal")
	}
	host = lower(strings.TrimSuffix(host, "."))
	if isAddress(host) {
		return Target{}, &refusal{
			code: http.StatusForbidden, word: statusPolicy,
			why: "it is an address, and this proxy takes names only",
		}
	}
	if err := checkName(host); err != nil {
		return Target{}, badTarget(err.Error())
	}
	return Target{host, uint16(port)}, nil
}

// lower makes ASCII lower case. Unicode has further letters that become ASCII so (the Kelvin sign becomes a k); a string
// with any of them stays what it is, and then is no name.
func lower(s string) string {
	for i := range len(s) {
		if s[i] >= 0x80 {
			return s
		}
	}
	return strings.ToLower(s)
}

func badTarget(why string) error {
	return &refusal{code: http.StatusBadRequest, word: statusProtocol, why: "the target is not written name:port: " + why}
}

// isAddress knows addresses in every form that some resolver takes for one: dotted and bracketed, and what inet_aton
// reads, such as 127.1, 2130706433 and 0x7f.1. A name whose last label is a number is always such a thing (WHATWG
// URL, "ends in a number checker").
func isAddress(host string) bool {
	if _, err := netip.ParseAddr(strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")); err == nil {
		return true
	}
	last := host[strings.LastIndexByte(host, '.')+1:]
	if hex, ok := strings.CutPrefix(last, "0x"); ok && strings.Trim(hex, "0123456789abcdef") == "" {
		return true
	}
	return last != "" && strings.Trim(last, "0123456789") == ""
}

func checkName(host string) error {
	if host == "" {
		return errors.New("it has no name")
	}
	if len(host) > 253 {
		return errors.New("its name is longer than 253 characters")
	}
	for label := range strings.SplitSeq(host, ".") {
		if err := checkLabel(label); err != nil {
			return err
		}
	}
	return nil
}

func checkLabel(label string) error {
	if label == "" || len(label) > 63 {
		return errors.New("each part of its name has 1 to 63 characters")
	}
	for i := range len(label) {
		if c := label[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return errors.New("its name has a character other than letters, digits and hyphens (others are written in their xn-- form)")
		}
	}
	if label[0] == '-' || label[len(label)-1] == '-' {
		return errors.New("a part of its name begins or ends with a hyphen")
	}
	if strings.HasPrefix(label, "xn--") {
		unicode, err := idna.Lookup.ToUnicode(label)
		if back, err2 := idna.Lookup.ToASCII(unicode); err != nil || err2 != nil || back != label || unicode == label {
			return errors.New("a part of its name begins with xn-- but is no internationalised name")
		}
	}
	return nil
}

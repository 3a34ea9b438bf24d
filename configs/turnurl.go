package configs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
)

// TURNURL is a turn: or turns: URL (RFC 7065), as a browser gets them in its ICE servers.
type TURNURL struct {
	// Secure is turns: TURN inside TLS.
	Secure bool
	// Host is a name in lower case, or an address without brackets.
	Host string
	// Port is 3478 for turn: and 5349 for turns: where the URL has none.
	Port uint16
	// Transport is udp or tcp. Where the URL names none it is udp for turn: and tcp for turns:.
	Transport string
}

// ParseTURNURL reads a TURN URL: scheme ":" host [":" port] ["?transport=" udp|tcp] (RFC 7065 section 3.1). turns: over
// UDP would be DTLS, which no browser uses for TURN; it is refused.
func ParseTURNURL(s string) (TURNURL, error) {
	var u TURNURL
	scheme, rest, ok := strings.Cut(s, ":")
	if !ok {
		return TURNURL{}, errors.New("it has no scheme")
	}
	switch strings.ToLower(scheme) {
	case "turn":
		u.Port, u.Transport = 3478, "udp"
	case "turns":
		u.Secure, u.Port, u.Transport = true, 5349, "tcp"
	default:
		return TURNURL{}, errors.New("its scheme is neither turn nor turns")
	}
	if strings.HasPrefix(rest, "//") {
		return TURNURL{}, errors.New("it has // after the scheme, which TURN URLs have not")
	}
	hostport, query, hasQuery := strings.Cut(rest, "?")
	if hasQuery {
		if err := u.parseQuery(query); err != nil {
			return TURNURL{}, err
		}
	}
	if err := u.parseHostPort(hostport); err != nil {
		return TURNURL{}, err
	}
	return u, nil
}

func (u *TURNURL) parseQuery(query string) error {
	transport, ok := strings.CutPrefix(query, "transport=")
	if !ok {
		return errors.New("it has a parameter other than transport")
	}
	switch transport = strings.ToLower(transport); {
	case transport != "udp" && transport != "tcp":
		return errors.New("its transport is neither udp nor tcp")
	case transport == "udp" && u.Secure:
		return errors.New("turns over udp (DTLS) is not supported")
	}
	u.Transport = transport
	return nil
}

func (u *TURNURL) parseHostPort(s string) error {
	if strings.Contains(s, "@") {
		return errors.New("it has a user name, which TURN URLs have not")
	}
	host, port, hasPort := s, "", false
	if rest, bracket := strings.CutPrefix(s, "["); bracket {
		inner, after, closed := strings.Cut(rest, "]")
		addr, err := netip.ParseAddr(inner)
		if !closed || err != nil || !addr.Is6() || addr.Zone() != "" || (after != "" && after[0] != ':') {
			return errors.New("its address in brackets is no IPv6 address")
		}
		host, port, hasPort = addr.String(), strings.TrimPrefix(after, ":"), after != ""
	} else if i := strings.IndexByte(s, ':'); i >= 0 {
		host, port, hasPort = s[:i], s[i+1:], true
	}
	if hasPort {
		n, err := parsePort(port)
		if err != nil {
			return err
		}
		u.Port = n
	}
	u.Host = CanonicalHost(host)
	if _, err := netip.ParseAddr(u.Host); err == nil {
		return nil
	}
	if err := checkHostname(u.Host); err != nil {
		return fmt.Errorf("its host %w", err)
	}
	return nil
}

// Addr is host:port, with brackets around an IPv6 address.
func (u TURNURL) Addr() string {
	return net.JoinHostPort(u.Host, strconv.Itoa(int(u.Port)))
}

// String is the URL in full: port and transport are always written out.
func (u TURNURL) String() string {
	scheme := "turn:"
	if u.Secure {
		scheme = "turns:"
	}
	return scheme + u.Addr() + "?transport=" + u.Transport
}

// parsePort reads a port in its one canonical form: decimal, no sign, no leading zero, 1 to 65535.
func parsePort(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n == 0 || strconv.FormatUint(n, 10) != s {
		return 0, errors.New("its port is no number from 1 to 65535")
	}
	return uint16(n), nil
}

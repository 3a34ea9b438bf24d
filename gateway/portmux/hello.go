package portmux

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Hello is what a client said of itself in its ClientHello. It is kept for the length of the connection: the precall
// page tells from it whether a middlebox stands between browser and gateway.
type Hello struct {
	// SNI is the name asked for, in lower case; empty when there was none.
	SNI          string
	ALPN         []string
	CipherSuites []uint16
	Extensions   []uint16
	Versions     []uint16
	// GREASE says that reserved values of RFC 8701 were among suites or extensions. Chromium sends them; Go's TLS, and
	// most middleboxes that break TLS open, do not.
	GREASE bool
}

func newHello(info *tls.ClientHelloInfo) *Hello {
	return &Hello{
		SNI:          info.ServerName,
		ALPN:         info.SupportedProtos,
		CipherSuites: info.CipherSuites,
		Extensions:   info.Extensions,
		Versions:     info.SupportedVersions,
		GREASE:       slices.ContainsFunc(info.CipherSuites, isGREASE) || slices.ContainsFunc(info.Extensions, isGREASE),
	}
}

// isGREASE knows the reserved values 0x0A0A, 0x1A1A, … 0xFAFA (RFC 8701 section 2).
func isGREASE(v uint16) bool {
	return v&0x0f0f == 0x0a0a && v>>8 == v&0xff
}

// errNotOurs stops the handshake of a connection whose TLS is not taken off here.
var errNotOurs = errors.New("portmux: not to be terminated")

// helloConfig is what every handshake begins with: on the ClientHello the connection's Route is decided, and its Config goes on. So
// there is one parser of TLS in this program, and a hello is parsed once.
//
// It is one for all connections, since the keys of session tickets belong to the config that a handshake begins with.
func helloConfig(decide func(*tls.ClientHelloInfo) Route) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			w, ok := info.Conn.(*wire)
			if !ok || w.hello == nil {
				return nil, errNotOurs
			}
			info.ServerName = strings.ToLower(info.ServerName)
			w.owner.hello = newHello(info)
			route := decide(info)
			if w.hello.route = route; route.Config == nil {
				return nil, errNotOurs
			}
			w.hello = nil
			return route.Config, nil
		},
	}
}

// helloTap is between a wire and TLS until the route is decided: it remembers what is read and sends nothing.
type helloTap struct {
	route Route
	seen  []byte
	alert []byte // what crypto/tls has to say of a malformed hello
	limit int
}

func (t *helloTap) read(w *wire, p []byte) (int, error) {
	room := t.limit - len(t.seen)
	if room <= 0 {
		return 0, fmt.Errorf("ClientHello longer than %d bytes", t.limit)
	}
	n, err := w.read(p[:min(len(p), room)])
	t.seen = append(t.seen, p[:n]...)
	return n, err
}

func (t *helloTap) write(p []byte) (int, error) {
	const alertSize = 7
	if len(p) == alertSize {
		t.alert = slices.Clone(p)
	}
	return len(p), nil
}

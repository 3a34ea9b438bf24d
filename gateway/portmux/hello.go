package portmux

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net"
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

// errHelloRead stops the handshake that exists only to read a ClientHello.
var errHelloRead = errors.New("portmux: hello read")

// readHello reads the ClientHello and puts every byte back. A tls.Server does the parsing, so that there is one parser
// of TLS in this program, and it stops in GetConfigForClient, before it would answer. decide is called there.
//
// A malformed hello gets the alert that crypto/tls has for it.
func (c *Conn) readHello(limit int, decide func(*tls.ClientHelloInfo) Route) (Route, error) {
	var route Route
	tap := &helloTap{wire: &c.wire, limit: limit}
	server := tls.Server(tap, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			info.ServerName = strings.ToLower(info.ServerName)
			info.Conn = &c.wire
			c.hello = newHello(info)
			route = decide(info)
			return nil, errHelloRead
		},
	})
	err := server.Handshake()
	if errors.Is(err, errHelloRead) {
		c.wire.unread(tap.seen)
		return route, nil
	}
	if len(tap.alert) > 0 {
		c.wire.sayLast(tap.alert)
	}
	return Route{}, err
}

// helloTap is what the reading tls.Server sits on: it remembers what it reads and sends nothing.
type helloTap struct {
	*wire
	seen  []byte
	alert []byte
	limit int
}

func (t *helloTap) Read(p []byte) (int, error) {
	room := t.limit - len(t.seen)
	if room <= 0 {
		return 0, fmt.Errorf("ClientHello longer than %d bytes", t.limit)
	}
	n, err := t.wire.Read(p[:min(len(p), room)])
	t.seen = append(t.seen, p[:n]...)
	return n, err
}

func (t *helloTap) Write(p []byte) (int, error) {
	const alertSize = 7
	if len(p) == alertSize {
		t.alert = slices.Clone(p)
	}
	return len(p), nil
}

// Close is for nobody: the connection goes on after the reading.
func (t *helloTap) Close() error { return nil }

var _ net.Conn = (*helloTap)(nil)

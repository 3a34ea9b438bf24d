package forward

import (
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"strings"
)

// maxHello bounds what is read of a ClientHello; those of browsers have 1 to 2 KiB.
const maxHello = 64 << 10

// errHelloRead stops the handshake that exists only to read a ClientHello.
var errHelloRead = errors.New("forward: hello read")

// readHello reads a ClientHello from conn, of which head was read already, and returns the name that it asks for and
// every byte that was read. A tls.Server does the parsing and stops before it would answer: there is no parser of TLS
// here.
func readHello(conn net.Conn, head []byte) (sni string, seen []byte, err error) {
	tap := &helloTap{Conn: conn, ahead: head}
	server := tls.Server(tap, &tls.Config{
		MinVersion: tls.VersionTLS12,
		GetConfigForClient: func(info *tls.ClientHelloInfo) (*tls.Config, error) {
			sni = lower(info.ServerName)
			return nil, errHelloRead
		},
	})
	if err := server.Handshake(); !errors.Is(err, errHelloRead) {
		return "", tap.seen, err
	}
	return sni, tap.seen, nil
}

// helloTap is what the reading tls.Server sits on: it remembers what it reads and sends nothing.
type helloTap struct {
	net.Conn
	ahead []byte // read before
	seen  []byte
}

func (t *helloTap) Read(p []byte) (int, error) {
	if len(t.ahead) > 0 {
		n := copy(p, t.ahead)
		t.ahead = t.ahead[n:]
		t.seen = append(t.seen, p[:n]...)
		return n, nil
	}
	room := maxHello - len(t.seen)
	if room <= 0 {
		return 0, errors.New("the ClientHello is too long")
	}
	n, err := t.Conn.Read(p[:min(len(p), room)])
	t.seen = append(t.seen, p[:n]...)
	return n, err
}

func (t *helloTap) Write(p []byte) (int, error) { return len(p), nil }

// Close is for nobody: the connection goes on after the reading.
func (t *helloTap) Close() error { return nil }

// checkSNI says whether TLS for the name sni may pass in a tunnel to host. Another name would be domain fronting: the
// CONNECT names an allowed host, and the server behind it serves the name in the TLS. No name at all is what some
// browsers send to TURN servers.
func checkSNI(k kind, host, sni string) *refusal {
	switch {
	case strings.TrimSuffix(sni, ".") == host || sni == "" && k == serviceRelay:
		return nil
	case sni == "":
		return &refusal{code: http.StatusForbidden, word: statusPolicy, why: "the TLS inside the tunnel names no host"}
	}
	return &refusal{code: http.StatusForbidden, word: statusPolicy, why: "the TLS inside the tunnel names another host than the CONNECT"}
}

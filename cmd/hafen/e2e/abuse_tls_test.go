package e2e

import (
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"
)

// TestAbuse_TLS: what is spoken on 443 before anything else, tried with handshakes that no browser makes. D-06 has no case: nothing
// here takes client certificates. D-13 and D-14 are TestAbuse_D13, D-15 is in J-11.
func TestAbuse_TLS(t *testing.T) {
	t.Parallel()
	a := newAbuse(t)
	t.Run("D-01", a.oldVersions)
	t.Run("D-02", a.weakSuites)
	t.Run("D-03", a.protocols)
	t.Run("D-05", a.serverNames)
	t.Run("D-08", a.tickets)
	a.alive(t)
}

// The alerts of RFC 8446 section 6 that these cases expect.
const (
	alertHandshakeFailure = 40
	alertProtocolVersion  = 70
	alertUnrecognizedName = 112
	alertNoProtocol       = 120
)

// rawHello is a ClientHello of TLS 1.2 with just these cipher suites, compression methods and extensions.
func rawHello(version uint16, suites []uint16, compression []byte, extensions ...[]byte) []byte {
	body := binary.BigEndian.AppendUint16(nil, version)
	random := make([]byte, 32)
	_, _ = rand.Read(random)
	body = append(append(body, random...), 0) // no session
	body = binary.BigEndian.AppendUint16(body, uint16(2*len(suites)))
	for _, s := range suites {
		body = binary.BigEndian.AppendUint16(body, s)
	}
	body = append(append(body, byte(len(compression))), compression...)
	var all []byte
	for _, e := range extensions {
		all = append(all, e...)
	}
	body = append(binary.BigEndian.AppendUint16(body, uint16(len(all))), all...)
	hello := append([]byte{1, 0, byte(len(body) >> 8), byte(len(body))}, body...)
	return append([]byte{22, 3, 1, byte(len(hello) >> 8), byte(len(hello))}, hello...)
}

// tlsExtension is one extension with its type and length in front.
func tlsExtension(typ uint16, data ...byte) []byte {
	e := binary.BigEndian.AppendUint16(nil, typ)
	return append(binary.BigEndian.AppendUint16(e, uint16(len(data))), data...)
}

// nameExtension is server_name with these names (RFC 6066 allows one).
func nameExtension(names ...string) []byte {
	var list []byte
	for _, n := range names {
		list = append(binary.BigEndian.AppendUint16(append(list, 0), uint16(len(n))), n...)
	}
	return tlsExtension(0, append(binary.BigEndian.AppendUint16(nil, uint16(len(list))), list...)...)
}

var (
	groupsExtension     = tlsExtension(10, 0, 4, 0, 29, 0, 23)                  // x25519, secp256r1
	signaturesExtension = tlsExtension(13, 0, 8, 4, 3, 8, 4, 4, 1, 5, 3)        // ecdsa_secp256r1_sha256 first
	goodSuites          = []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256} // what the laboratory's certificate takes
	ordinaryExtensions  = [][]byte{groupsExtension, signaturesExtension}        // of a hello that is fine
	noCompression       = []byte{0}
)

// says sends raw bytes and tells the alert that came back; 0: none.
func (a *abuse) says(t *testing.T, hello []byte) (alert byte, answer []byte) {
	t.Helper()
	conn := a.tcp(t, a.inside, gatewayAddr+":443")
	_, _ = conn.Write(hello)
	answer, _ = answers(conn, 1500*time.Millisecond)
	_ = conn.Close()
	if len(answer) >= 7 && answer[0] == 21 {
		alert = answer[6]
	}
	return alert, answer
}

func greets(answer []byte) bool { return len(answer) > 5 && answer[0] == 22 && answer[5] == 2 }

func (a *abuse) oldVersions(t *testing.T) {
	ordinary := append([][]byte{nameExtension(gatewayName)}, ordinaryExtensions...)
	for version, name := range map[uint16]string{0x0300: "SSL 3", 0x0301: "TLS 1.0", 0x0302: "TLS 1.1"} {
		alert, answer := a.says(t, rawHello(version, goodSuites, noCompression, ordinary...))
		if alert != alertProtocolVersion {
			t.Errorf("%s: answered %x, want alert %d", name, answer, alertProtocolVersion)
		}
	}
	if _, answer := a.says(t, rawHello(0x0303, goodSuites, noCompression, ordinary...)); !greets(answer) {
		t.Errorf("the control, TLS 1.2: %x", answer)
	}
	// A hello of SSL 2: its length with the high bit, type 1, version 2, one suite, a challenge.
	ssl2 := append([]byte{0x80, 0x1c, 1, 0, 2, 0, 3, 0, 0, 0, 16, 1, 0, 0x80}, make([]byte, 16)...)
	if _, answer := a.says(t, ssl2); len(answer) > 0 {
		t.Errorf("SSL 2 was answered %x", answer)
	}
}

func (a *abuse) weakSuites(t *testing.T) {
	ordinary := append([][]byte{nameExtension(gatewayName)}, ordinaryExtensions...)
	for name, suite := range map[string]uint16{
		"NULL": 0x0002, "ECDHE NULL": 0xC006, "anonymous": 0x0034, "ECDH anonymous": 0xC018, "EXPORT": 0x0008, "DES": 0x0009, "RC4": 0x0005, "ECDHE RC4": 0xC007,
		"3DES": 0x000A, "ECDHE 3DES": 0xC008, "RSA key exchange": tls.TLS_RSA_WITH_AES_128_GCM_SHA256, "RSA CBC": tls.TLS_RSA_WITH_AES_128_CBC_SHA,
		"ECDHE CBC": tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA, "ECDHE CBC SHA256": tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256, "DHE": 0x009E,
	} {
		if alert, answer := a.says(t, rawHello(0x0303, []uint16{suite}, noCompression, ordinary...)); alert != alertHandshakeFailure {
			t.Errorf("%s: answered %x, want alert %d", name, answer, alertHandshakeFailure)
		}
	}
	if _, answer := a.says(t, rawHello(0x0303, goodSuites, []byte{1, 0}, ordinary...)); !greets(answer) || compressionOf(answer) != 0 {
		t.Errorf("compression offered: %x", answer)
	}
	if _, answer := a.says(t, rawHello(0x0303, goodSuites, []byte{1}, ordinary...)); greets(answer) {
		t.Error("compression alone was taken")
	}
	conn := tls.Client(a.tcp(t, a.inside, gatewayAddr+":443"), &tls.Config{ServerName: gatewayName, InsecureSkipVerify: true, CurvePreferences: []tls.CurveID{tls.X25519MLKEM768}})
	if err := conn.Handshake(); err != nil || conn.ConnectionState().CurveID != tls.X25519MLKEM768 {
		t.Errorf("the hybrid key exchange: %v", err)
	}
}

// compressionOf is the method that a ServerHello chose.
func compressionOf(hello []byte) byte {
	const session = 5 + 4 + 2 + 32 // record and handshake heads, version, random
	if len(hello) <= session {
		return 0xff
	}
	at := session + 1 + int(hello[session]) + 2
	if len(hello) <= at {
		return 0xff
	}
	return hello[at]
}

// protocols asks for application protocols. What nobody speaks is refused, what is not asked for is found out by its first bytes.
func (a *abuse) protocols(t *testing.T) {
	routed := "good." + sigSuffix
	for _, c := range []struct {
		name  string
		offer []string
		want  string // "" with fails: refused
		fails bool
	}{
		{gatewayName, nil, "", false},
		{gatewayName, []string{"http/1.1"}, "http/1.1", false},
		{gatewayName, []string{"h2", "http/1.1"}, "http/1.1", false},
		{gatewayName, []string{"stun.turn"}, "stun.turn", false},
		{gatewayName, []string{"h2"}, "", true},
		{gatewayName, []string{"stun.nat-discovery"}, "", true},
		{gatewayName, []string{"nothing"}, "", true},
		{gatewayName, []string{"acme-tls/1"}, "", true}, // no challenge is under way
		{"evil.example", []string{"acme-tls/1"}, "", true},
		{gatewayName, []string{"acme-tls/1", "http/1.1"}, "http/1.1", false},
		{routed, []string{"h2"}, "h2", false},
		{routed, []string{"http/1.1"}, "http/1.1", false},
		{routed, []string{"h2\x00garbage"}, "", true},
		{routed, []string{strings.Repeat("x", 255)}, "", true},
	} {
		conn := tls.Client(a.tcp(t, a.inside, gatewayAddr+":443"), &tls.Config{ServerName: c.name, InsecureSkipVerify: true, NextProtos: c.offer})
		err := conn.Handshake()
		if got := conn.ConnectionState().NegotiatedProtocol; (err != nil) != c.fails || got != c.want {
			t.Errorf("%q of %s: %q, %v", c.offer, c.name, got, err)
		}
		_ = conn.Close()
	}
	alpn := tlsExtension(16, append([]byte{0, 8, 7}, "nothing"...)...)
	if alert, answer := a.says(t, rawHello(0x0303, goodSuites, noCompression, append([][]byte{nameExtension(gatewayName), alpn}, ordinaryExtensions...)...)); alert != alertNoProtocol {
		t.Errorf("an unknown protocol: answered %x, want alert %d", answer, alertNoProtocol)
	}
}

// serverNames asks for names that are none, and for none.
func (a *abuse) serverNames(t *testing.T) {
	hello := func(name []byte) []byte {
		if name == nil {
			return rawHello(0x0303, goodSuites, noCompression, ordinaryExtensions...)
		}
		return rawHello(0x0303, goodSuites, noCompression, append([][]byte{name}, ordinaryExtensions...)...)
	}
	for what, name := range map[string][]byte{
		"none": nil, "own": nameExtension(gatewayName), "upper case": nameExtension(strings.ToUpper(gatewayName)),
	} {
		if _, answer := a.says(t, hello(name)); !greets(answer) {
			t.Errorf("%s: answered %x, want a handshake", what, answer)
		}
	}
	for what, name := range map[string]string{
		"unknown": "evil.example", "below ours": "x." + gatewayName, "above ours": gatewayName[strings.IndexByte(gatewayName, '.')+1:], "a label": "gw", "a metadata name": "metadata.google.internal",
	} {
		if alert, answer := a.says(t, hello(nameExtension(name))); alert != alertUnrecognizedName {
			t.Errorf("%s: answered %x, want alert %d", what, answer, alertUnrecognizedName)
		}
	}
	for what, name := range map[string][]byte{
		"300 characters": nameExtension(strings.Repeat("a.", 150)), "two": nameExtension(gatewayName, "evil.example"), "empty": nameExtension(""), "a NUL": nameExtension(gatewayName + "\x00.evil.example"),
		"past its end": tlsExtension(0, 0, 200, 0, 0, 5, 'a'),
	} {
		if alert, answer := a.says(t, hello(name)); alert == 0 && !greets(answer) && len(answer) > 0 || greets(answer) && what != "empty" {
			t.Errorf("%s: answered %x, want an alert", what, answer)
		}
	}
}

// tickets resume within one run of the program, and are worth nothing to the next: their keys are never written down.
func (a *abuse) tickets(t *testing.T) {
	cache := tls.NewLRUClientSessionCache(4)
	resumed := func() bool {
		conn := tls.Client(a.tcp(t, a.inside, gatewayAddr+":443"), &tls.Config{ServerName: gatewayName, InsecureSkipVerify: true, ClientSessionCache: cache, NextProtos: []string{"http/1.1"}})
		if got := exchange(t, conn, fmt.Sprintf("GET /livez HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n", gatewayName)); code(got) != "200" {
			t.Fatalf("/livez: %q", got)
		}
		return conn.ConnectionState().DidResume
	}
	if resumed() {
		t.Fatal("resumed before there was a ticket")
	}
	if !resumed() {
		t.Error("the ticket of a minute ago is not taken: every handshake is a full one")
	}
	a.restart(t)
	if resumed() {
		t.Error("a ticket of the process before was taken: its key outlived it")
	}
}

// restart ends the program and starts it again with the same configuration.
func (a *abuse) restart(t *testing.T) {
	t.Helper()
	a.gateway.stop()
	a.gateway = a.dmz.start(a.t, "gateway", hafenBinary, "serve", "--config", a.dir+"/hafen.yaml")
	a.dmz.waitTCP(t, "127.0.0.1:9443")
}

// tlsOver is TLS for the routed name where protocols are asked for, else for the gateway's own.
func tlsOver(conn net.Conn, protos ...string) *tls.Conn {
	name := gatewayName
	if len(protos) > 0 {
		name = "good." + sigSuffix
	}
	return tls.Client(conn, &tls.Config{ServerName: name, InsecureSkipVerify: true, NextProtos: protos})
}

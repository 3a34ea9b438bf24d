package life

import (
	"bytes"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pion/stun/v2"
)

// TestAbuse_D12: OpenSSL's client resumes a session and sends bytes before the handshake has ended: to pages, a call server, and TURN. They
// are refused and nobody sees them, while the same session without them is resumed and answered. OpenSSL's server takes them from the
// same client. Go's TLS ends such a handshake, which no client begins that goes by our tickets (RFC 8446 section 4.2.10).
func TestAbuse_D12(t *testing.T) {
	t.Parallel()
	needs(t, "openssl")
	var mu sync.Mutex
	var seen []string // by the call server
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, r.URL.Path)
		_, _ = fmt.Fprint(w, "the call server saw ", r.URL.Path)
	}))
	t.Cleanup(upstream.Close)
	w := newWorld(t, func(text string) string {
		before, rest, _ := strings.Cut(text, `upstream: "`)
		_, after, _ := strings.Cut(rest, `"`)
		return before + `upstream: "` + upstream.URL + `"` + after
	})
	get := func(host, path string) string {
		return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n\r\n"
	}
	binding := func(id string) string {
		return string(stun.MustBuild(stun.BindingRequest, stun.NewTransactionIDSetter([stun.TransactionIDSize]byte([]byte(id)))).Raw)
	}
	for name, c := range map[string]struct {
		host, alpn        string
		early, late       string
		answers, noAnswer string // what is in the answer to late, and in that to early
	}{
		"pages":       {ownName, "http/1.1", get(ownName, "/early"), get(ownName, "/livez"), " 200 OK", " 404 "},
		"call server": {callName, "http/1.1", get(callName, "/early"), get(callName, "/late"), "saw /late", "/early"},
		"TURN":        {ownName, "", binding("early-early-"), binding("later-later-"), "later-later-", "early-early-"},
	} {
		o := openssl{t: t, addr: w.addr, host: c.host, alpn: c.alpn, dir: t.TempDir()}
		session := o.session(c.late, c.answers)
		if early := earlyData(t, session); early != 0 {
			t.Errorf("%s: a ticket allows %d bytes of early data", name, early)
		}
		said := o.resume(allowEarlyData(t, session, 4096), c.early, "", "Early data was ")
		if !strings.Contains(said, "Early data was rejected") || strings.Contains(said, c.noAnswer) {
			t.Errorf("%s: OpenSSL says of early bytes: %q", name, said)
		}
		said = o.resume(session, "", c.late, c.answers)
		if !strings.Contains(said, "Reused, TLSv1.3") || !strings.Contains(said, c.answers) {
			t.Errorf("%s: OpenSSL says of the same session without early bytes: %q", name, said)
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if asked := slices.DeleteFunc(seen, func(path string) bool { return path == "/healthz" }); !slices.Equal(asked, []string{"/late", "/late"}) {
		t.Errorf("the call server has seen %q", asked)
	}

	o := openssl{t: t, addr: freeAddr(t), host: ownName, alpn: "http/1.1", dir: t.TempDir()}
	took := o.serve()
	session := o.session("", "")
	if early := earlyData(t, session); early == 0 {
		t.Error("the control: no early data is seen in a ticket that allows it")
	}
	said := o.resume(allowEarlyData(t, allowEarlyData(t, session, 0), 4096), get(ownName, "/early"), "", "Early data was ")
	if !strings.Contains(said, "Early data was accepted") || !strings.Contains(took.String(), "GET /early") {
		t.Errorf("the control: OpenSSL's client says %q, its server %q", said, took)
	}
}

// openssl is OpenSSL's client, and where it goes.
type openssl struct {
	t                *testing.T
	addr, host, alpn string
	dir              string
}

// session connects, asks for something until the answer is there, and returns the session that it was given a ticket for.
func (o openssl) session(ask, answer string) []byte {
	o.t.Helper()
	file := filepath.Join(o.dir, "session.pem")
	o.client(ask, func(said string) bool {
		_, err := os.Stat(file)
		return err == nil && strings.Contains(said, answer)
	}, "-sess_out", file)
	text, err := os.ReadFile(file)
	if err != nil {
		o.t.Fatal(err)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "SSL SESSION PARAMETERS" {
		o.t.Fatalf("no session: %s", text)
	}
	return block.Bytes
}

// resume resumes a session with early bytes, if there are any, then asks for something, if there is anything, and returns all that was
// said until something was.
func (o openssl) resume(session []byte, early, ask, until string) string {
	o.t.Helper()
	file, data := filepath.Join(o.dir, "resumed.pem"), filepath.Join(o.dir, "early")
	for name, text := range map[string][]byte{file: pem.EncodeToMemory(&pem.Block{Type: "SSL SESSION PARAMETERS", Bytes: session}), data: []byte(early)} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			o.t.Fatal(err)
		}
	}
	args := []string{"-sess_in", file}
	if early != "" {
		args = append(args, "-early_data", data)
	}
	return o.client(ask, func(said string) bool { return strings.Contains(said, until) }, args...)
}

// client runs s_client, which asks for something and ends when all is said.
func (o openssl) client(ask string, done func(said string) bool, args ...string) string {
	o.t.Helper()
	args = append([]string{"s_client", "-connect", o.addr, "-tls1_3", "-servername", o.host, "-nocommands"}, args...)
	if o.alpn != "" {
		args = append(args, "-alpn", o.alpn)
	}
	cmd := exec.Command("openssl", args...)
	said := &output{}
	cmd.Stdout, cmd.Stderr = said, said
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		o.t.Fatal(err)
	}
	_, _ = in.Write([]byte(ask))
	for end := time.Now().Add(20 * time.Second); !done(said.String()) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
	time.Sleep(100 * time.Millisecond) // for an answer too many
	_ = in.Close()                     // which is how it ends
	kill := time.AfterFunc(5*time.Second, func() { _ = cmd.Process.Kill() })
	defer kill.Stop()
	_ = cmd.Wait() // its code says whether it knows the certificate
	return said.String()
}

// serve runs OpenSSL's server, which takes early data.
func (o openssl) serve() *output {
	o.t.Helper()
	key, cert := filepath.Join(o.dir, "key.pem"), filepath.Join(o.dir, "cert.pem")
	if out, err := exec.Command("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", key, "-out", cert, "-subj", "/CN="+o.host).CombinedOutput(); err != nil {
		o.t.Fatalf("%v: %s", err, out)
	}
	cmd := exec.Command("openssl", "s_server", "-accept", o.addr, "-cert", cert, "-key", key, "-alpn", o.alpn, "-early_data", "-max_early_data", "4096")
	took := &output{}
	cmd.Stdout, cmd.Stderr = took, took
	_, err := cmd.StdinPipe() // that it has none would end it
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		o.t.Fatal(err)
	}
	o.t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", o.addr); err == nil {
			_ = conn.Close()
			return took
		}
		if time.Now().After(end) {
			o.t.Fatalf("OpenSSL's server does not start: %s", took)
		}
	}
}

// earlyDataTag is where OpenSSL keeps in a session how many early bytes its ticket allows: SSL_SESSION_ASN1 in ssl/ssl_asn1.c.
const earlyDataTag = 15

// earlyData is how many early bytes a session allows.
func earlyData(t *testing.T, session []byte) (n int) {
	t.Helper()
	for _, field := range fieldsOf(t, session) {
		if isEarlyData(field) {
			if _, err := asn1.Unmarshal(field.Bytes, &n); err != nil {
				t.Fatal(err)
			}
		}
	}
	return n
}

// allowEarlyData makes a session that allows n early bytes, whatever its server has said.
func allowEarlyData(t *testing.T, session []byte, n int) []byte {
	t.Helper()
	fields := slices.DeleteFunc(fieldsOf(t, session), isEarlyData)
	number, err := asn1.Marshal(n)
	if err != nil {
		t.Fatal(err)
	}
	at := slices.IndexFunc(fields, func(f asn1.RawValue) bool { return f.Class == asn1.ClassContextSpecific && f.Tag > earlyDataTag })
	if at < 0 {
		at = len(fields)
	}
	if n > 0 {
		fields = slices.Insert(fields, at, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: earlyDataTag, IsCompound: true, Bytes: number})
	}
	made, err := asn1.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func isEarlyData(f asn1.RawValue) bool {
	return f.Class == asn1.ClassContextSpecific && f.Tag == earlyDataTag
}

func fieldsOf(t *testing.T, session []byte) (fields []asn1.RawValue) {
	t.Helper()
	if rest, err := asn1.Unmarshal(session, &fields); err != nil || len(bytes.TrimSpace(rest)) > 0 {
		t.Fatalf("%v, %d bytes are left", err, len(rest))
	}
	return fields
}

package audit

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"hafen/gateway/frugal"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var day = time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)

func read(t *testing.T, path string, from, to time.Time) (all []Record) {
	t.Helper()
	if _, err := Read(path, from, to, func(r Record) error { all = append(all, r); return nil }); err != nil {
		t.Fatal(err)
	}
	return all
}

// TestFile: each day has a file, the old ones go, and a period is read over all of them.
func TestFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	now := day
	f := &file{path: path, keep: 72 * time.Hour, now: func() time.Time { return now }}
	for i := range 10 {
		if err := f.write(t.Context(), []Record{{Time: now, Event: "connect", Target: strconv.Itoa(i), Status: "ok"}}); err != nil {
			t.Fatal(err)
		}
		now = now.Add(24 * time.Hour)
	}
	f.close()
	all := read(t, path, time.Time{}, now)
	if len(all) < 4 || len(all) > 5 || all[len(all)-1].Target != "9" {
		t.Errorf("%d records are left: %+v", len(all), all)
	}
	if got := read(t, path, day.Add(7*24*time.Hour), day.Add(8*24*time.Hour)); len(got) != 1 || got[0].Target != "7" {
		t.Errorf("one day: %+v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm()&0o027 != 0 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
}

// TestHalfLines: what a crash has left is counted, and keeps nothing else from being read.
func TestHalfLines(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	text := `{"time":"2026-11-01T08:00:00Z","event":"login"}` + "\n" + `{"time":"2026-` + "\n" + strings.Repeat("x", 2*maxLine) + "\n" + `{"time":"2026-11-01T09:00:00Z","event":"logout"}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	n := 0
	broken, err := Read(path, time.Time{}, day.Add(24*time.Hour), func(Record) error { n++; return nil })
	if n != 2 || broken != 2 || err != nil {
		t.Errorf("%d records, %d broken, %v", n, broken, err)
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none"), time.Time{}, day, nil); err == nil {
		t.Error("a log that is not there was read")
	}
}

// deaf takes nothing until it is told to.
type deaf struct {
	works bool
	got   []Record
}

func (d *deaf) write(_ context.Context, r []Record) error {
	if !d.works {
		return errors.New("the disk is full")
	}
	d.got = append(d.got, r...)
	return nil
}
func (d *deaf) close() {}

// TestSinkKeepsWhatItCan: what could not be written waits within a bound, and what was lost is said.
func TestSinkKeepsWhatItCan(t *testing.T) {
	d := &deaf{}
	k := &sink{to: d}
	failed, _ := k.write(t.Context(), make([]Record, 5), day)
	if failed == nil {
		t.Error("the failure is not told")
	}
	if failed, _ := k.write(t.Context(), make([]Record, maxQueue), day); failed != nil {
		t.Error("it is told again")
	}
	if why, lost := k.state(); why == "" || lost != 5 || len(k.waiting) != maxQueue {
		t.Errorf("%q, %d lost, %d wait", why, lost, len(k.waiting))
	}
	d.works = true
	if _, recovered := k.write(t.Context(), nil, day); !recovered || len(d.got) != maxQueue+1 || d.got[0].Event != "lost" || !strings.HasPrefix(d.got[0].Detail, "5 ") {
		t.Errorf("recovered %v, %d records, first %+v", recovered, len(d.got), d.got[0])
	}
}

func TestLog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit.log")
	l, err := Open(Options{File: path, FullAddresses: false, Now: func() time.Time { return day }})
	if err != nil {
		t.Fatal(err)
	}
	for range 100 {
		l.Write(Record{Event: "connection", Client: l.Shown(netip.MustParseAddr("10.1.2.3"))})
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	if all := read(t, path, day, day.Add(time.Hour)); len(all) != 100 || all[0].Client != "10.1.2.0/24" {
		t.Errorf("%d records, %+v", len(all), all[:min(1, len(all))])
	}
	if l, err := Open(Options{}); l != nil || err != nil {
		t.Errorf("nothing was asked for: %v, %v", l, err)
	}
	var none *Log
	none.Write(Record{}) // nobody has to ask whether it is on
	if on, _, _ := none.State(); on || none.Close() != nil {
		t.Error("a log that is off")
	}
	if _, err := Open(Options{File: filepath.Join(t.TempDir(), "no", "dir", "a.log")}); err == nil || !strings.Contains(err.Error(), "audit.file") {
		t.Errorf("%v", err)
	}
}

// authority makes a certificate for localhost and the pool that trusts it.
func authority(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{"localhost"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// rfc5424 is what a message must look like (section 6).
var rfc5424 = regexp.MustCompile(`^<110>1 \d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z gw\.example hafen \d+ [a-z]+ \[hafen@32473( [a-z]+="([^"\\\]]|\\["\\\]])*")*\]$`)

// TestSyslog: messages arrive in octet counting over TLS, also after the server has hung up; a server that nobody vouches for gets none.
func TestSyslog(t *testing.T) {
	cert, pool := authority(t)
	ln, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	got := make(chan string, 10)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			in := bufio.NewReader(conn)
			size, err := in.ReadString(' ')
			n, bad := strconv.Atoi(strings.TrimSpace(size))
			if err == nil && bad == nil {
				text := make([]byte, n)
				_, _ = io.ReadFull(in, text)
				got <- string(text)
			}
			_ = conn.Close() // after each message: the next one needs a connection of its own
		}
	}()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, ln.Addr().String())
	}
	p := &peer{addr: "localhost:6514", host: "gw.example", dial: dial, roots: pool}
	evil := Record{Time: day, Event: "login", User: `an"na]\`, Target: "x\ny", Status: "ok", Seconds: 1.5, Bytes: 7}
	for range 3 {
		deadline := time.Now().Add(20 * time.Second)
		for err := p.write(t.Context(), []Record{evil}); err != nil; err = p.write(t.Context(), []Record{evil}) {
			if time.Now().After(deadline) {
				t.Fatal(err)
			}
		}
		if m := <-got; !rfc5424.MatchString(m) || !strings.Contains(m, `user="an\"na\]\\"`) || !strings.Contains(m, `target="x?y"`) {
			t.Errorf("%q", m)
		}
		time.Sleep(50 * time.Millisecond) // let the goodbye arrive
	}
	p.close()
	stranger := &peer{addr: "localhost:6514", dial: dial}
	if err := stranger.write(t.Context(), []Record{evil}); err == nil || !strings.Contains(err.Error(), "audit.syslog: TLS") {
		t.Errorf("a server that nobody vouches for: %v", err)
	}
	_ = ln.Close()
	<-done
}

func FuzzReadRecords(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-01T08:00:00Z","event":"login"}` + "\n{"))
	f.Fuzz(func(t *testing.T, data []byte) {
		defer frugal.Input(t)()
		n := 0
		broken, err := readRecords(strings.NewReader(string(data)), time.Time{}, time.Now(), func(Record) error { n++; return nil })
		if err != nil || n+broken > 1+strings.Count(string(data), "\n") {
			t.Errorf("%d records, %d broken, %v", n, broken, err)
		}
	})
}

func FuzzEscape(f *testing.F) {
	f.Add("a\"b]c\\d\n\xff")
	f.Fuzz(func(t *testing.T, s string) {
		defer frugal.Input(t)()
		m := (&peer{host: "gw.example"}).format(Record{Time: day, Event: "x", Detail: s})
		if s != "" && !rfc5424.MatchString(m) {
			t.Errorf("%q", m)
		}
	})
}

package gateway

import (
	"bufio"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hafen/configs"
)

// patient is a configuration of which everything works: a certificate, a call server and a region on loopback.
type patient struct {
	t      *testing.T
	cfg    *configs.Config
	opts   CheckupOptions
	answer http.HandlerFunc // of the call server
}

func newPatient(t *testing.T) *patient {
	p := &patient{t: t, cfg: configs.Default(), answer: callServer}
	p.cfg.Name = ownName
	p.cfg.DataDir, p.cfg.RunDir = t.TempDir(), t.TempDir()
	p.cfg.Listen = configs.Listen{HTTPS: []string{"127.0.0.1:0"}, TURNUDP: []string{"127.0.0.1:0"}}
	p.cfg.PAC.Otherwise = "DIRECT"
	s := service("calls", newRegion(t), callHost)
	s.Probes = configs.Probes{HTTPS: "/", WebSocket: "/ws", LongPoll: "/poll"}
	p.cfg.Services = []configs.Service{s}
	p.certificate([]string{ownName}, time.Now().Add(90*24*time.Hour))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { p.answer(w, r) }))
	t.Cleanup(server.Close)
	p.cfg.Signaling.Routes = []configs.Route{{Host: callHost, Path: "/", Upstream: server.URL, Service: "calls"}}
	p.opts = CheckupOptions{Config: p.cfg, Patience: 15 * time.Second, DiskFree: func(string) (uint64, uint64, error) { return 5 << 30, 10 << 30, nil }}
	return p
}

func callServer(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Upgrade") != "" {
		w.WriteHeader(http.StatusForbidden) // an upgrade got here
	}
}

// certificate puts a certificate for the names into the configuration.
func (p *patient) certificate(names []string, until time.Time) {
	p.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		p.t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: names[0]}, DNSNames: names,
		NotBefore: time.Now().Add(-100 * 24 * time.Hour), NotAfter: until, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		p.t.Fatal(err)
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		p.t.Fatal(err)
	}
	file := filepath.Join(p.t.TempDir(), "gw.pem")
	text := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret})...)
	if err := os.WriteFile(file, text, 0o600); err != nil {
		p.t.Fatal(err)
	}
	p.cfg.TLS = configs.TLS{Source: "files", Files: []configs.TLSFile{{Cert: file}}}
}

// silentUDP is a port at which nobody answers.
func silentUDP(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.LocalAddr().String()
}

// TestCheckupNamesFaults injects one fault at a time, and wants it named with what to do; nothing else may fail.
func TestCheckupNamesFaults(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault   func(t *testing.T, p *patient)
		area    string
		about   string
		verdict Verdict
		detail  string
		todo    string
	}{
		"clock is wrong": {
			func(_ *testing.T, p *patient) { p.opts.Now = func() time.Time { return time.Now().Add(time.Hour) } },
			"clock", "clock", Fail, "1h0m", "time server",
		},
		"name does not resolve": {
			func(t *testing.T, p *patient) {
				p.cfg.DNS.Servers = []string{silentUDP(t)}
				p.cfg.Services[0].Regions = append(p.cfg.Services[0].Regions, configs.Region{Name: "lost", URLs: []string{"turn:lost.example.net:3478?transport=udp"}, Use: true})
			},
			"dns", "lost.example.net", Fail, "lost.example.net", "dns.servers",
		},
		"split DNS": {
			func(_ *testing.T, p *patient) {
				p.cfg.Hosts = []configs.Host{{Host: "fra.example.net", IP: netip.MustParseAddr("10.1.2.3")}}
				p.cfg.Services[0].Regions = append(p.cfg.Services[0].Regions, configs.Region{Name: "split", URLs: []string{"turn:fra.example.net:3478?transport=udp"}, Use: true})
			},
			"dns", "fra.example.net", Fail, "10.1.2.3", "private_networks",
		},
		"port is taken": {
			func(t *testing.T, p *patient) {
				ln, err := net.Listen("tcp", "127.0.0.1:0")
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { _ = ln.Close() })
				p.cfg.Listen.HTTP = []string{ln.Addr().String()}
			},
			"port", "listen.http", Fail, "can't be bound", "another program listens",
		},
		"too few files": {
			func(_ *testing.T, p *patient) { p.opts.FileLimit = func() (uint64, error) { return 1000, nil } },
			"files", "open files", Fail, "1000 may be open", "LimitNOFILE",
		},
		"disk nearly full": {
			func(_ *testing.T, p *patient) {
				p.opts.DiskFree = func(string) (uint64, uint64, error) { return 10 << 20, 1 << 30, nil }
			},
			"disk", "data_dir", Fail, "10 MiB are free", "make room",
		},
		"certificate has ended": {
			func(_ *testing.T, p *patient) { p.certificate([]string{ownName}, time.Now().Add(-time.Hour)) },
			"certificate", ownName, Fail, "expired", "hafen csr",
		},
		"certificate ends soon": {
			func(_ *testing.T, p *patient) { p.certificate([]string{ownName}, time.Now().Add(3*24*time.Hour)) },
			"certificate", ownName, Warn, "days", "renew it",
		},
		"certificate for another name": {
			func(_ *testing.T, p *patient) {
				p.certificate([]string{"other.example"}, time.Now().Add(90*24*time.Hour))
			},
			"certificate", ownName, Fail, "no certificate covers", "hafen csr",
		},
		"call server is broken": {
			func(_ *testing.T, p *patient) {
				p.answer = func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/" {
						w.WriteHeader(http.StatusBadGateway)
						return
					}
					callServer(w, r)
				}
			},
			"call server", callHost + " HTTPS", Fail, "502", "TCP 443",
		},
		"WebSockets are stripped": {
			func(_ *testing.T, p *patient) { p.answer = func(http.ResponseWriter, *http.Request) {} },
			"call server", callHost + " WebSocket", Fail, "upgrade", "Upgrade must pass",
		},
		"long-polls are cut": {
			func(_ *testing.T, p *patient) {
				p.answer = func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/poll" {
						time.Sleep(100 * time.Millisecond)
						panic(http.ErrAbortHandler)
					}
					callServer(w, r)
				}
			},
			"call server", callHost + " long-poll", Fail, "was held", "3600 s",
		},
		"one region is dead": {
			func(t *testing.T, p *patient) {
				p.cfg.Services[0].Regions = append(p.cfg.Services[0].Regions, configs.Region{Name: "dead", URLs: []string{"turn:" + silentUDP(t) + "?transport=udp"}, Use: true})
			},
			"region", "calls/dead", Warn, "another region", "rungs below",
		},
		"all regions are dead": {
			func(t *testing.T, p *patient) {
				p.cfg.Services[0].Regions[0].URLs = []string{"turn:" + silentUDP(t) + "?transport=udp"}
			},
			"region", "calls/calls-region udp", Fail, "", "open UDP",
		},
		"company proxy wants a login": {
			func(t *testing.T, p *patient) {
				proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
					w.Header().Set("Proxy-Authenticate", "Negotiate")
					w.WriteHeader(http.StatusProxyAuthRequired)
				}))
				t.Cleanup(proxy.Close)
				p.cfg.Egress.Proxy, p.cfg.Egress.NoProxy = proxy.URL, []string{"127.0.0.1"}
				p.cfg.Hosts = []configs.Host{{Host: callHost, IP: netip.MustParseAddr("127.0.0.2")}}
			},
			"proxy", "company proxy", Fail, "offers Negotiate, the gateway knows Basic only", "Basic",
		},
		"company's PAC file is gone": {
			func(_ *testing.T, p *patient) { p.cfg.PAC.Otherwise, p.cfg.PAC.ParentFile = "", "/nowhere/company.pac" },
			"pac", "PAC file", Fail, "/nowhere/company.pac", "pac.parent_file",
		},
		"PAC file offers nothing": {
			func(_ *testing.T, p *patient) { p.cfg.TLS = configs.TLS{Source: "self-signed"} },
			"pac", "PAC file", Warn, "offers no gateway", "listen.proxy",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPatient(t)
			tc.fault(t, p)
			found, err := Checkup(t.Context(), p.opts)
			if err != nil {
				t.Fatal(err)
			}
			named := false
			for _, f := range found {
				named = named || f.Area == tc.area && strings.HasPrefix(f.About, tc.about) && f.Verdict == tc.verdict &&
					strings.Contains(f.Detail, tc.detail) && strings.Contains(f.Todo, tc.todo)
				if f.Verdict == Fail && f.Area != tc.area {
					// A wrong clock makes certificates wrong too; a name that does not resolve is a region that is not reached.
					t.Errorf("fails without a fault of its own: %+v", f)
				}
			}
			if !named {
				t.Errorf("the fault is not named in\n%s", list(found))
			}
		})
	}
}

func list(found []Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s %s %s: %s → %s\n", f.Verdict, f.Area, f.About, f.Detail, f.Todo)
	}
	return b.String()
}

// TestCheckupHealthy: where everything works nothing warns but the name, which no DNS here knows, and the checkup leaves
// no file behind.
func TestCheckupHealthy(t *testing.T) {
	t.Parallel()
	p := newPatient(t)
	found, err := Checkup(t.Context(), p.opts)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range found {
		if f.Verdict == Fail || f.Verdict == Warn && !strings.Contains(f.About, "own name") {
			t.Errorf("%+v", f)
		}
		if f.Verdict != Pass && f.Todo == "" && f.Verdict != Skip {
			t.Errorf("says nothing about what to do: %+v", f)
		}
	}
	if files, _ := os.ReadDir(p.cfg.DataDir); len(files) != 0 {
		t.Errorf("the checkup left %v in data_dir", files)
	}
}

// TestCheckupOfARunningGateway: its own ports are no fault.
func TestCheckupOfARunningGateway(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	cfg := *w.gateway.config()
	cfg.Listen.HTTPS = []string{w.addr}
	for running, want := range map[bool]Verdict{true: Pass, false: Fail} {
		found, err := Checkup(t.Context(), CheckupOptions{Config: &cfg, Running: running, Patience: 10 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if f.Area == "port" && strings.HasPrefix(f.About, "listen.https") && f.Verdict != want {
				t.Errorf("running %v: %+v, want %s", running, f, want)
			}
		}
	}
}

// TestCheckupReports: what takes events and audit records is asked without sending any, and a dead one is named with what to do.
func TestCheckupReports(t *testing.T) {
	mail, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = mail.Close() })
	go func() {
		for {
			conn, err := mail.Accept()
			if err != nil {
				return
			}
			go smtpServer(conn)
		}
	}()
	posted := make(chan struct{}, 1)
	hook := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { posted <- struct{}{} }))
	t.Cleanup(hook.Close)
	p := newPatient(t)
	p.cfg.Events = configs.Events{Webhook: hook.URL + "/a-secret", Mail: configs.Mail{Server: mail.Addr().String(), From: "hafen@hospital.example", To: []string{"it@hospital.example"}}}
	p.cfg.Audit.Syslog = "127.0.0.1:1"
	found, err := Checkup(t.Context(), p.opts)
	if err != nil {
		t.Fatal(err)
	}
	for about, want := range map[string]struct {
		verdict        Verdict
		detail, target string
	}{
		"events.webhook":     {Pass, "nothing was posted", "TCP " + strings.TrimPrefix(hook.URL, "http://")},
		"events.mail.server": {Pass, "is a mail server, without STARTTLS", "TCP " + mail.Addr().String()},
		"audit.syslog":       {Warn, "connection refused", "TCP 127.0.0.1:1"},
	} {
		at := slices.IndexFunc(found, func(f Finding) bool { return f.About == about })
		if at < 0 {
			t.Errorf("%s is not among the findings", about)
			continue
		}
		f := found[at]
		if f.Verdict != want.verdict || !strings.Contains(f.Detail, want.detail) || f.Target != want.target || strings.Contains(f.Detail+f.Todo, "secret") || (f.Verdict == Warn) != (f.Todo != "") {
			t.Errorf("%+v", f)
		}
	}
	select {
	case <-posted:
		t.Error("something was posted")
	default:
	}
}

// smtpServer greets, and does as it is told until QUIT.
func smtpServer(conn net.Conn) {
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprint(conn, "220 mail.hospital.example ESMTP\r\n")
	for s := bufio.NewScanner(conn); s.Scan(); {
		if strings.HasPrefix(s.Text(), "QUIT") {
			_, _ = fmt.Fprint(conn, "221 bye\r\n")
			return
		}
		_, _ = fmt.Fprint(conn, "250 ok\r\n")
	}
}

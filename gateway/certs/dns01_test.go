package certs

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"hafen/configs"
	"hafen/gateway/frugal"
)

const tsigKey = `key "hafen" {
	algorithm hmac-sha256;
	secret "c2VjcmV0IG9mIHRoZSBsYWJvcmF0b3J5IDEyMzQ1Njc4OTA=";
};
`

// startBIND runs a real name server on loopback. hospital.example takes no updates but those of _acme-challenge.direct, by the key;
// the challenge of gw is a CNAME into acme.hospital.example, a zone made for it.
func startBIND(t *testing.T) (addr, keyFile string) {
	t.Helper()
	binary, err := exec.LookPath("named")
	if err != nil {
		if binary = "/usr/sbin/named"; !exists(binary) {
			if os.Getenv("CI") == "true" {
				t.Fatal("no named, and CI=true: install Debian's bind9")
			}
			t.Skip("skipped: no named on this machine (Debian: apt-get install bind9)")
		}
	}
	dir, port := t.TempDir(), freePort(t)
	head := "$TTL 60\n@ IN SOA ns.hospital.example. it.hospital.example. 1 60 60 60 60\n@ IN NS ns.hospital.example.\n"
	write(t, dir, "hospital.zone", head+"ns IN A 127.0.0.1\ngw IN A 127.0.0.1\ndirect IN A 127.0.0.1\n_acme-challenge.gw IN CNAME gw.hospital.example.acme\n", 0o644)
	write(t, dir, "acme.zone", head, 0o644)
	keyFile = write(t, dir, "hafen.key", tsigKey, 0o600)
	conf := write(t, dir, "named.conf", fmt.Sprintf(`%s
options {
	directory "%s"; pid-file none; session-keyfile "%s/session.key"; listen-on port %s { 127.0.0.1; }; listen-on-v6 { none; };
	recursion yes; dnssec-validation no; managed-keys-directory "%s";
};
controls { };
zone "hospital.example" { type primary; file "hospital.zone"; update-policy { grant hafen name _acme-challenge.direct.hospital.example. TXT; }; };
zone "acme.hospital.example" { type primary; file "acme.zone"; update-policy { grant hafen zonesub TXT; }; };
`, tsigKey, dir, dir, port, dir), 0o600)
	var said bytes.Buffer
	cmd := exec.Command(binary, "-g", "-c", conf)
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("named said:\n%s", said.String())
		}
	})
	addr = "127.0.0.1:" + port
	eventually(t, 20*time.Second, "named answers", func() bool {
		answer, err := dns.Exchange(new(dns.Msg).SetQuestion("gw.hospital.example.", dns.TypeA), addr)
		return err == nil && len(answer.Answer) == 1
	})
	return addr, keyFile
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// TestDNS01 issues by DNS-01 with pebble and BIND, in a zone of the house and through a delegated challenge. No port of the gateway is
// open to the authority. Nothing is left in the zone.
func TestDNS01(t *testing.T) {
	t.Parallel()
	server, keyFile := startBIND(t)
	p := startPebble(t, pebbleOptions{validity: time.Hour, dns: server})
	for name, zone := range map[string]string{"direct.hospital.example": "hospital.example", "gw.hospital.example": "acme.hospital.example"} {
		conf := baseConfig(t, "acme")
		conf.Name, conf.Aliases = name, nil
		conf.TLS.ACME = configs.ACME{Directory: p.directory, CAFile: p.caFile, DNS: configs.ACMEDNS{Server: server, Zone: zone, KeyName: "hafen", KeyFile: keyFile}}
		s := newStore(t, Options{Config: conf})
		if err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		roots := p.roots(t)
		eventually(t, 60*time.Second, name+" has a certificate", func() bool {
			c, err := handshake(t, s, &tls.Config{ServerName: name, RootCAs: roots})
			return err == nil && c.DNSNames[0] == name
		})
		at := (&dns01{zone: zone + "."}).record(acme.Challenge{Identifier: acme.Identifier{Type: "dns", Value: name}})
		eventually(t, 10*time.Second, at+" is cleaned up", func() bool {
			answer, err := dns.Exchange(new(dns.Msg).SetQuestion(at, dns.TypeTXT), server)
			return err == nil && len(answer.Answer) == 0
		})
	}
}

// TestDNS01SaysWhatIsWrong: each refusal by BIND names the setting that cures it.
func TestDNS01SaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	server, keyFile := startBIND(t)
	other := write(t, t.TempDir(), "other.key", "b3RoZXIgc2VjcmV0IG9mIHRoZSBsYWJvcmF0b3J5IDEyMzQ=", 0o600)
	challenge := func(name string) acme.Challenge {
		return acme.Challenge{Identifier: acme.Identifier{Type: "dns", Value: name}, KeyAuthorization: "x"}
	}
	for name, tc := range map[string]struct {
		dns  configs.ACMEDNS
		host string
		want string
	}{
		"the key may not":       {configs.ACMEDNS{Server: server, Zone: "hospital.example", KeyName: "hafen", KeyFile: keyFile}, "gw.hospital.example", "update-policy"},
		"another key":           {configs.ACMEDNS{Server: server, Zone: "hospital.example", KeyName: "hafen", KeyFile: other}, "direct.hospital.example", "DNS-01"},
		"another zone":          {configs.ACMEDNS{Server: server, Zone: "elsewhere.example", KeyName: "hafen", KeyFile: keyFile}, "gw.hospital.example", "no server of that zone"},
		"nobody listens":        {configs.ACMEDNS{Server: "127.0.0.1:" + freePort(t), Zone: "hospital.example", KeyName: "hafen", KeyFile: keyFile}, "direct.hospital.example", "connection refused"},
		"an unknown key's name": {configs.ACMEDNS{Server: server, Zone: "hospital.example", KeyName: "nobody", KeyFile: keyFile}, "direct.hospital.example", "DNS-01"},
	} {
		d, err := newDNS01(tc.dns, (&net.Dialer{}).DialContext)
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Present(t.Context(), challenge(tc.host)); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v, want %q", name, err, tc.want)
		}
	}
	for name, text := range map[string]string{"nothing": "\n", "no key": "hello", "short": "YWJj", "algorithm": strings.Replace(tsigKey, "sha256", "md5", 1)} {
		file := write(t, t.TempDir(), "key", text, 0o600)
		if _, err := newDNS01(configs.ACMEDNS{Server: server, Zone: "x", KeyName: "k", KeyFile: file}, nil); err == nil || !strings.Contains(err.Error(), "tls.acme.dns.key_file") {
			t.Errorf("%s: %v", name, err)
		}
	}
	open := write(t, t.TempDir(), "key", tsigKey, 0o644)
	if _, err := newDNS01(configs.ACMEDNS{KeyFile: open}, nil); err == nil || !strings.Contains(err.Error(), "chmod") {
		t.Errorf("a key that everybody can read: %v", err)
	}
	if d, err := newDNS01(configs.ACMEDNS{}, nil); d != nil || err != nil {
		t.Errorf("not asked for: %v %v", d, err)
	}
}

func FuzzParseTSIG(f *testing.F) {
	f.Add(tsigKey)
	f.Add("c2VjcmV0IG9mIHRoZSBsYWJvcmF0b3J5")
	f.Fuzz(func(t *testing.T, text string) {
		defer frugal.Input(t)()
		secret, algorithm, err := parseTSIG(text)
		if err == nil && (secret == "" || !strings.HasPrefix(algorithm, "hmac-")) {
			t.Errorf("%q: %q %q", text, secret, algorithm)
		}
	})
}

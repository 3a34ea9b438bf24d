package certs

import (
	"cmp"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/mholt/acmez/v3/acme"
	"github.com/miekg/dns"

	"hafen/configs"
)

// dns01 proves a name to the authority by a TXT record (RFC 8555 section 8.4) that it has a name server of the house take in
// (RFC 2136), signed with a key that may do only this (TSIG, RFC 8945). The gateway then needs no port open to the authority.
//
// The zone is the one with _acme-challenge in it. Mostly that is a small zone made for it, so that the key can change
// nothing else: _acme-challenge.gw.hospital.example itself, delegated by NS records; or a zone elsewhere, to which
// _acme-challenge.gw.hospital.example is a CNAME: then the record is at gw.hospital.example.ZONE.
type dns01 struct {
	dial               func(ctx context.Context, network, addr string) (net.Conn, error)
	server, zone       string
	key, secret, crypt string
}

const (
	recordTTL = 60 // seconds
	// seenWithin is how long the server may take to show what it has taken in.
	seenWithin = 30 * time.Second
	dnsTimeout = 10 * time.Second
	tsigFudge  = 300 // seconds that the clocks may differ, RFC 8945 section 10
)

// newDNS01 reads the key; the network is left for later. nil: DNS-01 is not asked for.
func newDNS01(o configs.ACMEDNS, dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*dns01, error) {
	if o == (configs.ACMEDNS{}) {
		return nil, nil
	}
	if err := checkSecret(o.KeyFile); err != nil {
		return nil, fmt.Errorf("tls.acme.dns.key_file: %w", err)
	}
	text, err := os.ReadFile(o.KeyFile)
	if err != nil {
		return nil, fmt.Errorf("tls.acme.dns.key_file: %w", err)
	}
	secret, algorithm, err := parseTSIG(string(text))
	if err != nil {
		return nil, fmt.Errorf("tls.acme.dns.key_file: %s: %w", o.KeyFile, err)
	}
	return &dns01{dial: dial, server: o.Server, zone: dns.CanonicalName(o.Zone), key: dns.CanonicalName(o.KeyName), secret: secret, crypt: algorithm}, nil
}

var (
	bindSecret    = regexp.MustCompile(`(?i)\bsecret\s+"?([A-Za-z0-9+/=]+)"?\s*;`)
	bindAlgorithm = regexp.MustCompile(`(?i)\balgorithm\s+"?([a-z0-9-]+)"?\s*;`)
)

// parseTSIG reads a key: the secret alone in base64, or what tsig-keygen prints.
func parseTSIG(text string) (secret, algorithm string, err error) {
	secret, algorithm = strings.TrimSpace(text), "hmac-sha256"
	if m := bindSecret.FindStringSubmatch(text); m != nil {
		secret = m[1]
		if m := bindAlgorithm.FindStringSubmatch(text); m != nil {
			algorithm = strings.ToLower(m[1])
		}
	}
	if raw, err := base64.StdEncoding.DecodeString(secret); err != nil || len(raw) < 16 {
		return "", "", errors.New("holds no TSIG key: write what tsig-keygen prints, or its secret alone")
	}
	switch algorithm {
	case "hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512":
		return secret, algorithm + ".", nil
	}
	return "", "", fmt.Errorf("its algorithm is %s: make a key with hmac-sha256", algorithm)
}

// record is where a challenge's answer belongs.
func (d *dns01) record(c acme.Challenge) string {
	name := dns.CanonicalName(c.DNS01TXTRecordName())
	if dns.IsSubDomain(d.zone, name) {
		return name
	}
	return strings.TrimPrefix(name, "_acme-challenge.") + d.zone
}

// Present has the name server take the record in.
func (d *dns01) Present(ctx context.Context, c acme.Challenge) error {
	return d.update(ctx, c, (*dns.Msg).Insert)
}

// CleanUp has it forget the record.
func (d *dns01) CleanUp(ctx context.Context, c acme.Challenge) error {
	return d.update(ctx, c, (*dns.Msg).Remove)
}

// Wait returns when the server shows the record.
func (d *dns01) Wait(ctx context.Context, c acme.Challenge) error {
	ctx, cancel := context.WithTimeout(ctx, seenWithin)
	defer cancel()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		shown, err := d.shows(ctx, c)
		if shown {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("DNS-01: %s took the record in but does not show it: %w", d.server, cmp.Or(err, ctx.Err()))
		}
	}
}

func (d *dns01) shows(ctx context.Context, c acme.Challenge) (bool, error) {
	ask := new(dns.Msg).SetQuestion(d.record(c), dns.TypeTXT)
	answer, err := d.exchange(ctx, ask)
	if err != nil {
		return false, err
	}
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok && strings.Join(txt.Txt, "") == c.DNS01KeyAuthorization() {
			return true, nil
		}
	}
	return false, nil
}

func (d *dns01) update(ctx context.Context, c acme.Challenge, change func(*dns.Msg, []dns.RR)) error {
	name := d.record(c)
	m := new(dns.Msg).SetUpdate(d.zone)
	change(m, []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: recordTTL}, Txt: []string{c.DNS01KeyAuthorization()},
	}})
	m.SetTsig(d.key, d.crypt, tsigFudge, time.Now().Unix())
	answer, err := d.exchange(ctx, m)
	if err != nil {
		return fmt.Errorf("DNS-01: %s does not take the record %s: %w", d.server, name, err)
	}
	if answer.Rcode != dns.RcodeSuccess {
		return fmt.Errorf("DNS-01: %s refuses the record %s in zone %s: %s", d.server, name, d.zone, rcodeText(answer.Rcode))
	}
	return nil
}

// rcodeText says what an answer to an update means for the administrator.
func rcodeText(code int) string {
	word := dns.RcodeToString[code]
	switch code {
	case dns.RcodeNotAuth, dns.RcodeBadSig:
		return word + ": it is no server of that zone, or does not know the key (tls.acme.dns.key_name, key_file; is the clock right?)"
	case dns.RcodeRefused:
		return word + ": allow the key to change that name (BIND: update-policy)"
	case dns.RcodeNotZone:
		return word + ": the name lies outside the zone (tls.acme.dns.zone)"
	}
	return word
}

func (d *dns01) exchange(ctx context.Context, m *dns.Msg) (*dns.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, dnsTimeout)
	defer cancel()
	conn, err := d.dial(ctx, "tcp", d.server)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	client := &dns.Client{Net: "tcp", Timeout: dnsTimeout, TsigSecret: map[string]string{d.key: d.secret}}
	answer, _, err := client.ExchangeWithConnContext(ctx, m, &dns.Conn{Conn: conn})
	if errors.Is(err, dns.ErrAuth) {
		return nil, errors.New(rcodeText(dns.RcodeNotAuth))
	}
	return answer, err
}

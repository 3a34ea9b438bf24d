package audit

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"time"
)

// peer is a syslog server over TLS.
type peer struct {
	addr, host string
	dial       func(ctx context.Context, network, addr string) (net.Conn, error)
	roots      *x509.CertPool // nil: the system's

	conn *tls.Conn
}

// priority is facility 13, log audit, with severity 6, informational (RFC 5424 section 6.2.1).
const priority = 13*8 + 6

const syslogTimeout = 10 * time.Second

// write sends records, each as one message in octet counting (RFC 5425 section 4.3). A connection that has died in between is made
// once more: a server that was restarted is no reason to lose records.
func (p *peer) write(ctx context.Context, records []Record) error {
	var b bytes.Buffer
	for _, r := range records {
		line := p.format(r)
		fmt.Fprintf(&b, "%d %s", len(line), line)
	}
	err := p.send(ctx, b.Bytes())
	if err != nil && p.conn == nil && ctx.Err() == nil {
		err = p.send(ctx, b.Bytes())
	}
	if err != nil {
		return fmt.Errorf("audit.syslog: %w", err)
	}
	return nil
}

func (p *peer) send(ctx context.Context, data []byte) error {
	if p.conn != nil && p.gone() {
		p.close()
	}
	if p.conn == nil {
		if err := p.connect(ctx); err != nil {
			return err
		}
	}
	_ = p.conn.SetWriteDeadline(time.Now().Add(syslogTimeout)) // fails on a closed connection only
	if _, err := p.conn.Write(data); err != nil {
		p.close()
		return err
	}
	return nil
}

// gone reports whether the server has closed the connection: it never says anything else.
func (p *peer) gone() bool {
	_ = p.conn.SetReadDeadline(time.Now().Add(time.Millisecond))
	var one [1]byte
	_, err := p.conn.Read(one[:])
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}

func (p *peer) connect(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, syslogTimeout)
	defer cancel()
	raw, err := p.dial(ctx, "tcp", p.addr)
	if err != nil {
		return err
	}
	name, _, err := net.SplitHostPort(p.addr)
	if err != nil {
		return err
	}
	secure := tls.Client(raw, &tls.Config{ServerName: name, MinVersion: tls.VersionTLS12, RootCAs: p.roots})
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return fmt.Errorf("TLS: %w", err)
	}
	p.conn = secure
	return nil
}

func (p *peer) close() {
	if p.conn != nil {
		_ = p.conn.Close()
		p.conn = nil
	}
}

// format makes an RFC 5424 message: the fields as structured data, so that nobody has to parse a sentence.
func (p *peer) format(r Record) string {
	var b strings.Builder
	host := "-"
	if p.host != "" {
		host = p.host
	}
	fmt.Fprintf(&b, "<%d>1 %s %s hafen %d %s [hafen@%d", priority, r.Time.UTC().Format("2006-01-02T15:04:05.000000Z"), host, os.Getpid(), r.Event, enterprise)
	for _, f := range []struct{ name, value string }{
		{"client", r.Client}, {"user", r.User}, {"target", r.Target}, {"status", r.Status}, {"seconds", number(r.Seconds)}, {"bytes", number(float64(r.Bytes))}, {"detail", r.Detail},
	} {
		if f.value != "" {
			fmt.Fprintf(&b, ` %s="%s"`, f.name, escape(f.value))
		}
	}
	b.WriteString("]")
	return b.String()
}

// enterprise is the private enterprise number that RFC 5612 reserves for examples: this project has none of its own.
const enterprise = 32473

func number(v float64) string {
	if v == 0 {
		return ""
	}
	return strings.TrimSuffix(fmt.Sprintf("%.1f", v), ".0")
}

// escape keeps a value inside its quotes (RFC 5424 section 6.3.3), and on one line.
func escape(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, strings.ToValidUTF8(s, "?"))
	return strings.NewReplacer(`\`, `\\`, `"`, `\"`, `]`, `\]`).Replace(s)
}

package relay

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"syscall"

	"golang.org/x/sys/unix"

	"hafen/gateway/netpolicy"
)

// dial connects along the path. TLS is verified; what a middlebox answers in the region's name is an error.
func (p *path) dial(ctx context.Context) (net.Conn, error) {
	r := p.rung
	out, scope := r.region.out, r.region.of.scope
	var conn net.Conn
	var err error
	switch r.kind {
	case rungUDP:
		conn, err = out.dialer.DialContext(ctx, "udp", p.addr.String(), scope)
	case rungProxy:
		conn, err = out.dialer.DialVia(ctx, "tcp", r.target(), scope)
	default:
		conn, err = out.dialer.DialContext(ctx, "tcp", p.addr.String(), scope)
	}
	if err != nil {
		return nil, err
	}
	setUplinkOptions(conn, out.dscp)
	if r.kind != rungTLS && r.kind != rungProxy {
		return conn, nil
	}
	config := &tls.Config{ServerName: r.host, RootCAs: r.region.of.roots, MinVersion: tls.VersionTLS12, DynamicRecordSizingDisabled: true}
	beneath := conn
	if _, plain := conn.(*net.TCPConn); plain {
		// Only then is what TLS reads and writes what the socket does: a proxy may be spoken to in TLS as well.
		beneath = &wire{Conn: conn}
	}
	secure := tls.Client(beneath, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = conn.Close()
		return nil, err
	}
	return secure, nil
}

// socketOf finds the socket beneath TLS and whatever else wraps it; nil when there is none.
func socketOf(conn net.Conn) syscall.Conn {
	for conn != nil {
		if sc, ok := conn.(syscall.Conn); ok {
			return sc
		}
		inner, ok := conn.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		conn = inner.NetConn()
	}
	return nil
}

// setUplinkOptions marks the packets (relay.dscp, RFC 4594) and bounds how long a stream waits for acknowledgements.
// Both are wishes: a kernel that refuses one carries the media all the same.
func setUplinkOptions(conn net.Conn, dscp int) {
	sc := socketOf(conn)
	if sc == nil {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_, stream := sc.(*net.TCPConn)
	tos := dscp << 2 // the two low bits are ECN's
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IP, unix.IP_TOS, tos)
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_TCLASS, tos)
		if stream {
			_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(uplinkUserTimeout.Milliseconds()))
		}
	})
}

// explain says in one sentence for the administrator why a path does not work.
func (r *rung) explain(err error) string {
	var verify *tls.CertificateVerificationError
	var alert tls.AlertError
	var record tls.RecordHeaderError
	var odd *notSTUNError
	var proxy *netpolicy.Error
	switch {
	case r.kind == rungProxy && errors.As(err, &proxy) && !isTimeout(err):
		return err.Error() // it names the proxy, and what to ask for
	case errors.As(err, &verify):
		return r.explainCertificate(verify)
	case errors.As(err, &record):
		return fmt.Sprintf("something answers at %s that is not TLS: a firewall or a proxy on the way", r.target())
	case errors.As(err, &alert):
		return fmt.Sprintf("%s broke off the TLS handshake: %v", r.target(), alert)
	case errors.As(err, &odd):
		return odd.Error()
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return "connection reset"
	case errors.Is(err, syscall.EPERM), errors.Is(err, syscall.EACCES):
		return "forbidden by a firewall on this machine"
	case errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTUNREACH):
		return "no route there"
	case statusOf(err) == "err_policy":
		return err.Error()
	case isTimeout(err):
		return "no answer"
	}
	return err.Error()
}

// explainCertificate tells an interception from a certificate that is merely wrong.
func (r *rung) explainCertificate(err *tls.CertificateVerificationError) string {
	issuer := "unknown"
	if len(err.UnverifiedCertificates) > 0 {
		issuer = err.UnverifiedCertificates[0].Issuer.String()
	}
	var unknown x509.UnknownAuthorityError
	if errors.As(err, &unknown) {
		return fmt.Sprintf("TLS to %s is intercepted, or its authority is not known here: the certificate was issued by %q. "+
			"Exempt the relay from TLS inspection, or name its own authority in ca_file", r.host, issuer)
	}
	return fmt.Sprintf("the certificate of %s is not valid (issued by %q): %v", r.host, issuer, err.Err)
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &t) && t.Timeout()
}

// statusOf is the status word that an error carries; empty when it has none.
func statusOf(err error) string {
	var s interface{ Status() string }
	if errors.As(err, &s) {
		return s.Status()
	}
	return ""
}

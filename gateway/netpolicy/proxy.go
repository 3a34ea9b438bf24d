package netpolicy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
)

const (
	// proxyTimeout bounds the exchange with the proxy once it is connected: it dials the target in that time.
	proxyTimeout = 15 * time.Second
	// tryResolveTimeout is how long a name that goes to the proxy anyway is tried to be resolved here.
	tryResolveTimeout = 2 * time.Second
	// maxProxyHead bounds the proxy's answer. Proxies with NTLM send long ones.
	maxProxyHead = 16 << 10
)

// Proxy is the company proxy on the gateway's own way out: it is asked with CONNECT, in the clear or inside TLS, with
// Basic authentication where it has credentials. Its own address may be private, it is configuration.
type Proxy struct {
	// Addr is the proxy's host:port.
	Addr string
	// Secure is an https:// proxy: CONNECT is spoken inside TLS.
	Secure bool
	// Username and Password are for Basic authentication. An empty Username means none.
	Username, Password string
	// Via is sent as the received-by part of a Via header (RFC 9110 section 7.6.3), behind what WithVia says, so that a
	// gateway can see that a request of its own comes back to it. "" means that none is added.
	Via string
	// TLS is for a Secure proxy. nil means the system's roots.
	TLS *tls.Config
	// Timeout bounds the exchange after the connection. 0 means 15 seconds.
	Timeout time.Duration

	exempt []exemption
}

// NewProxy makes a Proxy of http(s)://user:password@host:port. Where file is not empty, the URL is its first line
// instead. Without both there is no proxy, and it returns nil. No error of it tells a part of the URL, which may be a
// secret.
func NewProxy(rawURL, file string, noProxy []string) (*Proxy, error) {
	if rawURL == "" && file == "" {
		return nil, nil
	}
	if file != "" {
		content, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		rawURL, _, _ = strings.Cut(strings.TrimLeft(string(content), " \t\r\n"), "\n")
	}
	u, err := url.Parse(strings.TrimSpace(rawURL))
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Path != "" && u.Path != "/" || u.RawQuery != "" {
		return nil, errors.New("the company proxy is written http://user:password@proxy.example:3128 or https://…, with special characters of the password in their %XX form")
	}
	p := &Proxy{Secure: u.Scheme == "https", Username: u.User.Username()}
	p.Password, _ = u.User.Password()
	port := u.Port()
	if port == "" {
		port = map[bool]string{false: "80", true: "443"}[p.Secure]
	}
	p.Addr = net.JoinHostPort(u.Hostname(), port)
	for _, entry := range noProxy {
		e, err := parseExemption(entry)
		if err != nil {
			return nil, err
		}
		p.exempt = append(p.exempt, e)
	}
	return p, nil
}

// String is the proxy without its password.
func (p *Proxy) String() string {
	u := url.URL{Scheme: "http", Host: p.Addr}
	if p.Secure {
		u.Scheme = "https"
	}
	if p.Username != "" {
		u.User = url.User(p.Username)
	}
	return u.String()
}

// Exempt reports whether no_proxy sends a target around the proxy, as far as its name (or its address, if it is one)
// tells. Entries that are networks also exempt names that resolve into them; only a dial finds that out.
func (p *Proxy) Exempt(host string, port uint16) bool {
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	addr, err := netip.ParseAddr(strings.Trim(name, "[]"))
	for _, e := range p.exempt {
		if err == nil && e.matchesAddr(netip.AddrPortFrom(addr, port)) || err != nil && e.matchesName(name, port) {
			return true
		}
	}
	return false
}

// exemptAll reports whether no_proxy holds for every one of the addresses that a name resolved to.
func (p *Proxy) exemptAll(addrs []netip.AddrPort) bool {
	for _, ap := range addrs {
		found := false
		for _, e := range p.exempt {
			found = found || e.matchesAddr(ap)
		}
		if !found {
			return false
		}
	}
	return len(addrs) > 0
}

// everywhere opens all that can be opened: for the proxy's own address, which is configuration.
var everywhere = Scope{Private: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}}

// DialVia connects to addr, host:port, over TCP through the company proxy; without one, or where no_proxy says so, it is
// DialContext. Addr must come from the configuration, never from a client's free choice: through the proxy the name is
// dialled, and what it resolves to there can't be judged here.
//
// ProxyResolves decides how much is judged nevertheless:
//
//	auto    the name is resolved and judged here as well, if it resolves here; it is the name that the proxy gets
//	always  the name goes to the proxy and is not resolved here
//	never   the name is resolved and judged here; the proxy gets the judged address
func (d *Dialer) DialVia(ctx context.Context, network, addr string, s Scope) (net.Conn, error) {
	host, port, err := splitAddr(addr)
	if err != nil {
		return nil, err
	}
	if d.Proxy == nil || d.Proxy.Exempt(host, port) {
		return d.DialContext(ctx, network, addr, s)
	}
	if !strings.HasPrefix(network, "tcp") {
		return nil, fail("dial", addr, fmt.Errorf("the company proxy carries no %s", network))
	}
	if d.ProxyResolves == "always" {
		return d.viaProxy(ctx, addr)
	}
	limit := tryResolveTimeout
	if d.ProxyResolves == "never" {
		limit = resolveTimeout
	}
	addrs, err := d.resolveWithin(ctx, host, port, s, limit)
	switch {
	case err == nil && d.Proxy.exemptAll(addrs):
		return d.DialContext(ctx, network, addr, s)
	case err == nil && d.ProxyResolves == "never":
		return d.viaProxy(ctx, addrs[0].String())
	case err != nil && (d.ProxyResolves == "never" || wordOf(err) == StatusPolicy || ctx.Err() != nil):
		return nil, err
	}
	return d.viaProxy(ctx, addr)
}

// viaProxy connects to the proxy and asks it for target.
func (d *Dialer) viaProxy(ctx context.Context, target string) (net.Conn, error) {
	conn, err := d.DialContext(ctx, "tcp", d.Proxy.Addr, everywhere)
	if err != nil {
		return nil, fail("company proxy", d.Proxy.Addr, err)
	}
	limit := d.Proxy.Timeout
	if limit <= 0 {
		limit = proxyTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	// A deadline ends reads and writes at once when the context is done, whichever it is.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	tunnel, err := d.Proxy.connect(ctx, conn, target)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		if ctx.Err() != nil {
			err = fmt.Errorf("no answer in time: %w", ctx.Err())
		}
		return nil, fail("company proxy", d.Proxy.Addr, fmt.Errorf("CONNECT %s: %w", target, err))
	}
	return tunnel, nil
}

// connect does the CONNECT exchange on a fresh connection to the proxy.
func (p *Proxy) connect(ctx context.Context, conn net.Conn, target string) (net.Conn, error) {
	local := conn.LocalAddr()
	if p.Secure {
		config := &tls.Config{MinVersion: tls.VersionTLS12}
		if p.TLS != nil {
			config = p.TLS.Clone()
		}
		if config.ServerName == "" {
			config.ServerName, _, _ = net.SplitHostPort(p.Addr)
		}
		secure := tls.Client(conn, config)
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, fmt.Errorf("TLS with the proxy: %w", err)
		}
		conn = secure
	}
	if _, err := io.WriteString(conn, p.request(ctx, target)); err != nil {
		return nil, err
	}
	br := bufio.NewReader(&io.LimitedReader{R: conn, N: maxProxyHead})
	resp, err := http.ReadResponse(br, &http.Request{Method: http.MethodConnect})
	for err == nil && resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		resp, err = http.ReadResponse(br, &http.Request{Method: http.MethodConnect}) // interim answers, RFC 9110 section 15.2
	}
	if err != nil {
		if text := clip(err.Error()); text != err.Error() {
			err = errors.New(text)
		}
		return nil, fmt.Errorf("its answer is no HTTP response: %w", err)
	}
	// Any 2xx opens the tunnel, and has no body whatever its header says (RFC 9110 section 9.3.6).
	if resp.StatusCode/100 != 2 {
		return nil, p.refused(resp, local, target)
	}
	return withHead(conn, br)
}

type viaKey struct{}

// WithVia is for a dial on behalf of a request that came with this Via header: DialVia tells the company proxy who has
// passed it on already. Without it, two gateways that are each other's proxy would go round in circles.
func WithVia(ctx context.Context, via string) context.Context {
	return context.WithValue(ctx, viaKey{}, via)
}

func (p *Proxy) request(ctx context.Context, target string) string {
	var b strings.Builder
	b.WriteString("CONNECT " + target + " HTTP/1.1\r\nHost: " + target + "\r\n")
	if p.Username != "" {
		credentials := base64.StdEncoding.EncodeToString([]byte(p.Username + ":" + p.Password))
		b.WriteString("Proxy-Authorization: Basic " + credentials + "\r\n") // RFC 7617
	}
	via, _ := ctx.Value(viaKey{}).(string)
	if p.Via != "" {
		via = strings.TrimPrefix(via+", 1.1 "+p.Via, ", ")
	}
	if via != "" && !strings.ContainsAny(via, "\r\n") {
		b.WriteString("Via: " + via + "\r\n")
	}
	b.WriteString("\r\n")
	return b.String()
}

// refused says what the proxy's answer means and what to ask for.
func (p *Proxy) refused(resp *http.Response, local net.Addr, target string) error {
	if resp.StatusCode != http.StatusProxyAuthRequired {
		return fmt.Errorf("it answered %q; ask its administrators to allow this target from %s", clip(resp.Status), hostOf(local))
	}
	schemes := authSchemes(resp.Header.Values("Proxy-Authenticate"))
	offered := strings.Join(schemes, ", ")
	for _, s := range schemes {
		switch {
		case strings.EqualFold(s, "Basic") && p.Username == "":
			return errors.New("it answered 407: it wants a user name and a password; write them into `egress.proxy` or `egress.proxy_file`")
		case strings.EqualFold(s, "Basic"):
			return errors.New("it answered 407: it does not accept our user name and password; check `egress.proxy` or `egress.proxy_file`")
		}
	}
	if offered == "" {
		offered = "no scheme at all"
	}
	return fmt.Errorf("it answered 407: it asks for authentication and offers %s, the gateway knows Basic only; ask its administrators to exempt %s by source address for %s",
		clip(offered), hostOf(local), target)
}

func hostOf(a net.Addr) string {
	host, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return host
}

// authSchemes are the schemes named in challenges. One header field may hold several, separated by commas as their
// parameters are (RFC 9110 section 11.6.1): a scheme is a word that is followed by a space or by nothing, not by "=".
func authSchemes(fields []string) []string {
	var schemes []string
	for _, field := range fields {
		for _, part := range strings.Split(field, ",") {
			word, rest, _ := strings.Cut(strings.TrimSpace(part), " ")
			if word != "" && !strings.ContainsAny(word, `="`) && !strings.HasPrefix(strings.TrimSpace(rest), "=") && len(schemes) < 8 {
				schemes = append(schemes, word)
			}
		}
	}
	return schemes
}

// clip keeps words of the proxy's short enough and harmless for a log line.
func clip(s string) string {
	clean := strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return clean[:min(len(clean), 100)]
}

// withHead returns conn itself when the proxy's answer was all that was read, so that it can still be spliced in the
// kernel; else a connection that first returns the bytes behind the answer.
func withHead(conn net.Conn, br *bufio.Reader) (net.Conn, error) {
	n := br.Buffered()
	if n == 0 {
		return conn, nil
	}
	head, err := br.Peek(n)
	if err != nil {
		return nil, err
	}
	return &headConn{Conn: conn, head: append([]byte(nil), head...)}, nil
}

// headConn is a connection of which some bytes have been read already. It keeps half-close.
type headConn struct {
	net.Conn
	head []byte
}

func (c *headConn) Read(p []byte) (int, error) {
	if len(c.head) > 0 {
		n := copy(p, c.head)
		c.head = c.head[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}

func (c *headConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

package signaling

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"
)

// serveWebSocket makes the client's handshake with the target. When it succeeds the two connections are spliced and belong to a
// socket; the request is over then. Any other answer is the call server's to give, and goes back as it is.
func (p *Proxy) serveWebSocket(w http.ResponseWriter, r *http.Request, to *target) {
	started := p.opts.Now()
	if p.draining.Load() {
		p.refuse(w, r, to.host, &refusal{code: http.StatusServiceUnavailable, status: "err_limit", text: "This gateway is being taken out of service. Try again in a moment."})
		return
	}
	p.requests.Add(1)
	defer p.requests.Add(-1)
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	defer context.AfterFunc(p.ctx, cancel)()
	reply, err := handshake(ctx, to, webSocketRequest(r, to))
	if err != nil {
		p.handshakeFailed(w, r, to, err)
		return
	}
	if reply.StatusCode != http.StatusSwitchingProtocols {
		p.passReply(w, r, to, reply)
		return
	}
	s := &socket{p: p, upstream: reply.conn, to: to, client: p.shortClient(r), started: started}
	if err := s.take(w, r, reply); err != nil {
		_ = reply.conn.Close()
		p.metrics.requests.WithLabelValues(statusClient).Inc()
		p.noise.warn("websocket failed", "status", statusClient, "host", to.host, "err", p.logText(err), "client", s.client)
		return
	}
	s.run()
}

func (p *Proxy) handshakeFailed(w http.ResponseWriter, r *http.Request, to *target, err error) {
	status := classify(err)
	if r.Context().Err() != nil {
		status = statusClient
	}
	p.metrics.requests.WithLabelValues(status).Inc()
	if status == statusClient {
		return
	}
	p.noise.warn("websocket failed", "status", status, "host", to.host, "service", to.up.service, "err", err, "client", p.shortClient(r))
	p.setup.Load().prober.doubt(to.host)
	code, text := explain(to.host, status, err)
	say(w, code, text)
}

// webSocketRequest is the client's handshake as the target gets it: the same key, protocols and extensions, so that both ends agree on
// what they speak. Only where messages are rewritten there are no extensions.
func webSocketRequest(r *http.Request, to *target) *http.Request {
	h := r.Header.Clone()
	dropHopByHop(h)
	clean(h, r)
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", "websocket")
	// Connection may not name these away.
	for _, name := range []string{"Sec-Websocket-Key", "Sec-Websocket-Version"} {
		h[name] = r.Header[name]
	}
	if to.ice != nil {
		h.Del("Sec-Websocket-Extensions") // compressed messages could not be read
	}
	if _, named := h["User-Agent"]; !named {
		h.Set("User-Agent", "") // or net/http would add its own
	}
	return &http.Request{Method: http.MethodGet, URL: to.outURL(r), Host: to.authority, Header: h, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1}
}

// reply is a target's answer to a handshake, with the connection it came on.
type reply struct {
	*http.Response
	conn net.Conn
	rest *bufio.Reader // what came behind the answer's head, and then the connection
}

// maxReplyHead bounds the head of a target's answer.
const maxReplyHead = 64 << 10

// handshake sends a WebSocket handshake to the target and reads the head of the answer. Whoever gets the reply closes its conn.
func handshake(ctx context.Context, to *target, out *http.Request) (*reply, error) {
	return handshakeTimed(ctx, to, out, func() {})
}

// handshakeTimed is handshake for those who want to know when it was connected.
func handshakeTimed(ctx context.Context, to *target, out *http.Request, connected func()) (*reply, error) {
	conn, err := to.connect(ctx)
	if err != nil {
		return nil, err
	}
	connected()
	_ = conn.SetDeadline(time.Now().Add(handshakeTimeout)) // a conn that has none fails below
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	rep, err := exchangeHeads(conn, out)
	if err == nil && !stop() {
		err = ctx.Err()
	}
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return rep, nil
}

func exchangeHeads(conn net.Conn, out *http.Request) (*reply, error) {
	if err := out.Write(conn); err != nil {
		return nil, err
	}
	head := &io.LimitedReader{R: conn, N: maxReplyHead}
	br := bufio.NewReader(head)
	res, err := readFinal(br, out)
	if err != nil {
		if head.N <= 0 {
			err = errors.New("the head of its answer is too long")
		}
		return nil, err
	}
	head.N = 1<<63 - 1 // only the head was bounded
	if res.StatusCode == http.StatusSwitchingProtocols && !(hasToken(res.Header["Connection"], "upgrade") && len(res.Header["Upgrade"]) == 1 && strings.EqualFold(res.Header.Get("Upgrade"), "websocket")) {
		return nil, errors.New("it switched to another protocol than websocket")
	}
	return &reply{Response: res, conn: conn, rest: br}, nil
}

// readFinal reads an answer, passing over interim ones (RFC 9110 section 15.2).
func readFinal(br *bufio.Reader, out *http.Request) (*http.Response, error) {
	for range 5 {
		res, err := http.ReadResponse(br, out)
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if err != nil || res.StatusCode >= 200 || res.StatusCode == http.StatusSwitchingProtocols {
			return res, err
		}
	}
	return nil, errors.New("it sent too many interim answers")
}

// passReply gives the client a call server's own answer to the handshake: 401, 403, a redirect.
func (p *Proxy) passReply(w http.ResponseWriter, r *http.Request, to *target, rep *reply) {
	defer func() { _ = rep.conn.Close() }()
	defer context.AfterFunc(r.Context(), func() { _ = rep.conn.Close() })()
	_ = rep.conn.SetDeadline(time.Now().Add(p.opts.SlowReader))
	dropHopByHop(rep.Header)
	adapt(rep.Header, to, scheme(r.TLS), r.Host)
	for name, values := range rep.Header {
		w.Header()[name] = values
	}
	if _, typed := rep.Header["Content-Type"]; !typed {
		w.Header()["Content-Type"] = nil
	}
	control := http.NewResponseController(w)
	_ = control.SetWriteDeadline(time.Now().Add(p.opts.SlowReader)) // a writer without deadlines is one of a test
	defer func() { _ = control.SetWriteDeadline(time.Time{}) }()
	w.WriteHeader(rep.StatusCode)
	n, err := io.Copy(w, rep.Body)
	p.metrics.down.Add(float64(n))
	status := statusOK
	if err != nil {
		status = statusUpstream
	}
	p.metrics.requests.WithLabelValues(status).Inc()
	if err != nil {
		panic(http.ErrAbortHandler) // the client must see that the answer is not whole
	}
}

// take makes the client's connection the socket's, with the answer that completes the handshake.
func (s *socket) take(w http.ResponseWriter, r *http.Request, rep *reply) error {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return fmt.Errorf("take over the connection: %w", err)
	}
	s.downstream = conn
	var head bytes.Buffer
	head.WriteString("HTTP/1.1 101 Switching Protocols\r\n")
	rep.Header.Del("Alt-Svc")
	_ = rep.Header.Write(&head) // a bytes.Buffer takes everything
	head.WriteString("\r\n")
	early, _ := rep.rest.Peek(rep.rest.Buffered()) // frames behind the answer
	s.count(&s.down, s.p.metrics.down, len(early))
	if f := s.framed(conn, clientOf(r)); f != nil {
		s.downstream = f
		early = f.through(early)
	}
	head.Write(early)
	if buffered != nil && buffered.Reader.Buffered() > 0 {
		// Frames behind the request: no browser sends them before the answer, but they must not be lost.
		s.early = make([]byte, buffered.Reader.Buffered())
		_, _ = io.ReadFull(buffered.Reader, s.early) // they are there
	}
	_ = conn.SetWriteDeadline(time.Now().Add(s.p.opts.SlowReader))
	if _, err := conn.Write(head.Bytes()); err != nil {
		_ = conn.Close()
		return fmt.Errorf("answer the client: %w", err)
	}
	return nil
}

// framed is the client's conn where the gateway has to know the frames that go to it; nil where it has not.
func (s *socket) framed(conn net.Conn, client netip.Addr) *frames {
	f := &frames{Conn: conn}
	switch {
	case s.to.ice != nil:
		f.edit = func(text []byte) ([]byte, bool) { return s.to.ice.rewrite(text, client) }
	case s.p.config().Signaling.KeepAlive <= 0:
		return nil
	}
	return f
}

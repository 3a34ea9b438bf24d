package signaling

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"
)

// errStopped ends what is under way when the Proxy is closed.
var errStopped = errors.New("the gateway stops")

// classify finds the status word for what went wrong on the way to a call server.
func classify(err error) string {
	var worded interface{ Status() string }
	var op *net.OpError
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil:
		return statusOK
	case errors.As(err, &worded):
		return worded.Status()
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return statusTimeout
	case errors.As(err, &op) && op.Op == "dial":
		return statusDial
	}
	return statusUpstream
}

// explain is the answer to a client whose call server failed: what it means, without anything of the network inside. The host is
// the one that the client asked for.
func explain(host, status string, err error) (code int, text string) {
	var untrusted *tls.CertificateVerificationError
	code = http.StatusBadGateway
	switch {
	case errors.As(err, &untrusted):
		text = "%s shows a certificate that the gateway does not trust"
	case status == statusPolicy:
		text = "%s leads to an address that the gateway may not connect to"
	case status == statusTimeout:
		code, text = http.StatusGatewayTimeout, "%s did not answer in time"
	case status == statusDial:
		text = "%s can't be reached from the gateway"
	default:
		text = "%s broke off the connection before it answered"
	}
	return code, fmt.Sprintf(text, host) + " (" + status + ")."
}

// say is a plain answer of the gateway's own. It cites nothing of the request.
func say(w http.ResponseWriter, code int, text string) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(code)
	_, _ = io.WriteString(w, text+"\n") // a client that is gone needs no answer
}

// refuse answers a request that is not passed on. What follows an odd request is odd as well, so its connection is closed.
func (p *Proxy) refuse(w http.ResponseWriter, r *http.Request, host string, refused *refusal) {
	p.metrics.requests.WithLabelValues(refused.status).Inc()
	p.noise.warn("request refused", "status", refused.status, "code", refused.code, "why", refused.text, "client", p.shortClient(r))
	if refused.header[0] != "" {
		w.Header().Set(refused.header[0], refused.header[1])
	}
	if refused.status == statusProtocol && r.ProtoMajor == 1 {
		w.Header().Set("Connection", "close")
	}
	if r.ContentLength != 0 { // net/http reads a body to its end before it goes on
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(restPatience))
	}
	say(w, refused.code, refused.text)
}

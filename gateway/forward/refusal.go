package forward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"time"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// Status words, as everywhere in the program.
const (
	statusOK       = "ok"
	statusPolicy   = "err_policy"
	statusLimit    = "err_limit"
	statusProtocol = "err_protocol"
	statusDial     = "err_dial"
	statusAuth     = "err_auth"
	statusClient   = "err_client"
	statusUpstream = "err_upstream"
	statusTimeout  = "err_timeout"
)

// refusal is why a CONNECT is not answered 200, or a tunnel is closed before it carries anything.
type refusal struct {
	code int    // HTTP status, where it can still be told
	word string // status word
	why  string // a clause: "it is an address, and …"
	err  error  // behind it; may be nil
	// challenge is the Proxy-Authenticate field of a 407.
	challenge string
}

func (r *refusal) Error() string {
	if r.err != nil {
		return r.why + ": " + r.err.Error()
	}
	return r.why
}

func (r *refusal) Unwrap() error { return r.err }

// Status is the refusal's status word.
func (r *refusal) Status() string { return r.word }

// dialRefusal says what a failed dial means to the client.
func dialRefusal(err error) *refusal {
	r := &refusal{code: http.StatusBadGateway, word: wordOf(err), err: err}
	var judged *netpolicy.Refusal
	switch {
	case errors.As(err, &judged) && judged.Class == netpolicy.Loop:
		r.code, r.why = http.StatusLoopDetected, "the name leads back to this gateway: give it its address outside with `hosts:`, or ask another resolver with `dns.servers`"
	case r.word == statusPolicy:
		r.why = "the name has no address that may be reached from here"
	case r.word == statusTimeout:
		r.code, r.why = http.StatusGatewayTimeout, "the target did not answer in time"
	default:
		r.why = "the target could not be reached"
	}
	return r
}

// wordOf finds the status word that an error carries; a failure to dial has err_dial if it carries none.
func wordOf(err error) string {
	var s interface{ Status() string }
	if errors.As(err, &s) {
		return s.Status()
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return statusTimeout
	}
	return statusDial
}

// body is what a person who sees the refusal needs: what arrived here, why it goes no further, and whom to ask. What is behind
// the refusal is for the log only: it may name addresses and servers of the house.
func (r *refusal) body(request string, client netip.Addr, help string) string {
	const most = 300 // of what the client wrote
	return fmt.Sprintf("This proxy refused %q (%s).\n\nSeen:       from %s\nWhy:        %s.\nWhom to ask: %s\n",
		request[:min(len(request), most)], r.word, client, r.why, help)
}

// helpFor is whom a client should call: its site's help desk, else the house's.
func helpFor(c *configs.Config, client netip.Addr) string {
	for i := range c.Sites {
		for _, p := range c.Sites[i].Networks {
			if p.Contains(client) && c.Sites[i].Help != "" {
				return c.Sites[i].Help
			}
		}
	}
	if c.Site.Help != "" {
		return c.Site.Help
	}
	return "the administrator of " + c.Name
}

// answer writes the refusal as an HTTP response and ends the connection so that the response arrives: closing a socket
// with unread bytes in it resets it, and the reset overtakes what was sent. What the client has sent behind the
// refused CONNECT is thrown away unread; it may be anything (RFC 9931).
func (r *refusal) answer(conn net.Conn, body string) {
	const linger, most = time.Second, 64 << 10
	_ = conn.SetDeadline(time.Now().Add(linger))
	head := "HTTP/1.1 " + strconv.Itoa(r.code) + " " + http.StatusText(r.code) + "\r\n" +
		"Content-Type: text/plain; charset=utf-8\r\nX-Content-Type-Options: nosniff\r\nCache-Control: no-store\r\n" +
		"Content-Length: " + strconv.Itoa(len(body)) + "\r\nConnection: close\r\n"
	if r.code == http.StatusMethodNotAllowed {
		head += "Allow: CONNECT\r\n"
	}
	if r.challenge != "" {
		head += "Proxy-Authenticate: " + r.challenge + "\r\n"
	}
	if _, err := io.WriteString(conn, head+"\r\n"+body); err != nil {
		return
	}
	if closeWrite(conn) == nil {
		_, _ = io.CopyN(io.Discard, conn, most)
	}
}

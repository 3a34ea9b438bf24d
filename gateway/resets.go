package gateway

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"hafen/gateway/netpolicy"
	"hafen/gateway/portmux"
)

// resets watches clients that ask over HTTP/2 and take it back at once ("rapid reset", CVE-2023-44487): each such request is carried to a
// call server for nothing, and RFC 9113 lets a client make as many as it can send. A connection of which most requests are taken back is
// closed, and its client is offered HTTP/1.1 alone for a while: browsers behind the same address notice nothing, and whoever goes on has
// to open a connection for each request.
type resets struct {
	mu      sync.Mutex
	clients map[netip.Prefix]time.Time // until when; at most maxResetting
	now     func() time.Time
}

const (
	// resetsAllowed is how many requests of a connection may be taken back within resetsTime: a page that is left while it loads takes back
	// some dozens, and one that asks anew with each letter that is typed some a second.
	resetsAllowed = 100
	resetsTime    = 10 * time.Second
	// resetYoung: what is given up later than this was a long-poll or a download.
	resetYoung = 3 * time.Second
	// withoutHTTP2 is how long a client then does without.
	withoutHTTP2 = time.Minute
	maxResetting = 4096
)

var errResets = resetsError{errors.New("most requests of this HTTP/2 connection were taken back at once")}

// resetsError is a limit that was reached.
type resetsError struct{ error }

// Status is its status word.
func (resetsError) Status() string { return "err_limit" }

func newResets(now func() time.Time) *resets {
	return &resets{clients: make(map[netip.Prefix]time.Time), now: now}
}

// asked counts the requests of one connection, for resetsTime at a time.
type asked struct {
	mu         sync.Mutex
	since      time.Time
	all, reset int
}

// count takes a request that is over, and reports whether too many were taken back.
func (a *asked) count(now time.Time, reset bool) (tooMany bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if now.Sub(a.since) > resetsTime {
		a.since, a.all, a.reset = now, 0, 0
	}
	a.all++
	if reset {
		a.reset++
	}
	return reset && a.reset >= resetsAllowed && 2*a.reset > a.all
}

type askedKey struct{}

// connContext is for http.Server.ConnContext.
func (r *resets) connContext(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(portmux.Context(ctx, c), askedKey{}, new(asked))
}

// watched counts what next is asked over HTTP/2.
func (r *resets) watched(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		of, _ := req.Context().Value(askedKey{}).(*asked)
		if req.ProtoMajor != 2 || of == nil {
			next.ServeHTTP(w, req)
			return
		}
		began := r.now()
		defer func() { // also where the handler breaks off, as the passage does for a client that is gone
			if now := r.now(); of.count(now, req.Context().Err() != nil && now.Sub(began) <= resetYoung) {
				r.end(portmux.From(req.Context()))
			}
		}()
		next.ServeHTTP(w, req)
	})
}

// end closes the connection, and remembers whose it was.
func (r *resets) end(c *portmux.Conn) {
	if c == nil {
		return
	}
	if from, ok := addrPort(c.RemoteAddr()); ok {
		r.remember(from.Addr())
	}
	c.Fail(errResets.Status(), errResets)
	_ = c.Close()
}

func (r *resets) remember(client netip.Addr) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if len(r.clients) >= maxResetting {
		for a, until := range r.clients {
			if now.After(until) {
				delete(r.clients, a)
			}
		}
	}
	if key := netpolicy.Client(client); len(r.clients) < maxResetting {
		r.clients[key] = now.Add(withoutHTTP2)
	}
}

// resetting reports whether the client of a ClientHello is to do without HTTP/2.
func (r *resets) resetting(h *tls.ClientHelloInfo) bool {
	if h.Conn == nil {
		return false
	}
	from, ok := addrPort(h.Conn.RemoteAddr())
	if !ok {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := netpolicy.Client(from.Addr())
	until, there := r.clients[key]
	if there && r.now().After(until) {
		delete(r.clients, key)
		return false
	}
	return there
}

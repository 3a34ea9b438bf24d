package gateway

import (
	"net/http"
	"runtime/debug"
	"time"

	"hafen/gateway/defect"
)

// bodyTimeout is how long a request to the gateway's own pages may take to arrive whole: forms and reports are of some KiB. The
// passage to call servers lifts it and has a rate of its own, since uploads go that way.
const bodyTimeout = 15 * time.Second

// pageTimeout is how long a client may take to read a page of ours. What is held or hijacked sets deadlines of its own.
const pageTimeout = time.Minute

// timed gives each answer a deadline: a client that asks and does not read would hold its connection for ever.
func timed(within time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(within)) // fails on a closed connection only
		next.ServeHTTP(w, r)
	})
}

// caught keeps a panic in a handler from going unseen: it is logged and counted, and its request ends.
func (g *Gateway) caught(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			v := recover()
			if v == nil {
				return
			}
			if v != http.ErrAbortHandler {
				g.panics.Inc()
				g.log.Error("panic in a handler", "panic", v, "stack", string(debug.Stack()))
			}
			panic(http.ErrAbortHandler) // net/http ends the connection, without a word
		}()
		defect.Provoke("page", r.UserAgent())
		next.ServeHTTP(w, r)
	})
}

// hurried gives each request's body a deadline. Without one a sender of single bytes would hold its connection for ever, also when
// the answer is long decided: net/http reads the rest of a body before it answers. The server sets its own deadlines for the head of
// the next request, and hijacking lifts this one.
//
// A chunked request over HTTP/1.1 is the last one of its connection. It may have had a Content-Length too, which net/http drops
// without telling; whoever stands before us may have believed that one, and then what follows is not what it seems. RFC 9112 section
// 6.1 has the connection closed. Browsers send no chunked requests there.
func hurried(within time.Duration, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 {
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(within)) // fails on a closed connection only
		}
		if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
			w.Header().Set("Connection", "close")
		}
		next.ServeHTTP(w, r)
	})
}

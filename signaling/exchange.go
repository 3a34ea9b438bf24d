package signaling

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httputil"
	"sync"
	"sync/atomic"
	"time"
)

// exchange is one request and its answer, as long as both are under way. Its end is one status word, one counter, and for a
// long-poll one log line.
type exchange struct {
	p       *Proxy
	in      *http.Request
	to      *target
	started time.Time
	up      atomic.Int64
	down    atomic.Int64

	mu     sync.Mutex
	status string
	cause  error
	held   bool
	ended  bool
}

type exchangeKey struct{}

func exchangeOf(ctx context.Context) *exchange {
	e, _ := ctx.Value(exchangeKey{}).(*exchange)
	return e
}

// serveExchange passes a request on that is no upgrade, and waits for the end of its answer.
func (p *Proxy) serveExchange(w http.ResponseWriter, r *http.Request, to *target) {
	e := &exchange{p: p, in: r, to: to, started: p.opts.Now()}
	ctx, cancel := context.WithCancelCause(context.WithValue(r.Context(), exchangeKey{}, e))
	defer cancel(nil)
	defer context.AfterFunc(p.ctx, func() { cancel(errStopped) })()
	p.requests.Add(1)
	defer e.end()
	defer time.AfterFunc(p.opts.HeldAfter, e.hold).Stop()

	out := &answer{ResponseWriter: w, control: http.NewResponseController(w), e: e}
	defer out.release()
	out.release() // whatever deadlines the server has for its own pages are none for a long-poll
	_ = out.control.SetReadDeadline(time.Time{})
	if p.draining.Load() {
		w.Header().Set("Connection", "close") // with h2 the server takes it for GOAWAY
	}
	r = r.WithContext(ctx)
	if r.ContentLength != 0 && r.Body != nil {
		// An answer that comes before the request is over goes on at once; without this net/http would first wait for the rest of the request.
		_ = out.control.EnableFullDuplex() // h2 always is
		body := &requestBody{ReadCloser: r.Body, control: out.control, e: e}
		defer body.release()
		r.Body = body
	}
	p.reverse.ServeHTTP(out, r)
}

// hold makes a long-poll of a request that is still under way.
func (e *exchange) hold() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.ended {
		e.held = true
		e.p.longPolls.Add(1)
		e.p.metrics.longPolls.Inc()
		e.p.mu.Lock()
		e.p.polls[e] = struct{}{}
		e.p.mu.Unlock()
	}
}

// fail records how the exchange ended. The first call counts; none means ok.
func (e *exchange) fail(status string, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.status == "" {
		e.status, e.cause = status, err
	}
}

func (e *exchange) end() {
	e.mu.Lock()
	e.ended = true
	held, status, cause := e.held, e.status, e.cause
	e.mu.Unlock()
	if status == "" {
		status = statusOK
	}
	e.p.requests.Add(-1)
	e.p.metrics.requests.WithLabelValues(status).Inc()
	if held {
		e.p.longPolls.Add(-1)
		e.p.metrics.longPolls.Dec()
		e.p.mu.Lock()
		delete(e.p.polls, e)
		e.p.mu.Unlock()
	}
	args := []any{
		"status", status, "host", e.to.host, "service", e.to.up.service, "method", e.in.Method,
		"duration", e.p.opts.Now().Sub(e.started).Round(time.Millisecond).String(), "up", e.up.Load(), "down", e.down.Load(), "client", e.p.shortClient(e.in),
	}
	if cause != nil {
		args = append(args, "err", e.p.logText(cause))
	}
	switch {
	case held:
		e.p.log.Info("long-poll ended", args...)
	case status != statusOK && status != statusClient:
		e.p.noise.warn("request failed", args...)
	}
}

// gone reports why an exchange is over before its answer is: the client went away, or the Proxy is closed.
func (e *exchange) gone(ctx context.Context) (status string, err error) {
	switch cause := context.Cause(ctx); {
	case cause == nil:
		return "", nil
	case errors.Is(cause, errStopped):
		return statusOK, errStopped
	default:
		return statusClient, errors.New("the client went away")
	}
}

// rewrite makes the request to the call server: the same, but for the headers of the hop.
func rewrite(pr *httputil.ProxyRequest) {
	e := exchangeOf(pr.In.Context())
	pr.Out.URL = e.to.outURL(pr.In)
	pr.Out.Host = e.to.authority
	clean(pr.Out.Header, pr.In)
	if e.to.ice != nil {
		askPlainly(pr.Out.Header)
	}
}

// roundTripper sends a request over its service's connections.
type roundTripper struct{}

func (roundTripper) RoundTrip(r *http.Request) (*http.Response, error) {
	return exchangeOf(r.Context()).to.up.transport.RoundTrip(r)
}

// modifyResponse takes out what belongs to the call server's own connections, and watches the body.
func modifyResponse(res *http.Response) error {
	e := exchangeOf(res.Request.Context())
	if _, cause := e.gone(res.Request.Context()); cause != nil {
		return cause // an answer to our own cancelling, which outran it
	}
	if res.StatusCode == http.StatusSwitchingProtocols {
		return errors.New("it switched protocols unasked")
	}
	adapt(res.Header, e.to, scheme(e.in.TLS), e.in.Host)
	res.Body = &responseBody{ReadCloser: res.Body, e: e, ctx: res.Request.Context()}
	if e.to.ice != nil {
		return rewriteAnswer(res, e.to.ice, clientOf(e.in))
	}
	return nil
}

// answerFailure answers a client whose call server did not.
func answerFailure(w http.ResponseWriter, r *http.Request, err error) {
	e := exchangeOf(r.Context())
	e.mu.Lock()
	status := e.status
	e.mu.Unlock()
	if status != "" { // the request's own body failed, which ends its context as well
		w.Header().Set("Connection", "close")
		say(w, http.StatusRequestTimeout, "The request did not arrive in time, or not as a whole.")
		return
	}
	if status, cause := e.gone(r.Context()); cause != nil {
		e.fail(status, cause)
		if status == statusClient {
			panic(http.ErrAbortHandler) // or net/http would answer 200 to whoever is left
		}
		say(w, http.StatusServiceUnavailable, "The gateway is being restarted. Try again in a moment.")
		return
	}
	status = classify(err)
	e.fail(status, err)
	e.p.setup.Load().prober.doubt(e.to.host)
	code, text := explain(e.to.host, status, err)
	say(w, code, text)
}

// answer counts what goes to the client, and bounds how long a slow one takes to read it.
type answer struct {
	http.ResponseWriter
	control *http.ResponseController
	e       *exchange
	until   time.Time
}

// Unwrap is for http.ResponseController.
func (a *answer) Unwrap() http.ResponseWriter { return a.ResponseWriter }

func (a *answer) WriteHeader(code int) {
	if code == http.StatusContinue {
		return // net/http says it when the transport begins to read the body, which is when the call server has said it
	}
	a.extend()
	// net/http would guess a type where the call server gave none.
	if _, typed := a.Header()["Content-Type"]; !typed && code >= 200 {
		a.Header()["Content-Type"] = nil
	}
	a.ResponseWriter.WriteHeader(code)
}

func (a *answer) Write(b []byte) (int, error) {
	a.extend()
	n, err := a.ResponseWriter.Write(b)
	a.e.down.Add(int64(n))
	a.e.p.metrics.down.Add(float64(n))
	a.note(err)
	return n, err
}

// FlushError is for http.ResponseController: it is the flush that really writes.
func (a *answer) FlushError() error {
	a.extend()
	err := a.control.Flush()
	a.note(err)
	return err
}

func (a *answer) note(err error) {
	switch {
	case err == nil:
	case classify(err) == statusTimeout:
		a.e.fail(statusTimeout, errors.New("the client reads too slowly"))
	default:
		a.e.fail(statusClient, errors.New("the client went away"))
	}
}

// extend gives the next piece at least half of the time for slow readers. Moving the deadline for every piece would cost more than it is worth.
func (a *answer) extend() {
	slow := a.e.p.opts.SlowReader
	if now := time.Now(); a.until.Sub(now) < slow/2 {
		a.until = now.Add(slow)
		_ = a.control.SetWriteDeadline(a.until) // a writer without deadlines is one of a test
	}
}

// release takes the deadline away: the connection goes on to other requests.
func (a *answer) release() {
	a.until = time.Time{}
	_ = a.control.SetWriteDeadline(time.Time{}) // as above
}

// responseBody notices when a call server breaks off in the middle of its answer.
type responseBody struct {
	io.ReadCloser
	e   *exchange
	ctx context.Context
}

func (b *responseBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		if status, cause := b.e.gone(b.ctx); cause != nil {
			b.e.fail(status, cause)
		} else {
			b.e.fail(statusUpstream, err)
		}
	}
	return n, err
}

// requestBody counts what comes from the client, and bounds how slowly it may: Options.SlowSender of waiting, and a second more for each KiB.
type requestBody struct {
	io.ReadCloser
	control *http.ResponseController
	e       *exchange
	waited  time.Duration

	mu       sync.Mutex
	whole    bool
	released bool
}

// restPatience is how long net/http may wait for the rest of a request that was answered before it was over.
const restPatience = 5 * time.Second

const bodyRate = 1 << 10 // bytes a second

func (b *requestBody) Read(p []byte) (int, error) {
	patience := b.e.p.opts.SlowSender + time.Duration(b.e.up.Load()/bodyRate)*time.Second - b.waited
	began := time.Now()
	b.deadline(began.Add(patience))
	n, err := b.ReadCloser.Read(p)
	b.waited += time.Since(began)
	b.e.up.Add(int64(n))
	b.e.p.metrics.up.Add(float64(n))
	switch {
	case err == nil:
	case errors.Is(err, io.EOF):
		b.mu.Lock()
		b.whole = true
		b.mu.Unlock()
		b.deadline(time.Time{}) // or it would end the held answer
	case classify(err) == statusTimeout:
		b.e.fail(statusTimeout, errors.New("the client sends its request too slowly"))
	default:
		b.e.fail(statusClient, errors.New("the client broke off its request"))
	}
	return n, err
}

// deadline sets the read deadline as long as the request is ours. The transport may still be reading when the answer is over.
func (b *requestBody) deadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.released {
		_ = b.control.SetReadDeadline(t) // as above
	}
}

// release gives the connection back to net/http, which reads the rest of the body, if there is one, and sets its own deadlines for what follows.
func (b *requestBody) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = true
	if !b.whole {
		_ = b.control.SetReadDeadline(time.Now().Add(restPatience)) // as above
	}
}

package signaling

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	mathrand "math/rand/v2"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"hafen/configs"
)

// CallServer is one call server as the prober sees it.
type CallServer struct {
	Service string `json:"service"`
	Host    string `json:"host"`
	// Up: at least one of the checks that are on came through the last time.
	Up        bool  `json:"up"`
	HTTPS     Check `json:"https"`
	WebSocket Check `json:"websocket"`
	LongPoll  Check `json:"longpoll"`
}

// The states of a Check.
const (
	CheckOff     = "off"     // probes names no path for it
	CheckUnknown = "unknown" // not yet tried
	CheckOK      = "ok"
	CheckFailed  = "failed"
)

// Check is the last result of one kind of probe.
type Check struct {
	State string `json:"state"`
	// RTT is the time from the request to the first byte of the answer; 0 where a poll was held.
	RTT time.Duration `json:"rtt"`
	// Status is the status word of a failure.
	Status string `json:"status,omitempty"`
	// Why is what happened, in a sentence without the host.
	Why string    `json:"why,omitempty"`
	At  time.Time `json:"at"`
	// Opened says of a WebSocket that it was opened, not refused by the call server itself.
	Opened bool `json:"opened,omitempty"`
}

// prober asks each call server at intervals whether it works. It asks on the way that the clients' requests take.
type prober struct {
	p       *Proxy
	table   *table
	servers []*server
	once    sync.Once
	ctx     context.Context // ends with the Proxy, and with the configuration
	cancel  context.CancelFunc

	nowMu sync.Mutex
	asked time.Time // when ProbeNow last asked

	interval, pollInterval, timeout, hold time.Duration
}

// server is one call server under probe.
type server struct {
	probes configs.Probes
	up     *upstream
	hurry  chan struct{} // somebody waits for news
	eager  atomic.Bool   // and does not want to wait for a server that is silent

	mu  sync.Mutex
	now CallServer
}

func newProber(p *Proxy, c *configs.Config, t *table) *prober {
	pr := &prober{p: p, table: t, interval: 30 * time.Second, pollInterval: 5 * time.Minute, timeout: 10 * time.Second, hold: time.Minute}
	pr.ctx, pr.cancel = context.WithCancel(p.ctx)
	for i := range c.Services {
		s := &c.Services[i]
		for _, host := range s.CallServers() {
			pr.servers = append(pr.servers, &server{probes: s.Probes, up: t.upstreams[i], hurry: make(chan struct{}, 1), now: CallServer{
				Service: s.Name, Host: host, HTTPS: initial(s.Probes.HTTPS), WebSocket: initial(s.Probes.WebSocket), LongPoll: initial(s.Probes.LongPoll),
			}})
		}
	}
	return pr
}

func initial(path string) Check {
	if path == "" {
		return Check{State: CheckOff}
	}
	return Check{State: CheckUnknown}
}

func (pr *prober) start(wg *sync.WaitGroup) {
	pr.once.Do(func() {
		for _, s := range pr.servers {
			if s.probes.HTTPS != "" || s.probes.WebSocket != "" {
				wg.Add(1)
				go pr.loop(wg, pr.interval, s.hurry, func() { pr.ask(s) })
			}
			if s.probes.LongPoll != "" {
				wg.Add(1)
				go pr.loop(wg, pr.pollInterval, nil, func() { pr.note(s, "long-poll", &s.now.LongPoll, pr.checkLongPoll(s)) })
			}
		}
	})
}

// Hurry asks all call servers now, for somebody who is watching. One that does not answer within two and a half seconds counts as silent
// then: whoever watches wants to know.
func (p *Proxy) Hurry() {
	for _, s := range p.setup.Load().prober.servers {
		s.eager.Store(true)
		s.ask()
	}
}

// ask has the server asked soon.
func (s *server) ask() {
	select {
	case s.hurry <- struct{}{}:
	default:
	}
}

// doubt has the servers of an upstream asked soon, since a client's request has failed there.
func (pr *prober) doubt(host string) {
	for _, s := range pr.servers {
		if s.now.Host == host { // Host never changes
			s.ask()
		}
	}
}

// eagerTimeout ends a probe that somebody waits for; shortestPause is between two of one server in any case.
const (
	eagerTimeout  = 2500 * time.Millisecond
	shortestPause = 1500 * time.Millisecond
)

// patience is how long the server may take to answer.
func (pr *prober) patience(s *server) time.Duration {
	if s.eager.Swap(false) {
		return min(pr.timeout, eagerTimeout)
	}
	return pr.timeout
}

// loop asks now and then at intervals that differ by a fifth, so that many gateways do not ask as one. hurry shortens a pause.
func (pr *prober) loop(wg *sync.WaitGroup, interval time.Duration, hurry <-chan struct{}, ask func()) {
	defer wg.Done()
	for {
		asked := time.Now()
		ask()
		pause := interval*4/5 + mathrand.N(interval*2/5)
		select {
		case <-pr.p.opts.After(pause):
		case <-hurry:
			if !pr.rest(asked) {
				return
			}
		case <-pr.ctx.Done():
			return
		}
	}
}

// rest keeps whoever hurries from asking without a pause.
func (pr *prober) rest(asked time.Time) bool {
	select {
	case <-time.After(shortestPause - time.Since(asked)):
		return true
	case <-pr.ctx.Done():
		return false
	}
}

func (pr *prober) ask(s *server) {
	patience := pr.patience(s)
	var both sync.WaitGroup
	if s.probes.HTTPS != "" {
		both.Go(func() { pr.note(s, "https", &s.now.HTTPS, pr.checkHTTPS(s, patience)) })
	}
	if s.probes.WebSocket != "" {
		both.Go(func() { pr.note(s, "websocket", &s.now.WebSocket, pr.checkWebSocket(s, patience)) })
	}
	both.Wait()
}

// note keeps a result; a change of state is one log line.
func (pr *prober) note(s *server, kind string, at *Check, result Check) {
	if pr.ctx.Err() != nil {
		return // what a probe says while it is being ended is not about the call server
	}
	result.At = pr.p.opts.Now()
	s.mu.Lock()
	before := at.State
	*at = result
	s.now.Up = s.now.HTTPS.State == CheckOK || s.now.WebSocket.State == CheckOK || s.now.LongPoll.State == CheckOK
	now := s.now
	s.mu.Unlock()
	labels := []string{now.Service, now.Host}
	up := 0.0
	if now.Up {
		up = 1
	}
	pr.p.metrics.serverUp.WithLabelValues(labels...).Set(up)
	if result.State == CheckOK && result.RTT > 0 {
		pr.p.metrics.serverRTT.WithLabelValues(labels...).Set(result.RTT.Seconds())
	}
	switch {
	case result.State == CheckFailed && before != CheckFailed:
		pr.p.log.Warn("call server failed a probe", "probe", kind, "service", now.Service, "host", now.Host, "status", result.Status, "why", result.Why)
	case result.State == CheckOK && before == CheckFailed:
		pr.p.log.Info("call server is back", "probe", kind, "service", now.Service, "host", now.Host)
	}
}

// freshness is how old the answers of ProbeNow may be: many may ask at once.
const freshness = 5 * time.Second

// ProbeNow asks every call server, unless that was done a moment ago, and tells what is known by the end of ctx.
func (p *Proxy) ProbeNow(ctx context.Context) []CallServer {
	prober := p.setup.Load().prober
	prober.askNow(ctx)
	return prober.status()
}

func (pr *prober) askNow(ctx context.Context) {
	pr.nowMu.Lock()
	defer pr.nowMu.Unlock()
	if pr.p.opts.Now().Sub(pr.asked) < freshness || pr.ctx.Err() != nil || !pr.p.enter() {
		return
	}
	done := make(chan struct{})
	var wg sync.WaitGroup
	for _, s := range pr.servers {
		if s.probes.HTTPS != "" || s.probes.WebSocket != "" {
			wg.Go(func() { pr.ask(s) })
		}
	}
	go func() {
		defer pr.p.wg.Done()
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
		pr.asked = pr.p.opts.Now()
	case <-ctx.Done():
	}
}

func (pr *prober) status() []CallServer {
	list := make([]CallServer, 0, len(pr.servers))
	for _, s := range pr.servers {
		s.mu.Lock()
		list = append(list, s.now)
		s.mu.Unlock()
	}
	return list
}

// target is where clients' requests for the server go: by its route, or where there is none to the server itself.
func (pr *prober) target(s *server, path string) *target {
	u, err := url.ParseRequestURI(path)
	if err == nil {
		if to, refused := pr.table.find(s.now.Host, u.Path); refused == nil { // Host never changes
			return to
		}
	}
	return (&route{up: s.up}).target(s.now.Host)
}

// request is a GET of the prober's own, and the clock that is read at its answer's first byte.
func (pr *prober) request(ctx context.Context, to *target, path string) (*http.Request, func() time.Duration) {
	r := &http.Request{RequestURI: path}
	out := &http.Request{
		Method: http.MethodGet, URL: to.outURL(r), Host: to.authority, Header: http.Header{"User-Agent": {"hafen-probe"}},
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	var mu sync.Mutex
	var wrote, first time.Time
	now := func(at *time.Time) {
		mu.Lock()
		defer mu.Unlock()
		*at = pr.p.opts.Now()
	}
	trace := &httptrace.ClientTrace{
		WroteRequest:         func(httptrace.WroteRequestInfo) { now(&wrote) },
		GotFirstResponseByte: func() { now(&first) },
	}
	return out.WithContext(httptrace.WithClientTrace(ctx, trace)), func() time.Duration {
		mu.Lock()
		defer mu.Unlock()
		return max(first.Sub(wrote), 0)
	}
}

// maxProbeBody is what is read of a probe's answer so that its connection can be used again.
const maxProbeBody = 64 << 10

// checkHTTPS: any answer of the verified server but a failure of its own shows that the way is open and the server alive.
func (pr *prober) checkHTTPS(s *server, patience time.Duration) Check {
	ctx, cancel := context.WithTimeout(pr.ctx, patience)
	defer cancel()
	to := pr.target(s, s.probes.HTTPS)
	out, rtt := pr.request(ctx, to, s.probes.HTTPS)
	res, err := to.up.transport.RoundTrip(out)
	if err != nil {
		return failed(err)
	}
	defer func() { _ = res.Body.Close() }()
	_, _ = io.CopyN(io.Discard, res.Body, maxProbeBody) // only so that the connection may be kept
	if res.StatusCode >= 500 {
		return Check{State: CheckFailed, Status: statusUpstream, Why: fmt.Sprintf("It answered %d.", res.StatusCode)}
	}
	return Check{State: CheckOK, RTT: rtt(), Why: fmt.Sprintf("It answered %d.", res.StatusCode)}
}

// checkWebSocket: a refusal by the server itself proves as well as a success that an upgrade gets there.
func (pr *prober) checkWebSocket(s *server, patience time.Duration) Check {
	ctx, cancel := context.WithTimeout(pr.ctx, patience)
	defer cancel()
	to := pr.target(s, s.probes.WebSocket)
	out, _ := pr.request(ctx, to, s.probes.WebSocket)
	out.Header.Set("Connection", "Upgrade")
	out.Header.Set("Upgrade", "websocket")
	out.Header.Set("Sec-WebSocket-Version", "13")
	out.Header.Set("Sec-WebSocket-Key", newKey())
	out.Header.Set("Origin", "https://"+to.host)
	var sent time.Time
	rep, err := handshakeTimed(ctx, to, out, func() { sent = pr.p.opts.Now() })
	if err != nil {
		return failed(err)
	}
	defer func() { _ = rep.conn.Close() }()
	rtt := pr.p.opts.Now().Sub(sent)
	switch code := rep.StatusCode; code {
	case http.StatusSwitchingProtocols:
		sayGoodbye(rep)
		return Check{State: CheckOK, RTT: rtt, Why: "A WebSocket was opened.", Opened: true}
	case http.StatusBadRequest, http.StatusUnauthorized, http.StatusForbidden:
		return Check{State: CheckOK, RTT: rtt, Why: fmt.Sprintf("It answered %d, so an upgrade gets there.", code)}
	default:
		return Check{State: CheckFailed, Status: statusUpstream, Why: fmt.Sprintf("It answered %d: its path is another one, or something on the way takes the upgrade out.", code)}
	}
}

// sayGoodbye closes the probe's WebSocket as its protocol wants it: a masked close frame with code 1000 (RFC 6455 sections 5.5.1 and 7.4.1).
func sayGoodbye(rep *reply) {
	frame := []byte{0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe8} // a mask of zeros is one, too
	_ = rep.conn.SetDeadline(time.Now().Add(time.Second))
	_, _ = rep.conn.Write(frame) // only a courtesy
}

func newKey() string {
	var raw [16]byte
	_, _ = rand.Read(raw[:]) // never fails
	return base64.StdEncoding.EncodeToString(raw[:])
}

// checkLongPoll: the poll is held, or answered with what there is. What must not happen is that it is cut.
func (pr *prober) checkLongPoll(s *server) Check {
	ctx, cancel := context.WithTimeout(pr.ctx, pr.hold)
	defer cancel()
	to := pr.target(s, s.probes.LongPoll)
	out, rtt := pr.request(ctx, to, s.probes.LongPoll)
	began := pr.p.opts.Now()
	res, err := to.up.transport.RoundTrip(out)
	held := pr.p.opts.Now().Sub(began).Round(time.Second)
	var worded interface{ Status() string }
	switch {
	case errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &worded):
		return Check{State: CheckOK, Why: fmt.Sprintf("It was held for %s.", pr.hold)}
	case err != nil:
		f := failed(err)
		f.Why += fmt.Sprintf(" It was held for %s before.", held)
		return f
	}
	_ = res.Body.Close()
	if res.StatusCode >= 400 {
		return Check{State: CheckFailed, Status: statusUpstream, Why: fmt.Sprintf("It answered %d instead of holding.", res.StatusCode)}
	}
	return Check{State: CheckOK, RTT: rtt(), Why: fmt.Sprintf("It answered %d.", res.StatusCode)}
}

// failed says for the administrator what went wrong, so with all that the error knows.
func failed(err error) Check {
	status := classify(err)
	why := "It broke off the connection: "
	switch status {
	case statusTimeout:
		why = "It did not answer in time: "
	case statusDial, statusPolicy:
		why = "It can't be reached: "
	}
	if err.Error() == context.DeadlineExceeded.Error() { // with nothing before it, say who was silent: Go's words help nobody
		return Check{State: CheckFailed, Status: status, Why: "It did not answer in time."}
	}
	return Check{State: CheckFailed, Status: status, Why: why + err.Error() + "."}
}

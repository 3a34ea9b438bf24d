package signaling

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"hafen/configs"
)

func hello(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") }

func TestExchange(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		for _, upH2 := range []bool{false, true} {
			t.Run(fmt.Sprintf("h2 %v upstream h2 %v", h2, upH2), func(t *testing.T) {
				r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
					body, _ := io.ReadAll(req.Body)
					w.Header().Set("X-Proto", req.Proto)
					w.WriteHeader(http.StatusCreated)
					_, _ = fmt.Fprintf(w, "%s %s %s", req.Method, req.Host, body)
				}, settings{upH2: upH2})
				res, err := r.client(h2).Post("https://"+host+"/x", "text/plain", strings.NewReader("ping"))
				if err != nil {
					t.Fatal(err)
				}
				body, _ := io.ReadAll(res.Body)
				_ = res.Body.Close()
				if res.StatusCode != http.StatusCreated || string(body) != "POST example.com ping" {
					t.Errorf("%d %q", res.StatusCode, body)
				}
				if got := res.ProtoMajor == 2; got != h2 {
					t.Errorf("the client spoke %s", res.Proto)
				}
				if got := res.Header.Get("X-Proto") == "HTTP/2.0"; got != upH2 {
					t.Errorf("the call server spoke %s", res.Header.Get("X-Proto"))
				}
				r.ended(statusOK)
				if up, down := r.metric("hafen_signaling_bytes_total", "up"), r.metric("hafen_signaling_bytes_total", "down"); up != 4 || down != float64(len(body)) {
					t.Errorf("%v bytes up, %v down", up, down)
				}
				if text := r.log.String(); text != "" {
					t.Errorf("a short request is no line: %s", text)
				}
			})
		}
	}
}

// What the client wrote as path and query is what the call server reads, byte for byte.
func TestAddressUntouched(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) { _, _ = io.WriteString(w, req.RequestURI) }, settings{})
	for _, uri := range []string{"/", "/a%2Fb/%7e/~", "/a|b", "/x?", "/x?a=1;b=%zz&c", "/a//b/../c", "/ü?ö", "/a:b@c", "/%00"} {
		res, br, err := send(t, r.dial(), "GET "+uri+" HTTP/1.1\r\nHost: example.com\r\n\r\n")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1000))
		if string(body) != uri || br.Buffered() > 0 {
			t.Errorf("%q arrived as %q (%d)", uri, body, res.StatusCode)
		}
	}
}

// C-11, C-22: the client's claims are gone in every spelling, one set is ours, and the rest is as it was.
func TestHeaders(t *testing.T) {
	got := make(chan *http.Request, 1)
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) { got <- req }, settings{})
	claims := []string{
		"X-Forwarded-For: 6.6.6.6", "X-Forwarded-For: 7.7.7.7", "X-Forwarded-Host: evil.example", "X-Forwarded-Proto: http", "X-Forwarded-Port: 1", "X-Forwarded-Prefix: /evil", "X-Forwarded-Anything: evil",
		"X_Forwarded_For: 6.6.6.6", "x_forwarded-host: evil.example", "Forwarded: for=6.6.6.6", "X-Real-IP: 6.6.6.6", "X_Real_IP: 6.6.6.6", "True-Client-IP: 6.6.6.6", "CF-Connecting-IP: 6.6.6.6", "CF_Connecting_IP: 6.6.6.6",
		"X-Client-IP: 6.6.6.6", "X-Original-URL: /evil", "X-Rewrite-URL: /evil", "Proxy: evil", "HTTP2-Settings: AAMAAABk",
		"Connection: keep-alive, X-Drop, X-Forwarded-For", "X-Drop: evil", "Keep-Alive: evil", "Proxy-Connection: evil", "Proxy-Authorization: evil", "TE: trailers, evil",
	}
	kept := map[string]string{
		"Origin": "https://other.example", "Cookie": "a=b; c=\"d\"", "Authorization": "Bearer x", "Accept-Encoding": "br, gzip", "User-Agent": "test/1", "X-My_Header": "kept", "Referer": "https://example.com/x",
		"Sec-Fetch-Site": "same-origin", "If-None-Match": "\"x\"", "Range": "bytes=0-1",
	}
	text := "GET /x HTTP/1.1\r\nHost: EXAMPLE.com:8443\r\n" + strings.Join(claims, "\r\n") + "\r\n"
	for name, value := range kept {
		text += name + ": " + value + "\r\n"
	}
	if _, _, err := send(t, r.dial(), text+"\r\n"); err != nil {
		t.Fatal(err)
	}
	req := <-got
	want := map[string]string{
		"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Host": "EXAMPLE.com:8443", "X-Forwarded-Proto": "https", "Forwarded": `for=127.0.0.1;host="EXAMPLE.com:8443";proto=https`, "Te": "trailers",
	}
	for name, value := range kept {
		want[http.CanonicalHeaderKey(name)] = value
	}
	for name, value := range want {
		if values := req.Header[name]; len(values) != 1 || values[0] != value {
			t.Errorf("%s arrived as %q, want %q", name, values, value)
		}
	}
	for name, values := range req.Header {
		if _, expected := want[name]; !expected {
			t.Errorf("%s: %q arrived as well", name, values)
		}
	}
	if req.Host != host {
		t.Errorf("Host is %q", req.Host)
	}
}

func TestForwarded(t *testing.T) {
	for remote, want := range map[string]string{
		"192.0.2.1:4": "for=192.0.2.1;host=example.com;proto=http", "[2001:db8::1]:4": `for="[2001:db8::1]";host=example.com;proto=http`,
		"[::ffff:192.0.2.1]:4": "for=192.0.2.1;host=example.com;proto=http", "[fe80::1%lo]:4": `for="[fe80::1]";host=example.com;proto=http`, "pipe": "host=example.com;proto=http",
	} {
		h := http.Header{"X-Forwarded-For": {"evil"}}
		clean(h, &http.Request{RemoteAddr: remote, Host: "example.com"})
		if h.Get("Forwarded") != want || strings.Contains(h.Get("X-Forwarded-For"), "evil") {
			t.Errorf("%s: %v, want %s", remote, h, want)
		}
	}
}

// Nothing is added to an answer or taken out of it but what belongs to the hop.
func TestAnswerUntouched(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		h := w.Header()
		h["Content-Type"] = nil
		h["Set-Cookie"] = []string{"a=b; Domain=example.com; Secure", "c=d"}
		h.Set("Location", "https://example.com/y")
		h.Set("Content-Security-Policy", "default-src 'self'")
		h.Set("Alt-Svc", `h3=":443"`)
		h.Set("Trailer", "X-End")
		w.WriteHeader(http.StatusFound)
		_, _ = io.WriteString(w, "<html>")
		h.Set("X-End", "done")
	}, settings{})
	res, body := r.get("https://"+host+"/", false)
	if res.StatusCode != http.StatusFound || body != "<html>" || res.Header.Get("Location") != "https://example.com/y" || !slices.Equal(res.Header["Set-Cookie"], []string{"a=b; Domain=example.com; Secure", "c=d"}) {
		t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
	}
	if res.Header.Get("Content-Type") != "" || res.Header.Get("Alt-Svc") != "" || res.Header.Get("Content-Security-Policy") == "" || res.Trailer.Get("X-End") != "done" {
		t.Errorf("headers %v, trailers %v", res.Header, res.Trailer)
	}
}

// A long-poll is held longer than any deadline of the server, is counted while it is held, and is one line at its end.
func TestLongPollIsHeld(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			release := make(chan struct{})
			r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
				_, _ = io.ReadAll(req.Body)
				<-release
				hello(w, req)
			}, settings{
				options: func(o *Options) { o.HeldAfter = 100 * time.Millisecond },
				front:   func(s *http.Server) { s.ReadTimeout, s.WriteTimeout = time.Second, time.Second },
			})
			answer := make(chan string)
			go func() {
				res, err := r.client(h2).Post("https://"+host+"/poll", "text/plain", strings.NewReader("any news?"))
				if err != nil {
					answer <- err.Error()
					return
				}
				body, err := io.ReadAll(res.Body)
				_ = res.Body.Close()
				answer <- fmt.Sprint(string(body), err)
			}()
			eventually(t, "the poll is counted", func() bool {
				return r.metric("hafen_signaling_longpolls") == 1 && r.p.Status().LongPolls == 1 && r.p.Live() == 1
			})
			if s := r.p.Sessions(); len(s) != 1 || s[0].Kind != "long-poll" || s[0].Host != host || s[0].Service != "calls" || s[0].Client != "127.0.0.0/24" || s[0].Up != 9 {
				t.Errorf("the sessions: %+v", s)
			}
			time.Sleep(2500 * time.Millisecond) // longer than the server's deadlines
			close(release)
			if got := <-answer; got != "hello<nil>" {
				t.Errorf("the poll ended with %s", got)
			}
			r.ended(statusOK)
			eventually(t, "the poll is counted out", func() bool {
				return r.metric("hafen_signaling_longpolls") == 0 && r.p.Live() == 0 && len(r.p.Sessions()) == 0
			})
			eventually(t, "the line is written", func() bool { return r.log.count("long-poll ended") > 0 })
			if n := r.log.count("long-poll ended"); n != 1 || !strings.Contains(r.log.String(), "status=ok host=example.com service=calls") || !strings.Contains(r.log.String(), "client=127.0.0.0/24") {
				t.Errorf("%d lines:\n%s", n, r.log)
			}
		})
	}
}

// A piece of an answer is there before the next one is sent, and a piece of an upload as well.
func TestStreaming(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			next := make(chan string)
			r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "text/event-stream")
				w.WriteHeader(http.StatusOK)
				_ = http.NewResponseController(w).Flush()
				for text := range next {
					_, _ = fmt.Fprintf(w, "data: %s\n\n", text)
					_ = http.NewResponseController(w).Flush()
				}
			}, settings{})
			res, err := r.client(h2).Get("https://" + host + "/events") // returns with the head
			if err != nil {
				t.Fatal(err)
			}
			br := bufio.NewReader(res.Body)
			for _, text := range []string{"one", "two"} {
				next <- text
				if line, err := br.ReadString('\n'); line != "data: "+text+"\n" {
					t.Fatalf("%q %v", line, err)
				}
				_, _ = br.ReadString('\n')
				eventually(t, "bytes are counted while it lasts", func() bool { return r.metric("hafen_signaling_bytes_total", "down") > 0 })
			}
			close(next)
			if _, err := br.ReadByte(); !errors.Is(err, io.EOF) {
				t.Errorf("the end is %v", err)
			}
			_ = res.Body.Close()
		})
	}
}

func TestUploadStreams(t *testing.T) {
	pieces := make(chan string)
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		buf := make([]byte, 100)
		for {
			n, err := req.Body.Read(buf)
			if n > 0 {
				pieces <- string(buf[:n])
			}
			if err != nil {
				return
			}
		}
	}, settings{})
	body, feed := io.Pipe()
	done := make(chan error)
	go func() {
		res, err := r.client(false).Post("https://"+host+"/up", "text/plain", body)
		if err == nil {
			err = res.Body.Close()
		}
		done <- err
	}()
	for _, text := range []string{"one", "two"} {
		_, _ = io.WriteString(feed, text)
		if got := <-pieces; got != text {
			t.Errorf("%q arrived", got)
		}
	}
	_ = feed.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	r.ended(statusOK)
}

// The call server's request is cancelled soon after the client has gone.
func TestClientGoes(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			began, cancelled := make(chan struct{}), make(chan time.Time, 1)
			r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
				close(began)
				<-req.Context().Done()
				cancelled <- time.Now()
			}, settings{upH2: h2, options: func(o *Options) { o.HeldAfter = time.Millisecond }})
			ctx, leave := context.WithCancel(t.Context())
			req, _ := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+host+"/poll", nil)
			go func() {
				<-began
				leave()
			}()
			if res, err := r.client(h2).Do(req); err == nil {
				_ = res.Body.Close()
				t.Error("an answer came")
			}
			left := time.Now()
			select {
			case at := <-cancelled:
				if d := at.Sub(left); d > 2*time.Second {
					t.Errorf("cancelled after %s", d)
				}
			case <-time.After(10 * time.Second):
				t.Error("never cancelled")
			}
			r.ended(statusClient)
		})
	}
}

// A call server that dies in the middle of its answer: the client sees that it is not whole.
func TestUpstreamDiesMidStream(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
				_, _ = io.WriteString(w, "half")
				_ = http.NewResponseController(w).Flush()
				panic(http.ErrAbortHandler)
			}, settings{})
			res, err := r.client(h2).Get("https://" + host + "/")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if string(body) != "half" || err == nil {
				t.Errorf("%q, error %v", body, err)
			}
			r.ended(statusUpstream)
		})
	}
}

// C-24: a request that may have had an effect is sent once.
func TestNoRetry(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
	}, settings{})
	client := r.client(false)
	// A connection that is kept alive is the one that net/http would retry.
	if res, err := client.Get("https://" + host + "/"); err != nil {
		t.Fatal(err)
	} else {
		_ = res.Body.Close()
	}
	for i, body := range []string{"charge my card", ""} {
		before := r.arrived.Load()
		res, err := client.Post("https://"+host+"/", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		text, _ := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if n := r.arrived.Load() - before; n != 1 || res.StatusCode != http.StatusBadGateway {
			t.Errorf("%d: arrived %d times, answered %d %s", i, n, res.StatusCode, text)
		}
	}
}

type wordedError struct{ word string }

func (e wordedError) Error() string  { return "dial tcp 10.1.2.3:443: secret inside" }
func (e wordedError) Status() string { return e.word }

// What fails on the way is one plain sentence with its status word, and nothing of the network inside.
func TestDialFailures(t *testing.T) {
	for _, tt := range []struct {
		name string
		err  error
		code int
		text string
	}{
		{"policy", wordedError{statusPolicy}, 502, "example.com leads to an address that the gateway may not connect to (err_policy).\n"},
		{"dial", wordedError{statusDial}, 502, "example.com can't be reached from the gateway (err_dial).\n"},
		{"timeout", wordedError{statusTimeout}, 504, "example.com did not answer in time (err_timeout).\n"},
		{"plain dial error", &net.OpError{Op: "dial", Err: errors.New("refused 10.1.2.3")}, 502, "example.com can't be reached from the gateway (err_dial).\n"},
		{"deadline", context.DeadlineExceeded, 504, "example.com did not answer in time (err_timeout).\n"},
		{"other", errors.New("10.1.2.3 broke"), 502, "example.com broke off the connection before it answered (err_upstream).\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			fail := func(o *Options) {
				o.Dial = func(context.Context, string, string, string) (net.Conn, error) { return nil, tt.err }
			}
			r := newRig(t, hello, settings{options: fail})
			res, body := r.get("https://"+host+"/", false)
			if res.StatusCode != tt.code || body != tt.text || res.Header.Get("Content-Type") != "text/plain; charset=utf-8" || res.Header.Get("Cache-Control") != "no-store" {
				t.Errorf("%d %q %v", res.StatusCode, body, res.Header)
			}
			// The same for a WebSocket.
			ws, _, err := send(t, r.dial(), webSocketHead("example.com"))
			if err != nil {
				t.Fatal(err)
			}
			if wsBody, _ := io.ReadAll(ws.Body); ws.StatusCode != tt.code || string(wsBody) != tt.text {
				t.Errorf("WebSocket: %d %q", ws.StatusCode, wsBody)
			}
		})
	}
}

func TestUntrustedCertificate(t *testing.T) {
	r := newRig(t, hello, settings{config: func(c *configs.Config) { c.Services[0].CAFile = "" }})
	want := "example.com shows a certificate that the gateway does not trust (err_upstream).\n"
	if res, body := r.get("https://"+host+"/", true); res.StatusCode != http.StatusBadGateway || body != want {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	ws, _, err := send(t, r.dial(), webSocketHead("example.com"))
	if err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(ws.Body); ws.StatusCode != http.StatusBadGateway || string(body) != want {
		t.Errorf("WebSocket: %d %q", ws.StatusCode, body)
	}
	if r.arrived.Load() != 0 {
		t.Error("a request arrived at a server that is not trusted")
	}
}

// C-21: the client's body is asked for when the call server wants it, and not when it refuses.
func TestContinue(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		if req.URL.Path == "/no" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		body, _ := io.ReadAll(req.Body)
		_, _ = fmt.Fprintf(w, "got %s", body)
	}, settings{})
	head := "POST %s HTTP/1.1\r\nHost: example.com\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
	conn := r.dial()
	res, br, err := send(t, conn, fmt.Sprintf(head, "/yes"))
	if err != nil || res.StatusCode != http.StatusContinue {
		t.Fatalf("%v %v", res, err)
	}
	_, _ = io.WriteString(conn, "body")
	if res, err = http.ReadResponse(br, nil); err != nil {
		t.Fatal(err)
	}
	if body, _ := io.ReadAll(res.Body); string(body) != "got body" {
		t.Errorf("%q", body)
	}
	if res, _, err = send(t, r.dial(), fmt.Sprintf(head, "/no")); err != nil || res.StatusCode != http.StatusUnauthorized {
		t.Errorf("%v %v", res, err)
	}
}

// A client that does not read is cut, and holds nobody's memory: the call server is stopped by its own connection.
func TestSlowReader(t *testing.T) {
	for _, h2 := range []bool{false, true} {
		t.Run(fmt.Sprintf("h2 %v", h2), func(t *testing.T) {
			sent := make(chan int64, 1)
			r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
				piece, n := make([]byte, 64<<10), int64(0)
				for range 4000 {
					m, err := w.Write(piece)
					n += int64(m)
					if err != nil {
						break
					}
				}
				sent <- n
			}, settings{options: func(o *Options) { o.SlowReader = 400 * time.Millisecond }})
			res, err := r.client(h2).Get("https://" + host + "/")
			if err != nil {
				t.Fatal(err)
			}
			r.ended(statusTimeout)
			if n := <-sent; n > 64<<20 {
				t.Errorf("the call server sent %d bytes to a client that reads none", n)
			}
			_ = res.Body.Close()
		})
	}
}

// C-18: a body that trickles is cut, with 408, and the held answer to a whole body is not.
func TestSlowSender(t *testing.T) {
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		if _, err := io.ReadAll(req.Body); err != nil {
			panic(http.ErrAbortHandler)
		}
	}, settings{options: func(o *Options) { o.SlowSender = 300 * time.Millisecond }})
	res, _, err := send(t, r.dial(), "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 400\r\n\r\nslow")
	if err != nil || res.StatusCode != http.StatusRequestTimeout {
		t.Errorf("%v %v", res, err)
	}
	r.ended(statusTimeout)
}

// An answer that comes before the request is over goes on at once, and a rest that never comes does not hold the connection.
func TestEarlyAnswer(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex()
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}, settings{})
	began := time.Now()
	res, _, err := send(t, r.dial(), "POST / HTTP/1.1\r\nHost: example.com\r\nContent-Length: 400\r\n\r\nhalf")
	if err != nil || res.StatusCode != http.StatusRequestEntityTooLarge || time.Since(began) > restPatience {
		t.Errorf("%v %v after %s", res, err, time.Since(began))
	}
}

// A switch of protocols that nobody asked for is a failure of the call server, not a tunnel.
func TestUnaskedSwitch(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
		_ = conn.Close()
	}, settings{})
	if res, body := r.get("https://"+host+"/", false); res.StatusCode != http.StatusBadGateway {
		t.Errorf("%d %q", res.StatusCode, body)
	}
	r.ended(statusUpstream)
}

// Close ends what is held; Drain lets it live and sends clients elsewhere for the next.
func TestDrainAndClose(t *testing.T) {
	began := make(chan struct{}, 2)
	r := newRig(t, func(_ http.ResponseWriter, req *http.Request) {
		began <- struct{}{}
		if req.URL.Path == "/poll" {
			<-req.Context().Done()
		}
	}, settings{})
	answer := make(chan int)
	go func() {
		res, err := r.client(false).Get("https://" + host + "/poll")
		if err != nil {
			answer <- 0
			return
		}
		_ = res.Body.Close()
		answer <- res.StatusCode
	}()
	<-began
	r.p.Drain()
	if res, _ := r.get("https://"+host+"/", false); res.StatusCode != http.StatusOK || !res.Close {
		t.Errorf("draining: %d, close %v", res.StatusCode, res.Close)
	}
	if ws, _, err := send(t, r.dial(), webSocketHead("example.com")); err != nil || ws.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("draining: %v %v", ws, err)
	}
	eventually(t, "only the held poll is live", func() bool { return r.p.Live() == 1 })
	if err := r.p.Close(); err != nil {
		t.Fatal(err)
	}
	if code := <-answer; code != http.StatusServiceUnavailable {
		t.Errorf("the held poll ended with %d", code)
	}
}

// A route under a name of the hospital's own: the call server sees its own name, and what it says of itself is put under ours.
func TestOwnNameRoute(t *testing.T) {
	r := newRig(t, func(w http.ResponseWriter, req *http.Request) {
		h := w.Header()
		h.Set("X-Host", req.Host+" "+req.Header.Get("X-Forwarded-Host"))
		h["Set-Cookie"] = []string{"a=b; Path=/; Domain=.example.com; Secure", "c=d; Domain=other.example"}
		h.Set("Location", "https://example.com/login?x=1")
		w.WriteHeader(http.StatusFound)
	}, settings{config: func(c *configs.Config) {
		c.Signaling.Routes = []configs.Route{{Host: "calls.wild.example", Path: "/", Upstream: "https://example.com"}}
	}})
	req := httptest.NewRequest(http.MethodGet, "/x", nil)
	req.Host = "calls.wild.example"
	w := httptest.NewRecorder()
	r.p.ServeHTTP(w, req)
	h := w.Result().Header
	if h.Get("X-Host") != "example.com calls.wild.example" || h.Get("Location") != "http://calls.wild.example/login?x=1" || !slices.Equal(h["Set-Cookie"], []string{"a=b; Path=/; Secure", "c=d; Domain=other.example"}) {
		t.Errorf("%d %v", w.Code, h)
	}
}

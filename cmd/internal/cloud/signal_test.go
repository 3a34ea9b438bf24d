package cloud

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

// pollClient is a member that signals by long-polls, as signal.js does.
type pollClient struct {
	t      *testing.T
	base   string
	query  string
	after  uint64
	unread []message // of next
}

func newPollClient(t *testing.T, c *Cloud, id, more string) *pollClient {
	return &pollClient{t: t, base: strings.TrimSuffix(c.URL(), "/"), query: "room=harbour&id=" + id + more}
}

// poll asks once and returns the messages, or the status of a refusal.
func (p *pollClient) poll(ctx context.Context, wait string) ([]message, int) {
	p.t.Helper()
	url := fmt.Sprintf("%s/signal/poll?%s&after=%d&wait=%s", p.base, p.query, p.after, wait)
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return nil, 0 // cut
	}
	defer func() { _ = r.Body.Close() }()
	var answer struct{ Messages []message }
	if r.StatusCode == http.StatusOK {
		if err := json.NewDecoder(r.Body).Decode(&answer); err != nil {
			p.t.Fatal(err)
		}
	}
	for _, m := range answer.Messages {
		if m.Seq != p.after+1 {
			p.t.Errorf("message %d after %d: a gap", m.Seq, p.after)
		}
		p.after = m.Seq
	}
	return answer.Messages, r.StatusCode
}

// next polls until there is one message of that type and returns it.
func (p *pollClient) next(kind string) message {
	p.t.Helper()
	for range 10 {
		for i, m := range p.unread {
			if m.Type == kind {
				p.unread = p.unread[i+1:]
				return m
			}
		}
		messages, code := p.poll(p.t.Context(), "2")
		if code != http.StatusOK || len(messages) == 0 {
			p.t.Fatalf("waiting for %s: %d", kind, code)
		}
		p.unread = messages
	}
	p.t.Fatalf("no %s came", kind)
	return message{}
}

func (p *pollClient) send(n uint64, data string) int {
	p.t.Helper()
	body := fmt.Sprintf(`{"messages":[{"n":%d,"data":%s}]}`, n, data)
	r, err := http.Post(p.base+"/signal/send?"+p.query, "application/json", strings.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, r.Body)
	_ = r.Body.Close()
	return r.StatusCode
}

// wsClient is a member that signals over a WebSocket.
type wsClient struct {
	t     *testing.T
	ws    *websocket.Conn
	after uint64
}

func dialSignal(t *testing.T, c *Cloud, query string) (*wsClient, error) {
	t.Helper()
	url := "ws" + strings.TrimPrefix(c.URL(), "http") + "signal/ws?room=harbour&" + query
	ws, r, err := websocket.Dial(t.Context(), url, nil)
	if err != nil {
		if r != nil {
			return nil, fmt.Errorf("%d: %w", r.StatusCode, err)
		}
		return nil, err
	}
	t.Cleanup(func() { _ = ws.CloseNow() })
	return &wsClient{t: t, ws: ws}, nil
}

// next reads frames until one of that type; it answers ticks.
func (w *wsClient) next(kind string) message {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 5*time.Second)
	defer cancel()
	for {
		var m message
		if err := wsjson.Read(ctx, w.ws, &m); err != nil {
			w.t.Fatalf("waiting for %s: %v", kind, err)
		}
		if m.Seq > 0 {
			if m.Seq != w.after+1 {
				w.t.Errorf("message %d after %d: a gap", m.Seq, w.after)
			}
			w.after = m.Seq
		}
		if m.Type == kind {
			return m
		}
		if m.Type == "tick" {
			w.write(map[string]any{"after": w.after})
		}
	}
}

func (w *wsClient) write(v any) {
	w.t.Helper()
	if err := wsjson.Write(w.t.Context(), w.ws, v); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wsClient) send(n uint64, data string) {
	w.write(map[string]any{"after": w.after, "messages": []outgoing{{N: n, Data: json.RawMessage(data)}}})
}

const (
	anna = "anna-0000000000000"
	berg = "berg-0000000000000"
	carl = "carl-0000000000000"
)

func TestWebSocketAndLongPollMeet(t *testing.T) {
	c := startCloud(t, Options{})
	a, err := dialSignal(t, c, "id="+anna)
	if err != nil {
		t.Fatal(err)
	}
	if w := a.next("welcome"); w.You != "p1" || len(w.Peers) != 0 {
		t.Errorf("welcome: %+v", w)
	}
	b := newPollClient(t, c, berg, "&name=Berg")
	if w := b.next("welcome"); w.You != "p2" || len(w.Peers) != 1 || w.Peers[0].ID != "p1" {
		t.Errorf("welcome: %+v", w)
	}
	if j := a.next("joined"); j.Peer.ID != "p2" || j.Peer.Label != "Berg" {
		t.Errorf("joined: %+v", j)
	}
	a.send(1, `{"hello":1}`)
	if m := b.next("signal"); m.From != "p1" || string(m.Data) != `{"hello":1}` {
		t.Errorf("signal: %+v", m)
	}
	if code := b.send(1, `"back"`); code != http.StatusNoContent {
		t.Errorf("send: %d", code)
	}
	if m := a.next("signal"); m.From != "p2" || string(m.Data) != `"back"` {
		t.Errorf("signal: %+v", m)
	}
	if code, _ := post(t, c, "signal/leave?room=harbour&id="+berg, ""); code != http.StatusNoContent {
		t.Errorf("leave: %d", code)
	}
	if m := a.next("left"); m.Reason != "bye" {
		t.Errorf("left: %+v", m)
	}
}

func post(t *testing.T, c *Cloud, path, body string) (int, string) {
	t.Helper()
	r, err := http.Post(c.URL()+path, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = r.Body.Close() }()
	var b bytes.Buffer
	_, _ = b.ReadFrom(r.Body)
	return r.StatusCode, b.String()
}

// A poll that is cut in the middle, and messages that come while nobody polls: nothing is lost, nothing comes twice.
func TestNoGapBetweenPolls(t *testing.T) {
	c := startCloud(t, Options{})
	a, err := dialSignal(t, c, "id="+anna)
	if err != nil {
		t.Fatal(err)
	}
	a.next("welcome")
	b := newPollClient(t, c, berg, "")
	b.next("welcome")
	for round := range uint64(5) {
		ctx, cancel := context.WithCancel(t.Context())
		held := make(chan struct{})
		go func() {
			defer close(held)
			time.Sleep(20 * time.Millisecond)
			cancel() // as a middlebox does, about when the next message comes
		}()
		if round%2 == 0 {
			time.Sleep(20 * time.Millisecond)
		}
		a.send(2*round+1, fmt.Sprint(2*round))
		got, _ := b.poll(ctx, "30")
		<-held
		a.send(2*round+2, fmt.Sprint(2*round+1))
		for want := 2*round + uint64(len(got)); want < 2*round+2; {
			messages, _ := b.poll(t.Context(), "5")
			for _, m := range messages {
				if m.Type != "signal" || string(m.Data) != fmt.Sprint(want) {
					t.Fatalf("round %d: wanted %d, got %+v", round, want, m)
				}
				want++
			}
		}
	}
}

func TestResumeOverTheOtherTransport(t *testing.T) {
	c := startCloud(t, Options{})
	b := newPollClient(t, c, berg, "")
	b.next("welcome")
	a, err := dialSignal(t, c, "id="+anna)
	if err != nil {
		t.Fatal(err)
	}
	a.next("welcome")
	a.send(1, `"first"`)
	if m := b.next("signal"); string(m.Data) != `"first"` {
		t.Errorf("over the WebSocket: %+v", m)
	}
	_ = a.ws.CloseNow()
	b.send(1, `"while away"`)
	again := newPollClient(t, c, anna, "")
	again.after = a.after
	if m := again.next("signal"); string(m.Data) != `"while away"` {
		t.Errorf("after the change of transport: %+v", m)
	}
	again.send(1, `"first"`) // as if its answer had been lost: not delivered twice
	again.send(2, `"second"`)
	if m := b.next("signal"); string(m.Data) != `"second"` {
		t.Errorf("after the change of transport: %+v", m)
	}
}

func TestPollIsHeldAndANewerOneTakesOver(t *testing.T) {
	c := startCloud(t, Options{Hold: 10 * time.Second})
	a := newPollClient(t, c, anna, "")
	a.next("welcome")
	began := time.Now()
	if m, code := a.poll(t.Context(), "0.4"); code != http.StatusOK || len(m) != 0 || time.Since(began) < 400*time.Millisecond {
		t.Errorf("an empty poll: %v, %d after %v", m, code, time.Since(began))
	}
	old := make(chan int)
	go func() {
		twin := *a
		m, _ := twin.poll(context.Background(), "10")
		old <- len(m)
	}()
	time.Sleep(100 * time.Millisecond)
	began = time.Now()
	a.poll(t.Context(), "0.1")
	if n := <-old; n != 0 || time.Since(began) > 5*time.Second {
		t.Errorf("the older poll had %d messages and ended after %v", n, time.Since(began))
	}
}

func TestRoomsAreBounded(t *testing.T) {
	c := startCloud(t, Options{Grace: time.Minute})
	for _, id := range []string{anna, berg} {
		w, err := dialSignal(t, c, "id="+id)
		if err != nil {
			t.Fatal(err)
		}
		w.next("welcome")
	}
	third := newPollClient(t, c, carl, "")
	if _, code := third.poll(t.Context(), "0"); code != http.StatusConflict {
		t.Errorf("a third caller over long-poll: %d", code)
	}
	w, err := dialSignal(t, c, "id="+carl)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.ws.Read(t.Context()); websocket.CloseStatus(err) != closeFull {
		t.Errorf("a third caller over WebSocket: %v", err)
	}
	late := newPollClient(t, c, carl, "")
	late.after = 7
	if _, code := late.poll(t.Context(), "0"); code != http.StatusGone {
		t.Errorf("one whom the service has forgotten: %d", code)
	}
	if code := newPollClient(t, c, "short", "").send(1, "1"); code != http.StatusBadRequest {
		t.Errorf("a short id: %d", code)
	}
	if code, _ := post(t, c, "signal/send?room=harbour&id="+anna, strings.Repeat("x", 3*maxMessage)); code != http.StatusBadRequest {
		t.Errorf("a message too long: %d", code)
	}
}

// A caller who reloads the page is let in although it is still counted, and one who is silent is reported lost.
func TestReloadAndGrace(t *testing.T) {
	c := startCloud(t, Options{Grace: 300 * time.Millisecond})
	a, err := dialSignal(t, c, "id="+anna)
	if err != nil {
		t.Fatal(err)
	}
	a.next("welcome")
	b, err := dialSignal(t, c, "id="+berg)
	if err != nil {
		t.Fatal(err)
	}
	b.next("welcome")
	_ = b.ws.CloseNow()
	time.Sleep(50 * time.Millisecond)
	reloaded := newPollClient(t, c, carl, "")
	reloaded.next("welcome")
	if m := a.next("left"); m.Peer.ID != "p2" || m.Reason != "lost" {
		t.Errorf("left: %+v", m)
	}
	a.next("joined")
	if m := a.next("left"); m.Peer.ID != "p3" || m.Reason != "lost" {
		t.Errorf("after the grace: %+v", m)
	}
}

func TestPatientsDoNotSeeEachOther(t *testing.T) {
	c := startCloud(t, Options{})
	first := newPollClient(t, c, anna, "&role=patient&name=Anna")
	if w := first.next("welcome"); len(w.Peers) != 0 {
		t.Errorf("welcome: %+v", w)
	}
	second := newPollClient(t, c, berg, "&role=patient&name=Berg")
	if w := second.next("welcome"); len(w.Peers) != 0 {
		t.Errorf("a patient is shown others: %+v", w)
	}
	desk, err := dialSignal(t, c, "id="+carl+"&role=console")
	if err != nil {
		t.Fatal(err)
	}
	if w := desk.next("welcome"); len(w.Peers) != 2 {
		t.Errorf("the console sees %+v", w.Peers)
	}
	if j := first.next("joined"); j.Peer.Role != roleConsole {
		t.Errorf("joined: %+v", j)
	}
	first.send(1, `"to all I see"`)
	desk.next("signal")
	if m, _ := second.poll(t.Context(), "0.2"); len(m) != 1 || m[0].Type != "joined" {
		t.Errorf("the other patient got %+v", m)
	}
}

func TestWebSocketRefused(t *testing.T) {
	c := startCloud(t, Options{RefuseWebSocket: true})
	if _, err := dialSignal(t, c, "id="+anna); err == nil || !strings.HasPrefix(err.Error(), "403") {
		t.Errorf("dial: %v", err)
	}
	if code, _ := get(t, c.URL()+"signal/ws?room=harbour"); code != http.StatusForbidden {
		t.Errorf("without Upgrade: %d", code)
	}
}

func TestUpgradeStripped(t *testing.T) {
	c := startCloud(t, Options{})
	if code, _ := get(t, c.URL()+"signal/ws?room=harbour"); code != http.StatusUpgradeRequired {
		t.Errorf("a handshake without Upgrade: %d", code)
	}
}

func TestForeignOrigin(t *testing.T) {
	c := startCloud(t, Options{Origins: []string{"gw.hospital.example"}})
	for origin, want := range map[string]bool{"https://gw.hospital.example": true, "https://evil.example": false} {
		url := "ws" + strings.TrimPrefix(c.URL(), "http") + "signal/ws?room=harbour"
		ws, _, err := websocket.Dial(t.Context(), url, &websocket.DialOptions{HTTPHeader: http.Header{"Origin": {origin}}})
		if (err == nil) != want {
			t.Errorf("%s: %v", origin, err)
		}
		if ws != nil {
			_ = ws.CloseNow()
		}
	}
}

// A WebSocket that nothing is said on gets ticks, and is closed when the client does not answer them.
func TestHeartbeat(t *testing.T) {
	c := startCloud(t, Options{Heartbeat: 100 * time.Millisecond})
	a, err := dialSignal(t, c, "id="+anna)
	if err != nil {
		t.Fatal(err)
	}
	a.next("welcome")
	for range 5 {
		a.next("tick")
		a.write(map[string]any{"after": a.after})
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for err = nil; err == nil; {
		_, _, err = a.ws.Read(ctx)
	}
	if ctx.Err() != nil {
		t.Error("a client that answers nothing was kept")
	}
}

// Who comes back hears something at once, also when nothing has happened meanwhile.
func TestComesBack(t *testing.T) {
	c := startCloud(t, Options{Heartbeat: time.Hour})
	a, err := dialSignal(t, c, "id="+anna)
	if err != nil {
		t.Fatal(err)
	}
	a.next("welcome")
	_ = a.ws.CloseNow()
	again, err := dialSignal(t, c, fmt.Sprintf("id=%s&after=%d", anna, a.after))
	if err != nil {
		t.Fatal(err)
	}
	again.after = a.after
	again.next("tick")
}

func TestEcho(t *testing.T) {
	c := startCloud(t, Options{})
	ws, _, err := websocket.Dial(t.Context(), "ws"+strings.TrimPrefix(c.URL(), "http")+"echo", &websocket.DialOptions{
		Subprotocols: []string{"sip"}, CompressionMode: websocket.CompressionNoContextTakeover,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ws.CloseNow() }()
	if ws.Subprotocol() != "sip" {
		t.Errorf("subprotocol %q", ws.Subprotocol())
	}
	text := strings.Repeat("harbour ", 100)
	if err := ws.Write(t.Context(), websocket.MessageText, []byte(text)); err != nil {
		t.Fatal(err)
	}
	if kind, b, err := ws.Read(t.Context()); err != nil || kind != websocket.MessageText || string(b) != text {
		t.Errorf("echo: %v %d bytes %v", kind, len(b), err)
	}
}

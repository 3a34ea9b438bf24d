package life

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

// load is what clients do all the time: WebSockets that say something now and then, held polls, relayed media, and ever new
// connections. Whatever breaks is a drop.
type load struct {
	w       *world
	sockets int
	polls   int
	streams []*stream
	without *stream // one that does without the gateway
	rate    int     // new connections a second

	fresh, polled, said atomic.Int64

	mu     sync.Mutex
	drops  []string
	phases []phase

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// startLoad begins all of it and returns when it stands.
func (w *world) startLoad(sockets, polls, streams, rate int) *load {
	w.t.Helper()
	l := &load{w: w, sockets: sockets, polls: polls, rate: rate}
	l.ctx, l.cancel = context.WithCancel(context.Background())
	peer := echoPeer(w)
	var err error
	if l.without, err = w.control(peer); err != nil {
		w.t.Fatal(err)
	}
	for i := range streams {
		s, err := w.newStream([]string{"tls", "udp"}[i%2], peer)
		if err != nil {
			w.t.Fatal(err)
		}
		l.streams = append(l.streams, s)
	}
	for range sockets {
		ws, err := l.open()
		if err != nil {
			w.t.Fatal(err)
		}
		l.wg.Go(func() { l.chat(ws) })
	}
	for range polls { // one after the other, as people come: not all of them ask again at the same moment
		l.wg.Go(l.poll)
		l.pause(min(15*time.Millisecond, holdFor/time.Duration(polls)))
	}
	if rate > 0 {
		l.wg.Go(l.knock)
	}
	return l
}

func (l *load) client() *http.Client {
	return &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialTLSContext:    func(context.Context, string, string) (net.Conn, error) { return l.w.dial(callName) },
	}}
}

func (l *load) open() (*websocket.Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, 20*time.Second)
	defer cancel()
	ws, _, err := websocket.Dial(ctx, "wss://"+callName+"/echo", &websocket.DialOptions{HTTPClient: l.client()})
	return ws, err
}

func (l *load) drop(what string, err error) {
	if l.ctx.Err() != nil {
		return // the end
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.drops = append(l.drops, fmt.Sprintf("%s %s: %v", time.Now().Format("05.000"), what, err))
}

// chat says something every second and wants it back.
func (l *load) chat(ws *websocket.Conn) {
	defer func() { _ = ws.CloseNow() }()
	for i := 0; l.ctx.Err() == nil; i++ {
		text := fmt.Sprint("message ", i)
		ctx, cancel := context.WithTimeout(l.ctx, 20*time.Second)
		err := ws.Write(ctx, websocket.MessageText, []byte(text))
		if err == nil {
			var back []byte
			if _, back, err = ws.Read(ctx); err == nil && string(back) != text {
				err = fmt.Errorf("%q came back", back)
			}
		}
		cancel()
		if err != nil {
			l.drop("WebSocket", err)
			return
		}
		l.said.Add(1)
		l.pause(time.Second)
	}
}

func (l *load) pause(d time.Duration) {
	select {
	case <-time.After(d):
	case <-l.ctx.Done():
	}
}

// holdFor is how long a poll is held.
const holdFor = 3 * time.Second

// poll has requests held, one after the other.
func (l *load) poll() {
	for l.ctx.Err() == nil {
		if err := l.ask(fmt.Sprintf("https://%s/hold?s=%.0f", callName, holdFor.Seconds())); err != nil {
			l.drop("long-poll", err)
			return
		}
		l.polled.Add(1)
	}
}

func (l *load) ask(url string) error {
	ctx, cancel := context.WithTimeout(l.ctx, 60*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := l.client().Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, resp.Body); err != nil {
		return err
	}
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	return nil
}

// knock makes new connections, at a rate that does not wait for them.
func (l *load) knock() {
	tick := time.NewTicker(time.Second / time.Duration(l.rate))
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.wg.Go(func() {
				if err := l.visit(); err != nil {
					l.drop("new connection", err)
					return
				}
				l.fresh.Add(1)
			})
		case <-l.ctx.Done():
			return
		}
	}
}

// visit asks for two things on one connection, which is what a browser does.
func (l *load) visit() error {
	conn, err := l.w.dial(ownName)
	if err != nil {
		return err
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	br := bufio.NewReader(conn)
	for range 2 {
		if _, err := fmt.Fprintf(conn, "GET /livez HTTP/1.1\r\nHost: %s\r\n\r\n", ownName); err != nil {
			return err
		}
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		if resp.StatusCode != http.StatusOK {
			return errors.New(resp.Status)
		}
		if resp.Close {
			return nil
		}
	}
	return nil
}

// end stops all of it, and tells what went wrong: drops, and gaps in media longer than most.
func (l *load) end(most time.Duration) {
	l.w.t.Helper()
	var sent, received int64
	longest := map[string]time.Duration{}
	var silent []silence
	for _, s := range l.streams {
		silent = append(append(silent, s.quiet.list()...), s.sinceLast())
		if err := s.ended.Load(); err != nil {
			l.drop("stream "+s.via, *err)
		}
		sent, received = sent+s.sent.Load(), received+s.received.Load()
		longest[s.via] = max(longest[s.via], s.gap())
	}
	l.mu.Lock()
	drops := l.drops
	l.mu.Unlock()
	l.cancel()
	l.without.close()
	for _, s := range l.streams {
		s.giveBack()
	}
	l.wg.Wait()
	l.w.t.Logf("%d WebSockets with %d messages, %d long-polls at a time with %d answers, %d streams with %d packets out and %d back, %d new connections",
		l.sockets, l.said.Load(), l.polls, l.polled.Load(), len(l.streams), sent, received, l.fresh.Load())
	own := l.judge(silent)
	rounded := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	l.w.t.Logf("%d drops; longest gap: TLS %s, UDP %s, a stream without the gateway %s; the gateway's own: TLS %s, UDP %s", len(drops),
		rounded(longest["tls"]), rounded(longest["udp"]), rounded(l.without.gap()), rounded(own["tls"]), rounded(own["udp"]))
	for i, d := range drops {
		if i == 20 {
			l.w.t.Errorf("and %d more", len(drops)-20)
			break
		}
		l.w.t.Error(d)
	}
	for via, gap := range own {
		if most > 0 && gap > most {
			l.w.t.Errorf("%s: a gap of %s", via, gap)
		}
	}
	if len(drops) > 0 && os.Getenv("LIFE_LOG") != "" {
		l.w.t.Log(l.w.log)
	}
}

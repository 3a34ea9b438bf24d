package certs

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	// outletConns bounds what one client, certmagic, needs few of.
	outletConns = 32
	// outletHead is the time for a CONNECT.
	outletHead = 10 * time.Second
	// outletLife ends a connection to the authority that certmagic keeps.
	outletLife = 10 * time.Minute
)

// outlet is certmagic's only way out. certmagic dials by itself, with the system's resolver and past every policy; what can be set is the
// proxy of its HTTP client. So it gets one on loopback, which takes CONNECT from whoever knows the key, and dials as all of the gateway does:
// `hosts`, `dns`, `egress` and the address policy hold for the authority too.
//
// Its port is also the one that certmagic is told to answer challenges on: it can't be told not to listen, but is content to find the port
// taken, and then trusts whoever has it to ask GetCertificate, which is what the mux does.
type outlet struct {
	net.Listener
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	user *url.Userinfo

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	room   chan struct{}
	wg     sync.WaitGroup
}

func newOutlet(dial func(ctx context.Context, network, addr string) (net.Conn, error)) (*outlet, error) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &outlet{Listener: ln, dial: dial, user: url.UserPassword("acme", rand.Text()), room: make(chan struct{}, outletConns)}
	o.ctx, o.cancel = context.WithCancel(context.Background())
	o.wg.Go(o.serve)
	return o, nil
}

// proxy is certmagic's HTTPProxy.
func (o *outlet) proxy(*http.Request) (*url.URL, error) {
	return &url.URL{Scheme: "http", Host: o.Addr().String(), User: o.user}, nil
}

// Close ends every connection and waits for their goroutines.
func (o *outlet) Close() error {
	o.cancel()
	err := o.Listener.Close()
	o.wg.Wait()
	return err
}

func (o *outlet) serve() {
	for {
		c, err := o.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			time.Sleep(time.Second) // too many open files; an order waits
			continue
		}
		select {
		case o.room <- struct{}{}:
			o.wg.Go(func() {
				defer func() { <-o.room }()
				o.take(c)
			})
		default:
			_ = c.Close()
		}
	}
}

// take carries one connection; whatever asks for anything but its own CONNECT is closed without a word.
func (o *outlet) take(c net.Conn) {
	defer func() { _ = c.Close() }()
	stop := context.AfterFunc(o.ctx, func() { _ = c.Close() })
	defer stop()
	_ = c.SetDeadline(time.Now().Add(outletHead))
	r, err := http.ReadRequest(bufio.NewReaderSize(io.LimitReader(c, 8<<10), 4<<10)) // the client says no more before it is answered
	if err != nil || r.Method != http.MethodConnect || !o.knows(r.Header.Get("Proxy-Authorization")) {
		return
	}
	_ = c.SetDeadline(time.Now().Add(outletLife))
	there, err := o.dial(o.ctx, "tcp", r.Host)
	if err != nil {
		// net/http makes an error of the words behind the code.
		_, _ = fmt.Fprintf(c, "HTTP/1.1 502 %s\r\n\r\n", strings.Join(strings.Fields(err.Error()), " "))
		return
	}
	defer func() { _ = there.Close() }()
	_ = there.SetDeadline(time.Now().Add(outletLife))
	if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
		return
	}
	pass(c, there)
}

func (o *outlet) knows(authorization string) bool {
	want := "Basic " + base64.StdEncoding.EncodeToString([]byte(o.user.String()))
	return subtle.ConstantTimeCompare([]byte(authorization), []byte(want)) == 1
}

// pass copies both ways until one of them has ended, and then ends both.
func pass(a, b net.Conn) {
	var both sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		both.Go(func() {
			_, _ = io.Copy(way[0], way[1])
			_, _ = a.Close(), b.Close()
		})
	}
	both.Wait()
}

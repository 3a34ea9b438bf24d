package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// dialer opens one connection through a proxy, to the point where bytes come back.
type dialer func(ctx context.Context) (net.Conn, error)

// secure opens a TLS connection. Sessions are not resumed, so that every handshake is a whole one.
func (w *world) secure(ctx context.Context, addr, name string) (net.Conn, error) {
	raw, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	config := &tls.Config{
		RootCAs: w.roots, ServerName: name, MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}, SessionTicketsDisabled: true,
		CurvePreferences: []tls.CurveID{tls.X25519}, // Debian's OpenSSL knows no key exchange that withstands quantum computers; it would cost the gateway alone
	}
	if name == passName {
		config.InsecureSkipVerify = true // its certificate is for the others
		config.NextProtos = nil
	}
	conn := tls.Client(raw, config)
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		return nil, err
	}
	_ = conn.SetDeadline(time.Time{})
	return conn, nil
}

// asking opens a connection and makes a request of it whose answer has a head alone, or none yet.
func (w *world) asking(addr, name, request, answer string) dialer {
	return func(ctx context.Context) (net.Conn, error) {
		conn, err := w.secure(ctx, addr, name)
		if err != nil {
			return nil, err
		}
		if _, err = io.WriteString(conn, request); err == nil && answer != "" {
			err = expectHead(conn, answer)
		}
		if err != nil {
			_ = conn.Close()
			return nil, err
		}
		return conn, nil
	}
}

// expectHead reads the head of an answer, byte for byte, for what is behind it belongs to others.
func expectHead(conn net.Conn, answer string) error {
	_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
	defer func() { _ = conn.SetReadDeadline(time.Time{}) }()
	var head strings.Builder
	b := make([]byte, 1)
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		if _, err := io.ReadFull(conn, b); err != nil {
			return err
		}
		head.Write(b)
		if head.Len() > 8<<10 {
			return errors.New("the answer's head is too long")
		}
	}
	if !strings.HasPrefix(head.String(), "HTTP/1.1 "+answer) {
		return fmt.Errorf("answered %.60q", head.String())
	}
	return nil
}

func (w *world) webSocket(addr string) dialer {
	return w.asking(addr, callName, "GET /ws HTTP/1.1\r\nHost: "+callName+"\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"+
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", "101")
}

func (w *world) poll(addr string) dialer {
	return w.asking(addr, callName, "GET /poll HTTP/1.1\r\nHost: "+callName+"\r\n\r\n", "")
}

func (w *world) tunnel(addr string) dialer {
	target := echoName + ":443"
	return w.asking(addr, gatewayName, "CONNECT "+target+" HTTP/1.1\r\nHost: "+target+"\r\n\r\n", "200")
}

// passed is TLS that the gateway does not read, to the server behind it.
func (w *world) passed(addr string) dialer {
	return func(ctx context.Context) (net.Conn, error) { return w.secure(ctx, addr, passName) }
}

// crowd is many connections of a kind.
type crowd []net.Conn

// gather opens n connections, a few at a time.
func gather(ctx context.Context, n int, dial dialer) (crowd, error) {
	conns := make(crowd, n)
	var next atomic.Int64
	var failed error
	var once sync.Once
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				conn, err := dial(ctx)
				if err != nil {
					once.Do(func() { failed = fmt.Errorf("connection %d: %w", i, err) })
					next.Store(int64(n))
					return
				}
				conns[i] = conn
			}
		})
	}
	wg.Wait()
	if failed != nil {
		conns.close()
		return nil, failed
	}
	return conns, nil
}

func (c crowd) close() {
	for _, conn := range c {
		if conn != nil {
			_ = conn.Close()
		}
	}
}

// messageSize is what one message has.
const messageSize = 100

// touch sends one message there and back on each.
func (c crowd) touch() error {
	buf := make([]byte, messageSize)
	for _, conn := range c {
		if err := bounce(conn, buf); err != nil {
			return err
		}
	}
	return nil
}

func bounce(conn net.Conn, buf []byte) error {
	if _, err := conn.Write(buf); err != nil {
		return err
	}
	_, err := io.ReadFull(conn, buf)
	return err
}

// talk sends messages on all connections at a rate for a while and tells how long each took. A connection that is late skips none: it sends
// the next one at once.
func (c crowd) talk(rate int, d time.Duration) ([]time.Duration, error) {
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	began := time.Now()
	every := time.Second / time.Duration(rate)
	for i, conn := range c {
		wg.Go(func() {
			buf := make([]byte, messageSize)
			var took []time.Duration
			var err error
			for at := began.Add(every * time.Duration(i) / time.Duration(len(c))); at.Sub(began) < d && err == nil; at = at.Add(every) {
				time.Sleep(time.Until(at))
				sent := time.Now()
				err = bounce(conn, buf)
				took = append(took, time.Since(sent))
			}
			mu.Lock()
			defer mu.Unlock()
			all = append(all, took...)
			failed = errors.Join(failed, err)
		})
	}
	wg.Wait()
	slices.Sort(all)
	return all, failed
}

// bulk sends as much as comes back for a while, with a window of bytes under way on each, and tells how many bytes went there and back.
func (c crowd) bulk(d time.Duration, window int) (int64, error) {
	var total atomic.Int64
	var failed error
	var mu sync.Mutex
	var wg sync.WaitGroup
	fail := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		failed = errors.Join(failed, err)
	}
	for _, conn := range c {
		credit := make(chan int, window/(16<<10))
		for range cap(credit) {
			credit <- 16 << 10
		}
		until := time.Now().Add(d)
		var sent atomic.Int64
		stopped := make(chan struct{})
		wg.Go(func() {
			buf := make([]byte, 16<<10)
			for more := true; more; {
				<-credit
				sent.Add(int64(len(buf)))
				if more = time.Now().Before(until); !more {
					close(stopped) // before the last piece: its echo wakes the reader, who then knows the sum
				}
				if _, err := conn.Write(buf); err != nil {
					fail(err)
					if more {
						close(stopped)
					}
					return
				}
			}
		})
		wg.Go(func() {
			buf := make([]byte, 64<<10)
			got, due := int64(0), int64(0)
			for {
				select {
				case <-stopped:
					if got == sent.Load() {
						total.Add(got)
						return
					}
				default:
				}
				_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
				n, err := conn.Read(buf)
				got, due = got+int64(n), due+int64(n)
				for ; due >= 16<<10; due -= 16 << 10 {
					select {
					case credit <- 16 << 10:
					case <-stopped:
					}
				}
				if err != nil {
					fail(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return total.Load(), failed
}

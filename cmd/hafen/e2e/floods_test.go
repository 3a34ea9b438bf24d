package e2e

import (
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// floods is make floods: what an attacker inside the client networks can pour on the gateway, beside a call that is under way.
var floods = flag.Bool("floods", false, "pour floods on the gateway beside a live call and print what each did to it")

// pouring is one way of pouring. attempts counts what was asked; pour returns when it has asked for all of it or ctx ends.
type pouring struct {
	name string
	pour func(ctx context.Context, attempts *atomic.Int64)
}

// TestFloods prints a line a flood: what was asked, what it did to a call beside it, and the memory that the program held at most.
func TestFloods(t *testing.T) {
	if !*floods {
		t.Skip("only with -floods: make floods")
	}
	a := newAbuse(t, func(cfg string) string {
		return strings.Replace(cfg, "level: debug", "level: info", 1) + "limits: {allocations_per_client: 200}\n"
	})
	base := a.load()
	quiet := a.beside(t, pouring{"nothing", func(ctx context.Context, _ *atomic.Int64) {
		select {
		case <-ctx.Done():
		case <-time.After(5 * time.Second):
		}
	}})
	fmt.Println(quiet)
	for _, f := range []pouring{
		{"2,000 silent connections", a.pourSilence},
		{"slow TLS handshakes", a.pourSlowHandshakes},
		{"connections that come and go", a.pourChurn},
		{"100,000 Allocates over UDP, unsigned", a.pourUDPAllocates},
		{"100,000 Allocates over TLS, unsigned", a.pourTLSAllocates},
		{"allocations at the limit", a.pourAllocations},
		{"HTTP/2 rapid reset", a.pourResets},
		{"HTTP/2 CONTINUATION", a.pourContinuations},
	} {
		line := a.beside(t, f)
		fmt.Printf("%v, p95 %+.1f ms\n", line, float64(line.p95-quiet.p95)/1e6)
		if line.lost*1000 > line.sent {
			t.Errorf("%s: the call lost %d of %d packets", f.name, line.lost, line.sent)
		}
		a.alive(t)
	}
	a.backTo(t, base, time.Minute)
	a.idle(t)
}

// besideFlood is what a flood did.
type besideFlood struct {
	name       string
	attempts   int64
	took       time.Duration
	sent, lost int
	p50, p95   time.Duration
	memory     float64
	processor  float64
}

func (b besideFlood) String() string {
	return fmt.Sprintf("%-38s %7d asked in %5.1f s; call: %4d packets, %d lost, p50 %5.1f ms, p95 %5.1f ms; at most %5.1f MiB, %5.2f s of processor",
		b.name, b.attempts, b.took.Seconds(), b.sent, b.lost, float64(b.p50)/1e6, float64(b.p95)/1e6, b.memory/(1<<20), b.processor)
}

// beside runs a flood while a call goes on, for at least five seconds and at most a minute.
func (a *abuse) beside(t *testing.T, f pouring) besideFlood {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	call := a.startCall(t)
	before, began := a.load(), time.Now()
	var attempts atomic.Int64
	poured := make(chan struct{})
	go func() { defer close(poured); f.pour(ctx, &attempts) }()
	most := before.memory
	tick := time.NewTicker(250 * time.Millisecond)
	defer tick.Stop()
	for over := false; !over || time.Since(began) < 5*time.Second; {
		select {
		case <-poured:
			over, poured = true, nil
		case <-tick.C:
			most = max(most, a.load().memory)
		}
	}
	line := besideFlood{name: f.name, attempts: attempts.Load(), took: time.Since(began), memory: most, processor: a.load().processor - before.processor}
	call.stop()
	<-call.done
	if call.back == 0 {
		t.Fatalf("%s: none of the call's %d packets came back", f.name, call.sent)
	}
	slices.Sort(call.delays)
	line.sent, line.lost = call.sent, call.sent-call.back
	line.p50, line.p95 = call.delays[len(call.delays)/2], call.delays[len(call.delays)*95/100]
	return line
}

// dialFrom connects from one of the office's addresses that the call does not use.
func (a *abuse) dialFrom(network string, host int) (conn net.Conn, err error) {
	local := net.IPv4(10, 30, 0, byte(3+host%12))
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: local}}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: local}
	}
	failed := a.inside.do(func() error { conn, err = d.Dial(network, gatewayAddr+":443"); return err })
	return conn, failed
}

// each runs n workers, and waits for them.
func each(n int, work func(i int)) {
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { work(i) })
	}
	wg.Wait()
}

// hold opens connections, has each say something, and keeps them until the program has closed them or ctx ends.
func (a *abuse) hold(ctx context.Context, n int, attempts *atomic.Int64, say func(i int, conn net.Conn)) {
	each(n, func(i int) {
		conn, err := a.dialFrom("tcp", i)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		attempts.Add(1)
		say(i, conn)
		until := time.Now().Add(12 * time.Second)
		if end, ok := ctx.Deadline(); ok && end.Before(until) {
			until = end
		}
		_ = conn.SetReadDeadline(until)
		_, _ = io.Copy(io.Discard, conn)
	})
}

func (a *abuse) pourSilence(ctx context.Context, attempts *atomic.Int64) {
	a.hold(ctx, 2000, attempts, func(int, net.Conn) {})
}

func (a *abuse) pourSlowHandshakes(ctx context.Context, attempts *atomic.Int64) {
	hello := clientHello(a.t, gatewayName)
	a.hold(ctx, 1000, attempts, func(_ int, conn net.Conn) {
		for at := 0; at < len(hello) && ctx.Err() == nil; at += 40 {
			if _, err := conn.Write(hello[at:min(at+40, len(hello))]); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
}

func (a *abuse) pourChurn(ctx context.Context, attempts *atomic.Int64) {
	until := time.Now().Add(10 * time.Second)
	each(8, func(i int) {
		for ctx.Err() == nil && time.Now().Before(until) {
			if conn, err := a.dialFrom("tcp", i); err == nil {
				attempts.Add(1)
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

func (a *abuse) pourUDPAllocates(ctx context.Context, attempts *atomic.Int64) {
	each(100, func(i int) {
		conn, err := a.dialFrom("udp", i)
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		for n := range 1000 {
			if ctx.Err() != nil {
				return
			}
			_, _ = conn.Write(stunMessage(typeAllocate, udpTransport))
			attempts.Add(1)
			if n%10 == 9 {
				time.Sleep(50 * time.Millisecond)
			}
		}
	})
}

func (a *abuse) pourTLSAllocates(ctx context.Context, attempts *atomic.Int64) {
	each(100, func(i int) {
		for n := 0; n < 1000 && ctx.Err() == nil; {
			conn, err := a.dialFrom("tcp", i)
			if err != nil {
				return
			}
			n += a.allocateUntilClosed(ctx, tlsOver(conn), 1000-n, attempts)
		}
	})
}

// allocateUntilClosed sends unsigned Allocates until it has sent n, or the connection is closed.
func (a *abuse) allocateUntilClosed(ctx context.Context, conn net.Conn, n int, attempts *atomic.Int64) (sent int) {
	defer func() { _ = conn.Close() }()
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	_ = conn.SetWriteDeadline(time.Now().Add(30 * time.Second))
	for sent = 0; sent < n && ctx.Err() == nil; sent++ {
		if _, err := conn.Write(stunMessage(typeAllocate, udpTransport)); err != nil {
			return max(sent, 1)
		}
		attempts.Add(1)
		if sent%10 == 9 {
			time.Sleep(50 * time.Millisecond)
		}
	}
	return sent
}

// pourAllocations wins allocations and asks for more than a client may have, again and again.
func (a *abuse) pourAllocations(ctx context.Context, attempts *atomic.Int64) {
	until := time.Now().Add(15 * time.Second)
	each(40, func(int) {
		var held []net.Conn
		for ctx.Err() == nil && time.Now().Before(until) {
			conn, err := a.dialFrom("tcp", 0)
			if err != nil {
				break
			}
			held = append(held, conn)
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			attempts.Add(1)
			_, _ = newTURN(conn, false).allocate()
			if len(held) == 10 {
				closeThem(held)
				held = nil
			}
			time.Sleep(20 * time.Millisecond)
		}
		closeThem(held)
	})
}

func closeThem(conns []net.Conn) {
	for _, c := range conns {
		_ = c.Close()
	}
}

func (a *abuse) pourResets(ctx context.Context, attempts *atomic.Int64) {
	head := h2Head(":method", "GET", ":scheme", "https", ":authority", "good."+sigSuffix, ":path", "/")
	a.pourH2(ctx, attempts, func(f *http2.Framer, i uint32) error {
		_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, EndStream: true, BlockFragment: head})
		return f.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
	})
}

func (a *abuse) pourContinuations(ctx context.Context, attempts *atomic.Int64) {
	more := h2Head("x-a", strings.Repeat("b", 1000))
	a.pourH2(ctx, attempts, func(f *http2.Framer, i uint32) error {
		if i == 0 {
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: more})
		}
		return f.WriteContinuation(1, false, more)
	})
}

// pourH2 floods four connections at 10,000 frames a second together, opening another when one is closed.
func (a *abuse) pourH2(ctx context.Context, attempts *atomic.Int64, write func(*http2.Framer, uint32) error) {
	until := time.Now().Add(10 * time.Second)
	each(4, func(i int) {
		for ctx.Err() == nil && time.Now().Before(until) {
			raw, err := a.dialFrom("tcp", i)
			if err != nil {
				return
			}
			conn := tlsOver(raw, "h2")
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_ = conn.SetWriteDeadline(until)
			f := h2Start(conn)
			for n := uint32(0); time.Now().Before(until) && write(f, n) == nil; n++ {
				attempts.Add(1)
				if n%25 == 24 {
					time.Sleep(10 * time.Millisecond)
				}
			}
			_ = conn.Close()
		}
	})
	if _, status := get(a.inside, "https://"+gatewayAddr+"/livez", gatewayName); status != http.StatusOK {
		a.t.Errorf("/livez answers %d", status)
	}
}

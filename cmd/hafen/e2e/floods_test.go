package e2e

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
)

// floods is make floods: what an attacker inside the client networks can pour on the gateway, beside a call that is under way.
var floods = flag.Bool("floods", false, "pour floods on the gateway beside a live call and print what each did to it")

var floodNamed = flag.String("flood", "", "only floods whose names contain this")

// pouring is one way of pouring. attempts counts what was asked; pour returns when it has asked for all of it or ctx ends.
type pouring struct {
	name string
	pour func(f attacker, ctx context.Context, attempts *atomic.Int64)
}

var pourings = []pouring{
	{"nothing", attacker.pourNothing},
	{"2,000 silent connections", attacker.pourSilence},
	{"slow TLS handshakes", attacker.pourSlowHandshakes},
	{"connections that come and go", attacker.pourChurn},
	{"100,000 Allocates over UDP, unsigned", attacker.pourUDPAllocates},
	{"100,000 Allocates over TLS, unsigned", attacker.pourTLSAllocates},
	{"HTTP/2 CONTINUATION", attacker.pourContinuations},
	{"HTTP/2 rapid reset", attacker.pourResets},            // afterwards these clients do without HTTP/2 for a minute
	{"allocations at the limit", attacker.pourAllocations}, // the last: the region's ports are scarce for a while
}

// attacker is a process of its own inside the office, which gets the processor when nobody else wants it. On a machine of its
// own it would take nothing from the gateway and the call either.
type attacker struct{ t *testing.T }

var pour = flag.Int("pour", -1, "pour the flood of this number: TestFloods starts such processes")

// TestPour is the process of a flood.
func TestPour(t *testing.T) {
	if *pour < 0 {
		t.Skip("TestFloods starts it")
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var attempts atomic.Int64
	pourings[*pour].pour(attacker{t}, ctx, &attempts)
	fmt.Printf("poured %d\n", attempts.Load())
}

func (attacker) pourNothing(ctx context.Context, _ *atomic.Int64) {
	select {
	case <-ctx.Done():
	case <-time.After(5 * time.Second):
	}
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
	var quiet besideFlood
	for i, f := range pourings {
		if i > 0 && !strings.Contains(f.name, *floodNamed) {
			continue
		}
		line := a.beside(t, i)
		if i == 0 {
			quiet = line
		}
		fmt.Printf("%v, p95 %+.1f ms (%+.1f there and back); pages and tunnels p95 %.1f ms, %.1f times\n", line, float64(line.p95-quiet.p95)/1e6, float64(line.trip-quiet.trip)/1e6,
			float64(line.page)/1e6, float64(line.page)/float64(quiet.page))
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
	p50, p95   time.Duration // of the delay, one way
	trip       time.Duration // the 95th percentile of the way there and back
	page       time.Duration // the 95th percentile of pages and tunnels beside (E-09)
	memory     float64
	processor  float64
}

func (b besideFlood) String() string {
	return fmt.Sprintf("%-38s %7d asked in %5.1f s; call: %4d packets, %d lost, p50 %5.1f ms, p95 %5.1f ms, %5.1f ms there and back; at most %5.1f MiB, %5.2f s of processor",
		b.name, b.attempts, b.took.Seconds(), b.sent, b.lost, float64(b.p50)/1e6, float64(b.p95)/1e6, float64(b.trip)/1e6, b.memory/(1<<20), b.processor)
}

// beside runs a flood while a call goes on, for at least five seconds and at most a minute.
func (a *abuse) beside(t *testing.T, number int) besideFlood {
	t.Helper()
	f := pourings[number]
	self, err := os.Executable()
	must(t, err)
	call, readers := a.startCall(t), a.startReading(t)
	before, began := a.load(), time.Now()
	process := a.inside.startEnv(t, f.name, []string{binaryVariable + "=" + hafenBinary}, "nice", "-n", "19", self,
		"-test.run", "^TestPour$", "-test.v", "-pour", fmt.Sprint(number))
	poured := process.done
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
	var attempts int64
	if at := strings.Index(process.out.String(), "poured "); at < 0 || process.err != nil {
		t.Fatalf("%s: %v\n%s", f.name, process.err, process.out)
	} else if _, err := fmt.Sscanf(process.out.String()[at:], "poured %d", &attempts); err != nil {
		t.Fatal(err)
	}
	line := besideFlood{name: f.name, attempts: attempts, took: time.Since(began), memory: most, processor: a.load().processor - before.processor}
	line.page = percentile(readers.end(t), 95)
	call.stop()
	<-call.done
	if call.back == 0 {
		t.Fatalf("%s: none of the call's %d packets came back", f.name, call.sent)
	}
	line.sent, line.lost = call.sent, call.sent-call.back
	line.p50, line.p95, line.trip = percentile(call.delays, 50), percentile(call.delays, 95), percentile(call.trips, 95)
	return line
}

// reading is somebody beside a flood who asks for pages and for tunnels, each on a connection of its own.
type reading struct {
	stop, done chan struct{}
	took       []time.Duration
	failed     []string
}

func (a *abuse) startReading(t *testing.T) *reading {
	r := &reading{stop: make(chan struct{}), done: make(chan struct{})}
	go func() {
		defer close(r.done)
		for i := 0; ; i++ {
			select {
			case <-r.stop:
				return
			case <-time.After(50 * time.Millisecond):
			}
			began := time.Now()
			if said, err := a.askOnce(pageAndTunnel[i%2]); err != nil || code(said) != "200" {
				r.failed = append(r.failed, fmt.Sprintf("%.60q %v", said, err))
			}
			r.took = append(r.took, time.Since(began))
		}
	}()
	return r
}

// pageAndTunnel are what others want of the gateway.
var pageAndTunnel = [2]string{
	"GET /livez HTTP/1.1\r\nHost: " + gatewayName + "\r\nConnection: close\r\n\r\n",
	"CONNECT good." + passSuffix + ":443 HTTP/1.1\r\nHost: good." + passSuffix + ":443\r\n\r\n",
}

// askOnce says something on a new TLS connection and returns what comes first.
func (a *abuse) askOnce(request string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	raw, err := a.inside.dial(ctx, "tcp", gatewayAddr+":443")
	if err != nil {
		return "", err
	}
	defer func() { _ = raw.Close() }()
	_ = raw.SetDeadline(time.Now().Add(10 * time.Second))
	conn := tls.Client(raw, &tls.Config{ServerName: gatewayName, InsecureSkipVerify: true})
	if _, err := io.WriteString(conn, request); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	n, err := conn.Read(buf)
	if n > 0 {
		err = nil
	}
	return string(buf[:n]), err
}

func (r *reading) end(t *testing.T) []time.Duration {
	t.Helper()
	close(r.stop)
	<-r.done
	if len(r.failed) > 0 || len(r.took) < 20 {
		t.Errorf("%d of %d pages and tunnels failed: %v", len(r.failed), len(r.took), r.failed)
	}
	return r.took
}

// dialFrom connects from one of the office's addresses that the call does not use.
func (attacker) dialFrom(network string, host int) (net.Conn, error) {
	local := net.IPv4(10, 30, 0, byte(3+host%12))
	d := net.Dialer{Timeout: 5 * time.Second, LocalAddr: &net.TCPAddr{IP: local}}
	if network == "udp" {
		d.LocalAddr = &net.UDPAddr{IP: local}
	}
	return d.Dial(network, gatewayAddr+":443")
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
func (f attacker) hold(ctx context.Context, n int, attempts *atomic.Int64, say func(i int, conn net.Conn)) {
	each(n, func(i int) {
		conn, err := f.dialFrom("tcp", i)
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

func (f attacker) pourSilence(ctx context.Context, attempts *atomic.Int64) {
	f.hold(ctx, 2000, attempts, func(int, net.Conn) {})
}

func (f attacker) pourSlowHandshakes(ctx context.Context, attempts *atomic.Int64) {
	hello := clientHello(f.t, gatewayName)
	f.hold(ctx, 1000, attempts, func(_ int, conn net.Conn) {
		for at := 0; at < len(hello) && ctx.Err() == nil; at += 40 {
			if _, err := conn.Write(hello[at:min(at+40, len(hello))]); err != nil {
				return
			}
			time.Sleep(200 * time.Millisecond)
		}
	})
}

func (f attacker) pourChurn(ctx context.Context, attempts *atomic.Int64) {
	until := time.Now().Add(10 * time.Second)
	each(8, func(i int) {
		for ctx.Err() == nil && time.Now().Before(until) {
			if conn, err := f.dialFrom("tcp", i); err == nil {
				attempts.Add(1)
				_ = conn.(*net.TCPConn).SetLinger(0)
				_ = conn.Close()
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

func (f attacker) pourUDPAllocates(ctx context.Context, attempts *atomic.Int64) {
	each(100, func(i int) {
		conn, err := f.dialFrom("udp", i)
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

func (f attacker) pourTLSAllocates(ctx context.Context, attempts *atomic.Int64) {
	each(100, func(i int) {
		for n := 0; n < 1000 && ctx.Err() == nil; {
			conn, err := f.dialFrom("tcp", i)
			if err != nil {
				return
			}
			n += f.allocateUntilClosed(ctx, tlsOver(conn), 1000-n, attempts)
		}
	})
}

// allocateUntilClosed sends unsigned Allocates until it has sent n, or the connection is closed.
func (f attacker) allocateUntilClosed(ctx context.Context, conn net.Conn, n int, attempts *atomic.Int64) (sent int) {
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
func (f attacker) pourAllocations(ctx context.Context, attempts *atomic.Int64) {
	until := time.Now().Add(15 * time.Second)
	each(40, func(int) {
		var held []net.Conn
		for ctx.Err() == nil && time.Now().Before(until) {
			conn, err := f.dialFrom("tcp", 0)
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

func (f attacker) pourResets(ctx context.Context, attempts *atomic.Int64) {
	head := h2Head(":method", "GET", ":scheme", "https", ":authority", "good."+sigSuffix, ":path", "/")
	f.pourH2(ctx, attempts, func(to *http2.Framer, i uint32) error {
		_ = to.WriteHeaders(http2.HeadersFrameParam{StreamID: 2*i + 1, EndHeaders: true, EndStream: true, BlockFragment: head})
		return to.WriteRSTStream(2*i+1, http2.ErrCodeCancel)
	})
}

func (f attacker) pourContinuations(ctx context.Context, attempts *atomic.Int64) {
	more := h2Head("x-a", strings.Repeat("b", 1000))
	f.pourH2(ctx, attempts, func(to *http2.Framer, i uint32) error {
		if i == 0 {
			return to.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: more})
		}
		return to.WriteContinuation(1, false, more)
	})
}

// pourH2 floods four connections at 10,000 frames a second together, opening another when one is closed.
func (f attacker) pourH2(ctx context.Context, attempts *atomic.Int64, write func(*http2.Framer, uint32) error) {
	until := time.Now().Add(10 * time.Second)
	each(4, func(i int) {
		for ctx.Err() == nil && time.Now().Before(until) {
			raw, err := f.dialFrom("tcp", i)
			if err != nil {
				return
			}
			conn := tlsOver(raw, "h2")
			go func() { _, _ = io.Copy(io.Discard, conn) }()
			_ = conn.SetWriteDeadline(until)
			to := h2Start(conn)
			for n := uint32(0); time.Now().Before(until) && write(to, n) == nil; n++ {
				attempts.Add(1)
				if n%25 == 24 {
					time.Sleep(10 * time.Millisecond)
				}
			}
			_ = conn.Close()
		}
	})
}

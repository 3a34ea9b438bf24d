package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/turn/v4"
)

// caller is one end of a call without a browser: an allocation that pion's client has won through the gateway.
type caller struct {
	client *turn.Client
	relay  net.PacketConn
	ended  chan struct{} // closed when the gateway ends the connection, or we do
	once   sync.Once
	closed time.Time // when it ended

	relayed atomic.Pointer[net.PacketConn] // relay, for whoever ends the caller

	got   atomic.Int64 // packets of the other end
	last  atomic.Int64 // when the newest came, Unix nanoseconds
	worst atomic.Int64 // the longest wait between two, nanoseconds
}

// turnConn tells when the connection beneath the client ends.
type turnConn struct {
	net.PacketConn
	ended func()
}

func (c *turnConn) ReadFrom(p []byte) (int, net.Addr, error) {
	n, addr, err := c.PacketConn.ReadFrom(p)
	if err != nil {
		c.ended()
	}
	return n, addr, err
}

// newCaller allocates through the gateway from inside an office, over tls, tcp or udp.
func (l *laboratory) newCaller(ctx context.Context, office *namespace, via, gateway string) (*caller, error) {
	c := &caller{ended: make(chan struct{})}
	conn, err := l.knock(ctx, office, via, gateway)
	if err != nil {
		return nil, err
	}
	username, password, err := turn.GenerateLongTermTURNRESTCredentials(relaySecret, "tester", time.Hour)
	if err != nil {
		return nil, err
	}
	secrets.Add("a TURN password", password)
	quiet := logging.NewDefaultLoggerFactory()
	quiet.DefaultLogLevel = logging.LogLevelDisabled
	server := hostPort(gateway, 443)
	if via != "udp" {
		server = "192.0.2.1:443" // not looked at over a stream, but it has to be IPv4
	}
	c.client, err = turn.NewClient(&turn.ClientConfig{
		TURNServerAddr: server, Username: username, Password: password, Conn: &turnConn{conn, c.end}, LoggerFactory: quiet,
	})
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	// A client that waits for an answer does not hear that its connection is gone.
	go func() {
		<-c.ended
		if relay := c.relayed.Load(); relay != nil {
			_ = (*relay).Close()
		}
		c.client.Close()
		_ = conn.Close()
	}()
	giveUp := context.AfterFunc(ctx, c.end)
	err = c.client.Listen()
	if err == nil {
		c.relay, err = c.client.Allocate()
	}
	if err != nil {
		c.end()
		return nil, err
	}
	c.relayed.Store(&c.relay)
	if !giveUp() {
		c.end()
		return nil, ctx.Err()
	}
	return c, nil
}

// knock connects to the gateway's port 443.
func (l *laboratory) knock(ctx context.Context, office *namespace, via, gateway string) (net.PacketConn, error) {
	if via == "udp" {
		var conn net.PacketConn
		err := office.do(func() (err error) {
			conn, err = net.ListenPacket("udp", ":0")
			return err
		})
		return conn, err
	}
	conn, err := office.dial(ctx, "tcp", hostPort(gateway, 443))
	if err != nil {
		return nil, err
	}
	if via == "tls" {
		roots := x509.NewCertPool()
		roots.AddCert(l.ca.cert)
		secure := tls.Client(conn, &tls.Config{ServerName: gatewayName, RootCAs: roots})
		if err := secure.HandshakeContext(ctx); err != nil {
			return nil, errors.Join(err, conn.Close())
		}
		conn = secure
	}
	return turn.NewSTUNConn(conn), nil
}

func (c *caller) end() {
	c.once.Do(func() {
		c.closed = time.Now()
		close(c.ended)
	})
}

// talk sends a packet to the other end every 20 ms and counts what comes from there, until the caller ends.
func (c *caller) talk(other net.Addr) {
	go func() {
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for {
			_, _ = c.relay.WriteTo([]byte("hello from the other end"), other)
			select {
			case <-c.ended:
				return
			case <-tick.C:
			}
		}
	}()
	go func() {
		buf := make([]byte, 1500)
		for {
			if _, _, err := c.relay.ReadFrom(buf); err != nil && (errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed)) {
				return
			} else if err == nil {
				now := time.Now().UnixNano()
				if before := c.last.Swap(now); before != 0 && now-before > c.worst.Load() {
					c.worst.Store(now - before)
				}
				c.got.Add(1)
			}
			select {
			case <-c.ended:
				return
			default:
			}
		}
	}()
}

// smallCall is a call of two callers.
type smallCall struct {
	ends [2]*caller
	// took is from the first attempt until packets had come through both ways.
	took time.Duration
	// attempts is how often an end had to try for an allocation, both together.
	attempts int32
}

func (s *smallCall) close() {
	for _, c := range s.ends {
		c.end()
	}
}

// at reports whether the caller is relayed there.
func (c *caller) at(r relay) bool {
	host, _, _ := net.SplitHostPort(c.relay.LocalAddr().String())
	return host == r.addr
}

// relayedAt is the relay's address that the first end got: it tells the region.
func (s *smallCall) relayedAt() string {
	host, _, _ := net.SplitHostPort(s.ends[0].relay.LocalAddr().String())
	return host
}

// smallCall connects a call within the limit, or fails the test. Ends whose connection the gateway closes try again, as a
// browser does.
func (l *laboratory) smallCall(t testing.TB, office *namespace, via string, limit time.Duration) *smallCall {
	t.Helper()
	s, err := l.trySmallCall(office, via, gatewayAddr, limit)
	if err != nil {
		t.Fatalf("no call over %s: %v\n%+v", via, err, l.snapshot().Services)
	}
	t.Cleanup(s.close)
	return s
}

func (l *laboratory) trySmallCall(office *namespace, via, gateway string, limit time.Duration) (*smallCall, error) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	s := &smallCall{}
	var wg sync.WaitGroup
	var errs [2]error
	for i := range s.ends {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for ctx.Err() == nil && s.ends[i] == nil {
				atomic.AddInt32(&s.attempts, 1)
				if s.ends[i], errs[i] = l.newCaller(ctx, office, via, gateway); errs[i] != nil {
					time.Sleep(50 * time.Millisecond)
				}
			}
		}()
	}
	wg.Wait()
	if s.ends[0] == nil || s.ends[1] == nil {
		for _, c := range s.ends {
			if c != nil {
				c.end()
			}
		}
		return nil, fmt.Errorf("within %v: %w", limit, errors.Join(errs[0], errs[1], os.ErrDeadlineExceeded))
	}
	s.ends[0].talk(s.ends[1].relay.LocalAddr())
	s.ends[1].talk(s.ends[0].relay.LocalAddr())
	for s.ends[0].got.Load() == 0 || s.ends[1].got.Load() == 0 {
		if ctx.Err() != nil {
			s.close()
			return nil, fmt.Errorf("allocated, but within %v nothing came through: %w", limit, os.ErrDeadlineExceeded)
		}
		time.Sleep(2 * time.Millisecond)
	}
	s.took = time.Since(began)
	return s, nil
}

// rungs are the rungs that sessions are on now, with their regions.
func (l *laboratory) rungs() map[string]int {
	n := make(map[string]int)
	for _, s := range l.snapshot().Sessions {
		if s.Region != "" { // WebSockets and tunnels are in the list too
			n[s.Region+" "+s.Rung]++
		}
	}
	return n
}

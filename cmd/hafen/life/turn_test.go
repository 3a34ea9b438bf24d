package life

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pion/stun/v2"
)

// stream is a client's media: 50 packets a second to a peer that sends each back. It knows its longest gap and what did not come.
type stream struct {
	via      string
	conn     net.Conn
	in       *bufio.Reader // nil: datagrams
	signed   []stun.Setter
	sent     atomic.Int64
	received atomic.Int64
	longest  atomic.Int64 // a gap, in nanoseconds
	last     atomic.Int64 // when the last packet came
	quiet    silences
	ended    atomic.Pointer[error]
	stop     chan struct{}
	done     sync.WaitGroup
}

const (
	channel   = 0x4000
	packets   = 50 // a second
	mediaSize = 160
)

// clients counts those that came over UDP.
var clients atomic.Int32

// newStream wins an allocation through the gateway, over tls or udp, and begins to send.
func (w *world) newStream(via string, peer netip.AddrPort) (*stream, error) {
	var conn net.Conn
	var err error
	if via == "udp" {
		// From an address of its own: who has proved nothing gets few answers, for each address.
		from := &net.UDPAddr{IP: net.IPv4(127, 0, 1, byte(1+clients.Add(1)%250))}
		conn, err = (&net.Dialer{LocalAddr: from}).Dial("udp", w.addr)
	} else {
		conn, err = w.dial(ownName)
	}
	if err != nil {
		return nil, err
	}
	return w.begin(via, conn, peer)
}

// begin wins an allocation on a connection, and begins to send.
func (w *world) begin(via string, conn net.Conn, peer netip.AddrPort) (*stream, error) {
	s := &stream{via: via, conn: conn, stop: make(chan struct{})}
	if via == "tls" {
		s.in = bufio.NewReader(conn)
	}
	_ = s.conn.SetDeadline(time.Now().Add(20 * time.Second))
	username, password := w.cloud.Credentials("life")
	secrets.Add("a TURN password", password)
	if err := s.allocate(username, password, peer); err != nil {
		_ = s.conn.Close()
		return nil, fmt.Errorf("%s: %w", via, err)
	}
	_ = s.conn.SetDeadline(time.Time{})
	s.done.Add(2)
	go s.send()
	go s.receive()
	return s, nil
}

func (s *stream) allocate(username, password string, peer netip.AddrPort) error {
	transport := stun.RawAttribute{Type: stun.AttrRequestedTransport, Value: []byte{17, 0, 0, 0}}
	answer, err := s.ask(stun.MethodAllocate, transport)
	if err != nil {
		return err
	}
	var realm stun.Realm
	var nonce stun.Nonce
	if err := answer.Parse(&realm, &nonce); err != nil {
		return fmt.Errorf("no challenge: %w", err)
	}
	s.signed = []stun.Setter{stun.NewUsername(username), realm, nonce, stun.NewLongTermIntegrity(username, realm.String(), password)}
	if _, err = s.ask(stun.MethodAllocate, append([]stun.Setter{transport}, s.signed...)...); err != nil {
		return err
	}
	number := stun.RawAttribute{Type: stun.AttrChannelNumber, Value: []byte{channel >> 8, channel & 0xff, 0, 0}}
	to := peerAddress{stun.XORMappedAddress{IP: peer.Addr().AsSlice(), Port: int(peer.Port())}}
	answer, err = s.ask(stun.MethodChannelBind, append([]stun.Setter{number, to}, s.signed...)...)
	if err == nil && answer.Type.Class != stun.ClassSuccessResponse {
		err = fmt.Errorf("ChannelBind: %s", answer)
	}
	return err
}

type peerAddress struct{ stun.XORMappedAddress }

func (a peerAddress) AddTo(m *stun.Message) error { return a.AddToAs(m, stun.AttrXORPeerAddress) }

// ask sends a request, over UDP again and again, and waits for its answer.
func (s *stream) ask(method stun.Method, attributes ...stun.Setter) (*stun.Message, error) {
	request, err := stun.Build(append([]stun.Setter{stun.TransactionID, stun.NewType(method, stun.ClassRequest)}, attributes...)...)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(20 * time.Second); ; {
		if _, err := s.conn.Write(request.Raw); err != nil {
			return nil, err
		}
		if s.in == nil {
			_ = s.conn.SetReadDeadline(time.Now().Add(500 * time.Millisecond))
		}
		for {
			frame, err := s.read()
			if err != nil {
				if s.in == nil && time.Now().Before(end) {
					break
				}
				return nil, fmt.Errorf("%s: %w", method, err)
			}
			answer := &stun.Message{Raw: frame}
			if frame[0]&0xc0 == 0 && answer.Decode() == nil && answer.TransactionID == request.TransactionID {
				return answer, nil
			}
		}
	}
}

func (s *stream) read() ([]byte, error) {
	if s.in == nil {
		buf := make([]byte, 2048)
		n, err := s.conn.Read(buf)
		return buf[:n], err
	}
	head, err := s.in.Peek(4)
	if err != nil {
		return nil, err
	}
	size := 4 + int(binary.BigEndian.Uint16(head[2:]))
	if head[0]&0xc0 == 0 {
		size += 16
	}
	frame := make([]byte, size)
	if _, err := s.in.Read(frame[:0]); err != nil {
		return nil, err
	}
	for n := 0; n < size; {
		m, err := s.in.Read(frame[n:])
		if err != nil {
			return nil, err
		}
		n += m
	}
	_, err = s.in.Discard((4 - size%4) % 4)
	return frame, err
}

func (s *stream) send() {
	defer s.done.Done()
	tick := time.NewTicker(time.Second / packets)
	defer tick.Stop()
	frame := make([]byte, 4+mediaSize)
	binary.BigEndian.PutUint16(frame, channel)
	binary.BigEndian.PutUint16(frame[2:], mediaSize)
	for {
		select {
		case <-tick.C:
		case <-s.stop:
			return
		}
		binary.BigEndian.PutUint64(frame[4:], uint64(s.sent.Add(1)))
		if _, err := s.conn.Write(frame); err != nil {
			s.end(err)
			return
		}
	}
}

func (s *stream) end(err error) { s.ended.CompareAndSwap(nil, &err) }

func (s *stream) receive() {
	defer s.done.Done()
	last := time.Now()
	for {
		frame, err := s.read()
		select {
		case <-s.stop:
			return
		default:
		}
		if err != nil {
			s.end(err)
			return
		}
		if frame[0]&0xc0 != 0x40 {
			continue
		}
		now := time.Now()
		if s.received.Load() > 0 {
			s.quiet.add(silence{s.via, last, now.Sub(last)})
		}
		if s.received.Add(1) > 1 && now.Sub(last) > time.Duration(s.longest.Load()) {
			s.longest.Store(int64(now.Sub(last)))
		}
		last = now
		s.last.Store(now.UnixNano())
	}
}

// gap is the longest time without a packet, until now.
func (s *stream) gap() time.Duration {
	return max(time.Duration(s.longest.Load()), s.sinceLast().long)
}

func (s *stream) sinceLast() silence {
	last := time.Unix(0, s.last.Load())
	return silence{s.via, last, time.Since(last)}
}

// giveBack ends the allocation, as browsers do, and closes.
func (s *stream) giveBack() {
	none := stun.RawAttribute{Type: stun.AttrLifetime, Value: make([]byte, 4)}
	refresh := append([]stun.Setter{stun.TransactionID, stun.NewType(stun.MethodRefresh, stun.ClassRequest), none}, s.signed...)
	if m, err := stun.Build(refresh...); err == nil {
		_, _ = s.conn.Write(m.Raw)
	}
	s.close()
}

func (s *stream) close() {
	close(s.stop)
	_ = s.conn.Close()
	s.done.Wait()
}

// echoPeer sends back whatever comes.
func echoPeer(w *world) netip.AddrPort {
	pc, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		w.t.Fatal(err)
	}
	_ = pc.SetReadBuffer(4 << 20)
	w.t.Cleanup(func() { _ = pc.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := pc.ReadFromUDPAddrPort(buf)
			if err != nil {
				return
			}
			_, _ = pc.WriteToUDPAddrPort(buf[:n], from)
		}
	}()
	return pc.LocalAddr().(*net.UDPAddr).AddrPort()
}

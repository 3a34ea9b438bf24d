package relay

import (
	"net"
	"time"
)

// ServeStream carries one client that speaks TURN over conn, until its end. head is what was read of the stream already. It owns
// conn and closes it. The error says why the session did not end as it should, and has a status word.
func (s *Server) ServeStream(conn net.Conn, head []byte, c Client) error {
	if !s.enter() {
		_ = conn.Close()
		return errClosing
	}
	defer s.wg.Done()
	ses, r, err := s.newStreamSession(conn, head, c)
	if err != nil {
		return err
	}
	ses.end(ses.carry(r))
	ses.stream.wait()
	return ses.reason()
}

// StartStream is ServeStream for a client that need not be waited for: it returns as soon as the client is being read, and the session
// holds no goroutine. Client.Ended tells how it ended. Where the socket beneath can't be had it returns at the end, like ServeStream.
func (s *Server) StartStream(conn net.Conn, head []byte, c Client) {
	if !s.enter() {
		c.ended(errClosing)
		_ = conn.Close()
		return
	}
	defer s.wg.Done()
	ses, r, err := s.newStreamSession(conn, head, c)
	switch {
	case err != nil:
		c.ended(err)
		_ = conn.Close()
	case ses.stream.socket == nil:
		ses.end(ses.carry(r))
		ses.stream.wait()
	default:
		if err := ses.read(r, func(err error) { s.beside(func() { ses.end(err) }) }); err != nil {
			ses.end(err)
		}
	}
}

// newStreamSession makes the session of a stream client, and what will read it.
func (s *Server) newStreamSession(conn net.Conn, head []byte, c Client) (*session, *clientReader, error) {
	owner := conn
	if d, ok := conn.(interface{ Detach() (net.Conn, []byte) }); ok {
		below, rest := d.Detach()
		conn, head = below, append(head[:len(head):len(head)], rest...)
	}
	l, err := s.loops.pick()
	if err != nil {
		_ = owner.Close()
		return nil, nil, errClosing
	}
	c.loop = l
	st := newStream(l, conn, s.config().Relay.Queue.MaxAge, s.metrics)
	st.own(owner)
	ses := s.newSession(c)
	ses.leg, ses.stream = st, st
	st.lost = func(err error) { ses.endSoon(&failure{"err_client", err}) }
	s.begin(ses)
	r := &clientReader{session: ses, frames: frameReader{strict: true}, head: head}
	r.take = r.takeFrame
	return ses, r, nil
}

// read begins to read the client's stream. over is told when it has ended; nil: the client ended it.
func (ses *session) read(r *clientReader, over func(error)) error {
	if len(r.head) > 0 {
		if err := r.feed(r.head); err != nil {
			return err
		}
		r.head = nil
	}
	return ses.stream.start(r.read, over)
}

// carry reads the client's stream until it or the session has ended.
func (ses *session) carry(r *clientReader) error {
	over := make(chan error, 1)
	if err := ses.read(r, func(err error) { over <- err }); err != nil {
		return err
	}
	select {
	case err := <-over:
		return err
	case <-ses.over:
		return nil
	}
}

func (c *Client) ended(err error) {
	if c.Ended != nil {
		c.Ended(err)
	}
}

// begin puts a session into the table, where Close finds it.
func (s *Server) begin(ses *session) {
	s.table.add(ses)
	if s.ctx.Err() != nil { // Close may have looked before
		ses.end(errClosing)
	}
	if ses.hasEnded() { // ousted before it was there
		s.table.remove(ses)
	}
}

func (ses *session) hasEnded() bool {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return ses.ended
}

// reason is why the session ended; nil: as it should.
func (ses *session) reason() error {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return ses.refusal
}

// clientReader cuts a client's stream into messages and feeds its session.
type clientReader struct {
	session *session
	frames  frameReader
	msgs    [][]byte // that pass, and are not sent yet
	take    func(frame []byte) error
	head    []byte // was read by somebody else, and comes first
}

// read is the stream's take.
func (r *clientReader) read(buf *readBuffer, n int) error {
	r.msgs = buf.msgs[:0]
	err := r.feed(buf.bytes[:n])
	buf.msgs, r.msgs = r.msgs, nil
	return err
}

// feed works on what was read last. Nothing of b is kept.
func (r *clientReader) feed(b []byte) error {
	dropped := r.frames.dropped
	err := r.frames.split(b, r.session.server.now(), r.take)
	r.flush()
	r.frames.recycle()
	if n := r.frames.dropped - dropped; n > 0 {
		r.session.server.metrics.invalid.WithLabelValues("client").Add(float64(n))
	}
	if err != nil {
		r.session.server.metrics.invalid.WithLabelValues("client").Inc()
		return &failure{"err_protocol", err}
	}
	r.session.unfinished.Store(unixNano(r.frames.unfinished()))
	return nil
}

func unixNano(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (r *clientReader) takeFrame(frame []byte) error {
	if r.session.passes(frame) {
		r.msgs = append(r.msgs, frame)
		return nil
	}
	r.flush() // in order: a ChannelBind, say, and what uses the channel
	r.session.message(frame)
	return nil
}

func (r *clientReader) flush() {
	if len(r.msgs) > 0 {
		r.session.fromClient(r.msgs)
		clear(r.msgs)
		r.msgs = r.msgs[:0]
	}
}

package signaling

import "time"

// keepAlive pings the clients of sockets on which nothing has moved, so that firewalls do not forget them: at the latest when a
// socket has been silent for signaling.keepalive. It ends with the Proxy.
func (p *Proxy) keepAlive() {
	defer p.wg.Done()
	for {
		var due <-chan time.Time // never, where no pings are wanted
		if after := p.config().Signaling.KeepAlive; after > 0 {
			due = p.opts.After(after / 2)
		}
		select {
		case <-due:
		case <-p.changed:
			continue
		case <-p.ctx.Done():
			return
		}
		p.mu.Lock()
		if p.closed {
			p.mu.Unlock()
			return
		}
		for s := range p.sockets {
			if s.silent() {
				p.wg.Add(1)
				go s.ping()
			}
		}
		p.mu.Unlock()
	}
}

// silent reports whether nothing has moved since it was last called. Only keepAlive calls it.
func (s *socket) silent() bool {
	moved := s.up.Load() + s.down.Load()
	still := moved == s.moved
	s.moved = moved
	return still && !s.halfClosed.Load()
}

// ping has a goroutine of its own: a client that takes nothing more must not hold up the others.
func (s *socket) ping() {
	defer s.p.wg.Done()
	f, ok := s.downstream.(*frames)
	if !ok {
		return
	}
	if err := f.ping(s.p.opts.SlowReader); err != nil {
		s.end(worded(err, statusClient), err)
	}
}

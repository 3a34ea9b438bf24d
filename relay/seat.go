package relay

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// This file is the engine as the server and its data path see it.

// TestCredentials mints TURN credentials for one precall run. They are good for ten minutes, for this gateway's test relay, and
// for exchanging packets with the other end of the same run.
func (s *Server) TestCredentials(run string, now time.Time) (username, password string, err error) {
	return s.engine.test.credentials(run, now)
}

// wantsTest tells whether msg, a whole and validated Allocate request with MESSAGE-INTEGRITY, carries a USERNAME that
// was minted here for a test. It does not check the signature.
func (s *Server) wantsTest(msg []byte) bool {
	var m message
	return m.parse(msg) == nil && s.engine.test.minted(string(m.username))
}

// challengeTest answers an Allocate without MESSAGE-INTEGRITY with 401, a realm and a nonce of our own. The data path
// asks for it when no region is up, so that the precall test still learns what works. nil: no answer.
func (s *Server) challengeTest(msg []byte, c Client) []byte {
	return s.engine.challenge(msg, c)
}

// engineSession is one client of the engine. handle is called by one goroutine at a time and must not block; close
// frees the allocation and is called once, when the client is gone.
type engineSession interface {
	handle(msg []byte)
	close()
	// where is the region that the client's media takes, and the rung; empty: none.
	where() (region, rung string)
	// isTest tells whether it is a precall test's client.
	isTest() bool
}

// serveTest takes a client over. From now on every message of this client goes to handle, whole, validated and
// without stream padding; send delivers one message to the client (it copies, never blocks and may be called from
// any goroutine until close returns). The data path watches the answers that pass through send for Allocate
// success, LIFETIME and Refresh, as it does for a region's.
func (s *Server) serveTest(c Client, send func(msg []byte)) engineSession {
	return s.engine.open(c, send)
}

// answersItself tells whether the gateway answers TURN itself, in mode local or terminate, instead of bridging it.
func (s *Server) answersItself() bool { return s.engine.clients != nil }

// serveOwn is serveTest for the modes in which every client is the engine's. lost is called, at most once and from any goroutine,
// when the client loses its allocation through no doing of its own; it must not wait for the engine.
func (s *Server) serveOwn(c Client, send func(msg []byte), lost func(cause error)) engineSession {
	t := s.engine.open(c, send)
	t.lost = lost
	return t
}

var errNoUsers = errors.New("in mode bridge the gateway has no TURN users of its own")

// Credentials mints TURN credentials for a user of the gateway, in modes local and terminate. They are good for making allocations
// for credentialLife; what was made with them may be refreshed for as long as a call takes.
func (s *Server) Credentials(user string, now time.Time) (username, password string, err error) {
	switch {
	case s.engine.clients == nil:
		return "", "", errNoUsers
	case user == "" || len(user) > maxUserBytes || strings.Contains(user, ":") || !plain(user):
		return "", "", fmt.Errorf("%w: %.80q", errUsername, user)
	}
	username, password = s.engine.clients.mint(user, now.Add(credentialLife))
	return username, password, nil
}

const (
	// credentialLife is how long after an ICE server list was fetched a call may begin.
	credentialLife = 10 * time.Minute
	maxUserBytes   = 128
)

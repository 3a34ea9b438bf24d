package relay

import (
	"crypto/rand"
	"fmt"
	"time"

	"golang.org/x/time/rate"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

// newEngine makes the engine of a server in its mode.
func newEngine(s *Server) (*engine, error) {
	config := s.config()
	secret, err := s.engineSecret(config)
	if err != nil {
		return nil, err
	}
	clients := authority{secret: secret}
	test := newTestRelay(clients, s.now, config.Addresses.Public, machineAddresses)
	o := engineOptions{
		realm: config.Name, test: test, backends: []swept{test}, draining: s.isDraining, refused: refusals(s), defects: s.defects, now: s.now,
	}
	if o.realm == "" {
		o.realm = "hafen"
	}
	if o.bounds, err = newEngineBounds(config); err != nil {
		return nil, err
	}
	main, err := mainBackend(s)
	if err != nil {
		return nil, err
	}
	if main != nil {
		o.backends, o.clients, o.main = append(o.backends, main), &clients, main
	}
	known, err := newGuests(config)
	if err != nil {
		return nil, err
	}
	var e *engine
	o.find = finder(test, clients, func() guests { return *e.guests.Load() }, main, func() int { return e.limits.Load().perUser })
	e = startEngine(o)
	e.guests.Store(&known)
	if err := e.metrics.register(s.registry); err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// refusals logs why allocations fail, a few lines at a time: where one fails, many do.
func refusals(s *Server) func(error) {
	lines := rate.NewLimiter(rate.Every(refusalPause), refusalBurst)
	return func(why error) {
		if lines.AllowN(s.now(), 1) {
			s.log.Warn("an allocation failed", "why", why.Error())
		}
	}
}

const (
	refusalPause = 10 * time.Second
	refusalBurst = 5
)

// mainBackend is what makes relayed addresses in the server's mode; nil in mode bridge, where regions do.
func mainBackend(s *Server) (modeBackend, error) {
	now := s.setup.Load()
	switch now.config.Relay.Mode {
	case modeLocal:
		return newLocalRelay(now.config, newPeerPolicy(now.config, now.dialer), s.now, machineAddresses)
	case modeTerminate:
		return newCloudRelay(s)
	}
	return nil, nil
}

type modeBackend interface {
	backend
	swept
	// prepare is Server.Prepare for the backend.
	prepare(c *configs.Config, d *netpolicy.Dialer) (use func(), err error)
}

// finder tells the test relay's users from the gateway's own, which mode bridge has none of, and those from their service's.
func finder(test *testRelay, clients authority, known func() guests, main backend, quota func() int) func(string, string, time.Time) (account, error) {
	return func(service, username string, now time.Time) (account, error) {
		if main == nil || test.minted(username) {
			return test.account(username, now)
		}
		own, err := clients.account(username, now, main, quota())
		switch g := known()[service]; {
		case g == nil:
		case g.mint != nil:
			own.guest = g.mint.password(username)
		case g.username == username: // it is everybody's, so it has no bound of its own
			return account{name: username, password: g.password, backend: main}, nil
		}
		return own, err
	}
}

// guests are the accounts of the services, by name: a service that lists the gateway among its ICE servers itself gives browsers the
// same credentials for it as for its own relays. The first service is also the one of clients who named none.
type guests map[string]*fixedAccount

func newGuests(c *configs.Config) (guests, error) {
	all := make(guests)
	for i := range c.Services {
		s := &c.Services[i]
		account, err := newFixedAccount(s.TURNCredentials)
		if err != nil {
			return nil, fmt.Errorf("service %s: %w", s.Name, err)
		}
		if account == nil { // turn_credentials.url: what others were given there is not known
			continue
		}
		all[s.Name] = account
		if i == 0 {
			all[""] = account
		}
	}
	return all, nil
}

// engineSecret is what credentials are minted with. In mode bridge those are the test relay's alone, which need not outlive the
// process.
func (s *Server) engineSecret(c *configs.Config) ([]byte, error) {
	if c.Relay.Mode == modeTerminate || c.Relay.Mode == modeLocal {
		return loadSecret(c.Relay.SecretFile, c.DataDir)
	}
	if s.testSecret == nil {
		s.testSecret = make([]byte, secretBytes)
		rand.Read(s.testSecret)
	}
	return s.testSecret, nil
}

// TestSecret is what the test relay's credentials are made with, for a successor; nil where that can read it itself.
func (s *Server) TestSecret() []byte { return s.testSecret }

// Values of relay.mode besides bridge.
const (
	modeTerminate = "terminate"
	modeLocal     = "local"
)

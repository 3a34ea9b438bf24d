package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/pion/logging"
	cloudstun "github.com/pion/stun/v3"
	"github.com/pion/turn/v4"

	"hafen/configs"
	"hafen/gateway/netpolicy"
)

const (
	// cloudAllocateTimeout bounds an Allocate at a region, the way there included. Browsers give up soon after.
	cloudAllocateTimeout = 10 * time.Second
	// streamRTO is when pion repeats a request to a region on a stream: not before it has been given up. A stream loses nothing.
	streamRTO = 10 * time.Second
	// cloudTries is how often a request is signed anew for a stale nonce.
	cloudTries = 3
	// freshTries is how often another port of ours is tried where a region remembers the one before.
	freshTries = 4
)

// cloudRelay is the backend of mode terminate: every relayed address is an allocation that the gateway makes at a region, with
// credentials that no client sees.
//
// pion's turn.Client makes the allocation, keeps it alive and runs the transactions. Data does not pass through it: the channel
// that a client binds is bound at the region under the same number, so ChannelData passes both ways as it came.
type cloudRelay struct {
	server  *Server
	quiet   logging.LoggerFactory
	buffers packetBuffers

	ctx    context.Context // ends with close
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	wg     sync.WaitGroup
}

func newCloudRelay(s *Server) (*cloudRelay, error) {
	r := &cloudRelay{server: s}
	now := s.setup.Load()
	if _, err := r.prepare(now.config, now.dialer); err != nil {
		return nil, err
	}
	r.quiet = &logging.DefaultLoggerFactory{Writer: io.Discard, DefaultLogLevel: logging.LogLevelDisabled}
	r.ctx, r.cancel = context.WithCancel(context.Background())
	return r, nil
}

// prepare implements modeBackend. Allocations at regions stay, with the credentials they were made with; new ones take those of the
// regions in force.
func (r *cloudRelay) prepare(c *configs.Config, _ *netpolicy.Dialer) (use func(), err error) {
	for _, s := range c.Services {
		if s.TURNCredentials == (configs.TURNCredentials{}) {
			return nil, fmt.Errorf("service %s: %w", s.Name, errNoCredentials)
		}
	}
	return func() {}, nil
}

// begin runs f beside; false: the relay is closed.
func (r *cloudRelay) begin(f func()) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.wg.Go(func() {
		defer r.server.defects.Catch(nil)
		f()
	})
	return true
}

func (r *cloudRelay) sweep(time.Time) {}

func (r *cloudRelay) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.cancel()
	r.wg.Wait()
}

var errNoCredentials = errors.New("turn_credentials: mode terminate needs secret_file, username with password_file, or url")

var errForgotten = errors.New("the region has forgotten the allocation")

var errCloudClosing = &turnError{code: codeInsufficientCapacity, why: "the gateway is closing"}

// allocate makes an allocation at the region, beside: a slow region delays nobody else.
func (r *cloudRelay) allocate(a *allocation, want wanted, then func(relayed, error)) {
	switch {
	case want.andNext || want.reservation != nil:
		then(nil, &turnError{code: codeInsufficientCapacity, why: "regions keep no ports for us"})
	case !r.begin(func() {
		if got, err := r.openCaught(a, want); err != nil {
			then(nil, err)
		} else {
			then(got, nil)
		}
	}):
		then(nil, errCloudClosing)
	}
}

// openCaught is open; a defect is an error like any other.
func (r *cloudRelay) openCaught(a *allocation, want wanted) (c *cloudAddress, err error) {
	defer r.server.defects.Catch(func(defect error) { err = defect })
	return r.open(a, want)
}

// open asks for an allocation. A region that still remembers an earlier client of our port says 437: RFC 8656 section 7.4 has us try
// another port.
func (r *cloudRelay) open(a *allocation, want wanted) (*cloudAddress, error) {
	ctx, cancel := context.WithTimeout(r.ctx, cloudAllocateTimeout)
	defer cancel()
	for try := 0; ; try++ {
		c, err := r.openAny(ctx, a, want)
		var refusal *turnError
		if try < freshTries && errors.As(err, &refusal) && refusal.code == codeAllocationMismatch {
			continue
		}
		return c, err
	}
}

func (r *cloudRelay) openAny(ctx context.Context, a *allocation, want wanted) (*cloudAddress, error) {
	service := r.server.regions().serviceNamed(a.tuple.client.Service)
	if service == nil {
		return nil, &turnError{code: codeServerError, why: fmt.Sprintf("there is no service %q", a.tuple.client.Service)}
	}
	username, password, err := service.account.get(ctx)
	if err != nil {
		return nil, &turnError{code: codeServerError, why: err.Error()}
	}
	link, err := r.server.openUplinkFor(ctx, a.tuple.client)
	if err != nil {
		return nil, &turnError{code: codeInsufficientCapacity, why: err.Error()}
	}
	c, err := r.connect(a, want, link, username, password)
	if err != nil {
		_ = link.Close()
		return nil, err
	}
	stop := context.AfterFunc(ctx, c.client.Close) // ends the transaction under way
	err = c.allocate()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		c.close()
		if code := c.refusedWith(); code == codeAllocationMismatch {
			return nil, &turnError{code: code, why: "the region remembers our port"}
		}
		return nil, cloudRefusal(err)
	}
	return c, nil
}

// cloudServer stands for the region in pion's client. Its uplink has one other end, and nobody looks at the address.
const cloudServer = "192.0.2.1:3478"

func (r *cloudRelay) connect(a *allocation, want wanted, link *uplink, username, password string) (*cloudAddress, error) {
	c := &cloudAddress{relay: r, allocation: a, username: username, password: password}
	var err error
	if c.up, err = newUpstream(r.server, a.tuple.client.loop, c, link); err != nil {
		return nil, err
	}
	config := &turn.ClientConfig{
		TURNServerAddr: cloudServer, Conn: &cloudConn{c.up, want, username, password}, LoggerFactory: r.quiet,
		Username: username, Password: password,
	}
	if !link.datagram {
		config.RTO = streamRTO
	}
	if c.client, err = turn.NewClient(config); err != nil {
		return nil, err
	}
	if err := c.up.start(c.over); err != nil {
		return nil, errCloudClosing
	}
	link.whenDead(c.lose)
	return c, nil
}

// cloudRefusal is what a client is told for what a region, or the way there, said to us.
func cloudRefusal(err error) error {
	var refused *cloudstun.TurnError
	var ours *turnError
	switch {
	case errors.As(err, &ours):
		return ours
	case !errors.As(err, &refused):
		return &turnError{code: codeServerError, why: "the region: " + err.Error()}
	}
	code := codeServerError // 401 and 441 among them: it is our credential that is wrong, not the client's
	switch int(refused.ErrorCodeAttr.Code) {
	case codeForbidden:
		code = codeForbidden
	case codeAddressFamily:
		code = codeAddressFamily
	case codePeerAddressFamily:
		code = codePeerAddressFamily
	case codeAllocationMismatch:
		code = codeAllocationMismatch
	case codeAllocationQuota, codeInsufficientCapacity:
		code = codeInsufficientCapacity
	}
	return &turnError{code: code, why: fmt.Sprintf("the region: %d %s", refused.ErrorCodeAttr.Code, refused.ErrorCodeAttr.Reason)}
}

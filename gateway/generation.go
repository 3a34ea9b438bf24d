package gateway

import (
	"reflect"
	"time"

	"hafen/configs"
	"hafen/gateway/certs"
	"hafen/gateway/netpolicy"
)

// generation is what one configuration makes for the composition root itself. It never changes; a reload exchanges it as a whole. Who
// asks twice may get two generations: what belongs together is asked of one.
type generation struct {
	config *configs.Config
	dialer *netpolicy.Dialer
	certs  *certs.Store
}

func (g *Gateway) config() *configs.Config { return g.now.Load().config }

// DrainLimit is how long live sessions may go on when the gateway ends.
func (g *Gateway) DrainLimit() time.Duration { return g.config().Drain }

func (g *Gateway) dialer() *netpolicy.Dialer { return g.now.Load().dialer }
func (g *Gateway) certs() *certs.Store       { return g.now.Load().certs }

// newGeneration makes the generation of a configuration. What would be the same as the last one's is the last one's: whoever
// compares sees that nothing has changed.
func (g *Gateway) newGeneration(c *configs.Config, last *generation) (*generation, error) {
	dialer, err := newEgress(c, g.listening)
	if err != nil {
		return nil, err
	}
	next := &generation{config: c, dialer: dialer}
	if last != nil && sameEgress(last.dialer, dialer) {
		next.dialer = last.dialer
	}
	if last != nil && c.TLS.Source == "acme" && sameCertificates(last.config, c) {
		next.certs = last.certs // orders and challenges under way go on
		return next, nil
	}
	next.certs, err = certs.New(certs.Options{Config: c, HTTP01: len(c.Listen.HTTP) > 0, DialAuthority: g.dialAuthority, DialNameServer: g.dialNeighbour, Database: g.sharedDB(), Log: g.log.With("area", "tls"), Now: g.opts.Now})
	return next, err
}

// sameCertificates reports whether two configurations ask for the same certificates in the same way.
func sameCertificates(a, b *configs.Config) bool {
	return reflect.DeepEqual(a.TLS, b.TLS) && reflect.DeepEqual(a.OwnNames(), b.OwnNames()) && a.DataDir == b.DataDir &&
		reflect.DeepEqual(a.Signaling.Routes, b.Signaling.Routes) && (len(a.Listen.HTTP) > 0) == (len(b.Listen.HTTP) > 0)
}

// discard ends what a generation has that the one in use has not.
func (next *generation) discard(inUse *generation) {
	if next.certs != nil && next.certs != inUse.certs {
		_ = next.certs.Close() // nothing of it was started
	}
}

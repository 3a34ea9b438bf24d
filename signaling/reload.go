package signaling

import (
	"bytes"
	"fmt"
	"os"
	"reflect"
	"slices"

	"hafen/configs"
)

// setup is what one configuration makes of a Proxy. It never changes: another configuration is another setup. Requests and WebSockets
// keep the target that they were given.
type setup struct {
	config *configs.Config
	table  *table
	prober *prober
	roots  [][]byte // what the services' ca_file held
}

func (p *Proxy) newSetup(c *configs.Config) (*setup, error) {
	opts := p.opts
	opts.Config = c
	t, err := newTable(&opts)
	if err != nil {
		return nil, err
	}
	s := &setup{config: c, table: t, prober: newProber(p, c, t)}
	for i := range c.Services {
		pem, _ := os.ReadFile(c.Services[i].CAFile) // newTable has just read it, or there is none
		s.roots = append(s.roots, pem)
	}
	return s, nil
}

func (p *Proxy) config() *configs.Config { return p.setup.Load().config }

// Prepare makes what another configuration needs, beside what runs. Calling use puts it in place; never calling it changes
// nothing. What lives goes on to its end, also to hosts that are no longer routed.
func (p *Proxy) Prepare(c *configs.Config) (use func(), err error) {
	next, err := p.newSetup(c)
	if err != nil {
		return nil, fmt.Errorf("signaling: %w", err)
	}
	return func() { p.replace(next) }, nil
}

func (p *Proxy) replace(next *setup) {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := p.setup.Load()
	if last.sameWay(next) { // pooled connections and findings stay
		next.prober.cancel()
		next.table, next.prober = last.table, last.prober
		p.setup.Store(next)
	} else {
		next.prober.inherit(last.prober)
		p.setup.Store(next)
		last.prober.cancel()
		last.table.closeIdle()
		p.metrics.forgetServers(last.config, next.config)
		if p.started && !p.closed {
			next.prober.start(&p.wg)
		}
	}
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// sameWay reports whether nothing differs in what is routed where, and how it is reached.
func (a *setup) sameWay(b *setup) bool {
	x, y := a.config, b.config
	return reflect.DeepEqual(x.Services, y.Services) && reflect.DeepEqual(x.Signaling.Routes, y.Signaling.Routes) &&
		reflect.DeepEqual([]any{x.Egress, x.Hosts, x.DNS, x.Listen, x.Name, x.Relay.Mode}, []any{y.Egress, y.Hosts, y.DNS, y.Listen, y.Name, y.Relay.Mode}) &&
		slices.EqualFunc(a.roots, b.roots, bytes.Equal)
}

// inherit takes over what the last prober knows of call servers that are probed in the same way.
func (pr *prober) inherit(last *prober) {
	for _, s := range pr.servers {
		for _, old := range last.servers {
			if old.now.Service != s.now.Service || old.now.Host != s.now.Host || old.probes.HTTPS != s.probes.HTTPS ||
				old.probes.WebSocket != s.probes.WebSocket || old.probes.LongPoll != s.probes.LongPoll {
				continue
			}
			old.mu.Lock()
			s.now = old.now
			old.mu.Unlock()
		}
	}
}

// forgetServers takes back what is measured of call servers that are no longer configured.
func (m *metrics) forgetServers(last, next *configs.Config) {
	kept := make(map[[2]string]bool)
	for i := range next.Services {
		for _, host := range next.Services[i].CallServers() {
			kept[[2]string{next.Services[i].Name, host}] = true
		}
	}
	for i := range last.Services {
		for _, host := range last.Services[i].CallServers() {
			if key := [2]string{last.Services[i].Name, host}; !kept[key] {
				m.serverUp.DeleteLabelValues(key[:]...)
				m.serverRTT.DeleteLabelValues(key[:]...)
			}
		}
	}
}

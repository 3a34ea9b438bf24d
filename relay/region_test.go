package relay

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/pion/stun/v2"

	"hafen/configs"
)

func TestRegionsNearest(t *testing.T) {
	ca := newTestCA(t, "test authority")
	far := newStandin(t, "far.test", "127.0.11.1", 60*time.Millisecond, ca)
	near := newStandin(t, "near.test", "127.0.11.2", 0, ca)
	o := newOutside(t, ca, []configs.Region{
		{Name: "far", URLs: far.urls("udp", "tcp", "tls"), Use: true},
		{Name: "near", URLs: near.urls("tls", "tcp", "udp"), Use: true},
	}, map[string]string{"far.test": "127.0.11.1", "near.test": "127.0.11.2"}, nil)
	o.live()
	u := o.opened("", "")
	if u.region.name != "near" || !strings.HasPrefix(u.rung, "udp:") || !u.datagram {
		t.Fatalf("uplink to %s over %s", u.region.name, u.rung)
	}
	c := &conversation{conn: u, datagram: true}
	if _, err := c.binding(t.Context(), true); err != nil {
		t.Fatalf("the uplink carries nothing: %v", err)
	}
	o.until("all rungs of both are up", 5*time.Second, func() bool {
		for _, st := range o.status() {
			for _, rg := range st.Rungs {
				if rg.State != "up" || rg.RTT <= 0 {
					return false
				}
			}
		}
		return true
	})
	if o.chosen() != "near" {
		t.Errorf("%q is chosen", o.chosen())
	}
	if rtt := o.region("far").RTT; rtt < 55 || rtt > 500 {
		t.Errorf("round trip to far: %v ms, want about 60", rtt)
	}
	if o.region("near").Sessions != 1 {
		t.Errorf("%d sessions at near, want 1", o.region("near").Sessions)
	}
	families, err := o.reg.Gather()
	if err != nil || len(families) != 5 {
		t.Fatalf("metrics: %v, %v", families, err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			v := m.GetGauge().GetValue()
			switch name := f.GetName(); {
			case strings.HasSuffix(name, "_up") && v != 1, strings.HasSuffix(name, "_rtt_seconds") && v <= 0, strings.HasSuffix(name, "_ratio") && (v < 0 || v > 1):
				t.Errorf("%s: %v", name, m)
			}
		}
	}
}

// A relay that goes silent without closing anything: its uplinks learn it in time, and the next session goes elsewhere.
func TestRegionsDeath(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"udp", "tls"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ca := newTestCA(t, "test authority")
			one := newStandin(t, "one.test", "127.0.12.1", 0, ca)
			two := newStandin(t, "two.test", "127.0.12.2", 40*time.Millisecond, ca)
			o := newOutside(t, ca, []configs.Region{
				{Name: "one", URLs: one.urls(kind), Use: true},
				{Name: "two", URLs: two.urls(kind), Use: true},
			}, map[string]string{"one.test": "127.0.12.1", "two.test": "127.0.12.2"}, nil)
			o.live()
			o.until("both up", 5*time.Second, func() bool { return o.region("one").RTT > 0 && o.region("two").RTT > 0 })
			u := o.opened("", "")
			if u.region.name != "one" {
				t.Fatalf("uplink to %s", u.region.name)
			}
			died := make(chan error, 1)
			u.whenDead(func(cause error) { died <- cause })
			cut := time.Now()
			one.silent.Store(true)
			select {
			case cause := <-died:
				if took := time.Since(cut); took < time.Second || took > 5*time.Second {
					t.Errorf("death found after %v", took) // 3 s on a machine that is not busy
				}
				if statusOf(cause) != "err_upstream" || !strings.Contains(cause.Error(), "one") {
					t.Errorf("cause: %v", cause)
				}
			case <-time.After(10 * time.Second):
				t.Fatalf("the death of the region was not found: %+v", o.status())
			}
			if next := o.opened("", ""); next.region.name != "two" {
				t.Errorf("the next session went to %s", next.region.name)
			}
			if st := o.region("one"); st.State != "down" || st.Reason == "" || st.Sessions != 0 {
				t.Errorf("status of the dead: %+v", st)
			}
			if kinds := o.kinds(); !slices.Contains(kinds, "region_down") || !slices.Contains(kinds, "region_chosen") {
				t.Errorf("events: %v", kinds)
			}
		})
	}
}

// When a region falls silent, all its rungs do: by the time its clients come back the next session does not wait for them
// one after the other.
func TestRegionsDeathOfAllRungs(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.26.1", 0, ca)
	two := newStandin(t, "two.test", "127.0.26.2", 40*time.Millisecond, ca)
	o := newOutside(t, ca, []configs.Region{
		{Name: "one", URLs: one.urls("udp", "tcp", "tls"), Use: true},
		{Name: "two", URLs: two.urls("udp", "tcp", "tls"), Use: true},
	}, map[string]string{"one.test": "127.0.26.1", "two.test": "127.0.26.2"}, nil)
	o.live()
	o.until("every rung up", 10*time.Second, func() bool {
		for _, st := range o.status() {
			for _, rung := range st.Rungs {
				if rung.State != "up" {
					return false
				}
			}
		}
		return o.chosen() == "one"
	})
	u := o.opened("", "")
	died := make(chan []attempt, 1)
	u.whenDead(func(error) { died <- o.plan(context.Background(), o.services[0], nil, netip.Addr{})[0] })
	one.silent.Store(true)
	select {
	case attempts := <-died:
		for _, a := range attempts {
			if a.path.rung.region.name == "two" {
				break
			}
			if a.headStart() > 0 {
				t.Errorf("the next session would wait for %s of the dead region: %+v", a.path.rung.name, o.status())
			}
		}
	case <-time.After(10 * time.Second):
		t.Fatalf("the death of the region was not found: %+v", o.status())
	}
}

// A session that was put on a rung which had just died, unnoticed yet: the ladder's head start saves it.
func TestRegionsOpenOnASilentRung(t *testing.T) {
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.13.1", 0, ca)
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls("udp", "tcp"), Use: true}},
		map[string]string{"one.test": "127.0.13.1"}, nil)
	o.drive(3 * time.Second)
	if o.region("one").Rung != o.rungOf("one", "udp").Name {
		t.Fatalf("rung in use: %q", o.region("one").Rung)
	}
	_ = one.udp.SetReadBuffer(1)
	one.udp.Close() // refused: the next rung at once
	u := o.opened("", "")
	if u.datagram || !strings.HasPrefix(u.rung, "tcp:") {
		t.Errorf("uplink over %s", u.rung)
	}
}

func TestRegionsRungReturns(t *testing.T) {
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.14.1", 0, ca)
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls("udp", "tcp"), Use: true}},
		map[string]string{"one.test": "127.0.14.1"}, nil)
	o.drive(2 * time.Second)
	addr := one.udp.LocalAddr().String()
	one.udp.Close()
	o.drive(20 * time.Second)
	if rg := o.rungOf("one", "udp"); rg.State != "down" || rg.Reason != "connection refused" {
		t.Fatalf("closed UDP: %+v", rg)
	}
	if u := o.opened("", ""); u.datagram {
		t.Fatalf("uplink over %s", u.rung)
	}
	again := listenUDP(t, addr)
	one.wg.Add(1)
	go one.serveUDP(again)
	o.drive(5 * time.Second)
	if o.rungOf("one", "udp").State == "up" {
		t.Fatal("trusted without a quiet period")
	}
	o.drive(60 * time.Second)
	if u := o.opened("", ""); !u.datagram {
		t.Errorf("UDP is open again and the uplink goes over %s: %+v", u.rung, o.rungOf("one", "udp"))
	}
	if kinds := o.kinds(); !slices.Contains(kinds, "rung_down") || !slices.Contains(kinds, "rung_up") {
		t.Errorf("events: %v", kinds)
	}
}

// When everything was dead, whatever answers first is taken: there is nothing to flap from.
func TestRegionsAllDeadThenOne(t *testing.T) {
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.15.1", 0, ca)
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls("udp"), Use: true}},
		map[string]string{"one.test": "127.0.15.1"}, nil)
	o.drive(2 * time.Second)
	addr := one.udp.LocalAddr().String()
	one.udp.Close()
	o.drive(10 * time.Second)
	began := time.Now()
	_, err := o.open(context.Background(), "", "", clientAddr)
	if err == nil || time.Since(began) > 2*time.Second {
		t.Fatalf("all dead: %v after %v", err, time.Since(began))
	}
	var no *noRegionError
	if !errors.As(err, &no) || !errors.Is(err, errNoRegion) || no.Status() != "err_upstream" ||
		!strings.Contains(err.Error(), "one") || !strings.Contains(err.Error(), "udp:") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the refusal does not say which rung failed where: %v", err)
	}
	again := listenUDP(t, addr)
	one.wg.Add(1)
	go one.serveUDP(again)
	o.drive(8 * time.Second)
	if u := o.opened("", ""); u.region.name != "one" {
		t.Errorf("uplink to %s", u.region.name)
	}
}

func TestRegionsNames(t *testing.T) {
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.16.1", 0, ca)
	lost := newStandin(t, "lost.test", "127.0.16.2", 0, ca)
	loop := newStandin(t, "loop.test", "127.0.16.3", 0, ca)
	o := newOutside(t, ca, []configs.Region{
		{Name: "one", URLs: one.urls("udp"), Use: true},
		{Name: "lost", URLs: lost.urls("udp", "tcp"), Use: true},
		{Name: "loop", URLs: loop.urls("udp"), Use: true},
	}, map[string]string{"one.test": "127.0.16.1", "loop.test": "10.1.2.3"}, nil)
	o.drive(5 * time.Second)
	if st := o.region("lost"); st.State != "down" || !strings.Contains(st.Reason, "lost.test") {
		t.Errorf("a name that does not resolve: %+v", st)
	}
	if st := o.region("loop"); st.State != "down" || !strings.Contains(st.Reason, "refused") {
		t.Errorf("a name that resolves to where we must not go: %+v", st)
	}
	if n := count(o.kinds(), "name_lost"); n != 2 {
		t.Errorf("%d events of lost names, want one for each region: %v", n, o.kinds())
	}
	if o.opened("", "").region.name != "one" {
		t.Error("the region that works is not used")
	}
	o.setName("lost.test", "127.0.16.2")
	o.drive(70 * time.Second)
	if st := o.region("lost"); st.State != "up" {
		t.Errorf("a name that resolves again: %+v", st)
	}
	if n := count(o.kinds(), "name_found"); n != 1 {
		t.Errorf("%d events of found names: %v", n, o.kinds())
	}
}

// A region moves: new sessions go to the new address, the old ones stay where they are.
func TestRegionsMove(t *testing.T) {
	ca := newTestCA(t, "test authority")
	old := newStandin(t, "one.test", "127.0.17.1", 0, ca)
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: old.urls("udp"), Use: true}},
		map[string]string{"one.test": "127.0.17.1"}, nil)
	o.drive(2 * time.Second)
	u := o.opened("", "")
	addr := u.RemoteAddr().(interface{ String() string }).String()
	moved := listenUDP(t, strings.Replace(addr, "127.0.17.1", "127.0.17.2", 1))
	old.wg.Add(1)
	go old.serveUDP(moved)
	o.setName("one.test", "127.0.17.2")
	o.drive(70 * time.Second)
	next := o.opened("", "")
	if got := next.RemoteAddr().String(); !strings.HasPrefix(got, "127.0.17.2:") {
		t.Errorf("the next session went to %s", got)
	}
	if o.rungOf("one", "udp").Sessions != 2 {
		t.Errorf("%+v", o.rungOf("one", "udp"))
	}
	_ = u.Close()
	_ = next.Close()
	o.drive(70 * time.Second)
	o.regions.mu.Lock()
	defer o.regions.mu.Unlock()
	if n := len(o.services[0].regions[0].rungs[0].paths); n != 1 {
		t.Errorf("%d paths are kept, want 1", n)
	}
}

// A name with an address of each family of which one is dead, as in an office without IPv6.
func TestRegionsOneFamilyDead(t *testing.T) {
	ca := newTestCA(t, "test authority")
	for _, live := range []string{"127.0.0.1", "::1"} {
		one := newStandin(t, "one.test", live, 0, ca)
		o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls("udp", "tls"), Use: true}}, nil, nil)
		o.setName("one.test", "127.0.0.1", "::1")
		o.drive(3 * time.Second)
		for _, kind := range []string{"udp", "tls"} {
			if rg := o.rungOf("one", kind); rg.State != "up" || !strings.Contains(rg.Address, live) {
				t.Errorf("only %s lives: %+v", live, rg)
			}
		}
	}
}

func TestRegionsProbeNow(t *testing.T) {
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.18.1", 20*time.Millisecond, ca)
	o := newOutside(t, ca, []configs.Region{
		{Name: "one", URLs: one.urls("udp", "tcp"), Use: true},
		{Name: "other", URLs: one.urls("tls"), Use: false},
	}, map[string]string{"one.test": "127.0.18.1"}, nil)
	o.drive(2 * time.Second)
	before := one.asked.Load()
	results := make(chan []RegionStatus, 10)
	for range cap(results) {
		go func() {
			found, err := o.probeNow(context.Background(), "calls")
			if err != nil {
				t.Error(err)
			}
			results <- found
		}()
	}
	for range cap(results) {
		if found := <-results; len(found) != 2 || found[0].RTT < 15 || found[0].State != "up" {
			t.Errorf("found %+v", found)
		}
	}
	if _, err := o.probeNow(t.Context(), ""); err != nil {
		t.Error(err)
	}
	if n := one.asked.Load() - before; n != 1 {
		t.Errorf("%d probes over UDP for eleven questions, want 1", n)
	}
	if _, err := o.probeNow(t.Context(), "nobody"); err == nil {
		t.Error("an unknown service is probed")
	}
	if st := o.region("other"); st.State != "unknown" || !st.Rungs[0].LastProbe.IsZero() {
		t.Errorf("a region that is not for use was probed: %+v", st)
	}
}

func TestRegionsAsAsked(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "test authority")
	near := newStandin(t, "near.test", "127.0.19.1", 0, ca)
	far := newStandin(t, "far.test", "127.0.19.2", 40*time.Millisecond, ca)
	spare := newStandin(t, "spare.test", "127.0.19.3", 0, ca)
	list := []configs.Region{
		{Name: "near", URLs: near.urls("udp"), Use: true},
		{Name: "far", URLs: far.urls("udp"), Use: true},
		{Name: "spare", URLs: spare.urls("udp"), Use: false},
	}
	names := map[string]string{"near.test": "127.0.19.1", "far.test": "127.0.19.2", "spare.test": "127.0.19.3"}
	tests := []struct {
		choose, asked, want string
		farDead             bool
	}{
		{"nearest", "", "near", false},
		{"nearest", "far.test", "near", false},
		{"nearest", "spare.test", "near", false},
		{"as-asked", "", "near", false},
		{"as-asked", "FAR.test.", "far", false},
		{"as-asked", "spare.test", "spare", false},
		{"as-asked", "nobody.test", "near", false},
		{"as-asked", "far.test", "near", true},
	}
	for _, tt := range tests {
		t.Run(tt.choose+" "+tt.asked+" "+tt.want, func(t *testing.T) {
			o := newOutside(t, ca, list, names, func(o *outside) { o.config.Services[0].Choose = tt.choose })
			o.live()
			o.until("up", 5*time.Second, func() bool { return o.chosen() == "near" && o.region("far").State == "up" })
			if tt.farDead {
				far.close()
				o.until("far is down", 20*time.Second, func() bool { return o.region("far").State == "down" })
			}
			if u := o.opened(tt.asked, ""); u.region.name != tt.want {
				t.Errorf("uplink to %s, want %s", u.region.name, tt.want)
			}
		})
	}
}

// Regions that do not share credentials: a client that the substitute refused gets the region that it asked for.
func TestRegionsClientMoves(t *testing.T) {
	ca := newTestCA(t, "test authority")
	near := newStandin(t, "near.test", "127.0.20.1", 0, ca)
	far := newStandin(t, "far.test", "127.0.20.2", 20*time.Millisecond, ca)
	o := newOutside(t, ca, []configs.Region{
		{Name: "near", URLs: near.urls("udp"), Use: true},
		{Name: "far", URLs: far.urls("udp"), Use: true},
	}, map[string]string{"near.test": "127.0.20.1", "far.test": "127.0.20.2"}, nil)
	o.drive(2 * time.Second)
	client := Client{Addr: clientPort}
	o.opened("", clientAddr.String()).refused(client) // it asked for none: nothing to stick to
	o.opened("near.test", clientAddr.String()).refused(client)
	if u := o.opened("far.test", clientAddr.String()); u.region.name != "near" {
		t.Fatalf("uplink to %s", u.region.name)
	} else {
		u.refused(client)
		u.refused(client)
	}
	if n := count(o.kinds(), "client_moved"); n != 1 {
		t.Errorf("%d events, want 1: %v", n, o.kinds())
	}
	if u := o.opened("far.test", clientAddr.String()); u.region.name != "far" {
		t.Errorf("the refused client went to %s", u.region.name)
	}
	if u := o.opened("far.test", "192.0.2.99"); u.region.name != "near" {
		t.Errorf("another client went to %s", u.region.name)
	}
	o.mu.Lock()
	o.clock = o.clock.Add(stickyFor)
	o.mu.Unlock()
	o.drive(5 * time.Second)
	if u := o.opened("far.test", clientAddr.String()); u.region.name != "near" {
		t.Errorf("half a day later the client goes to %s", u.region.name)
	}
}

// A region that is full, as a real Allocate finds out, keeps what it has and gets nothing new.
func TestRegionsFull(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "test authority")
	full := newStandin(t, "full.test", "127.0.21.1", 0, ca)
	full.refuse(stun.CodeInsufficientCapacity)
	other := newStandin(t, "other.test", "127.0.21.2", 20*time.Millisecond, ca)
	o := newOutside(t, ca, []configs.Region{
		{Name: "full", URLs: full.urls("udp"), Use: true},
		{Name: "other", URLs: other.urls("udp"), Use: true},
	}, map[string]string{"full.test": "127.0.21.1", "other.test": "127.0.21.2"}, func(o *outside) {
		o.config.Services[0].TURNCredentials = configs.TURNCredentials{SecretFile: writeFile(t, "secret\n")}
	})
	other.refuse(stun.CodeAllocQuotaReached)
	o.drive(3 * time.Second)
	if st := o.region("full"); st.State != "down" || !strings.Contains(st.Reason, "508") {
		t.Errorf("%+v", st)
	}
	if rg := o.rungOf("other", "udp"); rg.State != "up" || !strings.Contains(rg.Note, "486") {
		t.Errorf("%+v", rg)
	}
	if u := o.opened("", ""); u.region.name != "other" {
		t.Errorf("uplink to %s", u.region.name)
	}
	full.refuse(stun.CodeAllocQuotaReached)
	o.drive(70 * time.Second)
	if st := o.region("full"); st.State != "up" {
		t.Errorf("a region that is no longer full: %+v", st)
	}
}

func TestRegionsSilentAtStart(t *testing.T) {
	t.Parallel()
	ca := newTestCA(t, "test authority")
	one := newStandin(t, "one.test", "127.0.22.1", 0, ca)
	one.silent.Store(true)
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls("udp"), Use: true}},
		map[string]string{"one.test": "127.0.22.1"}, nil)
	o.live()
	began := time.Now()
	_, err := o.open(context.Background(), "", "", clientAddr)
	if took := time.Since(began); err == nil || took > openTimeout+2*time.Second {
		t.Errorf("%v after %v", err, took)
	}
	began = time.Now()
	if _, err = o.open(context.Background(), "", "", clientAddr); err == nil || time.Since(began) > time.Second {
		t.Errorf("known to be dead: %v after %v", err, time.Since(began))
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := o.open(ctx, "", "", clientAddr); err == nil {
		t.Error("an uplink for a session that has ended")
	}
	if _, err := o.open(t.Context(), "nobody", "", clientAddr); err == nil || statusOf(err) != "err_upstream" {
		t.Errorf("unknown service: %v", err)
	}
}

func TestRegionsBadConfiguration(t *testing.T) {
	tests := []struct {
		name   string
		change func(*configs.Config)
		want   string
	}{
		{"dscp", func(c *configs.Config) { c.Relay.DSCP = "AF99" }, "relay.dscp"},
		{"ca_file", func(c *configs.Config) { c.Services[0].CAFile = "/nonexistent" }, "ca_file"},
		{"ca_file without certificates", func(c *configs.Config) { c.Services[0].CAFile = writeFile(t, "none") }, "no certificate"},
		{"secret_file", func(c *configs.Config) { c.Services[0].TURNCredentials.SecretFile = "/nonexistent" }, "secret_file"},
		{"empty password_file", func(c *configs.Config) {
			c.Services[0].TURNCredentials = configs.TURNCredentials{Username: "u", PasswordFile: writeFile(t, "\n")}
		}, "password_file"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := &configs.Config{Services: []configs.Service{{Name: "calls"}}}
			tt.change(c)
			_, err := buildRegions(regionsOptions{Config: c})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one about %s", err, tt.want)
			}
		})
	}
}

package gateway

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/audit"
	"hafen/gateway/events"
	"hafen/gateway/forward"
	"hafen/gateway/netpolicy"
	"hafen/gateway/status"
)

// watch is what the gateway finds out about itself beside its parts: disk, company proxy, DNS, limits that were hit; and whom it
// tells: the incidents' notifier and the auditor's log.
type watch struct {
	events *events.Notifier
	audit  atomic.Pointer[audit.Log] // of nil: off

	faults  *prometheus.GaugeVec // what is wrong now, by kind and level
	counted [][2]string          // the kinds and levels that faults has

	drill drill
	wg    sync.WaitGroup // of what looks

	hurry chan struct{} // somebody waits for news of the company proxy and DNS

	mu      sync.Mutex
	proxy   finding       // of the company proxy
	dns     finding       // of the DNS servers
	refused []refusedThen // of the last minute, oldest first
}

// refusedThen is how much had been refused at a moment, by limit.
type refusedThen struct {
	at time.Time
	by map[string]int
}

func (g *Gateway) makeWatch() error {
	c := g.config()
	g.watch = &watch{hurry: make(chan struct{}, 1)}
	g.watch.faults = prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "hafen_build_faults", Help: "What the status page says is wrong now."}, []string{"kind", "level"})
	g.registry.MustRegister(g.watch.faults)
	g.watch.events = events.New(events.Options{Ways: eventWays(c), Dial: g.dialReports, Log: g.log.With("area", "events"), Now: g.opts.Now})
	log, err := g.openAudit(c)
	g.watch.audit.Store(log)
	return err
}

func eventWays(c *configs.Config) events.Ways {
	m := c.Events.Mail
	return events.Ways{Gateway: c.Name, Webhook: c.Events.Webhook, MailServer: m.Server, From: m.From, To: m.To}
}

// openAudit opens the auditor's log of a configuration; nil where there is none.
func (g *Gateway) openAudit(c *configs.Config) (*audit.Log, error) {
	return audit.Open(audit.Options{
		Gateway: c.Name, File: c.Audit.File, Retention: c.Audit.Retention, Syslog: c.Audit.Syslog, FullAddresses: c.Audit.FullAddresses,
		Dial: g.dialReports, Log: g.log.With("area", "audit"), Now: g.opts.Now,
	})
}

// prepareWatch opens what another configuration wants told; use has it told from then on.
func (g *Gateway) prepareWatch(c *configs.Config) (use func(), err error) {
	last, before := g.config(), g.watch.audit.Load()
	log := before
	if last.Audit != c.Audit || last.Name != c.Name {
		if log, err = g.openAudit(c); err != nil {
			return nil, err
		}
	}
	return func() {
		g.watch.events.Use(eventWays(c))
		g.watch.audit.Store(log)
		log.Write(audit.Record{Event: "config", Status: "ok", Detail: changes(last, c)})
		if log != before {
			g.watch.wg.Go(func() { _ = before.Close() }) // it writes what waits
		}
	}, nil
}

// startWatch begins to look; what looks ends with Stop, before the parts that it looks at are closed.
func (g *Gateway) startWatch() {
	for _, look := range []func(context.Context){g.status.Run, g.watch.events.Run, g.askOutside, g.keepWeek, g.keepAddresses} {
		g.watch.wg.Go(func() { look(g.ctx) })
	}
}

// dialReports dials what takes events and audit records: a server of the house or of this machine, or through the company proxy.
func (g *Gateway) dialReports(ctx context.Context, network, addr string) (net.Conn, error) {
	return g.dialer().DialVia(ctx, network, addr, netpolicy.Scope{Private: slices.Concat(houseNetworks(), ownNetworks)})
}

var ownNetworks = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

// hurryUp has everything asked that is asked at intervals: somebody has the status page open.
func (g *Gateway) hurryUp() {
	g.signaling.Hurry()
	select {
	case g.watch.hurry <- struct{}{}:
	default:
	}
}

// observed hands what is wrong to the notifier and to the metrics.
func (g *Gateway) observed(s status.Snapshot) {
	g.watch.count(s.Faults)
	var conditions []events.Condition
	for _, f := range s.Faults {
		if f.Level != status.Notice {
			conditions = append(conditions, events.Condition{
				ID: f.ID, Kind: f.Kind, Critical: f.Level == status.Critical, Cause: f.Sentence, Todo: f.Advice, Works: f.Works, Manual: f.Manual,
			})
		}
	}
	touched := events.Touched{Calls: s.Counts.Allocations}
	for _, site := range s.Sites {
		if site.Clients > 0 {
			touched.Sites = append(touched.Sites, site.Name)
		}
	}
	g.watch.events.Observe(conditions, touched)
}

// count makes the faults a metric. A kind that was there once stays with 0, so that an alert sees it end.
func (w *watch) count(faults []status.Fault) {
	now := make(map[[2]string]float64)
	for _, f := range faults {
		now[[2]string{f.Kind, f.Level}]++
	}
	for _, before := range w.counted {
		w.faults.WithLabelValues(before[0], before[1]).Set(now[before])
	}
	for labels, n := range now {
		w.faults.WithLabelValues(labels[0], labels[1]).Set(n)
		if !slices.Contains(w.counted, labels) {
			w.counted = append(w.counted, labels)
		}
	}
}

// selfTests are what the gateway tests about itself, for the status page.
func (g *Gateway) selfTests() []status.SelfTest {
	all := []status.SelfTest{g.diskTest(), g.storeTest()}
	if g.dialer().Proxy != nil {
		all = append(all, g.proxyTest())
	}
	if t := g.dnsTest(); t.State != "" {
		all = append(all, t)
	}
	if parent := g.forward.ParentState(); parent.Configured {
		all = append(all, parentTest(parent, g.config().PAC.ParentFile != ""))
	}
	return append(all, g.auditTest(), g.eventsTest())
}

func (g *Gateway) diskTest() status.SelfTest {
	t := status.SelfTest{Kind: "disk", State: "pass", Works: "Calls are not affected."}
	free, total, err := diskFree(g.config().DataDir)
	const mib = 1 << 20
	t.Advice = fmt.Sprintf("Make room below %s: certificates, reports and the audit log can't be kept on a full disk.", g.config().DataDir)
	switch {
	case err != nil:
		t.State, t.Sentence, t.Advice = "skipped", "The disk of data_dir can't be asked: "+err.Error(), ""
	case free < fullBelow:
		t.State, t.Sentence = "fail", fmt.Sprintf("The disk of data_dir is full: %d MiB are free.", free/mib)
	case free < nearlyFullBelow || free < total/20:
		t.State, t.Sentence = "warn", fmt.Sprintf("The disk of data_dir is nearly full: %d MiB are free.", free/mib)
	default:
		t.Sentence, t.Advice = fmt.Sprintf("The disk of data_dir has room: %d MiB are free.", free/mib), ""
	}
	if err := syscall.Access(g.config().DataDir, 2 /* W_OK */); err != nil {
		t.State, t.Sentence = "fail", fmt.Sprintf("data_dir can't be written to: %v.", err)
		t.Advice = fmt.Sprintf("Mount %s writable, or give it to the user that hafen runs as: certificates, reports and the audit log can't be kept.", g.config().DataDir)
	}
	return t
}

// parentTest: without the company's own PAC file, or a copy of it, there is none of ours.
func parentTest(p forward.ParentState, isFile bool) status.SelfTest {
	t := status.SelfTest{Kind: "pac-parent", State: "pass", Sentence: "The company's own PAC file is read.", Works: "The last copy is still served."}
	if p.Trouble == "" {
		return t
	}
	t.State, t.Sentence = "warn", fmt.Sprintf("The company's own PAC file has not been read for %s.", p.Age.Round(time.Second))
	t.Advice = p.Trouble + ". Let this machine reach pac.parent."
	if isFile {
		t.Advice = p.Trouble + ". Mend pac.parent_file."
	}
	if !p.Have {
		t.State, t.Sentence, t.Works = "fail", "The company's own PAC file could never be read: the gateway's own is off.", "Browsers that have a PAC file already go on with it."
	}
	return t
}

func (g *Gateway) auditTest() status.SelfTest {
	on, failure, lost := g.watch.audit.Load().State()
	t := status.SelfTest{Kind: "audit-log", State: "pass", Sentence: "The audit log is written.", Works: "Calls are not affected."}
	switch {
	case !on:
		t.State, t.Sentence = "skipped", "There is no audit log."
	case failure != "" && lost > 0:
		t.State, t.Sentence, t.Advice = "warn", fmt.Sprintf("The audit log is not written, %d records were lost.", lost), failure
	case failure != "":
		t.State, t.Sentence, t.Advice = "warn", "The audit log is not written.", failure
	}
	return t
}

func (g *Gateway) eventsTest() status.SelfTest {
	configured, failure, _ := g.watch.events.Delivery()
	t := status.SelfTest{Kind: "event-delivery", State: "pass", Sentence: "Events are delivered.", Works: "Calls are not affected."}
	switch {
	case !configured:
		t.State, t.Sentence = "skipped", "Events go nowhere: neither events.webhook nor events.mail is set."
	case failure != "":
		t.State, t.Sentence, t.Advice = "warn", "An event could not be delivered.", failure
	}
	return t
}

// refusedNow notes how much was refused because of each limit, and tells how much of that was within the last minute.
func (w *watch) refusedNow(now time.Time, by map[string]int) map[string]int {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.refused) > 0 && now.Sub(w.refused[0].at) > time.Minute {
		w.refused = w.refused[1:]
	}
	recent := make(map[string]int)
	if len(w.refused) > 0 {
		for key, n := range by {
			recent[key] = n - w.refused[0].by[key]
		}
	}
	if n := len(w.refused); n == 0 || now.Sub(w.refused[n-1].at) >= time.Second {
		w.refused = append(w.refused, refusedThen{now, by})
	}
	return recent
}

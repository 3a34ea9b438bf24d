package life

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"hafen/cmd/internal/cloud"
	"hafen/gateway/status"
)

const (
	// faultBound is how long a fault may take to be on the page where the machine is busy; 5 s is what is meant, and what was measured
	// is printed.
	faultBound = 30 * time.Second
)

// night is a running program with somebody watching its status page.
type night struct {
	*world
	watcher *http.Client
	shown   []string // sentences that events have to tell of
}

// newNight starts it. extra is added to the configuration.
func newNight(t *testing.T, change func(string) string, extra string) *night {
	t.Helper()
	admit := withUser(t)
	n := &night{world: newWorld(t, func(text string) string {
		text = strings.NewReplacer("hosts: [call.example.net]", "hosts: ["+callName+"]", "level: warn", "level: debug").Replace(text) + extra
		text = admit(text)
		if change != nil {
			text = change(text)
		}
		return text
	})}
	n.watch()
	return n
}

// watch opens the status page's stream, as a browser does: while somebody watches, the gateway looks more often.
func (n *night) watch() {
	n.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		n.t.Fatal(err)
	}
	n.watcher = &http.Client{Jar: jar, Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return n.dial(ownName) }}}
	page := "https://" + ownName + "/status/"
	resp, err := n.watcher.PostForm(page+"login", url.Values{"name": {"anna"}, "password": {nightPassword}})
	if err != nil {
		n.t.Fatal(err)
	}
	_ = resp.Body.Close()
	for _, c := range jar.Cookies(resp.Request.URL) {
		secrets.Add("a cookie of the status page", c.Value)
	}
	ctx, cancel := context.WithCancel(context.Background())
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, page+"api/live", nil)
	if err != nil {
		n.t.Fatal(err)
	}
	stream, err := n.watcher.Do(req)
	if err != nil || stream.StatusCode != http.StatusOK {
		n.t.Fatalf("the page's stream: %v %v", stream, err)
	}
	var reader sync.WaitGroup
	reader.Go(func() {
		for in := bufio.NewReader(stream.Body); ; {
			line, err := in.ReadString('\n')
			secrets.Search(n.t, "the page's stream", line)
			if err != nil {
				return
			}
		}
	})
	n.t.Cleanup(func() { cancel(); reader.Wait(); _ = stream.Body.Close() })
}

func (n *night) snapshot() (s status.Snapshot) {
	n.t.Helper()
	code, body := n.get("/api/v1/status")
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		n.t.Fatalf("status: %d %v %.200s", code, err, body)
	}
	return s
}

// shows waits until the status has a fault of the kind whose sentence has the words, and tells how long that took. Then the terminal
// has to have it too, with what to do, and so has the metric.
func (n *night) shows(since time.Time, kind, words string) {
	n.t.Helper()
	var found status.Fault
	n.until(kind+" on the status page", faultBound, func() bool {
		for _, f := range n.snapshot().Faults {
			if f.Kind == kind && strings.Contains(f.Sentence+" "+f.Advice, words) {
				found = f
				return true
			}
		}
		return false
	})
	n.t.Logf("%-22s after %4d ms: %s → %s", kind, time.Since(since).Milliseconds(), found.Sentence, found.Advice)
	if found.Advice == "" || found.Works == "" || found.Manual == "" {
		n.t.Errorf("%s says nothing of what to do, what still works or where to read: %+v", kind, found)
	}
	out, err := n.command("status")
	if err != nil || !strings.Contains(timeless(out), timeless(found.Sentence)) || !strings.Contains(out, "→ "+found.Advice) {
		n.t.Errorf("%s: hafen status does not say so: %v\n%s", kind, err, out)
	}
	n.until(kind+" as a metric", faultBound, func() bool {
		return n.metric(fmt.Sprintf("hafen_build_faults{kind=%q,level=%q}", kind, found.Level)) > 0
	})
	n.shown = append(n.shown, found.Sentence)
}

// passes shows a fault that the next one takes the place of, before an event tells of it.
func (n *night) passes(since time.Time, kind, words string) {
	n.t.Helper()
	n.shows(since, kind, words)
	n.shown = n.shown[:len(n.shown)-1]
}

// timeless is a sentence without its numbers: how much is free, for one, is another a moment later.
func timeless(sentence string) string { return numbers.ReplaceAllString(sentence, "N") }

var numbers = regexp.MustCompile(`\d+`)

// told waits until the events tell of everything that was shown: they do when it has lasted for ten seconds.
func (n *night) told() {
	n.t.Helper()
	for _, sentence := range n.shown {
		n.until("an event: "+sentence, faultBound, func() bool {
			for _, e := range n.snapshot().Events {
				if timeless(e.Sentence) == timeless(sentence) && e.Advice != "" {
					return true
				}
			}
			return false
		})
	}
}

// gate passes connections on until it is shut.
type gate struct {
	ln  net.Listener
	to  string
	mu  sync.Mutex
	all []net.Conn
}

func newGate(t *testing.T, to string) *gate {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	g := &gate{ln: ln, to: to}
	t.Cleanup(g.shut)
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			go g.pass(in)
		}
	}()
	return g
}

func (g *gate) pass(in net.Conn) {
	out, err := net.Dial("tcp", g.to)
	if err != nil {
		_ = in.Close()
		return
	}
	g.mu.Lock()
	g.all = append(g.all, in, out)
	g.mu.Unlock()
	go func() { _, _ = io.Copy(out, in); _ = out.Close() }()
	_, _ = io.Copy(in, out)
	_ = in.Close()
}

func (g *gate) shut() {
	_ = g.ln.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, c := range g.all {
		_ = c.Close()
	}
}

// crowd is the load under which faults are shown: what clients do all the time, but for media, whose number is one of the faults.
func (n *night) crowd() *load {
	if *whole {
		return n.startLoad(200, 200, 0, 100)
	}
	return n.startLoad(10, 10, 0, 10)
}

// TestEachFaultIsShown: one thing after the other breaks, and the status page, the terminal, the metric and an event name each.
func TestEachFaultIsShown(t *testing.T) {
	t.Parallel()
	far := farRegion(t)
	files := newNightFiles(t)
	var calls *gate
	n := newNight(t, func(text string) string {
		text, upstream, _ := changeUpstream(t, text)
		calls = upstream
		text = strings.Replace(text, "regions: [", fmt.Sprintf(`regions: [{name: far, urls: ["%s"]}, `, strings.Join(far.URLs(), `", "`)), 1)
		return strings.Replace(text, "\ndata_dir: ", "\nlimits: {allocations: 5}\n"+files.config()+"data_dir: ", 1)
	}, "")
	n.until("both regions", faultBound, func() bool {
		_, body := n.get("/metrics")
		return strings.Count(body, "hafen_relay_region_up{") == 2 && n.metric(`hafen_relay_region_up{region="near",service="calls"}`) == 1 && n.metric(`hafen_relay_region_up{region="far",service="calls"}`) == 1
	})
	people := n.crowd()
	peer := echoPeer(n.world)
	stream := func() time.Time {
		s, err := n.newStream("tls", peer)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(s.giveBack)
		return time.Now()
	}
	for range 3 {
		stream()
	}
	n.passes(stream(), "limit-near", "limits.allocations")
	n.shows(stream(), "limit-reached", "limits.allocations")
	if out, _ := ours(t, program, "doctor", "--config", n.file(), "--patience", "3s"); !strings.Contains(out, "limits.allocations is reached") {
		t.Errorf("doctor does not name the limit:\n%s", out)
	}
	if s, err := n.newStream("tls", peer); err == nil {
		s.giveBack()
		t.Error("a sixth allocation of five")
	}

	n.passes(files.spoil(t), "certificate-not-taken", "certificate")
	n.passes(files.issue(t, time.Hour), "certificate-ends", "ends in 0 days")
	files.issue(t, 8*time.Second)
	time.Sleep(time.Until(files.ends))
	n.shows(files.ends, "certificate-ended", ownName)
	people.end(0) // nothing of this has ended anybody's call; what follows would

	far.SetDown(true)
	n.passes(time.Now(), "region-down", "far of calls")
	calls.shut()
	n.shows(time.Now(), "call-server-down", callName)
	n.cloud.Region("near").SetDown(true)
	n.shows(time.Now(), "no-region", "calls")
	if n.metric(`hafen_relay_region_up{region="near",service="calls"}`) != 0 || n.metric(fmt.Sprintf(`hafen_signaling_call_server_up{host=%q,service="calls"}`, callName)) != 0 {
		t.Error("the metrics of region and call server say that they are up")
	}
	n.told()
}

// TestDiskFaultsAreShown: data_dir is nearly full, then full.
func TestDiskFaultsAreShown(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("skipped: only root can mount a small disk")
	}
	disk := t.TempDir()
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=120m"); err != nil {
		t.Skipf("skipped: no small disk can be mounted here: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(disk, syscall.MNT_DETACH) })
	files := newNightFiles(t)
	n := newNight(t, func(text string) string {
		at := strings.Index(text, "data_dir: ")
		end := at + strings.Index(text[at:], "\n")
		return text[:at] + files.config() + "data_dir: " + disk + text[end:]
	}, "")
	n.shows(time.Now(), "disk", "nearly full")
	n.told() // and who was told this is told as well that it has become worse
	people := n.crowd()
	if err := os.WriteFile(filepath.Join(disk, "ballast"), make([]byte, 90<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	n.shows(time.Now(), "disk", "is full")
	people.end(0)
	n.told()
}

// TestProxyFaultIsShown: the company proxy dies.
func TestProxyFaultIsShown(t *testing.T) {
	t.Parallel()
	proxy := newCompanyProxy(t)
	n := newNight(t, nil, fmt.Sprintf("egress: {proxy: \"http://gateway:%s@%s\"}\n", secrets.Make("the proxy's password"), proxy.ln.Addr()))
	n.until("the proxy to be asked", faultBound, func() bool { return proxy.asked.Load() > 0 })
	proxy.shut()
	n.shows(time.Now(), "company-proxy", "does not let the gateway through")
	n.told()
}

// TestDNSFaultIsShown: the house's resolver falls silent.
func TestDNSFaultIsShown(t *testing.T) {
	t.Parallel()
	dns := newResolver(t)
	n := newNight(t, func(text string) string {
		text, _, port := changeUpstream(t, text)
		return strings.Replace(text, "http://127.0.0.1:"+port, "http://inside.calls.test:"+port, 1)
	}, fmt.Sprintf("dns: {servers: [%q]}\n", dns.addr))
	n.until("the call server to be up", faultBound, func() bool {
		return n.metric(fmt.Sprintf(`hafen_signaling_call_server_up{host=%q,service="calls"}`, callName)) == 1
	})
	dns.silent.Store(true)
	n.shows(time.Now(), "dns", "inside.calls.test")
	n.told()
}

// changeUpstream puts a gate before the call service.
func changeUpstream(t *testing.T, text string) (changed string, g *gate, port string) {
	t.Helper()
	_, rest, _ := strings.Cut(text, `upstream: "http://`)
	to, _, _ := strings.Cut(rest, `"`)
	g = newGate(t, to)
	_, port, _ = net.SplitHostPort(g.ln.Addr().String())
	return strings.Replace(text, "http://"+to, "http://"+g.ln.Addr().String(), 1), g, port
}

// farRegion is one more relay of the service.
func farRegion(t *testing.T) *cloud.Region {
	t.Helper()
	loopback := []string{"127.0.0.1:0"}
	c, err := cloud.New(cloud.Options{
		Listen: "127.0.0.1:0", Secret: cloudSecret,
		Regions: []cloud.RegionOptions{{Name: "far", UDP: loopback, TCP: loopback, PublicIP: netip.MustParseAddr("127.0.0.1"), Delay: 30 * time.Millisecond}},
	})
	if err == nil {
		err = c.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c.Region("far")
}

// companyProxy lets everybody through to nothing in particular.
type companyProxy struct {
	ln    net.Listener
	asked atomic.Int32
}

func newCompanyProxy(t *testing.T) *companyProxy {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &companyProxy{ln: ln}
	srv := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.asked.Add(1)
		w.WriteHeader(http.StatusOK)
		if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
			time.AfterFunc(100*time.Millisecond, func() { _ = conn.Close() })
		}
	})}
	go func() { _ = srv.Serve(ln) }()
	t.Cleanup(func() { _ = srv.Close() })
	return p
}

func (p *companyProxy) shut() { _ = p.ln.Close() }

// resolver says that every name is this machine, for a second.
type resolver struct {
	addr   string
	silent atomic.Bool
}

func newResolver(t *testing.T) *resolver {
	t.Helper()
	pc, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = pc.Close() })
	r := &resolver{addr: pc.LocalAddr().String()}
	go func() {
		buf := make([]byte, 4096)
		for {
			size, from, err := pc.ReadFrom(buf)
			if err != nil {
				return
			}
			if answer := r.answer(buf[:size]); answer != nil {
				_, _ = pc.WriteTo(answer, from)
			}
		}
	}()
	return r
}

func (r *resolver) answer(query []byte) []byte {
	var m dnsmessage.Message
	if r.silent.Load() || m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class, Type: q.Type, TTL: 1}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
		}}
	}
	answer, err := m.Pack()
	if err != nil {
		return nil
	}
	return answer
}

// TestParentFaultIsShown: the company's own PAC file can't be had, since its server is where no house's server is; the doctor dials as the
// gateway does.
func TestParentFaultIsShown(t *testing.T) {
	t.Parallel()
	company := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a server on loopback is asked") }))
	t.Cleanup(company.Close)
	n := newNight(t, func(text string) string {
		return strings.Replace(text, "pac: {otherwise: DIRECT}", fmt.Sprintf("pac: {parent: %q}", company.URL+"/"+secrets.Make("the path of the parent's PAC file")+".pac"), 1)
	}, "")
	n.shows(time.Now(), "pac-parent", "loopback")
	out, err := ours(t, program, "doctor", "--config", n.file())
	if err == nil || !strings.Contains(out, "the company's own PAC file: ") || !strings.Contains(out, "loopback") {
		t.Errorf("doctor does not name it: %v\n%s", err, out)
	}
}

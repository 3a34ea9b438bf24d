package precall

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hafen/configs"
	"hafen/gateway/page"
)

//go:embed web
var web embed.FS

// Path is where the page lives.
const Path = "/precall/"

// Options are what the test needs of the gateway. Functions are called at each run and must be safe for concurrent use.
type Options struct {
	// Name is the gateway's own name, for advice.
	Name string
	// Own tells whether a host is one of the gateway's names or addresses. nil: Name alone.
	Own func(host string) bool
	// Mode is advisory, lenient or strict; call pages get it with the verdict. "": advisory.
	Mode string
	// Thresholds override configs.DefaultThresholds one by one.
	Thresholds map[string]float64
	// History is how long a run is kept where Store is nil. 0: 90 days.
	History time.Duration
	// SelfSigned says that the gateway's certificate is of its own authority, which browsers have to be told to trust.
	SelfSigned bool
	// ICE gives the ICE servers of the test relay, with credentials of one run. nil: relays are not tested.
	ICE func(ctx context.Context, client netip.Addr) ([]ICEServer, error)
	// Regions and CallServers are measured now, by the gateway. nil: not known.
	Regions     func(ctx context.Context) []Region
	CallServers func(ctx context.Context) []CallServer
	// Plan is what the page of a client is to ask besides the gateway. nil: nothing.
	Plan func(ctx context.Context, client netip.Addr) Plan
	// Seen is what the gateway saw of who sends a request. nil: nothing.
	Seen func(*http.Request) Seen
	// PAC says that the gateway has a PAC file for browsers.
	PAC bool
	// Load tells whether the gateway takes new sessions. nil: it does.
	Load func() Load
	// Site is shown around the page. nil: none.
	Site func(client netip.Addr) page.Site
	// SiteName is the site whose networks a client is in; "" for none. nil: none.
	SiteName func(client netip.Addr) string
	// Guest reports whether a client may use this page and nothing else of the gateway. nil: nobody.
	Guest func(client netip.Addr) bool
	// CallPage reports whether an origin is that of a service's pages, which may read verdicts. nil: none.
	CallPage func(origin string) bool
	// Client is the address of who asks. nil: RemoteAddr.
	Client func(*http.Request) netip.Addr
	// Store keeps the runs; whoever opened it closes it. nil: in memory.
	Store *Store
	// Registry takes the metrics. nil: none.
	Registry prometheus.Registerer
	// Log takes one line a run. nil: silent.
	Log *slog.Logger
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// ICEServer is one entry of an ICE configuration, as RTCPeerConnection takes it.
type ICEServer struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username,omitempty"`
	Credential string   `json:"credential,omitempty"`
}

// Server is the test: page, endpoints, analysis, history. Close ends what it holds open.
type Server struct {
	opts      Options // Name, Mode, Thresholds, History and SelfSigned as they were at first: see settings
	settings  atomic.Pointer[settings]
	store     *Store
	ownStore  bool
	texts     *page.Texts
	page      *page.Template
	assets    *page.FileSet
	routes    *http.ServeMux
	wellKnown *http.ServeMux
	metrics   *metrics

	iceRate, reportRate, guestRate, readRate, planRate *rateLimit
	holds, sockets, loads                              *gauge
	runs                                               *runs
	held                                               held

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
}

// New makes the test. It starts nothing.
func New(o Options) (*Server, error) {
	s := &Server{opts: withDefaults(o)}
	s.settings.Store(newSettings(s.opts))
	s.metrics = newMetrics(o.Registry)
	if err := s.loadPage(); err != nil {
		return nil, fmt.Errorf("precall: %w", err)
	}
	// A client may be a company behind one address: generous for each, and bounded together.
	s.iceRate = newRateLimit(2, 60, 100, s.opts.Now)
	s.reportRate = newRateLimit(1, 30, 50, s.opts.Now)
	s.guestRate = newRateLimit(0.1, 10, 2, s.opts.Now)
	s.readRate = newRateLimit(5, 60, 200, s.opts.Now)
	s.planRate = newRateLimit(2, 60, 100, s.opts.Now)
	s.holds, s.sockets, s.loads = newGauge(200, 4000), newGauge(100, 1000), newGauge(20, 100)
	s.runs, s.held.began = newRuns(), map[heldName]time.Time{}
	s.registerGauges(o.Registry)
	if s.store = o.Store; s.store == nil {
		s.store, s.ownStore = OpenStore(StoreOptions{History: s.opts.History, Log: s.opts.Log, Now: s.opts.Now}), true
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.route()
	return s, nil
}

// settings are what may change while the test runs.
type settings struct {
	name, mode string
	thresholds Thresholds
	pac        bool
	selfSigned bool
}

func newSettings(o Options) *settings {
	s := &settings{name: o.Name, mode: o.Mode, selfSigned: o.SelfSigned, pac: o.PAC, thresholds: Thresholds(configs.DefaultThresholds())}
	maps.Copy(s.thresholds, o.Thresholds)
	return s
}

// Reconfigure takes Name, Mode, Thresholds, History and SelfSigned of another configuration; all else in o is ignored. Runs under way
// are judged by what holds at their end.
func (s *Server) Reconfigure(o Options) {
	o = withDefaults(o)
	s.settings.Store(newSettings(o))
	s.store.Keep(o.History)
}

func withDefaults(o Options) Options {
	if o.Mode == "" {
		o.Mode = "advisory"
	}
	if o.History == 0 {
		o.History = 90 * 24 * time.Hour
	}
	if o.Regions == nil {
		o.Regions = func(context.Context) []Region { return nil }
	}
	if o.CallServers == nil {
		o.CallServers = func(context.Context) []CallServer { return nil }
	}
	if o.Own == nil {
		name := o.Name
		o.Own = func(host string) bool { return host == name }
	}
	if o.Plan == nil {
		o.Plan = func(context.Context, netip.Addr) Plan { return Plan{} }
	}
	if o.Seen == nil {
		o.Seen = func(*http.Request) Seen { return Seen{} }
	}
	if o.Load == nil {
		o.Load = func() Load { return Load{} }
	}
	if o.Site == nil {
		o.Site = func(netip.Addr) page.Site { return page.Site{} }
	}
	if o.SiteName == nil {
		o.SiteName = func(netip.Addr) string { return "" }
	}
	if o.Guest == nil {
		o.Guest = func(netip.Addr) bool { return false }
	}
	if o.CallPage == nil {
		o.CallPage = func(string) bool { return false }
	}
	if o.Client == nil {
		o.Client = remoteAddr
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

func (s *Server) loadPage() (err error) {
	if s.texts, err = page.LoadTexts(web, "web/messages.*.json"); err != nil {
		return err
	}
	if s.page, err = page.Parse(web, s.texts, "web/precall.html"); err != nil {
		return err
	}
	s.assets, err = page.NewFileSet(web, "web", Path+"assets/")
	return err
}

func (s *Server) route() {
	s.wellKnown = http.NewServeMux()
	s.wellKnown.HandleFunc("GET /.well-known/hafen/ws", s.serveEcho)
	s.wellKnown.HandleFunc("GET /.well-known/hafen/hold", s.serveHold)
	s.wellKnown.HandleFunc("GET /.well-known/hafen/here", s.serveHere)
	s.wellKnown.HandleFunc("/", missing)

	s.routes = http.NewServeMux()
	s.routes.HandleFunc("GET "+Path+"{$}", s.servePage)
	s.routes.Handle(Path+"assets/", s.assets)
	s.routes.HandleFunc("GET "+Path+"plan", s.servePlan)
	s.routes.HandleFunc("GET "+Path+"load", s.serveDown)
	s.routes.Handle("POST "+Path+"load", sameOrigin(http.HandlerFunc(s.serveUp)))
	s.routes.HandleFunc("GET "+Path+"load/arrived", s.serveArrived)
	s.routes.Handle("POST "+Path+"report", sameOrigin(http.HandlerFunc(s.serveReport)))
	s.routes.HandleFunc("GET /api/v1/precall/{id}", s.serveVerdict)
	s.routes.HandleFunc("OPTIONS /api/v1/precall/{id}", s.servePreflight)
	s.routes.Handle("/api/v1/ice", s.ICE())
	s.routes.Handle("/.well-known/hafen/", s.wellKnown)
	s.routes.HandleFunc("/", missing)
}

// sameOrigin lets only our own page post: another site must not fill the history in a visitor's name.
func sameOrigin(next http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		page.Plain(w, http.StatusForbidden, "Reports come from the test page itself.")
	}))
	return p.Handler(next)
}

func missing(w http.ResponseWriter, _ *http.Request) {
	page.Plain(w, http.StatusNotFound, "There is no such page here.")
}

// ServeHTTP answers everything of the test on the gateway's own names: the page below Path, /api/v1/ice,
// /api/v1/precall/ID and the well-known endpoints.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page.Headers(w.Header())
	s.routes.ServeHTTP(w, r)
}

// ICE answers /api/v1/ice alone.
func (s *Server) ICE() http.Handler {
	return page.Secure(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			page.Plain(w, http.StatusMethodNotAllowed, "ICE servers are only read.")
			return
		}
		s.serveICE(w, r)
	}))
}

// WellKnown answers /.well-known/hafen/ws and /hold alone: under the names of routes as well, so that a call server's
// name can be tested without the call server.
func (s *Server) WellKnown() http.Handler { return page.Secure(s.wellKnown) }

// Close ends held requests and echoes, and waits for them.
func (s *Server) Close() error {
	s.cancel()
	s.holds.wait()
	s.sockets.wait()
	s.loads.wait()
	if s.ownStore {
		return s.store.Close()
	}
	return nil
}

// Find gives the run of a short code, as a person may have written it down, or of a long id.
func (s *Server) Find(ctx context.Context, code string) (Record, error) {
	if isID(code) {
		return s.store.ByID(ctx, code)
	}
	code, ok := CanonicalCode(code)
	if !ok {
		return Record{}, ErrNoRun
	}
	return s.store.ByCode(ctx, code)
}

// Recent gives the newest runs, at most n.
func (s *Server) Recent(ctx context.Context, n int) ([]Run, error) { return s.store.Recent(ctx, n) }

// History sums the runs since a time up, by day and place.
func (s *Server) History(ctx context.Context, since time.Time) ([]Count, error) {
	return s.store.Counts(ctx, since)
}

// Report writes a run out in a language: the report of the contract, with its details and advice.
func (s *Server) Report(rec Record, lang string) Report { return rec.report(s.texts, lang) }

var (
	// ErrNoRun says that there is no run of this code or id, or no longer.
	ErrNoRun = errors.New("no precall run has this code")
	// ErrCodeTaken says that another run has the code already.
	ErrCodeTaken = errors.New("another precall run has this code")
)

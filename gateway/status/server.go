// Package status is what the gateway says of itself, to people and to machines.
//
// People get a page at /status/ behind a login, machines /metrics, /livez, /readyz and /api/v1/status on a listener of
// their own, a terminal the same as text. All of them show one Snapshot, which the composition root fills.
//
// There is no default password and no first-run page that makes one: without users the page explains `hafen passwd`.
// Logins are bounded in every direction: two hashes at once, five free tries a client, sessions that end by themselves.
package status

import (
	"crypto/subtle"
	"embed"
	"errors"
	"fmt"
	"log/slog"
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

// Options are the world of a Server.
type Options struct {
	// Config is the whole configuration; the status page reads admin, clients and site.
	Config *configs.Config
	// Snapshot tells how things stand now. It is asked every two seconds by each open page, and must be cheap.
	Snapshot func() Snapshot
	// Health is for /livez and /readyz.
	Health func() Health
	// Client tells a request's own address, PROXY protocol applied. nil: RemoteAddr.
	Client func(*http.Request) netip.Addr
	// Gatherer has the metrics.
	Gatherer prometheus.Gatherer
	// Helpdesk is what the role helpdesk sees, and admins too.
	Helpdesk Helpdesk
	// Site tells the house of whoever asks. nil: that of the configuration.
	Site func(*http.Request) page.Site
	// Observe is told each snapshot that Run takes. nil: nobody wants to know.
	Observe func(Snapshot)
	// Hurry asks the parts to look again now, since somebody is watching. nil: they look in their own time.
	Hurry func()
	// Drain ends the gateway when its sessions have ended, within wait at most. nil: the page has no button for it.
	Drain func(wait time.Duration, user string)
	// Effective is the configuration that is in use, as YAML with secrets masked. nil: the page does not show it.
	Effective func() ([]byte, error)
	// Audit is told of logins and of what users do. nil: nobody wants to know.
	Audit func(Deed)
	// Log takes one line for each login and refusal. nil: silent.
	Log *slog.Logger
	// Now is the clock. nil: time.Now.
	Now func() time.Time
}

// Deed is what a user of the status page did: login, logout or drain. Status is its status word.
type Deed struct {
	Kind   string
	User   string
	Client netip.Addr
	Status string
	Detail string
}

// Server is the status page and its machines' side. It has no goroutine of its own but Run.
type Server struct {
	opts     Options
	config   atomic.Pointer[configs.Config]
	log      *slog.Logger
	logins   *logins
	texts    *page.Texts
	phrases  *phrases
	assets   *page.FileSet
	pages    map[string]*page.Template
	routes   http.Handler
	live     live
	helpdesk helpdesk
}

// New makes a Server.
func New(o Options) (*Server, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Client == nil {
		o.Client = remoteAddr
	}
	if o.Site == nil {
		o.Site = func(*http.Request) page.Site { return page.Site{Name: o.Config.Site.Name, Help: o.Config.Site.Help} }
	}
	s := &Server{opts: o, log: o.Log, pages: make(map[string]*page.Template)}
	s.config.Store(o.Config)
	var errs [4]error
	s.logins = newLogins(o.Config.Admin.Users, o.Now)
	s.texts, errs[0] = page.LoadTexts(web, "web/messages.*.json")
	s.assets, errs[1] = page.NewFileSet(web, "web", assetPath)
	s.helpdesk, errs[2] = newHelpdesk()
	s.phrases, errs[3] = loadPhrases(web, "web/phrases.*.json")
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("status: %w", err)
	}
	for _, name := range []string{"login", "nobody", "status", "config"} {
		t, err := page.Parse(web, s.texts, "web/"+name+".html")
		if err != nil {
			return nil, fmt.Errorf("status: page %s: %w", name, err)
		}
		s.pages[name] = t
	}
	s.routes = s.makeRoutes()
	return s, nil
}

const (
	assetPath     = "/status/assets/"
	sessionCookie = "hafen_session"
	// maxForm bounds what a login form may send.
	maxForm = 4 << 10
)

// makeRoutes is the whole of /status/. Every route but the login itself and the assets is behind the login, and what tells of
// the configuration behind the role admin.
func (s *Server) makeRoutes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET "+assetPath, s.assets)
	mux.HandleFunc("GET /status/{$}", s.showStatus)
	mux.HandleFunc("POST /status/login", s.login)
	mux.Handle("POST /status/logout", s.loggedIn(s.meant(http.HandlerFunc(s.logout))))
	mux.Handle("GET /status/api/snapshot", s.admins(s.JSON()))
	mux.Handle("GET /status/api/live", s.admins(http.HandlerFunc(s.showLive)))
	mux.Handle("GET /status/config", s.admins(http.HandlerFunc(s.showConfig)))
	mux.Handle("POST /status/drain", s.admins(s.meant(http.HandlerFunc(s.drain))))
	s.addHelpdesk(mux)
	// A form on a foreign page can't use somebody's session: http.CrossOriginProtection, and the cookie is SameSite=Strict.
	return s.fromAdminNetworks(http.NewCrossOriginProtection().Handler(mux))
}

// ServeHTTP serves everything below /status/.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	page.Headers(w.Header())
	s.routes.ServeHTTP(w, r)
}

// Reconfigure takes another configuration. Who is logged in stays so, unless the user is gone or has another password.
func (s *Server) Reconfigure(c *configs.Config) {
	s.config.Store(c)
	s.logins.reconfigure(c.Admin.Users)
}

// Close logs everybody out.
func (s *Server) Close() error {
	s.logins.mu.Lock()
	defer s.logins.mu.Unlock()
	clear(s.logins.sessions)
	return nil
}

// fromAdminNetworks turns everybody else away as if nothing were here.
func (s *Server) fromAdminNetworks(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := s.config.Load()
		networks := c.Admin.Networks
		if len(networks) == 0 {
			networks = c.Clients
		}
		client := s.opts.Client(r)
		for _, n := range networks {
			if n.Contains(client) {
				next.ServeHTTP(w, r)
				return
			}
		}
		page.Plain(w, http.StatusNotFound, "There is no such page here.")
	})
}

// loggedIn lets nobody through without a session.
func (s *Server) loggedIn(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, ok := s.user(r); !ok {
			page.Plain(w, http.StatusUnauthorized, "Log in first.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// meant lets a deed through only if it comes from a page of ours: with the session's own token in the form. A browser tells
// where a request comes from, but whoever holds a stolen cookie and no page does not have the token.
func (s *Server) meant(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxForm)
		if token := s.formToken(r); token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(r.PostFormValue("token"))) != 1 {
			page.Plain(w, http.StatusForbidden, "This did not come from the status page. Load it again and retry.")
			return
		}
		next.ServeHTTP(w, r)
	})
}

// formToken is what a session's forms carry.
func (s *Server) formToken(r *http.Request) string {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return ""
	}
	return s.logins.formToken(c.Value)
}

func (s *Server) user(r *http.Request) (configs.AdminUser, bool) {
	c, err := r.Cookie(sessionCookie)
	if err != nil {
		return configs.AdminUser{}, false
	}
	return s.logins.find(c.Value)
}

// showStatus shows the page to who is logged in, the login to who is not, and what to do where nobody can be.
func (s *Server) showStatus(w http.ResponseWriter, r *http.Request) {
	if len(s.config.Load().Admin.Users) == 0 {
		s.pages["nobody"].Render(w, r, page.View{Title: "nobody.title", Site: s.opts.Site(r)})
		return
	}
	user, ok := s.user(r)
	if !ok {
		s.showLogin(w, r, http.StatusOK, "", 0)
		return
	}
	if user.Role == roleHelpdesk {
		http.Redirect(w, r, helpdeskPath, http.StatusSeeOther)
		return
	}
	s.pages["status"].Render(w, r, page.View{
		Title: "status.title", Site: s.opts.Site(r), Wide: true, Data: map[string]any{"User": user.Name, "Token": s.formToken(r), "Drain": s.opts.Drain != nil},
		Styles: []string{s.assets.URL("status.css")}, Modules: []string{s.assets.URL("status.js")},
	})
}

func (s *Server) showLogin(w http.ResponseWriter, r *http.Request, code int, problem string, wait time.Duration) {
	s.pages["login"].Render(w, r, page.View{Status: code, Title: "login.title", Site: s.opts.Site(r), Self: "/status/", Data: map[string]any{
		"Problem": problem, "Seconds": int(wait.Round(time.Second).Seconds()),
	}})
}

// login takes the form. The cookie goes to https only; http.SameSiteStrictMode keeps it from other pages' requests.
func (s *Server) login(w http.ResponseWriter, r *http.Request) {
	r.Body = http.MaxBytesReader(w, r.Body, maxForm)
	if err := r.ParseForm(); err != nil {
		page.Plain(w, http.StatusRequestEntityTooLarge, "The form is too long.")
		return
	}
	client := s.opts.Client(r)
	token, wait, result := s.logins.login(client, r.PostForm.Get("name"), r.PostForm.Get("password"))
	switch result {
	case loginOK:
		s.log.Info("login", "status", "ok", "user", r.PostForm.Get("name"))
		s.audit(r, "login", r.PostForm.Get("name"), "ok", "")
		http.SetCookie(w, &http.Cookie{
			Name: sessionCookie, Value: token, Path: "/status/", HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode,
		})
		http.Redirect(w, r, "/status/", http.StatusSeeOther)
	case loginWrong:
		s.log.Warn("login", "status", "err_auth")
		s.audit(r, "login", r.PostForm.Get("name"), "err_auth", "")
		s.showLogin(w, r, http.StatusUnauthorized, "login.wrong", wait)
	case loginLocked:
		s.audit(r, "login", "", "err_limit", "locked")
		s.showLogin(w, r, http.StatusTooManyRequests, "login.locked", wait)
	case loginBusy:
		s.showLogin(w, r, http.StatusServiceUnavailable, "login.busy", wait)
	}
}

// audit tells of a deed. The name is what somebody typed: it may be a password in the wrong field, so of an unknown user only
// that it is unknown is told.
func (s *Server) audit(r *http.Request, kind, name, status, detail string) {
	if s.opts.Audit == nil {
		return
	}
	if _, known := s.logins.users[name]; !known {
		name = "unknown"
	}
	s.opts.Audit(Deed{Kind: kind, User: name, Client: s.opts.Client(r), Status: status, Detail: detail})
}

func (s *Server) logout(w http.ResponseWriter, r *http.Request) {
	user, _ := s.user(r)
	s.audit(r, "logout", user.Name, "ok", "")
	if c, err := r.Cookie(sessionCookie); err == nil {
		s.logins.close(c.Value)
	}
	http.SetCookie(w, &http.Cookie{Name: sessionCookie, Path: "/status/", MaxAge: -1, HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteStrictMode})
	http.Redirect(w, r, "/status/", http.StatusSeeOther)
}

func remoteAddr(r *http.Request) netip.Addr {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap()
}

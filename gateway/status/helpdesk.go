package status

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"hafen/gateway/page"
)

// Helpdesk is what the help desk may see: single precall runs by their code, and how runs came out by site and day. Nothing
// of the configuration. The composition root fills it in; the zero value finds nothing.
type Helpdesk struct {
	// Find gives the run of a short code as a person wrote it down, in the reader's language. ErrNoRun: there is none.
	Find func(ctx context.Context, code, lang string) (FoundRun, error)
	// History sums the runs since a time up, Recent gives the newest. nil: neither is shown.
	History func(ctx context.Context, since time.Time) ([]RunCount, error)
	Recent  func(ctx context.Context, n int) ([]Run, error)
}

// ErrNoRun says that no precall run has a code, or no longer.
var ErrNoRun = errors.New("no precall run has this code")

// FoundRun is one precall run with both its sides, written out.
type FoundRun struct {
	Code    string
	Time    time.Time
	Verdict string // pass, warn or fail
	// Place is where the test was made: the site and the shortened network.
	Place string
	// Sentence sums the run up.
	Sentence string
	Causes   []FoundCause
	// Caller is what to tell the caller, in CallerLang.
	Caller     []string
	CallerLang string
	// Ticket is the text for whoever changes the rule.
	Ticket string
	// Page and Gateway are the two sides.
	Page, Gateway []FoundCheck
}

// FoundCause is one thing that is wrong and what to do about it.
type FoundCause struct {
	Title, User, IT string
	Percent         int // how sure
}

// FoundCheck is one thing that was looked at.
type FoundCheck struct {
	Verdict                     string // pass, warn, fail, unknown or skipped
	Word                        string // the same in the reader's language
	Name, Target, Value, Detail string
}

const (
	roleHelpdesk = "helpdesk"
	helpdeskPath = "/status/helpdesk/"
)

// helpdesk is the help desk's part of the page: its texts and template.
type helpdesk struct {
	texts *page.Texts
	page  *page.Template
}

func newHelpdesk() (h helpdesk, err error) {
	if h.texts, err = page.LoadTexts(web, "web/helpdesk/messages.*.json"); err != nil {
		return h, fmt.Errorf("status: %w", err)
	}
	if h.page, err = page.Parse(web, h.texts, "web/helpdesk/helpdesk.html"); err != nil {
		return h, fmt.Errorf("status: page helpdesk: %w", err)
	}
	return h, nil
}

// addHelpdesk adds the routes that both roles may use.
func (s *Server) addHelpdesk(mux *http.ServeMux) {
	mux.HandleFunc("GET "+helpdeskPath+"{$}", s.showHelpdesk)
	mux.Handle("GET "+helpdeskPath+"history.csv", s.loggedIn(http.HandlerFunc(s.serveHistoryCSV)))
}

// admins lets only the role admin through: the help desk sees nothing of the configuration.
func (s *Server) admins(next http.Handler) http.Handler {
	return s.loggedIn(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if user, ok := s.user(r); !ok || user.Role == roleHelpdesk {
			page.Plain(w, http.StatusForbidden, "This is for administrators.")
			return
		}
		next.ServeHTTP(w, r)
	}))
}

// helpdeskView is what the template shows.
type helpdeskView struct {
	User    string
	Admin   bool
	Token   string // of its forms
	Asked   string
	Problem string
	Run     *FoundRun
	History *pastDays
}

// showHelpdesk finds a run by the code that somebody was told on the telephone.
func (s *Server) showHelpdesk(w http.ResponseWriter, r *http.Request) {
	user, ok := s.user(r)
	if !ok {
		http.Redirect(w, r, "/status/", http.StatusSeeOther)
		return
	}
	lang := page.Language(r, s.helpdesk.texts.Languages())
	v := helpdeskView{User: user.Name, Admin: user.Role != roleHelpdesk, Token: s.formToken(r), Asked: r.URL.Query().Get("code")}
	status := http.StatusOK
	if v.Asked == "" {
		var err error
		if v.History, err = s.pastRuns(r); err != nil {
			s.log.Error("the precall history could not be read", "err", err)
			v.Problem, status = "find.failed", http.StatusServiceUnavailable
		}
	} else {
		run, err := s.findRun(r.Context(), v.Asked, lang)
		switch {
		case err == nil:
			v.Run = &run
		case errors.Is(err, ErrNoRun):
			v.Problem, status = "find.none", http.StatusNotFound
		default:
			s.log.Error("a precall run could not be looked up", "err", err)
			v.Problem, status = "find.failed", http.StatusServiceUnavailable
		}
	}
	s.helpdesk.page.Render(w, r, page.View{
		Title: "title", Site: s.opts.Site(r), Data: v, Lang: lang, Status: status,
		Styles: []string{s.assets.URL("helpdesk/helpdesk.css")}, Modules: []string{s.assets.URL("helpdesk/helpdesk.js")},
	})
}

func (s *Server) findRun(ctx context.Context, code, lang string) (FoundRun, error) {
	if s.opts.Helpdesk.Find == nil || len(code) > 100 {
		return FoundRun{}, ErrNoRun
	}
	return s.opts.Helpdesk.Find(ctx, code, lang)
}

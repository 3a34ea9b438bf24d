package status

import (
	"net/http"
	"strings"
	"time"

	"hafen/gateway/page"
)

// longestDrain bounds what the button may ask for.
const longestDrain = 24 * time.Hour

// drain is the button: it needs a login as administrator and the form's token, and says who pressed it.
func (s *Server) drain(w http.ResponseWriter, r *http.Request) {
	wait, err := time.ParseDuration(r.PostFormValue("wait"))
	if s.opts.Drain == nil || err != nil || wait < 0 || wait > longestDrain {
		page.Plain(w, http.StatusBadRequest, "Say how long sessions may go on, such as wait=1h; a day at most.")
		return
	}
	user, _ := s.user(r)
	s.log.Warn("drain asked for on the status page", "user", user.Name, "wait", wait.String())
	s.audit(r, "drain", user.Name, "ok", "wait "+wait.String())
	s.opts.Drain(wait, user.Name)
	http.Redirect(w, r, "/status/", http.StatusSeeOther)
}

// showConfig shows the configuration in use, secrets masked.
func (s *Server) showConfig(w http.ResponseWriter, r *http.Request) {
	if s.opts.Effective == nil {
		http.NotFound(w, r)
		return
	}
	text, err := s.opts.Effective()
	if err != nil {
		page.Plain(w, http.StatusInternalServerError, "The configuration can't be shown: "+err.Error())
		return
	}
	s.pages["config"].Render(w, r, page.View{
		Title: "config.title", Site: s.opts.Site(r), Wide: true, Data: strings.TrimSpace(string(text)), Styles: []string{s.assets.URL("status.css")},
	})
}

package page

import "net/http"

// Front is the front door, "/": what this is, the precall test, and for administrators the status page. Below it
// everything that nobody else answers gets a page that says so. site may be nil.
func Front(site func(*http.Request) Site) (http.Handler, error) {
	texts, err := LoadTexts(web, "web/messages.*.json")
	if err != nil {
		return nil, err
	}
	front, err := Parse(web, texts, "web/front.html")
	if err != nil {
		return nil, err
	}
	missing, err := Parse(web, texts, "web/missing.html")
	if err != nil {
		return nil, err
	}
	if site == nil {
		site = func(*http.Request) Site { return Site{} }
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/favicon.ico": // asked for by habit, the pages name their own
			Headers(w.Header())
			http.Redirect(w, r, front.assets.URL("sign.svg"), http.StatusFound)
		case r.URL.Path != "/":
			missing.Render(w, r, View{Title: "missing.title", Site: site(r), Status: http.StatusNotFound, Self: "/"})
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			Plain(w, http.StatusMethodNotAllowed, "This page is only read.")
		default:
			front.Render(w, r, View{Title: "front.title", Site: site(r)})
		}
	}), nil
}

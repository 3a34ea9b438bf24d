// Package page is the one hand that all of the gateway's own pages are drawn with: the stylesheet and the sign, the
// layout around each page, the languages, the security headers and the plain answers to clients that are refused.
//
// A package with pages of its own brings a folder of templates and a file of messages for each language, and parses
// them once:
//
//	texts, err := page.LoadTexts(web, "web/messages.*.json")
//	login, err := page.Parse(web, texts, "web/login.html")
//	...
//	login.Render(w, r, page.View{Title: "login.title", Site: site, Data: form})
//
// Every page of every package leaves with the same headers (see Headers): no inline script, no inline style, nothing
// from elsewhere, no frame around it. Scripts and stylesheets are files, served with their content's hash in the
// address (see NewAssets), so that they can be cached for ever while the pages themselves are never stored.
//
// The package knows nothing of the gateway: what a page shows is handed to it.
package page

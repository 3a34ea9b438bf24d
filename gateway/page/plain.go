package page

import (
	"fmt"
	"html"
	"net/http"
	"net/netip"
	"strings"
)

// Plain answers in plain text: a sentence for people with a status for machines.
func Plain(w http.ResponseWriter, status int, sentence string) {
	Headers(w.Header())
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(status)
	_, _ = fmt.Fprintln(w, sentence) // the reader may be gone
}

// RefusedText says in plain words that an address is not a client's, and whom to call about it.
func RefusedText(client netip.Addr, help string) string {
	text := fmt.Sprintf("This gateway does not serve your address, %s.", address(client))
	if help = strings.TrimSpace(help); help != "" {
		return text + " If it should, please call: " + help
	}
	return text + " If it should, please ask your network's administrator to add it to the client networks."
}

func address(a netip.Addr) string {
	if !a.IsValid() {
		return "which we could not see"
	}
	return a.Unmap().String()
}

// Refused answers a client that is not served: 403 with RefusedText, whatever it asked for, so that the answer tells
// nothing about what is here. Browsers get it as a page in their language.
func Refused(w http.ResponseWriter, r *http.Request, client netip.Addr, help string) {
	w.Header().Set("Connection", "close") // RFC 9931: nothing behind a refused request is parsed
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		Plain(w, http.StatusForbidden, RefusedText(client, help))
		return
	}
	frame, err := LoadTexts(web, "web/messages.*.json")
	if err != nil {
		Plain(w, http.StatusForbidden, RefusedText(client, help))
		return
	}
	lang := Language(r, frame.Languages())
	key := "refused.ask"
	if help = strings.TrimSpace(help); help != "" {
		key = "refused.call"
	}
	Headers(w.Header())
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(http.StatusForbidden)
	// No stylesheet and no picture: this client would be refused those as well.
	_, _ = fmt.Fprintf(w, "<!doctype html><html lang=%q><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">"+
		"<meta name=color-scheme content=\"light dark\"><title>%s</title></head><body><h1>%s</h1><p>%s</p><p>%s</p></body></html>\n",
		lang, frame.T(lang, "refused.title"), frame.T(lang, "refused.title"),
		frame.T(lang, "refused.address", "address", html.EscapeString(address(client))), frame.T(lang, key, "help", html.EscapeString(help)))
}

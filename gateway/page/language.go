package page

import (
	"cmp"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// languageCookie remembers what somebody chose with the switch.
const languageCookie = "hafen_lang"

// Language chooses among the languages: the one asked for with ?lang=, the one chosen before, the browser's, English.
func Language(r *http.Request, languages []string) string {
	if lang := r.URL.Query().Get("lang"); slices.Contains(languages, lang) {
		return lang
	}
	if c, err := r.Cookie(languageCookie); err == nil && slices.Contains(languages, c.Value) {
		return c.Value
	}
	return accepted(r.Header.Get("Accept-Language"), languages)
}

// accepted reads Accept-Language (RFC 9110, section 12.5.4): the first of the highest quality wins; de-CH asks for de.
// A browser sends a dozen at most; whoever sends more is read that far.
func accepted(header string, languages []string) string {
	best, quality := Fallback, 0.0
	known := map[string]string{} // by the part in front of the dash: de-CH asks for de, zh-CN for zh-Hans
	for _, lang := range languages {
		base, _, _ := strings.Cut(strings.ToLower(lang), "-")
		known[base] = lang
	}
	for i, part := range strings.Split(header, ",") {
		if i == 20 {
			break
		}
		tag, params, _ := strings.Cut(strings.TrimSpace(part), ";")
		lang, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
		q := 1.0
		if v, ok := strings.CutPrefix(strings.TrimSpace(params), "q="); ok {
			q, _ = strconv.ParseFloat(v, 64) // what is no number is not wanted
		}
		if q > quality && q <= 1 && known[lang] != "" {
			best, quality = known[lang], q
		}
	}
	return best
}

// remember keeps a choice made with the switch, for a year.
func remember(w http.ResponseWriter, r *http.Request, languages []string) {
	lang := r.URL.Query().Get("lang")
	if !slices.Contains(languages, lang) {
		return
	}
	http.SetCookie(w, &http.Cookie{
		Name: languageCookie, Value: lang, Path: "/", MaxAge: 365 * 24 * 3600,
		HttpOnly: true, Secure: r.TLS != nil, SameSite: http.SameSiteLaxMode,
	})
}

// direction is the way a language is written, for the dir attribute.
func direction(lang string) string {
	switch lang {
	case "ar", "fa", "he", "ur":
		return "rtl"
	}
	return "ltr"
}

// languageNames are what the speakers of a language call it.
var languageNames = map[string]string{
	"ar": "العربية", "de": "Deutsch", "en": "English", "es": "Español", "fr": "Français", "it": "Italiano", "pl": "Polski",
	"pt": "Português", "tr": "Türkçe", "uk": "Українська", "vi": "Tiếng Việt", "zh-Hans": "简体中文",
}

func languageName(lang string) string { return cmp.Or(languageNames[lang], lang) }

package precall

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"hafen/gateway/page"
)

// Explanation is a run written out for the help desk: its report in the reader's language, what to say to the caller in the
// caller's, and the text of a ticket.
type Explanation struct {
	Report Report
	// Sentence sums the run up; Titles are the causes' in the order of the report's.
	Sentence string
	Titles   []string
	// Place is where the test was made.
	Place string
	// Caller is what to tell the caller, sentence by sentence, in CallerLang.
	Caller     []string
	CallerLang string
	// Ticket is plain text for whoever can change the rule.
	Ticket string
}

// Explain writes a run out for the help desk.
func (s *Server) Explain(rec Record, lang string) Explanation {
	e := Explanation{
		Report: s.Report(rec, lang), Sentence: s.texts.T(lang, sentence(rec.Result)), Place: s.place(rec, lang), CallerLang: lang,
	}
	if slices.Contains(s.texts.Languages(), rec.Lang) {
		e.CallerLang = rec.Lang
	}
	for _, f := range rec.Result.Causes {
		e.Titles = append(e.Titles, s.texts.T(lang, "cause."+f.ID+".title"))
	}
	e.Caller = s.caller(rec, e.CallerLang)
	e.Ticket = s.ticket(rec, e, lang)
	return e
}

// place says from where a run was made.
func (s *Server) place(rec Record, lang string) string {
	key := map[string]string{"site": "result.network.site", "outside": "result.network.outside", "house": "result.network"}[rec.where()]
	return s.texts.T(lang, key, "site", rec.Site, "network", rec.Network)
}

// caller is the sentence and each cause's advice for the person at the screen; two causes often have the same.
func (s *Server) caller(rec Record, lang string) []string {
	said := []string{s.texts.T(lang, sentence(rec.Result))}
	for _, c := range s.Report(rec, lang).Causes {
		if !slices.Contains(said, c.Advice.User) {
			said = append(said, c.Advice.User)
		}
	}
	return said
}

// ticket has the rule to change first and every check behind it.
func (s *Server) ticket(rec Record, e Explanation, lang string) string {
	var b strings.Builder
	t := func(key string, pairs ...any) string { return s.texts.T(lang, key, pairs...) }
	fmt.Fprintf(&b, "%s\n%s: %s, %s\n%s\n", e.Sentence, t("result.code"), rec.Code, rec.Time.UTC().Format(time.RFC3339), e.Place)
	for i, c := range e.Report.Causes {
		fmt.Fprintf(&b, "\n%d. %s (%s, %s)\n%s: %s\n", i+1, e.Titles[i], c.ID, t("result.confidence", "percent", fmt.Sprintf("%.0f", 100*c.Confidence)), t("result.it"), c.Advice.IT)
	}
	fmt.Fprintf(&b, "\n%s\n", t("result.checks"))
	for _, c := range e.Report.Checks {
		line := []string{fmt.Sprintf("%s: %s", t("word."+string(c.Verdict)), t("check."+c.ID)), c.Target, Value(c, lang), c.Detail}
		fmt.Fprintln(&b, strings.Join(slices.DeleteFunc(line, func(part string) bool { return part == "" }), " · "))
	}
	return b.String()
}

// Value is a check's value with its unit, as a language writes it; "" when it has none.
func Value(c Check, lang string) string {
	if c.Value == nil {
		return ""
	}
	return strings.TrimSpace(page.Number(lang, *c.Value, digits(*c.Value)) + " " + c.Unit)
}

// Word is what a language calls a verdict.
func (s *Server) Word(v Verdict, lang string) string { return s.texts.T(lang, "word."+string(v)) }

// Name is what a language calls a check.
func (s *Server) Name(id, lang string) string { return s.texts.T(lang, "check."+id) }

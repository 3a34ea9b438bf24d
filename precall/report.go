package precall

import (
	"math"
	"time"

	"hafen/gateway/page"
)

// Verdict is what a check or a run came to.
type Verdict string

// Verdicts. The first three are those of a run as well.
const (
	Pass           Verdict = "pass"
	Warn           Verdict = "warn"
	Fail           Verdict = "fail"
	VerdictUnknown Verdict = "unknown"
	VerdictSkipped Verdict = "skipped"
)

// Report is one run for people and machines: what window.hafenReport is.
type Report struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Code    string    `json:"code"`
	Time    time.Time `json:"time"`
	Verdict Verdict   `json:"verdict"`
	Checks  []Check   `json:"checks"`
	Causes  []Cause   `json:"causes"`
	// Series are what the charts show.
	Series []Series `json:"series,omitempty"`
}

// Check is one thing that was looked at.
type Check struct {
	ID      string   `json:"id"`
	Target  string   `json:"target,omitempty"`
	Level   Level    `json:"level"`
	Verdict Verdict  `json:"verdict"`
	Value   *float64 `json:"value,omitempty"`
	Unit    string   `json:"unit,omitempty"`
	Detail  string   `json:"detail"`
	MS      int64    `json:"ms"`
}

// Cause is what is wrong, with what to do about it.
type Cause struct {
	ID         string  `json:"id"`
	Confidence float64 `json:"confidence"`
	Advice     Advice  `json:"advice"`
}

// Advice is for the person at the screen and for those who can change a rule.
type Advice struct {
	User string `json:"user"`
	IT   string `json:"it"`
}

// Judged is a check with its verdict, not yet in any language.
type Judged struct {
	ID, Target string
	Level      Level
	Verdict    Verdict
	Value      *float64
	Unit       string
	// Error is the word that says why, Params what its sentence is filled in with, Detail what the machine said. Said is the page's
	// own word where the analysis has found a better one.
	Error  string
	Said   string
	Params map[string]float64
	Detail string
	MS     int64
}

// check writes the check out: the sentence for its word, then the machine's own words.
func (j Judged) check(texts *page.Texts, lang string) Check {
	detail := j.Detail
	if j.Error != "" {
		pairs := []any{}
		for name, v := range j.Params {
			pairs = append(pairs, name, page.Number(lang, v, 0))
		}
		sentence := texts.T(lang, "error."+j.Error, pairs...)
		if detail != "" {
			sentence += " (" + detail + ")"
		}
		detail = sentence
	}
	return Check{ID: j.ID, Target: j.Target, Level: j.Level, Verdict: j.Verdict, Value: j.Value, Unit: j.Unit, Detail: detail, MS: j.MS}
}

// Finding is a cause that the measurements support, not yet in any language.
type Finding struct {
	ID         string
	Confidence float64
	// Severity is fail when no call works because of it, else warn.
	Severity Verdict
	// Params fill in the advice.
	Params map[string]any
	// Note names a further sentence for IT.
	Note string
	// Variant chooses other texts for the same cause: "gateway" where it is on the gateway's side.
	Variant string
}

// Text is a parameter that is itself a message: its key.
type Text string

func (f Finding) cause(texts *page.Texts, lang string, rec Record) Cause {
	pairs := []any{"network", rec.Network, "gateway", rec.Gateway.Name}
	for name, v := range f.Params {
		switch value := v.(type) {
		case float64:
			v = page.Number(lang, value, digits(value))
		case Text:
			v = texts.T(lang, string(value))
		}
		pairs = append(pairs, name, v)
	}
	it := texts.T(lang, f.key(texts, "it"), pairs...)
	if f.Note != "" {
		it += " " + texts.T(lang, "note."+f.Note, pairs...)
	}
	return Cause{ID: f.ID, Confidence: f.Confidence, Advice: Advice{User: texts.T(lang, f.key(texts, "user"), pairs...), IT: it}}
}

// key is the message for one of the two readers: that of the variant, that for a call that fails (what is a nuisance beside another
// way is serious without one), or the usual one.
func (f Finding) key(texts *page.Texts, reader string) string {
	usual := "cause." + f.ID + "." + reader
	switch {
	case f.Variant != "" && texts.Has(usual+"."+f.Variant):
		return usual + "." + f.Variant
	case f.Severity == Fail && texts.Has(usual+".fail"):
		return usual + ".fail"
	}
	return usual
}

// digits is how many behind the point matter: one for small fractions, else none.
func digits(v float64) int {
	if math.Abs(v) < 10 && v != math.Trunc(v) {
		return 1
	}
	return 0
}

package events

import (
	"fmt"
	"strings"
	"time"
)

// message is an incident as it is told.
type message struct {
	Gateway  string    `json:"gateway"`
	Incident string    `json:"incident"`
	Time     time.Time `json:"time"`
	Level    string    `json:"level"` // critical or warning
	Condition
	Sites []string    `json:"sites"`
	Calls int         `json:"live_calls"`
	Also  []Condition `json:"also,omitempty"`
	// Text is all of it in plain words: chat systems show this field.
	Text string `json:"text"`

	report string // the subject of one that is no incident and goes by mail only; "": it is an incident
}

func (in *Incident) message(gateway string) message {
	m := message{
		Gateway: gateway, Incident: in.ID, Time: in.Opened, Level: "warning", Condition: in.Conditions[0],
		Sites: append([]string{}, in.Touched.Sites...), Calls: in.Touched.Calls, Also: in.Conditions[1:],
	}
	if m.Critical {
		m.Level = "critical"
	}
	m.Text = m.text()
	return m
}

func (m message) subject() string {
	if m.report != "" {
		return m.report
	}
	return fmt.Sprintf("[%s] %s: %s", m.Level, m.Gateway, m.Cause)
}

func (m message) text() string {
	var b strings.Builder
	line := func(head, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%s: %s\n", head, text)
		}
	}
	fmt.Fprintf(&b, "%s: %s\n\n", m.Gateway, m.Cause)
	line("What to do", m.Todo)
	line("What still works", m.Works)
	sites := "all"
	if len(m.Sites) > 0 {
		sites = strings.Join(m.Sites, ", ")
	}
	line("Sites touched", sites)
	line("Live calls", fmt.Sprintf("%d media sessions", m.Calls))
	for _, c := range m.Also {
		line("Also", c.Cause)
	}
	line("Since", m.Time.Format("2006-01-02 15:04:05 MST"))
	line("Manual", m.Manual)
	line("Incident", m.Incident)
	return b.String()
}

package events

import "time"

// Report is something that is told by mail and is no incident: a look back. The ID is the same for the same report.
type Report struct {
	ID            string
	Subject, Text string
}

// Tell sends a report by mail; without a mail server it does nothing. It is tried again like an incident.
func (n *Notifier) Tell(r Report) {
	to := n.ways.Load()
	if to.MailServer == "" {
		return
	}
	n.outbox.put(message{Gateway: to.Gateway, Incident: r.ID, Time: n.opts.Now().Truncate(time.Second), Text: r.Text, report: r.Subject})
}

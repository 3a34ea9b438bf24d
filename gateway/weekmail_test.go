package gateway

import (
	"encoding/base64"
	"io"
	"net"
	"net/mail"
	"net/textproto"
	"os"
	"strings"
	"testing"
	"time"

	"hafen/configs"
	"hafen/gateway/events"
	"hafen/gateway/status"
	"hafen/relay"
)

// mailServer gives the letters that it takes.
func mailServer(t *testing.T) (addr string, letters <-chan string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	out, done := make(chan string, 4), make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			takeMail(textproto.NewConn(conn), out)
		}
	}()
	t.Cleanup(func() { _ = ln.Close(); <-done })
	return ln.Addr().String(), out
}

func takeMail(c *textproto.Conn, out chan<- string) {
	defer func() { _ = c.Close() }()
	_ = c.PrintfLine("220 mail.example")
	for {
		line, err := c.ReadLine()
		switch {
		case err != nil || line == "QUIT":
			return
		case line == "DATA":
			_ = c.PrintfLine("354 go on")
			letter, _ := c.ReadDotBytes()
			out <- string(letter)
		}
		_ = c.PrintfLine("250 fine")
	}
}

// TestWeekIsMailedOnce: on Monday from seven on, whatever restarts; what ended in the week before is in it, and what ended since is not.
func TestWeekIsMailedOnce(t *testing.T) {
	addr, letters := mailServer(t)
	w := newWorld(t, func(c *configs.Config) {
		c.Events.Mail = configs.Mail{Server: addr, From: "hafen@hospital.example", To: []string{"it@hospital.example"}, Weekly: true}
	})
	g := w.gateway
	monday := time.Date(2031, 3, 10, 7, 0, 0, 0, time.Local)
	book := newLedger(g.config().DataDir, func() time.Time { return monday })
	for end, took := range map[time.Time]time.Duration{
		monday.AddDate(0, 0, -8): time.Hour, monday.AddDate(0, 0, -7): 10 * time.Minute, monday.AddDate(0, 0, -1): 20 * time.Minute, monday: time.Hour,
	} {
		book.now = func() time.Time { return end }
		book.ended(relay.End{Won: true, Rung: "udp:3478", Took: took})
	}
	if err := book.save(); err != nil {
		t.Fatal(err)
	}
	broken := book.file(monday.AddDate(0, 0, -2).Format(time.DateOnly)) // for a while it can't be read
	if err := os.Mkdir(broken, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := g.mailWeek(t.Context(), monday); err == nil {
		t.Error("a ledger that can't be read is mailed")
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	for _, at := range []time.Time{monday.Add(-time.Minute), monday.AddDate(0, 0, -1), monday, monday.Add(time.Hour), monday.AddDate(0, 0, 1)} {
		if err := g.mailWeek(t.Context(), at); err != nil {
			t.Fatal(err)
		}
	}
	letter, err := mail.ReadMessage(strings.NewReader(<-letters))
	if err != nil {
		t.Fatal(err)
	}
	if s := letter.Header.Get("Subject"); s != "[weekly] "+ownName+": 2 media sessions, 30 minutes" {
		t.Errorf("subject %q", s)
	}
	text, err := io.ReadAll(base64.NewDecoder(base64.StdEncoding, letter.Body))
	if err != nil || !strings.Contains(string(text), "Mon 2031-03-03 to Sun 2031-03-09") || !strings.Contains(string(text), "over udp: 2 (100 %), 30 minutes") {
		t.Errorf("%s, %v", text, err)
	}
	again := newLedger(g.config().DataDir, func() time.Time { return monday })
	if first, err := again.claim(monday); first || err != nil {
		t.Errorf("after a restart: %v %v", first, err)
	}
	if len(letters) > 0 {
		t.Errorf("more than one: %s", <-letters)
	}
}

// TestWeekReport: what an administrator reads on a Monday.
func TestWeekReport(t *testing.T) {
	monday := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	r := weekReport{
		Gateway: "gw.example", Monday: monday, Started: monday.AddDate(0, 0, -3),
		Week: &status.Week{
			Sessions: 4, Minutes: 61.4, Rungs: []status.WeekRung{{Rung: "udp", Sessions: 3, Minutes: 60}, {Rung: "tls", Sessions: 1, Minutes: 1.4}},
			Days:  []status.WeekDay{{Day: "2026-11-16", Sessions: 4, Minutes: 61.4}},
			Worst: &status.WeekPlace{Place: "North", Runs: 17, Failed: 4, Cause: "udp-blocked"},
		},
		Incidents: []events.Incident{{Opened: monday.Add(-50 * time.Hour), Ended: monday.Add(-49 * time.Hour), Conditions: []events.Condition{{Cause: "No relay can be reached."}}}},
		Addresses: []status.AddressChange{{Name: "call.example.net", Came: []string{"198.51.100.9"}, Since: monday.AddDate(0, 0, -2)}},
		Faults:    []status.Fault{{Level: status.Warning, Sentence: "The certificate ends in 9 days.", Advice: "Renew it."}},
	}
	const want = `gw.example, Mon 2026-11-16 to Sun 2026-11-22

Media sessions: 4, 61 minutes
  over udp: 3 (75 %), 60 minutes
  over tls: 1 (25 %), 1 minutes
  Mon: 4, 61 minutes

Precall tests: worst site North, 4 of 17 failed, mostly for udp-blocked (the manual's precall.md says what to do)
Incidents: 1 since the gateway's start on Fri 2026-11-20 00:00
  Fri 22:00, 1h0m0s: No relay can be reached.

Addresses that changed (a firewall that goes by address needs the new ones: hafen firewall --ticket):
  call.example.net: new 198.51.100.9 (since 2026-11-21)

Wrong now:
  warning: The certificate ends in 9 days. Renew it.

Status page: https://gw.example/status/
`
	if got := r.text(); got != want {
		t.Errorf("%s", got)
	}
}

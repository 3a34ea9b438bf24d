package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// socketsPerProxy is how many connections Chromium opens to one HTTP/1.1 proxy, over all tabs.
const socketsPerProxy = 32

// TestSixParties is the fullest browser that there is: a call of six, which is five peer connections, the console of the waiting room
// over a WebSocket and once more over long-polls, all through one PAC file, with UDP forbidden by policy. Chromium must not run out of
// connections to the proxy.
func TestSixParties(t *testing.T) { scenario(t, sixParties) }

func sixParties(t *testing.T) {
	l := newLaboratory(t)
	names := map[string]string{gatewayName: gatewayAddr}
	flags := append(wayManaged.flags, pacFlag(l.pacWith(t, wayManaged.entry)))
	ward, rest := l.office("ward", names, wayManaged.rule), l.office("rest", names, wayManaged.rule)
	doctor, others := newBrowser(t, ward, l.ca, flags...), newBrowser(t, rest, l.ca, flags...)
	desks := []*tab{
		doctor.open(t, "https://"+plainName+"/console?room=six"),
		doctor.open(t, "https://"+plainName+"/console?room=six&longpoll=1"),
	}
	var pages []*tab
	for i := range 5 {
		room := fmt.Sprintf("https://%s/r/six%d?join=1&relay=1&video=%s", plainName, i, map[bool]string{true: "small", false: "off"}[i == 0])
		pages = append(pages, doctor.open(t, room), others.open(t, room))
	}
	mediaFlows(t, pages[:2]...)
	soundFlows(t, pages[2:]...) // ten pictures at once are too much for the machine, not for the proxy
	for _, p := range pages {
		if s := p.stats(); s.Signaling != "websocket" || s.Pair.Local.RelayProtocol != "tcp" && s.Pair.Local.RelayProtocol != "tls" {
			t.Errorf("signaling %q, media over %q: want a WebSocket, and TCP or TLS", s.Signaling, s.Pair.Local.RelayProtocol)
		}
	}
	sockets := len(strings.Fields(ward.run(t, "ss", "-Hnt", "-o", "state", "established", "dst", gatewayAddr))) / 4
	t.Logf("the doctor's browser holds about %d connections to the gateway, of %d that Chromium opens to one proxy", sockets, socketsPerProxy)
	arrivals(t, others, desks)
	began := time.Now()
	if got := desks[0].text(`await (await fetch('/healthz', {cache: 'no-store'})).text()`); !strings.HasPrefix(got, "ok") {
		t.Errorf("beside all that a request is answered %q", got)
	}
	within(t, "a request beside all that", time.Since(began), 2*time.Second)
}

// soundFlows waits until all pages receive audio, more than they had.
func soundFlows(t *testing.T, pages ...*tab) {
	t.Helper()
	for _, p := range pages {
		before := p.stats()
		waitFor(t, "audio in both directions", callTimeout, func() bool { return p.stats().PacketsReceived > before.PacketsReceived+20 })
	}
}

// arrivals has a patient come, and checks that each console shows it at once.
func arrivals(t *testing.T, from *browser, desks []*tab) {
	t.Helper()
	from.open(t, "https://"+plainName+"/wait?room=six&name=Ada")
	for i, kind := range []string{"websocket", "longpoll"} {
		var late float64
		waitFor(t, "the patient on the console over "+kind, 10*time.Second, func() bool {
			late = -1
			return desks[i].eval(`window.desk.arrivals.length ? window.desk.arrivals[0].shown - Date.parse(window.desk.arrivals[0].since) : -1`, &late) == nil && late >= 0
		})
		if got := desks[i].text("window.desk.signaling"); got != kind {
			t.Errorf("the console is open over %q, want %q", got, kind)
		}
		within(t, "the arrival on the console over "+kind, time.Duration(late)*time.Millisecond, time.Second)
	}
}

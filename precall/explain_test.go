package precall

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func TestWriteText(t *testing.T) {
	s, err := New(Options{Name: "gw.example"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = s.Close() }()
	m := Measurements{Version: 1, Hold: 45, Checks: []Measured{{ID: "call-server:websocket", Result: Failed, Error: "refused"}, {ID: "call-server:longpoll", Result: OK}}}
	g := Gateway{Name: "gw.example", Regions: []Region{{Service: "calls", Name: "fra", Up: true, RTT: 12 * time.Millisecond}, {Service: "calls", Name: "lon", Why: "no answer"}}}
	rec := Record{ID: "x", Code: "K7QF-2M", Time: time.Now(), Network: netip.MustParsePrefix("10.1.2.0/24"), Measurements: m, Gateway: g, Result: Analyse(m, g, s.settings.Load().thresholds)}
	var b strings.Builder
	s.WriteText(&b, rec, "en")
	for _, want := range []string{"K7QF-2M", "from 10.1.2.0/24", "websocket-blocked", "tell the caller: ", "change:  ", "call-server:websocket", "calls/fra", "12 ms", "no answer"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("%q is missing in\n%s", want, b.String())
		}
	}
}

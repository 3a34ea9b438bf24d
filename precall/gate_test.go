package precall

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"testing"
)

func TestGate(t *testing.T) {
	fine := Analyse(allFine(), Gateway{}, thresholds())
	line := func(kbits float64) Result {
		return Analyse(allFine().with(Measured{ID: "bandwidth-up", Result: OK, Value: value(kbits)}).with(Measured{ID: "bandwidth-down", Result: OK, Value: value(5000)}), Gateway{}, thresholds())
	}
	noMessages := Analyse(allFine().with(fails("call-server:websocket", "network")).with(fails("call-server:longpoll", "network")), Gateway{}, thresholds())
	deaf := Analyse(allFine().with(fails("microphone", "denied")), Gateway{}, thresholds())
	for name, c := range map[string]struct {
		mode string
		run  Result
		want string
		left []string
	}{
		"advisory never blocks":         {"advisory", noMessages, GateOpen, nil},
		"lenient, fine":                 {"lenient", fine, GateOpen, nil},
		"lenient, 349 kbit/s":           {"lenient", line(349), GateWarn, nil},
		"lenient, 180 kbit/s":           {"lenient", line(180), GateWarn, nil},
		"lenient, 179 kbit/s":           {"lenient", line(179), GateBlock, []string{"audio", "telephone"}},
		"lenient, nothing gets out":     {"lenient", noMessages, GateBlock, []string{"telephone"}},
		"strict, fine":                  {"strict", fine, GateOpen, nil},
		"strict, 350 kbit/s":            {"strict", line(350), GateOpen, nil},
		"strict, 349 kbit/s":            {"strict", line(349), GateBlock, []string{"audio", "telephone"}},
		"strict, nobody could be heard": {"strict", deaf, GateBlock, []string{"telephone"}},
	} {
		if got := decide(c.mode, c.run); got.Decision != c.want || !slices.Equal(got.Offer, c.left) {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestVerdictIsForCallPagesOnly(t *testing.T) {
	_, srv := serve(t, Options{Name: "gw.example", Mode: "strict", CallPage: func(origin string) bool { return origin == "https://call.example" }})
	_, body := post(t, srv, allFine())
	url := srv.URL + "/api/v1/precall/" + field(t, body, "report", "id")
	for _, method := range []string{http.MethodGet, http.MethodOptions} {
		for origin, want := range map[string]string{"https://call.example": "https://call.example", "https://evil.example": "", "null": "", "": ""} {
			resp, body := ask(t, method, url, "", nil, "Origin", origin)
			if got := resp.Header.Get("Access-Control-Allow-Origin"); got != want || !slices.Contains(resp.Header.Values("Vary"), "Origin") {
				t.Errorf("%s from %q: allowed is %q", method, origin, got)
			}
			var v verdictAnswer
			if method == http.MethodGet && (json.Unmarshal(body, &v) != nil || v.Gate.Decision == "" || v.Mode != "strict") {
				t.Errorf("the verdict: %s", body)
			}
		}
	}
}

func TestWithoutConsentNothingIsKept(t *testing.T) {
	s, srv := serve(t, Options{Name: "gw.example"})
	body, err := json.Marshal(allFine())
	must(t, err)
	resp, answer := ask(t, http.MethodPost, srv.URL+"/precall/report?keep=0", "application/json", body)
	if resp.StatusCode != http.StatusOK || field(t, answer, "report", "verdict") == "" || field(t, answer, "report", "code") != "" || field(t, answer, "report", "id") != "" {
		t.Errorf("%d %s", resp.StatusCode, answer)
	}
	if runs, err := s.Recent(t.Context(), 10); err != nil || len(runs) != 0 {
		t.Errorf("kept: %v %v", runs, err)
	}
}

func TestPlaceIsNamed(t *testing.T) {
	site := "Clinic North"
	_, srv := serve(t, Options{Name: "gw.example", SiteName: func(netip.Addr) string { return site }})
	_, body := post(t, srv, allFine())
	if field(t, body, "place") != "site" || field(t, body, "site") != site {
		t.Errorf("in a site: %s", body)
	}
	site = ""
	_, body = post(t, srv, allFine())
	if field(t, body, "place") != "house" || field(t, body, "network") != "127.0.0.0/24" {
		t.Errorf("in the house: %s", body)
	}
}

package precall

import (
	"slices"
	"testing"
	"time"
)

// healthy is the gateway's half where nothing is wrong.
func healthy() Gateway {
	return Gateway{
		Name: "gw.example",
		Regions: []Region{
			{Service: "calls", Name: "frankfurt", Up: true, RTT: 14 * time.Millisecond},
			{Service: "calls", Name: "dublin", Up: true, RTT: 40 * time.Millisecond},
		},
		CallServers: []CallServer{
			{Service: "calls", Host: "a.call.example", Up: true, RTT: 20 * time.Millisecond, Level: LevelService},
			{Service: "calls", Host: "b.call.example", Up: true, RTT: 20 * time.Millisecond},
		},
	}
}

func gatewayWith(change func(*Gateway)) Gateway {
	g := healthy()
	change(&g)
	return g
}

func allRegionsDown(g *Gateway) {
	for i := range g.Regions {
		g.Regions[i].Up, g.Regions[i].Why = false, "no answer"
	}
}

func allCallServersDown(g *Gateway) {
	for i := range g.CallServers {
		g.CallServers[i].Up = false
	}
}

func noRelay(word string) Measurements {
	return allFine().with(fails("relay:udp", word)).with(fails("relay:tcp", word)).with(fails("relay:tls", word)).
		without("relay:media", "rtt", "jitter", "loss")
}

func TestAnalyse(t *testing.T) {
	relay3478 := Measured{ID: "relay:tcp", Target: "turn:gw.example:3478?transport=tcp", Result: Failed, Error: "unreached"}
	tests := []struct {
		name    string
		m       Measurements
		g       Gateway
		verdict Verdict
		causes  []string // all of them, in order
	}{
		{"all fine", allFine(), healthy(), Pass, nil},
		{"all fine, no UDP offered", allFine().with(Measured{ID: "relay:udp", Result: Skipped, Error: "not-offered"}), healthy(), Pass, nil},
		{"gateway knows nothing of itself", allFine(), Gateway{Name: "gw.example"}, Pass, nil},
		{"UDP blocked", allFine().with(fails("relay:udp", "unreached")), healthy(), Warn, []string{"udp-blocked"}},
		{"UDP silent", allFine().with(fails("relay:udp", "timeout")), healthy(), Warn, []string{"udp-blocked"}},
		{
			"only 443", func() Measurements {
				m := allFine().with(fails("relay:udp", "unreached"))
				m.Checks = append(m.Checks, relay3478)
				return m
			}(), healthy(), Warn, []string{"only-443"},
		},
		{"UDP not offered, 3478 blocked", func() Measurements {
			m := allFine().with(Measured{ID: "relay:udp", Result: Skipped, Error: "not-offered"})
			m.Checks = append(m.Checks, relay3478)
			return m
		}(), healthy(), Pass, nil},
		{"plain TURN stopped, TLS does the same", allFine().with(fails("relay:tcp", "unreached")), healthy(), Pass, nil},
		{"TURN in TLS reset, plain passes", allFine().with(fails("relay:tls", "unreached")), healthy(), Warn, []string{"turn-tls-blocked"}},
		{"TURN reset on 443 both ways", allFine().with(fails("relay:tls", "unreached")).with(fails("relay:tcp", "unreached")), healthy(), Warn, []string{"turn-tls-blocked"}},
		{"no TURN at all", noRelay("unreached"), healthy(), Fail, []string{"turn-tls-blocked", "udp-blocked"}},
		{
			"no TURN, only TLS offered", noRelay("unreached").with(Measured{ID: "relay:udp", Result: Skipped, Error: "not-offered"}).
				with(Measured{ID: "relay:tcp", Result: Skipped, Error: "not-offered"}),
			healthy(), Fail,
			[]string{"turn-tls-blocked"},
		},
		{"WebSocket stripped", allFine().with(fails("call-server:websocket", "network")), healthy(), Warn, []string{"websocket-blocked"}},
		{
			"long-poll cut at 20 s", allFine().with(Measured{ID: "call-server:longpoll", Result: Failed, Error: "cut", Value: value(20)}),
			healthy(), Warn,
			[]string{"longpoll-cut"},
		},
		{
			"neither WebSocket nor long-poll", allFine().with(fails("call-server:websocket", "network")).
				with(Measured{ID: "call-server:longpoll", Result: Failed, Error: "cut", Value: value(20)}),
			healthy(), Fail,
			[]string{"longpoll-cut", "websocket-blocked"},
		},
		{"one call server of two down", allFine(), gatewayWith(func(g *Gateway) { g.CallServers[1].Up = false }), Warn, []string{"call-server-unreachable"}},
		{"call servers down", allFine(), gatewayWith(allCallServersDown), Fail, []string{"call-server-unreachable", "call-server-unreachable"}},
		{"one region down", allFine(), gatewayWith(func(g *Gateway) { g.Regions[0].Up = false }), Warn, []string{"relay-region-down"}},
		{"all regions down for the gateway", allFine(), gatewayWith(allRegionsDown), Fail, []string{"gateway-to-cloud-down"}},
		{"gateway cut off", allFine(), gatewayWith(func(g *Gateway) { allRegionsDown(g); allCallServersDown(g) }), Fail, []string{"gateway-to-cloud-down"}},
		{"a second service cut off", allFine(), gatewayWith(func(g *Gateway) {
			g.Regions = append(g.Regions, Region{Service: "other", Name: "paris"})
		}), Fail, []string{"gateway-to-cloud-down"}},
		{"credentials refused", noRelay("credentials"), healthy(), Fail, []string{"relay-credentials-rejected"}},
		{"draining", noRelay("unreached"), gatewayWith(func(g *Gateway) { g.Load.Draining = true }), Fail, []string{"gateway-draining"}},
		{"draining, still working", allFine(), gatewayWith(func(g *Gateway) { g.Load.Draining = true }), Warn, []string{"gateway-draining"}},
		{"full", noRelay("quota"), healthy(), Fail, []string{"gateway-full"}},
		{"full, by its own word", noRelay("other"), gatewayWith(func(g *Gateway) { g.Load.Full = true }), Fail, []string{"gateway-full"}},
		{"camera denied", allFine().with(fails("camera", "denied")), healthy(), Fail, []string{"camera-denied"}},
		{"camera missing", allFine().with(fails("camera", "missing")), healthy(), Warn, []string{"camera-missing"}},
		{"camera in use", allFine().with(fails("camera", "in-use")), healthy(), Fail, []string{"camera-in-use"}},
		{"slow camera", allFine().with(Measured{ID: "camera", Result: OK, Value: value(4)}), healthy(), Warn, nil},
		{"question left open", allFine().with(fails("microphone", "dismissed")), healthy(), Fail, []string{"microphone-denied"}},
		{
			"no time for the question", allFine().with(fails("microphone", "dismissed")).with(Measured{ID: "cpu", Result: OK, Value: value(1500)}),
			healthy(), Fail,
			[]string{"cpu-limited"},
		},
		{
			"no time for an answer", allFine().with(fails("call-server:websocket", "timeout")).with(Measured{ID: "cpu", Result: OK, Value: value(950)}),
			healthy(), Warn,
			[]string{"cpu-limited"},
		},
		{"microphone denied", allFine().with(fails("microphone", "denied")), healthy(), Fail, []string{"microphone-denied"}},
		{"microphone missing", allFine().with(fails("microphone", "missing")), healthy(), Fail, []string{"microphone-missing"}},
		{"microphone in use", allFine().with(fails("microphone", "in-use")), healthy(), Fail, []string{"microphone-in-use"}},
		{"microphone dead", allFine().with(Measured{ID: "microphone", Result: OK, Value: value(-100)}), healthy(), Fail, []string{"microphone-silent"}},
		{"quiet room", allFine().with(Measured{ID: "microphone", Result: OK, Value: value(-65)}), healthy(), Warn, []string{"microphone-silent"}},
		{
			"both devices denied", allFine().with(fails("camera", "denied")).with(fails("microphone", "denied")),
			healthy(), Fail,
			[]string{"microphone-denied", "camera-denied"},
		},
		{
			"insecure page", allFine().with(fails("secure-context", "insecure")).with(fails("browser", "unsupported")).
				with(Measured{ID: "camera", Result: Skipped, Error: "insecure"}).with(Measured{ID: "microphone", Result: Skipped, Error: "insecure"}),
			healthy(), Fail,
			[]string{"insecure-context"},
		},
		{"old browser", noRelay("other").with(fails("browser", "unsupported")), healthy(), Fail, []string{"browser-unsupported"}},
		{"RTT 250", allFine().with(Measured{ID: "rtt", Result: OK, Value: value(250)}), healthy(), Warn, []string{"latency-high"}},
		{"RTT 450", allFine().with(Measured{ID: "rtt", Result: OK, Value: value(450)}), healthy(), Fail, []string{"latency-high"}},
		{"far cloud", allFine(), gatewayWith(func(g *Gateway) { g.Regions[0].RTT, g.Regions[1].RTT = 400*time.Millisecond, 350*time.Millisecond }), Fail, []string{"region-far"}},
		{"jitter 60", allFine().with(Measured{ID: "jitter", Result: OK, Value: value(60)}), healthy(), Fail, []string{"jitter-high"}},
		{"loss 3 %", allFine().with(Measured{ID: "loss", Result: OK, Value: value(3)}), healthy(), Warn, []string{"loss-high"}},
		{"loss 12 %", allFine().with(Measured{ID: "loss", Result: OK, Value: value(12)}), healthy(), Fail, []string{"loss-high"}},
		{"300 kbit/s", allFine().with(Measured{ID: "relay:media", Result: OK, Value: value(300), Error: "bandwidth"}), healthy(), Warn, []string{"bandwidth-low"}},
		{"small picture on a wide line", allFine().with(Measured{ID: "relay:media", Result: OK, Value: value(90)}), healthy(), Pass, nil},
		{"2 hours off", allFine(), gatewayWith(func(g *Gateway) { g.ClockAhead = -2 * time.Hour }), Warn, []string{"clock-skew"}},
		{"a second off", allFine(), gatewayWith(func(g *Gateway) { g.ClockAhead = time.Second }), Pass, nil},
		{"nothing was offered", allFine().without("relay:udp", "relay:tcp", "relay:tls", "relay:media", "rtt", "jitter", "loss"), healthy(), Warn, nil},
		{
			"two faults: UDP blocked and no camera allowed", allFine().with(fails("relay:udp", "unreached")).with(fails("camera", "denied")),
			healthy(), Fail,
			[]string{"camera-denied", "udp-blocked"},
		},
		{
			"two faults: WebSocket stripped and a region down", allFine().with(fails("call-server:websocket", "network")),
			gatewayWith(func(g *Gateway) { g.Regions[1].Up = false }), Warn,
			[]string{"websocket-blocked", "relay-region-down"},
		},
		{"empty", Measurements{}, Gateway{}, Warn, nil},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := Analyse(test.m, test.g, thresholds())
			if r.Verdict != test.verdict {
				t.Errorf("verdict %s, want %s", r.Verdict, test.verdict)
			}
			var ids []string
			for _, f := range r.Causes {
				ids = append(ids, f.ID)
				if f.Confidence <= 0 || f.Confidence > 1 {
					t.Errorf("%s: confidence %v", f.ID, f.Confidence)
				}
			}
			if !slices.Equal(ids, test.causes) {
				t.Errorf("causes %v, want %v", ids, test.causes)
			}
		})
	}
}

func TestEveryCauseIsInTheTable(t *testing.T) {
	want := []string{
		"camera-denied", "camera-missing", "camera-in-use", "microphone-denied", "microphone-missing", "microphone-in-use", "microphone-silent",
		"insecure-context", "browser-unsupported", "websocket-blocked", "longpoll-cut", "turn-tls-blocked", "udp-blocked", "only-443",
		"gateway-to-cloud-down", "relay-region-down", "call-server-unreachable", "latency-high", "jitter-high", "loss-high", "bandwidth-low",
		"clock-skew", "gateway-full", "gateway-draining", "relay-credentials-rejected", "camera-black", "camera-frozen", "microphone-clipping",
		"speaker-not-heard", "echo-heard", "dns-failed", "proxy-auth-required", "proxy-not-used", "proxy-wrong-pac", "tls-intercepted", "region-far",
		"bufferbloat", "vpn-suspected", "ipv6-broken", "cpu-limited", "not-through-gateway", "client-network-refused", "captive-portal",
		"wifi-weak-suspected",
	}
	var have []string
	for _, c := range causes() {
		have = append(have, c.id)
	}
	slices.Sort(want)
	slices.Sort(have)
	if !slices.Equal(have, want) {
		t.Errorf("have %v\nwant %v", have, want)
	}
}

func TestThresholdsAtTheirEdges(t *testing.T) {
	limits := thresholds()
	for _, test := range []struct {
		id    string
		value float64
		want  Verdict
	}{
		{"rtt", 200, Pass},
		{"rtt", 200.1, Warn},
		{"rtt", 300, Warn},
		{"rtt", 300.1, Fail},
		{"jitter", 29.9, Pass},
		{"jitter", 30, Warn},
		{"jitter", 50, Warn},
		{"jitter", 50.1, Fail},
		{"loss", 0.9, Pass},
		{"loss", 1, Warn},
		{"loss", 5, Warn},
		{"loss", 5.1, Fail},
		{"camera", 20, Pass},
		{"camera", 19.9, Warn},
		{"camera", 5, Warn},
		{"camera", 4.9, Fail},
		{"microphone", -49, Pass},
		{"microphone", -51, Warn},
		{"microphone", -60, Warn},
		{"microphone", -61, Fail},
		{"bandwidth-up", 1100, Pass},
		{"bandwidth-up", 350, Pass},
		{"bandwidth-up", 349.9, Warn},
		{"bandwidth-up", 180, Warn},
		{"bandwidth-up", 179.9, Fail},
		{"bandwidth-down", 350, Pass},
		{"bandwidth-down", 180, Warn},
		{"bandwidth-down", 0, Fail},
		{"latency-under-load", 49.9, Pass},
		{"latency-under-load", 50, Warn},
		{"latency-under-load", 200, Warn},
		{"latency-under-load", 200.1, Fail},
		{"cpu", 150, Pass},
		{"cpu", 150.1, Warn},
		{"cpu", 1000, Warn},
		{"cpu", 1000.1, Fail},
	} {
		e := newEvidence(Measurements{Checks: []Measured{{ID: test.id, Result: OK, Value: value(test.value)}}}, Gateway{}, limits)
		if got := e.check(test.id).Verdict; got != test.want {
			t.Errorf("%s %v: %s, want %s", test.id, test.value, got, test.want)
		}
	}
	limits["rtt_pass"] = 100
	e := newEvidence(Measurements{Checks: []Measured{{ID: "rtt", Result: OK, Value: value(150)}}}, Gateway{}, limits)
	if e.check("rtt").Verdict != Warn {
		t.Error("a configured threshold is not used")
	}
}

// TestMOSAtItsEdges: 4.0 passes, 3.6 is worth a warning; the losses are those at which the E-model comes to just so much.
func TestMOSAtItsEdges(t *testing.T) {
	for _, test := range []struct {
		mos  float64
		want Verdict
	}{{4.5, Pass}, {4.0, Pass}, {3.99, Warn}, {3.6, Warn}, {3.59, Fail}, {1, Fail}} {
		if got := thresholds().atLeast("mos", test.mos); got != test.want {
			t.Errorf("%v: %s, want %s", test.mos, got, test.want)
		}
	}
	last := Pass
	for loss := 0.0; loss <= 20; loss += 0.1 {
		m := Measurements{Checks: []Measured{{ID: "rtt", Result: OK, Value: value(20)}, {ID: "jitter", Result: OK, Value: value(2)}, {ID: "loss", Result: OK, Value: value(loss)}}}
		c := newEvidence(m, Gateway{}, thresholds()).check("mos")
		if c.Value == nil || c.Verdict != thresholds().atLeast("mos", *c.Value) || worse(last, c.Verdict) != c.Verdict {
			t.Fatalf("%.1f %% loss: %+v after %s", loss, c, last)
		}
		last = c.Verdict
	}
	if last != Fail {
		t.Errorf("20 %% loss is %s", last)
	}
	if c := newEvidence(Measurements{Checks: []Measured{{ID: "rtt", Result: OK, Value: value(20)}}}, Gateway{}, thresholds()).check("mos"); c.Value != nil {
		t.Error("a score without a loss")
	}
}

// TestBusyComputer: what a late page measured is not held against the line, but what is good, or bad beyond the lateness, stays.
func TestBusyComputer(t *testing.T) {
	for _, test := range []struct {
		id         string
		late, seen float64
		want       Verdict
	}{
		{"bandwidth-up", 300, 100, VerdictUnknown},
		{"bandwidth-down", 300, 3000, Pass},
		{"bandwidth-down", 100, 100, Fail},
		{"rtt", 300, 480, VerdictUnknown},
		{"rtt", 300, 520, Fail},
		{"rtt", 100, 250, Warn},
		{"jitter", 300, 80, VerdictUnknown},
		{"jitter", 200, 240, Fail},
		{"latency-under-load", 300, 340, VerdictUnknown},
		{"latency-under-load", 300, 900, Fail},
		{"loss", 300, 3, VerdictUnknown},
		{"loss", 300, 12, Fail},
	} {
		m := Measurements{Checks: []Measured{{ID: test.id, Result: OK, Value: value(test.seen)}, {ID: "cpu", Result: OK, Value: value(test.late)}}}
		if c := newEvidence(m, Gateway{}, thresholds()).check(test.id); c.Verdict != test.want || (c.Error == "busy") != (test.want == VerdictUnknown) {
			t.Errorf("%s %v on a page that is %v ms late: %s %q, want %s", test.id, test.seen, test.late, c.Verdict, c.Error, test.want)
		}
	}
	far := healthy()
	far.Regions[0].RTT, far.Regions[1].RTT = 260*time.Millisecond, 300*time.Millisecond
	wantCauses(t, allFine().with(Measured{ID: "cpu", Result: OK, Value: value(300)}), far, []string{"region-far", "cpu-limited"})
	r := Analyse(allFine().with(Measured{ID: "loss", Result: OK, Value: value(3)}).with(Measured{ID: "cpu", Result: OK, Value: value(300)}), healthy(), thresholds())
	for _, c := range r.Checks {
		if c.ID == "mos" && c.Verdict != VerdictUnknown {
			t.Errorf("a score of what was not measured: %+v", c)
		}
	}
}

func TestRoundTripIsThatToTheCloud(t *testing.T) {
	r := Analyse(allFine(), healthy(), thresholds())
	for _, c := range r.Checks {
		if c.ID == "rtt" && (*c.Value != 23 || c.Level != LevelPath) {
			t.Errorf("9 ms to the gateway and 14 ms on make %v at level %s", *c.Value, c.Level)
		}
	}
}

func TestAWideLineIsNotCalledNarrow(t *testing.T) {
	for kbits, want := range map[float64]string{3500: "", 300: "bandwidth", 100: "bandwidth"} {
		m := Measurements{Checks: []Measured{{ID: "relay:media", Result: OK, Value: value(kbits), Error: "bandwidth"}}}
		if got := newEvidence(m, Gateway{}, thresholds()).check("relay:media").Error; got != want {
			t.Errorf("%v kbit/s: %q, want %q", kbits, got, want)
		}
	}
}

func TestPort(t *testing.T) {
	for url, want := range map[string]string{
		"turn:gw:443?transport=tcp": "443", "turns:gw": "5349", "turn:gw": "3478", "turn:[2001:db8::1]:8443": "8443", "turn:[2001:db8::1]": "3478",
	} {
		if got := port(url); got != want {
			t.Errorf("%s: %s, want %s", url, got, want)
		}
	}
}

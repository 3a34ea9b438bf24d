package precall

import (
	"slices"
	"testing"
	"time"
)

// host is the call server of these tests; direct one of the cloud's relays.
const (
	host   = "a.call.example"
	direct = "turn:fra.relay.example:3478?transport=tcp"
)

// cloudKnown is the healthy gateway whose regions have names, so that checks of them are told from its own.
func cloudKnown(change ...func(*Gateway)) Gateway {
	g := healthy()
	g.CallServers = g.CallServers[:1]
	g.Regions[0].Hosts, g.Regions[1].Hosts = []string{"fra.relay.example"}, []string{"dub.relay.example"}
	g.Seen.Ways = map[string]Way{}
	for _, f := range change {
		f(&g)
	}
	return g
}

func pac(g *Gateway)     { g.PAC = true }
func outside(g *Gateway) { g.Seen.Outside = true }

func came(way Way) func(*Gateway) { return func(g *Gateway) { g.Seen.Ways[host] = way } }

func fault(f Fault, why string) func(*Gateway) {
	return func(g *Gateway) {
		allRegionsDown(g)
		for i := range g.Regions {
			g.Regions[i].Fault, g.Regions[i].Why = f, why
		}
	}
}

// lost is a browser that does not reach the call server: with the word, after so many milliseconds.
func lost(word string, ms float64, more ...Measured) Measurements {
	m := allFine().with(Measured{ID: "call-server:https", Target: host, Result: Failed, Error: word, MS: ms})
	m.Checks = append(m.Checks, more...)
	return m
}

func directWay(word string) Measured {
	return Measured{ID: "relay:tcp", Target: direct, Result: Failed, Error: word}
}

func TestCausesOfTheWayToTheCallServer(t *testing.T) {
	for _, test := range []struct {
		name   string
		m      Measurements
		g      Gateway
		causes []string
	}{
		{"reached directly", allFine().with(Measured{ID: "call-server:https", Target: host, Result: OK, Value: value(20)}), cloudKnown(), nil},
		{"reached through the gateway", allFine().with(Measured{ID: "call-server:https", Target: host, Result: OK}), cloudKnown(came(WayRouted)), nil},
		{"passed through, answer unreadable", lost("network", 90), cloudKnown(came(WayPassthrough)), nil},
		{"no address", lost("dns", 30), cloudKnown(), []string{"dns-failed"}},
		{"no address, but a PAC file", lost("dns", 30), cloudKnown(pac), []string{"dns-failed", "proxy-not-used"}},
		{"no address, but somebody answers", lost("proxied", 30), cloudKnown(), []string{"proxy-auth-required", "dns-failed"}},
		{"no address, somebody answers, a PAC file", lost("proxied", 30), cloudKnown(pac), []string{"proxy-auth-required", "dns-failed", "proxy-not-used"}},
		{"dropped, a PAC file", lost("timeout", 10000), cloudKnown(pac), []string{"proxy-not-used"}},
		{"dropped, no PAC file", lost("timeout", 10000), cloudKnown(), []string{"not-through-gateway"}},
		{"refused at once", lost("network", 80), cloudKnown(pac), []string{"proxy-auth-required", "proxy-not-used"}},
		{"asked by the gateway itself", lost("network", 80), cloudKnown(pac, came(WayAsked)), []string{"proxy-auth-required", "proxy-wrong-pac"}},
		{"a PAC file that knows another host only", lost("timeout", 10000), cloudKnown(pac, func(g *Gateway) { g.Seen.Ways["fra.relay.example"] = WayConnect }), []string{"proxy-wrong-pac"}},
		{"a PAC file that sends everything", allFine(), cloudKnown(func(g *Gateway) { g.Seen.Ways["*"] = WayRefused }), []string{"proxy-wrong-pac"}},
		{"a PAC file that sends this page as well", allFine(), cloudKnown(func(g *Gateway) { g.Seen.Ways[g.Name] = WayRefused }), []string{"proxy-wrong-pac"}},
		{"something else answers", lost("network", 80, directWay("unanswered-turn")), cloudKnown(pac), []string{"captive-portal"}},
		{"down for the gateway as well", lost("timeout", 10000), cloudKnown(func(g *Gateway) { g.CallServers[0].Up = false }), []string{"call-server-unreachable"}},
		{
			"the gateway answers in its stead", allFine().with(Measured{ID: "call-server:https", Target: host, Result: OK}),
			cloudKnown(came(WayRouted), func(g *Gateway) { g.CallServers[0].Up = false }),
			[]string{"call-server-unreachable"},
		},
		{"outside", lost("timeout", 10000), cloudKnown(outside), []string{"client-network-refused"}},
		{"outside, with ways of its own", allFine().with(Measured{ID: "call-server:https", Target: host, Result: OK}).
			with(Measured{ID: "relay:udp", Target: "turn:fra.relay.example:3478", Result: OK}), cloudKnown(outside), nil},
	} {
		t.Run(test.name, func(t *testing.T) { wantCauses(t, test.m, test.g, test.causes) })
	}
}

func TestCausesOfTheGatewaysOwnWay(t *testing.T) {
	for _, test := range []struct {
		name   string
		g      Gateway
		causes []string
	}{
		{"DNS", cloudKnown(fault(FaultDNS, "resolve fra.relay.example: no such host")), []string{"dns-failed"}},
		{"407", cloudKnown(fault(FaultProxyAuth, "it answered 407")), []string{"proxy-auth-required"}},
		{"portal", cloudKnown(fault(FaultPortal, "a captive portal")), []string{"captive-portal"}},
		{"two reasons", cloudKnown(fault(FaultDNS, "x"), func(g *Gateway) { g.Regions[0].Fault = "" }), []string{"gateway-to-cloud-down"}},
		{"account refused", cloudKnown(func(g *Gateway) { g.Regions[0].Fault = FaultCredentials }), []string{"relay-credentials-rejected"}},
		{"call server without an address", cloudKnown(func(g *Gateway) { g.CallServers[0].Up, g.CallServers[0].Fault = false, FaultDNS }), []string{"dns-failed"}},
		{"far", cloudKnown(func(g *Gateway) { g.Regions[0].RTT, g.Regions[1].RTT = 260*time.Millisecond, 300*time.Millisecond }), []string{"region-far"}},
	} {
		t.Run(test.name, func(t *testing.T) { wantCauses(t, allFine(), test.g, test.causes) })
	}
}

func TestCausesOfTheRest(t *testing.T) {
	shaky := allFine().with(Measured{ID: "jitter", Result: OK, Value: value(60)})
	for range 40 {
		shaky.Series = []Series{{ID: "rtt", Every: 0.1, Values: append(slices.Repeat([]float64{5}, 30), slices.Repeat([]float64{200}, 10)...)}}
	}
	for _, test := range []struct {
		name   string
		m      Measurements
		g      Gateway
		causes []string
	}{
		{"camera black", allFine().with(fails("camera", "black")), cloudKnown(), []string{"camera-black"}},
		{"camera frozen", allFine().with(fails("camera", "frozen")), cloudKnown(), []string{"camera-frozen"}},
		{"clipping", allFine().with(Measured{ID: "microphone", Result: OK, Value: value(-1), Error: "clipping"}), cloudKnown(), []string{"microphone-clipping"}},
		{"speaker", allFine().with(fails("speaker", "not-heard")), cloudKnown(), []string{"speaker-not-heard"}},
		{"speaker unanswered", allFine().with(Measured{ID: "speaker", Result: Unknown, Error: "unanswered"}), cloudKnown(), nil},
		{"echo", allFine().with(Measured{ID: "echo", Result: OK, Error: "heard", Value: value(40)}), cloudKnown(), []string{"echo-heard"}},
		{"late", allFine().with(Measured{ID: "cpu", Result: OK, Value: value(700)}), cloudKnown(), []string{"cpu-limited"}},
		{"a little late", allFine().with(Measured{ID: "cpu", Result: OK, Value: value(90)}), cloudKnown(), nil},
		{
			"late, and so the line looks bad", allFine().with(Measured{ID: "cpu", Result: OK, Value: value(700)}).with(Measured{ID: "jitter", Result: OK, Value: value(45)}),
			cloudKnown(),
			[]string{"cpu-limited"},
		},
		{
			"late, and the line is bad all the same", allFine().with(Measured{ID: "cpu", Result: OK, Value: value(300)}).with(Measured{ID: "rtt", Result: OK, Value: value(800)}),
			cloudKnown(),
			[]string{"cpu-limited", "latency-high"},
		},
		{
			"unsteady, and so long on average", allFine().with(Measured{ID: "jitter", Result: OK, Value: value(40)}).with(Measured{ID: "rtt", Result: OK, Value: value(230)}),
			cloudKnown(),
			[]string{"jitter-high", "latency-high"},
		},
		{
			"unsteady, and so the browser is careful", allFine().with(Measured{ID: "jitter", Result: OK, Value: value(40)}).
				with(Measured{ID: "relay:media", Result: OK, Error: "bandwidth", Value: value(160)}).
				with(Measured{ID: "bandwidth-up", Result: OK, Value: value(2100)}).with(Measured{ID: "bandwidth-down", Result: OK, Value: value(2500)}),
			cloudKnown(),
			[]string{"jitter-high"},
		},
		{"intercepted", allFine(), cloudKnown(func(g *Gateway) { g.Seen.TLS = Handshake{Judged: true, Intercepted: true, Missing: "GREASE"} }), []string{"tls-intercepted"}},
		{"Via", allFine(), cloudKnown(func(g *Gateway) { g.Seen.Headers = []string{"Via"} }), []string{"tls-intercepted"}},
		{"two addresses", allFine(), cloudKnown(func(g *Gateway) { g.Seen.Mapped = MappedDifferent }), []string{"vpn-suspected"}},
		{"IPv6", allFine().with(fails("ipv6", "unreached")), cloudKnown(), []string{"ipv6-broken"}},
		{"no IPv6", allFine().with(Measured{ID: "ipv6", Result: Skipped, Error: "no-ipv6"}), cloudKnown(), nil},
		{"up", allFine().with(Measured{ID: "bandwidth-up", Result: OK, Value: value(120)}), cloudKnown(), []string{"bandwidth-low"}},
		{"down", allFine().with(Measured{ID: "bandwidth-down", Result: OK, Value: value(300)}), cloudKnown(), []string{"bandwidth-low"}},
		{"queue", allFine().with(Measured{ID: "latency-under-load", Result: OK, Value: value(900)}), cloudKnown(), []string{"bufferbloat"}},
		{
			"queue of a narrow line", allFine().with(Measured{ID: "latency-under-load", Result: OK, Value: value(900)}).with(Measured{ID: "bandwidth-up", Result: OK, Value: value(300)}),
			cloudKnown(),
			[]string{"bandwidth-low", "bufferbloat"},
		},
		{
			"loss slows TCP", allFine().with(Measured{ID: "loss", Result: OK, Value: value(12)}).with(Measured{ID: "bandwidth-up", Result: OK, Value: value(170)}).with(Measured{ID: "jitter", Result: OK, Value: value(70)}),
			cloudKnown(),
			[]string{"loss-high", "bandwidth-low", "jitter-high"},
		},
		{"Wi-Fi", shaky, cloudKnown(), []string{"jitter-high", "wifi-weak-suspected"}},
		{"only 443, seen at the cloud's ports", allFine().with(fails("relay:udp", "unreached")).and(directWay("unreached")), cloudKnown(), []string{"only-443"}},
		{"UDP blocked, other TCP ports open", allFine().with(fails("relay:udp", "unreached")).and(Measured{ID: "relay:tcp", Target: direct, Result: OK}), cloudKnown(), []string{"udp-blocked"}},
		{"the cloud's relays closed, the gateway open", allFine().and(directWay("unreached")), cloudKnown(), nil},
		{"WebSocket refused like the gateway's", allFine().with(Measured{ID: "call-server:websocket", Target: host, Result: Failed, Error: "not-opened"}), cloudKnown(), nil},
	} {
		t.Run(test.name, func(t *testing.T) { wantCauses(t, test.m, test.g, test.causes) })
	}
	opens := cloudKnown(func(g *Gateway) { g.CallServers[0].Opens = true })
	m := allFine().and(Measured{ID: "call-server:websocket", Target: host, Result: Failed, Error: "not-opened"})
	wantCauses(t, m, opens, []string{"websocket-blocked"})
}

// and adds a check beside those of the same id.
func (m Measurements) and(c Measured) Measurements {
	m.Checks = append(slices.Clone(m.Checks), c)
	return m
}

func wantCauses(t *testing.T, m Measurements, g Gateway, want []string) {
	t.Helper()
	var have []string
	for _, f := range Analyse(m, g, thresholds()).Causes {
		have = append(have, f.ID)
	}
	if !slices.Equal(have, want) {
		t.Errorf("causes %v, want %v", have, want)
	}
}

func TestJudgeHello(t *testing.T) {
	const (
		chrome  = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/156.0.0.0 Safari/537.36"
		firefox = "Mozilla/5.0 (X11; Linux x86_64; rv:153.0) Gecko/20100101 Firefox/153.0"
		safari  = "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/26.0 Mobile/15E148 Safari/604.1"
	)
	own := &ClientHello{GREASE: true, ALPN: []string{"h2", "http/1.1"}}
	proxy := &ClientHello{ALPN: []string{"http/1.1"}, Extensions: []uint16{0, 10, 11, 13}}
	for _, test := range []struct {
		agent       string
		hello       *ClientHello
		judged, bad bool
	}{
		{chrome, own, true, false},
		{chrome, proxy, true, true},
		{safari, own, true, false},
		{safari, proxy, true, true},
		{firefox, &ClientHello{ALPN: []string{"h2"}, Extensions: []uint16{0, 28}}, true, false},
		{firefox, proxy, true, true},
		{firefox, own, true, true},
		{"curl/8", proxy, false, false},
		{"", proxy, false, false},
		{chrome, nil, false, false},
	} {
		if got := JudgeHello(test.agent, test.hello); got.Judged != test.judged || got.Intercepted != test.bad {
			t.Errorf("%.30s %+v: %+v", test.agent, test.hello, got)
		}
	}
	if got := AddedHeaders(map[string][]string{"Via": {"1.1 squid"}, "Accept": {"*/*"}}); !slices.Equal(got, []string{"Via"}) {
		t.Error(got)
	}
}

package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// plainAddr is where the second call service listens: the one that knows nothing of the gateway.
const plainAddr = "10.20.0.3"

// startCallService runs the stand-in call service twice, with both coturns as its regions: under callName it lists the
// gateway first among its ICE servers, under plainName it knows of no gateway.
func (l *laboratory) startCallService() {
	l.t.Helper()
	gateway := fmt.Sprintf("gateway: [%q]\n", "turns:"+gatewayName+":443?transport=tcp")
	l.callService(callName, cloudAddr, gateway)
	l.callService(plainName, plainAddr, "")
}

func (l *laboratory) callService(name, addr, extra string) {
	l.t.Helper()
	cert, key := l.ca.issue(l.t, name+".cloud", name)
	var b strings.Builder
	fmt.Fprintf(&b, "listen: %s:443\ntls: {cert: %s, key: %s}\nsecret: %s\nrealm: cloud.example\n%sregions:\n",
		addr, cert, key, relaySecret, extra)
	for _, r := range []struct{ name, host, addr string }{{"frankfurt", fraName, fraAddr}, {"london", lonName, lonAddr}} {
		fmt.Fprintf(&b, "  - {name: %s, address: %s, urls: [%q, %q, %q]}\n", r.name, r.addr,
			"turn:"+r.host+":3478?transport=udp", "turn:"+r.host+":3478?transport=tcp", "turns:"+r.host+":443?transport=tcp")
	}
	file := filepath.Join(l.dir, name+".yaml")
	must(l.t, os.WriteFile(file, []byte(b.String()), 0o644))
	l.cloud.start(l.t, "call service "+name, hafenBinary, "cloud", "--config", file)
	l.cloud.waitTCP(l.t, addr+":443")
}

// callStats is what the call page tells about its media.
type callStats struct {
	State           string  `json:"state"`
	Signaling       string  `json:"signaling"`
	FramesDecoded   float64 `json:"framesDecoded"`
	PacketsReceived float64 `json:"audioPacketsReceived"`
	Restarts        float64 `json:"restarts"`
	Region          string  `json:"region"`
	Via             string  `json:"via"`
	Pair            struct {
		Local struct {
			RelayProtocol string `json:"relayProtocol"`
			URL           string `json:"url"`
		} `json:"local"`
	} `json:"pair"`
	Errors []struct {
		URL  string  `json:"url"`
		Code float64 `json:"code"`
		Text string  `json:"text"`
	} `json:"errors"`
}

// stats reads the page's numbers; zero while it has none.
func (p *tab) stats() callStats {
	var s callStats
	_ = p.eval("window.call ? window.call.stats() : {}", &s)
	return s
}

// mediaFlows waits until both pages decode video frames and receive audio, more than they had.
func mediaFlows(t testing.TB, pages ...*tab) {
	t.Helper()
	for _, p := range pages {
		before := p.stats()
		var now callStats
		waitForOr(t, "media in both directions", callTimeout, func() bool {
			now = p.stats()
			return now.FramesDecoded > before.FramesDecoded+10 && now.PacketsReceived > before.PacketsReceived+20
		}, func() string { return fmt.Sprintf("before %+v, now %+v", before, now) })
	}
}

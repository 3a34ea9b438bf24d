package relay

import (
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/pion/logging"
	"github.com/pion/stun/v2"
	"github.com/pion/turn/v4"

	"hafen/configs"
)

// onlyPath is the path of a region with one rung of a kind, resolved.
func onlyPath(t *testing.T, ca *testCA, one *standin, kind string) *path {
	t.Helper()
	o := newOutside(t, ca, []configs.Region{{Name: "one", URLs: one.urls(kind), Use: true}},
		map[string]string{one.host: one.udp.LocalAddr().(*net.UDPAddr).IP.String()}, nil)
	o.drive(time.Second)
	p := o.services[0].regions[0].rungs[0].current
	if p == nil || p.state != stateUp {
		t.Fatalf("%+v", o.status())
	}
	return p
}

// newTURN is a real TURN server on UDP and TCP of one port. peers false: it relays to nobody.
func newTURN(t *testing.T, secret string, peers bool) *net.UDPAddr {
	t.Helper()
	packets, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	relays := &turn.RelayAddressGeneratorStatic{RelayAddress: net.IPv4(127, 0, 0, 1), Address: "127.0.0.1"}
	admit := func(net.Addr, net.IP) bool { return peers }
	logs := logging.NewDefaultLoggerFactory()
	logs.DefaultLogLevel = logging.LogLevelDisabled
	server, err := turn.NewServer(turn.ServerConfig{
		Realm: "hafen.test", AuthHandler: turn.LongTermTURNRESTAuthHandler(secret, logs.NewLogger("auth")), LoggerFactory: logs,
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: packets, RelayAddressGenerator: relays, PermissionHandler: admit}},
		ListenerConfigs:   []turn.ListenerConfig{{Listener: streams, RelayAddressGenerator: relays, PermissionHandler: admit}},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	return packets.LocalAddr().(*net.UDPAddr)
}

func TestDeepProbe(t *testing.T) {
	tests := []struct {
		name          string
		kind          string
		secret        string
		peers         bool
		tried, looped bool
		note          string
	}{
		{"udp", "udp", "secret", true, true, true, ""},
		{"tcp", "tcp", "secret", true, true, true, ""},
		{"wrong secret", "udp", "wrong", true, false, false, "credentials"},
		{"no permission", "udp", "secret", false, false, false, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			addr := newTURN(t, "secret", tt.peers)
			url := "turn:one.test:" + strings.TrimPrefix(addr.String(), "127.0.0.1:") + "?transport=" + tt.kind
			account := configs.TURNCredentials{SecretFile: writeFile(t, tt.secret+"\n")}
			o := newOutside(t, nil, []configs.Region{{Name: "one", URLs: []string{url}, Use: true}},
				map[string]string{"one.test": "127.0.0.1"}, func(o *outside) { o.config.Services[0].TURNCredentials = account })
			o.drive(3 * time.Second)
			rg := o.rungOf("one", tt.kind)
			if rg.State != "up" || !strings.Contains(rg.Note, tt.note) || tt.note == "" && rg.Note != "" {
				t.Fatalf("%+v", rg)
			}
			p := o.services[0].regions[0].rungs[0].current
			if p.looped != tt.looped {
				t.Errorf("looped %v", p.looped)
			}
			username, password, _ := o.services[0].account.get(t.Context())
			finding, err := p.deep(t.Context(), username, password)
			if err != nil || finding.refuses != "" || finding.tried != tt.tried || finding.looped != tt.looped {
				t.Errorf("%+v, %v", finding, err)
			}
		})
	}
}

// Relayed packets that came back once must go on coming back; where they never did, nobody expects it.
func TestDeepProbeLearns(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	rg := &rung{region: &region{name: "one"}, kind: rungUDP, name: "udp:3478"}
	fresh := func() *path {
		p := &path{rung: rg}
		p.sent(now, 1)
		p.answered(now, time.Millisecond)
		return p
	}
	p := fresh()
	p.learn(now, deepFinding{tried: true}, nil)
	if p.refuses != "" {
		t.Errorf("never looped: %s", p.refuses)
	}
	p.learn(now, deepFinding{tried: true, looped: true}, nil)
	p.learn(now, deepFinding{tried: true}, nil)
	if p.usable() || !strings.Contains(p.refuses, "no longer come back") {
		t.Errorf("stopped looping: %q", p.refuses)
	}
	p.learn(now, deepFinding{tried: true, looped: true}, nil)
	if !p.usable() {
		t.Errorf("loops again: %q", p.refuses)
	}
	p.learn(now, deepFinding{}, net.ErrClosed)
	if p.usable() || !strings.Contains(p.refuses, "not Allocate") {
		t.Errorf("answers Binding only: %q", p.refuses)
	}
	p = fresh()
	p.missed(now, "no answer")
	p.learn(now, deepFinding{}, net.ErrClosed)
	if p.refuses != "" {
		t.Errorf("answers nothing at all, which is for the probes to say: %q", p.refuses)
	}
}

func TestDeepFindings(t *testing.T) {
	for code, refuses := range map[stun.ErrorCode]bool{
		stun.CodeUnauthorized: false, stun.CodeForbidden: false, stun.CodeAllocQuotaReached: false, stun.CodeWrongCredentials: false,
		stun.CodeTryAlternate: false, stun.CodeInsufficientCapacity: true, stun.CodeServerError: true,
	} {
		if f := findingOf(int(code)); (f.refuses != "") != refuses || (f.note != "") == refuses {
			t.Errorf("%d: %+v", code, f)
		}
	}
}

// TestDeepProbeWithURL: the credentials of turn_credentials.url are good for probes; an endpoint that fails is nothing against a region.
func TestDeepProbeWithURL(t *testing.T) {
	addr := newTURN(t, "secret", true)
	down := false
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down {
			http.Error(w, "down", http.StatusServiceUnavailable)
			return
		}
		username, password := authority{secret: []byte("secret")}.mint("us", time.Now().Add(time.Hour))
		_ = json.NewEncoder(w).Encode(map[string]any{"iceServers": []map[string]string{{"username": username, "credential": password}}})
	}))
	t.Cleanup(service.Close)
	for _, down = range []bool{false, true} {
		url := "turn:one.test:" + strings.TrimPrefix(addr.String(), "127.0.0.1:") + "?transport=udp"
		o := newOutside(t, nil, []configs.Region{{Name: "one", URLs: []string{url}, Use: true}}, map[string]string{"one.test": "127.0.0.1"}, nil)
		o.services[0].account = &cloudAccount{url: service.URL, http: service.Client(), now: o.now}
		o.drive(3 * time.Second)
		p, rg := o.services[0].regions[0].rungs[0].current, o.rungOf("one", "udp")
		if rg.State != "up" || p.looped == down || strings.Contains(rg.Note, "turn_credentials.url") != down {
			t.Errorf("endpoint down %v: looped %v, %+v", down, p.looped, rg)
		}
	}
}

func TestFixedAccount(t *testing.T) {
	a, err := newFixedAccount(configs.TURNCredentials{Username: "user", PasswordFile: writeFile(t, " pass word \r\nsecond line\n")})
	if err != nil {
		t.Fatal(err)
	}
	if a.username != "user" || a.password != "pass word" {
		t.Errorf("%q %q", a.username, a.password)
	}
	if a, err := newFixedAccount(configs.TURNCredentials{}); a != nil || err != nil {
		t.Errorf("nothing given: %v, %v", a, err)
	}
}

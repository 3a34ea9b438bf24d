package e2e

import (
	"crypto/hmac"
	"crypto/sha1" //nolint:gosec // TURN REST credentials are defined with it
	"encoding/base64"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// ownSecret is the TURN REST secret of the gateway itself, in the modes in which clients log in here.
var ownSecret = secrets.Make("the gateway's TURN secret")

const (
	// relayAddr is the address of the DMZ that mode local relays from, and relayPorts are its ports.
	relayAddr  = "10.10.0.3"
	relayPorts = "50000-51999"
)

// modesLaboratory is a laboratory whose call service knows nothing of the gateway: browsers get its TURN only because the gateway
// rewrites what /ice answers. No gateway runs in it yet.
func modesLaboratory(t testing.TB) *laboratory {
	t.Helper()
	l := &laboratory{t: t, dir: t.TempDir(), net: newNetwork(t)}
	l.ca = newAuthority(t, l.dir)
	l.dmz = l.net.host("dmz", 3)
	l.cloud = l.net.host("cloud", 3, 11, 12)
	l.dmz.names(t, map[string]string{callName: cloudAddr, plainName: plainAddr, fraName: fraAddr, lonName: lonAddr})
	l.fra = startCoturn(t, l.cloud, l.ca, fraName, fraAddr)
	l.lon = startCoturn(t, l.cloud, l.ca, lonName, lonAddr)
	l.callService(callName, cloudAddr, "")
	for name, secret := range map[string]string{"cloud.secret": relaySecret, "own.secret": ownSecret} {
		must(t, os.WriteFile(filepath.Join(l.dir, name), []byte(secret+"\n"), 0o600))
	}
	return l
}

// runMode starts the gateway in a mode, in the place of the one that runs. change edits its configuration.
func (l *laboratory) runMode(mode string, change ...func(string) string) {
	l.t.Helper()
	if l.gateway != nil {
		l.gateway.stop()
	}
	more := fmt.Sprintf(`limits: {allocations_per_user: 1000}
signaling: {routes: [{host: %s, rewrite_ice_servers: ["/ice"], keep_original_ice: false}]}
relay: {mode: %s}
`, callName, mode)
	cfg := l.gatewayConfig()
	if mode != "bridge" {
		more = strings.Replace(more, "mode: "+mode, "mode: "+mode+", secret_file: "+filepath.Join(l.dir, "own.secret"), 1)
	}
	switch mode {
	case "terminate":
		cfg = strings.Replace(cfg, "    probes: {", "    turn_credentials: {secret_file: "+filepath.Join(l.dir, "cloud.secret")+"}\n    probes: {", 1)
	case "local":
		more = strings.Replace(more, "mode: local", fmt.Sprintf("mode: local, local: {address: %s, ports: %s}", relayAddr, relayPorts), 1)
	}
	cfg += more
	for _, f := range change {
		cfg = f(cfg)
	}
	l.startGateway(cfg)
}

// askedAtURL has the gateway fetch the cloud's credentials where browsers do, instead of knowing the secret.
func (l *laboratory) askedAtURL(cfg string) string {
	return strings.Replace(cfg, "{secret_file: "+filepath.Join(l.dir, "cloud.secret")+"}", fmt.Sprintf("{url: %q}", "https://"+callName+"/ice"), 1)
}

// TestCallTerminate: nothing is open but TCP 443 to the gateway, which logs clients in with credentials of its own and holds the
// allocations at the cloud's relays itself.
func TestCallTerminate(t *testing.T) { callScenario(t, callTerminate) }

func callTerminate(t *testing.T) {
	l := modesLaboratory(t)
	l.runMode("terminate")
	for _, p := range l.mintedCall(t) {
		if at := p.relayedAddress(); at != fraAddr && at != lonAddr {
			t.Errorf("media is relayed from %q, want one of the cloud's relays", at)
		}
	}
}

// TestCallLocal: as above, but the gateway relays from an address of its own, and the media of two of its clients touches no
// relay port: it is handed over within the process.
func TestCallLocal(t *testing.T) { callScenario(t, callLocal) }

func callLocal(t *testing.T) {
	l := modesLaboratory(t)
	l.dmz.nft(t, fmt.Sprintf(`table inet watch {
 counter relayed { }
 chain in { type filter hook input priority 0; ip daddr %[1]s udp dport %[2]s counter name relayed; }
 chain out { type filter hook output priority 0; ip saddr %[1]s udp sport %[2]s counter name relayed; }
}`, relayAddr, relayPorts))
	l.runMode("local")
	for _, p := range l.mintedCall(t) {
		if at := p.relayedAddress(); at != relayAddr {
			t.Errorf("media is relayed from %q, want %s", at, relayAddr)
		}
	}
	if counted := l.dmz.run(t, "nft", "list", "counter", "inet", "watch", "relayed"); !strings.Contains(counted, "packets 0 ") {
		t.Errorf("media of two clients went over the relay ports:\n%s", counted)
	}
	sent := l.metric(`hafen_relay_bytes_total`)
	if sent == 0 {
		t.Error("the gateway counts no media")
	}
}

// mintedCall makes a call of two browsers, and looks at what they were given for it.
func (l *laboratory) mintedCall(t *testing.T) []*tab {
	t.Helper()
	ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
	a, b := l.call(t, ward, "https://"+callName+"/r/m?join=1&relay=1&video=small&transport=tls")
	for _, p := range []*tab{a, b} {
		servers := p.iceServers()
		if len(servers) != 1 {
			t.Fatalf("the browser has %d ICE servers, want the gateway alone: %+v", len(servers), servers)
		}
		s := servers[0]
		for _, u := range s.URLs {
			if !strings.Contains(u, gatewayName) {
				t.Errorf("the browser has %s", u)
			}
		}
		if s.Credential != restPassword(ownSecret, s.Username) {
			t.Errorf("the credential of %q is not the gateway's", s.Username)
		}
		if s.Credential == restPassword(relaySecret, s.Username) {
			t.Errorf("the credential of %q is the cloud's", s.Username)
		}
	}
	if n := l.metric("hafen_relay_allocations"); n < 2 {
		t.Errorf("the gateway counts %v allocations, want 2 at least", n)
	}
	l.metricsGet("/api/v1/status") // it is searched for secrets
	return []*tab{a, b}
}

// iceServer is what a browser holds.
type iceServer struct {
	URLs       []string `json:"urls"`
	Username   string   `json:"username"`
	Credential string   `json:"credential"`
}

// iceServers are the page's own, as its RTCPeerConnection tells them.
func (p *tab) iceServers() (servers []iceServer) {
	p.t.Helper()
	must(p.t, p.eval("window.call.link.pc.getConfiguration().iceServers", &servers))
	return servers
}

// relayedAddress is the XOR-RELAYED-ADDRESS that the page's media uses; empty while there is none.
func (p *tab) relayedAddress() string {
	const script = `(async () => {
  const all = [...(await window.call.link.pc.getStats()).values()];
  const pair = all.find((s) => s.type === 'candidate-pair' && s.nominated && s.state === 'succeeded');
  const local = all.find((s) => s.id === pair?.localCandidateId);
  return local?.candidateType === 'relay' ? local.address : '';
})()`
	var at string
	_ = p.eval(script, &at)
	return at
}

// restPassword is the password of a time-limited user name under a secret.
func restPassword(secret, username string) string {
	mac := hmac.New(sha1.New, []byte(secret))
	mac.Write([]byte(username))
	return secrets.Add("a TURN password", base64.StdEncoding.EncodeToString(mac.Sum(nil)))
}

// How much TestTurnutilsModes sends. The real thing is make turnutils, and takes a quarter of an hour.
var (
	loadClients  = flag.Int("clients", aFew, "clients of the relay modes' load")
	loadMessages = flag.Int("messages", 20, "messages of each of them")
	loadLeave    = flag.Bool("leave", false, "wait until the allocations of UDP clients have ended by themselves")
)

// aFew are clients enough for every day.
const aFew = 8

// udpLifetime is what turnutils_uclient asks for. Over UDP it leaves without giving anything back.
const udpLifetime = 777 * time.Second

// refusedAllocations are the lines in which the gateway says why an allocation failed.
var refusedAllocations = regexp.MustCompile(`an allocation failed.*`)

var loadReport = regexp.MustCompile(`Total lost packets (\d+)`)

// loading is held by the one who loads: modes wait beside each other, and are loaded one after the other.
var loading sync.Mutex

// TestTurnutilsModes drives each mode with coturn's own load client over each transport: nothing may be lost, and what clients held
// is given back: allocations are none, goroutines as many as before.
func TestTurnutilsModes(t *testing.T) {
	t.Parallel()
	modes := []string{"terminate", "local"}
	if *loadClients > aFew { // TestTurnutils has a few for the bridge
		modes = append(modes, "bridge")
	}
	for _, mode := range modes {
		t.Run(mode, func(t *testing.T) {
			t.Parallel()
			l := modesLaboratory(t)
			l.runMode(mode, patient)
			ward := l.office("ward", map[string]string{gatewayName: gatewayAddr}, onlyGateway, "ip daddr "+gatewayAddr+" udp dport 443")
			// The load client binds channels of RFC 5766, up to 0x7FFF. RFC 8656 has them end at 0x4FFF, and so does the gateway where it
			// is the one to judge; there the client sends indications.
			secret, method := ownSecret, []string{"-s"}
			if mode == "bridge" {
				secret, method = relaySecret, nil
			}
			base := l.metric("go_goroutines ")
			for _, via := range []struct {
				name  string
				flags []string
			}{{"tls", []string{"-t", "-S"}}, {"tcp", []string{"-t"}}, {"udp", nil}} {
				l.load(t, ward, via.name, secret, append(via.flags, method...))
				switch {
				case via.name != "udp":
					l.givenBack(t, base, 15*time.Second)
				case *loadLeave:
					l.givenBack(t, base, udpLifetime+time.Minute)
				}
			}
		})
	}
}

// patient keeps what waits for the load client longer than media is worth keeping: on a busy machine it reads late, and what is lost
// is to be counted, not what is old.
func patient(cfg string) string {
	return strings.Replace(cfg, "relay: {mode:", "relay: {queue: {max_age: 5s}, mode:", 1)
}

// givenBack waits until nothing is left of the load. The few goroutines that probes come and go with are allowed for.
func (l *laboratory) givenBack(t *testing.T, base float64, within time.Duration) {
	t.Helper()
	const probes = 12
	var allocations, goroutines float64
	waitForOr(t, "what the load held to be given back", within, func() bool {
		allocations, goroutines = l.metric("hafen_relay_allocations "), l.metric("go_goroutines ")
		return allocations == 0 && goroutines > 0 && goroutines <= base+probes
	}, func() string {
		return fmt.Sprintf("%v allocations, %v goroutines; %v before", allocations, goroutines, base)
	})
	t.Logf("%v allocations, %v goroutines; %v before", allocations, goroutines, base)
}

func (l *laboratory) load(t *testing.T, ward *namespace, via, secret string, flags []string) {
	t.Helper()
	pause := "20" // ms between two messages of a client
	if *loadClients > aFew {
		loading.Lock()
		defer loading.Unlock()
		pause = "200" // who reads late loses what waited too long: the load client must keep up, too
	}
	began := time.Now()
	args := append([]string{
		"-y", "-c", "-z", pause, "-m", fmt.Sprint(*loadClients), "-n", fmt.Sprint(*loadMessages), "-l", "200", "-p", "443", "-u", "tester", "-W", secret,
	}, flags...)
	out, err := ward.command(t.Context(), "turnutils_uclient", append(args, gatewayAddr)...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: turnutils_uclient: %v\n%s\nthe gateway: %q", via, err, lastLines(string(out), 3000), refusedAllocations.FindAllString(l.gateway.out.String(), 5))
	}
	found := loadReport.FindAllStringSubmatch(string(out), -1)
	if len(found) == 0 {
		t.Fatalf("%s: no count of lost packets:\n%s", via, lastLines(string(out), 3000))
	}
	if lost := found[len(found)-1][1]; lost != "0" {
		t.Fatalf("%s: %s packets lost, of which the gateway dropped %v for their age and refused %v; load %.1f for each processor\n%s", via, lost,
			l.metric("hafen_relay_dropped_frames_total"), l.metric("hafen_relay_refused_packets_total"), loadPerCPU(), lastLines(string(out), 3000))
	}
	t.Logf("%s: %d clients, %d messages each, 0 lost: %v", via, *loadClients, *loadMessages, time.Since(began).Round(100*time.Millisecond))
}

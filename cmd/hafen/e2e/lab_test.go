package e2e

import (
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// The names of the laboratory. Only the gateway's is of the hospital; the rest is the call service's.
const (
	gatewayName = "gw.hospital.example"
	callName    = "call.cloud.example"  // the gateway holds a certificate for it
	plainName   = "plain.cloud.example" // it holds none: SNI passthrough
	fraName     = "fra.relay.example"
	lonName     = "lon.relay.example"
	otherName   = "elsewhere.example" // nobody's business
)

// Addresses: a /24 for each host behind the router.
const (
	gatewayAddr = "10.10.0.2"
	cloudAddr   = "10.20.0.2"
	fraAddr     = "10.20.0.11"
	lonAddr     = "10.20.0.12"
)

var standing = flag.Bool("lab", false, "leave the laboratory standing until interrupted")

// binaryVariable names the program where somebody has built it already.
const binaryVariable = "HAFEN_E2E_BINARY"

// hafenBinary is the program under test, built once by TestMain.
var hafenBinary string

func TestMain(m *testing.M) {
	flag.Parse()
	os.Exit(testMain(m))
}

// testMain builds the program, or says why nothing here can run. In CI that is an error.
func testMain(m *testing.M) int {
	if missing := missingTools(); missing != "" {
		if os.Getenv("CI") == "true" {
			fmt.Fprintln(os.Stderr, "e2e: the laboratory can't stand:", missing)
			return 1
		}
		fmt.Println("e2e: skipped, the laboratory can't stand:", missing)
		return 0
	}
	if hafenBinary = os.Getenv(binaryVariable); hafenBinary != "" {
		return end(os.Stdout, m.Run())
	}
	dir, err := os.MkdirTemp("", "hafen-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	hafenBinary = filepath.Join(dir, "hafen")
	build := exec.Command("go", "build", "-o", hafenBinary, "hafen/cmd/hafen")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "e2e: build: %v\n%s", err, out)
		return 1
	}
	return end(os.Stdout, m.Run())
}

// missingTools names what the laboratory needs and this machine lacks; empty when it can stand.
func missingTools() string {
	if os.Getuid() != 0 {
		return "network namespaces need root"
	}
	var missing []string
	for _, tool := range []string{"ip", "nft", "chromium", "certutil", "turnserver", "turnutils_uclient", "squid", "dnsmasq"} {
		if _, err := exec.LookPath(tool); err != nil {
			missing = append(missing, tool)
		}
	}
	if len(missing) > 0 {
		return "not installed: " + strings.Join(missing, ", ") + " (make deps installs them on Debian)"
	}
	return ""
}

// laboratory is the whole scene: offices are added as scenarios need them.
type laboratory struct {
	t        testing.TB
	dir      string
	net      *network
	ca       *authority
	dmz      *namespace
	cloud    *namespace
	gateway  *process
	fra, lon *process
	ward     *namespace // an office, for scenarios that share one
}

// newLaboratory stands up the network, the call service with two coturn regions, and the gateway.
// change edits the gateway's configuration before it starts.
func newLaboratory(t testing.TB, change ...func(string) string) *laboratory {
	t.Helper()
	l := newCloud(t)
	cfg := l.gatewayConfig()
	for _, f := range change {
		cfg = f(cfg)
	}
	l.startGateway(cfg)
	return l
}

// newCloud stands up all but the gateway.
func newCloud(t testing.TB) *laboratory {
	t.Helper()
	l := &laboratory{t: t, dir: t.TempDir(), net: newNetwork(t)}
	l.ca = newAuthority(t, l.dir)
	l.dmz = l.net.host("dmz")
	l.cloud = l.net.host("cloud", 3, 11, 12)
	l.dmz.names(t, map[string]string{callName: cloudAddr, plainName: plainAddr, fraName: fraAddr, lonName: lonAddr, otherName: cloudAddr})
	l.fra = startCoturn(t, l.cloud, l.ca, fraName, fraAddr)
	l.lon = startCoturn(t, l.cloud, l.ca, lonName, lonAddr)
	l.startCallService()
	return l
}

// gatewayConfig is what an administrator would write, with the laboratory's addresses allowed.
func (l *laboratory) gatewayConfig() string {
	cert, key := l.ca.issue(l.t, gatewayName, callName, gatewayAddr)
	return fmt.Sprintf(`name: %s
listen:
  https: [":443"]
  turn_udp: [":443"]
  proxy: [":3128"]
tls:
  source: files
  files: [{cert: %s, key: %s}]
services:
  - name: calls
    hosts: [%s, %s]
    ca_file: %s
    private_networks: [10.20.0.0/24]
    regions:
      - name: frankfurt
        urls: ["turn:%s:3478?transport=udp", "turn:%s:3478?transport=tcp", "turns:%s:443?transport=tcp"]
      - name: london
        urls: ["turn:%s:3478?transport=udp", "turn:%s:3478?transport=tcp", "turns:%s:443?transport=tcp"]
    probes: {https: /healthz}
pac: {otherwise: DIRECT}
drain: 2s
log: {level: debug, format: text}
data_dir: %s
run_dir: %s
`, gatewayName, cert, key, callName, plainName, l.ca.file, fraName, fraName, fraName, lonName, lonName, lonName,
		filepath.Join(l.dir, "data"), filepath.Join(l.dir, "run"))
}

func (l *laboratory) startGateway(cfg string) {
	l.t.Helper()
	file := filepath.Join(l.dir, "hafen.yaml")
	must(l.t, os.WriteFile(file, []byte(l.filled(cfg)), 0o644))
	for _, d := range []string{"data", "run"} {
		must(l.t, os.MkdirAll(filepath.Join(l.dir, d), 0o700))
	}
	l.gateway = l.dmz.start(l.t, "gateway", hafenBinary, "serve", "--config", file)
	l.dmz.waitTCP(l.t, "127.0.0.1:9443")
	waitFor(l.t, "the gateway to be ready", 20*time.Second, func() bool {
		return l.metricsGet("/readyz?strict=1") != "" && !strings.Contains(l.gateway.out.String(), "panic:")
	})
}

// metricsGet asks the gateway's metrics listener; "" unless it answers 200.
func (l *laboratory) metricsGet(path string) string {
	body, status := get(l.dmz, "http://127.0.0.1:9443"+path, "")
	if status != http.StatusOK {
		return ""
	}
	return body
}

// metric reads the sum of a metric's series whose name and labels start with prefix.
func (l *laboratory) metric(prefix string) float64 {
	sum := 0.0
	for _, line := range strings.Split(l.metricsGet("/metrics"), "\n") {
		if strings.HasPrefix(line, prefix) {
			var v float64
			if _, err := fmt.Sscan(line[strings.LastIndexByte(line, ' ')+1:], &v); err == nil {
				sum += v
			}
		}
	}
	return sum
}

// office makes a namespace for browsers: its names as given, and nothing open but what the rules say.
func (l *laboratory) office(short string, names map[string]string, rules ...string) *namespace {
	l.t.Helper()
	ns := l.net.host(short)
	ns.names(l.t, names)
	ns.onlyTo(l.t, rules...)
	return ns
}

// onlyGateway is the rule of the house: TCP 443 to the gateway and nothing else.
const onlyGateway = "ip daddr " + gatewayAddr + " tcp dport 443"

// get fetches a page from inside a namespace without checking certificates; host overrides the Host header. It waits 10 s, or as long as
// patience says.
func get(ns *namespace, address, host string, patience ...time.Duration) (body string, status int) {
	client := &http.Client{Timeout: max(10*time.Second, append(patience, 0)[0]), Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: host},
		DialContext: func(ctx context.Context, network, addr string) (net.Conn, error) {
			return ns.dial(ctx, network, addr)
		},
	}}
	req, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return err.Error(), 0
	}
	if host != "" {
		req.Host = host
	}
	res, err := client.Do(req)
	if err != nil {
		return err.Error(), 0
	}
	defer func() { _ = res.Body.Close() }()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return err.Error(), 0
	}
	searchAnswer(ns.t, req.URL.Path, string(b))
	return string(b), res.StatusCode
}

// waitForMetric waits until the sum of a metric is as wanted.
func waitForMetric(t testing.TB, l *laboratory, name string, want float64) {
	t.Helper()
	waitFor(t, fmt.Sprintf("%s = %v", name, want), 15*time.Second, func() bool { return l.metric(name) == want })
}

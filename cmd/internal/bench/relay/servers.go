package main

import (
	"context"
	"crypto/hmac"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/pion/turn/v4"
)

const (
	user     = "bench"
	password = "bench-password"
	realm    = "bench.example"
	unitNice = "-10" // packaging/systemd/hafen.service
	secret   = "a-secret-of-the-bench-that-is-long-enough"
)

// server is a relay under measurement.
type server struct {
	name string
	cmd  *exec.Cmd
	out  *os.File
	port map[string]int // by transport
	rest bool           // takes time-limited credentials
}

// allServers are their names. hafen is mode bridge, with coturn as its region over UDP; hafen-unit is the same with the priority that its
// systemd unit gives it, while all others have the same one, so that they compete as equals.
var allServers = []string{"coturn", "pion", "hafen", "hafen-unit", "hafen-terminate", "hafen-local"}

func (w *world) start(ctx context.Context, name, binary string) (*server, error) {
	s := &server{name: name}
	var args []string
	switch name {
	case "coturn", "region":
		args, s.port = w.coturn(name)
	case "pion":
		self, err := os.Executable()
		if err != nil {
			return nil, err
		}
		s.port = map[string]int{"tls": 5350, "tcp": 3480, "udp": 3480}
		args = []string{self, "-role", "pion", "-dir", w.dir}
	default:
		var err error
		if args, err = w.hafen(s, binary); err != nil {
			return nil, err
		}
	}
	var err error
	if s.out, err = os.Create(w.file(name + ".log")); err != nil {
		return nil, err
	}
	if name == "hafen-unit" {
		args = append([]string{"nice", "-n", unitNice}, args...)
	}
	s.cmd = exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", w.servers}, args...)...)
	s.cmd.Stdout, s.cmd.Stderr = s.out, s.out
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := w.await(s); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// await waits until the server lets a client in.
func (w *world) await(s *server) error {
	t := s.target("tcp")
	var err error
	for range 60 {
		if err = w.inside(spec{Role: "try", Target: t}, nil); err == nil {
			return nil
		}
		time.Sleep(250 * time.Millisecond)
	}
	text, _ := os.ReadFile(s.out.Name())
	return fmt.Errorf("%s takes no clients: %w: %.2000s", s.name, err, text)
}

func (s *server) stop() {
	_ = s.cmd.Process.Kill()
	_ = s.cmd.Wait() // it was killed
	_ = s.out.Close()
}

func (s *server) target(via string) target {
	t := target{Name: s.name, Via: via, Addr: net.JoinHostPort(serverAddr, strconv.Itoa(s.port[via])), User: user, Password: password, PID: s.cmd.Process.Pid}
	if s.rest {
		t.User = fmt.Sprintf("%d:bench", time.Now().Add(time.Hour).Unix())
		mac := hmac.New(sha1.New, []byte(secret))
		mac.Write([]byte(t.User))
		t.Password = base64.StdEncoding.EncodeToString(mac.Sum(nil))
	}
	return t
}

// coturn is Debian's, as it comes, with one user. The one called region stands behind the gateway.
func (w *world) coturn(name string) ([]string, map[string]int) {
	port := map[string]int{"tls": 5349, "tcp": 3478, "udp": 3478}
	if name == "region" {
		port = map[string]int{"tls": 5351, "tcp": 3482, "udp": 3482}
	}
	return []string{
		"turnserver", "-n", "--no-cli", "-L", serverAddr, "-E", serverAddr, "--listening-port", strconv.Itoa(port["udp"]),
		"--tls-listening-port", strconv.Itoa(port["tls"]), "--cert", w.file("cert.pem"), "--pkey", w.file("key.pem"), "--no-dtls", "--lt-cred-mech",
		"--user", user + ":" + password, "--realm", realm, "--pidfile", w.file(name + ".pid"), "--log-file", "/dev/null", "--simple-log",
		"--userdb", w.file(name + ".db"), "--allow-loopback-peers",
	}, port
}

// hafen is the gateway as it comes, but for limits per client: all clients here are one.
func (w *world) hafen(s *server, binary string) ([]string, error) {
	mode, more := "bridge", ""
	port := 443
	switch s.name {
	case "hafen-terminate":
		mode, port, s.rest = "terminate", 444, true
		more = ", secret_file: " + w.file("secret")
	case "hafen-unit":
		port = 446
	case "hafen-local":
		mode, port, s.rest = "local", 445, true
		more = fmt.Sprintf(", secret_file: %s, local: {address: %s, ports: 20000-30000, allow_peers: [%s/32]}", w.file("secret"), serverAddr, clientAddr)
	}
	s.port = map[string]int{"tls": port, "tcp": port, "udp": port}
	config := fmt.Sprintf(`name: %s
listen: {https: ["%s:%d"], turn_udp: ["%[2]s:%[3]d"], metrics: ""}
tls: {source: files, files: [{cert: %[4]s, key: %[5]s}]}
clients: [10.99.0.0/24]
services:
  - name: calls
    hosts: [calls.bench.example]
    private_networks: [10.99.0.0/24]
    regions: [{name: near, urls: ["turn:relay.bench.example:3482?transport=udp"]}]
    turn_credentials: {username: %s, password_file: %s}
    probes: {https: ""}
hosts: [{host: relay.bench.example, ip: %[2]s}, {host: calls.bench.example, ip: %[2]s}]
relay: {mode: %[8]s%[9]s}
limits: {connections_per_client: 20000, pending_per_client: 10000, allocations_per_client: 20000, allocations_per_user: 20000, allocations: 20000}
log: {level: error}
data_dir: %[10]s
run_dir: %[10]s
`, serverName, serverAddr, port, w.file("cert.pem"), w.file("key.pem"), user, w.file("password"), mode, more, w.file(s.name))
	for name, text := range map[string]string{s.name + ".yaml": config, "secret": secret, "password": password} {
		if err := os.WriteFile(w.file(name), []byte(strings.TrimRight(text, " ")), 0o600); err != nil {
			return nil, err
		}
	}
	return []string{binary, "serve", "--config", w.file(s.name + ".yaml")}, nil
}

// servePion is pion/turn used plainly, as its examples do.
func servePion(dir string) error {
	cert, err := tls.LoadX509KeyPair(dir+"/cert.pem", dir+"/key.pem")
	if err != nil {
		return err
	}
	secure, err := tls.Listen("tcp4", serverAddr+":5350", &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12})
	if err != nil {
		return err
	}
	plain, err := net.Listen("tcp4", serverAddr+":3480")
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp4", serverAddr+":3480")
	if err != nil {
		return err
	}
	addresses := func() turn.RelayAddressGenerator {
		return &turn.RelayAddressGeneratorStatic{RelayAddress: net.ParseIP(serverAddr), Address: serverAddr}
	}
	key := turn.GenerateAuthKey(user, realm, password)
	s, err := turn.NewServer(turn.ServerConfig{
		Realm:       realm,
		AuthHandler: func(string, string, net.Addr) ([]byte, bool) { return key, true },
		ListenerConfigs: []turn.ListenerConfig{
			{Listener: secure, RelayAddressGenerator: addresses()}, {Listener: plain, RelayAddressGenerator: addresses()},
		},
		PacketConnConfigs: []turn.PacketConnConfig{{PacketConn: packets, RelayAddressGenerator: addresses()}},
	})
	if err != nil {
		return err
	}
	defer func() { _ = s.Close() }()
	select {}
}

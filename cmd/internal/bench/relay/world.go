package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The little world: the servers in one network namespace, clients and peers in the other, a cable between.
const (
	serverName = "gw.bench.example"
	serverAddr = "10.99.0.1"
	clientAddr = "10.99.0.2"
	slowAddr   = "10.99.0.3" // of clients that are slow beside healthy ones
	device     = "eth0"
)

// path is the way from the servers to the clients.
type path struct {
	Name       string
	Rate       int    // bits a second; 0: as fast as the machine
	Kind       string // tbf: shaped, police: what is too much is dropped, beside: the same for slowAddr alone
	Loss       int    // percent
	Congestion string // of TCP, where a program chooses none; "": the system's
}

type world struct {
	dir             string
	servers, people string // the namespaces
}

func newWorld(dir string) (*world, error) {
	prefix := fmt.Sprintf("hf-bench-%d-", os.Getpid())
	w := &world{dir: dir, servers: prefix + "s", people: prefix + "c"}
	if err := w.certificate(); err != nil {
		return nil, err
	}
	commands := [][]string{
		{"ip", "netns", "add", w.servers},
		{"ip", "netns", "add", w.people},
		{"ip", "-n", w.servers, "link", "add", device, "type", "veth", "peer", "name", device, "netns", w.people},
	}
	for ns, addr := range map[string]string{w.servers: serverAddr, w.people: clientAddr} {
		commands = append(commands, []string{"ip", "-n", ns, "addr", "add", addr + "/24", "dev", device},
			[]string{"ip", "-n", ns, "link", "set", "lo", "up"}, []string{"ip", "-n", ns, "link", "set", device, "up"})
	}
	commands = append(commands, []string{"ip", "-n", w.people, "addr", "add", slowAddr + "/24", "dev", device})
	for _, c := range commands {
		if err := command(c...); err != nil {
			w.close()
			return nil, err
		}
	}
	return w, nil
}

func (w *world) close() {
	for _, ns := range []string{w.servers, w.people} {
		_ = exec.Command("ip", "netns", "del", ns).Run()
	}
}

func command(args ...string) error {
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// lay makes the path as it is to be. Offloads are off on a narrow one: real cables carry packets of 1,500 bytes.
func (w *world) lay(p path) error {
	_ = exec.Command("tc", "-n", w.servers, "qdisc", "del", "dev", device, "root").Run() // there may be none
	rules := "flush ruleset\ntable inet path {\n chain in { type filter hook input priority 0; policy accept;\n"
	if p.Loss > 0 {
		rules += fmt.Sprintf("  meta l4proto tcp numgen random mod 100 < %d drop\n", p.Loss)
	}
	switch p.Kind {
	case "police":
		rules += fmt.Sprintf("  limit rate over %d bytes/second burst 20 kbytes drop\n", p.Rate/8)
	case "beside":
		rules += fmt.Sprintf("  ip daddr %s limit rate over %d bytes/second burst 20 kbytes drop\n", slowAddr, p.Rate/8)
	}
	file := filepath.Join(w.dir, "path.nft")
	if err := os.WriteFile(file, []byte(rules+" }\n}\n"), 0o600); err != nil {
		return err
	}
	commands := [][]string{{"ip", "netns", "exec", w.people, "nft", "-f", file}}
	if p.Rate > 0 {
		commands = append(commands, []string{"ip", "-n", w.servers, "link", "set", device, "gso_max_segs", "1"})
	}
	if p.Kind == "tbf" {
		commands = append(commands, []string{
			"tc", "-n", w.servers, "qdisc", "add", "dev", device, "root", "tbf",
			"rate", fmt.Sprintf("%dbit", p.Rate), "burst", "10kb", "latency", "1000ms",
		})
	}
	if p.Congestion != "" {
		commands = append(commands, []string{"ip", "netns", "exec", w.servers, "sysctl", "-qw", "net.ipv4.tcp_congestion_control=" + p.Congestion})
	}
	for _, c := range commands {
		if err := command(c...); err != nil {
			return err
		}
	}
	return nil
}

// forceBuffers keeps the generator from being what loses packets.
func forceBuffers(conn *net.UDPConn) error {
	const size = 8 << 20
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	_ = raw.Control(func(fd uintptr) {
		if err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, size); err == nil {
			err = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, size)
		}
	})
	return err
}

// certificate makes the one that all servers show.
func (w *world) certificate() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: serverName}, DNSNames: []string{serverName},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return err
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.WriteFile(w.file("cert.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o644); err != nil {
		return err
	}
	return os.WriteFile(w.file("key.pem"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: keyDER}), 0o600)
}

func (w *world) file(name string) string { return filepath.Join(w.dir, name) }

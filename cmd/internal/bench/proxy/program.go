package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// program is a proxy under measurement.
type program struct {
	name string
	addr string
	cmd  *exec.Cmd
	out  *os.File
}

func (w *world) start(ctx context.Context, name, addr string, args ...string) (*program, error) {
	out, err := os.Create(filepath.Join(w.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	p := &program{name: name, addr: addr, out: out, cmd: exec.CommandContext(ctx, args[0], args[1:]...)}
	p.cmd.Stdout, p.cmd.Stderr = out, out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		_ = out.Close()
		return nil, err
	}
	for range 100 {
		conn, err := net.DialTimeout("tcp", addr, time.Second)
		if err == nil {
			_ = conn.Close()
			return p, nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	p.stop()
	text, _ := os.ReadFile(out.Name())
	return nil, fmt.Errorf("%s does not listen: %s", name, text)
}

func (p *program) stop() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait() // it was killed
	_ = p.out.Close()
}

// startHAProxy has one worker with as many threads as the machine has cores: its default.
func (w *world) startHAProxy(ctx context.Context) (*program, error) {
	config := fmt.Sprintf(`global
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout client 10m
  timeout server 10m
  timeout tunnel 10m
frontend tls
  bind %s ssl crt %s
  default_backend call
backend call
  server call %s
`, haproxyAddr, w.cert+".both", callAddr)
	file := filepath.Join(w.dir, "haproxy.cfg")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return w.start(ctx, "haproxy", haproxyAddr, "haproxy", "-db", "-f", file)
}

// startSquid has no log, no cache and no checks: the least that it can do.
func (w *world) startSquid(ctx context.Context) (*program, error) {
	dir := filepath.Join(w.dir, "squid")
	hosts := filepath.Join(dir, "hosts")
	host, _, _ := net.SplitHostPort(echoAddr)
	config := fmt.Sprintf(`https_port %[1]s tls-cert=%[2]s/cert.pem tls-key=%[2]s/key.pem
http_access allow all
hosts_file %[3]s
visible_hostname squid.bench.example
access_log none
cache_log %[2]s/cache.log
pid_filename %[2]s/squid.pid
coredump_dir %[2]s
netdb_filename none
pinger_enable off
cache deny all
cache_mem 4 MB
shutdown_lifetime 0 seconds
max_filedescriptors 16000
`, squidAddr, dir, hosts)
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o777); err != nil { // it runs as another user
		return nil, err
	}
	files := map[string]string{"squid.conf": config, "hosts": host + " " + echoName + "\n"}
	for name, from := range map[string]string{"cert.pem": w.cert, "key.pem": w.key} {
		text, err := os.ReadFile(from)
		if err != nil {
			return nil, err
		}
		files[name] = string(text)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	_ = os.Remove(filepath.Join(dir, "squid.pid")) // of the round before
	return w.start(ctx, "squid", squidAddr, "squid", "-N", "-f", filepath.Join(dir, "squid.conf"))
}

// startHafen writes no line for each connection, as the others.
func (w *world) startHafen(ctx context.Context, binary string) (*program, error) {
	ip := func(addr string) string { host, _, _ := net.SplitHostPort(addr); return host }
	config := fmt.Sprintf(`name: %s
listen: {https: ["%s"], metrics: ""}
tls: {source: files, files: [{cert: %s, key: %s}]}
clients: [127.0.0.0/8]
services:
  - name: calls
    hosts: [%s, %s, %s]
    private_networks: [127.0.0.0/8]
    regions: [{name: nowhere, urls: ["turn:relay.bench.example:3478?transport=udp"]}]
    probes: {https: ""}
hosts: [{host: %[6]s, ip: %[8]s}, {host: %[7]s, ip: %[9]s}, {host: relay.bench.example, ip: 127.0.0.9}]
signaling: {routes: [{host: %[5]s, upstream: "http://%[10]s"}]}
forward: {require_sni_match: false}
limits: {connections_per_client: 20000, pending_per_client: 10000}
log: {level: error}
data_dir: %[11]s/data
run_dir: %[11]s/run
`, gatewayName, gatewayAddr, w.cert, w.key, callName, echoName, passName, ip(echoAddr), ip(passAddr), callAddr, w.dir)
	file := filepath.Join(w.dir, "hafen.yaml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	return w.start(ctx, "hafen", gatewayAddr, binary, "serve", "--config", file)
}

// usage is what a process has used until now.
type usage struct {
	cpu time.Duration
	rss int64 // bytes
}

// tick is the kernel's unit of CPU time in /proc (USER_HZ, which is 100 on every Linux that Go runs on).
const tick = 10 * time.Millisecond

func (p *program) usage() (usage, error) {
	dir := filepath.Join("/proc", strconv.Itoa(p.cmd.Process.Pid))
	stat, err := os.ReadFile(filepath.Join(dir, "stat"))
	if err != nil {
		return usage{}, err
	}
	status, err := os.ReadFile(filepath.Join(dir, "status"))
	if err != nil {
		return usage{}, err
	}
	return parseUsage(string(stat), string(status))
}

// parseUsage reads /proc/PID/stat and /proc/PID/status (proc(5)).
func parseUsage(stat, status string) (usage, error) {
	var u usage
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:]) // the name may hold anything
	if len(fields) < 13 {
		return u, errors.New("stat is not as expected")
	}
	for _, field := range fields[11:13] { // utime and stime
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(n) * tick
	}
	for line := range strings.Lines(status) {
		if value, found := strings.CutPrefix(line, "VmRSS:"); found {
			n, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(value), "kB")), 10, 64)
			u.rss = n << 10
			return u, err
		}
	}
	return u, errors.New("status has no VmRSS")
}

package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"hafen/cmd/internal/cloud"
	"hafen/configs"
	"hafen/gateway"
)

// demoHost is the call service's name in the demo: browsers take every name below localhost for this machine, and for a
// secure context, so that camera and microphone work without a certificate.
const demoHost = "call.localhost"

// demo runs the gateway and a stand-in cloud in one process on this machine until it is interrupted.
func demo(ctx context.Context, w world, args []string) error {
	fs := flags(w, "demo")
	listen := fs.String("listen", "127.0.0.1:8443", "`address` of the gateway's one port")
	if err := parse(fs, args, 0); err != nil {
		return err
	}
	d, err := startDemo(ctx, w, *listen)
	if err != nil {
		return err
	}
	defer d.close()
	fmt.Fprintf(w.stdout, demoText, d.port, d.port, d.port, d.port)
	return untilSignalled(ctx, d.gateway, func() time.Duration { return 0 })
}

const demoText = `Hafen's demo: a gateway and a call service in the cloud, all on this machine and all through one port.

  a call         http://call.localhost:%d/       open the room's link in a second tab
  waiting room   http://call.localhost:%d/console
  precall test   http://localhost:%d/precall/
  front door     http://localhost:%d/

Media goes through the gateway to the nearest of three stand-in relays; the call page shows which way. Ctrl-C ends it.
`

// running is a demo that runs.
type running struct {
	cloud   *cloud.Cloud
	gateway *gateway.Gateway
	dir     string
	port    int
}

func (d *running) close() {
	if d.gateway != nil {
		stop, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = d.gateway.Stop(stop)
	}
	if d.cloud != nil {
		_ = d.cloud.Close()
	}
	_ = os.RemoveAll(d.dir)
}

func startDemo(ctx context.Context, w world, listen string) (_ *running, err error) {
	d := &running{}
	defer func() {
		if err != nil {
			d.close()
		}
	}()
	host, port, err := net.SplitHostPort(listen)
	if err != nil {
		return nil, fmt.Errorf("demo: --listen %s is no address: write 127.0.0.1:8443: %w", listen, errUsage)
	}
	if d.port, err = strconv.Atoi(port); err != nil {
		return nil, fmt.Errorf("demo: --listen %s: the port is no number: %w", listen, errUsage)
	}
	if d.dir, err = os.MkdirTemp("", "hafen-demo-"); err != nil {
		return nil, err
	}
	at := demoListeners(host, port)
	if d.cloud, err = demoCloud(at); err != nil {
		return nil, err
	}
	if err := d.cloud.Start(); err != nil {
		return nil, err
	}
	cfg := demoConfig(d.cloud, at, d.dir)
	log, _ := logger(w, cfg.Log)
	d.gateway, err = gateway.New(gateway.Options{Config: cfg, Log: log, Version: version, PlainPages: true})
	if err != nil {
		return nil, err
	}
	return d, d.gateway.Start(ctx)
}

// demoListeners are the gateway's addresses: the one asked for and, beside loopback, an interface's with the same port.
// Firefox reaches no TURN server on loopback; only this machine may use either (see demoConfig).
func demoListeners(host, port string) []string {
	at := []string{net.JoinHostPort(host, port)}
	own, ok := cloud.InterfaceAddr()
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() || !ok {
		return at
	}
	second := net.JoinHostPort(own.String(), port)
	ln, err := net.Listen("tcp", second)
	if err != nil { // taken: Firefox does without
		return at
	}
	_ = ln.Close()
	return append(at, second)
}

// demoCloud is a call service whose only ICE server is the gateway: media can't go round it. Its relays stand at an address
// of an interface where there is one, for Firefox drops allocations on loopback.
func demoCloud(gateways []string) (*cloud.Cloud, error) {
	relays, ok := cloud.InterfaceAddr()
	if !ok {
		relays = netip.MustParseAddr("127.0.0.1")
	}
	var urls []string
	for _, at := range gateways {
		urls = append(urls, fmt.Sprintf("turn:%s?transport=tcp", at))
	}
	at := []string{netip.AddrPortFrom(relays, 0).String()}
	region := func(name string, delay time.Duration) cloud.RegionOptions {
		return cloud.RegionOptions{Name: name, UDP: at, TCP: at, PublicIP: relays, Delay: delay}
	}
	return cloud.New(cloud.Options{
		Listen:      "127.0.0.1:0",
		Regions:     []cloud.RegionOptions{region("frankfurt", 5*time.Millisecond), region("dublin", 15*time.Millisecond), region("virginia", 45*time.Millisecond)},
		Gateway:     urls,
		GatewayOnly: true,
		ForceRelay:  true,
		Origins:     []string{demoHost + ":*"},
		Peers:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
}

// demoConfig is the configuration that an administrator would write for that cloud.
func demoConfig(c *cloud.Cloud, listen []string, dir string) *configs.Config {
	cfg := configs.Default()
	own := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}
	for _, r := range c.Regions() {
		own = append(own, netip.PrefixFrom(r.PublicIP(), r.PublicIP().BitLen()))
	}
	cfg.Name = "localhost"
	cfg.Listen = configs.Listen{HTTPS: listen}
	service := configs.Service{
		Name: "demo", Hosts: []string{demoHost}, Choose: "nearest", PrivateNetworks: own,
		Probes: configs.Probes{HTTPS: "/healthz"},
	}
	for _, r := range c.Regions() {
		service.Regions = append(service.Regions, configs.Region{Name: r.Name(), URLs: r.URLs(), Use: true})
	}
	cfg.Services = []configs.Service{service}
	cfg.Clients = own // this machine and nobody else
	cfg.Signaling.Routes = []configs.Route{{Host: demoHost, Path: "/", Upstream: "http://" + c.Addr().String(), Service: "demo"}}
	cfg.PAC.Otherwise = "DIRECT"
	cfg.DataDir, cfg.RunDir = filepath.Join(dir, "data"), filepath.Join(dir, "run")
	cfg.Log = configs.Log{Level: "warn", Format: "text"}
	return cfg
}

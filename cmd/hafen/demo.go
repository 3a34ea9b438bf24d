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
	return untilSignalled(ctx, d.gateway, 0)
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
	if d.cloud, err = demoCloud(host, d.port); err != nil {
		return nil, err
	}
	if err := d.cloud.Start(); err != nil {
		return nil, err
	}
	cfg := demoConfig(d.cloud, listen, d.dir)
	d.gateway, err = gateway.New(gateway.Options{Config: cfg, Log: logger(w, cfg.Log), Version: version, PlainPages: true})
	if err != nil {
		return nil, err
	}
	return d, d.gateway.Start(ctx)
}

// demoCloud is a call service whose only ICE server is the gateway: media can't go round it. Its relays stand at an address
// of an interface where there is one, for Firefox drops allocations on loopback.
func demoCloud(host string, port int) (*cloud.Cloud, error) {
	relays, ok := cloud.InterfaceAddr()
	if !ok {
		relays = netip.MustParseAddr("127.0.0.1")
	}
	at := []string{netip.AddrPortFrom(relays, 0).String()}
	region := func(name string, delay time.Duration) cloud.RegionOptions {
		return cloud.RegionOptions{Name: name, UDP: at, TCP: at, PublicIP: relays, Delay: delay}
	}
	return cloud.New(cloud.Options{
		Listen:      "127.0.0.1:0",
		Regions:     []cloud.RegionOptions{region("frankfurt", 5*time.Millisecond), region("dublin", 15*time.Millisecond), region("virginia", 45*time.Millisecond)},
		Gateway:     []string{fmt.Sprintf("turn:%s?transport=tcp", net.JoinHostPort(host, strconv.Itoa(port)))},
		GatewayOnly: true,
		ForceRelay:  true,
		Origins:     []string{demoHost + ":*"},
		Peers:       []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
	})
}

// demoConfig is the configuration that an administrator would write for that cloud.
func demoConfig(c *cloud.Cloud, listen, dir string) *configs.Config {
	cfg := configs.Default()
	own := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}
	for _, r := range c.Regions() {
		own = append(own, netip.PrefixFrom(r.PublicIP(), r.PublicIP().BitLen()))
	}
	cfg.Name = "localhost"
	cfg.Listen = configs.Listen{HTTPS: []string{listen}}
	service := configs.Service{
		Name: "demo", Hosts: []string{demoHost}, Choose: "nearest", PrivateNetworks: own,
		Probes: configs.Probes{HTTPS: "/healthz"},
	}
	for _, r := range c.Regions() {
		service.Regions = append(service.Regions, configs.Region{Name: r.Name(), URLs: r.URLs(), Use: true})
	}
	cfg.Services = []configs.Service{service}
	cfg.Signaling.Routes = []configs.Route{{Host: demoHost, Path: "/", Upstream: "http://" + c.Addr().String(), Service: "demo"}}
	cfg.PAC.Otherwise = "DIRECT"
	cfg.DataDir, cfg.RunDir = filepath.Join(dir, "data"), filepath.Join(dir, "run")
	cfg.Log = configs.Log{Level: "warn", Format: "text"}
	return cfg
}

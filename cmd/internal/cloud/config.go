package cloud

import (
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// Config is the file of `hafen cloud --config FILE`. Every key may be left out; an unknown one is an error.
//
//	listen: 10.9.0.2:443
//	tls: {cert: cloud.pem, key: cloud.key}
//	secret_file: turn.secret
//	regions:
//	  - {name: frankfurt, host: fra.relay.example.net, udp: [10.9.0.2:3478], tls: [10.9.0.2:5349], delay: 5ms}
//	  - {name: coturn, urls: ["turn:ams.relay.example.net:3478?transport=udp"], address: 10.9.0.3}
type Config struct {
	// Listen is the call service's address; left out: 127.0.0.1:9080.
	Listen string `yaml:"listen"`
	// TLS names the certificate and key of the call service and the relays' TLS listeners, PEM. Left out: plain
	// HTTP, which browsers take for secure on localhost only.
	TLS struct {
		Cert string `yaml:"cert"`
		Key  string `yaml:"key"`
	} `yaml:"tls"`
	// Origins are further hosts whose pages may signal here.
	Origins []string `yaml:"origins"`
	// Secret is the TURN REST secret, SecretFile a file with it; left out: a random one at each start.
	Secret     string `yaml:"secret"`
	SecretFile string `yaml:"secret_file"`
	// Realm is the relays' realm.
	Realm string `yaml:"realm"`
	// CredentialLife is how long TURN credentials last, e.g. 6h.
	CredentialLife time.Duration `yaml:"credential_life"`
	// Gateway are ICE URLs listed first, e.g. turns:gw.example:443?transport=tcp; GatewayOnly lists nothing else.
	Gateway     []string `yaml:"gateway"`
	GatewayOnly bool     `yaml:"gateway_only"`
	// ForceRelay makes the call page use relays only.
	ForceRelay bool `yaml:"force_relay"`
	// RefuseWebSocket makes pages fall back to long-polls.
	RefuseWebSocket bool `yaml:"refuse_websocket"`
	// Peers are private networks that the relays may send to.
	Peers []string `yaml:"peers"`
	// Hold is the longest poll, e.g. 180s.
	Hold time.Duration `yaml:"hold"`
	// Regions are the relays; left out: three on 127.0.0.1.
	Regions []RegionConfig `yaml:"regions"`
}

// RegionConfig is one region of the file; see RegionOptions.
type RegionConfig struct {
	Name    string        `yaml:"name"`
	Label   string        `yaml:"label"`
	Host    string        `yaml:"host"`
	Address string        `yaml:"address"`
	UDP     []string      `yaml:"udp"`
	TCP     []string      `yaml:"tcp"`
	TLS     []string      `yaml:"tls"`
	Delay   time.Duration `yaml:"delay"`
	URLs    []string      `yaml:"urls"`
}

// LoadConfig reads a configuration file: "-" is stdin, "" is no file, so that `hafen cloud` alone starts.
func LoadConfig(name string, stdin io.Reader) (*Config, error) {
	c := &Config{}
	if name != "" {
		b, err := readConfig(name, stdin)
		if err != nil {
			return nil, err
		}
		d := yaml.NewDecoder(bytes.NewReader(b))
		d.KnownFields(true)
		if err := d.Decode(c); err != nil && !errors.Is(err, io.EOF) {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		c.resolve(filepath.Dir(name))
	}
	if len(c.Regions) == 0 {
		c.Regions = defaultRegions()
	}
	return c, nil
}

func readConfig(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(io.LimitReader(stdin, 1<<20))
	}
	return os.ReadFile(name) //nolint:gosec // the file the user names
}

// resolve makes files in the configuration relative to it.
func (c *Config) resolve(dir string) {
	for _, f := range []*string{&c.TLS.Cert, &c.TLS.Key, &c.SecretFile} {
		if *f != "" && !filepath.IsAbs(*f) {
			*f = filepath.Join(dir, *f)
		}
	}
}

// defaultRegions are three on this machine; each round trip to the next takes longer.
func defaultRegions() []RegionConfig {
	return []RegionConfig{
		{Name: "frankfurt", Label: "Frankfurt", UDP: []string{"127.0.0.1:3478"}, TCP: []string{"127.0.0.1:3478"}, Delay: 5 * time.Millisecond},
		{Name: "virginia", Label: "Virginia", UDP: []string{"127.0.0.1:3479"}, TCP: []string{"127.0.0.1:3479"}, Delay: 45 * time.Millisecond},
		{Name: "singapore", Label: "Singapore", UDP: []string{"127.0.0.1:3480"}, TCP: []string{"127.0.0.1:3480"}, Delay: 80 * time.Millisecond},
	}
}

// Options reads the files that the configuration names and makes it Options. Every problem is reported at once.
func (c *Config) Options(log *slog.Logger) (Options, error) {
	o := Options{
		Listen: c.Listen, Origins: c.Origins, Secret: c.Secret, Realm: c.Realm, CredentialLife: c.CredentialLife,
		Gateway: c.Gateway, GatewayOnly: c.GatewayOnly, ForceRelay: c.ForceRelay,
		RefuseWebSocket: c.RefuseWebSocket, Hold: c.Hold, Log: log,
	}
	var errs []error
	if c.TLS.Cert != "" || c.TLS.Key != "" {
		pair, err := tls.LoadX509KeyPair(c.TLS.Cert, c.TLS.Key)
		if err != nil {
			errs = append(errs, fmt.Errorf("tls: %w", err))
		}
		o.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12}
	}
	if c.SecretFile != "" {
		b, err := os.ReadFile(c.SecretFile)
		if err != nil {
			errs = append(errs, fmt.Errorf("secret_file: %w", err))
		}
		o.Secret = strings.TrimSpace(string(b))
	}
	for _, s := range c.Peers {
		p, err := netip.ParsePrefix(s)
		if err != nil {
			errs = append(errs, fmt.Errorf("peers: %w", err))
		}
		o.Peers = append(o.Peers, p)
	}
	for i, r := range c.Regions {
		region, err := r.options()
		if err != nil {
			errs = append(errs, fmt.Errorf("regions[%d]: %w", i, err))
		}
		o.Regions = append(o.Regions, region)
	}
	return o, errors.Join(errs...)
}

func (r RegionConfig) options() (RegionOptions, error) {
	o := RegionOptions{
		Name: r.Name, Label: r.Label, Host: r.Host, UDP: r.UDP, TCP: r.TCP, TLS: r.TLS, Delay: r.Delay, URLs: r.URLs,
	}
	if r.Address == "" {
		return o, nil
	}
	a, err := netip.ParseAddr(r.Address)
	if err != nil {
		return o, fmt.Errorf("address: %w", err)
	}
	o.PublicIP = a
	return o, nil
}

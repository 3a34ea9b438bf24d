package configs

import (
	"net/netip"
	"testing"
)

func TestRelayModes(t *testing.T) {
	secret := write(t, "secret", "the relays' secret\n", 0o600)
	for _, tt := range []struct {
		name  string
		spoil func(c *Config)
		want  map[string]string
	}{
		{"local", func(c *Config) { c.Relay.Mode = "local" }, nil},
		{"local with everything", func(c *Config) {
			c.Relay.Mode, c.Relay.SecretFile = "local", secret
			c.Relay.Local = RelayLocal{Address: netip.MustParseAddr("192.0.2.1"), Ports: "50000-50999"}
		}, nil},
		{"no address to send to", func(c *Config) {
			c.Relay.Mode, c.Relay.Local.Address = "local", netip.IPv4Unspecified()
		}, map[string]string{"relay.local.address": "that the client asked"}},
		{"ports backwards", func(c *Config) { c.Relay.Local.Ports = "5-4" }, map[string]string{"relay.local.ports": "ends before it begins"}},
		{"low ports", func(c *Config) { c.Relay.Local.Ports = "53-5000" }, map[string]string{"relay.local.ports": "from 1024 on"}},
		{"too few ports", func(c *Config) {
			c.Relay.Mode, c.Relay.Local.Ports = "local", "50000-50003"
		}, map[string]string{"relay.local.ports": "a range of 4"}},
		{"few ports that nobody uses", func(c *Config) { c.Relay.Local.Ports = "50000-50003" }, nil},
		{"no secret there", func(c *Config) {
			c.Relay.Mode, c.Relay.SecretFile = "local", "/nowhere/secret"
		}, map[string]string{"relay.secret_file": ""}},
		{
			"terminate without credentials", func(c *Config) { c.Relay.Mode = "terminate" },
			map[string]string{"services[0].turn_credentials": "write the shared secret_file"},
		},
		{"terminate with half of them", func(c *Config) {
			c.Relay.Mode, c.Services[0].TURNCredentials.Username = "terminate", "hospital"
		}, map[string]string{"services[0].turn_credentials.username": "write both"}},
		{"terminate with a secret", func(c *Config) {
			c.Relay.Mode, c.Services[0].TURNCredentials.SecretFile = "terminate", secret
		}, nil},
		{"terminate with a URL", func(c *Config) {
			c.Relay.Mode, c.Services[0].TURNCredentials.URL = "terminate", "https://call.example.net/ice"
		}, nil},
		{"terminate with a plain URL", func(c *Config) {
			c.Relay.Mode, c.Services[0].TURNCredentials.URL = "terminate", "http://call.example.net/ice"
		}, map[string]string{"services[0].turn_credentials.url": "no https://"}},
		{"two sources", func(c *Config) {
			c.Services[0].TURNCredentials = TURNCredentials{URL: "https://call.example.net/ice", SecretFile: secret}
		}, map[string]string{"services[0].turn_credentials": "more than one source"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := valid(t)
			tt.spoil(c)
			wantProblems(t, c.Validate(), tt.want)
		})
	}
}

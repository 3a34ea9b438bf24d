package cloud

import (
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestConfigAlone(t *testing.T) {
	c, err := LoadConfig("", nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Options(slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(o); err != nil || len(o.Regions) != 3 {
		t.Errorf("%d regions, %v", len(o.Regions), err)
	}
}

func TestConfigFile(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "turn.secret"), []byte("geheim\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "cloud.yaml")
	text := `
listen: 10.9.0.2:80
secret_file: turn.secret
gateway: ["turns:gw.example:443?transport=tcp"]
force_relay: true
peers: [10.9.0.0/16]
hold: 60s
regions:
  - {name: frankfurt, host: fra.example, address: 10.9.0.2, udp: ["10.9.0.2:3478"], delay: 5ms}
  - {name: coturn, urls: ["turn:ams.example:3478?transport=udp"]}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := LoadConfig(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	o, err := c.Options(nil)
	if err != nil {
		t.Fatal(err)
	}
	if o.Secret != "geheim" || o.Hold != time.Minute || !o.ForceRelay || o.Peers[0] != netip.MustParsePrefix("10.9.0.0/16") {
		t.Errorf("%+v", o)
	}
	if r := o.Regions[0]; r.PublicIP != netip.MustParseAddr("10.9.0.2") || r.Delay != 5*time.Millisecond || r.Host != "fra.example" {
		t.Errorf("%+v", r)
	}
	if _, err := New(o); err != nil {
		t.Error(err)
	}
}

func TestConfigMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"lisen: x":                         "lisen",
		"regions: [{name: a, port: 3478}]": "port",
		"hold: soon":                       "soon",
		"[":                                "yaml",
	} {
		if _, err := LoadConfig("-", strings.NewReader(text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", text, err)
		}
	}
	c, err := LoadConfig("-", strings.NewReader(`
tls: {cert: nowhere.pem, key: nowhere.key}
secret_file: nowhere.secret
peers: [10.0.0.0]
regions: [{name: a, udp: [":0"], address: here}]
`))
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.Options(nil)
	for _, want := range []string{"tls:", "secret_file:", "peers:", "regions[0]: address:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("not reported: %s in %v", want, err)
		}
	}
	if _, err := LoadConfig(filepath.Join(t.TempDir(), "none.yaml"), nil); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
}

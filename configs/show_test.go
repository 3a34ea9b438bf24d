package configs

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
)

func TestShowReadsBack(t *testing.T) {
	c := valid(t)
	c.Precall.Thresholds = map[string]float64{"rtt_pass": 150}
	c.Egress.Source = []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	text, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	if again := parse(t, text); !reflect.DeepEqual(again, c) {
		t.Errorf("shown and read back:\n%s\n%+v\nwant\n%+v", text, again, c)
	}
}

func TestShowMasksSecrets(t *testing.T) {
	const canary = "CANARY7f3a"
	c := valid(t)
	c.Egress.Proxy = "http://user:" + canary + "@proxy.example:3128"
	c.Events.Webhook = "https://hooks.example/services/" + canary + "?token=" + canary
	c.Store = "postgres://u:" + canary + "@db.example/x"
	c.Admin.Users = []AdminUser{{Name: "anna", PasswordHash: canary, Role: "admin"}}
	c.Forward.Users = []ForwardUser{{Name: "ward", PasswordHash: canary}}
	c.Services[0].TURNCredentials.URL = "https://api.example/ice?key=" + canary
	c.PAC.Parent = "https://x:" + canary + "@pac.example/proxy.pac"
	out, err := c.Show()
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(out), canary) {
		t.Errorf("the secret is in:\n%s", out)
	}
	for _, part := range []string{"proxy: http://***@proxy.example:3128", "webhook: https://hooks.example/***", "store: postgres://***@db.example/***", "name: anna"} {
		if !strings.Contains(string(out), part) {
			t.Errorf("%q is not in:\n%s", part, out)
		}
	}
}

// A key whose name sounds like a secret is one, or a file's name.
func TestSecretKeysAreMarked(t *testing.T) {
	walkKeys(reflect.TypeFor[Config](), "", func(pattern string, f field) {
		for _, word := range []string{"password", "secret", "token", "hash"} {
			if strings.Contains(f.name, word) && !strings.HasSuffix(f.name, "_file") && !f.secret {
				t.Errorf("%s is not marked as a secret", pattern)
			}
		}
	})
}

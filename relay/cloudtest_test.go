package relay

import (
	"crypto/hmac"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hafen/configs"
)

// TestCloudCredentials: a shared secret mints what is good for ten minutes, and nothing else is ever given to a browser.
func TestCloudCredentials(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("very-secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	mint := func(user string, services ...configs.Service) (string, string, error) {
		s := &Server{}
		s.setup.Store(&setup{config: &configs.Config{Services: services}})
		return s.CloudCredentials(user, now)
	}
	of := func(c configs.TURNCredentials) configs.Service {
		return configs.Service{Name: "calls", TURNCredentials: c}
	}

	username, password, err := mint("precall-abc", of(configs.TURNCredentials{SecretFile: secret}))
	mac := hmac.New(sha1.New, []byte("very-secret"))
	mac.Write([]byte("1800000600:precall-abc"))
	if err != nil || username != "1800000600:precall-abc" || password != base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		t.Errorf("%q %q %v", username, password, err)
	}
	for name, service := range map[string]configs.Service{
		"nothing":          of(configs.TURNCredentials{}),
		"a fixed password": of(configs.TURNCredentials{Username: "gw", PasswordFile: secret}),
		"a URL":            of(configs.TURNCredentials{URL: "https://calls.example/turn"}),
	} {
		if username, password, err := mint("precall-abc", service); !errors.Is(err, errNoSecret) || username+password != "" {
			t.Errorf("%s: %q %q %v", name, username, password, err)
		}
	}
	if _, _, err := mint("precall-abc"); !errors.Is(err, errNoSecret) {
		t.Errorf("no service: %v", err)
	}
	for _, user := range []string{"", "a:b", "a b", "é", strings.Repeat("x", 200)} {
		if _, _, err := mint(user, of(configs.TURNCredentials{SecretFile: secret})); !errors.Is(err, errUsername) {
			t.Errorf("user %q: %v", user, err)
		}
	}
}

package configs

import (
	"os"
	"strings"
	"testing"
)

const withCredential = `
name: gw.hospital.example
tls: {source: files, files: [{cert: /etc/hafen/gw.crt, key: /run/credentials/hafen.service/secrets_gw.key}]}
services: [{name: calls, hosts: [call.example.net], regions: [{name: near, urls: ["turn:near.example.net:3478"]}]}]
`

// TestByHand: by hand, credentials of the service are the files that they are made of; the service itself has them.
func TestByHand(t *testing.T) {
	if _, err := os.Stat(serviceCredentials); err == nil {
		t.Skipf("a hafen.service runs here: %s is there", serviceCredentials)
	}
	c := Default()
	c.TLS.Files = []TLSFile{{Cert: "/etc/hafen/gw.crt", Key: credentialPrefix + "gw.key"}}
	c.Relay.SecretFile = credentialPrefix + "turn"
	seen, err := c.ByHand([]string{"HOME=/root"})
	if err != nil {
		t.Fatal(err)
	}
	if f := seen.TLS.Files[0]; f.Cert != "/etc/hafen/gw.crt" || f.Key != "/etc/hafen/secrets/gw.key" || seen.Relay.SecretFile != "/etc/hafen/secrets/turn" {
		t.Errorf("%+v %s", f, seen.Relay.SecretFile)
	}
	if c.TLS.Files[0].Key != credentialPrefix+"gw.key" {
		t.Error("the configuration itself was changed")
	}
	if seen, err := c.ByHand([]string{"CREDENTIALS_DIRECTORY=" + serviceCredentials}); err != nil || seen != c {
		t.Errorf("the service has its credentials, and got others: %v", err)
	}
	for path, want := range map[string]bool{
		credentialPrefix + "a": true, credentialPrefix: false, credentialPrefix + "a/../../b": false, "/run/credentials/other.service/secrets_a": false, "a": false,
	} {
		if isCredential(path) != want {
			t.Errorf("%s: not %v", path, want)
		}
	}
}

// TestMissingCredential: whoever is told that one is missing is told where to put it.
func TestMissingCredential(t *testing.T) {
	for entry, want := range map[string]string{"HOME=/root": "install -m 0600 FILE /etc/hafen/secrets/gw.key", "CREDENTIALS_DIRECTORY=" + serviceCredentials: "systemctl restart hafen"} {
		if _, err := os.Stat(serviceSecrets); err == nil {
			t.Skipf("hafen is installed here: %s is there", serviceSecrets)
		}
		_, err := Load("-", strings.NewReader(withCredential), []string{entry})
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", entry, err, want)
		}
	}
}

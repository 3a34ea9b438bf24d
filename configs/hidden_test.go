package configs

import (
	"fmt"
	"strings"
	"testing"
)

func TestHidden(t *testing.T) {
	c := Default()
	c.Events.Webhook, c.Egress.Proxy, c.Store = "https://hooks.example/CANARY", "http://u:CANARY@proxy:3128", "postgres://u:CANARY@db/x"
	c.Admin.Users = []AdminUser{{Name: "anna", PasswordHash: "CANARY", Role: "admin"}}
	c.Services = []Service{{Name: "calls", TURNCredentials: TURNCredentials{URL: "https://x/CANARY"}}}
	h, err := c.Hidden()
	if err != nil {
		t.Fatal(err)
	}
	if text := fmt.Sprintf("%+v", *h); strings.Contains(text, "CANARY") || !strings.Contains(text, "hooks.example") {
		t.Errorf("%s", text)
	}
	if c.Admin.Users[0].PasswordHash != "CANARY" {
		t.Error("the original was masked")
	}
	again, err := c.Hidden()
	if err != nil {
		t.Fatal(err)
	}
	if all, err := Diff(h, again); err != nil || len(all) != 0 {
		t.Errorf("two copies differ: %v, %v", all, err)
	}
}

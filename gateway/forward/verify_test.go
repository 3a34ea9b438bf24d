package forward

import (
	"slices"
	"strings"
	"testing"
)

// TestServiceURLs: what is asked about is what our own file sends to us, all of it.
func TestServiceURLs(t *testing.T) {
	c := testConfig()
	c.PAC.Otherwise = "PROXY elsewhere:1"
	find := browser(t, render(t, PACInput{Config: c}))
	urls := ServiceURLs(c)
	for _, u := range urls {
		if got := find(u); Reaches(c, got) != ReachFirst {
			t.Errorf("%s: %s", u, got)
		}
	}
	for _, u := range []string{
		"https://call.example/", "wss://call.example/", "https://any-name.rooms.example/", "https://fra.relay.example:3478/", "http://fra.relay.example:3478/",
		"https://fra.relay.example/", "http://fra.relay.example:443/", "http://home.relay.example:5349/",
	} {
		if !slices.Contains(urls, u) {
			t.Errorf("%s is not among them:\n%s", u, strings.Join(urls, "\n"))
		}
	}
	for _, u := range OwnURLs(c) {
		if got := find(u); got != "DIRECT" {
			t.Errorf("%s: %s", u, got)
		}
	}
}

func TestReaches(t *testing.T) {
	c := testConfig()
	c.PAC.Gateways = []string{"gw.hospital.example", "gw2.hospital.example:8443"}
	for answer, want := range map[string]Reach{
		"HTTPS gw.hospital.example:443": ReachFirst, "PROXY gw.hospital.example:3128; DIRECT": ReachFirst, "PROXY GW.hospital.example.:443": ReachFirst,
		" HTTPS  gw2.hospital.example:8443 ": ReachFirst, "DIRECT; HTTPS gw.hospital.example:443": ReachLater, "PROXY a:1;PROXY gw.hospital.example:3128": ReachLater,
		"HTTPS gw.hospital.example:8443": ReachPort, "HTTPS gw.hospital.example:3128": ReachPort, "HTTPS gw.hospital.example": ReachNever, "SOCKS gw.hospital.example:443": ReachNever,
		"DIRECT": ReachNever, "": ReachNever, "PROXY proxy.corp:8080": ReachNever, "HTTPS xgw.hospital.example:443": ReachNever,
	} {
		if got := Reaches(c, answer); got != want {
			t.Errorf("%q: %d, want %d", answer, got, want)
		}
	}
}

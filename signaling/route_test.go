package signaling

import (
	"strings"
	"testing"

	"hafen/configs"
)

func TestRoutes(t *testing.T) {
	c := &configs.Config{Services: []configs.Service{
		{Name: "calls", Hosts: []string{"call.example.net", "*.call.example.net"}},
		{Name: "video", Hosts: []string{"*.example.net"}},
	}}
	byHost, err := newTable(&Options{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	c.Signaling.Routes = []configs.Route{
		{Host: "*.call.example.net", Path: "/"},
		{Host: "calls.hospital.example", Upstream: "https://call.example.net", Service: "calls"},
		{Host: "calls.hospital.example", Path: "/api", Upstream: "http://127.0.0.1:8080", Service: "video"},
		{Host: "calls.hospital.example", Path: "/api/v2/", Upstream: "https://v2.example.net:8443", Service: "video"},
		{Host: "*.hospital.example", Path: "/x", Upstream: "http://[::1]", Service: "calls"},
	}
	byRoute, err := newTable(&Options{Config: c})
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		table            *table
		host, path, want string
	}{
		{byHost, "call.example.net", "/", "calls https call.example.net call.example.net:443"},
		{byHost, "a.b.call.example.net", "/x", "calls https a.b.call.example.net a.b.call.example.net:443"},
		{byHost, "other.example.net", "/", "video https other.example.net other.example.net:443"},
		{byHost, "example.net", "/", "421"},
		{byHost, "", "/", "421"},
		{byRoute, "call.example.net", "/", "421"},
		{byRoute, "x.call.example.net", "/", "calls https x.call.example.net x.call.example.net:443"},
		{byRoute, "calls.hospital.example", "/", "calls https call.example.net call.example.net:443"},
		{byRoute, "calls.hospital.example", "/apis", "calls https call.example.net call.example.net:443"},
		{byRoute, "calls.hospital.example", "/api", "video http 127.0.0.1:8080 127.0.0.1:8080"},
		{byRoute, "calls.hospital.example", "/api/v1", "video http 127.0.0.1:8080 127.0.0.1:8080"},
		{byRoute, "calls.hospital.example", "/api/v2/x", "video https v2.example.net:8443 v2.example.net:8443"},
		{byRoute, "b.hospital.example", "/x/y", "calls http [::1] [::1]:80"},
		{byRoute, "b.hospital.example", "/y", "404"},
	} {
		to, refused := tt.table.find(tt.host, tt.path)
		got := ""
		if refused != nil {
			got = map[int]string{404: "404", 421: "421"}[refused.code]
		} else {
			got = strings.Join([]string{to.up.service, map[bool]string{true: "https", false: "http"}[to.secure], to.authority, to.addr}, " ")
		}
		if got != tt.want {
			t.Errorf("%s%s goes to %q, want %q", tt.host, tt.path, got, tt.want)
		}
		if routed := tt.table.routed(tt.host); routed != (tt.want != "421") {
			t.Errorf("%s routed: %v", tt.host, routed)
		}
	}
}

func TestNewRefuses(t *testing.T) {
	service := configs.Service{Name: "calls", Hosts: []string{"call.example.net"}}
	for name, c := range map[string]*configs.Config{
		"a service that is not there": {Services: []configs.Service{service}, Signaling: configs.Signaling{Routes: []configs.Route{{Host: "x.example", Upstream: "https://y.example", Service: "none"}}}},
		"an upstream that is no URL":  {Services: []configs.Service{service}, Signaling: configs.Signaling{Routes: []configs.Route{{Host: "call.example.net", Upstream: "y.example"}}}},
		"roots that are not there":    {Services: []configs.Service{{Name: "calls", CAFile: "/nowhere"}}},
	} {
		if _, err := New(Options{Config: c}); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestAdapt(t *testing.T) {
	to := &target{host: "calls.hospital.example", secure: true, authority: "call.example.net", addr: "call.example.net:443"}
	for location, want := range map[string]string{
		"https://call.example.net/a?b#c": "https://calls.hospital.example:8443/a?b#c", "https://CALL.example.net": "https://calls.hospital.example:8443", "//call.example.net/a": "//calls.hospital.example:8443/a",
		"/a": "/a", "a": "a", "https://other.example/a": "https://other.example/a", "http://call.example.net/a": "http://call.example.net/a", "https://call.example.net:444/": "https://call.example.net:444/", "://": "://",
	} {
		if got := moved(location, to, "https", "calls.hospital.example:8443"); got != want {
			t.Errorf("%s becomes %s, want %s", location, got, want)
		}
	}
	for cookie, want := range map[string]string{
		"a=b":                               "a=b",
		"a=b; domain=call.example.net":      "a=b",
		"a=b; Domain=.example.net; Secure":  "a=b; Secure",
		"a=b; Domain=other.example; Secure": "a=b; Domain=other.example; Secure",
		"a=domain=call.example.net; Path=/": "a=domain=call.example.net; Path=/",
		"a=b; Domain=":                      "a=b; Domain=",
	} {
		if got := withoutDomain(cookie, to); got != want {
			t.Errorf("%s becomes %s, want %s", cookie, got, want)
		}
	}
}

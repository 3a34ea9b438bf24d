package configs

import (
	"testing"

	"hafen/gateway/frugal"
)

func TestParseTURNURL(t *testing.T) {
	for text, want := range map[string]TURNURL{
		"turn:relay.example.net":                    {false, "relay.example.net", 3478, "udp"},
		"turn:relay.example.net:3478?transport=udp": {false, "relay.example.net", 3478, "udp"},
		"TURN:Relay.Example.net.:443?transport=TCP": {false, "relay.example.net", 443, "tcp"},
		"turns:relay.example.net":                   {true, "relay.example.net", 5349, "tcp"},
		"turns:relay.example.net:443?transport=tcp": {true, "relay.example.net", 443, "tcp"},
		"turn:192.0.2.1:3478":                       {false, "192.0.2.1", 3478, "udp"},
		"turn:[2001:db8::0:1]:3478?transport=tcp":   {false, "2001:db8::1", 3478, "tcp"},
		"turn:[2001:db8::1]":                        {false, "2001:db8::1", 3478, "udp"},
	} {
		got, err := ParseTURNURL(text)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", text, got, err)
			continue
		}
		if again, err := ParseTURNURL(got.String()); err != nil || again != got {
			t.Errorf("%s printed as %s reads as %+v, %v", text, got, again, err)
		}
	}
	for _, text := range []string{
		"", "turn", "turn:", "turn::3478", "stun:x.example", "https://x.example", "turn://x.example", "turn:x.example:", "turn:x.example:0", "turn:x.example:65536", "turn:x.example:+1",
		"turn:x.example:03478", "turn:u:p@x.example", "turn:u@x.example", "turn:x.example?transport=sctp", "turn:x.example?", "turn:x.example?transport=", "turn:x.example?a=b", "turn:x.example?transport=udp&a=b",
		"turns:x.example?transport=udp", "turn:x.example/path", "turn:x example", "turn:[::1", "turn:[::1]x", "turn:[1.2.3.4]:1", "turn:[fe80::1%25lo]:1", "turn:1.2.3", "turn:2001:db8::1", "turn:-x.example", "turn:x..example",
	} {
		if got, err := ParseTURNURL(text); err == nil {
			t.Errorf("%q is taken for %+v", text, got)
		}
	}
}

func FuzzParseTURNURL(f *testing.F) {
	f.Add("turn:relay.example.net:3478?transport=udp")
	f.Add("turns:[2001:db8::1]:443")
	f.Fuzz(func(t *testing.T, text string) {
		defer frugal.Input(t)()
		u, err := ParseTURNURL(text)
		if err != nil {
			return
		}
		if again, err := ParseTURNURL(u.String()); err != nil || again != u {
			t.Fatalf("%q is %+v, printed as %q it is %+v, %v", text, u, u.String(), again, err)
		}
	})
}

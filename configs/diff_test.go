package configs

import (
	"strings"
	"testing"
)

func TestDiff(t *testing.T) {
	service := func(urls ...string) Service {
		return Service{Name: "calls", Hosts: []string{"call.example.net"}, Regions: []Region{{Name: "fra", URLs: urls, Use: true}}}
	}
	old, now := Default(), Default()
	old.Services = []Service{service("turn:fra.example:3478"), {Name: "other"}}
	now.Services = []Service{{Name: "new", Hosts: []string{"n.example"}}, service("turn:fra.example:3478", "turns:fra.example:443"), {Name: "other"}}
	old.Events.Webhook, now.Events.Webhook = "https://hooks.example/CANARY1", "https://hooks.example/CANARY2"
	now.Drain *= 2
	all, err := Diff(old, now)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	for _, c := range all {
		lines = append(lines, c.String())
	}
	text := strings.Join(lines, "\n")
	for _, want := range []string{
		"drain: 1h → 2h", "events.webhook: another secret", "services[new].hosts: new: [n.example]",
		`services[calls].regions[fra].urls: ['turn:fra.example:3478'] → ['turn:fra.example:3478', 'turns:fra.example:443']`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("no %q in\n%s", want, text)
		}
	}
	if strings.Contains(text, "CANARY") || strings.Contains(text, "services[other]") {
		t.Errorf("a secret, or what has not changed:\n%s", text)
	}
	if same, _ := Diff(now, now); len(same) != 0 {
		t.Errorf("%v", same)
	}
}

package status

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"hafen/gateway/frugal"
)

func book(t *testing.T) *phrases {
	t.Helper()
	p, err := loadPhrases(web, "web/phrases.*.json")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestPhrases(t *testing.T) {
	p := book(t)
	for english, german := range map[string]string{
		"All ways are open.":           "Alle Wege sind offen.",
		"no answer for 2.1s":           "seit 2.1s keine Antwort",
		"udp: no answer for 2.1s":      "udp: seit 2.1s keine Antwort",
		"udp: no answer; tls: x: boom": "udp: keine Antwort; tls: x: boom",

		"The gateway does not get through to call.example (HTTPS).":                                         "Das Gateway kommt nicht zu call.example durch (HTTPS).",
		"It can't be reached: dial call.example:443: no answer. Let this machine reach it on TCP 443.":      "Er ist nicht erreichbar: call.example:443 anwählen: keine Antwort. Lassen Sie dieses Gerät ihn auf TCP 443 erreichen.",
		"Let this machine reach the relays over UDP 3478, or at least TCP 443. fra over udp: no answer":     "Lassen Sie dieses Gerät die Relays über UDP 3478 erreichen, mindestens über TCP 443. fra über udp: keine Antwort",
		"3900 of 4000 are in use. Raise it, or find out which clients hold so many: see the live sessions.": "3900 von 4000 sind belegt. Erhöhen Sie die Grenze, oder finden Sie heraus, wer so viele hält: siehe laufende Sitzungen.",
		"nobody has translated this": "nobody has translated this",
		"":                           "",
	} {
		if got := p.in("de", english); got != german {
			t.Errorf("%q: %q, want %q", english, got, german)
		}
	}
	if got := p.in("fr", "All ways are open."); got != "All ways are open." {
		t.Errorf("a language without a book: %q", got)
	}
	long := strings.Repeat("udp: ", maxPhrase)
	if got := p.in("de", long); got != long {
		t.Error("a text without bounds was looked up")
	}
}

// TestPhrasesAreWhole: each phrase has a translation that fills in the same, and none hides behind one before it.
func TestPhrasesAreWhole(t *testing.T) {
	p := book(t)
	used := regexp.MustCompile(`\{[a-z]+\}`)
	for lang, entries := range p.books {
		seen := make(map[string]bool)
		for _, e := range entries {
			switch {
			case e.other == "":
				t.Errorf("%s: %s: empty", lang, e.english)
			case seen[e.english.String()]:
				t.Errorf("%s: %s: twice", lang, e.english)
			}
			seen[e.english.String()] = true
			for _, name := range used.FindAllString(e.other, -1) {
				found := false
				for _, n := range e.names {
					found = found || n == name
				}
				if !found {
					t.Errorf("%s: %s: fills in %s, which is not in it", lang, e.other, name)
				}
			}
		}
	}
}

// TestFaultsAreTranslated: nothing that the page says of a fault stays English on the German page.
func TestFaultsAreTranslated(t *testing.T) {
	now := time.Date(2026, 11, 1, 8, 0, 0, 0, time.UTC)
	s := Snapshot{
		Time: now, Draining: true,
		Services: []Service{
			{Name: "calls", Chosen: "fra", Regions: []Region{{Name: "fra", Up: true, Use: true}, {Name: "lon", Use: true}, {Name: "ams", Use: true, Drill: true}}},
			{Name: "dark", Regions: []Region{{Name: "one", Use: true, Rungs: []Rung{{Name: "udp", Why: "no answer for 2s"}}}}},
		},
		CallServers: []CallServer{
			{Service: "calls", Host: "a.example", Probe: "HTTPS", State: "up"},
			{Service: "calls", Host: "a.example", Probe: "WebSocket", State: "down", Why: "It answered 404: its path is another one, or something on the way takes the upgrade out."},
			{Service: "calls", Host: "b.example", Probe: "HTTPS", State: "down", Why: "It answered 502."},
			{Service: "dark", Host: "c.example", Probe: "HTTPS", State: "down", Why: "It answered 503."},
		},
		Certificates: []Certificate{
			{Names: []string{"gw.example"}, Expires: now.Add(-time.Hour), Trusted: true},
			{Names: []string{"b.example"}, Expires: now.Add(50 * time.Hour)},
			{Names: []string{"c.example"}, Expires: now.AddDate(1, 0, 0), Trusted: true, Problem: "tls.files[0].cert: /etc/x.pem: the private key belongs to another certificate"},
		},
		Limits: []Limit{
			{Key: "limits.allocations", Used: 10, Max: 10}, {Key: FilesLimit, Used: 9, Max: 10}, {Key: "limits.connections_per_client", Used: 3, Max: 10, Refused: 4, PerClient: true},
		},
		SelfTests: []SelfTest{
			{Kind: "disk", State: "fail", Sentence: "The disk of data_dir is full: 3 MiB are free.", Advice: "Make room below /var: certificates, reports and the audit log can't be kept on a full disk.", Works: "Calls are not affected."},
		},
	}
	s.Judge()
	kinds := make(map[string]bool)
	german := s.in(book(t), "de")
	for i, f := range s.Faults {
		kinds[f.Kind] = true
		for _, pair := range [][2]string{{f.Sentence, german.Faults[i].Sentence}, {f.Advice, german.Faults[i].Advice}, {f.Works, german.Faults[i].Works}} {
			if pair[0] != "" && pair[0] == pair[1] {
				t.Errorf("%s stays English: %q", f.Kind, pair[0])
			}
		}
	}
	for _, kind := range []string{
		"no-region", "region-down", "drill", "certificate-ended", "certificate-ends", "certificate-not-taken", "call-server-down", "call-server-check", "limit-reached",
		"limit-near", "disk", "draining", "untrusted",
	} {
		if !kinds[kind] {
			t.Errorf("%s was not found", kind)
		}
	}
	if s.Faults[0].Level != Critical || s.Faults[len(s.Faults)-1].Level != Notice || s.Verdict != "down" {
		t.Errorf("the worst does not come first: %+v", s.Faults)
	}
	if s.Services[1].Regions[0].Rungs[0].Why != "no answer for 2s" {
		t.Error("translating one copy has changed the other")
	}
}

func FuzzPhrases(f *testing.F) {
	p, err := loadPhrases(web, "web/phrases.*.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add("udp: no answer; tls: no answer in time: x")
	f.Fuzz(func(t *testing.T, text string) {
		defer frugal.Input(t)()
		if got := p.in("de", text); len(got) > 20*len(text)+2000 {
			t.Errorf("%d bytes became %d", len(text), len(got))
		}
	})
}

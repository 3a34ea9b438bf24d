package configs

import "testing"

func TestParseDSCP(t *testing.T) {
	for text, want := range map[string]int{
		"": 0, "AF41": 34, "af11": 10, "AF43": 38, "EF": 46, "CS0": 0, "CS5": 40, "CS7": 56, "LE": 1, "VA": 44, "BE": 0, "DF": 0, "0": 0, "34": 34, "63": 63,
		"AF44": -1, "AF51": -1, "CS8": -1, "64": -1, "-1": -1, "034": -1, "AF": -1, "EF1": -1,
	} {
		got, err := ParseDSCP(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("ParseDSCP(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestParseBandwidth(t *testing.T) {
	for text, want := range map[string]int64{
		"": 0, "600kbit": 600_000, "4mbit": 4_000_000, "1Gbit": 1_000_000_000, "64000bit": 64_000,
		"4": -1, "4mb": -1, "kbit": -1, "0kbit": -1, "-1kbit": -1, "1.5mbit": -1, "4 mbit": -1, "99999999999gbit": -1,
	} {
		got, err := ParseBandwidth(text)
		if err != nil {
			got = -1
		}
		if got != want {
			t.Errorf("ParseBandwidth(%q) = %d, want %d", text, got, want)
		}
	}
}

func TestParsePorts(t *testing.T) {
	type ports struct{ low, high uint16 }
	for text, want := range map[string]ports{
		"49152-65535": {49152, 65535}, "1-1": {1, 1}, "5000": {5000, 5000},
		"": {}, "2-1": {}, "0-1": {}, "1-65536": {}, "1-2-3": {}, "a-b": {}, "1 - 2": {},
	} {
		low, high, err := ParsePorts(text)
		if got := (ports{low, high}); err == nil && got != want || err != nil && want != (ports{}) {
			t.Errorf("ParsePorts(%q) = %v, %v", text, got, err)
		}
	}
}

func TestNearest(t *testing.T) {
	keys := []string{"name", "aliases", "listen", "limits", "turn_udp", "https"}
	for word, want := range map[string]string{"naem": "name", "lisetn": "listen", "limit": "limits", "Turn_UDP": "turn_udp", "htps": "https", "xyzzy": "", "": ""} {
		if got := nearest(word, keys); got != want {
			t.Errorf("nearest(%q) = %q, want %q", word, got, want)
		}
	}
}

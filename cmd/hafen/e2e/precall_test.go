package e2e

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// report is window.hafenReport, as far as scripts may rely on it.
type report struct {
	Version int       `json:"version"`
	ID      string    `json:"id"`
	Code    string    `json:"code"`
	Verdict string    `json:"verdict"`
	Checks  []checked `json:"checks"`
	Causes  []struct {
		ID         string  `json:"id"`
		Confidence float64 `json:"confidence"`
		Advice     struct {
			User string `json:"user"`
			IT   string `json:"it"`
		} `json:"advice"`
	} `json:"causes"`
	took time.Duration // of the whole run
}

// checked is one check of a report.
type checked struct {
	ID      string  `json:"id"`
	Target  string  `json:"target"`
	Level   string  `json:"level"`
	Verdict string  `json:"verdict"`
	Value   float64 `json:"value"`
	Detail  string  `json:"detail"`
}

// precall runs the test page to its end and returns its report.
func (l *laboratory) precall(t testing.TB, office *namespace, flags ...string) report {
	t.Helper()
	page := newBrowser(t, office, l.ca, voiced(t, flags)...).open(t, "https://"+gatewayName+"/precall/?autorun=1&hold=5")
	waitForOr(t, "the precall test's end", 90*time.Second, func() bool {
		return page.text("document.documentElement.dataset.precall") == "done"
	}, func() string { return page.text("document.body.innerText") })
	var r report
	must(t, page.eval("window.hafenReport", &r))
	if got := page.text("document.documentElement.dataset.verdict"); got != r.Verdict {
		t.Errorf("data-verdict says %q, the report %q", got, r.Verdict)
	}
	if r.Code == "" || page.text("document.documentElement.dataset.code") != r.Code {
		t.Errorf("data-code says %q, the report %q", page.text("document.documentElement.dataset.code"), r.Code)
	}
	return r
}

func (r report) String() string {
	b, _ := json.MarshalIndent(r, "", " ")
	return string(b)
}

// check finds a check by its id.
// check is the verdict of a check; of one that was made of several targets "pass" if it passed at one of them.
func (r report) check(id string) (verdict string) {
	verdict = "absent"
	for _, c := range r.Checks {
		if c.ID == id && (verdict == "absent" || c.Verdict == "pass") {
			verdict = c.Verdict
		}
	}
	return verdict
}

// TestPrecall is scenario F: where only TCP 443 is open the test ends without a fail; where TURN inside TLS is reset on
// 443 while HTTPS passes it fails and says so.
func TestPrecall(t *testing.T) { scenario(t, precallWays) }

func precallWays(t *testing.T) {
	l := newLaboratory(t)
	t.Run("only 443", func(t *testing.T) {
		ward := l.office("ward", map[string]string{gatewayName: gatewayAddr, callName: gatewayAddr}, onlyGateway)
		r := l.precall(t, ward)
		if r.Verdict == "fail" {
			t.Errorf("the test fails: %s", r)
		}
		for _, id := range []string{"relay:tls", "relay:media", "call-server:websocket", "call-server:longpoll"} {
			if v := r.check(id); v != "pass" {
				t.Errorf("%s: %s, want pass", id, v)
			}
		}
		if v := r.check("relay:udp"); v == "pass" {
			t.Error("relay:udp passes where UDP is closed")
		}
		t.Logf("verdict %s, causes %v", r.Verdict, r.causes())
		// Spoken on the telephone: case, spaces and O for 0 are forgiven.
		spoken := strings.ToLower(strings.NewReplacer("-", " ", "0", "O").Replace(r.Code))
		both := l.dmz.run(t, hafenBinary, "explain", spoken, "--config", filepath.Join(l.dir, "hafen.yaml"))
		for _, want := range []string{r.Code, "relay:tls", "what the gateway saw", "calls/frankfurt"} {
			if !strings.Contains(both, want) {
				t.Errorf("hafen explain %s does not say %q:\n%s", spoken, want, both)
			}
		}
	})
	t.Run("TURN reset in TLS", func(t *testing.T) {
		company := l.net.host("company")
		(&middlebox{gateway: gatewayAddr + ":443", resetTURN: true}).start(t, company, company.addr+":443", l.ca, gatewayName)
		ward := l.office("ward2", map[string]string{gatewayName: company.addr}, "ip daddr "+company.addr+" tcp dport 443")
		r := l.precall(t, ward)
		if r.Verdict != "fail" || len(r.Causes) == 0 || r.Causes[0].ID != "turn-tls-blocked" {
			t.Errorf("want a fail for turn-tls-blocked first: %s", r)
		} else if !strings.Contains(r.Causes[0].Advice.IT, "443") {
			t.Errorf("the advice for IT names no port: %s", r.Causes[0].Advice.IT)
		}
	})
}

func (r report) causes() string {
	var ids []string
	for _, c := range r.Causes {
		ids = append(ids, fmt.Sprintf("%s (%.1f)", c.ID, c.Confidence))
	}
	return strings.Join(ids, ", ")
}

// TestFirefoxPrecall: Firefox ESR runs the whole test, and where nothing is wrong finds nothing wrong.
func TestFirefoxPrecall(t *testing.T) {
	needFirefox(t)
	longScenario(t, firefoxPrecall)
}

func firefoxPrecall(t *testing.T) {
	l := usualLaboratory(t)
	fox := newFirefox(t, l.open("fox"), l.ca, "function FindProxyForURL() { return 'DIRECT'; }")
	fox.open("https://" + gatewayName + "/precall/?autorun=1&hold=5")
	waitForOr(t, "the precall test's end", 2*time.Minute, func() bool {
		return fox.text("document.documentElement.dataset.precall") == "done"
	}, func() string { return fox.text("document.body.innerText") })
	var r report
	must(t, json.Unmarshal([]byte(fox.text("JSON.stringify(window.hafenReport)")), &r))
	for _, id := range []string{"browser", "relay:tls", "relay:media", "rtt", "loss", "bandwidth-up", "bandwidth-down", "call-server:websocket", "call-server:longpoll", "interception"} {
		if v := r.check(id); v != "pass" {
			t.Errorf("%s: %s, want pass", id, v)
		}
	}
	if o := judge(fault{name: "all fine"}, r); !o.Right {
		t.Errorf("%s\n%s", o, r)
	} else {
		t.Log(o)
	}
}

// text evaluates an expression to a string; errors read as "".
func (f *firefox) text(expr string) string {
	var answer struct {
		Result struct{ Value string } `json:"result"`
	}
	_ = f.try("script.evaluate", map[string]any{"expression": "String(" + expr + ")", "awaitPromise": false, "target": map[string]any{"context": f.tab}}, &answer)
	return answer.Result.Value
}

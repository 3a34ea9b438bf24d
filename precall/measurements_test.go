package precall

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"hafen/gateway/frugal"
)

func TestAbuse_F11_ReportsThatAreNone(t *testing.T) {
	check := func(fields string) string { return `{"version":1,"clock":1,"hold":45,"checks":[{` + fields + `}]}` }
	good := check(`"id":"rtt","result":"ok","value":3,"ms":1`)
	with := func(field string) string { return strings.Replace(good, `"hold":45`, `"hold":45,`+field, 1) }
	_, srv := serve(t, Options{})
	for name, test := range map[string]struct {
		body string
		want int
	}{
		"a good one":        {good, 200},
		"empty":             {"", 400},
		"no JSON":           {"hello", 400},
		"null":              {"null", 400},
		"an array":          {"[]", 400},
		"two":               {good + good, 400},
		"cut off":           {good[:len(good)-2], 400},
		"unknown field":     {check(`"id":"rtt","result":"ok","ms":1,"admin":true`), 400},
		"other version":     {strings.Replace(good, `"version":1`, `"version":2`, 1), 400},
		"NaN":               {check(`"id":"rtt","result":"ok","value":NaN,"ms":1`), 400},
		"infinite":          {check(`"id":"rtt","result":"ok","value":1e999,"ms":1`), 400},
		"negative":          {check(`"id":"rtt","result":"ok","value":-1,"ms":1`), 400},
		"negative time":     {check(`"id":"rtt","result":"ok","ms":-1`), 400},
		"more than all":     {check(`"id":"loss","result":"ok","value":101,"ms":1`), 400},
		"value as text":     {check(`"id":"rtt","result":"ok","value":"3","ms":1`), 400},
		"no value to have":  {check(`"id":"browser","result":"ok","value":3,"ms":1`), 400},
		"unknown id":        {check(`"id":"gateway:regions","result":"ok","ms":1`), 400},
		"unknown result":    {check(`"id":"rtt","result":"pass","ms":1`), 400},
		"unknown word":      {check(`"id":"rtt","result":"fail","error":"<b>","ms":1`), 400},
		"target elsewhere":  {check(`"id":"rtt","result":"ok","target":"turn:x:1","ms":1`), 400},
		"target no URL":     {check(`"id":"relay:udp","result":"ok","target":"javascript:1","ms":1`), 400},
		"long target":       {check(`"id":"relay:udp","result":"ok","target":"turn:` + strings.Repeat("x", 300) + `","ms":1`), 400},
		"long detail":       {check(`"id":"rtt","result":"ok","detail":"` + strings.Repeat("x", 301) + `","ms":1`), 400},
		"control character": {check(`"id":"rtt","result":"ok","detail":"a\u001b[2J","ms":1`), 400},
		"turned text":       {check(`"id":"rtt","result":"ok","detail":"a\u202eb","ms":1`), 400},
		"twice the same":    {`{"version":1,"clock":1,"hold":45,"checks":[{"id":"rtt","result":"ok","ms":1},{"id":"rtt","result":"ok","ms":1}]}`, 400},
		"no checks":         {`{"version":1,"clock":1,"hold":45,"checks":[]}`, 400},
		"many checks":       {`{"version":1,"clock":1,"hold":45,"checks":[` + strings.Repeat(`{},`, 100) + `{}]}`, 400},
		"hold 0":            {strings.Replace(good, `"hold":45`, `"hold":0`, 1), 400},
		"hold for ever":     {strings.Replace(good, `"hold":45`, `"hold":999999999999`, 1), 400},
		"clock of stone":    {strings.Replace(good, `"clock":1`, `"clock":1e300`, 1), 400},
		"deep":              {strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000), 400},
		"deep inside":       {`{"version":1,"clock":1,"hold":45,"checks":` + strings.Repeat(`[`, 50) + strings.Repeat(`]`, 50) + `}`, 400},
		"a million keys":    {"{" + strings.Repeat(`"a":1,`, 40_000) + `"b":1}`, 400},
		"a level":           {check(`"id":"relay:udp","result":"ok","level":"path","ms":1`), 200},
		"a level too high":  {check(`"id":"relay:udp","result":"ok","level":"service","ms":1`), 400},
		"a level of none":   {check(`"id":"camera","result":"ok","level":"media","ms":1`), 400},
		"level as object":   {check(`"id":"relay:udp","result":"ok","level":{},"ms":1`), 400},
		"a run":             {with(`"run":"abc-DEF_1"`), 200},
		"a run with markup": {with(`"run":"<b>"`), 400},
		"a long run":        {with(`"run":"` + strings.Repeat("x", 65) + `"`), 400},
		"mapped":            {with(`"mapped":"2001:db8::1"`), 200},
		"mapped a name":     {with(`"mapped":"gw.example"`), 400},
		"mapped a network":  {with(`"mapped":"10.0.0.0/8"`), 400},
		"connection":        {with(`"connection":"wifi"`), 200},
		"a connection new":  {with(`"connection":"carrier pigeon"`), 400},
		"series":            {with(`"series":[{"id":"rtt","every":0.1,"values":[1,2]}]`), 200},
		"series unknown":    {with(`"series":[{"id":"x","every":0.1,"values":[1]}]`), 400},
		"series twice":      {with(`"series":[{"id":"rtt","every":1,"values":[]},{"id":"rtt","every":1,"values":[]}]`), 400},
		"series too long":   {with(`"series":[{"id":"rtt","every":1,"values":[` + strings.Repeat("1,", 400) + `1]}]`), 400},
		"series of never":   {with(`"series":[{"id":"rtt","every":0,"values":[1]}]`), 400},
		"series negative":   {with(`"series":[{"id":"rtt","every":1,"values":[-1]}]`), 400},
		"series infinite":   {with(`"series":[{"id":"rtt","every":1,"values":[1e999]}]`), 400},
		"series huge":       {with(`"series":[{"id":"rtt","every":1,"values":[1e8]}]`), 400},
		"series as texts":   {with(`"series":[{"id":"rtt","every":1,"values":["1"]}]`), 400},
		"series in series":  {with(`"series":[[[{"id":"rtt"}]]]`), 400},
		"host with markup":  {check(`"id":"call-server:https","target":"<b>","result":"ok","ms":1`), 400},
		"host with a path":  {check(`"id":"call-server:https","target":"a.example/x","result":"ok","ms":1`), 400},
		"bandwidth of all":  {check(`"id":"bandwidth-up","result":"ok","value":10000001,"ms":1`), 400},
		"10 MB":             {`{"version":1,"clock":1,"hold":45,"checks":[{"detail":"` + strings.Repeat("x", 10<<20) + `"}]}`, 413},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "10 MB" { // the server may hang up in the middle of it
				_, err := ReadMeasurements(http.MaxBytesReader(nil, io.NopCloser(strings.NewReader(test.body)), MaxReport))
				var large *http.MaxBytesError
				if !errors.As(err, &large) {
					t.Error(err)
				}
				return
			}
			_, err := ReadMeasurements(strings.NewReader(test.body))
			if (err == nil) != (test.want == 200) || err != nil && !errors.Is(err, errMalformed) {
				t.Errorf("%v", err)
			}
		})
	}
	for _, contentType := range []string{"", "text/plain", "application/x-www-form-urlencoded", "application/json2"} {
		resp, _ := ask(t, http.MethodPost, srv.URL+"/precall/report", contentType, []byte(good))
		if resp.StatusCode != http.StatusUnsupportedMediaType {
			t.Errorf("%q: %s", contentType, resp.Status)
		}
	}
	for body, want := range map[string]int{"{}": 400, good: 200, strings.Repeat(" ", MaxReport+1): 413} {
		resp, answer := ask(t, http.MethodPost, srv.URL+"/precall/report", "application/json", []byte(body))
		if resp.StatusCode != want {
			t.Errorf("%.20q: %s %s", body, resp.Status, answer)
		}
	}
}

func TestMarkupStaysText(t *testing.T) {
	s, srv := serve(t, Options{})
	m := allFine().with(Measured{ID: "browser", Result: OK, Detail: `<img src=x onerror=alert(1)>`})
	resp, body := post(t, srv, m)
	if resp.StatusCode != http.StatusOK || bytes.Contains(body, []byte("<img")) {
		t.Errorf("%s %s", resp.Status, body)
	}
	var a answer
	must(t, json.Unmarshal(body, &a))
	rec, err := s.Find(t.Context(), a.Report.Code)
	must(t, err)
	if fmt.Sprint(rec.Measurements.Checks[1].Detail) != `<img src=x onerror=alert(1)>` {
		t.Error("the text was changed rather than kept as text")
	}
}

func FuzzReadMeasurements(f *testing.F) {
	good, err := json.Marshal(allFine())
	must(f, err)
	f.Add(good)
	f.Add([]byte(`{"version":1,"clock":1,"hold":45,"checks":[{"id":"rtt","result":"ok","value":1e308,"ms":1}]}`))
	f.Add([]byte(`[[[[[[[[`))
	f.Add([]byte(`{"checks":[{"detail":"\"[[["}]}`))
	s, err := New(Options{})
	must(f, err)
	defer func() { must(f, s.Close()) }()
	f.Fuzz(func(t *testing.T, body []byte) {
		defer frugal.Input(t)()
		m, err := ReadMeasurements(bytes.NewReader(body))
		if err != nil {
			return
		}
		// What is let in can be judged, written out and sent on.
		rec := Record{Measurements: m, Result: Analyse(m, healthy(), thresholds())}
		if _, err := json.Marshal(s.Report(rec, "de")); err != nil {
			t.Fatal(err)
		}
	})
}

package precall

import "slices"

// cause is one row of the table: what can be wrong, and when the measurements say that it is. find gives no finding when
// they don't, and several when the same is wrong at several places.
type cause struct {
	id   string
	find func(*evidence) []Finding
}

// causes is the table. Further up stands what explains more: the gateway's own state, then the browser, then the network.
func causes() []cause {
	return slices.Concat(gatewayCauses(), deviceCauses(), wayCauses(), serviceCauses(), lineCauses())
}

// when is one finding, or none.
func when(so bool, severity Verdict, confidence float64, params ...any) []Finding {
	if !so {
		return nil
	}
	f := Finding{Severity: severity, Confidence: confidence, Params: map[string]any{}}
	for i := 0; i+1 < len(params); i += 2 {
		f.Params[params[i].(string)] = params[i+1]
	}
	return []Finding{f}
}

// told makes findings speak of another side: the texts of the variant are used where there are any.
func told(variant string, found []Finding) []Finding {
	for i := range found {
		found[i].Variant = variant
	}
	return found
}

func severityOf(fails bool) Verdict {
	if fails {
		return Fail
	}
	return Warn
}

func orDash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

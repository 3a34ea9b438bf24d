package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// results are the values of all rounds.
type results struct{ hafen, other map[string][]float64 }

func newResults() *results {
	return &results{hafen: make(map[string][]float64), other: make(map[string][]float64)}
}

func (r *results) put(name string, hafen bool, value float64) {
	if hafen {
		r.hafen[name] = append(r.hafen[name], value)
	} else {
		r.other[name] = append(r.other[name], value)
	}
}

// row is one line of the table.
type row struct {
	Name  string    `json:"name"`
	Other float64   `json:"other"` // HAProxy for WebSockets and long-polls, Squid for CONNECT
	Hafen float64   `json:"hafen"`
	Ratio float64   `json:"ratio"`
	Bar   float64   `json:"bar,omitempty"` // the ratio that is aimed at; 0: none
	All   []float64 `json:"all_hafen"`
	Rest  []float64 `json:"all_other"`
}

func (r *results) rows() []row {
	var rows []row
	for _, b := range bars {
		ours, others := r.hafen[b.name], r.other[b.name]
		if len(ours) == 0 || len(others) == 0 {
			continue
		}
		w := row{Name: b.name, Hafen: median(ours), Other: median(others), Bar: b.bar, All: ours, Rest: others}
		if w.Other != 0 {
			w.Ratio = w.Hafen / w.Other
		}
		rows = append(rows, w)
	}
	return rows
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

func (r *results) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "HAProxy, Squid\tHafen\tratio\taim\t\t")
	for _, row := range r.rows() {
		aim, verdict := "", ""
		if row.Bar > 0 {
			aim, verdict = fmt.Sprintf("≤ %.1f", row.Bar), "reached"
			if row.Ratio > row.Bar {
				verdict = "missed"
			}
		}
		fmt.Fprintf(t, "%.2f\t%.2f\t%.2f\t%s\t%s\t  %s\n", row.Other, row.Hafen, row.Ratio, aim, verdict, row.Name)
	}
	return t.Flush()
}

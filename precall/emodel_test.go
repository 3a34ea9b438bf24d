package precall

import (
	"math"
	"testing"
)

// TestRatingAgainstPublishedValues: R of the defaults (G.107, Table 2 and 7.7: 93.2) and the delays and losses whose impairments
// follow from the Recommendations' own formulas and tables.
func TestRatingAgainstPublishedValues(t *testing.T) {
	const robust, plain = 25.1, 4.3 // G.113 Appendix I: G.711 with and without concealment
	for _, test := range []struct {
		name             string
		delay, loss, bpl float64
		least, most      float64
	}{
		{name: "the defaults", bpl: plain, least: 93.15, most: 93.25},
		{name: "G.711 without concealment loses half of what is left at 4.3 %", loss: 4.3, bpl: plain, least: 93.2 - 47.6, most: 93.2 - 47.4},
		{name: "G.711 with concealment, 1 %", loss: 1, bpl: robust, least: 93.2 - 3.7, most: 93.2 - 3.6},
		{name: "150 ms is hardly heard (G.114)", delay: 150, bpl: plain, least: 88, most: 91},
		{name: "400 ms is the most for planning (G.114)", delay: 400, bpl: plain, least: 60, most: 70},
	} {
		if r := rating(test.delay, test.loss, test.bpl); r < test.least || r > test.most {
			t.Errorf("%s: R = %.2f, want %v to %v", test.name, r, test.least, test.most)
		}
	}
	// Idd alone: 0 up to 100 ms; log2 makes 200 ms X = 1 and 400 ms X = 2.
	for delay, want := range map[float64]float64{0: 0, 100: 0, 200: 3.04, 400: 24.07} {
		if got := tooLate(delay); math.Abs(got-want) > 0.01 {
			t.Errorf("Idd at %v ms: %.3f, want %v", delay, got, want)
		}
	}
}

// TestOpinionAgainstTableB1: G.107 Annex B.
func TestOpinionAgainstTableB1(t *testing.T) {
	for r, want := range map[float64]float64{93.2: 4.41, 90: 4.34, 80: 4.03, 70: 3.60, 60: 3.10, 50: 2.58, 100: 4.5, 120: 4.5, 0: 1, -5: 1, 3: 1} {
		if got := opinionOf(r); math.Abs(got-want) > 0.0065 {
			t.Errorf("R %v: %.3f, want %v", r, got, want)
		}
	}
}

func TestOpinionOfLines(t *testing.T) {
	limits := thresholds()
	for _, test := range []struct {
		rtt, jitter, loss float64
		want              Verdict
	}{
		{10, 2, 0, Pass}, {100, 10, 0.5, Pass}, {150, 10, 1, Pass}, {250, 20, 3, Warn}, {300, 60, 5, Fail}, {450, 10, 0, Warn}, {20, 5, 12, Fail}, {20, 5, 3, Pass},
	} {
		mos := meanOpinion(test.rtt, test.jitter, test.loss)
		if got := limits.atLeast("mos", mos); got != test.want {
			t.Errorf("%v ms, %v ms, %v %%: %.2f is %s, want %s", test.rtt, test.jitter, test.loss, mos, got, test.want)
		}
	}
	last := 5.0
	for loss := 0.0; loss <= 100; loss++ {
		mos := meanOpinion(50, 5, loss)
		if mos > last || mos < 1 || math.IsNaN(mos) {
			t.Fatalf("%v %%: %v after %v", loss, mos, last)
		}
		last = mos
	}
}
